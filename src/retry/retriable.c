/*
 * Retries outside a conversation's queue: entries that are taken and answered one by one.
 *
 * Callers of the first generation take due entries with get_retriable_messages(), which leaves a
 * retry lease on each, and answer with mark_message_processed(). When the lease runs out without an
 * answer, that was a failed retry, and the entry is due again.
 */
#include "retry/retriable.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/args.h"
#include "core/compat.h"
#include "core/counters.h"
#include "core/errors.h"
#include "core/plan.h"
#include "retry/backoff.h"
#include "retry/entry.h"

PG_FUNCTION_INFO_V1(wahook_mark_message_processed);
PG_FUNCTION_INFO_V1(wahook_end_retry_leases_sql);

#define UUID_PATTERN "'^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'"

static wahook_Plan lock_plan =
	{"SELECT d.id, d.resolution_status, d.retry_count, d.max_retries FROM @extschema@.webhook_dlq d"
	 " WHERE d.id = coalesce("
	 "(SELECT id FROM @extschema@.webhook_dlq WHERE whatsapp_message_id = $1),"
	 " CASE WHEN $1 ~* " UUID_PATTERN " THEN $1::uuid END)"
	 " FOR NO KEY UPDATE NOWAIT",
	 1,
	 {TEXTOID}};

/* The first attempt is the one that made it a dead letter. */
static wahook_Plan end_plan =
	{"WITH recorded AS ("
	 "INSERT INTO @extschema@.webhook_attempts (message_id, attempt, outcome,"
	 " conversation_id, service, started_at, finished_at, duration_ms, error,"
	 " error_stack)"
	 " SELECT coalesce(m.id, d.id), d.retry_count + 2, $2, d.conversation_id, d.service, $8, $7,"
	 " $10, $5, $6"
	 " FROM @extschema@.webhook_dlq d LEFT JOIN @extschema@.processed_webhook_messages m"
	 " ON m.whatsapp_message_id = d.whatsapp_message_id WHERE d.id = $1)"
	 " UPDATE @extschema@.webhook_dlq AS d SET resolution_status = $3, retry_count = $4,"
	 " error = coalesce($5, d.error), error_stack = CASE WHEN $5 IS NULL THEN d.error_stack ELSE $6 END,"
	 " next_retry_at = $9, updated_at = $7 WHERE d.id = $1 RETURNING d",
	 10,
	 {UUIDOID, TEXTOID, TEXTOID, INT4OID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
	  TIMESTAMPTZOID, INT4OID}};

static wahook_Plan vanished_plan =
	{"WITH vanished AS ("
	 "SELECT d.id, d.retry_count, d.conversation_id, d.service, m.id AS message_id"
	 " FROM @extschema@.webhook_dlq d LEFT JOIN @extschema@.processed_webhook_messages m"
	 " ON m.whatsapp_message_id = d.whatsapp_message_id"
	 " WHERE d.resolution_status = 'retrying' AND d.retry_lease_until <= $1"
	 " FOR NO KEY UPDATE OF d SKIP LOCKED"
	 "), recorded AS ("
	 "INSERT INTO @extschema@.webhook_attempts (message_id, attempt, outcome,"
	 " conversation_id, service, finished_at)"
	 " SELECT coalesce(message_id, id), retry_count + 2, 'lost', conversation_id, service, $1"
	 " FROM vanished)"
	 " UPDATE @extschema@.webhook_dlq AS d SET retry_count = d.retry_count + 1,"
	 " resolution_status = CASE WHEN d.retry_count + 1 < d.max_retries THEN 'pending' ELSE 'failed' END,"
	 " next_retry_at = $1, updated_at = $1 FROM vanished WHERE d.id = vanished.id RETURNING d",
	 1,
	 {TIMESTAMPTZOID}};

static wahook_Plan service_plan = {"SELECT service FROM @extschema@.webhook_dlq WHERE id = $1",
								   1,
								   {UUIDOID}};

bool
wahook_entry_has_status(Datum entry, const char *status)
{
	bool isnull;
	Datum value =
		GetAttributeByNum(DatumGetHeapTupleHeader(entry), Anum_dlq_resolution_status, &isnull);

	return !isnull && strcmp(TextDatumGetCString(value), status) == 0;
}

static const char *
service_of(const pg_uuid_t *id)
{
	Datum value = UUIDPGetDatum(id);

	return wahook_execute(&service_plan, &value, NULL) > 0 ? wahook_result_text(0, 1) : NULL;
}

/* delay_us: until the next retry; -1 where there is none. */
static Datum
end_retry(const pg_uuid_t *id, const char *outcome, const char *status, int retry_count,
		  const wahook_Failure *failure, int64 delay_us)
{
	TimestampTz now = GetCurrentTimestamp();
	Datum values[] = {UUIDPGetDatum(id),
					  CStringGetTextDatum(outcome),
					  CStringGetTextDatum(status),
					  Int32GetDatum(retry_count),
					  PointerGetDatum(failure ? failure->error : NULL),
					  PointerGetDatum(failure ? failure->error_stack : NULL),
					  TimestampTzGetDatum(now),
					  0,
					  0,
					  0};
	char nulls[] = "       nnn";
	bool isnull;

	for (int i = 4; i <= 5; i++)
		if (DatumGetPointer(values[i]) == NULL)
			nulls[i] = 'n';
	if (failure != NULL && !TIMESTAMP_NOT_FINITE(failure->started_at))
	{
		values[7] = TimestampTzGetDatum(failure->started_at);
		values[9] = Int32GetDatum(TimestampDifferenceMilliseconds(failure->started_at, now));
		nulls[7] = nulls[9] = ' ';
	}
	if (delay_us >= 0)
	{
		values[8] = TimestampTzGetDatum(now + delay_us);
		nulls[8] = ' ';
	}
	if (wahook_execute(&end_plan, values, nulls) == 0)
		return 0;
	return wahook_result(0, 1, &isnull);
}

/* Ends a retry for good. */
static Datum
close_entry(const pg_uuid_t *id, bool success, int retry_count, const wahook_Failure *failure)
{
	Datum entry = end_retry(id, success ? "succeeded" : "failed", success ? "resolved" : "failed",
							retry_count, failure, -1);

	if (entry != 0)
		wahook_log_entry(success ? "DLQ_MESSAGE_PROCESSED" : "DLQ_MESSAGE_ABANDONED", !success,
						 entry);
	return entry;
}

Datum
wahook_end_retry(const pg_uuid_t *id, int retry_count, int max_retries,
				 const wahook_Failure *failure)
{
	wahook_Counter result = WAHOOK_RETRIES_RESCHEDULED;
	Datum entry;

	if (failure == NULL)
		result = WAHOOK_RETRIES_RESOLVED;
	else if (!failure->retryable || retry_count + 1 >= max_retries)
		result = WAHOOK_RETRIES_FAILED;

	if (result == WAHOOK_RETRIES_RESCHEDULED)
		entry = end_retry(id, "failed", "pending", retry_count + 1, failure,
						  failure->delay_us >= 0
							  ? failure->delay_us
							  : wahook_retry_delay_us(service_of(id), retry_count + 1));
	else
		entry = close_entry(id, failure == NULL, retry_count + (failure != NULL), failure);
	if (entry != 0)
	{
		wahook_count(result, 1);
		wahook_count(WAHOOK_MESSAGES_FAILED, failure != NULL);
	}
	return entry;
}

void
wahook_end_retry_leases(void)
{
	Datum now = TimestampTzGetDatum(GetCurrentTimestamp());
	uint64 vanished = wahook_execute(&vanished_plan, &now, NULL);
	bool isnull;

	for (uint64 i = 0; i < vanished; i++)
	{
		Datum entry = wahook_result(i, 1, &isnull);
		bool final = wahook_entry_has_status(entry, "failed");

		wahook_count(WAHOOK_MESSAGES_FAILED, 1);
		wahook_count(final ? WAHOOK_RETRIES_FAILED : WAHOOK_RETRIES_RESCHEDULED, 1);
		if (final)
			wahook_log_entry("DLQ_MESSAGE_ABANDONED", true, entry);
	}
}

/* webhook_end_retry_leases() → void */
Datum
wahook_end_retry_leases_sql(PG_FUNCTION_ARGS)
{
	wahook_begin(fcinfo);
	wahook_end_retry_leases();
	wahook_end();
	PG_RETURN_VOID();
}

/*
 * mark_message_processed(text, boolean, text) → text: the new resolution_status. An entry that is
 * resolved or given up stays so when a retrier that was slow reports another failure.
 */
Datum
wahook_mark_message_processed(PG_FUNCTION_ARGS)
{
	wahook_Failure failure = {.started_at = DT_NOBEGIN, .retryable = true, .delay_us = -1};
	pg_uuid_t id;
	char *status;
	bool success;
	bool isnull;
	text *result;

	wahook_require_arg(fcinfo, 0, "p_message_id",
					   "Pass a whatsapp_message_id or the id of a dead letter.");
	wahook_require_arg(fcinfo, 1, "p_success", "Pass true or false.");
	success = PG_GETARG_BOOL(1);
	if (!PG_ARGISNULL(2))
		failure.error = PG_GETARG_TEXT_PP(2);

	wahook_begin(fcinfo);
	if (wahook_execute(&lock_plan, &fcinfo->args[0].value, NULL) == 0)
		ereport(ERROR,
				(errcode(WAHOOK_UNKNOWN_MESSAGE),
				 errmsg("there is no dead letter \"%s\"", text_to_cstring(PG_GETARG_TEXT_PP(0))),
				 errdetail(
					 "It is neither the whatsapp_message_id nor the id of an entry of webhook_dlq."),
				 errhint("Pass a whatsapp_message_id or the id of a dead letter.")));
	id = *DatumGetUUIDP(wahook_result(0, 1, &isnull));
	status = wahook_result_text(0, 2);
	if (strcmp(status, "resolved") != 0 && (success || strcmp(status, "failed") != 0))
	{
		Datum entry = wahook_end_retry(&id, DatumGetInt32(wahook_result(0, 3, &isnull)),
									   DatumGetInt32(wahook_result(0, 4, &isnull)),
									   success ? NULL : &failure);

		status = wahook_entry_has_status(entry, "resolved") ? "resolved"
				 : wahook_entry_has_status(entry, "failed") ? "failed"
															: "pending";
	}
	result = (text *) DatumGetPointer(SPI_datumTransfer(CStringGetTextDatum(status), false, -1));
	wahook_end();
	PG_RETURN_TEXT_P(result);
}
