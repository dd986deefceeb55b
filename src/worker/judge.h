/*
 * What an endpoint's answer means for the messages that were sent, and for its circuit. Pure.
 */
#ifndef WAHOOK_JUDGE_H
#define WAHOOK_JUDGE_H

#include <stdbool.h>
#include <stddef.h>

#include "worker/http.h"

typedef struct wahook_Judgement
{
	bool success;
	bool retryable;
	bool endpoint_works; /* also where it refuses a message for what the message is */
} wahook_Judgement;

/* answer: null where none could be asked for. */
extern wahook_Judgement wahook_judge(const wahook_HttpAnswer *answer);

/* What failed, in a line. Holds neither the URL nor a header nor the body. */
extern void wahook_describe_failure(const wahook_HttpAnswer *answer, char *text, size_t size);

#endif
