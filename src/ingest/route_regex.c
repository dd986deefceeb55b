/*
 * Regular expressions that operators write, on text that users write.
 *
 * Some expressions take time that grows exponentially with the text, so a match is cut off after a
 * while, as a cancel would. The error is caught without a subtransaction: between the try and the
 * catch is nothing but the regex engine, which touches no relation, lock or buffer.
 */
#include "ingest/route_regex.h"

#include <signal.h>

#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "storage/latch.h"
#include "utils/timeout.h"

#include "core/compat.h"

static volatile sig_atomic_t timed_out = false;

/* In a signal handler. */
static void
on_timeout(void)
{
	timed_out = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

static TimeoutId
regex_timeout(void)
{
	static bool registered = false;
	static TimeoutId timeout;

	if (!registered)
	{
		timeout = RegisterTimeout(USER_TIMEOUT, on_timeout);
		registered = true;
	}
	return timeout;
}

/* Also takes the cancel back when it came after the match was over. */
static void
stop_timeout(void)
{
	disable_timeout(regex_timeout(), false);
	if (timed_out)
		QueryCancelPending = false;
}

bool
wahook_regex_matches(Datum regex, const char *subject, int len, int timeout_ms,
					 const char **problem)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool matches = false;
	ErrorData *volatile error = NULL;

	*problem = NULL;
	timed_out = false;
	enable_timeout_after(regex_timeout(), timeout_ms);
	PG_TRY();
	{
		matches = RE_compile_and_execute(DatumGetTextPP(regex), unconstify(char *, subject), len,
										 REG_ADVANCED, DEFAULT_COLLATION_OID, 0, NULL);
		stop_timeout();
	}
	PG_CATCH();
	{
		stop_timeout();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	if (error == NULL)
		return matches;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && !timed_out)
		ReThrowError(error);
	*problem = timed_out ? psprintf("it took longer than %d ms", timeout_ms) : error->message;
	return false;
}
