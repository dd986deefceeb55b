/*
 * The heartbeat of a database's worker. Written by the worker alone, without a lock: a reader may
 * see one field before the other, which matters to nobody who looks for minutes of silence.
 */
#include "core/heartbeat.h"

#include <time.h>

#include "utils/timestamp.h"

/* The clocks run apart by up to half a thousandth while the one is being adjusted to the time. */
#define DRIFT_OF(us) ((us) / 1000)

int64
wahook_monotonic_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * USECS_PER_SEC + now.tv_nsec / 1000;
}

void
wahook_init_heartbeat(wahook_Heartbeat *heartbeat)
{
	pg_atomic_uint64 *const fields[] = {&heartbeat->began_at,     &heartbeat->turn_at,
										&heartbeat->sleeps_until, &heartbeat->gone_at,
										&heartbeat->clock_offset, &heartbeat->jumped_at,
										&heartbeat->jump};

	for (size_t i = 0; i < lengthof(fields); i++)
		pg_atomic_init_u64(fields[i], 0);
	pg_atomic_write_u64(&heartbeat->gone_at, wahook_monotonic_us());
	memset(heartbeat->version, 0, sizeof(heartbeat->version));
}

TimestampTz
wahook_heartbeat_begin(wahook_Heartbeat *heartbeat)
{
	int64 now = wahook_monotonic_us();
	int64 began_at = (int64) pg_atomic_read_u64(&heartbeat->began_at);
	int64 gone_at = (int64) pg_atomic_read_u64(&heartbeat->gone_at);
	TimestampTz wall = GetCurrentTimestamp();

	pg_atomic_write_u64(&heartbeat->turn_at, now);
	pg_atomic_write_u64(&heartbeat->sleeps_until, 0);
	pg_atomic_write_u64(&heartbeat->began_at, now);
	pg_atomic_write_u64(&heartbeat->gone_at, 0);
	if (pg_atomic_read_u64(&heartbeat->clock_offset) == 0)
		pg_atomic_write_u64(&heartbeat->clock_offset, (uint64) (wall - now));
	strlcpy(heartbeat->version, WAHOOK_VERSION, sizeof(heartbeat->version));
	return began_at == 0 || gone_at == 0 ? DT_NOBEGIN : wall - (now - gone_at);
}

bool
wahook_heartbeat_wake(wahook_Heartbeat *heartbeat, int64 max_jump_ms)
{
	int64 now = wahook_monotonic_us();
	int64 offset = GetCurrentTimestamp() - now;
	int64 jump = offset - (int64) pg_atomic_read_u64(&heartbeat->clock_offset);
	int64 slept = now - (int64) pg_atomic_read_u64(&heartbeat->turn_at);
	bool jumped;

	pg_atomic_write_u64(&heartbeat->sleeps_until, 0);
	pg_atomic_write_u64(&heartbeat->turn_at, now);
	pg_atomic_write_u64(&heartbeat->clock_offset, (uint64) offset);
	jumped = max_jump_ms >= 0 && (jump < 0 ? -jump : jump) > max_jump_ms * 1000 + DRIFT_OF(slept);
	if (jumped)
	{
		pg_atomic_write_u64(&heartbeat->jump, (uint64) jump);
		pg_atomic_write_u64(&heartbeat->jumped_at, now);
	}
	return jumped;
}

void
wahook_heartbeat_sleep(wahook_Heartbeat *heartbeat, TimestampTz until)
{
	uint64 at = PG_UINT64_MAX;

	if (until != DT_NOEND)
	{
		TimestampTz now = GetCurrentTimestamp();

		at = (uint64) (wahook_monotonic_us() + (until > now ? until - now : 0));
	}
	pg_atomic_write_u64(&heartbeat->sleeps_until, at);
}

void
wahook_heartbeat_end(wahook_Heartbeat *heartbeat)
{
	pg_atomic_write_u64(&heartbeat->gone_at, wahook_monotonic_us());
}
