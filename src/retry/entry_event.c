/*
 * Events about dead letters.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "core/event.h"
#include "core/settings.h"
#include "core/tables.h"
#include "retry/entry.h"

/* Bytes of an error that an event has. */
#define MAX_LOGGED_ERROR 1000

/* An error may be as long as its sender likes. */
static char *
clip(char *error)
{
	error[pg_mbcliplen(error, (int) strlen(error), MAX_LOGGED_ERROR)] = '\0';
	return error;
}

void
wahook_log_entry(const char *name, bool problem, Datum entry)
{
	HeapTupleHeader row = DatumGetHeapTupleHeader(entry);
	wahook_Event event;
	bool isnull;
	Datum value;

	wahook_event_begin(&event, name, problem);
	if (!event.wanted)
		return;
	value = GetAttributeByNum(row, Anum_dlq_id, &isnull);
	wahook_event_uuid(&event, "id", DatumGetUUIDP(value));
	value = GetAttributeByNum(row, Anum_dlq_whatsapp_message_id, &isnull);
	wahook_event_text(&event, "message_id", isnull ? NULL : TextDatumGetCString(value));
	value = GetAttributeByNum(row, Anum_dlq_correlation_id, &isnull);
	wahook_event_uuid(&event, "correlation_id", isnull ? NULL : DatumGetUUIDP(value));
	value = GetAttributeByNum(row, Anum_dlq_conversation_id, &isnull);
	wahook_event_uuid(&event, "conversation_id", isnull ? NULL : DatumGetUUIDP(value));
	value = GetAttributeByNum(row, Anum_dlq_service, &isnull);
	wahook_event_text(&event, "service", isnull ? NULL : TextDatumGetCString(value));
	value = GetAttributeByNum(row, Anum_dlq_retry_count, &isnull);
	wahook_event_int(&event, "retry_count", DatumGetInt32(value));
	if (wahook_log_error_texts)
	{
		value = GetAttributeByNum(row, Anum_dlq_error, &isnull);
		wahook_event_text(&event, "error", isnull ? NULL : clip(TextDatumGetCString(value)));
	}
	wahook_event_end(&event);
}
