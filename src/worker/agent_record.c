/*
 * The tasks of turns, in the tables: all that are to be done at a time are in one transaction, each in
 * a subtransaction, so that one that fails does not stop the others. Only who holds the lease changes
 * anything about the messages. A task changes nothing of its turn but its result, so that it can be
 * done again where the transaction failed.
 *
 * A reply is recorded for the service's handler, which a process of its own runs (handler_reply.c):
 * a handler may be slow, or hang. Without a handler there is nothing to wait for, and the turn is
 * saved and completed here.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "conversation/lock.h"
#include "core/counters.h"
#include "core/errors.h"
#include "core/event.h"
#include "core/plan.h"
#include "core/wake.h"
#include "retry/circuit.h"
#include "retry/dead_letter.h"
#include "worker/agent_turn.h"
#include "worker/requests.h"
#include "worker/worker.h"

static wahook_Plan complete_plan =
	{"SELECT @extschema@.complete_webhook_messages($1, $2, $3, $4, true)",
	 4,
	 {UUIDOID, UUIDOID, TEXTARRAYOID, INT4OID}};

static wahook_Plan estimate_plan = {"SELECT @extschema@.estimate_tokens($1)", 1, {TEXTOID}};

/* Who has been erased since has no name any more. */
static wahook_Plan spend_plan =
	{"SELECT @extschema@.webhook_agent_spend($1, CASE WHEN EXISTS (SELECT"
	 " FROM @extschema@.webhook_conversations WHERE id = $4) THEN $2 END, $3)",
	 4,
	 {TEXTOID, TEXTOID, INT4OID, UUIDOID}};

static wahook_Plan reply_plan =
	{"INSERT INTO @extschema@.webhook_agent_replies (conversation_id, service, agent_type, lock_id,"
	 " whatsapp_message_ids, reply, details, calls, prompt_tokens, completion_tokens, started_at)"
	 " VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb || jsonb_build_object('finish_reason', $8,"
	 " 'estimated', $9), $10, $11, $12, $13) ON CONFLICT (conversation_id, service) DO UPDATE"
	 " SET agent_type = excluded.agent_type, lock_id = excluded.lock_id,"
	 " whatsapp_message_ids = excluded.whatsapp_message_ids, reply = excluded.reply,"
	 " details = excluded.details, calls = excluded.calls,"
	 " prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens,"
	 " started_at = excluded.started_at, answered_at = clock_timestamp(), taken_until = NULL",
	 13,
	 {UUIDOID, TEXTOID, TEXTOID, UUIDOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID, BOOLOID, INT4OID,
	  INT4OID, INT4OID, TIMESTAMPTZOID}};

static wahook_Plan save_plan =
	{"SELECT @extschema@.webhook_agent_save($1, $2, $3, $4::jsonb, $5, $6, $7::jsonb, $8, $9, $10, $11)",
	 11,
	 {UUIDOID, UUIDOID, TEXTOID, TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, INT4OID, INT4OID, INT4OID,
	  INT4OID}};

static wahook_Plan failed_plan =
	{"SELECT @extschema@.webhook_agent_failed($1, $2, $3, $4::jsonb, $5, $6, '{}'::jsonb, $7, 0, 0, $8)",
	 8,
	 {UUIDOID, UUIDOID, TEXTOID, TEXTOID, TEXTARRAYOID, TEXTOID, INT4OID, INT4OID}};

static const char *
asked_first(const wahook_Turn *turn)
{
	return turn->service.chain[0];
}

static Datum
text_or_null(const char *value, char *null)
{
	*null = value ? ' ' : 'n';
	return value ? CStringGetTextDatum(value) : (Datum) 0;
}

static int
elapsed_ms(const wahook_Turn *turn)
{
	return (int) Min(TimestampDifferenceMilliseconds(turn->started_at, GetCurrentTimestamp()),
					 PG_INT32_MAX);
}

/* --- the report of a call: for its agent's circuit and budget --- */

/* What an endpoint does not tell of the cost is estimated. */
static void
complete_usage(wahook_Turn *turn)
{
	wahook_AgentReply *reply = &turn->reply;
	bool isnull;

	if (reply->content == NULL)
		return;
	turn->estimated |= reply->prompt_tokens < 0 || reply->completion_tokens < 0;
	if (reply->prompt_tokens < 0)
		reply->prompt_tokens = turn->call.prompt_tokens;
	if (reply->completion_tokens < 0)
	{
		Datum content = CStringGetTextDatum(reply->content);

		(void) wahook_execute(&estimate_plan, &content, NULL);
		reply->completion_tokens = DatumGetInt32(wahook_result(0, 1, &isnull));
	}
}

static void
report(void *arg)
{
	wahook_Turn *turn = arg;
	const char *agent = turn->service.chain[turn->report.asked];
	int64 tokens;

	(void) wahook_circuit_report(wahook_agent_circuit(agent), turn->report.works,
								 turn->call.circuit_threshold, turn->call.circuit_timeout_us);
	complete_usage(turn);
	tokens = (int64) Max(turn->reply.prompt_tokens, 0) + Max(turn->reply.completion_tokens, 0);
	if (tokens > 0)
	{
		Datum values[] = {CStringGetTextDatum(agent), CStringGetTextDatum(turn->user_id),
						  Int32GetDatum((int) Min(tokens, PG_INT32_MAX)), UUIDPGetDatum(&turn->id)};

		wahook_execute(&spend_plan, values, NULL);
		wahook_count_labelled(WAHOOK_AGENT_TOKENS, agent, WAHOOK_TOKENS_INPUT,
							  Max(turn->reply.prompt_tokens, 0));
		wahook_count_labelled(WAHOOK_AGENT_TOKENS, agent, WAHOOK_TOKENS_OUTPUT,
							  Max(turn->reply.completion_tokens, 0));
	}
}

/* --- answered --- */

static void
complete(const wahook_Turn *turn)
{
	Datum values[] = {UUIDPGetDatum(&turn->id), UUIDPGetDatum(&turn->lock_id),
					  PointerGetDatum(turn->message_ids), Int32GetDatum(elapsed_ms(turn))};

	wahook_execute(&complete_plan, values, turn->only_first ? NULL : "  n ");
}

/* Without a reply: there was nothing to answer. */
static void
save(const wahook_Turn *turn)
{
	const wahook_AgentReply *reply = &turn->reply;
	bool answered = reply->content != NULL;
	char nulls[] = "           ";
	Datum values[] = {UUIDPGetDatum(&turn->id),
					  UUIDPGetDatum(&turn->lock_id),
					  CStringGetTextDatum(asked_first(turn)),
					  CStringGetTextDatum(turn->messages),
					  PointerGetDatum(turn->message_ids),
					  text_or_null(reply->content, &nulls[5]),
					  CStringGetTextDatum(answered ? turn->call.details : "{}"),
					  Int32GetDatum(turn->calls),
					  Int32GetDatum(answered ? reply->prompt_tokens : 0),
					  Int32GetDatum(answered ? reply->completion_tokens : 0),
					  Int32GetDatum(elapsed_ms(turn))};

	wahook_execute(&save_plan, values, nulls);
}

static wahook_TurnResult
record_reply(wahook_Turn *turn)
{
	const wahook_AgentReply *reply = &turn->reply;
	wahook_Conversation conversation;
	char nulls[] = "             ";
	Datum values[] = {UUIDPGetDatum(&turn->id),
					  CStringGetTextDatum(turn->service.name),
					  CStringGetTextDatum(asked_first(turn)),
					  UUIDPGetDatum(&turn->lock_id),
					  PointerGetDatum(turn->message_ids),
					  CStringGetTextDatum(reply->content),
					  CStringGetTextDatum(turn->call.details),
					  text_or_null(reply->finish_reason, &nulls[7]),
					  BoolGetDatum(turn->estimated),
					  Int32GetDatum(turn->calls),
					  Int32GetDatum(reply->prompt_tokens),
					  Int32GetDatum(reply->completion_tokens),
					  TimestampTzGetDatum(turn->started_at)};

	wahook_hold_conversation(&turn->id, &turn->lock_id, &conversation);
	wahook_execute(&reply_plan, values, nulls);
	wahook_note_work(WAHOOK_WORK_DELIVER);
	return WAHOOK_TURN_HANDED;
}

static wahook_TurnResult
record_answer(wahook_Turn *turn)
{
	if (turn->service.has_handler)
		return record_reply(turn);
	save(turn);
	complete(turn);
	return WAHOOK_TURN_OVER;
}

/* --- failed --- */

/*
 * Where several messages were refused, it may be for one of them: all are tried again at once, and
 * after that each alone.
 */
static wahook_Failure
describe(const wahook_Turn *turn, int n)
{
	wahook_Failure failure = {.error = cstring_to_text(turn->errors),
							  .error_stack = wahook_kept_body(turn->answer),
							  .retryable = turn->may_pass,
							  .delay_us = turn->delay_us,
							  .started_at = turn->started_at,
							  .is_attempt = true};

	if (n > 1 && !failure.retryable)
	{
		failure.retryable = true;
		failure.delay_us = 0;
	}
	return failure;
}

static void
fail_messages(const wahook_Turn *turn)
{
	wahook_Conversation conversation;
	wahook_Failure failure;
	Datum *ids;
	int n;

	wahook_hold_conversation(&turn->id, &turn->lock_id, &conversation);
	deconstruct_array(turn->message_ids, TEXTOID, -1, false, TYPALIGN_INT, &ids, NULL, &n);
	failure = describe(turn, n);
	for (int i = 0; i < n; i++)
		(void) wahook_fail_message(&conversation, DatumGetTextPP(ids[i]), &failure);
}

static wahook_TurnResult
record_failure(wahook_Turn *turn)
{
	Datum failed[] = {UUIDPGetDatum(&turn->id),
					  UUIDPGetDatum(&turn->lock_id),
					  CStringGetTextDatum(asked_first(turn)),
					  CStringGetTextDatum(turn->messages),
					  PointerGetDatum(turn->message_ids),
					  CStringGetTextDatum(turn->errors),
					  Int32GetDatum(turn->calls),
					  Int32GetDatum(elapsed_ms(turn))};
	Datum released[] = {UUIDPGetDatum(&turn->id), UUIDPGetDatum(&turn->lock_id),
						PointerGetDatum(construct_empty_array(TEXTOID)), (Datum) 0};

	fail_messages(turn);
	wahook_execute(&failed_plan, failed, NULL);
	wahook_execute(&complete_plan, released, "   n");
	return WAHOOK_TURN_OVER;
}

/* --- all of them --- */

static wahook_TurnResult
give_back(const wahook_Turn *turn)
{
	wahook_give_lock_back(&turn->id, &turn->lock_id);
	return WAHOOK_TURN_OVER;
}

static wahook_TurnResult
prepare(wahook_Turn *turn)
{
	wahook_TurnResult result = wahook_prepare_call(turn);

	if (result == WAHOOK_TURN_NOT_ASKED)
	{
		if (turn->message_ids != NULL)
			save(turn);
		complete(turn);
		return WAHOOK_TURN_OVER;
	}
	return result;
}

static void
log_lost(const wahook_Turn *turn)
{
	wahook_Event event;

	wahook_event_begin(&event, "AGENT_TURN_LEASE_LOST", WAHOOK_EVENT_PROBLEM);
	wahook_event_text(&event, "service", turn->service.name);
	wahook_event_text(&event, "agent_type", asked_first(turn));
	wahook_event_uuid(&event, "conversation_id", &turn->id);
	if (turn->correlation_id != NULL)
		wahook_event_text(&event, "correlation_id", turn->correlation_id);
	wahook_event_int(&event, "calls", turn->calls);
	wahook_event_end(&event);
}

/* An answer that came too late has been paid for: that is reported, and no more done about it. */
static void
do_task(void *arg)
{
	wahook_Turn *turn = arg;

	if (turn->is_lost)
	{
		log_lost(turn);
		turn->result = WAHOOK_TURN_LOST;
		return;
	}
	switch (turn->task)
	{
		case WAHOOK_TURN_PREPARE:
			turn->result = prepare(turn);
			break;
		case WAHOOK_TURN_PAUSE:
			turn->result = WAHOOK_TURN_PAUSED;
			break;
		case WAHOOK_TURN_ANSWERED:
			turn->result = record_answer(turn);
			break;
		case WAHOOK_TURN_FAIL:
			turn->result = record_failure(turn);
			break;
		case WAHOOK_TURN_GIVE_BACK:
			turn->result = give_back(turn);
			break;
	}
}

static void
warn(const ErrorData *error)
{
	wahook_warn_of_error("turn of an agent", error);
}

/*
 * A call that can't be prepared fails its turn, with the error: it may be for what a message is. Else
 * the lease runs out, unless the trouble passes before.
 */
static void
sort_out(wahook_Turn *turn, const ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
	{
		turn->result = WAHOOK_TURN_BUSY;
		return;
	}
	turn->result = WAHOOK_TURN_LOST;
	if (error->sqlerrcode == WAHOOK_LOCK_LOST || error->sqlerrcode == WAHOOK_UNKNOWN_CONVERSATION)
	{
		log_lost(turn);
		return;
	}
	warn(error);
	if (turn->task == WAHOOK_TURN_PREPARE)
		wahook_refuse_call(turn, psprintf("can't be asked: %s", error->message), DT_NOBEGIN);
}

void
wahook_do_turn_tasks(void *arg)
{
	wahook_DoTurnTasks *run = arg;

	while (!dlist_is_empty(run->to_do))
	{
		wahook_Turn *turn = dlist_container(wahook_Turn, node, dlist_head_node(run->to_do));
		ErrorData *error;

		if (turn->report.is_due && (error = wahook_try_alone(report, turn)) != NULL)
			warn(error);
		if ((error = wahook_try_alone(do_task, turn)) != NULL)
			sort_out(turn, error);
		dlist_delete(&turn->node);
		dlist_push_tail(run->done, &turn->node);
	}
}
