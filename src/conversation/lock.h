/*
 * Holding a conversation: its lease, its fencing token, and the way in and out of it.
 * Nothing here waits for another transaction.
 */
#ifndef WAHOOK_LOCK_H
#define WAHOOK_LOCK_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/array.h"
#include "utils/uuid.h"

/* A conversation's row as it was when it was locked. Strings and arrays are palloc'd. */
typedef struct wahook_Conversation
{
	pg_uuid_t	id;
	bool		locked;			/* by anybody, expired or not */
	pg_uuid_t	locked_by;
	TimestampTz locked_at;
	TimestampTz lock_expires_at;
	int64		lock_token;
	ArrayType  *claimed;		/* webhook_inbox.seq, bigint[]; null: none */
} wahook_Conversation;

/*
 * Row-locks the conversation for the holder of lock_id, until the transaction ends. Errors: WH003
 * when there is no such conversation, WH002 when lock_id does not hold it, 55P03 when another
 * transaction is changing the row. wahook_begin() must have been called.
 */
extern void wahook_hold_conversation(const pg_uuid_t *id, const pg_uuid_t *lock_id,
									 wahook_Conversation *conversation);

/*
 * Takes the lock when it is free or its lease has run out, for lease_us microseconds. False when
 * somebody else has it or is changing the row. Error WH003 when there is no such conversation.
 */
extern bool wahook_take_lock(const pg_uuid_t *id, const pg_uuid_t *lock_id, int64 lease_us);

/*
 * Gives the lock back and puts the conversation in the queue again when messages wait in it.
 * The caller must hold it (wahook_hold_conversation in the same transaction).
 */
extern void wahook_give_lock_back(const pg_uuid_t *id);

/*
 * Completes messages of a conversation the caller holds: takes them out of the inbox, records the
 * attempt, resolves their dead letter. seqs: bigint[] of webhook_inbox.seq. Returns how many.
 * processing_ms < 0: since the lock was taken.
 */
extern int	wahook_complete_messages(const wahook_Conversation *conversation, ArrayType *seqs,
									 int processing_ms);

#endif
