/*
 * Running SQL from C: one connection a call, plans prepared once a session and kept.
 */
#ifndef WAHOOK_PLAN_H
#define WAHOOK_PLAN_H

#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"

#define WAHOOK_MAX_PLAN_ARGS 16

/*
 * A statement. In the text, @extschema@ stands for the extension's schema; all else must be
 * qualified or in pg_catalog. Declare it static: the plan is kept in it.
 */
typedef struct wahook_Plan
{
	const char *sql;
	int nargs;
	Oid argtypes[WAHOOK_MAX_PLAN_ARGS];
	SPIPlanPtr plan; /* below: set by wahook_execute */
	Oid schema;
} wahook_Plan;

extern void wahook_begin(FunctionCallInfo fcinfo);
/* The same outside SQL functions, in background processes: schema is the extension's. */
extern void wahook_begin_in(Oid schema);
extern void wahook_end(void);
/* The extension's. */
extern Oid wahook_schema(void);
extern Oid wahook_relation(const char *name);
extern uint64 wahook_execute(wahook_Plan *plan, Datum *values, const char *nulls);
extern Datum wahook_result(uint64 row, int column, bool *isnull);
extern char *wahook_result_text(uint64 row, int column);

#endif
