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

#include "core/row.h"

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
} wahook_Conversation;

extern void wahook_open_conversations(wahook_RowReader *reader);
extern wahook_RowState wahook_peek_conversation(wahook_RowReader *reader, const pg_uuid_t *id,
												wahook_Conversation *conversation);

/* Whether the lock is free to be taken at the given time. */
extern bool wahook_lock_is_free(const wahook_Conversation *conversation, TimestampTz now);

/*
 * Row-locks the conversation for the holder of lock_id, until the transaction ends. False when
 * lock_id does not hold it or there is no such conversation. Error 55P03 when another transaction
 * is changing the row.
 */
extern bool wahook_try_hold(wahook_RowReader *reader, const pg_uuid_t *id, const pg_uuid_t *lock_id,
							wahook_Conversation *conversation);

/* The same for one conversation; errors WH002 and WH003 where the other answers false. */
extern void wahook_hold_conversation(const pg_uuid_t *id, const pg_uuid_t *lock_id,
									 wahook_Conversation *conversation);

/*
 * Takes the lock when it is free or its lease has run out, for lease_us microseconds. False when
 * there is no such conversation, or somebody else has it or is changing the row.
 */
extern bool wahook_take_lock(const pg_uuid_t *id, const pg_uuid_t *lock_id, int64 lease_us);

/*
 * Gives locks back, and puts the conversations where messages wait in the queue again. The caller
 * must hold them (wahook_hold_conversation in the same transaction). ids: uuid[].
 */
extern void wahook_give_locks_back(Datum ids);
extern void wahook_give_lock_back(const pg_uuid_t *id);

/* Puts row-locked free conversations in the queue where messages wait in them, else out of it. */
extern void wahook_requeue(Datum ids);

/* Makes due_at the time of the conversations' next look-up: uuid[], text[], one time for all. */
extern void wahook_park(Datum ids, Datum services, TimestampTz due_at);

/* p_lease in microseconds, or the default where it is null. Error 22023 when out of bounds. */
extern int64 wahook_lease_us(const Interval *lease);

extern Datum wahook_uuid_array(const pg_uuid_t *ids, int n);

#endif
