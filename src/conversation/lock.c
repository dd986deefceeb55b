/*
 * Holding a conversation: acquire, renew, release, and the row lock behind each fenced call.
 *
 * The lock is three columns of the conversation's row. Whoever changes them first row-locks
 * exactly the version it looked at (core/row.c), so a decision can't be overtaken, and the change
 * itself updates no indexed column. A row in webhook_conversation_queue stands at the end of each
 * lease, so that a vanished holder is found without a scan of all conversations.
 */
#include "conversation/lock.h"

#include "access/genam.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"

#include "conversation/expire.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/event.h"
#include "core/plan.h"
#include "core/settings.h"
#include "core/uuid.h"

/* Columns of webhook_conversations; new ones are only ever added at the end. */
enum
{
	Anum_id = 1,
	Anum_status = 5,
	Anum_last_activity_at = 6,
	Anum_locked_by = 9,
	Anum_locked_at = 10,
	Anum_lock_token = 15,
	Anum_lock_expires_at = 16,
	Anum_claimed_messages = 17
};

PG_FUNCTION_INFO_V1(wahook_acquire_conversation_lock);
PG_FUNCTION_INFO_V1(wahook_release_conversation_lock);
PG_FUNCTION_INFO_V1(wahook_renew_conversation_lock);

static wahook_Plan lock_plan =
	{"UPDATE @extschema@.webhook_conversations"
	 " SET locked_by = $2, locked_at = $3, lock_token = lock_token + 1, lock_expires_at = $4,"
	 " claimed_messages = NULL, last_activity_at = $3, updated_at = $3"
	 " WHERE id = $1 RETURNING lock_token",
	 4,
	 {UUIDOID, UUIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID}};

static wahook_Plan renew_plan =
	{"UPDATE @extschema@.webhook_conversations"
	 " SET lock_expires_at = $2, last_activity_at = $3, updated_at = $3 WHERE id = $1",
	 3,
	 {UUIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID}};

static wahook_Plan unlock_plan =
	{"UPDATE @extschema@.webhook_conversations"
	 " SET locked_by = NULL, locked_at = NULL, lock_expires_at = NULL, claimed_messages = NULL,"
	 " last_activity_at = $2, updated_at = $2"
	 " WHERE id = ANY ($1)",
	 2,
	 {UUIDARRAYOID, TIMESTAMPTZOID}};

/*
 * The queue rows of conversations are replaced as a whole. A row that another transaction has
 * locked is left: it is looked at once more than needed, and then removed.
 */
#define DELETE_QUEUE_ROWS \
	"DELETE FROM @extschema@.webhook_conversation_queue WHERE ctid = ANY (ARRAY(" \
	"SELECT ctid FROM @extschema@.webhook_conversation_queue" \
	" WHERE conversation_id = ANY ($1) FOR UPDATE SKIP LOCKED))"

static wahook_Plan park_plan =
	{"WITH gone AS (" DELETE_QUEUE_ROWS ")"
	 " INSERT INTO @extschema@.webhook_conversation_queue (conversation_id, service, due_at)"
	 " SELECT c.id, c.service, $3 FROM unnest($1, $2) AS c (id, service)",
	 3,
	 {UUIDARRAYOID, TEXTARRAYOID, TIMESTAMPTZOID}};

/*
 * Both halves see one snapshot, taken after the unlock: a queue row that is deleted here was
 * committed with its inbox row, so that row is seen too. What commits later brings its own.
 */
static wahook_Plan requeue_plan =
	{"WITH gone AS (" DELETE_QUEUE_ROWS ")"
	 " INSERT INTO @extschema@.webhook_conversation_queue (conversation_id, service, due_at)"
	 " SELECT c.id, head.service, head.enqueued_at FROM unnest($1) AS c (id)"
	 " CROSS JOIN LATERAL (SELECT i.service, i.enqueued_at FROM @extschema@.webhook_inbox i"
	 " WHERE i.conversation_id = c.id ORDER BY i.conversation_id, i.seq LIMIT 1) head",
	 1,
	 {UUIDARRAYOID}};

void
wahook_open_conversations(wahook_RowReader *reader)
{
	wahook_open_rows(reader, "webhook_conversations", "webhook_conversations_pkey",
					 RowExclusiveLock);
}

/* Looks at a conversation as wahook_peek_row() does, and reads its row when there is one. */
wahook_RowState
wahook_peek_conversation(wahook_RowReader *reader, const pg_uuid_t *id,
						 wahook_Conversation *conversation)
{
	TupleTableSlot *slot = reader->slot;
	ScanKeyData key;
	wahook_RowState state;
	bool isnull;
	Datum value;

	ScanKeyInit(&key, Anum_id, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
	state = wahook_peek_row(reader, &key, 1);
	memset(conversation, 0, sizeof(*conversation));
	conversation->id = *id;
	if (state == WAHOOK_ROW_NONE)
		return state;

	conversation->status = TextDatumGetCString(slot_getattr(slot, Anum_status, &isnull));
	conversation->last_activity_at =
		DatumGetTimestampTz(slot_getattr(slot, Anum_last_activity_at, &isnull));
	conversation->lock_token = DatumGetInt64(slot_getattr(slot, Anum_lock_token, &isnull));
	value = slot_getattr(slot, Anum_locked_by, &isnull);
	if (isnull)
		return state;
	conversation->locked = true;
	conversation->locked_by = *DatumGetUUIDP(value);
	value = slot_getattr(slot, Anum_locked_at, &isnull);
	conversation->locked_at = isnull ? DT_NOBEGIN : DatumGetTimestampTz(value);
	value = slot_getattr(slot, Anum_lock_expires_at, &isnull);
	conversation->lock_expires_at = isnull ? DT_NOBEGIN : DatumGetTimestampTz(value);
	value = slot_getattr(slot, Anum_claimed_messages, &isnull);
	if (!isnull)
		conversation->claimed = DatumGetArrayTypePCopy(value);
	return state;
}

bool
wahook_lock_is_free(const wahook_Conversation *conversation, TimestampTz now)
{
	return !conversation->locked || conversation->lock_expires_at <= now;
}

static bool
held_by(const wahook_Conversation *conversation, const pg_uuid_t *lock_id)
{
	return conversation->locked &&
		   memcmp(&conversation->locked_by, lock_id, sizeof(pg_uuid_t)) == 0;
}

static void
raise_lock_lost(const wahook_Conversation *conversation, const pg_uuid_t *lock_id)
{
	ereport(ERROR,
			(errcode(WAHOOK_LOCK_LOST),
			 errmsg("lock on conversation %s was lost", wahook_uuid_text(&conversation->id)),
			 conversation->locked
				 ? errdetail("It is held by another lock id, under token %lld, not by %s.",
							 (long long) conversation->lock_token, wahook_uuid_text(lock_id))
				 : errdetail("It is not locked; lock id %s does not hold it any more.",
							 wahook_uuid_text(lock_id)),
			 errhint(
				 "Stop working on these messages: they wait for their next claim, or have had it. Renew the lock before its lease ends, or ask for a longer lease.")));
}

bool
wahook_try_hold(wahook_RowReader *reader, const pg_uuid_t *id, const pg_uuid_t *lock_id,
				wahook_Conversation *conversation)
{
	wahook_RowState state = wahook_peek_conversation(reader, id, conversation);

	if (state == WAHOOK_ROW_NONE || !held_by(conversation, lock_id))
		return false;
	if (state != WAHOOK_ROW_STEADY || !wahook_try_lock_row(reader))
		ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						errmsg("conversation %s is being changed by another transaction",
							   wahook_uuid_text(id)),
						errdetail("This call does not wait for other transactions."),
						errhint("Try again.")));
	return true;
}

static bool
try_hold_one(const pg_uuid_t *id, const pg_uuid_t *lock_id, wahook_Conversation *conversation)
{
	wahook_RowReader reader;
	bool held;

	wahook_open_conversations(&reader);
	held = wahook_try_hold(&reader, id, lock_id, conversation);
	wahook_close_rows(&reader);
	return held;
}

void
wahook_hold_conversation(const pg_uuid_t *id, const pg_uuid_t *lock_id,
						 wahook_Conversation *conversation)
{
	if (try_hold_one(id, lock_id, conversation))
		return;
	if (conversation->status == NULL)
		ereport(ERROR, (errcode(WAHOOK_UNKNOWN_CONVERSATION),
						errmsg("conversation %s does not exist", wahook_uuid_text(id)),
						errhint("Pass the conversation_id of a row of claim_conversations().")));
	raise_lock_lost(conversation, lock_id);
}

Datum
wahook_uuid_array(const pg_uuid_t *ids, int n)
{
	Datum *elements = palloc(n * sizeof(Datum));

	for (int i = 0; i < n; i++)
		elements[i] = UUIDPGetDatum(&ids[i]);
	return PointerGetDatum(construct_array(elements, n, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
}

void
wahook_park(Datum ids, Datum services, TimestampTz due_at)
{
	Datum values[] = {ids, services, TimestampTzGetDatum(due_at)};

	wahook_execute(&park_plan, values, NULL);
}

void
wahook_requeue(Datum ids)
{
	wahook_execute(&requeue_plan, &ids, NULL);
}

void
wahook_give_locks_back(Datum ids)
{
	Datum values[] = {ids, TimestampTzGetDatum(GetCurrentTimestamp())};

	wahook_execute(&unlock_plan, values, NULL);
	wahook_requeue(ids);
}

void
wahook_give_lock_back(const pg_uuid_t *id)
{
	wahook_give_locks_back(wahook_uuid_array(id, 1));
}

int64
wahook_lease_us(const Interval *lease)
{
	int64 us;

	if (lease == NULL)
		return wahook_lock_timeout_s * USECS_PER_SEC;
	us = lease->time + (lease->day + (int64) lease->month * DAYS_PER_MONTH) * USECS_PER_DAY;
	if (us < WAHOOK_MIN_LEASE_S * USECS_PER_SEC || us > WAHOOK_MAX_LEASE_S * USECS_PER_SEC)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("lease is out of range"),
						errdetail("A lease lasts between %d second and %d seconds.",
								  WAHOOK_MIN_LEASE_S, WAHOOK_MAX_LEASE_S),
						errhint("Leave p_lease null for the setting wahook.lock_timeout.")));
	return us;
}

bool
wahook_take_lock(const pg_uuid_t *id, const pg_uuid_t *lock_id, int64 lease_us)
{
	TimestampTz now = GetCurrentTimestamp();
	wahook_Conversation conversation;
	wahook_RowReader reader;
	Datum service = CStringGetTextDatum("default");
	Datum values[] = {UUIDPGetDatum(id), UUIDPGetDatum(lock_id), TimestampTzGetDatum(now),
					  TimestampTzGetDatum(now + lease_us)};
	bool taken;

	wahook_open_conversations(&reader);
	taken = wahook_peek_conversation(&reader, id, &conversation) == WAHOOK_ROW_STEADY &&
			wahook_lock_is_free(&conversation, now) && wahook_try_lock_row(&reader);
	wahook_close_rows(&reader);
	if (!taken)
		return false;

	wahook_expire_claim(&conversation, now);
	wahook_execute(&lock_plan, values, NULL);
	wahook_park(wahook_uuid_array(id, 1),
				PointerGetDatum(construct_array(&service, 1, TEXTOID, -1, false, TYPALIGN_INT)),
				now + lease_us);
	return true;
}

static void
log_lock(const char *event_name, bool problem, const pg_uuid_t *id, const pg_uuid_t *lock_id)
{
	wahook_Event event;

	wahook_event_begin(&event, event_name, problem);
	wahook_event_uuid(&event, "conversation_id", id);
	wahook_event_uuid(&event, "lock_id", lock_id);
	wahook_event_end(&event);
}

/* acquire_conversation_lock(uuid, uuid) → boolean: whether this call took the lock. */
Datum
wahook_acquire_conversation_lock(PG_FUNCTION_ARGS)
{
	pg_uuid_t *id = PG_GETARG_UUID_P(0);
	pg_uuid_t *lock_id = PG_GETARG_UUID_P(1);
	bool taken;

	wahook_begin(fcinfo);
	taken = wahook_take_lock(id, lock_id, wahook_lease_us(NULL));
	log_lock(taken ? "CONVERSATION_LOCK_ACQUIRED" : "CONVERSATION_LOCK_FAILED", false, id, lock_id);
	wahook_end();
	PG_RETURN_BOOL(taken);
}

/* release_conversation_lock(uuid, uuid) → boolean: whether this lock id held it. */
Datum
wahook_release_conversation_lock(PG_FUNCTION_ARGS)
{
	pg_uuid_t *id = PG_GETARG_UUID_P(0);
	wahook_Conversation conversation;
	bool held;

	wahook_begin(fcinfo);
	held = try_hold_one(id, PG_GETARG_UUID_P(1), &conversation);
	if (held)
		wahook_give_lock_back(id);
	wahook_end();
	PG_RETURN_BOOL(held);
}

/* renew_conversation_lock(uuid, uuid, interval) → timestamptz: the new expiry, null when lost. */
Datum
wahook_renew_conversation_lock(PG_FUNCTION_ARGS)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz expires_at;
	wahook_Conversation conversation;
	bool held;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	expires_at = now + wahook_lease_us(PG_ARGISNULL(2) ? NULL : PG_GETARG_INTERVAL_P(2));
	wahook_begin(fcinfo);
	held = try_hold_one(PG_GETARG_UUID_P(0), PG_GETARG_UUID_P(1), &conversation);
	if (held)
	{
		Datum values[] = {PG_GETARG_DATUM(0), TimestampTzGetDatum(expires_at),
						  TimestampTzGetDatum(now)};

		wahook_execute(&renew_plan, values, NULL);
	}
	wahook_end();
	if (!held)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(expires_at);
}
