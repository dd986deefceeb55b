/*
 * Dead-lettering: a message that failed leaves its conversation's queue for the dead letter queue.
 *
 * The entry's retry_count is the number of retries that failed. Each attempt of a message knows how
 * many failed before it (webhook_inbox.attempts), and that is the number of its failed retries once
 * it has failed too.
 */
#include "retry/dead_letter.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "core/args.h"
#include "core/compat.h"
#include "core/counters.h"
#include "core/errors.h"
#include "core/plan.h"
#include "core/row.h"
#include "core/settings.h"
#include "core/uuid.h"
#include "ingest/config.h"
#include "ingest/envelope.h"
#include "retry/backoff.h"
#include "retry/entry.h"

PG_FUNCTION_INFO_V1(wahook_fail_webhook_message);
PG_FUNCTION_INFO_V1(wahook_dead_letter_lost);
PG_FUNCTION_INFO_V1(wahook_add_to_dead_letter_queue);

static wahook_Plan find_plan =
	{"SELECT m.processed_at IS NOT NULL, i.seq, i.attempts, i.losses, i.service,"
	 " i.enqueued_at > clock_timestamp() FROM @extschema@.processed_webhook_messages m"
	 " LEFT JOIN @extschema@.webhook_inbox i ON i.conversation_id = $1 AND i.message_id = m.id"
	 " WHERE m.whatsapp_message_id = $2",
	 2,
	 {UUIDOID, TEXTOID}};

static wahook_Plan lost_plan =
	{"SELECT i.seq, m.whatsapp_message_id, i.attempts, i.losses, i.service"
	 " FROM @extschema@.webhook_inbox i"
	 " JOIN @extschema@.processed_webhook_messages m ON m.id = i.message_id"
	 " WHERE i.conversation_id = $1 AND i.seq = ANY ($2) ORDER BY i.seq",
	 2,
	 {UUIDOID, INT8ARRAYOID}};

/*
 * A message that somebody marked as processed while it was claimed has failed all the same. One that
 * is held, in strict order, is no longer claimed: its holder must not complete it with the rest.
 */
static wahook_Plan dead_letter_plan =
	{"WITH gone AS ("
	 "SELECT message_id, service, attempts, losses FROM @extschema@.webhook_inbox"
	 " WHERE conversation_id = $1 AND seq = $2"
	 "), taken_out AS ("
	 "DELETE FROM @extschema@.webhook_inbox WHERE conversation_id = $1 AND seq = $2 AND NOT $13"
	 "), held AS ("
	 "UPDATE @extschema@.webhook_inbox SET attempts = attempts + 1, losses = 0, enqueued_at = $6"
	 " WHERE conversation_id = $1 AND seq = $2 AND $13"
	 "), reopened AS ("
	 "UPDATE @extschema@.processed_webhook_messages m SET processed_at = NULL"
	 " FROM gone WHERE m.id = gone.message_id AND m.processed_at IS NOT NULL"
	 "), recorded AS ("
	 "INSERT INTO @extschema@.webhook_attempts (message_id, attempt, outcome,"
	 " conversation_id, lock_token, service, started_at, finished_at, duration_ms, error,"
	 " error_stack, lock_id) SELECT message_id, attempts + losses + 1, 'failed', $1, $9, service,"
	 " $10, $7, $12, $3, $4, $14 FROM gone WHERE $11"
	 "), counted AS ("
	 "UPDATE @extschema@.webhook_conversations c SET error_count = c.error_count + 1,"
	 " retry_count = c.retry_count + (gone.attempts > 0)::integer,"
	 " claimed_messages = CASE WHEN $13 THEN array_remove(c.claimed_messages, $2)"
	 " ELSE c.claimed_messages END,"
	 " last_activity_at = $7, updated_at = $7 FROM gone WHERE c.id = $1)"
	 " INSERT INTO @extschema@.webhook_dlq AS d (payload, error, error_stack, correlation_id,"
	 " whatsapp_message_id, retry_count, max_retries, next_retry_at, resolution_status,"
	 " from_number, created_at, updated_at, conversation_id, service)"
	 " SELECT coalesce(m.payload, '{}'), $3, $4, m.correlation_id, m.whatsapp_message_id,"
	 " gone.attempts, $8, $6, $5, coalesce(m.payload->'message'->>'from', ''), $7, $7, $1,"
	 " gone.service"
	 " FROM gone JOIN @extschema@.processed_webhook_messages m ON m.id = gone.message_id"
	 " ON CONFLICT (whatsapp_message_id) DO UPDATE SET error = EXCLUDED.error,"
	 " error_stack = EXCLUDED.error_stack, retry_count = EXCLUDED.retry_count,"
	 " next_retry_at = EXCLUDED.next_retry_at, resolution_status = EXCLUDED.resolution_status,"
	 " processed = false, processed_at = NULL, updated_at = EXCLUDED.updated_at,"
	 " conversation_id = EXCLUDED.conversation_id, service = EXCLUDED.service,"
	 " correlation_id = EXCLUDED.correlation_id, retry_lease_until = NULL"
	 " RETURNING d",
	 14,
	 {UUIDOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, INT8OID,
	  TIMESTAMPTZOID, BOOLOID, INT4OID, BOOLOID, UUIDOID}};

static wahook_Plan add_plan =
	{"INSERT INTO @extschema@.webhook_dlq AS d (payload, error, error_stack,"
	 " whatsapp_message_id, correlation_id, retry_count, max_retries, next_retry_at,"
	 " resolution_status)"
	 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
	 " ON CONFLICT (whatsapp_message_id) DO UPDATE SET payload = EXCLUDED.payload,"
	 " error = EXCLUDED.error, error_stack = EXCLUDED.error_stack,"
	 " correlation_id = coalesce(EXCLUDED.correlation_id, d.correlation_id),"
	 " retry_count = EXCLUDED.retry_count, next_retry_at = EXCLUDED.next_retry_at,"
	 " resolution_status = EXCLUDED.resolution_status"
	 " RETURNING d",
	 9,
	 {JSONBOID, TEXTOID, TEXTOID, TEXTOID, UUIDOID, INT4OID, INT4OID, TIMESTAMPTZOID, TEXTOID}};

/* The move itself, and what it leaves behind. Returns the entry, in this SPI level's memory. */
static Datum
move(const wahook_Conversation *conversation, const wahook_Waiting *waiting,
	 const wahook_Failure *failure, int max_retries, TimestampTz now, TimestampTz retry_at)
{
	bool started = !TIMESTAMP_NOT_FINITE(failure->started_at);
	bool given_up = TIMESTAMP_NOT_FINITE(retry_at);
	Datum values[] = {UUIDPGetDatum(&conversation->id),
					  Int64GetDatum(waiting->seq),
					  PointerGetDatum(failure->error),
					  PointerGetDatum(failure->error_stack),
					  CStringGetTextDatum(given_up ? "failed" : "pending"),
					  TimestampTzGetDatum(retry_at),
					  TimestampTzGetDatum(now),
					  Int32GetDatum(max_retries),
					  Int64GetDatum(conversation->lock_token),
					  TimestampTzGetDatum(failure->started_at),
					  BoolGetDatum(failure->is_attempt),
					  Int32GetDatum(0),
					  BoolGetDatum(!given_up && wahook_is_strict(waiting->service)),
					  UUIDPGetDatum(&conversation->locked_by)};
	char nulls[] = "              ";
	bool isnull;

	if (failure->error == NULL)
		nulls[2] = 'n';
	if (failure->error_stack == NULL)
		nulls[3] = 'n';
	if (given_up)
		nulls[5] = 'n';
	if (!conversation->locked)
		nulls[13] = 'n';
	if (started)
		values[11] = Int32GetDatum(TimestampDifferenceMilliseconds(failure->started_at, now));
	else
		nulls[9] = nulls[11] = 'n';
	if (wahook_execute_settled(&dead_letter_plan, values, nulls) == 0)
		elog(ERROR, "message " INT64_FORMAT " vanished from its inbox", waiting->seq);
	return wahook_result(0, 1, &isnull);
}

Datum
wahook_dead_letter(const wahook_Conversation *conversation, const wahook_Waiting *waiting,
				   const wahook_Failure *failure)
{
	TimestampTz now = GetCurrentTimestamp();
	int max_retries = wahook_max_retries(waiting->service);
	TimestampTz retry_at = DT_NOEND;
	int64 delay_us = failure->delay_us;
	Datum entry;

	if (wahook_hold_entry(waiting->whatsapp_message_id, &max_retries) == WAHOOK_HOLD_BUSY)
		return 0;
	if (delay_us < 0)
		delay_us = wahook_retry_delay_us(waiting->service, waiting->attempts);
	if (failure->retryable && waiting->attempts < max_retries)
		retry_at = now + delay_us;
	entry = move(conversation, waiting, failure, max_retries, now, retry_at);
	entry = SPI_datumTransfer(entry, false, -1);
	wahook_count(WAHOOK_MESSAGES_FAILED, failure->is_attempt);
	if (waiting->attempts > 0)
		wahook_count(TIMESTAMP_NOT_FINITE(retry_at) ? WAHOOK_RETRIES_FAILED
													: WAHOOK_RETRIES_RESCHEDULED,
					 1);
	else
		wahook_log_entry("WEBHOOK_ADDED_TO_DLQ", true, entry);
	if (TIMESTAMP_NOT_FINITE(retry_at))
		wahook_log_entry("DLQ_MESSAGE_ABANDONED", true, entry);
	return entry;
}

/* Finds the message in the conversation's inbox. Error WH009 when it is not there. */
static wahook_Waiting
find_waiting(const pg_uuid_t *conversation_id, text *message_id)
{
	Datum values[] = {UUIDPGetDatum(conversation_id), PointerGetDatum(message_id)};
	bool known = wahook_execute(&find_plan, values, NULL) > 0;
	bool processed = false;
	bool absent = true;
	bool put_off = false;
	wahook_Waiting waiting = {.whatsapp_message_id = PointerGetDatum(message_id)};
	bool isnull;

	if (known)
	{
		processed = DatumGetBool(wahook_result(0, 1, &isnull));
		waiting.seq = DatumGetInt64(wahook_result(0, 2, &absent));
		put_off = !absent && DatumGetBool(wahook_result(0, 6, &isnull));
	}
	if (absent || put_off)
		ereport(ERROR, (errcode(WAHOOK_UNKNOWN_MESSAGE),
						errmsg("message \"%s\" does not wait in conversation %s",
							   text_to_cstring(message_id), wahook_uuid_text(conversation_id)),
						errdetail("%s", processed ? "It has been processed."
										: put_off ? "It is put off, and has not been claimed."
										: known   ? "It is not in the queue of this conversation."
												  : "There is no record of such a message."),
						errhint("Pass a whatsapp_message_id that the claim returned, once.")));
	waiting.attempts = DatumGetInt32(wahook_result(0, 3, &isnull));
	waiting.losses = DatumGetInt32(wahook_result(0, 4, &isnull));
	waiting.service = wahook_result_text(0, 5);
	return waiting;
}

Datum
wahook_fail_message(const wahook_Conversation *conversation, text *message_id,
					const wahook_Failure *failure)
{
	wahook_Waiting waiting = find_waiting(&conversation->id, message_id);
	Datum entry = wahook_dead_letter(conversation, &waiting, failure);

	if (entry == 0)
		wahook_raise_busy("dead letter of message",
						  psprintf("\"%s\"", text_to_cstring(message_id)));
	return entry;
}

/* fail_webhook_message(uuid, uuid, text, text, text, interval, boolean) → webhook_dlq */
Datum
wahook_fail_webhook_message(PG_FUNCTION_ARGS)
{
	wahook_Failure failure = {.delay_us = -1, .retryable = true, .is_attempt = true};
	wahook_Conversation conversation;
	Datum entry;

	wahook_require_arg(fcinfo, 0, "p_conversation_id", "Pass what the claim returned.");
	wahook_require_arg(fcinfo, 1, "p_lock_id", "Pass what the claim returned.");
	wahook_require_arg(fcinfo, 2, "p_whatsapp_message_id", "Pass what the claim returned.");
	failure.error = PG_ARGISNULL(3) ? NULL : PG_GETARG_TEXT_PP(3);
	failure.error_stack = PG_ARGISNULL(4) ? NULL : PG_GETARG_TEXT_PP(4);
	if (!PG_ARGISNULL(5))
		failure.delay_us = wahook_delay_us(PG_GETARG_INTERVAL_P(5), "p_retry_after");
	if (!PG_ARGISNULL(6))
		failure.retryable = PG_GETARG_BOOL(6);

	wahook_begin(fcinfo);
	wahook_hold_conversation(PG_GETARG_UUID_P(0), PG_GETARG_UUID_P(1), &conversation);
	failure.started_at = conversation.locked_at;
	entry = wahook_fail_message(&conversation, PG_GETARG_TEXT_PP(2), &failure);
	wahook_end();
	PG_RETURN_DATUM(entry);
}

/*
 * webhook_dead_letter_lost(uuid, bigint[]) → integer: for messages whose holders vanished too often;
 * the caller has row-locked the conversation. One whose entry is busy waits for the next time. The
 * lost attempts have been recorded one by one, so no further one is.
 */
Datum
wahook_dead_letter_lost(PG_FUNCTION_ARGS)
{
	wahook_Conversation conversation = {.id = *PG_GETARG_UUID_P(0)};
	Datum values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	wahook_Waiting *lost;
	int found;
	int moved = 0;
	bool isnull;

	wahook_begin(fcinfo);
	found = wahook_execute(&lost_plan, values, NULL);
	lost = palloc(found * sizeof(wahook_Waiting));
	for (int i = 0; i < found; i++)
	{
		lost[i].seq = DatumGetInt64(wahook_result(i, 1, &isnull));
		lost[i].whatsapp_message_id =
			PointerGetDatum(DatumGetTextPCopy(wahook_result(i, 2, &isnull)));
		lost[i].attempts = DatumGetInt32(wahook_result(i, 3, &isnull));
		lost[i].losses = DatumGetInt32(wahook_result(i, 4, &isnull));
		lost[i].service = wahook_result_text(i, 5);
	}
	for (int i = 0; i < found; i++)
	{
		wahook_Failure failure = {.retryable = true, .delay_us = -1, .started_at = DT_NOBEGIN};

		failure.error = cstring_to_text(
			lost[i].losses == 1 ? "the holder vanished"
								: psprintf("the holder vanished %d times", lost[i].losses));
		if (wahook_dead_letter(&conversation, &lost[i], &failure) != 0)
			moved++;
	}
	wahook_end();
	PG_RETURN_INT32(moved);
}

static wahook_Plan service_plan =
	{"SELECT service FROM @extschema@.processed_webhook_messages WHERE whatsapp_message_id = $1",
	 1,
	 {TEXTOID}};

/* Of a message that was received here; whose retries and delays count. */
static const char *
service_of(FunctionCallInfo fcinfo)
{
	Datum message_id = PG_GETARG_DATUM(3);

	if (PG_ARGISNULL(3) || wahook_execute(&service_plan, &message_id, NULL) == 0)
		return "default";
	return wahook_result_text(0, 1);
}

static void
check_new_entry(FunctionCallInfo fcinfo, int retry_count)
{
	wahook_require_arg(fcinfo, 0, "p_payload", "Pass what is needed to process the message again.");
	if (retry_count < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("p_retry_count must not be negative"), errdetail("It is %d.", retry_count),
				 errhint("Pass how many retries have failed so far: 0 before the first one.")));
	if (!PG_ARGISNULL(3) && VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(3)) > WAHOOK_MAX_MESSAGE_ID_LENGTH)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("p_whatsapp_message_id is too long"),
						errdetail("It has %zu bytes; a message id has at most %d.",
								  (size_t) VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(3)),
								  WAHOOK_MAX_MESSAGE_ID_LENGTH),
						errhint("Pass the id of the message as it was delivered.")));
}

/* add_to_dead_letter_queue(jsonb, text, text, text, uuid, integer, interval) → uuid */
Datum
wahook_add_to_dead_letter_queue(PG_FUNCTION_ARGS)
{
	int retry_count = PG_ARGISNULL(5) ? 0 : PG_GETARG_INT32(5);
	int64 delay_us = -1;
	const char *service;
	int max_retries;
	Datum values[9];
	char nulls[] = "         ";
	Datum entry;
	Datum id;
	bool isnull;

	check_new_entry(fcinfo, retry_count);
	if (!PG_ARGISNULL(6))
		delay_us = wahook_delay_us(PG_GETARG_INTERVAL_P(6), "p_delay");
	for (int i = 0; i < 5; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}

	wahook_begin(fcinfo);
	service = service_of(fcinfo);
	max_retries = wahook_max_retries(service);
	if (delay_us < 0)
		delay_us = wahook_retry_delay_us(service, retry_count);
	values[5] = Int32GetDatum(retry_count);
	values[6] = Int32GetDatum(max_retries);
	values[7] = TimestampTzGetDatum(GetCurrentTimestamp() + delay_us);
	values[8] = CStringGetTextDatum(retry_count >= max_retries ? "failed" : "pending");
	wahook_execute(&add_plan, values, nulls);
	entry = wahook_result(0, 1, &isnull);
	wahook_log_entry("WEBHOOK_ADDED_TO_DLQ", true, entry);
	if (retry_count >= max_retries)
		wahook_log_entry("DLQ_MESSAGE_ABANDONED", true, entry);
	id = GetAttributeByNum(DatumGetHeapTupleHeader(entry), Anum_dlq_id, &isnull);
	id = SPI_datumTransfer(id, false, UUID_LEN);
	wahook_end();
	PG_RETURN_DATUM(id);
}
