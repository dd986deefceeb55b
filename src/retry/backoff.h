/*
 * Backoff: how long to wait before the next retry.
 */
#ifndef WAHOOK_BACKOFF_H
#define WAHOOK_BACKOFF_H

#include "postgres.h"

#include "datatype/timestamp.h"

extern int64 wahook_backoff_us(int64 base_us, int64 cap_us, double jitter, int retry_count,
							   double random);
/* By what the service says, or the settings; service null: by these. */
extern int64 wahook_retry_delay_us(const char *service, int retry_count);
extern int wahook_max_retries(const char *service);
extern int64 wahook_delay_us(const Interval *delay, const char *argument);

#endif
