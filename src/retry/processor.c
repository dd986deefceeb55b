/*
 * The dead letter job: due entries go back to their conversations' queues, and where their service
 * has a SQL handler they are run at once.
 *
 * queued: an entry whose message is known and belongs to a conversation.
 * direct: any other entry; it is run under its own row lock, and needs a handler.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "conversation/lock.h"
#include "core/compat.h"
#include "core/event.h"
#include "core/plan.h"
#include "core/progress.h"
#include "core/settings.h"
#include "core/uuid.h"
#include "core/wake.h"
#include "retry/attempt.h"
#include "retry/entry.h"

/* As the upper bound of wahook.dlq_batch_size. */
#define MAX_BATCH 100000

/* A due entry, row-locked. */
typedef struct Due
{
	pg_uuid_t id;
	bool queued;
	pg_uuid_t conversation_id;
	pg_uuid_t message_id; /* processed_webhook_messages.id */
	char *service;
	int retry_count;
	int max_retries;
} Due;

typedef struct Run
{
	wahook_Handler *handlers;
	int nhandlers;
	Due *due;
	int ndue;
	int successful;
	int failed;
	int abandoned;
	int requeued; /* and left for others to claim */
} Run;

PG_FUNCTION_INFO_V1(wahook_process_dead_letter_queue);
PG_FUNCTION_INFO_V1(wahook_requeue_dead_letters);

/*
 * Entries that nobody here can do anything about are not taken: they would fill up every batch. Nor
 * are those whose messages wait in an inbox, perhaps claimed: what becomes of them there decides. But
 * those that wait there for this retry, in strict order, are due as well (in_place).
 * done: the message was completed after its entry last changed. A batch is put in the order of its
 * conversations.
 */
static wahook_Plan due_plan =
	{"SELECT * FROM (SELECT d.id, q.conversation_id, q.message_id, d.service, d.retry_count,"
	 " d.max_retries, coalesce(q.done, false), d.next_retry_at FROM @extschema@.webhook_dlq d"
	 " LEFT JOIN LATERAL (SELECT m.id AS message_id, c.id AS conversation_id,"
	 " m.processed_at > d.updated_at AS done, i.attempts IS NOT NULL AS waits,"
	 " i.attempts > d.retry_count AND i.enqueued_at <= $1 AS in_place"
	 " FROM @extschema@.processed_webhook_messages m LEFT JOIN @extschema@.webhook_conversations c"
	 " ON c.id = m.conversation_id AND m.processed_at IS NULL"
	 " LEFT JOIN @extschema@.webhook_inbox i ON i.conversation_id = c.id AND i.message_id = m.id"
	 " WHERE m.whatsapp_message_id = d.whatsapp_message_id) q ON true"
	 " WHERE d.resolution_status = 'pending' AND d.next_retry_at <= $1 AND (q.done"
	 " OR q.in_place OR q.waits IS NOT TRUE"
	 " AND (q.conversation_id IS NOT NULL OR d.service = ANY ($3)))"
	 " ORDER BY d.next_retry_at LIMIT $2 FOR NO KEY UPDATE OF d SKIP LOCKED) due"
	 " ORDER BY conversation_id, next_retry_at",
	 3,
	 {TIMESTAMPTZOID, INT8OID, TEXTARRAYOID}};

static wahook_Plan resolve_plan =
	{"UPDATE @extschema@.webhook_dlq SET resolution_status = 'resolved' WHERE id = ANY ($1)",
	 1,
	 {UUIDARRAYOID}};

/*
 * Messages that went back to their queues in an earlier run, when somebody else held their
 * conversations, and that still wait there for their handler.
 */
static wahook_Plan left_plan =
	{"SELECT d.id, c.id, m.id, d.service, d.retry_count, d.max_retries, false"
	 " FROM @extschema@.webhook_dlq d JOIN @extschema@.processed_webhook_messages m"
	 " ON m.whatsapp_message_id = d.whatsapp_message_id"
	 " JOIN @extschema@.webhook_conversations c ON c.id = m.conversation_id"
	 " WHERE d.resolution_status = 'retrying' AND d.retry_lease_until IS NULL"
	 " AND d.service = ANY ($3) AND (c.locked_by IS NULL OR c.lock_expires_at <= $1)"
	 " AND EXISTS (SELECT FROM @extschema@.webhook_inbox i"
	 " WHERE i.conversation_id = c.id AND i.message_id = m.id)"
	 " LIMIT $2 FOR NO KEY UPDATE OF d SKIP LOCKED",
	 3,
	 {TIMESTAMPTZOID, INT8OID, TEXTARRAYOID}};

/* For messages left in their inbox by an earlier run, there is nothing more to do. */
static wahook_Plan requeue_plan =
	{"WITH due AS ("
	 "SELECT d.id, d.service, d.retry_count, d.next_retry_at, m.id AS message_id,"
	 " m.conversation_id, m.received_at,"
	 " EXISTS (SELECT FROM @extschema@.webhook_inbox i WHERE i.conversation_id = m.conversation_id"
	 " AND i.message_id = m.id) AS in_place"
	 " FROM @extschema@.webhook_dlq d JOIN @extschema@.processed_webhook_messages m"
	 " ON m.whatsapp_message_id = d.whatsapp_message_id"
	 " WHERE d.id = ANY ($1) AND d.resolution_status = 'pending'"
	 "), waiting AS ("
	 "INSERT INTO @extschema@.webhook_inbox"
	 " (conversation_id, message_id, service, attempts, enqueued_at)"
	 " SELECT conversation_id, message_id, service, retry_count + 1, $2 FROM due"
	 " WHERE NOT in_place ORDER BY received_at, next_retry_at, message_id"
	 "), queued AS ("
	 "INSERT INTO @extschema@.webhook_conversation_queue (conversation_id, service, due_at)"
	 " SELECT DISTINCT conversation_id, service, $2 FROM due)"
	 " UPDATE @extschema@.webhook_dlq d SET resolution_status = 'retrying', next_retry_at = NULL,"
	 " retry_lease_until = NULL, updated_at = $2 FROM due WHERE d.id = due.id",
	 2,
	 {UUIDARRAYOID, TIMESTAMPTZOID}};

static const wahook_Handler *
handler_of(const Run *run, const char *service)
{
	for (int i = 0; i < run->nhandlers; i++)
		if (strcmp(run->handlers[i].service, service) == 0)
			return &run->handlers[i];
	return NULL;
}

/* True where it has been run. */
static bool
count_outcome(Run *run, wahook_Outcome outcome)
{
	switch (outcome)
	{
		case WAHOOK_SUCCEEDED:
			run->successful++;
			return true;
		case WAHOOK_FAILED:
			run->failed++;
			return true;
		case WAHOOK_GIVEN_UP:
			run->abandoned++;
			return true;
		case WAHOOK_BUSY:
		case WAHOOK_REFUSED:
			break;
	}
	return false;
}

/* Those that can be run. */
static void
find_handlers(Run *run)
{
	int n = wahook_find_handlers(NULL, &run->handlers);

	for (int i = 0; i < n; i++)
	{
		const wahook_Handler *handler = &run->handlers[i];

		if (handler->problem)
			ereport(WARNING, (errcode(ERRCODE_UNDEFINED_FUNCTION),
							  errmsg("handler of service \"%s\" can't be run", handler->service),
							  errdetail("%s", handler->problem),
							  errhint("Set webhook_services.handler again.")));
		else
			run->handlers[run->nhandlers++] = *handler;
	}
}

static Due
read_due(uint64 row)
{
	Due due = {0};
	bool none;
	bool isnull;
	Datum conversation_id = wahook_result(row, 2, &none);

	due.id = *DatumGetUUIDP(wahook_result(row, 1, &isnull));
	due.queued = !none;
	if (due.queued)
	{
		due.conversation_id = *DatumGetUUIDP(conversation_id);
		due.message_id = *DatumGetUUIDP(wahook_result(row, 3, &isnull));
	}
	due.service = wahook_result_text(row, 4);
	due.retry_count = DatumGetInt32(wahook_result(row, 5, &isnull));
	due.max_retries = DatumGetInt32(wahook_result(row, 6, &isnull));
	return due;
}

/* Reads what a plan took. Callers that retry by themselves need not tell: done is resolved here. */
static void
read_all_due(Run *run, uint64 rows)
{
	pg_uuid_t *done = palloc(Max(rows, 1) * sizeof(pg_uuid_t));
	int ndone = 0;
	bool isnull;

	for (uint64 i = 0; i < rows; i++)
	{
		Due due = read_due(i);

		if (DatumGetBool(wahook_result(i, 7, &isnull)))
			done[ndone++] = due.id;
		else
			run->due[run->ndue++] = due;
	}
	if (ndone > 0)
	{
		Datum ids = wahook_uuid_array(done, ndone);

		wahook_execute(&resolve_plan, &ids, NULL);
	}
}

static Datum
service_names(const Run *run)
{
	Datum *names = palloc(Max(run->nhandlers, 1) * sizeof(Datum));

	for (int i = 0; i < run->nhandlers; i++)
		names[i] = CStringGetTextDatum(run->handlers[i].service);
	return PointerGetDatum(
		construct_array(names, run->nhandlers, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Takes the entries that are due and that this job can do something about. */
static void
take_due(Run *run, int limit)
{
	Datum values[] = {TimestampTzGetDatum(GetCurrentTimestamp()), Int64GetDatum(limit),
					  service_names(run)};

	run->due = palloc(Max(limit, 1) * sizeof(Due));
	wahook_end_retry_leases();
	read_all_due(run, wahook_execute(&due_plan, values, NULL));
	values[1] = Int64GetDatum(limit - run->ndue);
	if (run->nhandlers > 0 && run->ndue < limit)
		read_all_due(run, wahook_execute(&left_plan, values, NULL));
}

static void
requeue(const Run *run)
{
	pg_uuid_t *ids = palloc(Max(run->ndue, 1) * sizeof(pg_uuid_t));
	int n = 0;

	for (int i = 0; i < run->ndue; i++)
		if (run->due[i].queued)
			ids[n++] = run->due[i].id;
	if (n > 0)
	{
		Datum values[] = {wahook_uuid_array(ids, n), TimestampTzGetDatum(GetCurrentTimestamp())};

		wahook_execute_settled(&requeue_plan, values, NULL);
		wahook_note_work(WAHOOK_WORK_DELIVER);
	}
}

/*
 * Runs those of the messages that wait in the conversation for a handler; returns how many. Here
 * they come one at a time, also to a handler that takes bursts.
 */
static int
run_inbox(Run *run, const wahook_Conversation *conversation, const pg_uuid_t *message_ids, int n)
{
	wahook_Task *tasks;
	int ntasks = wahook_read_tasks_of(conversation, wahook_uuid_array(message_ids, n), &tasks);
	int ran = 0;

	for (int i = 0; i < ntasks; i++)
	{
		const wahook_Handler *handler = handler_of(run, tasks[i].waiting.service);
		wahook_Failure failure;

		if (handler != NULL &&
			count_outcome(run, wahook_attempt(conversation, handler, &tasks[i], 1, &failure)))
			ran++;
	}
	return ran;
}

/* The requeued messages of one conversation: due[first] to due[last - 1]. */
static void
run_conversation(Run *run, int first, int last)
{
	const pg_uuid_t *id = &run->due[first].conversation_id;
	pg_uuid_t *message_ids = palloc((last - first) * sizeof(pg_uuid_t));
	wahook_Conversation conversation;
	pg_uuid_t lock_id;
	int n = 0;

	run->requeued += last - first;
	for (int i = first; i < last; i++)
		if (handler_of(run, run->due[i].service) != NULL)
			message_ids[n++] = run->due[i].message_id;
	wahook_new_uuid(&lock_id);
	if (n == 0 || !wahook_take_lock(id, &lock_id, wahook_lease_us(NULL)))
		return;
	wahook_hold_conversation(id, &lock_id, &conversation);
	run->requeued -= run_inbox(run, &conversation, message_ids, n);
	wahook_give_lock_back(&conversation.id, &lock_id);
}

static void
run_direct(Run *run, const Due *due)
{
	wahook_Direct entry = {.id = due->id,
						   .retry_count = due->retry_count,
						   .max_retries = due->max_retries};
	wahook_Failure failure;

	(void) count_outcome(run,
						 wahook_attempt_direct(&entry, handler_of(run, due->service), &failure));
}

static bool
same_conversation(const Due *a, const Due *b)
{
	return a->queued && b->queued &&
		   memcmp(&a->conversation_id, &b->conversation_id, sizeof(pg_uuid_t)) == 0;
}

/* Each unit of work has an SPI level of its own, which frees what it used. */
static void
run_all(Run *run)
{
	int next;

	for (int i = 0; i < run->ndue; i = next)
	{
		next = i + 1;
		while (next < run->ndue && same_conversation(&run->due[i], &run->due[next]))
			next++;
		SPI_connect();
		if (run->due[i].queued)
			run_conversation(run, i, next);
		else
			run_direct(run, &run->due[i]);
		SPI_finish();
		wahook_progress("webhook_dlq", next - i);
	}
}

static Datum
report(const Run *run, int64 duration_ms)
{
	const char *json =
		psprintf("{\"success\": true, \"processed\": %d, \"successful\": %d, \"failed\": %d, "
				 "\"abandoned\": %d, \"requeued\": %d, \"durationMs\": %lld}",
				 run->ndue, run->successful, run->failed, run->abandoned, run->requeued,
				 (long long) duration_ms);

	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

static void
log_started(int limit)
{
	wahook_Event event;

	wahook_event_begin(&event, "DLQ_PROCESSOR_STARTED", false);
	wahook_event_int(&event, "limit", limit);
	wahook_event_end(&event);
}

static void
log_completed(const Run *run, int64 duration_ms)
{
	wahook_Event event;

	wahook_event_begin(&event, "DLQ_PROCESSOR_COMPLETED", false);
	wahook_event_int(&event, "processed", run->ndue);
	wahook_event_int(&event, "successful", run->successful);
	wahook_event_int(&event, "failed", run->failed);
	wahook_event_int(&event, "abandoned", run->abandoned);
	wahook_event_int(&event, "requeued", run->requeued);
	wahook_event_int(&event, "durationMs", duration_ms);
	wahook_event_end(&event);
}

/* process_dead_letter_queue(integer) → jsonb */
Datum
wahook_process_dead_letter_queue(PG_FUNCTION_ARGS)
{
	TimestampTz started_at = GetCurrentTimestamp();
	int limit = PG_ARGISNULL(0) ? wahook_dlq_batch_size : PG_GETARG_INT32(0);
	Run run = {0};
	int64 duration_ms;

	if (limit < 0 || limit > MAX_BATCH)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("p_limit must be between 0 and %d", MAX_BATCH),
						errdetail("It is %d.", limit),
						errhint("Leave it null for wahook.dlq_batch_size.")));
	log_started(limit);

	wahook_begin(fcinfo);
	find_handlers(&run);
	take_due(&run, limit);
	requeue(&run);
	run_all(&run);
	wahook_end();
	duration_ms = (GetCurrentTimestamp() - started_at) / 1000;
	log_completed(&run, duration_ms);
	PG_RETURN_DATUM(report(&run, duration_ms));
}

/* webhook_requeue_dead_letters() → jsonb: what the worker does, which has others for the rest. */
Datum
wahook_requeue_dead_letters(PG_FUNCTION_ARGS)
{
	TimestampTz started_at = GetCurrentTimestamp();
	Run run = {0};
	int64 duration_ms;

	log_started(wahook_dlq_batch_size);
	wahook_begin(fcinfo);
	take_due(&run, wahook_dlq_batch_size);
	requeue(&run);
	wahook_end();
	run.requeued = run.ndue;
	duration_ms = (GetCurrentTimestamp() - started_at) / 1000;
	log_completed(&run, duration_ms);
	PG_RETURN_DATUM(report(&run, duration_ms));
}
