/*
 * The wahook.* settings for SQL. current_setting() alone would not do: in a session that has not
 * loaded the library yet it knows neither their defaults nor their units.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "core/compat.h"

PG_FUNCTION_INFO_V1(wahook_setting);

/* By the name behind "wahook."; an unknown one is an error, and secrets come masked. */
Datum
wahook_setting(PG_FUNCTION_ARGS)
{
	char *name = psprintf("wahook.%s", text_to_cstring(PG_GETARG_TEXT_PP(0)));

	PG_RETURN_TEXT_P(cstring_to_text(GetConfigOptionByName(name, NULL, false)));
}
