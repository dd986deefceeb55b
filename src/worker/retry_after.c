/*
 * The header Retry-After: a number of seconds, or a date in one of HTTP's three formats.
 */
#include "worker/retry_after.h"

#include <string.h>

#include <curl/curl.h>

int64_t
wahook_retry_after_s(const char *value, int64_t now, int64_t max)
{
	static const char digits[] = "0123456789";
	int64_t seconds = 0;
	size_t len;

	if (value == NULL)
		return -1;
	value += strspn(value, " \t");
	len = strspn(value, digits);
	if (len > 0 && value[len + strspn(value + len, " \t")] == '\0')
	{
		for (size_t i = 0; i < len && seconds <= max; i++)
			seconds = seconds * 10 + (value[i] - '0');
	}
	else
	{
		/* Every format begins with the name of a day; curl_getdate() would read less than a date. */
		time_t at = len == 0 ? curl_getdate(value, NULL) : -1;

		if (at == -1)
			return -1;
		seconds = (int64_t) at - now;
	}
	return seconds < 1 ? 1 : seconds > max ? max : seconds;
}
