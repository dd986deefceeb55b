/*
 * Counting tokens in the server, by the built-in estimate or by the user's own counter.
 *
 * Who may name the counter: superusers, because functions of the extension call it with their
 * owner's rights. Its name must be qualified, so that nobody's search_path decides, and its owner
 * must have the rights that it will run with, so that nobody gains any by owning it.
 */
#include "agent/tokens.h"

#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "agent/token_rule.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/settings.h"

PG_FUNCTION_INFO_V1(wahook_estimate_tokens);

#define CHARACTERS_BETWEEN_CHECKS 100000

/* While the user's counter runs, the built-in estimate answers: it may want to build on it. */
static bool counter_runs = false;

#define NAME_HINT \
	"Set it to the qualified name of a function that takes text and returns integer, like 'my_schema.count_tokens', or to an empty string for the built-in estimate."

static void
raise_bad_counter(const char *detail, const char *hint)
{
	ereport(ERROR, (errcode(WAHOOK_NOT_CONFIGURED),
					errmsg("wahook.token_counter can't be used: \"%s\"", wahook_token_counter),
					errdetail("%s", detail), errhint("%s", hint)));
}

/* The name may be followed by its argument, as regprocedure writes it. */
static List *
counter_name(void)
{
	char *name = pstrdup(wahook_token_counter);
	size_t len;
	List *names;

	for (len = strlen(name); len > 0 && isspace((unsigned char) name[len - 1]);)
		name[--len] = '\0';
	if (len > strlen("(text)") && strcmp(name + len - strlen("(text)"), "(text)") == 0)
		name[len - strlen("(text)")] = '\0';
	if (!SplitIdentifierString(name, '.', &names) || list_length(names) != 2)
		raise_bad_counter("It must be a schema and a name, separated by a dot.", NAME_HINT);
	return list_make2(makeString(linitial(names)), makeString(lsecond(names)));
}

static Oid
find_counter(void)
{
	Oid argument = TEXTOID;
	oidvector *arguments = buildoidvector(&argument, 1);
	List *name = counter_name();
	Oid schema = get_namespace_oid(strVal(linitial(name)), true);
	HeapTuple tuple = NULL;
	Form_pg_proc function;
	Oid oid;

	if (OidIsValid(schema))
		tuple = SearchSysCache3(PROCNAMEARGSNSP, CStringGetDatum(strVal(lsecond(name))),
								PointerGetDatum(arguments), ObjectIdGetDatum(schema));
	if (!HeapTupleIsValid(tuple))
		raise_bad_counter("There is no such function with one argument of type text.", NAME_HINT);
	function = (Form_pg_proc) GETSTRUCT(tuple);
	if (function->prorettype != INT4OID || function->proretset ||
		function->prokind != PROKIND_FUNCTION)
		raise_bad_counter("It does not return one integer.", NAME_HINT);
	if (!has_privs_of_role(function->proowner, GetUserId()))
		raise_bad_counter(psprintf("It would run with the rights of role \"%s\", which its owner \"%s\" does not have.",
								   GetUserNameFromId(GetUserId(), false),
								   GetUserNameFromId(function->proowner, false)),
						  "Let a superuser own it: ALTER FUNCTION ... OWNER TO.");
	oid = function->oid;
	ReleaseSysCache(tuple);
	return oid;
}

/* Else an error of the user's function says only where it failed. */
static void
name_counter(void *arg)
{
	errcontext("wahook.token_counter \"%s\"", wahook_token_counter);
}

void
wahook_open_token_counter(wahook_TokenCounter *counter)
{
	Oid function;

	memset(counter, 0, sizeof(*counter));
	if (wahook_token_counter == NULL || wahook_token_counter[0] == '\0' || counter_runs)
		return;
	function = find_counter();
	if (!wahook_may_execute(function, GetUserId()))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("role \"%s\" must not call wahook.token_counter, \"%s\"",
							   GetUserNameFromId(GetUserId(), true), wahook_token_counter),
						errhint("Grant EXECUTE on the function to the role.")));
	fmgr_info(function, &counter->function);
	counter->scratch =
		AllocSetContextCreate(CurrentMemoryContext, "wahook token counter", ALLOCSET_DEFAULT_SIZES);
}

bool
wahook_counter_is_built_in(const wahook_TokenCounter *counter)
{
	return !OidIsValid(counter->function.fn_oid);
}

static int
ask_counter(wahook_TokenCounter *counter, const char *text, int len)
{
	LOCAL_FCINFO(fcinfo, 1);
	MemoryContext caller = MemoryContextSwitchTo(counter->scratch);
	ErrorContextCallback context = {error_context_stack, name_counter, NULL};
	int tokens;

	InitFunctionCallInfoData(*fcinfo, &counter->function, 1, DEFAULT_COLLATION_OID, NULL, NULL);
	fcinfo->args[0].value = PointerGetDatum(cstring_to_text_with_len(text, len));
	fcinfo->args[0].isnull = false;
	error_context_stack = &context;
	counter_runs = true;
	PG_TRY();
	{
		tokens = DatumGetInt32(FunctionCallInvoke(fcinfo));
	}
	PG_FINALLY();
	{
		counter_runs = false;
	}
	PG_END_TRY();
	error_context_stack = context.previous;
	MemoryContextSwitchTo(caller);
	MemoryContextReset(counter->scratch);
	if (fcinfo->isnull || tokens < 0)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("wahook.token_counter \"%s\" returned %s", wahook_token_counter,
						fcinfo->isnull ? "null" : psprintf("%d", tokens)),
				 errdetail("It was asked about a text of %d bytes.", len),
				 errhint("The function must return 0 or more for every text that is not null.")));
	return tokens;
}

int
wahook_count_tokens(wahook_TokenCounter *counter, const char *text, int len)
{
	wahook_TokenMeter meter = {0, 0, false};
	int until_check = CHARACTERS_BETWEEN_CHECKS;

	if (!wahook_counter_is_built_in(counter))
		return ask_counter(counter, text, len);
	for (int at = 0; at < len;)
	{
		uint32_t c = (unsigned char) text[at];

		at += c < 0x80 ? 1 : (int) wahook_next_character(text + at, len - at, &c);
		wahook_meter_character(&meter, c);
		if (--until_check == 0)
		{
			CHECK_FOR_INTERRUPTS();
			until_check = CHARACTERS_BETWEEN_CHECKS;
		}
	}
	return (int) Min(wahook_metered_tokens(&meter), INT_MAX);
}

/* estimate_tokens(text) → integer */
Datum
wahook_estimate_tokens(PG_FUNCTION_ARGS)
{
	text *given = PG_GETARG_TEXT_PP(0);
	wahook_TokenCounter counter;

	wahook_open_token_counter(&counter);
	PG_RETURN_INT32(wahook_count_tokens(&counter, VARDATA_ANY(given), VARSIZE_ANY_EXHDR(given)));
}
