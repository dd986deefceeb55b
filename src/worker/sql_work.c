/*
 * What there is to do for services with a SQL handler: conversations in their queues, and dead
 * letters that belong to no conversation; and the replies of agents, for handlers of replies.
 */
#include "worker/sql_work.h"

#include "catalog/pg_type.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/plan.h"
#include "retry/circuit.h"
#include "worker/handler_settings.h"

static wahook_Plan look_plan =
	{"SELECT s.name, s.concurrency, least(q.due_at, l.expires_at, d.next_retry_at)"
	 ", false FROM @extschema@.webhook_services s"
	 " LEFT JOIN LATERAL (SELECT q.due_at FROM @extschema@.webhook_conversation_queue q"
	 " WHERE q.service = s.name ORDER BY q.due_at LIMIT 1) q ON true"
	 " LEFT JOIN LATERAL (SELECT l.expires_at FROM @extschema@.webhook_leases l"
	 " WHERE l.service = s.name AND l.expires_at <= $1 ORDER BY l.expires_at LIMIT 1) l ON true"
	 " LEFT JOIN LATERAL (SELECT d.next_retry_at FROM @extschema@.webhook_dlq d"
	 " WHERE d.service = s.name AND d.conversation_id IS NULL AND d.resolution_status = 'pending'"
	 " ORDER BY d.next_retry_at LIMIT 1) d ON true"
	 " WHERE s.kind = 'sql' AND s.enabled UNION ALL"
	 " SELECT s.name, s.concurrency, least((SELECT r.answered_at"
	 " FROM @extschema@.webhook_agent_replies r WHERE r.service = s.name AND r.lock_id IS NOT NULL"
	 " AND r.taken_until IS NULL ORDER BY r.answered_at LIMIT 1), (SELECT r.taken_until"
	 " FROM @extschema@.webhook_agent_replies r WHERE r.service = s.name AND r.lock_id IS NOT NULL"
	 " ORDER BY r.taken_until LIMIT 1)), true"
	 " FROM @extschema@.webhook_services s WHERE s.kind = 'agent' AND s.reply_handler IS NOT NULL"
	 " ORDER BY 3",
	 1,
	 {TIMESTAMPTZOID}};

/* Of whichever service: those of one can't be found without reading all that are under way. */
static wahook_Plan lease_plan = {"SELECT expires_at FROM @extschema@.webhook_leases"
								 " WHERE expires_at > $1 ORDER BY expires_at LIMIT 1",
								 1,
								 {TIMESTAMPTZOID}};

/*
 * One that hangs must not keep the others waiting: it never gets all processes, where there are
 * others that could want one.
 */
static int
most_processes(int concurrency, int services)
{
	int processes = wahook_handler_workers;

	if (services > 1 && processes > 1)
		processes--;
	return Min(concurrency, processes);
}

void
wahook_look_for_sql_work(void *arg)
{
	wahook_SqlWork *work = arg;

	Datum now;
	bool none;

	work->now = GetCurrentTimestamp();
	now = TimestampTzGetDatum(work->now);
	work->n = (int) wahook_execute(&look_plan, &now, NULL);
	work->services = MemoryContextAlloc(work->context, Max(work->n, 1) * sizeof(wahook_SqlService));
	for (int i = 0; i < work->n; i++)
	{
		wahook_SqlService *service = &work->services[i];
		Datum due_at = wahook_result(i, 3, &none);
		bool isnull;

		service->name = MemoryContextStrdup(work->context, wahook_result_text(i, 1));
		service->at_most = most_processes(DatumGetInt32(wahook_result(i, 2, &isnull)), work->n);
		service->replies = DatumGetBool(wahook_result(i, 4, &isnull));
		service->due_at = none ? DT_NOEND : DatumGetTimestampTz(due_at);
	}
	for (int i = 0; i < work->n && work->services[i].due_at <= work->now; i++)
	{
		const char *circuit = wahook_service_circuit(work->services[i].name);
		wahook_CircuitVerdict verdict = wahook_circuit_look(circuit);

		if (!verdict.admitted)
			work->services[i].due_at = verdict.retry_at;
	}
	work->lease_ends_at = DT_NOEND;
	if (work->n > 0 && wahook_execute(&lease_plan, &now, NULL) > 0)
		work->lease_ends_at = DatumGetTimestampTz(wahook_result(0, 1, &none));
}
