/*
 * How many tokens a text costs a model, by the built-in estimate or by the function that
 * wahook.token_counter names.
 */
#ifndef WAHOOK_TOKENS_H
#define WAHOOK_TOKENS_H

#include "postgres.h"

#include "fmgr.h"

typedef struct wahook_TokenCounter
{
	FmgrInfo function; /* fn_oid is invalid for the built-in estimate */
	MemoryContext scratch;
} wahook_TokenCounter;

/*
 * Looks wahook.token_counter up, once for what follows in this call. Error WH006 where it names no
 * function that can be used, 42501 where the caller must not call it.
 */
extern void wahook_open_token_counter(wahook_TokenCounter *counter);

extern bool wahook_counter_is_built_in(const wahook_TokenCounter *counter);

/* Errors of the user's function go through. */
extern int wahook_count_tokens(wahook_TokenCounter *counter, const char *text, int len);

#endif
