/*
 * What an agent remembers of a conversation: agent_contexts.context_data.
 *
 * Memory is an object with an array "messages", oldest first, beside which callers may keep members of
 * their own; or it is that array itself. Anything else holds no messages.
 */
#ifndef WAHOOK_MEMORY_H
#define WAHOOK_MEMORY_H

#include "postgres.h"

#include "utils/jsonb.h"

/* A list of messages, and what they take. The values point into the jsonb that they were read from. */
typedef struct wahook_Messages
{
	JsonbValue *all;
	int n;
	int64 bytes;
} wahook_Messages;

/* The array of messages in memory, or null where there is none. */
extern JsonbContainer *wahook_memory_array(Jsonb *memory);

/* The elements of an array, which may be null; with room for some more. */
extern wahook_Messages wahook_read_messages(JsonbContainer *array, int room);

/* An array of them; and memory with them, in the shape that it has. */
extern Jsonb *wahook_write_messages(const wahook_Messages *messages);
extern Jsonb *wahook_write_memory(Jsonb *old, const wahook_Messages *messages);

/* In bytes, about. */
extern int wahook_message_size(const JsonbValue *value);

/* A member of a message; one that is a string. False where there is none. */
extern bool wahook_message_member(const JsonbValue *message, const char *key, JsonbValue *value);
extern bool wahook_message_string(const JsonbValue *message, const char *key, JsonbValue *value);

#endif
