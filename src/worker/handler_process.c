/*
 * A handler process: runs SQL handlers in a database, one conversation at a time, as long as there is
 * something to do, and leaves when it has been idle for a while. Commits that bring work wake it
 * directly; the database's worker only starts it.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/wait.h"
#include "core/wake.h"
#include "worker/handler_place.h"
#include "worker/handler_process.h"
#include "worker/handler_run.h"
#include "worker/handler_settings.h"
#include "worker/sql_work.h"
#include "worker/worker.h"

#define WANTS (WAHOOK_WORK_DELIVER | WAHOOK_WORK_RETRY | WAHOOK_WORK_CONFIG)

/* What is due and can't be dealt with is tried again after pauses that grow from and to these. */
#define FIRST_PAUSE_US (20 * INT64CONST(1000))
#define LAST_PAUSE_US (5 * USECS_PER_SEC)
#define MAX_PAUSES 64

/*
 * Commits that bring work for others wake this process too. After some that it had nothing to do for
 * it rests before it looks again, the longer the more there were.
 */
#define VAIN_WAKES 4
#define LONGEST_REST_MS 10

typedef struct Pause
{
	uint64 service; /* the hash of its name; 0: the place is free */
	int64 length_us;
	TimestampTz until;
} Pause;

static Pause pauses[MAX_PAUSES];
static MemoryContext turn_context;

static Pause *
pause_of(const char *service)
{
	uint64 hash = hash_bytes_extended((const unsigned char *) service, strlen(service), 0) | 1;
	Pause *free = &pauses[hash % MAX_PAUSES]; /* where all are taken, one is forgotten */

	for (int i = 0; i < MAX_PAUSES; i++)
	{
		if (pauses[i].service == hash)
			return &pauses[i];
		if (pauses[i].service == 0)
			free = &pauses[i];
	}
	*free = (Pause){.service = hash};
	return free;
}

static void
begin_pause(const char *service)
{
	Pause *pause = pause_of(service);

	pause->length_us = Min(Max(2 * pause->length_us, FIRST_PAUSE_US), LAST_PAUSE_US);
	pause->until = GetCurrentTimestamp() + pause->length_us;
}

/* Runs one conversation of the service that has waited longest and can be run; false: there is none. */
static bool
run_one(const wahook_SqlWork *work)
{
	for (int i = 0; i < work->n && !wahook_is_to_end(); i++)
	{
		const wahook_SqlService *service = &work->services[i];
		wahook_ServiceRun result;

		if (service->due_at > work->now || pause_of(service->name)->until > work->now ||
			!wahook_begin_service(service->name, service->at_most))
			continue;
		pgstat_report_activity(STATE_RUNNING, service->name);
		result =
			service->replies ? wahook_run_reply(service->name) : wahook_run_service(service->name);
		wahook_end_service();
		pgstat_report_activity(STATE_IDLE, NULL);
		if (result != WAHOOK_RAN)
		{
			begin_pause(service->name);
			continue;
		}
		*pause_of(service->name) = (Pause){0};
		return true;
	}
	return false;
}

/* When to look again without a note. One that has no room is looked at by those that took it. */
static TimestampTz
next_look(const wahook_SqlWork *work)
{
	TimestampTz next = work->lease_ends_at;

	for (int i = 0; i < work->n; i++)
	{
		const wahook_SqlService *service = &work->services[i];

		if (service->due_at > work->now || wahook_service_has_room(service->name, service->at_most))
			next = Min(next, Max(service->due_at, pause_of(service->name)->until));
	}
	return next;
}

/* Returns when to be called again: DT_NOBEGIN: at once, for something was done. */
static TimestampTz
turn(void)
{
	wahook_SqlWork work = {.context = turn_context};
	TimestampTz next = DT_NOBEGIN;

	MemoryContextReset(turn_context);
	MemoryContextSwitchTo(turn_context);
	if (!wahook_in_transaction(wahook_look_for_sql_work, &work))
		next = GetCurrentTimestamp() + USECS_PER_SEC;
	else if (!run_one(&work))
		next = next_look(&work);
	pgstat_report_stat(false);
	return next;
}

static void
forget_pauses(void)
{
	memset(pauses, 0, sizeof(pauses));
}

static void
sleep_until(TimestampTz until, int vain_wakes)
{
	long ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
	int heard;

	if (vain_wakes > VAIN_WAKES)
		pg_usleep(Min(vain_wakes - VAIN_WAKES, LONGEST_REST_MS) * 1000L);

	if (wahook_about_to_sleep(until))
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
						 wahook_wait_event(WAHOOK_WAIT_HANDLER));
	ResetLatch(MyLatch);
	wahook_process_interrupts();
	heard = wahook_heard();
	if (heard & WAHOOK_WORK_CONFIG)
		forget_pauses();
}

/* After the last look nothing is missed: from its start on the worker starts others for new work. */
static void
run(void)
{
	TimestampTz idle_since = GetCurrentTimestamp();
	int vain_wakes = 0;
	bool leaving = false;

	while (!wahook_is_to_end() && wahook_handler_workers > 0)
	{
		TimestampTz next = turn();
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz leave_at = idle_since + wahook_handler_idle_timeout_s * USECS_PER_SEC;

		if (next == DT_NOBEGIN)
		{
			idle_since = now;
			vain_wakes = 0;
			leaving = false;
			continue;
		}
		if (leaving && next > now)
			break;
		leaving = now >= leave_at;
		if (leaving)
			wahook_start_leaving();
		else
			sleep_until(Min(next, leave_at), vain_wakes++);
	}
}

static void
give_back_at_exit(int code, Datum arg)
{
	wahook_give_work_back();
}

void
wahook_handler_main(Datum database)
{
	int place;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	memcpy(&place, MyBgworkerEntry->bgw_extra, sizeof(place));
	if (!wahook_take_handler_place(DatumGetObjectId(database), place))
		proc_exit(0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(database), InvalidOid, 0);
	wahook_prepare_process();
	turn_context =
		AllocSetContextCreate(TopMemoryContext, "wahook handler turn", ALLOCSET_DEFAULT_SIZES);
	wahook_listen(WANTS);
	if (wahook_is_held_away())
		proc_exit(0);
	wahook_prepare_handler_runs();
	before_shmem_exit(give_back_at_exit, (Datum) 0);
	wahook_end_service();
	(void) wahook_heard();
	run();
	proc_exit(0);
}
