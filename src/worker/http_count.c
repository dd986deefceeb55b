/*
 * Counting requests to endpoints, by how they ended.
 */
#include "core/counters.h"

#include "worker/http_count.h"

static wahook_HttpResult
result_of(const wahook_HttpAnswer *answer)
{
	switch (answer->outcome)
	{
		case WAHOOK_HTTP_ANSWERED:
			if (answer->status >= 200 && answer->status < 600)
				return WAHOOK_HTTP_2XX + (answer->status / 100 - 2);
			return WAHOOK_HTTP_CONNECTION;
		case WAHOOK_HTTP_TIMED_OUT:
			return WAHOOK_HTTP_TIMEOUT;
		case WAHOOK_HTTP_ADDRESS_REFUSED:
		case WAHOOK_HTTP_BAD_REQUEST:
			return WAHOOK_HTTP_REFUSED;
		case WAHOOK_HTTP_BROKEN:
		case WAHOOK_HTTP_BAD_TLS:
			break;
	}
	return WAHOOK_HTTP_CONNECTION;
}

void
wahook_count_http_attempt(const char *service, const wahook_HttpAnswer *answer)
{
	wahook_HttpResult result = result_of(answer);

	wahook_count_labelled_now(WAHOOK_HTTP_ATTEMPTS, service, result, 1);
	if (result != WAHOOK_HTTP_REFUSED)
		wahook_observe_now(WAHOOK_HTTP_TIME, answer->duration_us);
}
