/*
 * Which conversation a sender belongs to.
 */
#ifndef WAHOOK_IDENTITY_H
#define WAHOOK_IDENTITY_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/uuid.h"

#include "core/row.h"

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

	/* set by wahook_look_up_senders() */
	pg_uuid_t conversation_id;
	bool announce; /* the conversation's row does not know these names yet */
} wahook_Sender;

/* What must be written so that the senders are found; it points to the senders. */
typedef struct wahook_Resolver wahook_Resolver;

/*
 * Finds the conversations of senders, writing nothing yet. Waits for no other transaction: a
 * conversation that another one is creating is joined unseen. Must be followed by one of the
 * last two.
 */
extern wahook_Resolver *wahook_look_up_senders(wahook_Sender *senders, int n);

/* Whether there is anything to write: a name is new, or leads elsewhere from now on. */
extern bool wahook_senders_change(const wahook_Resolver *resolver);

/* Creates the conversations that are missing, and what leads to them. May change the senders. */
extern void wahook_write_senders(wahook_Resolver *resolver);

/* Leaves everything as it was found. */
extern void wahook_forget_senders(wahook_Resolver *resolver);

/* Which conversation a name leads to, also if another transaction is just writing that. */
extern wahook_RowState wahook_peek_identity(wahook_RowReader *rows, const char *scope,
											const char *name, pg_uuid_t *conversation_id);

/* Inserts the rows of the senders' conversations: a list of wahook_Sender. */
extern void wahook_create_conversations(List *senders);

/* Set meanwhile: their names are written on their own. */
extern bool wahook_creating_conversations;

/*
 * Creates a conversation that messages were received into while another transaction was creating
 * it, which then rolled back. Leaves it to another transaction that is doing the same. False when
 * there is nothing to create it for: no message waits in it.
 */
extern bool wahook_create_joined_conversation(const pg_uuid_t *id);

#endif
