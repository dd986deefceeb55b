/*
 * What is on record of a message that was completed: when that was, in the message's own row, and the
 * attempt that it took. That is told by the same row where it was the first and over soon, as nearly all
 * are, and else by a row of webhook_attempts; the view webhook_delivery_attempts shows both.
 */
#include "conversation/record.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/counters.h"
#include "core/plan.h"
#include "core/tables.h"
#include "core/uuid.h"

/*
 * Of what was completed later than this after its arrival the job rollup learns by the index on when
 * attempts ended. It looks for all that came so long before the time that it counts: c_soon in
 * webhook_messages_known(), monitor/rollup.sql, must not be shorter.
 */
#define SOON_US (60 * USECS_PER_SEC)

/* By a statement, whose trigger makes a row of the attempt that the message tells of. */
static wahook_Plan again_plan = {"UPDATE @extschema@.processed_webhook_messages"
								 " SET processed_at = $2, processing_time_ms = $3 WHERE id = $1",
								 3,
								 {UUIDOID, TIMESTAMPTZOID, INT4OID}};

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

/* Services are removed, and conversations joined, while messages wait. */
static bool
is_as_received(TupleTableSlot *message, const wahook_Conversation *conversation,
			   TupleTableSlot *waiting)
{
	bool isnull;
	Datum id = slot_getattr(message, Anum_message_conversation_id, &isnull);

	return !isnull && memcmp(DatumGetUUIDP(id), &conversation->id, UUID_LEN) == 0 &&
		   datumIsEqual(slot_getattr(message, Anum_message_service, &isnull),
						slot_getattr(waiting, Anum_inbox_service, &isnull), false, -1);
}

/* The one rule of which attempts the message's own row tells. */
static bool
tells_of_attempt(const wahook_Record *record, TupleTableSlot *message,
				 const wahook_Conversation *conversation, TupleTableSlot *waiting)
{
	return former_attempts(waiting) == 0 && record->now - received_at(message) < SOON_US &&
		   is_as_received(message, conversation, waiting);
}

/* In place, for no index has these columns. Returns false when another transaction has the row. */
static bool
mark_processed(wahook_Record *record, const wahook_Conversation *conversation, int ms, bool tells)
{
	bool nulls[WAHOOK_MAX_COLUMNS] = {[Anum_message_claimed_at - 1] =
										  TIMESTAMP_NOT_FINITE(conversation->locked_at)};
	const Datum values[WAHOOK_MAX_COLUMNS] =
		{[Anum_message_processed_at - 1] = TimestampTzGetDatum(record->now),
		 [Anum_message_processing_time_ms - 1] = Int32GetDatum(ms),
		 [Anum_message_claimed_at - 1] = TimestampTzGetDatum(conversation->locked_at),
		 [Anum_message_claim_token - 1] = Int64GetDatum(conversation->lock_token),
		 [Anum_message_claimed_by - 1] = UUIDPGetDatum(&conversation->locked_by)};
	const bool replace[WAHOOK_MAX_COLUMNS] = {[Anum_message_processed_at - 1] = true,
											  [Anum_message_processing_time_ms - 1] = true,
											  [Anum_message_claimed_at - 1] = tells,
											  [Anum_message_claim_token - 1] = tells,
											  [Anum_message_claimed_by - 1] = tells};

	return wahook_update_row(&record->messages, values, nulls, replace);
}

static bool
mark_processed_again(wahook_Record *record, const pg_uuid_t *message_id, int ms)
{
	Datum values[] = {UUIDPGetDatum(message_id), TimestampTzGetDatum(record->now),
					  Int32GetDatum(ms)};

	if (!wahook_try_lock_row(&record->messages.rows))
		return false;
	wahook_execute(&again_plan, values, NULL);
	return true;
}

/* Returns whether the message tells of the attempt. One deleted by hand says nothing. */
static bool
record_message(wahook_Record *record, const wahook_Conversation *conversation,
			   TupleTableSlot *waiting, const pg_uuid_t *message_id, int ms)
{
	wahook_RowReader *messages = &record->messages.rows;
	ScanKeyData key;
	wahook_RowState state;
	bool tells = false;
	bool marked = false;

	ScanKeyInit(&key, Anum_message_id, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(message_id));
	state = wahook_peek_row(messages, &key, 1);
	if (state == WAHOOK_ROW_NONE)
		return false;
	wahook_observe(WAHOOK_END_TO_END_TIME, record->now - received_at(messages->slot));
	if (state == WAHOOK_ROW_STEADY && !slot_attisnull(messages->slot, Anum_message_claimed_by))
		marked = mark_processed_again(record, message_id, ms);
	else if (state == WAHOOK_ROW_STEADY)
	{
		tells = tells_of_attempt(record, messages->slot, conversation, waiting);
		marked = mark_processed(record, conversation, ms, tells);
	}
	if (!marked)
		wahook_raise_busy("message", wahook_uuid_text(message_id));
	return tells;
}

static void
record_attempt(wahook_Record *record, const wahook_Conversation *conversation,
			   TupleTableSlot *waiting, int ms)
{
	Datum values[WAHOOK_MAX_COLUMNS];
	bool nulls[WAHOOK_MAX_COLUMNS] = {false};
	bool isnull;

	if (!record->attempts_opened)
		wahook_open_table_beside(&record->attempts, record->beside, "webhook_attempts",
								 "webhook_attempts_pkey");
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
	if (!record_message(record, conversation, waiting, message_id, ms))
		record_attempt(record, conversation, waiting, ms);
}
