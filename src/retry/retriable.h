/*
 * Retries outside a conversation's queue: entries that are taken and answered one by one.
 */
#ifndef WAHOOK_RETRIABLE_H
#define WAHOOK_RETRIABLE_H

#include "postgres.h"

#include "utils/uuid.h"

#include "retry/dead_letter.h"

/*
 * In a statement where d is webhook_dlq: an entry that waits for a retry and that the dead letter
 * job can't put back in a queue, because its message belongs to no conversation.
 */
#define WAHOOK_WAITS_DIRECTLY \
	"d.conversation_id IS NULL AND d.resolution_status = 'pending' AND NOT EXISTS (" \
	"SELECT FROM @extschema@.processed_webhook_messages m" \
	" WHERE m.whatsapp_message_id = d.whatsapp_message_id AND (m.processed_at > d.updated_at" \
	" OR m.processed_at IS NULL AND EXISTS (SELECT FROM @extschema@.webhook_conversations c" \
	" WHERE c.id = m.conversation_id)))"

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
