/*
 * The queue of conversations in which messages wait.
 *
 * A row says from when on to look at the conversations that it names, never what is true of them: one may
 * be named twice, or when nothing waits in it. But a free conversation with a waiting message is always
 * named by some row, so a name is only taken out by whoever, after reading the row, found the conversation
 * locked, claimed it, or found that nothing waits there for this row to tell of. No row ever gets another
 * name.
 */
#ifndef WAHOOK_QUEUE_H
#define WAHOOK_QUEUE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "core/table.h"

/*
 * So many conversations share a row. With more, the insertion of the row would hardly cost each of them
 * less, and whoever claims one at a time would rewrite longer rows, and share each with more others.
 */
#define WAHOOK_MAX_QUEUED 16

/* The names in a row. */
typedef struct wahook_Queued
{
	pg_uuid_t *ids; /* palloc'd */
	int n;
} wahook_Queued;

extern void wahook_open_queue(wahook_Table *queue);

/* Adds a row: look at the conversation at due_at. service: text. */
extern void wahook_queue_conversation(wahook_Table *queue, const pg_uuid_t *id, Datum service,
									  TimestampTz due_at);

/* Adds a row for up to WAHOOK_MAX_QUEUED, at the latest when the table is closed. */
extern void wahook_queue_conversations(wahook_Table *queue, const pg_uuid_t *ids, int n,
									   Datum service, TimestampTz due_at);

/* Reads the row in the slot; wahook_Queued.ids is to be freed. */
extern wahook_Queued wahook_read_queued(TupleTableSlot *slot);

/* The row's number, by which a later version of it is known. */
extern int64 wahook_queued_seq(TupleTableSlot *slot);

/* Looks at a row by its key, as wahook_peek_row() does. */
extern wahook_RowState wahook_peek_queued(wahook_Table *queue, Datum service, TimestampTz due_at,
										  int64 seq);

/*
 * Takes names out of the row in the slot, unless another transaction has the row or has changed it. With
 * none to take out it is written anew: a row lock ends with the transaction, and others could not tell it
 * from that of somebody who is about to.
 */
extern void wahook_unqueue_from_row(wahook_Table *queue, const pg_uuid_t *ids, int n);

/*
 * Takes a conversation out of the rows of a service (text) and time. One that another transaction has locked
 * is left: then it is looked at once more than needed.
 */
extern void wahook_unqueue(wahook_Table *queue, const pg_uuid_t *id, Datum service,
						   TimestampTz due_at);

/* The same where a row of that time is for it alone, which is found fast. */
extern void wahook_unqueue_alone(wahook_Table *queue, const pg_uuid_t *id, Datum service,
								 TimestampTz due_at);

/* Whether a row of a service and time that nobody is changing names the conversation. */
extern bool wahook_is_queued(wahook_Table *queue, const pg_uuid_t *id, Datum service,
							 TimestampTz due_at);

/*
 * Queues a conversation that has just been unlocked; that may not have been committed yet. A row that is for it
 * alone is replaced, for a claim that saw the lock before may be just about to remove it. One that it shares
 * serves on: those are locked before the conversations in them are looked at, and one that is locked does not
 * count here.
 */
extern void wahook_requeue_conversation(wahook_Table *queue, const pg_uuid_t *id, Datum service,
										TimestampTz due_at);

#endif
