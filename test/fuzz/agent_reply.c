/*
 * Feeds src/worker/agent_reply.c with mutations of what models answer, always the same.
 *
 * Whatever the bytes: it ends with a content that is not empty and has no zero byte in it, or with a
 * problem; a finish reason is short and plain, and tokens are within their bounds. Run under the
 * address and undefined behaviour sanitizers, which watch the rest.
 *
 *   agent_reply INPUTS
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/agent_reply.h"

#define MAX_LENGTH 1024
#define MAX_TOKENS 1000000000
#define SEED 20260101u

static const char *const seeds[] = {
	"{\"choices\": [{\"message\": {\"role\": \"assistant\", \"content\": \"Yes.\"}, \"finish_reason\": \"stop\"}],"
	" \"usage\": {\"prompt_tokens\": 12, \"completion_tokens\": 3}}",
	"{\"choices\": [{\"message\": {\"content\": [{\"type\": \"text\", \"text\": \"a\\u0000\"}, {\"text\": \"\\ud83d\\ude00\"}, 7]}}]}",
	"{\"choices\": [{\"message\": {\"content\": null, \"tool_calls\": [{\"id\": \"1\", \"function\": {}}]}}]}",
	"{\"choices\": [{\"message\": {\"content\": \" \\n\", \"refusal\": \"no\"}}], \"usage\": {\"prompt_tokens\": -1}}",
	"{\"choices\": [], \"usage\": {\"prompt_tokens\": 1e30, \"completion_tokens\": 99999999999}}",
	"{\"error\": {\"message\": \"overloaded\"}}",
	"[[[[[[[[[[{}]]]]]]]]]]",
	"<html>",
	"",
};

static const char *current;

static void
fail(const char *what)
{
	fprintf(stderr, "agent_reply: %s\nthe answer: %s\n", what, current);
	exit(1);
}

#define CHECK(condition) ((condition) ? (void) 0 : fail(#condition))

static uint32_t
next_random(uint32_t bound)
{
	static uint64_t state = SEED;

	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t) (state >> 33) % bound;
}

/* Bytes are replaced, taken out and doubled; others are spliced in from another seed. */
static size_t
mutate(char *text, size_t len)
{
	for (uint32_t n = next_random(6); n > 0; n--)
	{
		const char *other = seeds[next_random(sizeof(seeds) / sizeof(*seeds))];
		size_t from = next_random((uint32_t) len + 1);
		size_t count = next_random((uint32_t) strlen(other) + 1);

		switch (next_random(4))
		{
			case 0:
				if (from < len)
					text[from] = (char) next_random(256);
				break;
			case 1:
				len = from;
				break;
			case 2:
				if (len + count < MAX_LENGTH)
				{
					memmove(text + from + count, text + from, len - from);
					memcpy(text + from, other, count);
					len += count;
				}
				break;
			default:
				if (from < len)
				{
					memmove(text + from, text + from + 1, len - from - 1);
					len--;
				}
		}
	}
	return len;
}

static void
check(const char *text, size_t len, bool cut)
{
	wahook_AgentReply reply = wahook_read_agent_reply(text, len, cut);

	CHECK((reply.content == NULL) != (reply.problem == NULL));
	CHECK(reply.content == NULL || strspn(reply.content, " \t\r\n") < strlen(reply.content));
	CHECK(!cut || reply.content == NULL);
	CHECK(reply.finish_reason == NULL ||
		  (strlen(reply.finish_reason) <= 32 &&
		   reply.finish_reason[strspn(reply.finish_reason, "abcdefghijklmnopqrstuvwxyz_")] == '\0'));
	CHECK(reply.prompt_tokens >= -1 && reply.prompt_tokens <= MAX_TOKENS);
	CHECK(reply.completion_tokens >= -1 && reply.completion_tokens <= MAX_TOKENS);
	wahook_free_agent_reply(&reply);
	CHECK(reply.content == NULL && reply.finish_reason == NULL);
}

int
main(int argc, char **argv)
{
	long inputs = argc > 1 ? atol(argv[1]) : 1;
	static char text[MAX_LENGTH + 1];

	check(NULL, 0, false);
	for (size_t i = 0; i < sizeof(seeds) / sizeof(*seeds); i++)
	{
		current = seeds[i];
		check(seeds[i], strlen(seeds[i]), false);
		check(seeds[i], strlen(seeds[i]), true);
	}
	for (long i = 0; i < inputs; i++)
	{
		const char *seed = seeds[next_random(sizeof(seeds) / sizeof(*seeds))];
		size_t len = strlen(seed);

		memcpy(text, seed, len);
		len = mutate(text, len);
		text[len] = '\0';
		current = text;
		check(text, len, next_random(50) == 0);
	}
	return 0;
}
