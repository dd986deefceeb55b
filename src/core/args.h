/*
 * Arguments of SQL functions.
 */
#ifndef WAHOOK_ARGS_H
#define WAHOOK_ARGS_H

#include "postgres.h"

#include "fmgr.h"

/* Error 22004 when it is null; the hint says what to pass. */
extern void wahook_require_arg(FunctionCallInfo fcinfo, int arg, const char *name,
							   const char *hint);

#endif
