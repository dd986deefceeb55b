/*
 * Dead-lettering: a message leaves its conversation's queue for the dead letter queue.
 */
#ifndef WAHOOK_DEAD_LETTER_H
#define WAHOOK_DEAD_LETTER_H

#include "postgres.h"

#include "conversation/lock.h"

/* How an attempt at a message failed. */
typedef struct wahook_Failure
{
	text *error;
	text *error_stack;      /* null: none */
	bool retryable;         /* false: given up at once */
	int64 delay_us;         /* until its retry; negative: the usual schedule */
	TimestampTz started_at; /* of the attempt; DT_NOBEGIN: not known */
	bool is_attempt;        /* false: there is no attempt to record */
} wahook_Failure;

/* A message in a conversation's inbox. */
typedef struct wahook_Waiting
{
	int64 seq;
	Datum whatsapp_message_id; /* text */
	int attempts;              /* that failed before this one */
	int losses;
	const char *service;
} wahook_Waiting;

/*
 * Moves a message of a conversation that the caller has row-locked to the dead letter queue, and
 * returns its entry, a webhook_dlq row, or 0 when another transaction is changing the entry. Where
 * the service wants strict order and there will be a retry, the message stays at the head of its
 * line until then, and the others wait behind it.
 */
extern Datum wahook_dead_letter(const wahook_Conversation *conversation,
								const wahook_Waiting *waiting, const wahook_Failure *failure);

/*
 * The same for a message by its whatsapp_message_id. Errors: WH009 when it does not wait in the
 * conversation, 55P03 when another transaction is changing its entry.
 */
extern Datum wahook_fail_message(const wahook_Conversation *conversation, text *message_id,
								 const wahook_Failure *failure);

#endif
