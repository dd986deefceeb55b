/*
 * For LD_PRELOAD: a wall clock that a test can set while the server runs. The monotonic clock is left alone.
 *
 * The file that CLOCK_OFFSET_FILE names holds how many seconds the clock is ahead, as an int64. It is mapped, so that
 * every process sees a change at once, also those that the postmaster forked before. libfaketime does not do: PostgreSQL
 * 15 forks background workers from a signal handler in the midst of select(), where libfaketime has its fakes off.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile const int64_t *offset;
static int (*real_gettimeofday)(struct timeval *, void *);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void
start(void)
{
	const char *file = getenv("CLOCK_OFFSET_FILE");
	int fd = file ? open(file, O_RDONLY) : -1;

	real_gettimeofday = (int (*)(struct timeval *, void *)) dlsym(RTLD_NEXT, "gettimeofday");
	real_clock_gettime = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
	if (fd >= 0)
		offset = mmap(NULL, sizeof(*offset), PROT_READ, MAP_SHARED, fd, 0);
	if (offset == MAP_FAILED)
		offset = NULL;
}

int
gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	int result = real_gettimeofday(tv, zone);

	tv->tv_sec += offset ? *offset : 0;
	return result;
}

int
clock_gettime(clockid_t clock, struct timespec *ts)
{
	int result = real_clock_gettime(clock, ts);

	if (clock == CLOCK_REALTIME && offset)
		ts->tv_sec += *offset;
	return result;
}

time_t
time(time_t *at)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (at)
		*at = now.tv_sec;
	return now.tv_sec;
}
