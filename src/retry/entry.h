/*
 * An entry of the dead letter queue: its columns, and what its writers share.
 */
#ifndef WAHOOK_ENTRY_H
#define WAHOOK_ENTRY_H

#include "postgres.h"

#include "core/plan.h"

/* Columns of webhook_dlq; new ones are only ever added at the end. */
enum
{
	Anum_dlq_id = 1,
	Anum_dlq_payload = 2,
	Anum_dlq_error = 3,
	Anum_dlq_correlation_id = 5,
	Anum_dlq_whatsapp_message_id = 6,
	Anum_dlq_retry_count = 7,
	Anum_dlq_max_retries = 8,
	Anum_dlq_next_retry_at = 9,
	Anum_dlq_created_at = 10,
	Anum_dlq_processed_at = 11,
	Anum_dlq_resolution_status = 12,
	Anum_dlq_from_number = 13,
	Anum_dlq_processed = 14,
	Anum_dlq_updated_at = 15,
	Anum_dlq_conversation_id = 16,
	Anum_dlq_service = 17,
	Anum_dlq_retry_lease_until = 18
};

typedef enum wahook_Hold
{
	WAHOOK_HOLD_NONE, /* the message has no entry, and nobody else can add one */
	WAHOOK_HOLD_HELD, /* its entry is row-locked */
	WAHOOK_HOLD_BUSY  /* another transaction is changing or adding it */
} wahook_Hold;

/*
 * Reserves the entry of a message until the transaction ends, without waiting. max_retries is set
 * when it is held. message_id: the wamid, text.
 */
extern wahook_Hold wahook_hold_entry(Datum message_id, int *max_retries);

/*
 * Runs a statement that sets every column of its entries as it should be and looks after the
 * message itself: the triggers on webhook_dlq stand aside.
 */
extern uint64 wahook_execute_settled(wahook_Plan *plan, Datum *values, const char *nulls);

/* Runs a statement that resolves entries without processing them. */
extern uint64 wahook_execute_discarding(wahook_Plan *plan, Datum *values, const char *nulls);

/* Logs an event about an entry, a webhook_dlq row. */
extern void wahook_log_entry(const char *name, bool problem, Datum entry);

/* Adding entries: one a message. */
extern bool wahook_lock_message(Datum message_id, bool wait);
extern void wahook_add_entry(FunctionCallInfo fcinfo, Datum *values, const bool *nulls);

#endif
