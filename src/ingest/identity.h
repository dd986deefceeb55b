/*
 * Which conversation a sender belongs to.
 */
#ifndef WAHOOK_IDENTITY_H
#define WAHOOK_IDENTITY_H

#include "postgres.h"

#include "utils/uuid.h"

/*
 * A user as a message names them, for one business number. Strings are null where not known;
 * phone numbers are normalized.
 */
typedef struct wahook_Sender
{
	const char *phone_number_id;
	const char *phone;
	const char *user_id;
	const char *new_phone; /* from now on */
	const char *new_user_id;

	/* set by wahook_resolve_senders() */
	pg_uuid_t conversation_id;
	bool announce; /* the conversation's row does not know these names yet */
} wahook_Sender;

/*
 * Finds the conversations of senders and creates those that are missing, with what leads to them.
 * Waits for no other transaction: a conversation that another one is creating is joined unseen.
 */
extern void wahook_resolve_senders(wahook_Sender *senders, int n);

/*
 * Creates a conversation that messages were received into while another transaction was creating
 * it, which then rolled back. Leaves it to another transaction that is doing the same.
 */
extern void wahook_create_joined_conversation(const pg_uuid_t *id);

#endif
