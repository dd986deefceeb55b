/*
 * Events: one line of JSON each in the server log. wahook.log_events says which are wanted;
 * payloads and error texts never go into one.
 */
#include "core/event.h"

#include "utils/builtins.h"
#include "utils/json.h"

#include "core/settings.h"
#include "core/uuid.h"

/* Starts an event; when it is not wanted, the calls that follow cost nothing. */
void
wahook_event_begin(wahook_Event *event, const char *name, bool problem)
{
	event->wanted = wahook_log_events >= (problem ? WAHOOK_LOG_PROBLEMS : WAHOOK_LOG_ALL);
	if (!event->wanted)
		return;
	initStringInfo(&event->json);
	appendStringInfo(&event->json, "{\"event\": \"%s\"", name);
}

static void
append_key(wahook_Event *event, const char *key)
{
	appendStringInfoString(&event->json, ", ");
	escape_json(&event->json, key);
	appendStringInfoString(&event->json, ": ");
}

void
wahook_event_text(wahook_Event *event, const char *key, const char *value)
{
	if (!event->wanted)
		return;
	append_key(event, key);
	if (value)
		escape_json(&event->json, value);
	else
		appendStringInfoString(&event->json, "null");
}

void
wahook_event_uuid(wahook_Event *event, const char *key, const pg_uuid_t *value)
{
	if (event->wanted)
		wahook_event_text(event, key, value ? wahook_uuid_text(value) : NULL);
}

void
wahook_event_int(wahook_Event *event, const char *key, int64 value)
{
	if (!event->wanted)
		return;
	append_key(event, key);
	appendStringInfo(&event->json, INT64_FORMAT, value);
}

void
wahook_event_end(wahook_Event *event)
{
	if (!event->wanted)
		return;
	appendStringInfoChar(&event->json, '}');
	ereport(LOG,
			(errmsg_internal("%s", event->json.data), errhidestmt(true), errhidecontext(true)));
	pfree(event->json.data);
}
