/*
 * Claiming conversations.
 *
 * A claim walks the due rows of webhook_conversation_queue, oldest first. For each it looks at the
 * conversation without waiting: one that is locked is parked until its lease ends, one that is
 * being changed is left to whoever comes next, a free one is row-locked. Only then, in a snapshot
 * taken after the row locks, are the waiting messages read: what the former holder completed is
 * gone by then, so no message is handed over twice.
 */
#include "conversation/claim.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "conversation/expire.h"
#include "conversation/lock.h"
#include "conversation/message.h"
#include "conversation/state.h"
#include "core/compat.h"
#include "core/event.h"
#include "core/plan.h"
#include "core/settings.h"
#include "core/uuid.h"

/* How many due queue rows are looked at in one go when many of them can't be claimed. */
#define MAX_DUE_BATCH 64

/* A free conversation that this call has row-locked. */
typedef struct Claimed
{
	pg_uuid_t id;
	bool reopen;   /* its status says that it is over */
	char *service; /* of its messages; null: it has none for us */
	int first;     /* its messages' places in Claim.seqs, from 1 */
	int last;
	Datum messages; /* jsonb */
	Datum user_id;  /* where a message changed what is known of the user, else 0 */
	Datum whatsapp_phone;
} Claimed;

typedef struct Claim
{
	const wahook_ClaimRequest *request;
	TimestampTz now;
	Claimed *conversations;
	int n;
	Datum *seqs; /* webhook_inbox.seq of all their messages */
	int nseqs;
	int max_seqs;
} Claim;

PG_FUNCTION_INFO_V1(wahook_claim_conversations);

#define DUE_ROWS(service, limit) \
	"SELECT q.conversation_id, q.seq, q.due_at FROM @extschema@.webhook_conversation_queue q" \
	" WHERE q.service = " service " AND q.due_at <= $1 AND (q.due_at, q.seq) > ($2, $3)" \
	" ORDER BY q.due_at, q.seq LIMIT " limit " FOR UPDATE SKIP LOCKED"

static wahook_Plan due_plan = {DUE_ROWS("$5", "$4"),
							   5,
							   {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, INT8OID, TEXTOID}};

static wahook_Plan due_in_any_service_plan =
	{"SELECT due.* FROM @extschema@.webhook_services s CROSS JOIN LATERAL (" DUE_ROWS(
		 "s.name", "$4") ") due ORDER BY due.due_at, due.seq LIMIT $4",
	 4,
	 {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, INT8OID}};

static wahook_Plan park_row_plan =
	{"UPDATE @extschema@.webhook_conversation_queue q SET due_at = p.until"
	 " FROM unnest($1, $2, $3) AS p (id, seq, until)"
	 " WHERE q.conversation_id = p.id AND q.seq = p.seq",
	 3,
	 {UUIDARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID}};

static wahook_Plan messages_plan =
	{"SELECT c.n::integer, i.seq, i.service, i.attempts + i.losses + 1, i.user_id,"
	 " i.whatsapp_phone, p.whatsapp_message_id, p.kind, p.correlation_id, p.received_at, p.payload"
	 " FROM unnest($1) WITH ORDINALITY AS c (id, n)"
	 " CROSS JOIN LATERAL (SELECT * FROM @extschema@.webhook_inbox i"
	 " WHERE i.conversation_id = c.id ORDER BY i.conversation_id, i.seq LIMIT $2) i"
	 " LEFT JOIN @extschema@.processed_webhook_messages p ON p.id = i.message_id"
	 " ORDER BY c.n, i.seq",
	 2,
	 {UUIDARRAYOID, INT8OID}};

static wahook_Plan lock_plan =
	{"UPDATE @extschema@.webhook_conversations c"
	 " SET locked_by = $1, locked_at = $2, lock_token = c.lock_token + 1, lock_expires_at = $3,"
	 " claimed_messages = ($4)[v.first:v.last], last_activity_at = $2, updated_at = $2"
	 " FROM unnest($5, $6, $7) WITH ORDINALITY AS v (id, first, last, n) WHERE c.id = v.id"
	 " RETURNING v.n::integer, c.lock_token, c.user_id, c.whatsapp_phone, c.agent_type,"
	 " c.conversation_context",
	 7,
	 {UUIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8ARRAYOID, UUIDARRAYOID, INT4ARRAYOID,
	  INT4ARRAYOID}};

static wahook_Plan reopen_plan =
	{"UPDATE @extschema@.webhook_conversations SET status = 'active' WHERE id = $1", 1, {UUIDOID}};

static wahook_Plan new_identity_plan =
	{"UPDATE @extschema@.webhook_conversations SET user_id = coalesce($2, user_id),"
	 " whatsapp_phone = coalesce($3, whatsapp_phone) WHERE id = $1",
	 3,
	 {UUIDOID, TEXTOID, TEXTOID}};

/*
 * A delivery can land in a conversation that another transaction was creating, and that then
 * rolled back: the messages are there, the conversation is not. Their first claim creates it.
 */
static wahook_Plan create_missing_plan =
	{"WITH missing AS ("
	 "SELECT coalesce(i.user_id, i.whatsapp_phone, '') AS user_id, i.whatsapp_phone,"
	 " p.payload->'metadata'->>'phone_number_id' AS phone_number_id"
	 " FROM @extschema@.webhook_inbox i"
	 " LEFT JOIN @extschema@.processed_webhook_messages p ON p.id = i.message_id"
	 " WHERE i.conversation_id = $1 ORDER BY i.conversation_id, i.seq LIMIT 1"
	 "), known AS ("
	 "INSERT INTO @extschema@.webhook_identities (phone_number_id, identity, kind, conversation_id)"
	 " SELECT coalesce(m.phone_number_id, ''), v.identity, v.kind, $1 FROM missing m"
	 " CROSS JOIN LATERAL (VALUES (m.whatsapp_phone, 'phone'), (m.user_id, 'user_id'))"
	 " AS v (identity, kind) WHERE v.identity <> '' ON CONFLICT DO NOTHING)"
	 " INSERT INTO @extschema@.webhook_conversations (id, user_id, whatsapp_phone, phone_number_id)"
	 " SELECT $1, user_id, whatsapp_phone, phone_number_id FROM missing ON CONFLICT DO NOTHING",
	 1,
	 {UUIDOID}};

/* Row-locks a conversation if it is free. True when it is ours now; *until: when to look again. */
static bool
try_conversation(Claim *claim, wahook_RowReader *reader, const pg_uuid_t *id, TimestampTz *until)
{
	wahook_Conversation conversation;
	wahook_RowState state = wahook_peek_conversation(reader, id, &conversation);
	Claimed *claimed;

	*until = DT_NOBEGIN;
	if (state == WAHOOK_ROW_NONE)
	{
		Datum values[] = {UUIDPGetDatum(id)};

		wahook_execute(&create_missing_plan, values, NULL);
		state = wahook_peek_conversation(reader, id, &conversation);
	}
	if (state != WAHOOK_ROW_STEADY)
		return false;
	if (!wahook_lock_is_free(&conversation, claim->now))
	{
		*until = conversation.lock_expires_at;
		return false;
	}
	if (!wahook_try_lock_row(reader))
		return false;
	wahook_expire_claim(&conversation, claim->now);

	claimed = &claim->conversations[claim->n++];
	memset(claimed, 0, sizeof(*claimed));
	claimed->id = *id;
	claimed->reopen = strcmp(conversation.status, "completed") == 0 ||
					  strcmp(conversation.status, "timeout") == 0 ||
					  strcmp(conversation.status, "error") == 0;
	return true;
}

static bool
already_claimed(const Claim *claim, const pg_uuid_t *id)
{
	for (int i = 0; i < claim->n; i++)
		if (memcmp(&claim->conversations[i].id, id, sizeof(pg_uuid_t)) == 0)
			return true;
	return false;
}

static void
park_rows(pg_uuid_t *ids, Datum *seqs, Datum *until, int n)
{
	Datum values[3];

	if (n == 0)
		return;
	values[0] = wahook_uuid_array(ids, n);
	values[1] =
		PointerGetDatum(construct_array(seqs, n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[2] = PointerGetDatum(
		construct_array(until, n, TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	wahook_execute(&park_row_plan, values, NULL);
}

/*
 * Looks at up to batch due queue rows after *due_at, *seq, and row-locks the free conversations
 * among them. Returns how many rows there were.
 */
static int
take_due(Claim *claim, wahook_RowReader *reader, int batch, TimestampTz *due_at, int64 *seq)
{
	const char *service = claim->request->service;
	Datum values[] = {TimestampTzGetDatum(claim->now), TimestampTzGetDatum(*due_at),
					  Int64GetDatum(*seq), Int64GetDatum(batch),
					  service ? CStringGetTextDatum(service) : (Datum) 0};
	int n = wahook_execute(service ? &due_plan : &due_in_any_service_plan, values, NULL);
	SPITupleTable *rows = SPI_tuptable;
	pg_uuid_t *ids = palloc(sizeof(pg_uuid_t) * Max(n, 1));
	pg_uuid_t *parked = palloc(sizeof(pg_uuid_t) * Max(n, 1));
	Datum *parked_seqs = palloc(sizeof(Datum) * Max(n, 1));
	Datum *parked_until = palloc(sizeof(Datum) * Max(n, 1));
	int nparked = 0;

	for (int i = 0; i < n; i++)
	{
		bool isnull;
		TimestampTz until;

		ids[i] = *DatumGetUUIDP(SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull));
		*seq = DatumGetInt64(SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &isnull));
		*due_at = DatumGetTimestampTz(SPI_getbinval(rows->vals[i], rows->tupdesc, 3, &isnull));
		if (claim->n == claim->request->limit || already_claimed(claim, &ids[i]))
			continue;
		if (!try_conversation(claim, reader, &ids[i], &until) && until != DT_NOBEGIN)
		{
			parked[nparked] = ids[i];
			parked_seqs[nparked] = Int64GetDatum(*seq);
			parked_until[nparked++] = TimestampTzGetDatum(until);
		}
	}
	park_rows(parked, parked_seqs, parked_until, nparked);
	return n;
}

static void
add_seq(Claim *claim, Datum seq)
{
	if (claim->nseqs == claim->max_seqs)
	{
		claim->max_seqs *= 2;
		claim->seqs = repalloc_huge(claim->seqs, sizeof(Datum) * claim->max_seqs);
	}
	claim->seqs[claim->nseqs++] = seq;
}

static void
read_message(SPITupleTable *rows, uint64 i, wahook_Message *message)
{
	HeapTuple row = rows->vals[i];
	TupleDesc desc = rows->tupdesc;
	bool isnull;
	Datum value;

	message->attempt = DatumGetInt32(SPI_getbinval(row, desc, 4, &isnull));
	message->whatsapp_message_id = DatumGetTextPP(SPI_getbinval(row, desc, 7, &isnull));
	value = SPI_getbinval(row, desc, 8, &isnull);
	message->kind = isnull ? NULL : DatumGetTextPP(value);
	message->correlation_id = DatumGetUUIDP(SPI_getbinval(row, desc, 9, &isnull));
	message->received_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 10, &isnull));
	value = SPI_getbinval(row, desc, 11, &isnull);
	message->payload = isnull ? NULL : DatumGetJsonbP(value);
}

/*
 * Takes the messages of one conversation from the rows that begin at *i: those at the head of its
 * queue that are for one service. Leaves *i behind the conversation's last row.
 */
static void
take_messages(Claim *claim, Claimed *claimed, int n, SPITupleTable *rows, uint64 nrows, uint64 *i)
{
	JsonbParseState *state = NULL;
	bool ended = false;

	claimed->first = claim->nseqs + 1;
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (; *i < nrows; (*i)++)
	{
		HeapTuple row = rows->vals[*i];
		TupleDesc desc = rows->tupdesc;
		wahook_Message message;
		bool isnull;
		char *service;
		Datum value;

		if (DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull)) != n)
			break;
		service = TextDatumGetCString(SPI_getbinval(row, desc, 3, &isnull));
		if (claimed->service == NULL &&
			(claim->request->service == NULL || strcmp(claim->request->service, service) == 0))
			claimed->service = service;
		ended = ended || claimed->service == NULL || strcmp(claimed->service, service) != 0;
		if (ended)
			continue;

		add_seq(claim, SPI_getbinval(row, desc, 2, &isnull));
		value = SPI_getbinval(row, desc, 5, &isnull);
		if (!isnull)
			claimed->user_id = value;
		value = SPI_getbinval(row, desc, 6, &isnull);
		if (!isnull)
			claimed->whatsapp_phone = value;
		(void) SPI_getbinval(row, desc, 7, &isnull);
		if (isnull)
			continue; /* its message was deleted by hand: completing clears it away */
		read_message(rows, *i, &message);
		wahook_push_message(&state, &message);
	}
	claimed->last = claim->nseqs;
	claimed->messages =
		JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
}

static Datum
claimed_ids(const Claim *claim)
{
	pg_uuid_t *ids = palloc(sizeof(pg_uuid_t) * claim->n);

	for (int i = 0; i < claim->n; i++)
		ids[i] = claim->conversations[i].id;
	return wahook_uuid_array(ids, claim->n);
}

/* Reads the waiting messages; conversations that have none for us leave the claim. */
static void
take_all_messages(Claim *claim)
{
	Datum values[] = {claimed_ids(claim), Int64GetDatum(wahook_claim_max_messages)};
	uint64 nrows = wahook_execute(&messages_plan, values, NULL);
	SPITupleTable *rows = SPI_tuptable;
	pg_uuid_t *left = palloc(sizeof(pg_uuid_t) * claim->n);
	int nleft = 0;
	int kept = 0;
	uint64 row = 0;

	claim->max_seqs = Max(nrows, 1);
	claim->seqs = palloc(sizeof(Datum) * claim->max_seqs);
	for (int i = 0; i < claim->n; i++)
	{
		Claimed *claimed = &claim->conversations[i];

		take_messages(claim, claimed, i + 1, rows, nrows, &row);
		if (claimed->service == NULL)
			left[nleft++] = claimed->id;
		else
			claim->conversations[kept++] = *claimed;
	}
	claim->n = kept;
	if (nleft > 0)
		wahook_requeue(wahook_uuid_array(left, nleft));
}

/* What a message or the claim itself changes about a conversation besides its lock; rare. */
static void
update_conversations(const Claim *claim)
{
	for (int i = 0; i < claim->n; i++)
	{
		const Claimed *claimed = &claim->conversations[i];
		Datum values[] = {UUIDPGetDatum(&claimed->id), claimed->user_id, claimed->whatsapp_phone};
		char nulls[] = {' ', claimed->user_id ? ' ' : 'n', claimed->whatsapp_phone ? ' ' : 'n',
						'\0'};

		if (claimed->user_id || claimed->whatsapp_phone)
			wahook_execute(&new_identity_plan, values, nulls);
		if (claimed->reopen)
			wahook_execute_transition(&reopen_plan, values, "message claimed");
	}
}

/* Writes the locks and appends the result's rows, in the order of the claim. */
static void
lock_and_return(const Claim *claim, ReturnSetInfo *result)
{
	const wahook_ClaimRequest *request = claim->request;
	TimestampTz expires_at = claim->now + request->lease_us;
	Datum ids = claimed_ids(claim);
	Datum *first = palloc(sizeof(Datum) * claim->n);
	Datum *last = palloc(sizeof(Datum) * claim->n);
	Datum *services = palloc(sizeof(Datum) * claim->n);
	Datum(*rows)[10] = palloc(sizeof(Datum[10]) * claim->n);
	bool(*nulls)[10] = palloc0(sizeof(bool[10]) * claim->n);
	Datum values[7];
	SPITupleTable *locked;

	for (int i = 0; i < claim->n; i++)
	{
		first[i] = Int32GetDatum(claim->conversations[i].first);
		last[i] = Int32GetDatum(claim->conversations[i].last);
		services[i] = CStringGetTextDatum(claim->conversations[i].service);
	}
	values[0] = UUIDPGetDatum(&request->lock_id);
	values[1] = TimestampTzGetDatum(claim->now);
	values[2] = TimestampTzGetDatum(expires_at);
	values[3] = PointerGetDatum(
		construct_array(claim->seqs, claim->nseqs, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[4] = ids;
	values[5] = PointerGetDatum(construct_array(first, claim->n, INT4OID, 4, true, TYPALIGN_INT));
	values[6] = PointerGetDatum(construct_array(last, claim->n, INT4OID, 4, true, TYPALIGN_INT));
	wahook_execute(&lock_plan, values, NULL);
	locked = SPI_tuptable;

	for (uint64 i = 0; i < locked->numvals; i++)
	{
		HeapTuple row = locked->vals[i];
		TupleDesc desc = locked->tupdesc;
		bool isnull;
		int n = DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull)) - 1;
		const Claimed *claimed = &claim->conversations[n];

		rows[n][0] = UUIDPGetDatum(&claimed->id);
		rows[n][1] = values[0];
		rows[n][2] = SPI_getbinval(row, desc, 2, &isnull);
		rows[n][3] = TimestampTzGetDatum(expires_at);
		for (int column = 3; column <= 5; column++)
			rows[n][column + 1] = SPI_getbinval(row, desc, column, &nulls[n][column + 1]);
		rows[n][7] = services[n];
		rows[n][8] = SPI_getbinval(row, desc, 6, &nulls[n][8]);
		rows[n][9] = claimed->messages;
	}
	for (int i = 0; i < claim->n; i++)
		tuplestore_putvalues(result->setResult, result->setDesc, rows[i], nulls[i]);
	wahook_park(ids,
				PointerGetDatum(
					construct_array(services, claim->n, TEXTOID, -1, false, TYPALIGN_INT)),
				expires_at);
}

static void
log_claim(const Claim *claim)
{
	for (int i = 0; i < claim->n; i++)
	{
		wahook_Event event;

		wahook_event_begin(&event, "CONVERSATION_LOCK_ACQUIRED", false);
		wahook_event_uuid(&event, "conversation_id", &claim->conversations[i].id);
		wahook_event_uuid(&event, "lock_id", &claim->request->lock_id);
		wahook_event_end(&event);
	}
}

static void
begin_claim(Claim *claim, const wahook_ClaimRequest *request, int limit)
{
	memset(claim, 0, sizeof(*claim));
	claim->request = request;
	claim->now = GetCurrentTimestamp();
	claim->conversations = palloc(sizeof(Claimed) * Max(limit, 1));
}

static void
finish_claim(Claim *claim, ReturnSetInfo *result)
{
	if (claim->n > 0)
		take_all_messages(claim);
	if (claim->n == 0)
		return;
	update_conversations(claim);
	lock_and_return(claim, result);
	log_claim(claim);
}

void
wahook_claim_waiting(const wahook_ClaimRequest *request, ReturnSetInfo *result)
{
	TimestampTz due_at = DT_NOBEGIN;
	int64 seq = 0;
	int wanted = request->limit;
	Claim claim;
	wahook_RowReader reader;

	begin_claim(&claim, request, request->limit);
	wahook_open_conversations(&reader);
	while (claim.n < request->limit && take_due(&claim, &reader, wanted, &due_at, &seq) == wanted)
		wanted = Min(Max(wanted * 2, 1), MAX_DUE_BATCH);
	wahook_close_rows(&reader);
	finish_claim(&claim, result);
}

void
wahook_claim_these(const wahook_ClaimRequest *request, const pg_uuid_t *ids, int n,
				   ReturnSetInfo *result)
{
	Claim claim;
	wahook_RowReader reader;

	begin_claim(&claim, request, n);
	wahook_open_conversations(&reader);
	for (int i = 0; i < n; i++)
	{
		TimestampTz until;

		(void) try_conversation(&claim, &reader, &ids[i], &until);
	}
	wahook_close_rows(&reader);
	finish_claim(&claim, result);
}

void
wahook_read_claim_request(FunctionCallInfo fcinfo, int lock_id_arg, int lease_arg,
						  wahook_ClaimRequest *request)
{
	bool lease = lease_arg >= 0 && !PG_ARGISNULL(lease_arg);

	memset(request, 0, sizeof(*request));
	if (PG_ARGISNULL(lock_id_arg))
		wahook_new_uuid(&request->lock_id);
	else
		request->lock_id = *PG_GETARG_UUID_P(lock_id_arg);
	request->lease_us = wahook_lease_us(lease ? PG_GETARG_INTERVAL_P(lease_arg) : NULL);
}

/* claim_conversations(p_limit, p_lock_id, p_service, p_lease) → setof claim */
Datum
wahook_claim_conversations(PG_FUNCTION_ARGS)
{
	wahook_ClaimRequest request;

	wahook_read_claim_request(fcinfo, 1, 3, &request);
	request.limit = PG_ARGISNULL(0) ? 1 : PG_GETARG_INT32(0);
	if (request.limit < 1 || request.limit > WAHOOK_MAX_CLAIM_CONVERSATIONS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("p_limit is out of range"),
						errdetail("A call claims between 1 and %d conversations, not %d.",
								  WAHOOK_MAX_CLAIM_CONVERSATIONS, request.limit),
						errhint("Call again for more.")));
	if (!PG_ARGISNULL(2))
		request.service = text_to_cstring(PG_GETARG_TEXT_PP(2));

	InitMaterializedSRF(fcinfo, 0);
	wahook_begin(fcinfo);
	wahook_claim_waiting(&request, (ReturnSetInfo *) fcinfo->resultinfo);
	wahook_end();
	return (Datum) 0;
}
