/*
 * Leases that ran out: their messages wait again or become dead letters, and the cleanup job
 * gives back the locks nobody took over and times out conversations that are stuck.
 */
#include "conversation/expire.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/timestamp.h"

#include "conversation/lease.h"
#include "conversation/state.h"
#include "core/compat.h"
#include "core/counters.h"
#include "core/event.h"
#include "core/plan.h"
#include "core/progress.h"
#include "core/settings.h"
#include "core/wake.h"

PG_FUNCTION_INFO_V1(wahook_cleanup_stuck_conversations);

static wahook_Plan lose_plan =
	{"WITH lost AS ("
	 "UPDATE @extschema@.webhook_inbox SET losses = losses + 1"
	 " WHERE conversation_id = $1 AND seq = ANY ($2)"
	 " RETURNING seq, message_id, service, attempts, losses"
	 "), recorded AS ("
	 "INSERT INTO @extschema@.webhook_attempts (message_id, attempt, outcome,"
	 " conversation_id, lock_token, service, started_at, finished_at, duration_ms, lock_id)"
	 " SELECT message_id, attempts + losses, 'lost', $1, $3, service, $4, $5,"
	 " least(greatest(extract(epoch FROM $5 - $4) * 1000, 0), 2147483647)::integer, $7 FROM lost)"
	 " SELECT array_agg(seq ORDER BY seq) FILTER (WHERE losses >= $6), count(*) FROM lost",
	 7,
	 {UUIDOID, INT8ARRAYOID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, UUIDOID}};

/* The dead letter queue is a later stage: its SQL function is the seam. */
static wahook_Plan give_up_plan = {"SELECT @extschema@.webhook_dead_letter_lost($1, $2)",
								   2,
								   {UUIDOID, INT8ARRAYOID}};

static wahook_Plan stuck_plan =
	{"UPDATE @extschema@.webhook_conversations SET status = 'timeout', updated_at = $1"
	 " WHERE id = ANY (ARRAY(SELECT id FROM @extschema@.webhook_conversations"
	 " WHERE status IN ('pending', 'processing') AND last_activity_at <= $2"
	 " AND (locked_by IS NULL OR lock_expires_at <= $1)"
	 " FOR NO KEY UPDATE SKIP LOCKED))",
	 2,
	 {TIMESTAMPTZOID, TIMESTAMPTZOID}};

static wahook_Plan time_out_plan =
	{"UPDATE @extschema@.webhook_conversations SET status = 'timeout', updated_at = $2"
	 " WHERE id = $1 AND status IN ('active', 'pending', 'processing')",
	 2,
	 {UUIDOID, TIMESTAMPTZOID}};

/*
 * Queue rows whose messages are gone, because they were completed by other ways than a claim from the
 * queue. A message and its row commit together, so who sees the row and not the message comes after.
 * Nor does a release count on such a row for another message: it has the time of its own delivery.
 */
static wahook_Plan tidy_plan =
	{"DELETE FROM @extschema@.webhook_conversation_queue WHERE ctid = ANY (ARRAY("
	 "SELECT ctid FROM @extschema@.webhook_conversation_queue WHERE ctid = ANY (ARRAY("
	 "SELECT q.ctid FROM (SELECT due.* FROM @extschema@.webhook_services s CROSS JOIN LATERAL ("
	 "SELECT q.ctid, q.conversation_id || q.others AS ids"
	 " FROM @extschema@.webhook_conversation_queue q"
	 " WHERE q.service = s.name AND q.due_at <= $1 ORDER BY q.due_at LIMIT 1000) due) q"
	 " WHERE NOT EXISTS (SELECT FROM @extschema@.webhook_inbox i"
	 " WHERE i.conversation_id = ANY (q.ids)))) FOR UPDATE SKIP LOCKED))",
	 1,
	 {TIMESTAMPTZOID}};

/*
 * What came for a service while it was being deleted is for 'default'. The services in the queue are
 * found one by one, for it may be long. A row that somebody is changing is left to a later run.
 */
static wahook_Plan adopt_plan =
	{"WITH RECURSIVE queued AS ("
	 "(SELECT service FROM @extschema@.webhook_conversation_queue ORDER BY service LIMIT 1)"
	 " UNION ALL SELECT (SELECT q.service FROM @extschema@.webhook_conversation_queue q"
	 " WHERE q.service > queued.service ORDER BY q.service LIMIT 1)"
	 " FROM queued WHERE queued.service IS NOT NULL"
	 "), orphans AS ("
	 "DELETE FROM @extschema@.webhook_conversation_queue WHERE ctid = ANY (ARRAY("
	 "SELECT ctid FROM @extschema@.webhook_conversation_queue WHERE service = ANY (ARRAY("
	 "SELECT service FROM queued WHERE service NOT IN"
	 " (SELECT name FROM @extschema@.webhook_services))) FOR UPDATE SKIP LOCKED))"
	 " RETURNING conversation_id, others, service, due_at"
	 "), adopted AS ("
	 "UPDATE @extschema@.webhook_inbox i SET service = 'default' FROM orphans o"
	 " WHERE i.conversation_id = ANY (o.conversation_id || o.others) AND i.service = o.service)"
	 " INSERT INTO @extschema@.webhook_conversation_queue (conversation_id, others, due_at)"
	 " SELECT conversation_id, others, due_at FROM orphans",
	 0};

void
wahook_expire_claim(wahook_RowReader *rows, wahook_Conversation *conversation, TimestampTz now)
{
	Datum values[] = {UUIDPGetDatum(&conversation->id),
					  PointerGetDatum(conversation->claimed),
					  Int64GetDatum(conversation->lock_token),
					  TimestampTzGetDatum(conversation->locked_at),
					  TimestampTzGetDatum(now),
					  Int32GetDatum(wahook_max_attempts),
					  UUIDPGetDatum(&conversation->locked_by)};
	char nulls[] = "       ";
	bool none;
	bool isnull;
	Datum given_up;

	if (!conversation->locked || conversation->claimed == NULL)
		return;
	if (TIMESTAMP_NOT_FINITE(conversation->locked_at))
		nulls[3] = 'n';
	wahook_execute(&lose_plan, values, nulls);
	given_up = wahook_result(0, 1, &none);
	wahook_count(WAHOOK_MESSAGES_FAILED, DatumGetInt64(wahook_result(0, 2, &isnull)));
	if (!none)
	{
		Datum give_up[] = {values[0], given_up};

		wahook_execute(&give_up_plan, give_up, NULL);

		/* It counts the error in the conversation's row, which the caller goes on to change. */
		CommandCounterIncrement();
		(void) wahook_peek_conversation(rows, &conversation->id, conversation);
	}
}

/* Times out a conversation whose holder vanished and where nothing has happened for long. */
static void
time_out(const pg_uuid_t *id, TimestampTz now)
{
	Datum values[] = {UUIDPGetDatum(id), TimestampTzGetDatum(now)};

	wahook_execute_transition(&time_out_plan, values, "lock expired");
}

typedef struct Cleanup
{
	TimestampTz now;
	TimestampTz idle_since;
	wahook_Store store;
	int released;
} Cleanup;

/* Gives back the lock where its lease has run out and nobody has taken it over. */
static wahook_LeaseEnd
release_expired(void *arg, const wahook_Lease *lease, const pg_uuid_t *id, TimestampTz *until)
{
	Cleanup *cleanup = arg;
	wahook_RowReader *rows = &cleanup->store.conversations.rows;
	wahook_Conversation conversation;
	wahook_RowState state = wahook_peek_conversation(rows, id, &conversation);
	TimestampTz last_activity_at;

	if (state == WAHOOK_ROW_STEADY && !wahook_lock_is_free(&conversation, cleanup->now))
	{
		*until = conversation.lock_expires_at;
		return memcmp(&conversation.locked_by, &lease->lock_id, sizeof(pg_uuid_t)) == 0
				   ? WAHOOK_LEASE_RENEWED
				   : WAHOOK_LEASE_OVER;
	}
	if (state != WAHOOK_ROW_NONE && (state != WAHOOK_ROW_STEADY || !wahook_try_lock_row(rows)))
		return WAHOOK_LEASE_UNCLEAR;
	if (!conversation.locked)
	{
		/* Taken off directly, or the conversation was deleted: then nobody has queued it again. */
		wahook_requeue(&cleanup->store, id, 1);
		return WAHOOK_LEASE_OVER;
	}
	last_activity_at = conversation.last_activity_at;
	wahook_progress("webhook_leases", 1);
	wahook_expire_claim(rows, &conversation, cleanup->now);
	wahook_unlock(&cleanup->store, id, cleanup->now);
	if (last_activity_at <= cleanup->idle_since)
		time_out(id, cleanup->now);
	cleanup->released++;
	return WAHOOK_LEASE_OVER;
}

/* cleanup_stuck_webhook_conversations() → integer: how many locks it released. */
Datum
wahook_cleanup_stuck_conversations(PG_FUNCTION_ARGS)
{
	Cleanup cleanup = {.now = GetCurrentTimestamp()};
	Datum values[2];

	cleanup.idle_since = cleanup.now - wahook_stuck_timeout_s * USECS_PER_SEC;
	values[0] = TimestampTzGetDatum(cleanup.now);
	values[1] = TimestampTzGetDatum(cleanup.idle_since);
	wahook_begin(fcinfo);
	wahook_open_store(&cleanup.store);
	(void) wahook_visit_leases(&cleanup.store.leases, DT_NOBEGIN, cleanup.now, release_expired,
							   &cleanup);
	wahook_close_store(&cleanup.store);
	wahook_execute_transition(&stuck_plan, values, "stuck");
	if (wahook_execute(&adopt_plan, NULL, NULL) > 0)
		wahook_note_work(WAHOOK_WORK_DELIVER);
	wahook_execute(&tidy_plan, values, NULL);
	wahook_end();
	PG_RETURN_INT32(cleanup.released);
}
