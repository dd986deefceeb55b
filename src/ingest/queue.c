/*
 * The queue of conversations in which messages wait.
 */
#include "ingest/queue.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/tables.h"
#include "core/uuid.h"
#include "core/wake.h"

/* Columns of the primary key. */
enum
{
	KEY_SERVICE = 1,
	KEY_DUE_AT = 2,
	KEY_SEQ = 3
};

void
wahook_open_queue(wahook_Table *queue)
{
	wahook_open_table(queue, "webhook_conversation_queue", "webhook_conversation_queue_pkey");
}

/* Sets the names of a row: the first has a column of its own. */
static void
set_names(const pg_uuid_t *ids, int n, Datum *values, bool *nulls)
{
	values[Anum_queue_conversation_id - 1] = UUIDPGetDatum(&ids[0]);
	nulls[Anum_queue_others - 1] = n == 1;
	if (n > 1)
		values[Anum_queue_others - 1] = wahook_uuid_array(&ids[1], n - 1);
}

static void
make_row(wahook_Table *queue, const pg_uuid_t *ids, int n, Datum service, TimestampTz due_at,
		 Datum *values, bool *nulls)
{
	memset(nulls, false, WAHOOK_MAX_COLUMNS * sizeof(bool));
	set_names(ids, n, values, nulls);
	values[Anum_queue_seq - 1] = wahook_next_value(queue);
	values[Anum_queue_service - 1] = service;
	values[Anum_queue_due_at - 1] = TimestampTzGetDatum(due_at);
	wahook_note_work_at(WAHOOK_WORK_DELIVER, due_at);
}

void
wahook_queue_conversation(wahook_Table *queue, const pg_uuid_t *id, Datum service,
						  TimestampTz due_at)
{
	Datum values[WAHOOK_MAX_COLUMNS] = {0};
	bool nulls[WAHOOK_MAX_COLUMNS];

	make_row(queue, id, 1, service, due_at, values, nulls);
	wahook_insert_row(queue, values, nulls, Natts_queue);
}

void
wahook_queue_conversations(wahook_Table *queue, const pg_uuid_t *ids, int n, Datum service,
						   TimestampTz due_at)
{
	Datum values[WAHOOK_MAX_COLUMNS] = {0};
	bool nulls[WAHOOK_MAX_COLUMNS];

	Assert(n >= 1 && n <= WAHOOK_MAX_QUEUED);
	make_row(queue, ids, n, service, due_at, values, nulls);
	wahook_add_row(queue, values, nulls, Natts_queue);
}

wahook_Queued
wahook_read_queued(TupleTableSlot *slot)
{
	wahook_Queued queued = {.n = 1};
	bool isnull;
	pg_uuid_t *first = DatumGetUUIDP(slot_getattr(slot, Anum_queue_conversation_id, &isnull));
	Datum value = slot_getattr(slot, Anum_queue_others, &isnull);
	ArrayType *others = isnull ? NULL : DatumGetArrayTypeP(value);

	/* A null, which can only have been written by hand, takes no room among the elements. */
	if (others)
		queued.n += (ARR_SIZE(others) - ARR_DATA_OFFSET(others)) / UUID_LEN;
	queued.ids = palloc_array(pg_uuid_t, queued.n);
	queued.ids[0] = *first;
	if (others)
		memcpy(&queued.ids[1], ARR_DATA_PTR(others), (queued.n - 1) * UUID_LEN);
	if (others && PointerGetDatum(others) != value)
		pfree(others);
	return queued;
}

int64
wahook_queued_seq(TupleTableSlot *slot)
{
	bool isnull;

	return DatumGetInt64(slot_getattr(slot, Anum_queue_seq, &isnull));
}

static void
init_keys(ScanKeyData keys[2], const wahook_Table *queue, Datum service, TimestampTz due_at)
{
	ScanKeyInit(&keys[0], KEY_SERVICE, BTEqualStrategyNumber, F_TEXTEQ, service);
	keys[0].sk_collation = queue->rows.index->rd_indcollation[KEY_SERVICE - 1];
	ScanKeyInit(&keys[1], KEY_DUE_AT, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ,
				TimestampTzGetDatum(due_at));
}

wahook_RowState
wahook_peek_queued(wahook_Table *queue, Datum service, TimestampTz due_at, int64 seq)
{
	ScanKeyData keys[3];

	init_keys(keys, queue, service, due_at);
	ScanKeyInit(&keys[2], KEY_SEQ, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(seq));
	return wahook_peek_row(&queue->rows, keys, lengthof(keys));
}

static bool
is_among(const pg_uuid_t *id, const pg_uuid_t *ids, int n)
{
	for (int i = 0; i < n; i++)
		if (memcmp(id, &ids[i], sizeof(pg_uuid_t)) == 0)
			return true;
	return false;
}

/* How many conversations the row in the slot names, where this is one of them; else 0. */
static int
count_names(TupleTableSlot *slot, const pg_uuid_t *id)
{
	wahook_Queued queued = wahook_read_queued(slot);
	int n = is_among(id, queued.ids, queued.n) ? queued.n : 0;

	pfree(queued.ids);
	return n;
}

static bool
is_shared(TupleTableSlot *slot)
{
	bool isnull;

	(void) slot_getattr(slot, Anum_queue_others, &isnull);
	return !isnull;
}

void
wahook_unqueue_from_row(wahook_Table *queue, const pg_uuid_t *ids, int n)
{
	static const bool replace[WAHOOK_MAX_COLUMNS] = {[Anum_queue_conversation_id - 1] = true,
													 [Anum_queue_others - 1] = true};
	Datum values[WAHOOK_MAX_COLUMNS] = {0};
	bool nulls[WAHOOK_MAX_COLUMNS] = {false};
	wahook_Queued queued = wahook_read_queued(queue->rows.slot);
	int left = 0;

	for (int i = 0; i < queued.n; i++)
		if (!is_among(&queued.ids[i], ids, n))
			queued.ids[left++] = queued.ids[i];
	if (left == 0)
		(void) wahook_delete_row(queue);
	else
	{
		set_names(queued.ids, left, values, nulls);
		(void) wahook_update_row(queue, values, nulls, replace);
	}
	pfree(queued.ids);
}

static void
unqueue(wahook_Table *queue, const pg_uuid_t *id, Datum service, TimestampTz due_at, bool alone)
{
	ScanKeyData keys[2];
	IndexScanDesc scan;

	init_keys(keys, queue, service, due_at);
	PushActiveSnapshot(GetLatestSnapshot());
	scan = wahook_begin_scan(&queue->rows, GetActiveSnapshot(), keys, lengthof(keys));
	while (wahook_next_row(&queue->rows, scan))
	{
		if (alone && is_shared(queue->rows.slot))
			break;
		if (count_names(queue->rows.slot, id) > 0)
			wahook_unqueue_from_row(queue, id, 1);
	}
	wahook_end_scan(&queue->rows, scan);
	PopActiveSnapshot();
	if (!alone)
		CommandCounterIncrement(); /* the next name may be in the same row */
}

void
wahook_unqueue(wahook_Table *queue, const pg_uuid_t *id, Datum service, TimestampTz due_at)
{
	unqueue(queue, id, service, due_at, false);
}

void
wahook_unqueue_alone(wahook_Table *queue, const pg_uuid_t *id, Datum service, TimestampTz due_at)
{
	unqueue(queue, id, service, due_at, true);
}

/* Looks for rows that name the conversation, up to the first that it shares. Where it is alone is *alone. */
static bool
find_shared(wahook_Table *queue, const pg_uuid_t *id, Datum service, TimestampTz due_at,
			bool unlocked, ItemPointer alone)
{
	SnapshotData dirty;
	ScanKeyData keys[2];
	IndexScanDesc scan;
	bool found = false;

	ItemPointerSetInvalid(alone);
	InitDirtySnapshot(dirty);
	init_keys(keys, queue, service, due_at);
	scan = wahook_begin_scan(&queue->rows, &dirty, keys, lengthof(keys));
	while (!found && wahook_next_row(&queue->rows, scan))
	{
		int n = count_names(queue->rows.slot, id);

		if (n == 0 || TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax))
			continue;
		if (n == 1)
			*alone = queue->rows.slot->tts_tid;
		else
			found = !unlocked || !wahook_is_row_locked(&queue->rows);
	}
	wahook_end_scan(&queue->rows, scan);
	return found;
}

bool
wahook_is_queued(wahook_Table *queue, const pg_uuid_t *id, Datum service, TimestampTz due_at)
{
	ItemPointerData alone;

	return find_shared(queue, id, service, due_at, false, &alone) || ItemPointerIsValid(&alone);
}

void
wahook_requeue_conversation(wahook_Table *queue, const pg_uuid_t *id, Datum service,
							TimestampTz due_at)
{
	ItemPointerData alone;

	if (find_shared(queue, id, service, due_at, true, &alone))
	{
		wahook_note_work_at(WAHOOK_WORK_DELIVER, due_at);
		return;
	}
	if (ItemPointerIsValid(&alone) && wahook_fetch_row(&queue->rows, &alone) &&
		count_names(queue->rows.slot, id) == 1)
		(void) wahook_delete_row(queue);
	wahook_queue_conversation(queue, id, service, due_at);
}
