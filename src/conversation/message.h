/*
 * A message as its handler sees it.
 */
#ifndef WAHOOK_MESSAGE_H
#define WAHOOK_MESSAGE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

typedef struct wahook_Message
{
	text *whatsapp_message_id;
	text *kind; /* null: not known */
	pg_uuid_t *correlation_id;
	TimestampTz received_at;
	int attempt;    /* from 1 */
	Jsonb *payload; /* message, contact, metadata...; null: none was kept */
} wahook_Message;

/* Appends the message to an array or other value that is being built. */
extern void wahook_push_message(JsonbParseState **state, const wahook_Message *message);

#endif
