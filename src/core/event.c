/*
 * Events: one line of JSON each in the server log. wahook.log_events says which are wanted;
 * payloads and error texts never go into one.
 */
#include "core/event.h"

#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "core/settings.h"
#include "core/uuid.h"

static const struct
{
	int wanted_from; /* this value of wahook.log_events on */
	const char *name;
} levels[] = {
	[WAHOOK_EVENT_INFO] = {WAHOOK_LOG_INFO, "info"},
	[WAHOOK_EVENT_PROBLEM] = {WAHOOK_LOG_PROBLEMS, "problem"},
	[WAHOOK_EVENT_DETAIL] = {WAHOOK_LOG_ALL, "detail"},
};

/* In UTC, to the millisecond, whatever the session's time zone and DateStyle are. */
static void
append_time(StringInfo json)
{
	struct pg_tm tm;
	fsec_t microseconds;

	if (timestamp2tm(GetCurrentTimestamp(), NULL, &tm, &microseconds, NULL, NULL) != 0)
		elog(ERROR, "the clock shows no time");
	appendStringInfo(json, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year, tm.tm_mon, tm.tm_mday,
					 tm.tm_hour, tm.tm_min, tm.tm_sec, (int) microseconds / 1000);
}

/* Starts an event; when it is not wanted, the calls that follow cost nothing. */
void
wahook_event_begin(wahook_Event *event, const char *name, wahook_EventLevel level)
{
	event->wanted = wahook_log_events >= levels[level].wanted_from;
	if (!event->wanted)
		return;
	initStringInfo(&event->json);
	appendStringInfoString(&event->json, "{\"event\": ");
	escape_json(&event->json, name);
	appendStringInfo(&event->json, ", \"level\": \"%s\", \"at\": \"", levels[level].name);
	append_time(&event->json);
	appendStringInfoChar(&event->json, '"');
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
	/* Not to a client that asks for LOG: it is for whoever reads the server's log. */
	ereport(LOG_SERVER_ONLY,
			(errmsg_internal("%s", event->json.data), errhidestmt(true), errhidecontext(true)));
	pfree(event->json.data);
}
