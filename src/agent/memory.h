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

/* The array of messages in memory, or null where there is none. */
extern JsonbContainer *wahook_memory_messages(Jsonb *memory);

/* A member of a message that is a string. False where there is none. */
extern bool wahook_message_string(const JsonbValue *message, const char *key, JsonbValue *value);

#endif
