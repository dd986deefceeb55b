/*
 * A message as its handler sees it.
 */
#ifndef WAHOOK_MESSAGE_H
#define WAHOOK_MESSAGE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
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

/* Appends the message to jsonb that is being written (core/json_writer.h). */
extern JEntry wahook_append_message(StringInfo out, const wahook_Message *message);

#endif
