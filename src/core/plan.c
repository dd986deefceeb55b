/*
 * Running SQL from C.
 *
 * The plans of the hot path must not depend on statistics: a queue table is empty when a session
 * first plans for it and may hold a million rows a minute later, and a sequential scan chosen in
 * between would be kept. So they are planned once, generic, with index scans and nested loops only.
 */
#include "core/plan.h"

#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"

static Oid extension_schema = InvalidOid;

/*
 * A delivery or a claim of a hundred messages takes half a megabyte. glibc gives that back to the
 * kernel at the end of each call and asks for it again in the next, with a page fault for every four
 * kilobytes. Once it has freed a piece of a megabyte, it keeps up to two.
 */
static void
keep_freed_memory(void)
{
	static bool done = false;

	if (done)
		return;
	pfree(palloc(1024 * 1024));
	done = true;
}

void
wahook_begin_in(Oid schema)
{
	keep_freed_memory();
	extension_schema = schema;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
}

/*
 * Connects to SPI for the SQL function that is being called. The schema is the function's own, so
 * it stays right when the extension is dropped and created anew elsewhere in the same session.
 */
void
wahook_begin(FunctionCallInfo fcinfo)
{
	wahook_begin_in(get_func_namespace(fcinfo->flinfo->fn_oid));
	if (CALLED_AS_TRIGGER(fcinfo))
		SPI_register_trigger_data((TriggerData *) fcinfo->context);
}

void
wahook_end(void)
{
	SPI_finish();
}

Oid
wahook_schema(void)
{
	return extension_schema;
}

/* Relations that were looked up by name, each where the hash of its name leads to. */
typedef struct Known
{
	Oid relid; /* invalid: there is none */
	Oid schema;
	char name[NAMEDATALEN];
} Known;

#define MAX_KNOWN 64

static Known known[MAX_KNOWN];

/* Some relation was changed, perhaps its name. */
static void
forget_relations(Datum arg, Oid relid)
{
	memset(known, 0, sizeof(known));
}

/* The oid of a relation of the extension. */
Oid
wahook_relation(const char *name)
{
	static bool registered = false;
	int len = (int) strlen(name);
	Known *place = &known[hash_bytes((const unsigned char *) name, len) % MAX_KNOWN];
	Oid relid;

	if (OidIsValid(place->relid) && place->schema == extension_schema &&
		strcmp(place->name, name) == 0)
		return place->relid;
	if (!registered)
		CacheRegisterRelcacheCallback(forget_relations, (Datum) 0);
	registered = true;
	relid = get_relname_relid(name, extension_schema);
	if (OidIsValid(relid) && len < NAMEDATALEN)
	{
		place->relid = relid;
		place->schema = extension_schema;
		strlcpy(place->name, name, NAMEDATALEN);
	}
	if (!OidIsValid(relid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation \"%s\" of extension wahook does not exist", name),
						errhint("Recreate the extension, or restore the relation.")));
	return relid;
}

static void
prepare(wahook_Plan *plan)
{
	const char *schema = quote_identifier(get_namespace_name(extension_schema));
	StringInfoData sql;
	const char *from = plan->sql;
	const char *mark;

	initStringInfo(&sql);
	while ((mark = strstr(from, "@extschema@")) != NULL)
	{
		appendBinaryStringInfo(&sql, from, mark - from);
		appendStringInfoString(&sql, schema);
		from = mark + strlen("@extschema@");
	}
	appendStringInfoString(&sql, from);

	if (plan->plan != NULL)
	{
		SPI_freeplan(plan->plan);
		plan->plan = NULL;
	}
	plan->plan = SPI_prepare_cursor(sql.data, plan->nargs, plan->argtypes, CURSOR_OPT_GENERIC_PLAN);
	if (plan->plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql.data, SPI_result_code_string(SPI_result));
	pfree(sql.data);
}

static void
plan_with_indexes_only(SPIPlanPtr plan)
{
	static const char *const off[] = {"enable_seqscan", "enable_bitmapscan", "enable_hashjoin",
									  "enable_mergejoin", "jit"};
	int nest = NewGUCNestLevel();
	CachedPlan *cached;

	for (size_t i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true,
								 0, false);
	cached = SPI_plan_get_cached_plan(plan);
	if (cached != NULL)
		ReleaseCachedPlan(cached, CurrentResourceOwner);
	AtEOXact_GUC(true, nest);
}

/*
 * Runs a statement in a snapshot of its own and returns how many rows it processed. Rows that it
 * returned are in SPI_tuptable until the next call.
 */
uint64
wahook_execute(wahook_Plan *plan, Datum *values, const char *nulls)
{
	int rc;

	if (plan->plan == NULL || plan->schema != extension_schema)
	{
		prepare(plan);
		SPI_keepplan(plan->plan);
		plan_with_indexes_only(plan->plan);
		plan->schema = extension_schema;
	}
	else if (!SPI_plan_is_valid(plan->plan))
		plan_with_indexes_only(plan->plan);

	rc = SPI_execute_plan(plan->plan, values, nulls, false, 0);
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", plan->sql, SPI_result_code_string(rc));
	return SPI_processed;
}

/* A column, counted from 1, of a row that the last statement returned. */
Datum
wahook_result(uint64 row, int column, bool *isnull)
{
	Assert(SPI_tuptable != NULL && row < SPI_tuptable->numvals);
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

/* The same as text, palloc'd in the caller's SPI context; null where it is null. */
char *
wahook_result_text(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}
