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
#include "mb/pg_wchar.h"
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

/* Since when the handler that runs now has been told to end, and why. */
typedef enum Ending
{
	NOT_ENDING,
	TIMED_OUT,
	CANCELLED
} Ending;

/* How often a handler is told again to end. */
#define TICK_MS 250

/* In bytes, of its message, DETAIL, HINT, and CONTEXT each. */
#define KEPT_ERROR 8192

static volatile sig_atomic_t ending = NOT_ENDING;
static volatile sig_atomic_t runs = false;
static volatile sig_atomic_t ticks;
static int grace_ticks = 0; /* 0: the process goes on, whatever the handler does */
static const wahook_Handler *running = NULL;
static TimestampTz started_at;

#define HANDLERS(handler) \
	"SELECT s.name, to_regprocedure(s." handler ")::oid, r.oid," \
	" has_function_privilege(r.oid, to_regprocedure(s." handler "), 'EXECUTE')," \
	" (extract(epoch FROM s.timeout) * 1000)::integer, s.concurrency, s.debounce > '0'," \
	" s.strict_order, s.circuit_threshold," \
	" (extract(epoch FROM s.circuit_timeout) * 1000000)::bigint" \
	" FROM @extschema@.webhook_services s LEFT JOIN pg_catalog.pg_roles r ON r.rolname = s.run_as" \
	" WHERE s." handler " IS NOT NULL"

static wahook_Plan handlers_plan =
	{HANDLERS("handler") " AND s.enabled AND s.name = coalesce($1, s.name) ORDER BY s.name",
	 1,
	 {TEXTOID}};

/* Enabled or not: what has been answered is handed over. */
static wahook_Plan reply_handler_plan = {HANDLERS("reply_handler") " AND s.name = $1",
										 1,
										 {TEXTOID}};

/* The row of a result as a handler. */
static wahook_Handler
read_handler(uint64 row)
{
	bool no_function;
	bool no_role;
	bool no_timeout;
	bool isnull;
	wahook_Handler handler = {
		.service = wahook_result_text(row, 1),
		.function = DatumGetObjectId(wahook_result(row, 2, &no_function)),
		.role = DatumGetObjectId(wahook_result(row, 3, &no_role)),
		.timeout_ms = DatumGetInt32(wahook_result(row, 5, &no_timeout)),
		.concurrency = DatumGetInt32(wahook_result(row, 6, &isnull)),
		.bursts = DatumGetBool(wahook_result(row, 7, &isnull)),
		.strict_order = DatumGetBool(wahook_result(row, 8, &isnull)),
		.circuit_threshold = DatumGetInt32(wahook_result(row, 9, &isnull)),
		.circuit_timeout_us = DatumGetInt64(wahook_result(row, 10, &isnull)),
	};

	if (no_function)
		handler.problem = "Its function does not exist any more.";
	else if (no_role)
		handler.problem = "The role that registered it does not exist any more.";
	else if (!DatumGetBool(wahook_result(row, 4, &isnull)))
		handler.problem = "The role that registered it may not execute it any more.";
	if (no_timeout)
		handler.timeout_ms = wahook_processing_timeout_ms;
	return handler;
}

int
wahook_find_handlers(const char *service, wahook_Handler **handlers)
{
	Datum name = service ? CStringGetTextDatum(service) : (Datum) 0;
	int n = wahook_execute(&handlers_plan, &name, service ? " " : "n");

	*handlers = palloc(Max(n, 1) * sizeof(wahook_Handler));
	for (int i = 0; i < n; i++)
		(*handlers)[i] = read_handler(i);
	return n;
}

bool
wahook_find_reply_handler(const char *service, wahook_Handler *handler)
{
	Datum name = CStringGetTextDatum(service);

	if (wahook_execute(&reply_handler_plan, &name, NULL) == 0)
		return false;
	*handler = read_handler(0);
	return true;
}

/* As a cancel would. In signal handlers, too. */
static void
interrupt(void)
{
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

/*
 * A handler can catch a cancel: EXCEPTION WHEN query_canceled. It has rolled a subtransaction back
 * then, and is told again, now that it has left the block in which it caught it.
 */
static void
insist(SubXactEvent event, SubTransactionId self, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && runs && ending != NOT_ENDING)
		interrupt();
}

/*
 * There are ways to go on all the same, a PL with exceptions of its own is one. So while a handler
 * runs in a process of ours, this is called every now and then.
 */
static void
on_tick(void)
{
	if (!runs || ending == NOT_ENDING)
		return;
	if (++ticks > grace_ticks)
		ProcDiePending = true;
	interrupt();
}

static TimeoutId
tick_timeout(void)
{
	static TimeoutId timeout;
	static bool registered = false;

	if (!registered)
		timeout = RegisterTimeout(USER_TIMEOUT, on_tick);
	registered = true;
	return timeout;
}

static void
on_timeout(void)
{
	ending = TIMED_OUT;
	interrupt();
}

static TimeoutId
processing_timeout(void)
{
	static TimeoutId timeout;
	static bool registered = false;

	if (!registered)
	{
		timeout = RegisterTimeout(USER_TIMEOUT, on_timeout);
		RegisterSubXactCallback(insist, NULL);
	}
	registered = true;
	return timeout;
}

static wahook_Failure
new_failure(void)
{
	return (wahook_Failure){.retryable = true,
							.delay_us = -1,
							.is_attempt = true,
							.started_at = started_at};
}

static wahook_Failure
describe_timeout(const wahook_Handler *handler)
{
	wahook_Failure failure = new_failure();

	failure.error = cstring_to_text(psprintf("handler ran longer than %d ms", handler->timeout_ms));
	return failure;
}

/* How long a piece of an error that is kept may be: a handler can raise one of any length. */
static int
kept_length(const char *piece)
{
	return pg_mbcliplen(piece, strlen(piece), KEPT_ERROR);
}

static void
add_line(StringInfo stack, const char *name, const char *piece)
{
	if (piece == NULL)
		return;
	appendStringInfo(stack, "\n%s: ", name);
	appendBinaryStringInfo(stack, piece, kept_length(piece));
}

static wahook_Failure
describe_error(const ErrorData *error)
{
	wahook_Failure failure = new_failure();
	const char *message = error->message ? error->message : "unknown error";
	StringInfoData stack;

	failure.error = cstring_to_text_with_len(message, kept_length(message));
	initStringInfo(&stack);
	appendStringInfo(&stack, "SQLSTATE: %s", unpack_sql_state(error->sqlerrcode));
	add_line(&stack, "DETAIL", error->detail);
	add_line(&stack, "HINT", error->hint);
	add_line(&stack, "CONTEXT", error->context);
	failure.error_stack = cstring_to_text_with_len(stack.data, stack.len);
	return failure;
}

void
wahook_end_process_after_ms(int grace_ms)
{
	grace_ticks = Max(grace_ms / TICK_MS, 1);
}

bool
wahook_overran(wahook_Failure *failure)
{
	if (!runs || running == NULL || ending != TIMED_OUT)
		return false;
	*failure = describe_timeout(running);
	return true;
}

bool
wahook_cancel_handler(void)
{
	if (!runs)
		return false;
	ending = CANCELLED;
	interrupt();
	return true;
}

static void
start_clock(const wahook_Handler *handler)
{
	running = handler;
	started_at = GetCurrentTimestamp();
	ending = NOT_ENDING;
	ticks = 0;
	runs = true;
	if (handler->timeout_ms > 0)
		enable_timeout_after(processing_timeout(), handler->timeout_ms);
	if (grace_ticks > 0)
		enable_timeout_every(tick_timeout(), started_at + TICK_MS * 1000, TICK_MS);
}

/* Also takes the cancel back when it came after the handler had returned. */
static void
stop_clock(void)
{
	runs = false;
	disable_timeout(processing_timeout(), false);
	if (grace_ticks > 0)
		disable_timeout(tick_timeout(), false);
	if (ending == TIMED_OUT)
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

/*
 * In a session, a cancel that was not ours is its user's, and must end the statement. In a process
 * of ours only the process itself cancels; else a handler could raise that error to be let off.
 */
static bool
was_cancelled(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		   (grace_ticks > 0 ? ending == CANCELLED : ending != TIMED_OUT);
}

bool
wahook_run_handler(const wahook_Handler *handler, Datum message, wahook_Failure *failure)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;
	bool nested = running != NULL; /* a handler runs the dead letter job: the outer clock is on */

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		if (!nested)
			start_clock(handler);
		call(handler, message);
		if (!nested)
			stop_clock();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		if (!nested)
			stop_clock();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;

	if (!nested)
		running = NULL;
	if (error == NULL)
		return true;
	if (was_cancelled(error))
		ReThrowError(error);
	*failure = ending == TIMED_OUT ? describe_timeout(handler) : describe_error(error);
	return false;
}
