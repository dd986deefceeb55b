/*
 * Events: one line of JSON each in the server log, under the names callers know.
 */
#ifndef WAHOOK_EVENT_H
#define WAHOOK_EVENT_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/uuid.h"

typedef struct wahook_Event
{
	bool wanted;
	StringInfoData json;
} wahook_Event;

/* Which of them wahook.log_events wants. false and true stand for the first two. */
typedef enum wahook_EventLevel
{
	WAHOOK_EVENT_INFO,
	WAHOOK_EVENT_PROBLEM,
	WAHOOK_EVENT_DETAIL /* one or more a message: it would cost, were it always written */
} wahook_EventLevel;

extern void wahook_event_begin(wahook_Event *event, const char *name, wahook_EventLevel level);
extern void wahook_event_text(wahook_Event *event, const char *key, const char *value);
extern void wahook_event_uuid(wahook_Event *event, const char *key, const pg_uuid_t *value);
extern void wahook_event_int(wahook_Event *event, const char *key, int64 value);
extern void wahook_event_end(wahook_Event *event);

#endif
