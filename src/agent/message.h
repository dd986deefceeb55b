/*
 * One chat message: what it costs, and the same message shortened.
 */
#ifndef WAHOOK_MESSAGE_H
#define WAHOOK_MESSAGE_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "agent/tokens.h"

/* What ends a text that was shortened. */
#define WAHOOK_SHORTENED_MARK "[...]"

typedef struct wahook_MessageRuler
{
	wahook_TokenCounter counter;
	int mark; /* what the mark costs */
} wahook_MessageRuler;

extern void wahook_open_ruler(wahook_MessageRuler *ruler);

/* In tokens. message: a jbvBinary that holds an object. */
extern int64 wahook_message_cost(wahook_MessageRuler *ruler, const JsonbValue *message);

/* The least that it can be shortened to. */
extern int64 wahook_message_floor(wahook_MessageRuler *ruler, const JsonbValue *message);

/* Replaces the message by one that costs at most limit, which it returns the cost of; -1: it can't. */
extern int64 wahook_shorten_message(wahook_MessageRuler *ruler, JsonbValue *message, int64 limit);

#endif
