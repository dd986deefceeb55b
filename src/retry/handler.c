/*
 * SQL handlers: functions that process messages inside the database.
 *
 * A handler takes one jsonb, and raises an error to fail. It runs as the role that registered it,
 * with only that role's rights, as a security-restricted operation: it can't change roles, leave
 * settings, temporary tables or cursors behind, or defer work to the commit, when it would be done
 * with the rights of whoever runs the job. Names in it are looked up in its own schema, unless it
 * sets a search_path itself.
 */
#include "retry/handler.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "core/plan.h"
#include "core/settings.h"

static volatile sig_atomic_t timed_out = false;

static wahook_Plan handlers_plan =
	{"SELECT s.name, to_regprocedure(s.handler)::oid, r.oid,"
	 " has_function_privilege(r.oid, to_regprocedure(s.handler), 'EXECUTE')"
	 " FROM @extschema@.webhook_services s LEFT JOIN pg_catalog.pg_roles r ON r.rolname = s.run_as"
	 " WHERE s.handler IS NOT NULL ORDER BY s.name",
	 0};

int
wahook_find_handlers(wahook_Handler **handlers)
{
	int rows = wahook_execute(&handlers_plan, NULL, NULL);
	int found = 0;

	*handlers = palloc(Max(rows, 1) * sizeof(wahook_Handler));
	for (int i = 0; i < rows; i++)
	{
		wahook_Handler *handler = &(*handlers)[found];
		bool no_function;
		bool no_role;
		bool isnull;

		handler->service = wahook_result_text(i, 1);
		handler->function = DatumGetObjectId(wahook_result(i, 2, &no_function));
		handler->role = DatumGetObjectId(wahook_result(i, 3, &no_role));
		if (!no_function && !no_role && DatumGetBool(wahook_result(i, 4, &isnull)))
			found++;
		else
			ereport(WARNING,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("handler of service \"%s\" can't be run", handler->service),
					 no_function ? errdetail("Its function does not exist any more.")
					 : no_role
						 ? errdetail("The role that registered it does not exist any more.")
						 : errdetail("The role that registered it may not execute it any more."),
					 errhint("Set webhook_services.handler again.")));
	}
	return found;
}

/* In a signal handler: ends the query as a cancel would, and leaves a note that it was us. */
static void
on_timeout(void)
{
	timed_out = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

static TimeoutId
processing_timeout(void)
{
	static bool registered = false;
	static TimeoutId timeout;

	if (!registered)
	{
		timeout = RegisterTimeout(USER_TIMEOUT, on_timeout);
		registered = true;
	}
	return timeout;
}

static void
start_timeout(void)
{
	timed_out = false;
	if (wahook_processing_timeout_ms > 0)
		enable_timeout_after(processing_timeout(), wahook_processing_timeout_ms);
}

/* Also takes the cancel back when it came after the handler had returned. */
static void
stop_timeout(void)
{
	disable_timeout(processing_timeout(), false);
	if (timed_out)
		QueryCancelPending = false;
}

/* What a handler returns does not matter; a void function in SQL returns null. */
static void
call(const wahook_Handler *handler, Datum message)
{
	int nest = NewGUCNestLevel();
	const char *schema = get_namespace_name(get_func_namespace(handler->function));
	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo function;
	Oid user;
	int context;

	fmgr_info(handler->function, &function);
	InitFunctionCallInfoData(*fcinfo, &function, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = message;
	fcinfo->args[0].isnull = false;
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(handler->role,
						   context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	(void) set_config_option("search_path", psprintf("%s, pg_temp", quote_identifier(schema)),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) FunctionCallInvoke(fcinfo);
	PopActiveSnapshot();
	AtEOXact_GUC(false, nest);
	SetUserIdAndSecContext(user, context);
}

static void
describe(wahook_Failure *failure, const ErrorData *error)
{
	StringInfoData stack;

	if (timed_out)
	{
		failure->error = cstring_to_text(
			psprintf("handler ran longer than %d ms", wahook_processing_timeout_ms));
		return;
	}
	failure->error = cstring_to_text(error->message ? error->message : "unknown error");
	initStringInfo(&stack);
	appendStringInfo(&stack, "SQLSTATE: %s", unpack_sql_state(error->sqlerrcode));
	if (error->detail)
		appendStringInfo(&stack, "\nDETAIL: %s", error->detail);
	if (error->hint)
		appendStringInfo(&stack, "\nHINT: %s", error->hint);
	if (error->context)
		appendStringInfo(&stack, "\nCONTEXT: %s", error->context);
	failure->error_stack = cstring_to_text_with_len(stack.data, stack.len);
}

bool
wahook_run_handler(const wahook_Handler *handler, Datum message, wahook_Failure *failure)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	*failure = (wahook_Failure){.retryable = true,
								.delay_us = -1,
								.is_attempt = true,
								.started_at = GetCurrentTimestamp()};
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		start_timeout();
		call(handler, message);
		stop_timeout();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		stop_timeout();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;

	if (error == NULL)
		return true;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && !timed_out)
		ReThrowError(error);
	describe(failure, error);
	return false;
}
