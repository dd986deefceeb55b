/*
 * Holding a conversation: its lease, its fencing token, and the way in and out of it.
 *
 * lease: the time a lock is good for without a word from its holder.
 * fencing token: the number of the acquisition; a later one is larger.
 *
 * Nothing here waits for another transaction. wahook_begin() must have been called.
 */
#ifndef WAHOOK_LOCK_H
#define WAHOOK_LOCK_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/array.h"
#include "utils/uuid.h"

#include "core/counters.h"
#include "core/table.h"

/* A conversation's row as it was seen. Strings and arrays are palloc'd. */
typedef struct wahook_Conversation
{
	pg_uuid_t id;
	char *status; /* null: there is no such conversation */
	bool locked;  /* by anybody, whether the lease is over or not */
	pg_uuid_t locked_by;
	TimestampTz locked_at;
	TimestampTz lock_expires_at;
	TimestampTz last_activity_at;
	int64 lock_token;
	ArrayType *claimed; /* webhook_inbox.seq, bigint[]; null: none */

	/* set by wahook_read_party(); 0: null */
	Datum user_id;        /* text */
	Datum whatsapp_phone; /* text */
	Datum agent_type;     /* text */
	Datum context;        /* jsonb */
} wahook_Conversation;

/* The tables of locks, open for a call. */
typedef struct wahook_Store
{
	wahook_Table conversations;
	wahook_Table inbox;
	wahook_Table leases;
	wahook_Table queue;
	bool queue_is_open;
	MemoryContext context;
} wahook_Store;

extern void wahook_open_store(wahook_Store *store);
extern void wahook_close_store(wahook_Store *store);

/* The queue, which most calls find nothing to do in: opened when it is first asked for. */
extern wahook_Table *wahook_queue_of(wahook_Store *store);

/* For look-ups and row locks alone. */
extern void wahook_open_conversations(wahook_RowReader *rows);

/* Looks at a conversation as wahook_peek_row() does, and reads its row when there is one. */
extern wahook_RowState wahook_peek_conversation(wahook_RowReader *rows, const pg_uuid_t *id,
												wahook_Conversation *conversation);

/* Who it is with, and what is known of it: of the row that is in the slot. */
extern void wahook_read_party(const wahook_RowReader *rows, wahook_Conversation *conversation);

/* How taking the lock counts, of one that is free or whose lease has run out. */
extern wahook_Counter wahook_acquisition(const wahook_Conversation *conversation);

/* Whether the lock is free to be taken at the given time. */
extern bool wahook_lock_is_free(const wahook_Conversation *conversation, TimestampTz now);

/*
 * Row-locks the conversation for the holder of lock_id, until the transaction ends. False when
 * lock_id does not hold it or there is no such conversation. Error 55P03 when another transaction
 * is changing the row.
 */
extern bool wahook_try_hold(wahook_RowReader *rows, const pg_uuid_t *id, const pg_uuid_t *lock_id,
							wahook_Conversation *conversation);

/* The same; errors WH002 and WH003 where the other answers false. */
extern void wahook_hold(wahook_RowReader *rows, const pg_uuid_t *id, const pg_uuid_t *lock_id,
						wahook_Conversation *conversation);

/*
 * Writes the lock to the conversation that was found last. claimed: bigint[], 0: none. Without
 * row_locked, false where that version of it is no longer the last, or somebody else has locked it.
 */
extern bool wahook_write_lock(wahook_Store *store, const wahook_Conversation *conversation,
							  const pg_uuid_t *lock_id, TimestampTz now, TimestampTz expires_at,
							  Datum claimed, bool row_locked);

/* Takes the lock off the conversation that was row-locked last. What waits in it is to be queued then. */
extern void wahook_take_lock_off(wahook_Store *store, TimestampTz now);

/* The same, and queues what waits in it. */
extern void wahook_unlock(wahook_Store *store, const pg_uuid_t *id, TimestampTz now);

/* The same for its holder, who had found it with wahook_hold(): the end of its lease is forgotten. */
extern void wahook_release(wahook_Store *store, const wahook_Conversation *conversation,
						   TimestampTz now);

/*
 * Queues the conversations for each service for which messages wait in them. To be called after their
 * locks were taken off: until then whoever finds one locked removes what tells of its messages.
 */
extern void wahook_requeue(wahook_Store *store, const pg_uuid_t *ids, int n);

/* For other rooms, a conversation at a time: as above, with a store of their own. */
extern void wahook_hold_conversation(const pg_uuid_t *id, const pg_uuid_t *lock_id,
									 wahook_Conversation *conversation);
/* Leaves a conversation alone that lock_id does not hold any more, or that is gone. */
extern void wahook_give_lock_back(const pg_uuid_t *id, const pg_uuid_t *lock_id);

/*
 * Takes the lock when it is free or its lease has run out, for lease_us microseconds. False when
 * there is no such conversation, or somebody else has it or is changing the row.
 */
extern bool wahook_take_lock(const pg_uuid_t *id, const pg_uuid_t *lock_id, int64 lease_us);

/* p_lease in microseconds, or the default where it is null. Error 22023 when out of bounds. */
extern int64 wahook_lease_us(const Interval *lease);

/* Raises WH003. */
pg_noreturn extern void wahook_raise_unknown_conversation(const pg_uuid_t *id);

#endif
