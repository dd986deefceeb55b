/*
 * Chat messages within a token budget. Messages are a jsonb array in the shape of chat completions,
 * oldest first: {"role", "content" (a text or an array of parts), "tool_calls", "tool_call_id",
 * "name", ...}, and of our own "pinned", "wamid" and "at".
 */
#ifndef WAHOOK_TRUNCATE_H
#define WAHOOK_TRUNCATE_H

#include "postgres.h"

#include "utils/jsonb.h"

typedef struct wahook_Truncation
{
	Jsonb *messages; /* what is kept; the very jsonb that was given where nothing had to change */
	int tokens;      /* what that costs: never more than the budget */
	int given;       /* how many messages there were */
	int kept;
} wahook_Truncation;

/*
 * max_messages: the most messages besides system prompts and pinned ones; INT_MAX for no limit.
 * Error 22023 where messages is no array of objects; see tokens.h for errors of the token counter.
 * All is allocated in the current memory context.
 */
extern void wahook_truncate_context(Jsonb *messages, int max_tokens, int max_messages,
									wahook_Truncation *result);

#endif
