/*
 * What an endpoint's answer means.
 *
 * 2xx is the only success. Trouble that may pass is retried: 408, 425, 429, 5xx, and whatever
 * became of a request that has no answer. Other answers are final for the messages: the same request
 * would get the same answer. But some of these are about the endpoint more than about the message (a
 * wrong token, a path that is gone, a redirect); they count against its circuit, so that an endpoint
 * that was set up wrong does not use up all messages that come.
 */
#include "worker/judge.h"

#include <stdio.h>

static bool
may_pass(int status)
{
	return status == 408 || status == 425 || status == 429 || status >= 500;
}

static bool
is_about_endpoint(int status)
{
	return status < 400 || status == 401 || status == 403 || status == 404 || status == 405 ||
		   status == 407 || status == 410;
}

wahook_Judgement
wahook_judge(const wahook_HttpAnswer *answer)
{
	wahook_Judgement judgement = {.retryable = true};

	if (answer == NULL || answer->outcome != WAHOOK_HTTP_ANSWERED)
		return judgement;
	judgement.success = answer->status >= 200 && answer->status < 300;
	judgement.retryable = may_pass(answer->status);
	judgement.endpoint_works =
		judgement.success || (!judgement.retryable && !is_about_endpoint(answer->status));
	return judgement;
}

void
wahook_describe_failure(const wahook_HttpAnswer *answer, char *text, size_t size)
{
	static const char *const problems[] = {
		[WAHOOK_HTTP_TIMED_OUT] = "timed out",
		[WAHOOK_HTTP_BROKEN] = "connection failed",
		[WAHOOK_HTTP_BAD_TLS] = "TLS failed",
		[WAHOOK_HTTP_ADDRESS_REFUSED] = "address refused",
		[WAHOOK_HTTP_BAD_REQUEST] = "request not sent",
	};

	if (answer == NULL)
		snprintf(text, size, "request not sent: not enough memory");
	else if (answer->outcome != WAHOOK_HTTP_ANSWERED)
		snprintf(text, size, "%s: %s", problems[answer->outcome], answer->problem);
	else if (answer->status >= 300 && answer->status < 400)
		snprintf(text, size, "HTTP %d: redirects are not followed", answer->status);
	else
		snprintf(text, size, "HTTP %d", answer->status);
}
