/*
 * Attempts at messages by SQL handlers, for the dead letter job and for handler processes.
 *
 * Every attempt asks the circuit of its service and reports to it. What an open circuit refuses is
 * not touched: no retry is spent on it.
 */
#include "retry/attempt.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "conversation/complete.h"
#include "core/plan.h"
#include "retry/circuit.h"

/* A message whose record was deleted by hand has nothing to be run with, and a null here. */
#define TASKS(condition) \
	"SELECT i.seq, i.attempts, i.losses, m.whatsapp_message_id, i.service," \
	" @extschema@.webhook_message_json(m, i.attempts + i.losses + 1)" \
	" || jsonb_build_object('conversation_id', $1, 'service', i.service, 'lock_token', $3)" \
	" FROM @extschema@.webhook_inbox i" \
	" LEFT JOIN @extschema@.processed_webhook_messages m ON m.id = i.message_id" \
	" WHERE i.conversation_id = $1 AND " condition " ORDER BY i.seq LIMIT $4"

static wahook_Plan tasks_plan = {TASKS("i.seq = ANY ($2)"),
								 4,
								 {UUIDOID, INT8ARRAYOID, INT8OID, INT8OID}};

static wahook_Plan tasks_of_plan = {TASKS("i.message_id = ANY ($2)"),
									4,
									{UUIDOID, UUIDARRAYOID, INT8OID, INT8OID}};

/* What an endpoint is sent, but for the lock id: a handler has no use for it. */
static wahook_Plan burst_plan =
	{"SELECT jsonb_build_object('conversation_id', c.id, 'service', $3::text, 'lock_token', $4::bigint,"
	 " 'user_id', c.user_id, 'whatsapp_phone', c.whatsapp_phone, 'agent_type', c.agent_type,"
	 " 'conversation_context', c.conversation_context, 'messages', $2::jsonb)"
	 " FROM @extschema@.webhook_conversations c WHERE c.id = $1",
	 4,
	 {UUIDOID, JSONBOID, TEXTOID, INT8OID}};

static wahook_Plan direct_plan =
	{"SELECT CASE jsonb_typeof(payload) WHEN 'object' THEN payload"
	 " ELSE jsonb_build_object('message', payload) END"
	 " || jsonb_build_object('whatsapp_message_id', whatsapp_message_id, 'attempt', retry_count + 2,"
	 " 'received_at', created_at, 'kind', NULL, 'correlation_id', correlation_id,"
	 " 'conversation_id', conversation_id, 'service', service, 'lock_token', NULL)"
	 " FROM @extschema@.webhook_dlq WHERE id = $1",
	 1,
	 {UUIDOID}};

static int
read_tasks(wahook_Plan *plan, const wahook_Conversation *conversation, Datum which, int max,
		   wahook_Task **tasks)
{
	Datum values[] = {UUIDPGetDatum(&conversation->id), which,
					  Int64GetDatum(conversation->lock_token), Int64GetDatum(max)};
	int n = wahook_execute(plan, values, NULL);

	*tasks = palloc0(Max(n, 1) * sizeof(wahook_Task));
	for (int i = 0; i < n; i++)
	{
		wahook_Task *task = &(*tasks)[i];
		bool isnull;
		bool deleted;
		Datum message_id = wahook_result(i, 4, &deleted);

		task->waiting = (wahook_Waiting){.seq = DatumGetInt64(wahook_result(i, 1, &isnull)),
										 .attempts = DatumGetInt32(wahook_result(i, 2, &isnull)),
										 .losses = DatumGetInt32(wahook_result(i, 3, &isnull)),
										 .whatsapp_message_id = message_id,
										 .service = wahook_result_text(i, 5)};
		task->message = deleted ? (Datum) 0 : wahook_result(i, 6, &isnull);
	}
	return n;
}

int
wahook_read_tasks(const wahook_Conversation *conversation, ArrayType *seqs, int max,
				  wahook_Task **tasks)
{
	return read_tasks(&tasks_plan, conversation, PointerGetDatum(seqs), max, tasks);
}

int
wahook_read_tasks_of(const wahook_Conversation *conversation, Datum message_ids,
					 wahook_Task **tasks)
{
	return read_tasks(&tasks_of_plan, conversation, message_ids, PG_INT32_MAX, tasks);
}

Datum
wahook_task_messages(const wahook_Task *tasks, int n)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
	{
		JsonbValue message;
		Jsonb *json;

		if (tasks[i].message == 0)
			continue;
		json = DatumGetJsonbP(tasks[i].message);
		message.type = jbvBinary;
		message.val.binary.data = &json->root;
		message.val.binary.len = VARSIZE_ANY_EXHDR(json);
		pushJsonbValue(&state, WJB_ELEM, &message);
	}
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
}

static Datum
burst_of(const wahook_Conversation *conversation, const wahook_Task *tasks, int n)
{
	Datum values[] = {UUIDPGetDatum(&conversation->id), wahook_task_messages(tasks, n),
					  CStringGetTextDatum(tasks[0].waiting.service),
					  Int64GetDatum(conversation->lock_token)};
	bool isnull;

	if (wahook_execute(&burst_plan, values, NULL) == 0)
		elog(ERROR, "conversation vanished although it is locked");
	return wahook_result(0, 1, &isnull);
}

void
wahook_complete_tasks(const wahook_Conversation *conversation, const wahook_Task *tasks, int n,
					  int ms)
{
	Datum *seqs = palloc(n * sizeof(Datum));

	for (int i = 0; i < n; i++)
		seqs[i] = Int64GetDatum(tasks[i].waiting.seq);
	wahook_complete_messages(conversation,
							 construct_array(seqs, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
											 TYPALIGN_DOUBLE),
							 ms);
}

static void
report(const wahook_Handler *handler, bool ok)
{
	(void) wahook_circuit_report(wahook_service_circuit(handler->service), ok,
								 handler->circuit_threshold, handler->circuit_timeout_us);
}

static bool
is_refused(const wahook_Handler *handler)
{
	return !wahook_circuit_admit(wahook_service_circuit(handler->service)).admitted;
}

static int
elapsed_ms(TimestampTz since)
{
	return (int) TimestampDifferenceMilliseconds(since, GetCurrentTimestamp());
}

wahook_Outcome
wahook_attempt_failed(const wahook_Conversation *conversation, const wahook_Handler *handler,
					  const wahook_Task *tasks, int n, const wahook_Failure *failure)
{
	wahook_Outcome outcome = WAHOOK_GIVEN_UP;

	for (int i = 0; i < n; i++)
	{
		Datum entry;

		if (tasks[i].message == 0)
		{
			wahook_complete_tasks(conversation, &tasks[i], 1, 0);
			continue;
		}
		entry = wahook_dead_letter(conversation, &tasks[i].waiting, failure);
		if (entry == 0)
			return WAHOOK_BUSY;
		if (!wahook_entry_has_status(entry, "failed"))
			outcome = WAHOOK_FAILED;
	}
	report(handler, false);
	return outcome;
}

wahook_Outcome
wahook_attempt(const wahook_Conversation *conversation, const wahook_Handler *handler,
			   const wahook_Task *tasks, int n, wahook_Failure *failure)
{
	TimestampTz started_at = GetCurrentTimestamp();

	if (!handler->bursts && tasks[0].message == 0)
	{
		wahook_complete_tasks(conversation, tasks, n, 0);
		return WAHOOK_SUCCEEDED;
	}
	if (is_refused(handler))
		return WAHOOK_REFUSED;
	if (!wahook_run_handler(handler,
							handler->bursts ? burst_of(conversation, tasks, n) : tasks[0].message,
							failure))
		return wahook_attempt_failed(conversation, handler, tasks, n, failure);
	wahook_complete_tasks(conversation, tasks, n, elapsed_ms(started_at));
	report(handler, true);
	return WAHOOK_SUCCEEDED;
}

/* The handler may have deleted the entry: what it has dealt with is no failure. */
wahook_Outcome
wahook_attempt_direct_failed(const wahook_Direct *entry, const wahook_Handler *handler,
							 const wahook_Failure *failure)
{
	Datum ended;

	report(handler, false);
	ended = wahook_end_retry(&entry->id, entry->retry_count, entry->max_retries, failure);
	return ended != 0 && wahook_entry_has_status(ended, "failed") ? WAHOOK_GIVEN_UP : WAHOOK_FAILED;
}

wahook_Outcome
wahook_attempt_direct(const wahook_Direct *entry, const wahook_Handler *handler,
					  wahook_Failure *failure)
{
	Datum id = UUIDPGetDatum(&entry->id);
	bool isnull;

	if (is_refused(handler) || wahook_execute(&direct_plan, &id, NULL) == 0)
		return WAHOOK_REFUSED;
	if (!wahook_run_handler(handler, wahook_result(0, 1, &isnull), failure))
		return wahook_attempt_direct_failed(entry, handler, failure);
	report(handler, true);
	(void) wahook_end_retry(&entry->id, entry->retry_count, entry->max_retries, NULL);
	return WAHOOK_SUCCEEDED;
}
