/*
 * An attempt at messages of a service with a SQL handler: run, and then completed or dead-lettered
 * in the same transaction, so that what the handler writes is there exactly once.
 */
#ifndef WAHOOK_ATTEMPT_H
#define WAHOOK_ATTEMPT_H

#include "postgres.h"

#include "retry/handler.h"
#include "retry/retriable.h"

/* A message in a conversation's inbox, with what its handler gets. */
typedef struct wahook_Task
{
	wahook_Waiting waiting;
	Datum message; /* jsonb; 0: it was deleted by hand */
} wahook_Task;

typedef enum wahook_Outcome
{
	WAHOOK_SUCCEEDED,
	WAHOOK_FAILED,   /* it will be retried */
	WAHOOK_GIVEN_UP, /* it has no retries left */
	WAHOOK_BUSY,     /* it failed, but another transaction is changing its dead letter */
	WAHOOK_REFUSED   /* the circuit of its service is open: it was not run, and waits */
} wahook_Outcome;

/*
 * Reads messages that wait in a conversation: the first of those of the given webhook_inbox.seq,
 * bigint[], or all of the given processed_webhook_messages.id, uuid[]. In order; palloc'd in this
 * SPI level.
 */
extern int wahook_read_tasks(const wahook_Conversation *conversation, ArrayType *seqs, int max,
							 wahook_Task **tasks);
extern int wahook_read_tasks_of(const wahook_Conversation *conversation, Datum message_ids,
								wahook_Task **tasks);

/* The messages that are still there, in a jsonb array. */
extern Datum wahook_task_messages(const wahook_Task *tasks, int n);

/* ms: how long that took. */
extern void wahook_complete_tasks(const wahook_Conversation *conversation, const wahook_Task *tasks,
								  int n, int ms);

/*
 * Runs messages of a conversation that the caller has row-locked, in one call of the handler: more
 * than one where it takes bursts. For a failure outcome, *failure says why.
 */
extern wahook_Outcome wahook_attempt(const wahook_Conversation *conversation,
									 const wahook_Handler *handler, const wahook_Task *tasks, int n,
									 wahook_Failure *failure);

/* What follows where they failed, once more or alone: WAHOOK_BUSY, WAHOOK_FAILED, WAHOOK_GIVEN_UP. */
extern wahook_Outcome wahook_attempt_failed(const wahook_Conversation *conversation,
											const wahook_Handler *handler, const wahook_Task *tasks,
											int n, const wahook_Failure *failure);

/* A dead letter that belongs to no conversation, and has a handler. */
typedef struct wahook_Direct
{
	pg_uuid_t id;
	int retry_count;
	int max_retries;
} wahook_Direct;

/* Runs it; the caller has row-locked it. */
extern wahook_Outcome wahook_attempt_direct(const wahook_Direct *entry,
											const wahook_Handler *handler, wahook_Failure *failure);
extern wahook_Outcome wahook_attempt_direct_failed(const wahook_Direct *entry,
												   const wahook_Handler *handler,
												   const wahook_Failure *failure);

#endif
