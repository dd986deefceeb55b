/*
 * The heartbeat of a database's worker, in shared memory: when it last had a turn, until when it
 * sleeps, since when it is gone; and whether the clock was set meanwhile.
 *
 * An idle worker sleeps for long, so age alone says nothing. It is late when the time for which it
 * said it would sleep is over, when one turn takes very long, or when there is none.
 *
 * Times are kept by the monotonic clock, which all processes of a server share and nobody sets.
 */
#ifndef WAHOOK_HEARTBEAT_H
#define WAHOOK_HEARTBEAT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"

/* The library that the worker runs, "0.2.0". */
#define WAHOOK_VERSION_SIZE 24

/* Microseconds by the monotonic clock; 0: never. */
typedef struct wahook_Heartbeat
{
	pg_atomic_uint64 began_at;     /* when the worker that is or was there began */
	pg_atomic_uint64 turn_at;      /* when it last woke */
	pg_atomic_uint64 sleeps_until; /* 0: it is awake; PG_UINT64_MAX: nothing is due */
	pg_atomic_uint64 gone_at;      /* since when there is none, or none yet; 0: it is there */
	pg_atomic_uint64 clock_offset; /* what the wall clock is ahead of the monotonic one; signed */
	pg_atomic_uint64 jumped_at;    /* when the wall clock was seen to have been set */
	pg_atomic_uint64 jump;         /* by how much, signed */
	char version[WAHOOK_VERSION_SIZE];
} wahook_Heartbeat;

extern void wahook_init_heartbeat(wahook_Heartbeat *heartbeat);

/* The worker begins. Returns until when the former one is known to have been there; DT_NOBEGIN: unknown. */
extern TimestampTz wahook_heartbeat_begin(wahook_Heartbeat *heartbeat);

/* It woke. True where the clock was set since the last time, by more than max_jump_ms. */
extern bool wahook_heartbeat_wake(wahook_Heartbeat *heartbeat, int64 max_jump_ms);

/* It is going to sleep; DT_NOEND: until something comes. */
extern void wahook_heartbeat_sleep(wahook_Heartbeat *heartbeat, TimestampTz until);

/* It is about to be gone. */
extern void wahook_heartbeat_end(wahook_Heartbeat *heartbeat);

/* Microseconds by the monotonic clock. */
extern int64 wahook_monotonic_us(void);

#endif
