/*
 * Dead letters without a conversation, as handler processes take and hold them.
 */
#ifndef WAHOOK_HANDLER_ENTRY_H
#define WAHOOK_HANDLER_ENTRY_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "retry/attempt.h"

/* Takes the one of a service that has been due longest, under a lease. False: none is due. */
extern bool wahook_take_direct(const char *service, TimestampTz now, TimestampTz leased_until,
							   wahook_Direct *entry);

/* Row-locks it; the time until which it is leased stands for the lease. Never waits. */
extern bool wahook_hold_direct(const pg_uuid_t *id, TimestampTz leased_until);

/* It waits again. */
extern void wahook_give_direct_back(const pg_uuid_t *id);

#endif
