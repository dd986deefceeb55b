/*
 * The queue of conversations in which messages wait.
 */
#include "ingest/queue.h"

#include "utils/timestamp.h"

#include "core/tables.h"
#include "core/wake.h"

void
wahook_open_queue(wahook_Table *queue)
{
	wahook_open_table(queue, "webhook_conversation_queue", "webhook_conversation_queue_pkey");
}

static void
make_row(wahook_Table *queue, const pg_uuid_t *id, Datum service, TimestampTz due_at, Datum *values)
{
	values[Anum_queue_conversation_id - 1] = UUIDPGetDatum(id);
	values[Anum_queue_seq - 1] = wahook_next_value(queue);
	values[Anum_queue_service - 1] = service;
	values[Anum_queue_due_at - 1] = TimestampTzGetDatum(due_at);
	wahook_note_work_at(WAHOOK_WORK_DELIVER, due_at);
}

void
wahook_queue_conversation(wahook_Table *queue, const pg_uuid_t *id, Datum service,
						  TimestampTz due_at)
{
	static const bool nulls[WAHOOK_MAX_COLUMNS] = {false};
	Datum values[WAHOOK_MAX_COLUMNS];

	make_row(queue, id, service, due_at, values);
	wahook_insert_row(queue, values, nulls, Natts_queue);
}

void
wahook_queue_with_others(wahook_Table *queue, const pg_uuid_t *id, Datum service,
						 TimestampTz due_at)
{
	static const bool nulls[WAHOOK_MAX_COLUMNS] = {false};
	Datum values[WAHOOK_MAX_COLUMNS];

	make_row(queue, id, service, due_at, values);
	wahook_add_row(queue, values, nulls, Natts_queue);
}
