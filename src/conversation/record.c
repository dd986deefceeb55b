/*
 * What is on record of a message that was completed: when that was, in the message's own row, and the
 * attempt that it took, as a row of webhook_delivery_attempts.
 */
#include "conversation/record.h"

#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/counters.h"
#include "core/tables.h"
#include "core/uuid.h"

void
wahook_open_record(wahook_Record *record, const wahook_Table *beside, int processing_ms)
{
	record->beside = beside;
	wahook_open_table_beside(&record->messages, beside, "processed_webhook_messages",
							 "processed_webhook_messages_pkey");
	record->attempts_opened = false;
	record->now = GetCurrentTimestamp();
	record->processing_ms = processing_ms;
}

void
wahook_close_record(wahook_Record *record)
{
	if (record->attempts_opened)
		wahook_close_table(&record->attempts);
	wahook_close_table(&record->messages);
}

static int
elapsed_ms(TimestampTz from, TimestampTz to)
{
	if (TIMESTAMP_NOT_FINITE(from))
		return 0;
	return (int) Min(Max((to - from) / 1000, 0), PG_INT32_MAX);
}

static TimestampTz
received_at(TupleTableSlot *message)
{
	bool isnull;

	return DatumGetTimestampTz(slot_getattr(message, Anum_message_received_at, &isnull));
}

static int
former_attempts(TupleTableSlot *waiting)
{
	bool isnull;

	return DatumGetInt32(slot_getattr(waiting, Anum_inbox_attempts, &isnull)) +
		   DatumGetInt32(slot_getattr(waiting, Anum_inbox_losses, &isnull));
}

/* The idempotency record says when the message was processed. One deleted by hand says nothing. */
static void
mark_processed(wahook_Record *record, const pg_uuid_t *message_id, int ms)
{
	wahook_Table *messages = &record->messages;
	ScanKeyData key;
	wahook_RowState state;
	Datum values[WAHOOK_MAX_COLUMNS] = {[Anum_message_processed_at - 1] =
											TimestampTzGetDatum(record->now),
										[Anum_message_processing_time_ms - 1] = Int32GetDatum(ms)};
	static const bool nulls[WAHOOK_MAX_COLUMNS] = {false};
	static const bool replace[WAHOOK_MAX_COLUMNS] = {[Anum_message_processed_at - 1] = true,
													 [Anum_message_processing_time_ms - 1] = true};

	ScanKeyInit(&key, Anum_message_id, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(message_id));
	state = wahook_peek_row(&messages->rows, &key, 1);
	if (state == WAHOOK_ROW_NONE)
		return;
	wahook_observe(WAHOOK_END_TO_END_TIME, record->now - received_at(messages->rows.slot));
	if (state != WAHOOK_ROW_STEADY || !wahook_update_row(messages, values, nulls, replace))
		wahook_raise_busy("message", wahook_uuid_text(message_id));
}

static void
record_attempt(wahook_Record *record, const wahook_Conversation *conversation,
			   TupleTableSlot *waiting, int ms)
{
	Datum values[WAHOOK_MAX_COLUMNS];
	bool nulls[WAHOOK_MAX_COLUMNS] = {false};
	bool isnull;

	if (!record->attempts_opened)
		wahook_open_table_beside(&record->attempts, record->beside, "webhook_delivery_attempts",
								 "webhook_delivery_attempts_pkey");
	record->attempts_opened = true;
	values[Anum_attempt_message_id - 1] = slot_getattr(waiting, Anum_inbox_message_id, &isnull);
	values[Anum_attempt_seq - 1] = wahook_next_value(&record->attempts);
	values[Anum_attempt_attempt - 1] = Int32GetDatum(former_attempts(waiting) + 1);
	values[Anum_attempt_outcome - 1] = CStringGetTextDatum("succeeded");
	values[Anum_attempt_conversation_id - 1] = UUIDPGetDatum(&conversation->id);
	values[Anum_attempt_lock_token - 1] = Int64GetDatum(conversation->lock_token);
	values[Anum_attempt_service - 1] = slot_getattr(waiting, Anum_inbox_service, &isnull);
	values[Anum_attempt_started_at - 1] = TimestampTzGetDatum(conversation->locked_at);
	nulls[Anum_attempt_started_at - 1] = TIMESTAMP_NOT_FINITE(conversation->locked_at);
	values[Anum_attempt_finished_at - 1] = TimestampTzGetDatum(record->now);
	values[Anum_attempt_duration_ms - 1] = Int32GetDatum(ms);
	nulls[Anum_attempt_error - 1] = true;
	nulls[Anum_attempt_error_stack - 1] = true;
	values[Anum_attempt_lock_id - 1] = UUIDPGetDatum(&conversation->locked_by);
	wahook_add_row(&record->attempts, values, nulls, Natts_attempt);
}

void
wahook_record_completed(wahook_Record *record, const wahook_Conversation *conversation,
						TupleTableSlot *waiting)
{
	int ms = record->processing_ms >= 0 ? record->processing_ms
										: elapsed_ms(conversation->locked_at, record->now);
	bool isnull;
	const pg_uuid_t *message_id =
		DatumGetUUIDP(slot_getattr(waiting, Anum_inbox_message_id, &isnull));

	wahook_observe(WAHOOK_PROCESSING_TIME, ms * INT64CONST(1000));
	mark_processed(record, message_id, ms);
	record_attempt(record, conversation, waiting, ms);
}
