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

#include "conversation/complete.h"
#include "conversation/lock.h"
#include "core/compat.h"
#include "core/event.h"
#include "core/plan.h"
#include "core/settings.h"
#include "core/uuid.h"
#include "core/wake.h"
#include "retry/dead_letter.h"
#include "retry/entry.h"
#include "retry/handler.h"
#include "retry/retriable.h"

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

/*
 * Entries that nobody here can do anything about are not taken: they would fill up every batch. Nor
 * are those whose messages wait in an inbox, perhaps claimed: what becomes of them there decides.
 * done: the message was completed after its entry last changed. A batch is put in the order of its
 * conversations.
 */
static wahook_Plan due_plan =
	{"SELECT * FROM (SELECT d.id, q.conversation_id, q.message_id, d.service, d.retry_count,"
	 " d.max_retries, coalesce(q.done, false), d.next_retry_at FROM @extschema@.webhook_dlq d"
	 " LEFT JOIN LATERAL (SELECT m.id AS message_id, c.id AS conversation_id,"
	 " m.processed_at > d.updated_at AS done, EXISTS (SELECT FROM @extschema@.webhook_inbox i"
	 " WHERE i.conversation_id = c.id AND i.message_id = m.id) AS waits"
	 " FROM @extschema@.processed_webhook_messages m LEFT JOIN @extschema@.webhook_conversations c"
	 " ON c.id = m.conversation_id AND m.processed_at IS NULL"
	 " WHERE m.whatsapp_message_id = d.whatsapp_message_id) q ON true"
	 " WHERE d.resolution_status = 'pending' AND d.next_retry_at <= $1 AND (q.done"
	 " OR q.waits IS NOT TRUE AND (q.conversation_id IS NOT NULL OR d.service = ANY ($3)))"
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
	 "SELECT d.id, d.service, d.retry_count, m.id AS message_id, m.conversation_id"
	 " FROM @extschema@.webhook_dlq d JOIN @extschema@.processed_webhook_messages m"
	 " ON m.whatsapp_message_id = d.whatsapp_message_id"
	 " WHERE d.id = ANY ($1) AND d.resolution_status = 'pending'"
	 "), waiting AS ("
	 "INSERT INTO @extschema@.webhook_inbox"
	 " (conversation_id, message_id, service, attempts, enqueued_at)"
	 " SELECT conversation_id, message_id, service, retry_count + 1, $2 FROM due"
	 "), queued AS ("
	 "INSERT INTO @extschema@.webhook_conversation_queue (conversation_id, service, due_at)"
	 " SELECT DISTINCT conversation_id, service, $2 FROM due)"
	 " UPDATE @extschema@.webhook_dlq d SET resolution_status = 'retrying', next_retry_at = NULL,"
	 " retry_lease_until = NULL, updated_at = $2 FROM due WHERE d.id = due.id",
	 2,
	 {UUIDARRAYOID, TIMESTAMPTZOID}};

static wahook_Plan waiting_plan =
	{"SELECT i.seq, i.attempts, i.losses, m.whatsapp_message_id, i.service,"
	 " @extschema@.webhook_message_json(m, i.attempts + i.losses + 1)"
	 " || jsonb_build_object('conversation_id', $1, 'service', i.service, 'lock_token', $3)"
	 " FROM @extschema@.webhook_inbox i"
	 " JOIN @extschema@.processed_webhook_messages m ON m.id = i.message_id"
	 " WHERE i.conversation_id = $1 AND i.message_id = ANY ($2) ORDER BY i.seq",
	 3,
	 {UUIDOID, UUIDARRAYOID, INT8OID}};

static wahook_Plan direct_plan =
	{"SELECT CASE jsonb_typeof(payload) WHEN 'object' THEN payload"
	 " ELSE jsonb_build_object('message', payload) END"
	 " || jsonb_build_object('whatsapp_message_id', whatsapp_message_id, 'attempt', retry_count + 2,"
	 " 'received_at', created_at, 'kind', NULL, 'correlation_id', correlation_id,"
	 " 'conversation_id', conversation_id, 'service', service, 'lock_token', NULL)"
	 " FROM @extschema@.webhook_dlq WHERE id = $1",
	 1,
	 {UUIDOID}};

static const wahook_Handler *
handler_of(const Run *run, const char *service)
{
	for (int i = 0; i < run->nhandlers; i++)
		if (strcmp(run->handlers[i].service, service) == 0)
			return &run->handlers[i];
	return NULL;
}

static void
count_failure(Run *run, Datum entry)
{
	if (wahook_entry_has_status(entry, "failed"))
		run->abandoned++;
	else
		run->failed++;
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

/* Runs a waiting message of a conversation that this job has locked. */
static void
run_waiting(Run *run, const wahook_Conversation *conversation, const wahook_Handler *handler,
			const wahook_Waiting *waiting, Datum message)
{
	wahook_Failure failure;
	TimestampTz started_at = GetCurrentTimestamp();
	Datum entry;

	if (wahook_run_handler(handler, message, &failure))
	{
		Datum seq = Int64GetDatum(waiting->seq);
		ArrayType *seqs =
			construct_array(&seq, 1, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);

		wahook_complete_messages(conversation, seqs,
								 (int) ((GetCurrentTimestamp() - started_at) / 1000));
		run->successful++;
		return;
	}
	entry = wahook_dead_letter(conversation, waiting, &failure);
	if (entry == 0)
		run->requeued++;
	else
		count_failure(run, entry);
}

/* Runs those of the messages that wait in the conversation for a handler; returns how many. */
static int
run_inbox(Run *run, const wahook_Conversation *conversation, const pg_uuid_t *message_ids, int n)
{
	Datum values[] = {UUIDPGetDatum(&conversation->id), wahook_uuid_array(message_ids, n),
					  Int64GetDatum(conversation->lock_token)};
	int nrows = wahook_execute(&waiting_plan, values, NULL);
	SPITupleTable *rows = SPI_tuptable;
	TupleDesc desc = rows->tupdesc;
	int ran = 0;
	bool isnull;

	for (int i = 0; i < nrows; i++)
	{
		HeapTuple row = rows->vals[i];
		const wahook_Handler *handler = handler_of(run, SPI_getvalue(row, desc, 5));
		wahook_Waiting waiting = {.seq = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull)),
								  .attempts = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull)),
								  .losses = DatumGetInt32(SPI_getbinval(row, desc, 3, &isnull)),
								  .whatsapp_message_id = SPI_getbinval(row, desc, 4, &isnull)};

		if (handler == NULL)
			continue;
		run_waiting(run, conversation, handler, &waiting, SPI_getbinval(row, desc, 6, &isnull));
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

/* The handler may have deleted the entry: what it has dealt with is no failure. */
static void
run_direct(Run *run, const Due *due)
{
	Datum id = UUIDPGetDatum(&due->id);
	wahook_Failure failure;
	bool isnull;

	if (wahook_execute(&direct_plan, &id, NULL) == 0)
		return;
	if (wahook_run_handler(handler_of(run, due->service), wahook_result(0, 1, &isnull), &failure))
	{
		(void) wahook_end_retry(&due->id, due->retry_count, due->max_retries, NULL);
		run->successful++;
	}
	else
		count_failure(run,
					  wahook_end_retry(&due->id, due->retry_count, due->max_retries, &failure));
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
	wahook_Event event;
	int64 duration_ms;

	if (limit < 0 || limit > MAX_BATCH)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("p_limit must be between 0 and %d", MAX_BATCH),
						errdetail("It is %d.", limit),
						errhint("Leave it null for wahook.dlq_batch_size.")));
	wahook_event_begin(&event, "DLQ_PROCESSOR_STARTED", false);
	wahook_event_int(&event, "limit", limit);
	wahook_event_end(&event);

	wahook_begin(fcinfo);
	run.nhandlers = wahook_find_handlers(&run.handlers);
	take_due(&run, limit);
	requeue(&run);
	run_all(&run);
	wahook_end();
	duration_ms = (GetCurrentTimestamp() - started_at) / 1000;
	log_completed(&run, duration_ms);
	PG_RETURN_DATUM(report(&run, duration_ms));
}
