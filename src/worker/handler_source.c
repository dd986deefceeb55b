/*
 * The source that starts handler processes: one at a time, while there is work that no idle process
 * is there for. A process that takes work and sees more calls for the next one.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "commands/dbcommands.h"
#include "core/compat.h"
#include "worker/handler_place.h"
#include "worker/handler_process.h"
#include "worker/handler_settings.h"
#include "worker/sql_work.h"

/* While there is work that waits for a process to be started or to become free. */
#define LOOK_AGAIN_US (USECS_PER_SEC)

/* Idle processes see to all that comes; the worker only has to see that they are still there. */
#define SEE_AGAIN_US (5 * USECS_PER_SEC)
#define MAX_PAUSE_S 60

static BackgroundWorkerHandle *starting = NULL;
static int starting_place = -1;
static wahook_Pause no_room;

/* Work that a further process could do. */
static bool
is_wanted(const wahook_SqlWork *work)
{
	for (int i = 0; i < work->n; i++)
		if (work->services[i].due_at <= work->now &&
			wahook_service_has_room(work->services[i].name, work->services[i].at_most))
			return true;
	return false;
}

static TimestampTz
earliest(const wahook_SqlWork *work)
{
	TimestampTz due_at = work->lease_ends_at;

	for (int i = 0; i < work->n; i++)
		due_at = Min(due_at, work->services[i].due_at);
	return due_at;
}

/* A process that never came to be gives its place back here. */
static void
check_start(void)
{
	BgwHandleStatus status;
	pid_t pid;

	if (starting == NULL)
		return;
	status = GetBackgroundWorkerPid(starting, &pid);
	if (status == BGWH_NOT_YET_STARTED)
		return;
	if (status == BGWH_STOPPED)
		wahook_give_handler_place_back(starting_place);
	pfree(starting);
	starting = NULL;
}

static void
start_process(const char *database)
{
	BackgroundWorker worker;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	bool registered;

	starting_place = wahook_reserve_handler_place();
	wahook_describe_process(&worker, "wahook handler", "wahook_handler_main", MyDatabaseId);
	snprintf(worker.bgw_name, BGW_MAXLEN, "wahook handler in %s", database);
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &starting_place, sizeof(starting_place));
	registered = starting_place >= 0 && RegisterDynamicBackgroundWorker(&worker, &starting);
	MemoryContextSwitchTo(old);
	wahook_note_result(&no_room, registered, MAX_PAUSE_S);
	if (registered)
		return;
	if (starting_place >= 0)
		wahook_give_handler_place_back(starting_place);
	wahook_warn_once("handler process", unpack_sql_state(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 "no background worker is free, raise max_worker_processes");
}

typedef struct Look
{
	wahook_SqlWork work;
	char *database;
} Look;

static void
look_around(void *arg)
{
	Look *look = arg;

	wahook_look_for_sql_work(&look->work);
	look->database = MemoryContextStrdup(look->work.context, get_database_name(MyDatabaseId));
}

static TimestampTz
handlers_turn(TimestampTz now, int heard)
{
	static bool first = true;
	Look look = {.work = {.context = CurrentMemoryContext}};
	wahook_HandlerCensus census;

	if (first)
		wahook_forget_reserved_places();
	first = false;
	if (wahook_handler_workers == 0)
		return DT_NOEND;
	check_start();
	census = wahook_count_handlers();
	if (census.idle > 0 && (heard & WAHOOK_WORK_CONFIG) == 0)
		return now + SEE_AGAIN_US;
	if (!wahook_in_transaction(look_around, &look))
		return now + LOOK_AGAIN_US;
	wahook_source_wants(&wahook_handlers_source,
						look.work.n > 0
							? WAHOOK_WORK_DELIVER | WAHOOK_WORK_RETRY | WAHOOK_WORK_CONFIG
							: WAHOOK_WORK_CONFIG);
	if (earliest(&look.work) > look.work.now)
		return earliest(&look.work);
	if (census.idle == 0 && census.starting == 0 && census.all < wahook_handler_workers &&
		no_room.until <= now && is_wanted(&look.work))
		start_process(look.database);
	return GetCurrentTimestamp() + LOOK_AGAIN_US;
}

const wahook_Source wahook_handlers_source = {.name = "handlers",
											  .wants = WAHOOK_WORK_CONFIG,
											  .turn = handlers_turn};
