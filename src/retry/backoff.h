/*
 * Backoff: how long to wait before the next retry.
 */
#ifndef WAHOOK_BACKOFF_H
#define WAHOOK_BACKOFF_H

#include "postgres.h"

#include "datatype/timestamp.h"

extern int64 wahook_backoff_us(int64 base_us, int64 cap_us, double jitter, int retry_count,
							   double random);
extern int64 wahook_retry_delay_us(int retry_count);
extern int64 wahook_delay_us(const Interval *delay, const char *argument);

#endif
