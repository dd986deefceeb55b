/*
 * What there is to answer: the services with an agent, and the turns that are claimed for each.
 *
 * A claim is committed before anybody is asked, under a lease that is renewed while the model thinks.
 * So a crash loses nothing: the lease runs out and the messages wait again.
 *
 * All messages of a claim are one turn. But where one of them has failed twice, only the first is: the
 * one that can't be answered must not take the others with it to the end.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/plan.h"
#include "core/settings.h"
#include "retry/circuit.h"
#include "retry/handler.h"
#include "worker/agent_turn.h"
#include "worker/handler_settings.h"
#include "worker/worker.h"

/* A conversation waits when it is due, or when the lease of a holder that vanished is over. */
static wahook_Plan services_plan =
	{"SELECT s.name, s.reply_handler IS NOT NULL, s.concurrency,"
	 " ceil(extract(epoch FROM s.retry_max_delay))::bigint,"
	 " least((SELECT q.due_at FROM @extschema@.webhook_conversation_queue q"
	 " WHERE q.service = s.name ORDER BY q.due_at LIMIT 1),"
	 " (SELECT l.expires_at FROM @extschema@.webhook_leases l WHERE l.service = s.name"
	 " ORDER BY l.expires_at LIMIT 1)), s.agent_type"
	 " FROM @extschema@.webhook_services s WHERE s.kind = 'agent' AND s.enabled",
	 0,
	 {0}};

static wahook_Plan fallback_plan =
	{"SELECT fallback_agent FROM @extschema@.webhook_agents WHERE agent_type = $1", 1, {TEXTOID}};

static wahook_Plan claim_plan =
	{"SELECT c.conversation_id, c.lock_id, c.lock_expires_at, c.user_id, m.messages::text,"
	 " m.message_ids, m.messages -> 0 ->> 'correlation_id',"
	 " jsonb_array_length(m.messages) < jsonb_array_length(c.messages)"
	 " FROM @extschema@.claim_conversations($1, NULL::uuid, $2, $3) c"
	 " CROSS JOIN LATERAL (SELECT t.messages, (SELECT array_agg(e ->> 'whatsapp_message_id'"
	 " ORDER BY n) FROM jsonb_array_elements(t.messages) WITH ORDINALITY AS e (e, n))"
	 " AS message_ids FROM (SELECT CASE WHEN jsonb_path_exists(c.messages,"
	 " '$[*] ? (@.attempt > 2)') THEN jsonb_build_array(c.messages -> 0) ELSE c.messages END"
	 " AS messages) t) m",
	 3,
	 {INT4OID, TEXTOID, INTERVALOID}};

/* --- services --- */

static bool
is_in_chain(const wahook_AgentService *service, const char *agent)
{
	for (int i = 0; i < service->nchain; i++)
		if (strcmp(service->chain[i], agent) == 0)
			return true;
	return false;
}

/* Fallback agents may go round in a circle. */
static void
read_chain(wahook_AgentService *service, const char *agent, MemoryContext context)
{
	while (agent != NULL && service->nchain < WAHOOK_MAX_AGENT_CHAIN &&
		   !is_in_chain(service, agent))
	{
		Datum value = CStringGetTextDatum(agent);

		service->chain[service->nchain++] = MemoryContextStrdup(context, agent);
		agent = wahook_execute(&fallback_plan, &value, NULL) > 0 ? wahook_result_text(0, 1) : NULL;
	}
}

void
wahook_read_agent_services(void *arg)
{
	wahook_ReadAgentServices *read = arg;
	char **agents;
	bool isnull;

	read->n = (int) wahook_execute(&services_plan, NULL, NULL);
	read->services =
		MemoryContextAllocZero(read->context, Max(read->n, 1) * sizeof(wahook_AgentService));
	agents = palloc(Max(read->n, 1) * sizeof(char *));
	for (int i = 0; i < read->n; i++)
	{
		wahook_AgentService *service = &read->services[i];
		Datum max_delay = wahook_result(i, 4, &isnull);

		service->max_retry_delay_s = isnull ? wahook_dlq_max_delay_s : DatumGetInt64(max_delay);
		service->name = MemoryContextStrdup(read->context, wahook_result_text(i, 1));
		service->has_handler = DatumGetBool(wahook_result(i, 2, &isnull));
		service->concurrency = DatumGetInt32(wahook_result(i, 3, &isnull));
		service->waits_since = DatumGetTimestampTz(wahook_result(i, 5, &isnull));
		if (isnull)
			service->waits_since = DT_NOEND;
		agents[i] = wahook_result_text(i, 6);
	}
	for (int i = 0; i < read->n; i++)
		read_chain(&read->services[i], agents[i], read->context);
}

/* --- claiming --- */

static char *
copy_string(const char *string)
{
	return string ? pstrdup(string) : NULL;
}

static wahook_Turn *
new_turn(wahook_ClaimTurns *claim)
{
	MemoryContext context =
		AllocSetContextCreate(claim->context, "wahook turn", ALLOCSET_SMALL_SIZES);
	wahook_Turn *turn = MemoryContextAllocZero(context, sizeof(wahook_Turn));

	turn->context = context;
	turn->call_context = AllocSetContextCreate(context, "wahook agent call", ALLOCSET_SMALL_SIZES);
	dlist_push_tail(&claim->claimed, &turn->node);
	claim->n++;
	MemoryContextSwitchTo(context);
	turn->service = *claim->service;
	turn->service.name = pstrdup(claim->service->name);
	for (int i = 0; i < turn->service.nchain; i++)
		turn->service.chain[i] = pstrdup(claim->service->chain[i]);
	turn->started_at = GetCurrentTimestamp();
	turn->delay_us = -1;
	turn->task = WAHOOK_TURN_PREPARE;
	return turn;
}

void
wahook_free_turn(wahook_Turn *turn)
{
	wahook_http_free_answer(turn->answer);
	wahook_free_agent_reply(&turn->reply);
	MemoryContextDelete(turn->context);
}

static void
claim_up_to_limit(wahook_ClaimTurns *claim)
{
	Interval lease = {.time = WAHOOK_TURN_LEASE_MS * INT64CONST(1000)};
	Datum values[] = {Int32GetDatum(Min(claim->limit, WAHOOK_MAX_CLAIM_CONVERSATIONS)),
					  CStringGetTextDatum(claim->service->name), IntervalPGetDatum(&lease)};
	uint64 rows = wahook_execute(&claim_plan, values, NULL);
	MemoryContext old = CurrentMemoryContext;

	for (uint64 i = 0; i < rows; i++)
	{
		wahook_Turn *turn = new_turn(claim);
		bool isnull;
		Datum ids;

		turn->id = *DatumGetUUIDP(wahook_result(i, 1, &isnull));
		turn->lock_id = *DatumGetUUIDP(wahook_result(i, 2, &isnull));
		turn->leased_until = DatumGetTimestampTz(wahook_result(i, 3, &isnull));
		turn->user_id = copy_string(wahook_result_text(i, 4));
		turn->messages = copy_string(wahook_result_text(i, 5));
		ids = wahook_result(i, 6, &isnull);
		turn->message_ids = isnull ? NULL : DatumGetArrayTypePCopy(ids);
		turn->correlation_id = copy_string(wahook_result_text(i, 7));
		turn->only_first = DatumGetBool(wahook_result(i, 8, &isnull));
	}
	MemoryContextSwitchTo(old);
}

/* How many turns a circuit admits, of up to limit: 1 where it wants a probe. */
static int
admitted_by(const char *circuit, int limit, TimestampTz *retry_at)
{
	wahook_CircuitVerdict verdict = wahook_circuit_look(circuit);

	if (!verdict.admitted)
	{
		*retry_at = Min(*retry_at, verdict.retry_at);
		return 0;
	}
	return verdict.probe ? Min(limit, 1) : limit;
}

/* As many as any of the agents can be asked for. */
static int
admitted_by_chain(const wahook_AgentService *service, int limit, TimestampTz *retry_at)
{
	int most = 0;

	for (int i = 0; i < service->nchain; i++)
		most = Max(most, admitted_by(wahook_agent_circuit(service->chain[i]), limit, retry_at));
	return most;
}

/*
 * No model is asked for a reply that nobody could take: without handler processes, with a handler
 * that can't be run, or while the circuit of the service is open, which stands for its handler.
 */
static int
admitted_by_handler(const wahook_AgentService *service, int limit, TimestampTz *retry_at)
{
	wahook_Handler handler;

	if (!service->has_handler)
		return limit;
	if (wahook_handler_workers == 0 || !wahook_find_reply_handler(service->name, &handler))
		limit = 0;
	else if (handler.problem != NULL)
	{
		wahook_warn_once(psprintf("reply handler of service \"%s\"", service->name),
						 unpack_sql_state(ERRCODE_UNDEFINED_FUNCTION), handler.problem);
		limit = 0;
	}
	return limit == 0 ? 0 : admitted_by(wahook_service_circuit(service->name), limit, retry_at);
}

void
wahook_claim_turns(void *arg)
{
	wahook_ClaimTurns *claim = arg;

	claim->retry_at = DT_NOEND;
	claim->limit = admitted_by_handler(claim->service, claim->limit, &claim->retry_at);
	if (claim->limit > 0)
		claim->limit = admitted_by_chain(claim->service, claim->limit, &claim->retry_at);
	if (claim->limit == 0)
		return;
	claim->retry_at = DT_NOBEGIN;
	claim_up_to_limit(claim);
}
