/*
 * Completing claimed messages.
 *
 * Completing is fenced: it needs the lock under which the messages were claimed, and raises WH002
 * when that was lost, so that the work done in the same transaction is undone with it.
 */
#include "conversation/complete.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/errors.h"
#include "core/plan.h"
#include "core/settings.h"
#include "core/uuid.h"

PG_FUNCTION_INFO_V1(wahook_complete_webhook_messages);
PG_FUNCTION_INFO_V1(wahook_complete_conversations);

static wahook_Plan complete_plan =
	{"WITH done AS ("
	 "DELETE FROM @extschema@.webhook_inbox i"
	 " USING unnest($1, $2, $3, $4, $5) AS c (id, seq, token, started, ms)"
	 " WHERE i.conversation_id = c.id AND i.seq = c.seq"
	 " RETURNING i.message_id, i.attempts, i.losses, i.service, c.id, c.token, c.started, c.ms"
	 "), marked AS ("
	 "UPDATE @extschema@.processed_webhook_messages p"
	 " SET processed_at = $6, processing_time_ms = done.ms FROM done WHERE p.id = done.message_id"
	 "), recorded AS ("
	 "INSERT INTO @extschema@.webhook_delivery_attempts (message_id, attempt, outcome,"
	 " conversation_id, lock_token, service, started_at, finished_at, duration_ms)"
	 " SELECT message_id, attempts + losses + 1, 'succeeded', id, token, service, started, $6, ms"
	 " FROM done)"
	 " SELECT count(*)::integer, array_agg(message_id) FILTER (WHERE attempts > 0) FROM done",
	 6,
	 {UUIDARRAYOID, INT8ARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID, TIMESTAMPTZOID}};

/* NOWAIT: somebody who edits the dead letter by hand must not hold up the holder. */
static wahook_Plan resolve_plan =
	{"UPDATE @extschema@.webhook_dlq SET resolution_status = 'resolved', processed_at = $2"
	 " WHERE id = ANY (ARRAY(SELECT d.id FROM @extschema@.webhook_dlq d"
	 " JOIN @extschema@.processed_webhook_messages p"
	 " ON p.whatsapp_message_id = d.whatsapp_message_id"
	 " WHERE p.id = ANY ($1) FOR UPDATE OF d NOWAIT))",
	 2,
	 {UUIDARRAYOID, TIMESTAMPTZOID}};

static wahook_Plan seqs_plan =
	{"SELECT array_agg(i.seq) FROM unnest($2) AS w (id)"
	 " JOIN @extschema@.processed_webhook_messages p ON p.whatsapp_message_id = w.id"
	 " CROSS JOIN LATERAL (SELECT seq FROM @extschema@.webhook_inbox i"
	 " WHERE i.conversation_id = $1 AND i.message_id = p.id) i",
	 2,
	 {UUIDOID, TEXTARRAYOID}};

/* The columns of complete_plan's arguments, a place for each message. */
typedef struct Rows
{
	Datum *ids;
	Datum *seqs;
	Datum *tokens;
	Datum *started;
	Datum *ms;
	int n;
} Rows;

static int
elapsed_ms(TimestampTz from, TimestampTz to)
{
	if (TIMESTAMP_NOT_FINITE(from))
		return 0;
	return (int) Min(Max((to - from) / 1000, 0), PG_INT32_MAX);
}

static int
count_elements(const ArrayType *array)
{
	return array ? ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) : 0;
}

static void
add_rows(Rows *rows, const wahook_Conversation *conversation, ArrayType *seqs, TimestampTz now,
		 int processing_ms)
{
	int n = count_elements(seqs);
	const int64 *seq = n > 0 ? (const int64 *) ARR_DATA_PTR(seqs) : NULL;

	if (processing_ms < 0)
		processing_ms = elapsed_ms(conversation->locked_at, now);
	for (int i = 0; i < n; i++, rows->n++)
	{
		rows->ids[rows->n] = UUIDPGetDatum(&conversation->id);
		rows->seqs[rows->n] = Int64GetDatum(seq[i]);
		rows->tokens[rows->n] = Int64GetDatum(conversation->lock_token);
		rows->started[rows->n] = TimestampTzGetDatum(
			TIMESTAMP_NOT_FINITE(conversation->locked_at) ? now : conversation->locked_at);
		rows->ms[rows->n] = Int32GetDatum(processing_ms);
	}
}

int
wahook_complete_messages(const wahook_Conversation *conversations, ArrayType *const *seqs, int n,
						 int processing_ms)
{
	TimestampTz now = GetCurrentTimestamp();
	Rows rows = {0};
	Datum values[6];
	int total = 0;
	int completed;
	bool none;
	Datum retried;

	for (int i = 0; i < n; i++)
		total += count_elements(seqs[i]);
	if (total == 0)
		return 0;
	rows.ids = palloc(sizeof(Datum) * total);
	rows.seqs = palloc(sizeof(Datum) * total);
	rows.tokens = palloc(sizeof(Datum) * total);
	rows.started = palloc(sizeof(Datum) * total);
	rows.ms = palloc(sizeof(Datum) * total);
	for (int i = 0; i < n; i++)
		add_rows(&rows, &conversations[i], seqs[i], now, processing_ms);

	values[0] =
		PointerGetDatum(construct_array(rows.ids, total, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	values[1] = PointerGetDatum(
		construct_array(rows.seqs, total, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[2] = PointerGetDatum(
		construct_array(rows.tokens, total, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[3] = PointerGetDatum(
		construct_array(rows.started, total, TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[4] = PointerGetDatum(construct_array(rows.ms, total, INT4OID, 4, true, TYPALIGN_INT));
	values[5] = TimestampTzGetDatum(now);
	wahook_execute(&complete_plan, values, NULL);
	completed = DatumGetInt32(wahook_result(0, 1, &none));
	retried = wahook_result(0, 2, &none);
	if (!none)
	{
		Datum resolve[] = {retried, values[5]};

		wahook_execute(&resolve_plan, resolve, NULL);
	}
	return completed;
}

/* The inbox rows of the conversation's messages with the given ids; null: none of them waits. */
static ArrayType *
find_seqs(const pg_uuid_t *id, Datum whatsapp_message_ids)
{
	Datum values[] = {UUIDPGetDatum(id), whatsapp_message_ids};
	bool isnull;
	Datum seqs;

	wahook_execute(&seqs_plan, values, NULL);
	seqs = wahook_result(0, 1, &isnull);
	return isnull ? NULL : DatumGetArrayTypeP(seqs);
}

static int
processing_ms_arg(FunctionCallInfo fcinfo, int arg)
{
	int ms = PG_ARGISNULL(arg) ? -1 : PG_GETARG_INT32(arg);

	if (!PG_ARGISNULL(arg) && ms < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("p_processing_time_ms is negative"),
						errhint("Leave it null for the time since the claim.")));
	return ms;
}

static void
require_args(FunctionCallInfo fcinfo, const char *first, const char *second)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("%s is null", PG_ARGISNULL(0) ? first : second),
						errhint("Pass what claim_conversations() returned.")));
}

/*
 * complete_webhook_messages(p_conversation_id, p_lock_id, p_whatsapp_message_ids,
 * p_processing_time_ms, p_release) → integer: how many it completed.
 */
Datum
wahook_complete_webhook_messages(PG_FUNCTION_ARGS)
{
	int processing_ms = processing_ms_arg(fcinfo, 3);
	wahook_Conversation conversation;
	ArrayType *seqs;
	int completed;

	require_args(fcinfo, "p_conversation_id", "p_lock_id");
	wahook_begin(fcinfo);
	wahook_hold_conversation(PG_GETARG_UUID_P(0), PG_GETARG_UUID_P(1), &conversation);
	seqs = PG_ARGISNULL(2) ? conversation.claimed : find_seqs(&conversation.id, PG_GETARG_DATUM(2));
	completed = wahook_complete_messages(&conversation, &seqs, 1, processing_ms);
	if (PG_ARGISNULL(4) || PG_GETARG_BOOL(4))
		wahook_give_lock_back(&conversation.id);
	wahook_end();
	PG_RETURN_INT32(completed);
}

/* Row-locks all conversations for the holder; an error names each that it does not hold. */
static void
hold_all(const Datum *ids, int n, const pg_uuid_t *lock_id, wahook_Conversation *conversations)
{
	wahook_RowReader reader;
	StringInfoData lost;

	initStringInfo(&lost);
	wahook_open_conversations(&reader);
	for (int i = 0; i < n; i++)
		if (!wahook_try_hold(&reader, DatumGetUUIDP(ids[i]), lock_id, &conversations[i]))
			appendStringInfo(&lost, "%s%s", lost.len > 0 ? ", " : "",
							 wahook_uuid_text(&conversations[i].id));
	wahook_close_rows(&reader);
	if (lost.len > 0)
		ereport(ERROR,
				(errcode(WAHOOK_LOCK_LOST), errmsg("locks on conversations were lost"),
				 errdetail("Lock id %s does not hold: %s.", wahook_uuid_text(lock_id), lost.data),
				 errhint(
					 "Nothing was completed. Complete the others without these; their messages wait for the next claim, or have had it.")));
}

/* complete_conversations(p_conversation_ids, p_lock_id, p_processing_time_ms) → integer */
Datum
wahook_complete_conversations(PG_FUNCTION_ARGS)
{
	int processing_ms = processing_ms_arg(fcinfo, 2);
	ArrayType *array;
	wahook_Conversation *conversations;
	ArrayType **seqs;
	Datum *ids;
	bool *nulls;
	int n;
	int completed;

	require_args(fcinfo, "p_conversation_ids", "p_lock_id");
	array = PG_GETARG_ARRAYTYPE_P(0);
	deconstruct_array(array, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &ids, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("p_conversation_ids contains a null"),
							errhint("Pass what claim_conversations() returned.")));
	if (n == 0)
		PG_RETURN_INT32(0);

	wahook_begin(fcinfo);
	conversations = palloc(sizeof(wahook_Conversation) * n);
	seqs = palloc(sizeof(ArrayType *) * n);
	hold_all(ids, n, PG_GETARG_UUID_P(1), conversations);
	for (int i = 0; i < n; i++)
		seqs[i] = conversations[i].claimed;
	completed = wahook_complete_messages(conversations, seqs, n, processing_ms);
	wahook_give_locks_back(PointerGetDatum(array));
	wahook_end();
	PG_RETURN_INT32(completed);
}
