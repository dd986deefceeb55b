/*
 * The queue of conversations in which messages wait.
 */
#ifndef WAHOOK_QUEUE_H
#define WAHOOK_QUEUE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "core/table.h"

extern void wahook_open_queue(wahook_Table *queue);

/* Adds a row: look at the conversation at due_at. service: text. */
extern void wahook_queue_conversation(wahook_Table *queue, const pg_uuid_t *id, Datum service,
									  TimestampTz due_at);

/* The same of many, at the latest when the table is closed. */
extern void wahook_queue_with_others(wahook_Table *queue, const pg_uuid_t *id, Datum service,
									 TimestampTz due_at);

#endif
