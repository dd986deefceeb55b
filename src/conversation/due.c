/*
 * Walking the due rows of the queue, oldest first.
 *
 * A claim looks at the conversations that a row names, and takes the names of those out that it claimed or
 * that are locked: their release will queue them again. The names of those that somebody else is changing
 * stay, for a caller may work for long before it commits, and nothing that it walked past and did not claim
 * must be out of the others' reach until then.
 *
 * So that claims do not walk past each other's work, a row with several names is locked first, but not for
 * longer than it is looked at: then it is deleted, or changed into one with the names that are left. Others
 * skip it meanwhile, and come back when they have walked on to the end and still want more. A row that is
 * being deleted is done with: whoever deletes it has claimed all that it names, or found that it is locked.
 * Of a row that is being changed, the names count that it is left with, although that has not been
 * committed yet: should it be rolled back, the row is what it was before.
 *
 * Rows are read some at a time. A look at a conversation answers for all rows that were read before it.
 */
#include "conversation/due.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/uuid.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/plan.h"
#include "ingest/queue.h"

/* How many rows are read in one go at most, when many of the conversations in them can't be claimed. */
#define MAX_ROWS_READ 64

#define DUE_ROWS(service) \
	"SELECT q.ctid AS tid, q.seq, q.due_at, q.service" \
	" FROM @extschema@.webhook_conversation_queue q WHERE q.service = " service \
	" AND q.due_at <= $1 AND (q.due_at, q.seq) > ($2, $3) ORDER BY q.due_at, q.seq LIMIT $4"

static wahook_Plan due_plan = {DUE_ROWS("$5"),
							   5,
							   {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, INT8OID, TEXTOID}};

static wahook_Plan due_in_services_plan =
	{"SELECT due.* FROM unnest($5) AS s (name) CROSS JOIN LATERAL (" DUE_ROWS(
		 "s.name") ") due ORDER BY due.due_at, due.seq LIMIT $4",
	 5,
	 {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, INT8OID, TEXTARRAYOID}};

/* A row of the queue: where it is, and its key. */
typedef struct Row
{
	ItemPointerData tid;
	const char *service;
	TimestampTz due_at;
	int64 seq;
} Row;

/* What a look showed, at a conversation that several rows name. Where two would have one place, one is forgotten. */
typedef struct Seen
{
	int round; /* in which that was; 0: nothing is remembered here */
	pg_uuid_t id;
	const char *service;
	wahook_Look look;
	TimestampTz until;
	ItemPointerData version; /* of a conversation in which nothing was to be claimed */
} Seen;

#define MAX_SEEN 256

typedef struct Walk
{
	wahook_Claim *claim;
	wahook_Table *queue;
	TimestampTz due_at; /* the walk has come so far */
	int64 seq;
	TimestampTz first; /* the first row that was met */
	Row *skipped;      /* rows that others were at; null until there are any */
	int nskipped;
	int max_skipped;
	int round; /* how often rows were read: a look answers for those of its round alone */
	Seen seen[MAX_SEEN];
} Walk;

static int
wanted(const Walk *walk)
{
	return walk->claim->request->limit - walk->claim->n;
}

static void
skip_for_now(Walk *walk, const Row *row)
{
	if (walk->nskipped == walk->max_skipped)
	{
		walk->max_skipped = Max(8, walk->max_skipped * 2);
		walk->skipped = walk->skipped ? repalloc_array(walk->skipped, Row, walk->max_skipped)
									  : MemoryContextAlloc(walk->claim->context,
														   walk->max_skipped * sizeof(Row));
	}
	walk->skipped[walk->nskipped] = *row;
	walk->skipped[walk->nskipped++].service =
		MemoryContextStrdup(walk->claim->context, row->service);
}

/* Another row may have its place by now, if no snapshot held up vacuum since it was read. */
static bool
is_row(const Walk *walk, const Row *row)
{
	return wahook_queued_seq(walk->queue->rows.slot) == row->seq;
}

/*
 * Reads what the row names now. It may have another place: row follows it. False when it is gone, or will be
 * with the transaction that is deleting it.
 */
static bool
read_row(Walk *walk, Row *row, bool *steady, wahook_Queued *queued)
{
	wahook_RowReader *rows = &walk->queue->rows;
	wahook_RowState state = wahook_fetch_row_state(rows, &row->tid);

	if (state == WAHOOK_ROW_NONE || !is_row(walk, row))
		state = wahook_peek_queued(walk->queue, CStringGetTextDatum(row->service), row->due_at,
								   row->seq);
	*steady = state == WAHOOK_ROW_STEADY;
	if (state == WAHOOK_ROW_NONE || (state == WAHOOK_ROW_CHANGING && wahook_is_being_deleted(rows)))
		return false;
	row->tid = rows->slot->tts_tid;
	*queued = wahook_read_queued(rows->slot);
	while (!*steady && wahook_fetch_next_version(rows) && is_row(walk, row))
	{
		pfree(queued->ids);
		*queued = wahook_read_queued(rows->slot);
	}
	return true;
}

/*
 * A lock that was seen may be gone: its release counts on a row that nobody had locked. So that must be looked
 * for after the row was locked, each time.
 */
static bool
is_remembered(Walk *walk, const Seen *seen, const pg_uuid_t *id, const char *service)
{
	if (seen->round != walk->round || memcmp(&seen->id, id, sizeof(pg_uuid_t)) != 0 ||
		strcmp(seen->service, service) != 0)
		return false;
	return seen->look == WAHOOK_CLAIMED || seen->look == WAHOOK_BUSY ||
		   (seen->look == WAHOOK_EMPTY && walk->claim->queued_for < seen->until &&
			wahook_is_untouched(walk->claim, id, &seen->version));
}

static wahook_Look
look_at(Walk *walk, const pg_uuid_t *id, const char *service)
{
	Seen *seen = &walk->seen[id->data[UUID_LEN - 1] % MAX_SEEN];
	wahook_Look look;
	pg_uuid_t holder;
	TimestampTz until;

	if (is_remembered(walk, seen, id, service))
		return seen->look;
	look = wahook_look_at(walk->claim, id, service, &holder, &until);
	*seen = (Seen){.round = walk->round,
				   .id = *id,
				   .service = service,
				   .look = look,
				   .until = until,
				   .version = walk->claim->store.conversations.rows.slot->tts_tid};
	return look;
}

/*
 * Looks at the conversations in turn, until the limit is reached. Those whose names the row can do without
 * are moved to the front; returns how many they are. The release of one that is locked queues what it can
 * see: not what this transaction has received itself.
 */
static int
look_at_each(Walk *walk, const char *service, bool ours, wahook_Queued *queued)
{
	int ndone = 0;

	for (int i = 0; i < queued->n && wanted(walk) > 0; i++)
	{
		pg_uuid_t id = queued->ids[i];
		wahook_Look look;

		CHECK_FOR_INTERRUPTS();
		look = look_at(walk, &id, service);
		if (look == WAHOOK_BUSY || (look == WAHOOK_HELD && ours))
			continue;
		queued->ids[i] = queued->ids[ndone];
		queued->ids[ndone++] = id;
	}
	return ndone;
}

/* again: the row was skipped before. Then its conversations are looked at even where others are at it. */
static void
claim_row(Walk *walk, Row *row, bool again)
{
	wahook_RowReader *rows = &walk->queue->rows;
	wahook_Queued queued;
	bool steady;
	bool alone;
	bool locked;
	bool ours;
	int ndone;

	if (!read_row(walk, row, &steady, &queued))
		return;
	ours = steady && wahook_is_row_ours(rows); /* else there may be no row in the slot any more */

	/* A conversation that is alone in its row has a lock of its own. */
	alone = queued.n == 1;
	locked = steady && !alone && wahook_try_lock_row_to_delete(rows);
	if (steady && !alone && !locked && !again)
	{
		skip_for_now(walk, row);
		pfree(queued.ids);
		return;
	}
	walk->claim->queued_for = row->due_at;
	ndone = look_at_each(walk, row->service, ours, &queued);
	if (((steady && alone && ndone > 0) || locked) && wahook_fetch_row(rows, &row->tid) &&
		is_row(walk, row))
		wahook_unqueue_from_row(walk->queue, queued.ids, ndone);
	pfree(queued.ids);
}

/* Claims from up to n due rows after where the walk has come to. Returns how many rows there were. */
static int
claim_rows(Walk *walk, int n)
{
	wahook_Claim *claim = walk->claim;
	Datum values[] = {TimestampTzGetDatum(claim->now), TimestampTzGetDatum(walk->due_at),
					  Int64GetDatum(walk->seq), Int64GetDatum(n),
					  claim->service ? CStringGetTextDatum(claim->service) : claim->services};
	int found = wahook_execute(claim->service ? &due_plan : &due_in_services_plan, values, NULL);
	SPITupleTable *rows = SPI_tuptable;

	walk->round++;
	for (int i = 0; i < found && wanted(walk) > 0; i++)
	{
		HeapTuple tuple = rows->vals[i];
		bool isnull;
		Row row;

		row.tid = *(ItemPointer) DatumGetPointer(SPI_getbinval(tuple, rows->tupdesc, 1, &isnull));
		row.seq = DatumGetInt64(SPI_getbinval(tuple, rows->tupdesc, 2, &isnull));
		row.due_at = DatumGetTimestampTz(SPI_getbinval(tuple, rows->tupdesc, 3, &isnull));
		row.service = claim->service ? claim->service : SPI_getvalue(tuple, rows->tupdesc, 4);
		walk->seq = row.seq;
		walk->due_at = row.due_at;
		walk->first = Min(walk->first, row.due_at);
		claim_row(walk, &row, false);
	}
	return found;
}

TimestampTz
wahook_claim_due_after(wahook_Claim *claim, TimestampTz due_at)
{
	Walk walk = {.claim = claim,
				 .queue = wahook_queue_of(&claim->store),
				 .due_at = due_at,
				 .seq = PG_INT64_MIN,
				 .first = DT_NOEND};
	int n = 1 + (wanted(&walk) + WAHOOK_MAX_QUEUED - 2) / WAHOOK_MAX_QUEUED;

	/* Enough where the rows are full. A round that brings too little is followed by a larger one. */
	while (claim_rows(&walk, n) == n && wanted(&walk) > 0)
		n = Max(n, Min(n * 4, MAX_ROWS_READ));
	walk.round++; /* what was busy may not be any more */
	for (int i = 0; i < walk.nskipped && wanted(&walk) > 0; i++)
		claim_row(&walk, &walk.skipped[i], true);
	claim->queued_for = DT_NOBEGIN;
	return walk.first;
}
