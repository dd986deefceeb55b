/*
 * Events from SQL functions.
 */
#include "core/event.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "core/compat.h"

PG_FUNCTION_INFO_V1(wahook_log_event);
PG_FUNCTION_INFO_V1(wahook_log_problem);

/* The details are an object; its members follow the event's name in the line. */
static void
log_event(FunctionCallInfo fcinfo, bool problem)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Jsonb *details = PG_GETARG_JSONB_P(1);
	wahook_Event event;

	if (!JB_ROOT_IS_OBJECT(details))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("details of event \"%s\" are not a JSON object", name),
						errhint("Pass an object, for example '{}'.")));

	wahook_event_begin(&event, name, problem);
	if (event.wanted && JB_ROOT_COUNT(details) > 0)
	{
		char *members = JsonbToCString(NULL, &details->root, VARSIZE(details));

		members[strlen(members) - 1] = '\0';
		appendStringInfo(&event.json, ", %s", members + 1);
	}
	wahook_event_end(&event);
}

Datum
wahook_log_event(PG_FUNCTION_ARGS)
{
	log_event(fcinfo, false);
	PG_RETURN_VOID();
}

Datum
wahook_log_problem(PG_FUNCTION_ARGS)
{
	log_event(fcinfo, true);
	PG_RETURN_VOID();
}
