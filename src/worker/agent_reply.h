/*
 * What a model answered. Pure.
 */
#ifndef WAHOOK_AGENT_REPLY_H
#define WAHOOK_AGENT_REPLY_H

#include <stdbool.h>
#include <stddef.h>

/* A reply of a chat completion. */
typedef struct wahook_AgentReply
{
	char *content;       /* UTF-8, malloc'd, not empty; null: there is none */
	char *finish_reason; /* malloc'd, a few bytes of ASCII; null: not told */
	const char *problem; /* where there is no content: why, a literal */
	bool is_final;       /* and asking again would bring the same */
	int prompt_tokens;   /* -1: not told */
	int completion_tokens;
} wahook_AgentReply;

/* Reads the body of an answer, any bytes. cut: it was longer than what there is of it. */
extern wahook_AgentReply wahook_read_agent_reply(const char *body, size_t len, bool cut);

/* Leaves it empty. */
extern void wahook_free_agent_reply(wahook_AgentReply *reply);

#endif
