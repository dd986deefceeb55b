/*
 * Holding a conversation: acquire, renew, release, and the row lock behind each fenced call.
 *
 * The lock is three columns of the conversation's row. Whoever changes them first row-locks
 * exactly the version it looked at (core/row.c), so a decision can't be overtaken, and the change
 * itself updates no indexed column. A vanished holder is found by the end of its lease
 * (conversation/lease.c), without a scan of all conversations.
 */
#include "conversation/lock.h"

#include "access/genam.h"
#include "access/xact.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "conversation/expire.h"
#include "conversation/line.h"
#include "conversation/lease.h"
#include "core/compat.h"
#include "core/counters.h"
#include "core/errors.h"
#include "core/event.h"
#include "core/plan.h"
#include "core/settings.h"
#include "core/tables.h"
#include "core/uuid.h"
#include "ingest/queue.h"

PG_FUNCTION_INFO_V1(wahook_acquire_conversation_lock);
PG_FUNCTION_INFO_V1(wahook_release_conversation_lock);
PG_FUNCTION_INFO_V1(wahook_renew_conversation_lock);

void
wahook_open_store(wahook_Store *store)
{
	wahook_open_table(&store->conversations, "webhook_conversations", "webhook_conversations_pkey");
	wahook_open_table_beside(&store->inbox, &store->conversations, "webhook_inbox",
							 "webhook_inbox_pkey");
	wahook_open_table_beside(&store->leases, &store->conversations, "webhook_leases",
							 "webhook_leases_pkey");
	store->queue_is_open = false;
	store->context = CurrentMemoryContext;
}

wahook_Table *
wahook_queue_of(wahook_Store *store)
{
	if (!store->queue_is_open)
	{
		MemoryContext caller = MemoryContextSwitchTo(store->context);

		wahook_open_queue(&store->queue);
		store->queue_is_open = true;
		MemoryContextSwitchTo(caller);
	}
	return &store->queue;
}

void
wahook_close_store(wahook_Store *store)
{
	if (store->queue_is_open)
		wahook_close_table(&store->queue);
	wahook_close_table(&store->leases);
	wahook_close_table(&store->inbox);
	wahook_close_table(&store->conversations);
}

void
wahook_open_conversations(wahook_RowReader *rows)
{
	wahook_open_rows(rows, "webhook_conversations", "webhook_conversations_pkey", RowExclusiveLock);
}

static Datum
column(TupleTableSlot *slot, int attnum)
{
	bool isnull;
	Datum value = slot_getattr(slot, attnum, &isnull);

	return isnull ? (Datum) 0 : value;
}

/* A time; that of the big bang where there is none. */
static TimestampTz
read_time(TupleTableSlot *slot, int attnum)
{
	bool isnull;
	Datum value = slot_getattr(slot, attnum, &isnull);

	return isnull ? DT_NOBEGIN : DatumGetTimestampTz(value);
}

/* A value that outlives the slot it comes from. */
static Datum
copy_varlena(Datum value)
{
	return value ? PointerGetDatum(PG_DETOAST_DATUM_COPY(value)) : (Datum) 0;
}

wahook_RowState
wahook_peek_conversation(wahook_RowReader *rows, const pg_uuid_t *id,
						 wahook_Conversation *conversation)
{
	TupleTableSlot *slot = rows->slot;
	ScanKeyData key;
	wahook_RowState state;
	Datum value;

	ScanKeyInit(&key, Anum_conversation_id, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
	state = wahook_peek_row(rows, &key, 1);
	*conversation = (wahook_Conversation){.id = *id};
	if (state == WAHOOK_ROW_NONE)
		return state;

	conversation->status = TextDatumGetCString(column(slot, Anum_conversation_status));
	conversation->last_activity_at =
		DatumGetTimestampTz(column(slot, Anum_conversation_last_activity_at));
	conversation->lock_token = DatumGetInt64(column(slot, Anum_conversation_lock_token));
	value = column(slot, Anum_conversation_locked_by);
	if (value == (Datum) 0)
		return state;
	conversation->locked = true;
	conversation->locked_by = *DatumGetUUIDP(value);
	conversation->locked_at = read_time(slot, Anum_conversation_locked_at);
	conversation->lock_expires_at = read_time(slot, Anum_conversation_lock_expires_at);
	value = column(slot, Anum_conversation_claimed_messages);
	if (value)
		conversation->claimed = DatumGetArrayTypePCopy(value);
	return state;
}

void
wahook_read_party(const wahook_RowReader *rows, wahook_Conversation *conversation)
{
	TupleTableSlot *slot = rows->slot;

	conversation->user_id = copy_varlena(column(slot, Anum_conversation_user_id));
	conversation->whatsapp_phone = copy_varlena(column(slot, Anum_conversation_whatsapp_phone));
	conversation->agent_type = copy_varlena(column(slot, Anum_conversation_agent_type));
	conversation->context = copy_varlena(column(slot, Anum_conversation_context));
}

bool
wahook_lock_is_free(const wahook_Conversation *conversation, TimestampTz now)
{
	return !conversation->locked || conversation->lock_expires_at <= now;
}

wahook_Counter
wahook_acquisition(const wahook_Conversation *conversation)
{
	return conversation->locked ? WAHOOK_LOCKS_TAKEN_OVER : WAHOOK_LOCKS_ACQUIRED;
}

static bool
held_by(const wahook_Conversation *conversation, const pg_uuid_t *lock_id)
{
	return conversation->locked &&
		   memcmp(&conversation->locked_by, lock_id, sizeof(pg_uuid_t)) == 0;
}

void
wahook_raise_unknown_conversation(const pg_uuid_t *id)
{
	ereport(
		ERROR,
		(errcode(WAHOOK_UNKNOWN_CONVERSATION),
		 errmsg("conversation %s does not exist", wahook_uuid_text(id)),
		 errdetail(
			 "webhook_conversations has no such id, or has it no more: idle conversations are deleted after wahook.conversation_retention."),
		 errhint(
			 "Pass an id that claim_conversations(), receive_webhook() or get_or_create_conversation() returned.")));
}

static void
raise_lock_lost(const wahook_Conversation *conversation, const pg_uuid_t *lock_id)
{
	wahook_count_now(WAHOOK_LOCKS_LOST, 1);
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
wahook_try_hold(wahook_RowReader *rows, const pg_uuid_t *id, const pg_uuid_t *lock_id,
				wahook_Conversation *conversation)
{
	wahook_RowState state = wahook_peek_conversation(rows, id, conversation);

	if (state == WAHOOK_ROW_NONE || !held_by(conversation, lock_id))
		return false;
	if (state != WAHOOK_ROW_STEADY || !wahook_try_lock_row(rows))
		wahook_raise_busy("conversation", wahook_uuid_text(id));
	return true;
}

void
wahook_hold(wahook_RowReader *rows, const pg_uuid_t *id, const pg_uuid_t *lock_id,
			wahook_Conversation *conversation)
{
	if (wahook_try_hold(rows, id, lock_id, conversation))
		return;
	if (conversation->status == NULL)
		wahook_raise_unknown_conversation(id);
	raise_lock_lost(conversation, lock_id);
}

void
wahook_hold_conversation(const pg_uuid_t *id, const pg_uuid_t *lock_id,
						 wahook_Conversation *conversation)
{
	wahook_RowReader rows;

	wahook_open_conversations(&rows);
	wahook_hold(&rows, id, lock_id, conversation);
	wahook_close_rows(&rows);
}

/*
 * lock_id null: nobody's. Without row_locked, false where the row is no longer the one that was found,
 * or another transaction has it.
 */
static bool
write_lock(wahook_Store *store, const pg_uuid_t *lock_id, int64 token, TimestampTz now,
		   TimestampTz expires_at, Datum claimed, bool row_locked)
{
	bool updated;
	Datum values[WAHOOK_MAX_COLUMNS] = {0};
	bool nulls[WAHOOK_MAX_COLUMNS] = {0};
	bool replace[WAHOOK_MAX_COLUMNS] = {0};

#define SET(attnum, value, isnull) \
	(values[(attnum) -1] = (value), nulls[(attnum) -1] = (isnull), replace[(attnum) -1] = true)

	SET(Anum_conversation_locked_by, UUIDPGetDatum(lock_id), lock_id == NULL);
	SET(Anum_conversation_locked_at, TimestampTzGetDatum(now), lock_id == NULL);
	SET(Anum_conversation_lock_expires_at, TimestampTzGetDatum(expires_at), lock_id == NULL);
	SET(Anum_conversation_claimed_messages, claimed, claimed == (Datum) 0);
	if (lock_id != NULL)
		SET(Anum_conversation_lock_token, Int64GetDatum(token), false);
	SET(Anum_conversation_last_activity_at, TimestampTzGetDatum(now), false);
	SET(Anum_conversation_updated_at, TimestampTzGetDatum(now), false);
#undef SET
	updated = (row_locked ? wahook_update_locked_row : wahook_update_row)(&store->conversations,
																		  values, nulls, replace);
	if (row_locked && !updated)
		elog(ERROR, "conversation was changed although it is locked");
	return updated;
}

bool
wahook_write_lock(wahook_Store *store, const wahook_Conversation *conversation,
				  const pg_uuid_t *lock_id, TimestampTz now, TimestampTz expires_at, Datum claimed,
				  bool row_locked)
{
	return write_lock(store, lock_id, conversation->lock_token + 1, now, expires_at, claimed,
					  row_locked);
}

static void
requeue(wahook_Store *store, const pg_uuid_t *id, Snapshot snapshot)
{
	wahook_RowReader *inbox = &store->inbox.rows;
	char *service = NULL;

	while ((service = wahook_next_line(inbox, snapshot, id, service)) != NULL)
	{
		TimestampTz due_at = wahook_line_due_at(inbox, snapshot, id, service);

		wahook_requeue_conversation(wahook_queue_of(store), id, CStringGetTextDatum(service),
									due_at);
	}
}

void
wahook_requeue(wahook_Store *store, const pg_uuid_t *ids, int n)
{
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	for (int i = 0; i < n; i++)
		requeue(store, &ids[i], GetActiveSnapshot());
	PopActiveSnapshot();
}

void
wahook_take_lock_off(wahook_Store *store, TimestampTz now)
{
	(void) write_lock(store, NULL, 0, now, now, (Datum) 0, true);
}

void
wahook_unlock(wahook_Store *store, const pg_uuid_t *id, TimestampTz now)
{
	wahook_take_lock_off(store, now);
	wahook_requeue(store, id, 1);
}

void
wahook_release(wahook_Store *store, const wahook_Conversation *conversation, TimestampTz now)
{
	wahook_unlock(store, &conversation->id, now);
	wahook_end_leases(&store->leases, conversation->lock_expires_at, &conversation->locked_by,
					  &conversation->id, 1);
}

void
wahook_give_lock_back(const pg_uuid_t *id, const pg_uuid_t *lock_id)
{
	wahook_Store store;
	wahook_Conversation conversation;

	CommandCounterIncrement();
	wahook_open_store(&store);
	if (wahook_try_hold(&store.conversations.rows, id, lock_id, &conversation))
		wahook_release(&store, &conversation, GetCurrentTimestamp());
	wahook_close_store(&store);
}

int64
wahook_lease_us(const Interval *lease)
{
	const int64 max_days = WAHOOK_MAX_LEASE_S / SECS_PER_DAY;
	int64 days;
	int64 us;

	if (lease == NULL)
		return wahook_lock_timeout_s * USECS_PER_SEC;
	days = lease->day + (int64) lease->month * DAYS_PER_MONTH + lease->time / USECS_PER_DAY;
	us = Min(Max(days, -max_days), 2 * max_days) * USECS_PER_DAY + lease->time % USECS_PER_DAY;
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
	wahook_Store store;
	bool taken;

	wahook_open_store(&store);
	taken = wahook_peek_conversation(&store.conversations.rows, id, &conversation) ==
				WAHOOK_ROW_STEADY &&
			wahook_lock_is_free(&conversation, now) &&
			wahook_try_lock_row(&store.conversations.rows);
	wahook_count(!taken ? WAHOOK_LOCKS_REFUSED : wahook_acquisition(&conversation), 1);
	if (taken)
	{
		wahook_expire_claim(&store.conversations.rows, &conversation, now);
		(void) wahook_write_lock(&store, &conversation, lock_id, now, now + lease_us, (Datum) 0,
								 true);
		wahook_add_lease(&store.leases, now + lease_us, lock_id, "default", id, 1);
	}
	wahook_close_store(&store);
	return taken;
}

static void
log_lock(const char *event_name, const pg_uuid_t *id, const pg_uuid_t *lock_id)
{
	wahook_Event event;

	wahook_event_begin(&event, event_name, WAHOOK_EVENT_DETAIL);
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
	log_lock(taken ? "CONVERSATION_LOCK_ACQUIRED" : "CONVERSATION_LOCK_FAILED", id, lock_id);
	wahook_end();
	PG_RETURN_BOOL(taken);
}

/* release_conversation_lock(uuid, uuid) → boolean: whether this lock id held it. */
Datum
wahook_release_conversation_lock(PG_FUNCTION_ARGS)
{
	pg_uuid_t *id = PG_GETARG_UUID_P(0);
	wahook_Conversation conversation;
	wahook_Store store;
	bool held;

	wahook_begin(fcinfo);
	wahook_open_store(&store);
	held = wahook_try_hold(&store.conversations.rows, id, PG_GETARG_UUID_P(1), &conversation);
	if (held)
		wahook_release(&store, &conversation, GetCurrentTimestamp());
	wahook_close_store(&store);
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
	wahook_Table conversations;
	bool held;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	expires_at = now + wahook_lease_us(PG_ARGISNULL(2) ? NULL : PG_GETARG_INTERVAL_P(2));
	wahook_begin(fcinfo);
	wahook_open_table(&conversations, "webhook_conversations", "webhook_conversations_pkey");
	held = wahook_try_hold(&conversations.rows, PG_GETARG_UUID_P(0), PG_GETARG_UUID_P(1),
						   &conversation);
	if (held)
	{
		Datum values[WAHOOK_MAX_COLUMNS] = {[Anum_conversation_lock_expires_at - 1] =
												TimestampTzGetDatum(expires_at),
											[Anum_conversation_last_activity_at - 1] =
												TimestampTzGetDatum(now)};
		static const bool nulls[WAHOOK_MAX_COLUMNS] = {false};
		static const bool replace[WAHOOK_MAX_COLUMNS] = {[Anum_conversation_lock_expires_at - 1] =
															 true,
														 [Anum_conversation_last_activity_at - 1] =
															 true};

		if (!wahook_update_locked_row(&conversations, values, nulls, replace))
			elog(ERROR, "conversation was changed although it is locked");
	}
	wahook_close_table(&conversations);
	wahook_end();
	wahook_count_now(WAHOOK_LOCKS_LOST, !held);
	if (!held)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(expires_at);
}
