/*
 * Leases that ran out: their messages wait again or become dead letters, and the cleanup job
 * gives back the locks nobody took over and times out conversations that are stuck.
 */
#include "conversation/expire.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/timestamp.h"

#include "conversation/state.h"
#include "core/compat.h"
#include "core/event.h"
#include "core/plan.h"
#include "core/settings.h"

PG_FUNCTION_INFO_V1(wahook_cleanup_stuck_conversations);

static wahook_Plan lose_plan =
	{"WITH lost AS ("
	 "UPDATE @extschema@.webhook_inbox SET losses = losses + 1"
	 " WHERE conversation_id = $1 AND seq = ANY ($2)"
	 " RETURNING seq, message_id, service, attempts, losses"
	 "), recorded AS ("
	 "INSERT INTO @extschema@.webhook_delivery_attempts (message_id, attempt, outcome,"
	 " conversation_id, lock_token, service, started_at, finished_at, duration_ms)"
	 " SELECT message_id, attempts + losses, 'lost', $1, $3, service, $4, $5,"
	 " least(greatest(extract(epoch FROM $5 - $4) * 1000, 0), 2147483647)::integer FROM lost)"
	 " SELECT array_agg(seq ORDER BY seq) FROM lost WHERE losses >= $6",
	 6,
	 {UUIDOID, INT8ARRAYOID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID}};

/* The dead letter queue is a later stage: its SQL function is the seam. */
static wahook_Plan give_up_plan = {"SELECT @extschema@.webhook_dead_letter_lost($1, $2)",
								   2,
								   {UUIDOID, INT8ARRAYOID}};

/* A conversation with an expired lease has a queue row that came due when the lease ended. */
static wahook_Plan expired_plan =
	{"SELECT DISTINCT c.id FROM @extschema@.webhook_conversation_queue q"
	 " JOIN @extschema@.webhook_conversations c ON c.id = q.conversation_id"
	 " WHERE q.service = ANY (ARRAY(SELECT name FROM @extschema@.webhook_services))"
	 " AND q.due_at <= $1 AND c.locked_by IS NOT NULL AND c.lock_expires_at <= $1",
	 1,
	 {TIMESTAMPTZOID}};

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

void
wahook_expire_claim(wahook_RowReader *rows, wahook_Conversation *conversation, TimestampTz now)
{
	Datum values[] = {UUIDPGetDatum(&conversation->id),
					  PointerGetDatum(conversation->claimed),
					  Int64GetDatum(conversation->lock_token),
					  TimestampTzGetDatum(conversation->locked_at),
					  TimestampTzGetDatum(now),
					  Int32GetDatum(wahook_max_attempts)};
	char nulls[] = "      ";
	bool none;
	Datum given_up;

	if (!conversation->locked || conversation->claimed == NULL)
		return;
	if (TIMESTAMP_NOT_FINITE(conversation->locked_at))
		nulls[3] = 'n';
	wahook_execute(&lose_plan, values, nulls);
	given_up = wahook_result(0, 1, &none);
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

/* Gives back the locks whose leases have run out. */
static int
release_expired(TimestampTz now, TimestampTz idle_since)
{
	Datum values[] = {TimestampTzGetDatum(now)};
	uint64 candidates = wahook_execute(&expired_plan, values, NULL);
	SPITupleTable *rows = SPI_tuptable;
	int released = 0;
	wahook_Store store;

	wahook_open_store(&store);
	for (uint64 i = 0; i < candidates; i++)
	{
		bool isnull;
		pg_uuid_t *id = DatumGetUUIDP(SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull));
		wahook_Conversation conversation;
		TimestampTz last_activity_at;

		if (wahook_peek_conversation(&store.conversations.rows, id, &conversation) !=
				WAHOOK_ROW_STEADY ||
			!conversation.locked || !wahook_lock_is_free(&conversation, now) ||
			!wahook_try_lock_row(&store.conversations.rows))
			continue;
		last_activity_at = conversation.last_activity_at;
		wahook_expire_claim(&store.conversations.rows, &conversation, now);
		wahook_unlock(&store, id, now);
		if (last_activity_at <= idle_since)
			time_out(id, now);
		released++;
	}
	wahook_close_store(&store);
	return released;
}

/* cleanup_stuck_webhook_conversations() → integer: how many locks it released. */
Datum
wahook_cleanup_stuck_conversations(PG_FUNCTION_ARGS)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz idle_since = now - wahook_stuck_timeout_s * USECS_PER_SEC;
	Datum values[] = {TimestampTzGetDatum(now), TimestampTzGetDatum(idle_since)};
	int released;

	wahook_begin(fcinfo);
	released = release_expired(now, idle_since);
	wahook_execute_transition(&stuck_plan, values, "stuck");
	wahook_end();
	PG_RETURN_INT32(released);
}
