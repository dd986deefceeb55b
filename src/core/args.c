/*
 * Arguments of SQL functions.
 */
#include "core/args.h"

#include "utils/lsyscache.h"

#include "core/compat.h"

void
wahook_require_arg(FunctionCallInfo fcinfo, int arg, const char *name, const char *hint)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be null", name),
				 errdetail("It is argument %d of function %s().", arg + 1,
						   get_func_name(fcinfo->flinfo->fn_oid)),
				 errhint("%s", hint)));
}
