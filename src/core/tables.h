/*
 * Columns of the tables that are written directly; new ones are only ever added at the end.
 */
#ifndef WAHOOK_TABLES_H
#define WAHOOK_TABLES_H

enum
{
	Anum_conversation_id = 1,
	Anum_conversation_user_id = 2,
	Anum_conversation_whatsapp_phone = 3,
	Anum_conversation_agent_type = 4,
	Anum_conversation_status = 5,
	Anum_conversation_last_activity_at = 6,
	Anum_conversation_locked_by = 9,
	Anum_conversation_locked_at = 10,
	Anum_conversation_context = 11,
	Anum_conversation_updated_at = 13,
	Anum_conversation_lock_token = 15,
	Anum_conversation_lock_expires_at = 16,
	Anum_conversation_claimed_messages = 17
};

enum
{
	Anum_identity_conversation_id = 4
};

enum
{
	Anum_inbox_conversation_id = 1,
	Anum_inbox_seq = 2,
	Anum_inbox_message_id = 3,
	Anum_inbox_service = 4,
	Anum_inbox_attempts = 5,
	Anum_inbox_losses = 6,
	Anum_inbox_enqueued_at = 7,
	Anum_inbox_user_id = 8,
	Anum_inbox_whatsapp_phone = 9,
	Natts_inbox = 9
};

/* Columns of its primary key. */
enum
{
	Anum_inbox_key_conversation_id = 1,
	Anum_inbox_key_service = 2,
	Anum_inbox_key_seq = 3
};

enum
{
	Anum_queue_conversation_id = 1,
	Anum_queue_seq = 2,
	Anum_queue_service = 3,
	Anum_queue_due_at = 4,
	Anum_queue_others = 5,
	Natts_queue = 5
};

enum
{
	Anum_lease_expires_at = 1,
	Anum_lease_conversation_id = 2,
	Anum_lease_lock_id = 3,
	Anum_lease_service = 4,
	Anum_lease_others = 5,
	Natts_lease = 5
};

enum
{
	Anum_message_id = 1,
	Anum_message_whatsapp_message_id = 2,
	Anum_message_correlation_id = 3,
	Anum_message_conversation_id = 4,
	Anum_message_received_at = 5,
	Anum_message_kind = 6,
	Anum_message_service = 7,
	Anum_message_payload = 8,
	Anum_message_processed_at = 9,
	Anum_message_processing_time_ms = 10,
	Anum_message_claimed_at = 11,
	Anum_message_claim_token = 12,
	Anum_message_claimed_by = 13,
	Natts_message = 13
};

enum
{
	Anum_attempt_message_id = 1,
	Anum_attempt_seq = 2,
	Anum_attempt_attempt = 3,
	Anum_attempt_outcome = 4,
	Anum_attempt_conversation_id = 5,
	Anum_attempt_lock_token = 6,
	Anum_attempt_service = 7,
	Anum_attempt_started_at = 8,
	Anum_attempt_finished_at = 9,
	Anum_attempt_duration_ms = 10,
	Anum_attempt_error = 11,
	Anum_attempt_error_stack = 12,
	Anum_attempt_lock_id = 13,
	Natts_attempt = 13
};

enum
{
	Anum_change_conversation_id = 1,
	Anum_change_whatsapp_message_id = 2,
	Anum_change_message_id = 3,
	Anum_change_kind = 4,
	Anum_change_received_at = 5,
	Natts_change = 5
};

#endif
