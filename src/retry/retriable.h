/*
 * Retries outside a conversation's queue: entries that are taken and answered one by one.
 */
#ifndef WAHOOK_RETRIABLE_H
#define WAHOOK_RETRIABLE_H

#include "postgres.h"

#include "utils/uuid.h"

#include "retry/dead_letter.h"

/*
 * Records how the retry of an entry ended, and returns the entry, a webhook_dlq row, or 0 when it is
 * gone. failure: null for a success. The caller has row-locked the entry.
 */
extern Datum wahook_end_retry(const pg_uuid_t *id, int retry_count, int max_retries,
							  const wahook_Failure *failure);

/* Takes back the entries of retriers that vanished: a retry that failed. */
extern void wahook_end_retry_leases(void);

/* Whether the entry, a webhook_dlq row, has the given resolution_status. */
extern bool wahook_entry_has_status(Datum entry, const char *status);

#endif
