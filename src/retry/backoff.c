/*
 * Backoff: how long to wait before the next retry.
 *
 * base: the delay before the first retry; it doubles with each retry that fails, up to the cap.
 * jitter: the largest share of the delay that is added at random, so that what failed together is
 * not retried together.
 */
#include "retry/backoff.h"

#include "common/pg_prng.h"
#include "fmgr.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/settings.h"
#include "ingest/config.h"

PG_FUNCTION_INFO_V1(wahook_dlq_retry_delay);

/* Pure: random is a number in [0, 1). All times in microseconds; never overflows. */
int64
wahook_backoff_us(int64 base_us, int64 cap_us, double jitter, int retry_count, double random)
{
	int64 delay = Min(base_us, cap_us);

	for (int i = 0; i < retry_count && delay < cap_us; i++)
		delay = delay > cap_us / 2 ? cap_us : delay * 2;
	return delay + (int64) ((double) delay * jitter * random);
}

/* retry_count: retries that have failed so far. */
int64
wahook_retry_delay_us(const char *service, int retry_count)
{
	const wahook_Service *config = service ? wahook_find_service(service) : NULL;
	int64 base_us = wahook_dlq_base_delay_s * USECS_PER_SEC;
	int64 cap_us = wahook_dlq_max_delay_s * USECS_PER_SEC;

	if (config && config->retry_base_us >= 0)
		base_us = config->retry_base_us;
	if (config && config->retry_max_us >= 0)
		cap_us = config->retry_max_us;
	return wahook_backoff_us(base_us, cap_us, wahook_dlq_jitter, retry_count,
							 pg_prng_double(&pg_global_prng_state));
}

int
wahook_max_retries(const char *service)
{
	const wahook_Service *config = wahook_find_service(service);

	return config && config->max_retries >= 0 ? config->max_retries : wahook_dlq_max_retries;
}

/* A delay that a caller asks for, in microseconds. Error 22023 when it is negative. */
int64
wahook_delay_us(const Interval *delay, const char *argument)
{
	const int64 max_days = 3650;
	int64 days = (int64) delay->month * DAYS_PER_MONTH + delay->day + delay->time / USECS_PER_DAY;
	int64 rest = delay->time % USECS_PER_DAY;

	if (days < 0 || days > max_days || (days == 0 && rest < 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s is out of range", argument),
				 errdetail("A retry is due between now and %d days ahead.", (int) max_days),
				 errhint("Leave it null for the usual schedule, see dlq_retry_delay().")));
	return days * USECS_PER_DAY + rest;
}

/* dlq_retry_delay(integer) → interval */
Datum
wahook_dlq_retry_delay(PG_FUNCTION_ARGS)
{
	int32 retry_count = PG_GETARG_INT32(0);
	Interval *delay;

	if (retry_count < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("p_retry_count must not be negative"), errdetail("It is %d.", retry_count),
				 errhint("Pass how many retries have failed so far: 0 before the first one.")));
	delay = palloc0(sizeof(Interval));
	delay->time = wahook_retry_delay_us(NULL, retry_count);
	PG_RETURN_INTERVAL_P(delay);
}
