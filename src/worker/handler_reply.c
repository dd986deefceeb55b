/*
 * Giving replies of agents to the handlers of their services, in handler processes: what the agent
 * remembers, what the handler writes, and the completion of the messages are one transaction. A
 * handler that fails has its messages dead-lettered as any other, and the turn is none; when they are
 * retried the model is asked again.
 */
#include "worker/handler_reply.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "core/plan.h"
#include "core/wake.h"
#include "retry/circuit.h"

/* A CTE, which is read once: a subquery would be for each row that it is joined with, and take them all. */
static wahook_Plan take_plan =
	{"WITH due AS (SELECT conversation_id FROM @extschema@.webhook_agent_replies"
	 " WHERE service = $1 AND lock_id IS NOT NULL AND (taken_until IS NULL OR taken_until <= $3)"
	 " ORDER BY taken_until NULLS FIRST, answered_at LIMIT 1 FOR UPDATE SKIP LOCKED)"
	 " UPDATE @extschema@.webhook_agent_replies r SET taken_until = $2 FROM due"
	 " WHERE r.conversation_id = due.conversation_id AND r.service = $1"
	 " RETURNING r.conversation_id, r.lock_id",
	 3,
	 {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID}};

static wahook_Plan leave_plan =
	{"UPDATE @extschema@.webhook_agent_replies SET lock_id = NULL, taken_until = NULL"
	 " WHERE conversation_id = $1 AND service = $2",
	 2,
	 {UUIDOID, TEXTOID}};

static wahook_Plan reply_plan =
	{"SELECT agent_type, whatsapp_message_ids, details, calls, prompt_tokens, completion_tokens,"
	 " started_at, reply FROM @extschema@.webhook_agent_replies"
	 " WHERE conversation_id = $1 AND service = $2 AND lock_id = $3",
	 3,
	 {UUIDOID, TEXTOID, UUIDOID}};

static wahook_Plan delete_plan =
	{"DELETE FROM @extschema@.webhook_agent_replies WHERE conversation_id = $1 AND service = $2",
	 2,
	 {UUIDOID, TEXTOID}};

static wahook_Plan save_plan =
	{"SELECT @extschema@.webhook_agent_save($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
	 11,
	 {UUIDOID, UUIDOID, TEXTOID, JSONBOID, TEXTARRAYOID, TEXTOID, JSONBOID, INT4OID, INT4OID,
	  INT4OID, INT4OID}};

static wahook_Plan failed_plan =
	{"SELECT @extschema@.webhook_agent_failed($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
	 11,
	 {UUIDOID, UUIDOID, TEXTOID, JSONBOID, TEXTARRAYOID, TEXTOID, JSONBOID, INT4OID, INT4OID,
	  INT4OID, INT4OID}};

/* What the handler gets; saved is what saving the turn returned. */
static wahook_Plan message_plan =
	{"SELECT r.details - 'estimated' || jsonb_build_object('conversation_id', c.id, 'service',"
	 " r.service, 'agent_type', r.agent_type, 'reply', r.reply, 'messages', $3, 'usage',"
	 " jsonb_build_object('prompt_tokens', r.prompt_tokens, 'completion_tokens',"
	 " r.completion_tokens, 'estimated', r.details -> 'estimated'), 'calls', r.calls,"
	 " 'correlation_id', $3 -> 0 -> 'correlation_id', 'user_id', c.user_id, 'whatsapp_phone',"
	 " c.whatsapp_phone, 'session_id', $4 -> 'session_id', 'lock_token', c.lock_token,"
	 " 'conversation_context', c.conversation_context)"
	 " FROM @extschema@.webhook_agent_replies r"
	 " JOIN @extschema@.webhook_conversations c ON c.id = r.conversation_id"
	 " WHERE r.conversation_id = $1 AND r.service = $2",
	 4,
	 {UUIDOID, TEXTOID, JSONBOID, JSONBOID}};

/* A row of webhook_agent_replies. */
typedef struct Reply
{
	Datum agent_type;
	ArrayType *message_ids;
	Datum details;
	int calls;
	int prompt_tokens;
	int completion_tokens;
	TimestampTz started_at;
	Datum reply;
} Reply;

bool
wahook_take_reply(const char *service, TimestampTz until, pg_uuid_t *conversation_id,
				  pg_uuid_t *lock_id)
{
	Datum values[] = {CStringGetTextDatum(service), TimestampTzGetDatum(until),
					  TimestampTzGetDatum(GetCurrentTimestamp())};
	bool isnull;

	if (wahook_execute(&take_plan, values, NULL) == 0)
		return false;
	*conversation_id = *DatumGetUUIDP(wahook_result(0, 1, &isnull));
	*lock_id = *DatumGetUUIDP(wahook_result(0, 2, &isnull));
	return true;
}

static void
change(wahook_Plan *plan, const pg_uuid_t *conversation_id, const char *service)
{
	Datum values[] = {UUIDPGetDatum(conversation_id), CStringGetTextDatum(service)};

	wahook_execute(plan, values, NULL);
	wahook_note_work(WAHOOK_WORK_REPLIED);
}

void
wahook_leave_reply(const pg_uuid_t *conversation_id, const char *service)
{
	change(&leave_plan, conversation_id, service);
}

static bool
read_reply(const wahook_Conversation *conversation, const char *service, Reply *reply)
{
	Datum values[] = {UUIDPGetDatum(&conversation->id), CStringGetTextDatum(service),
					  UUIDPGetDatum(&conversation->locked_by)};
	bool isnull;

	if (wahook_execute(&reply_plan, values, NULL) == 0)
		return false;
	reply->agent_type = wahook_result(0, 1, &isnull);
	reply->message_ids = DatumGetArrayTypeP(wahook_result(0, 2, &isnull));
	reply->details = wahook_result(0, 3, &isnull);
	reply->calls = DatumGetInt32(wahook_result(0, 4, &isnull));
	reply->prompt_tokens = DatumGetInt32(wahook_result(0, 5, &isnull));
	reply->completion_tokens = DatumGetInt32(wahook_result(0, 6, &isnull));
	reply->started_at = DatumGetTimestampTz(wahook_result(0, 7, &isnull));
	reply->reply = wahook_result(0, 8, &isnull);
	return true;
}

static int
duration_ms(const Reply *reply)
{
	return (int) Min(TimestampDifferenceMilliseconds(reply->started_at, GetCurrentTimestamp()),
					 PG_INT32_MAX);
}

static bool
answers(const Reply *reply, Datum message_id)
{
	text *id = DatumGetTextPP(message_id);
	Datum *ids;
	int n;

	deconstruct_array(reply->message_ids, TEXTOID, -1, false, TYPALIGN_INT, &ids, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		text *other = DatumGetTextPP(ids[i]);

		if (VARSIZE_ANY_EXHDR(id) == VARSIZE_ANY_EXHDR(other) &&
			memcmp(VARDATA_ANY(id), VARDATA_ANY(other), VARSIZE_ANY_EXHDR(id)) == 0)
			return true;
	}
	return false;
}

/* Those of the claim's messages that the reply answers, and that are still there. */
static int
read_tasks(const wahook_Conversation *conversation, const Reply *reply, wahook_Task **tasks)
{
	int all = conversation->claimed == NULL
				  ? 0
				  : wahook_read_tasks(conversation, conversation->claimed, PG_INT32_MAX, tasks);
	int n = 0;

	for (int i = 0; i < all; i++)
		if ((*tasks)[i].message != 0 && answers(reply, (*tasks)[i].waiting.whatsapp_message_id))
			(*tasks)[n++] = (*tasks)[i];
	return n;
}

/* --- the turn and its handler --- */

static Datum
save_turn(const wahook_Conversation *conversation, const Reply *reply, Datum messages)
{
	Datum values[] = {UUIDPGetDatum(&conversation->id),
					  UUIDPGetDatum(&conversation->locked_by),
					  reply->agent_type,
					  messages,
					  PointerGetDatum(reply->message_ids),
					  reply->reply,
					  reply->details,
					  Int32GetDatum(reply->calls),
					  Int32GetDatum(reply->prompt_tokens),
					  Int32GetDatum(reply->completion_tokens),
					  Int32GetDatum(duration_ms(reply))};
	bool isnull;

	wahook_execute(&save_plan, values, NULL);
	return wahook_result(0, 1, &isnull);
}

static bool
save_and_run(const wahook_Conversation *conversation, const wahook_Handler *handler,
			 const Reply *reply, Datum messages, wahook_Failure *failure)
{
	Datum values[] = {UUIDPGetDatum(&conversation->id), CStringGetTextDatum(handler->service),
					  messages, save_turn(conversation, reply, messages)};
	bool isnull;

	wahook_execute(&message_plan, values, NULL);
	return wahook_run_handler(handler, wahook_result(0, 1, &isnull), failure);
}

/* In a subtransaction: where the handler fails, the turn is not remembered. */
static bool
run_handler(const wahook_Conversation *conversation, const wahook_Handler *handler,
			const Reply *reply, Datum messages, wahook_Failure *failure)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	bool done;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	done = save_and_run(conversation, handler, reply, messages, failure);
	if (done)
		ReleaseCurrentSubTransaction();
	else
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return done;
}

static wahook_Outcome
fail(const wahook_Conversation *conversation, const wahook_Handler *handler, const Reply *reply,
	 const wahook_Task *tasks, int n, const wahook_Failure *failure)
{
	Datum values[] = {UUIDPGetDatum(&conversation->id),
					  UUIDPGetDatum(&conversation->locked_by),
					  reply->agent_type,
					  wahook_task_messages(tasks, n),
					  PointerGetDatum(reply->message_ids),
					  PointerGetDatum(failure->error),
					  reply->details,
					  Int32GetDatum(reply->calls),
					  Int32GetDatum(reply->prompt_tokens),
					  Int32GetDatum(reply->completion_tokens),
					  Int32GetDatum(duration_ms(reply))};
	wahook_Outcome outcome = wahook_attempt_failed(conversation, handler, tasks, n, failure);

	if (outcome == WAHOOK_BUSY)
		return outcome;
	wahook_execute(&failed_plan, values, NULL);
	change(&delete_plan, &conversation->id, handler->service);
	return outcome;
}

wahook_Outcome
wahook_fail_reply(const wahook_Conversation *conversation, const wahook_Handler *handler,
				  const wahook_Failure *failure)
{
	Reply reply;
	wahook_Task *tasks;
	int n;

	if (!read_reply(conversation, handler->service, &reply))
		return WAHOOK_SUCCEEDED;
	n = read_tasks(conversation, &reply, &tasks);
	return fail(conversation, handler, &reply, tasks, n, failure);
}

static void
report(const wahook_Handler *handler)
{
	(void) wahook_circuit_report(wahook_service_circuit(handler->service), true,
								 handler->circuit_threshold, handler->circuit_timeout_us);
}

wahook_Outcome
wahook_give_reply(const wahook_Conversation *conversation, const wahook_Handler *handler)
{
	wahook_Failure failure;
	Reply reply;
	wahook_Task *tasks;
	int n;

	if (!read_reply(conversation, handler->service, &reply))
		return WAHOOK_SUCCEEDED;
	n = read_tasks(conversation, &reply, &tasks);
	if (n > 0 && !wahook_circuit_admit(wahook_service_circuit(handler->service)).admitted)
		return WAHOOK_REFUSED;
	if (n > 0 &&
		!run_handler(conversation, handler, &reply, wahook_task_messages(tasks, n), &failure))
		return fail(conversation, handler, &reply, tasks, n, &failure);
	if (n > 0)
	{
		wahook_complete_tasks(conversation, tasks, n, duration_ms(&reply));
		report(handler);
	}
	change(&delete_plan, &conversation->id, handler->service);
	return WAHOOK_SUCCEEDED;
}
