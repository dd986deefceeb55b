/*
 * What a model answered: the body of a chat completion.
 *
 * Endpoints that call themselves compatible differ in what they leave out, and what is between us and
 * them may answer anything. So all that is needed is one choice with a text in it; what is told
 * besides (usage, why the text ends) is taken where it makes sense.
 *
 * Includes no header of the server: jansson is not to meet an error of it.
 */
#include "worker/agent_reply.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

/* More tokens than any model has are a mistake. */
#define MAX_TOKENS 1000000000

#define MAX_FINISH_REASON 32

static bool
is_blank(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (strchr(" \t\r\n", text[i]) == NULL || text[i] == '\0')
			return false;
	return true;
}

/* A zero byte is no text for the database. */
static void
blank_zeros(char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (text[i] == '\0')
			text[i] = ' ';
}

static char *
copy_text(const char *text, size_t len)
{
	char *copy = malloc(len + 1);

	if (copy == NULL)
		return NULL;
	memcpy(copy, text, len);
	copy[len] = '\0';
	blank_zeros(copy, len);
	return copy;
}

/* All texts of an array of parts, one after the other. */
static char *
join_parts(const json_t *parts)
{
	size_t len = 0;
	char *text;

	for (size_t i = 0; i < json_array_size(parts); i++)
		len += json_string_length(json_object_get(json_array_get(parts, i), "text"));
	text = calloc(len + 1, 1);
	if (text == NULL)
		return NULL;
	len = 0;
	for (size_t i = 0; i < json_array_size(parts); i++)
	{
		const json_t *part = json_object_get(json_array_get(parts, i), "text");

		if (json_is_string(part))
			memcpy(text + len, json_string_value(part), json_string_length(part));
		len += json_string_length(part);
	}
	blank_zeros(text, len);
	return text;
}

static void
take_content(const json_t *message, wahook_AgentReply *reply)
{
	const json_t *content = json_object_get(message, "content");
	char *text = json_is_string(content)
					 ? copy_text(json_string_value(content), json_string_length(content))
				 : json_is_array(content) ? join_parts(content)
										  : NULL;

	if (text != NULL && !is_blank(text, strlen(text)))
	{
		reply->content = text;
		return;
	}
	free(text);
	if (json_array_size(json_object_get(message, "tool_calls")) > 0 ||
		json_is_object(json_object_get(message, "function_call")))
	{
		reply->problem = "it calls a tool, and there is none";
		reply->is_final = true;
	}
	else if (json_string_length(json_object_get(message, "refusal")) > 0)
	{
		reply->problem = "the model refused";
		reply->is_final = true;
	}
	else
		reply->problem = "its message is empty";
}

static int
count_of(const json_t *usage, const char *name)
{
	const json_t *value = json_object_get(usage, name);
	json_int_t count = json_integer_value(value);

	return json_is_integer(value) && count >= 0 && count <= MAX_TOKENS ? (int) count : -1;
}

static char *
finish_reason_of(const json_t *choice)
{
	const char *reason = json_string_value(json_object_get(choice, "finish_reason"));
	size_t len = reason ? strspn(reason, "abcdefghijklmnopqrstuvwxyz_") : 0;

	return len > 0 && len <= MAX_FINISH_REASON && reason[len] == '\0' ? copy_text(reason, len)
																	  : NULL;
}

static void
take_answer(const json_t *json, wahook_AgentReply *reply)
{
	const json_t *usage = json_object_get(json, "usage");
	const json_t *choice = json_array_get(json_object_get(json, "choices"), 0);

	reply->prompt_tokens = count_of(usage, "prompt_tokens");
	reply->completion_tokens = count_of(usage, "completion_tokens");
	if (!json_is_object(json_object_get(choice, "message")))
	{
		reply->problem = "it has no choices";
		return;
	}
	reply->finish_reason = finish_reason_of(choice);
	take_content(json_object_get(choice, "message"), reply);
}

wahook_AgentReply
wahook_read_agent_reply(const char *body, size_t len, bool cut)
{
	wahook_AgentReply reply = {.prompt_tokens = -1, .completion_tokens = -1};
	json_t *json;

	if (cut)
	{
		reply.problem = "it is longer than wahook.http_max_response";
		reply.is_final = true;
		return reply;
	}
	json = body ? json_loadb(body, len, JSON_ALLOW_NUL, NULL) : NULL;
	if (json == NULL)
		reply.problem = "it is not JSON";
	else
		take_answer(json, &reply);
	json_decref(json);
	return reply;
}

void
wahook_free_agent_reply(wahook_AgentReply *reply)
{
	free(reply->content);
	free(reply->finish_reason);
	*reply = (wahook_AgentReply){0};
}
