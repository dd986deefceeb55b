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

extern void wahook_event_begin(wahook_Event *event, const char *name, bool problem);
extern void wahook_event_text(wahook_Event *event, const char *key, const char *value);
extern void wahook_event_uuid(wahook_Event *event, const char *key, const pg_uuid_t *value);
extern void wahook_event_int(wahook_Event *event, const char *key, int64 value);
extern void wahook_event_end(wahook_Event *event);

#endif
