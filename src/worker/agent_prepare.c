/*
 * Preparing a call: whether there is anything to answer, whether the agent may be asked, and what.
 */
#include "postgres.h"

#include <stdlib.h>

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "conversation/lock.h"
#include "core/plan.h"
#include "core/uuid.h"
#include "retry/circuit.h"
#include "worker/agent_turn.h"
#include "worker/idempotency.h"

/* Keys are read from such variables alone: others of the server's environment are nobody's business. */
#define KEY_VARIABLE_PREFIX "WAHOOK_"

/* As much as a key may have, to be sent in a header. */
#define MAX_KEY_LENGTH 4096

static wahook_Plan asked_plan = {"SELECT @extschema@.webhook_agent_is_asked($1::jsonb)",
								 1,
								 {TEXTOID}};

/* A reply to just these messages that was recorded under a lock that has been lost since. */
static wahook_Plan adopt_plan =
	{"UPDATE @extschema@.webhook_agent_replies SET lock_id = $3, taken_until = NULL"
	 " WHERE conversation_id = $1 AND service = $2 AND whatsapp_message_ids = $4"
	 " AND agent_type = $5 AND answered_at > now() - interval '1 hour' RETURNING 1",
	 5,
	 {UUIDOID, TEXTOID, UUIDOID, TEXTARRAYOID, TEXTOID}};

static wahook_Plan call_plan =
	{"SELECT problem, retry_at, url, allow_http, timeout_ms, api_key_from, api_key, body,"
	 " prompt_tokens, details, circuit_threshold,"
	 " (extract(epoch FROM circuit_timeout) * 1000000)::bigint"
	 " FROM @extschema@.webhook_agent_call($1, $2, $3, $4, $5::jsonb)",
	 5,
	 {UUIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}};

wahook_TurnResult
wahook_refuse_call(wahook_Turn *turn, const char *problem, TimestampTz retry_at)
{
	turn->problem = MemoryContextStrdup(turn->context, problem);
	turn->retry_at = retry_at;
	turn->refused_by_circuit = false;
	return turn->result = WAHOOK_TURN_REFUSED;
}

/* --- whether there is anything to ask --- */

static bool
is_asked(const wahook_Turn *turn)
{
	Datum messages = CStringGetTextDatum(turn->messages);
	bool isnull;

	(void) wahook_execute(&asked_plan, &messages, NULL);
	return DatumGetBool(wahook_result(0, 1, &isnull));
}

static bool
has_been_answered(const wahook_Turn *turn)
{
	wahook_Conversation conversation;
	Datum values[] = {UUIDPGetDatum(&turn->id), CStringGetTextDatum(turn->service.name),
					  UUIDPGetDatum(&turn->lock_id), PointerGetDatum(turn->message_ids),
					  CStringGetTextDatum(turn->service.chain[0])};

	if (!turn->service.has_handler)
		return false;
	wahook_hold_conversation(&turn->id, &turn->lock_id, &conversation);
	return wahook_execute(&adopt_plan, values, NULL) > 0;
}

/* --- the call --- */

/* The key that goes into a header, or null and why there is none. */
static const char *
find_key(const char *from, const char *secret, const char **problem)
{
	const char *variable = strncmp(from, "env:", 4) == 0 ? from + 4 : NULL;
	const char *key = variable == NULL ? secret
					  : strncmp(variable, KEY_VARIABLE_PREFIX, strlen(KEY_VARIABLE_PREFIX)) == 0
						  ? getenv(variable)
						  : NULL;

	*problem = NULL;
	if (key == NULL || key[0] == '\0')
		*problem = variable
					   ? psprintf("its key is not in the server's environment as %.200s", variable)
					   : "its key is not set";
	else if (strlen(key) > MAX_KEY_LENGTH)
		*problem = "its key is too long to be sent";
	for (const char *at = key; at != NULL && *at != '\0'; at++)
		if (*at < '!' || *at > '~')
			*problem = "its key is not ASCII without spaces, and can't be sent";
	return *problem ? NULL : key;
}

/* Of the agent, the messages and the body: what is asked the same way again is known by it. */
static char *
make_key(const wahook_Turn *turn, const char *agent, const char *body)
{
	StringInfoData all;
	Datum *ids;
	bool *nulls;
	int n;

	initStringInfo(&all);
	appendStringInfo(&all, "%s\n", agent);
	deconstruct_array(turn->message_ids, TEXTOID, -1, false, TYPALIGN_INT, &ids, &nulls, &n);
	for (int i = 0; i < n; i++)
		appendStringInfo(&all, "%s\n", nulls[i] ? "" : TextDatumGetCString(ids[i]));
	appendStringInfoString(&all, body);
	return wahook_idempotency_key(wahook_uuid_text(&turn->id), all.data, all.len);
}

/* The row of call_plan, in the context of the call. */
static wahook_TurnResult
read_call(wahook_Turn *turn, const char *agent)
{
	const char *problem = wahook_result_text(0, 1);
	const char *key_from = wahook_result_text(0, 6);
	const char *api_key = NULL;
	wahook_AgentCall *call = &turn->call;
	MemoryContext old;
	bool never;
	bool isnull;
	TimestampTz retry_at = DatumGetTimestampTz(wahook_result(0, 2, &never));

	if (problem == NULL && key_from != NULL)
		api_key = find_key(key_from, wahook_result_text(0, 7), &problem);
	if (problem != NULL)
		return wahook_refuse_call(turn, problem, never ? DT_NOBEGIN : retry_at);

	MemoryContextReset(turn->call_context);
	old = MemoryContextSwitchTo(turn->call_context);
	call->url = wahook_result_text(0, 3);
	call->allow_http = DatumGetBool(wahook_result(0, 4, &isnull));
	call->timeout_ms = DatumGetInt32(wahook_result(0, 5, &isnull));
	call->api_key = api_key ? pstrdup(api_key) : NULL;
	call->body = wahook_result_text(0, 8);
	call->prompt_tokens = DatumGetInt32(wahook_result(0, 9, &isnull));
	call->details = wahook_result_text(0, 10);
	call->circuit_threshold = DatumGetInt32(wahook_result(0, 11, &isnull));
	call->circuit_timeout_us = DatumGetInt64(wahook_result(0, 12, &isnull));
	call->key = make_key(turn, agent, call->body);
	MemoryContextSwitchTo(old);
	return WAHOOK_TURN_CALL;
}

static wahook_TurnResult
make_call(wahook_Turn *turn)
{
	const char *agent = turn->service.chain[turn->asked];
	Datum values[] = {UUIDPGetDatum(&turn->id), CStringGetTextDatum(turn->service.chain[0]),
					  CStringGetTextDatum(agent), CStringGetTextDatum(turn->user_id),
					  CStringGetTextDatum(turn->messages)};
	wahook_CircuitVerdict verdict;
	wahook_TurnResult result;

	(void) wahook_execute(&call_plan, values, NULL);
	result = read_call(turn, agent);
	if (result != WAHOOK_TURN_CALL)
		return result;
	/* Last, for a probe is taken by it. */
	verdict = wahook_circuit_admit(wahook_agent_circuit(agent));
	if (verdict.admitted)
		return WAHOOK_TURN_CALL;
	wahook_refuse_call(turn, "its circuit is open", verdict.retry_at);
	turn->refused_by_circuit = true;
	return WAHOOK_TURN_REFUSED;
}

wahook_TurnResult
wahook_prepare_call(wahook_Turn *turn)
{
	bool first = turn->asked == 0 && turn->calls == 0;

	if (turn->message_ids == NULL || (first && !is_asked(turn)))
		return WAHOOK_TURN_NOT_ASKED;
	if (first && has_been_answered(turn))
		return WAHOOK_TURN_HANDED;
	return make_call(turn);
}
