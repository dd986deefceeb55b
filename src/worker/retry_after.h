/*
 * The header Retry-After. Pure.
 */
#ifndef WAHOOK_RETRY_AFTER_H
#define WAHOOK_RETRY_AFTER_H

#include <stdint.h>

/*
 * How many seconds from now on (in seconds since 1970) the value asks to wait: at least 1, at most
 * max. -1 where it is neither a number of seconds nor a date, or null.
 */
extern int64_t wahook_retry_after_s(const char *value, int64_t now, int64_t max);

#endif
