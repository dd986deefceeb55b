/*
 * The worker of a database: sources take their turns, and then it sleeps until the next of them has
 * something to do, a commit brings work, or a socket is ready. It never looks just to see whether
 * there is something.
 */
#include "worker/worker.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/shared.h"
#include "core/wait.h"
#include "monitor/health_settings.h"
#include "worker/handler_process.h"

#define MAX_PAUSE_S 300

/* The alerts first: the runs of the jobs tell when the worker before this one was last there. */
static const wahook_Source *const sources[] = {&wahook_alerts_source,   &wahook_jobs_source,
											   &wahook_requests_source, &wahook_http_source,
											   &wahook_agents_source,   &wahook_handlers_source};

/* What the loop knows of a source. */
typedef struct State
{
	int wants;
	TimestampTz due_at;
	wahook_Pause pause;
} State;

/* The arguments and the answer of a turn. */
typedef struct Turn
{
	int source;
	int heard;
	TimestampTz due_at;
} Turn;

static State states[lengthof(sources)];
static MemoryContext turn_context;
static WaitEventSet *wait_set = NULL;
static int nsockets; /* of them */
static int slot_number = -1;
static TimestampTz alive_until = DT_NOBEGIN;

static wahook_Heartbeat *
heartbeat(void)
{
	return &wahook_shared()->slots[slot_number].heartbeat;
}

TimestampTz
wahook_former_worker_alive_until(void)
{
	return alive_until;
}

static void
set_state(wahook_WorkerState state)
{
	wahook_Shared *shared = wahook_shared();

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->slots[slot_number].state = state;
	wahook_wake_launchers(shared, slot_number);
	LWLockRelease(&shared->lock);
}

static void
leave_slot(int code, Datum arg)
{
	wahook_Shared *shared = wahook_shared();
	wahook_Slot *slot = &shared->slots[slot_number];

	wahook_heartbeat_end(&slot->heartbeat);
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot->worker_pid = 0;
	slot->failed_to_run = slot->state == WAHOOK_WORKER_STARTING;
	if (slot->state != WAHOOK_WORKER_ABSENT)
		slot->state = WAHOOK_WORKER_NONE;
	wahook_wake_launchers(shared, slot_number);
	LWLockRelease(&shared->lock);
}

/*
 * Before the process connects to the database. False where it is not wanted, or there is a worker
 * already.
 */
static bool
take_slot(Oid database)
{
	wahook_Shared *shared = wahook_shared();
	bool taken = false;

	if (shared == NULL)
		return false;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot_number = wahook_take_slot(shared, database);
	if (slot_number >= 0)
	{
		wahook_Slot *slot = &shared->slots[slot_number];

		taken = slot->worker_pid == 0 && slot->holds == 0;
		if (taken)
			slot->worker_pid = MyProcPid;
		else if (slot->worker_pid == 0)
			slot->state = WAHOOK_WORKER_NONE;
		wahook_wake_launchers(shared, slot_number);
	}
	LWLockRelease(&shared->lock);
	if (taken)
	{
		alive_until = wahook_heartbeat_begin(heartbeat());
		before_shmem_exit(leave_slot, (Datum) 0);
	}
	return taken;
}

static void
update_wants(void)
{
	int wants = 0;

	for (size_t i = 0; i < lengthof(sources); i++)
		wants |= states[i].wants;
	wahook_listen_for(wants);
}

void
wahook_source_wants(const wahook_Source *source, int wants)
{
	for (size_t i = 0; i < lengthof(sources); i++)
		if (sources[i] == source)
			states[i].wants = wants;
	update_wants();
}

static void
take_turn(void *arg)
{
	Turn *turn = arg;

	turn->due_at = sources[turn->source]->turn(GetCurrentTimestamp(), turn->heard);
}

/* A note that comes during the pause after a failure waits for its end. */
static void
turn_of(int source, int heard)
{
	State *state = &states[source];
	Turn turn = {.source = source, .heard = heard};
	TimestampTz now = GetCurrentTimestamp();
	bool done;

	if (state->pause.failures > 0 && now < state->pause.until)
	{
		if (heard & state->wants)
			state->due_at = state->pause.until;
		return;
	}
	if (now < state->due_at && (heard & state->wants) == 0)
		return;

	MemoryContextSwitchTo(turn_context);
	pgstat_report_activity(STATE_RUNNING, sources[source]->name);
	done = wahook_catch(take_turn, &turn);
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextReset(turn_context);
	wahook_note_result(&state->pause, done, MAX_PAUSE_S);
	state->due_at = done ? turn.due_at : state->pause.until;
}

void
wahook_source_is_due(const wahook_Source *source)
{
	for (size_t i = 0; i < lengthof(sources); i++)
		if (sources[i] == source)
			states[i].due_at = DT_NOBEGIN;
}

/* A turn can make another source due, one before it too. */
static TimestampTz
all_turns(int heard)
{
	TimestampTz next = DT_NOEND;

	for (size_t i = 0; i < lengthof(sources) && !wahook_is_to_end(); i++)
		turn_of(i, heard);
	for (size_t i = 0; i < lengthof(sources); i++)
	{
		const wahook_Pause *pause = &states[i].pause;

		next =
			Min(next, pause->failures > 0 ? Max(states[i].due_at, pause->until) : states[i].due_at);
	}
	return next;
}

/* The set is kept as long as the sockets are the same: a number alone does not tell. */
static void
prepare_wait(void)
{
	static unsigned seen = 0;
	wahook_Socket wanted[WAHOOK_MAX_SOCKETS];
	unsigned changed = 0;
	int n = 0;

	for (size_t i = 0; i < lengthof(sources); i++)
	{
		unsigned of_source = 0;

		if (sources[i]->sockets)
			n += sources[i]->sockets(&wanted[n], WAHOOK_MAX_SOCKETS - n, &of_source);
		changed += of_source;
	}
	nsockets = n;
	if (wait_set && changed == seen)
		return;
	if (wait_set)
		FreeWaitEventSet(wait_set);
	wait_set = wahook_create_wait_set(n + 2);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < n; i++)
		AddWaitEventToSet(wait_set, wanted[i].events, wanted[i].fd, NULL, NULL);
	seen = changed;
}

static void
tell_source(void *arg)
{
	WaitEvent *event = arg;

	for (size_t i = 0; i < lengthof(sources); i++)
		if (sources[i]->on_socket)
		{
			sources[i]->on_socket(event->fd, event->events);
			states[i].due_at = DT_NOBEGIN;
		}
}

/* Milliseconds, rounded up, so as not to wake just before the time; -1: for ever. */
static long
time_until(TimestampTz until)
{
	TimestampTz now = GetCurrentTimestamp();

	if (until == DT_NOEND)
		return -1;
	/* The difference to DT_NOBEGIN would overflow. */
	return until <= now ? 0 : TimestampDifferenceMilliseconds(now, until);
}

static void
wait_for_work(TimestampTz until)
{
	WaitEvent events[64];
	int n;

	prepare_wait();
	n = WaitEventSetWait(wait_set, time_until(until), events, lengthof(events),
						 wahook_wait_event(nsockets > 0 ? WAHOOK_WAIT_HTTP : WAHOOK_WAIT_WORKER));
	MemoryContextSwitchTo(turn_context);
	for (int i = 0; i < n; i++)
		if (events[i].events & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE))
			(void) wahook_catch(tell_source, &events[i]);
	MemoryContextReset(turn_context);
}

static void
run(void)
{
	int heard = WAHOOK_WORK_ALL;

	while (!wahook_is_to_end())
	{
		TimestampTz next = all_turns(heard);

		if (wahook_is_to_end())
			break;
		pgstat_report_stat(true);
		if (wahook_about_to_sleep(next))
		{
			wahook_heartbeat_sleep(heartbeat(), next);
			wait_for_work(next);
		}
		ResetLatch(MyLatch);
		heard = ConfigReloadPending ? WAHOOK_WORK_ALL : 0;
		/* All times that the sources have in mind were made of the former time. */
		if (wahook_heartbeat_wake(heartbeat(), wahook_health_clock_jump_s * INT64CONST(1000)))
			heard = WAHOOK_WORK_ALL;
		for (size_t i = 0; heard != 0 && i < lengthof(sources); i++)
			states[i].pause = (wahook_Pause){0};
		wahook_process_interrupts();
		heard |= wahook_heard();
	}
}

static void
stop_source(void *arg)
{
	const wahook_Source *source = arg;

	source->stop();
}

static void
look_for_extension(void *arg)
{
	/* The unit itself has looked. */
}

/* A database that can't be connected to says why in the log, but not each time. */
static void
connect_to(Oid database)
{
	int level = log_min_messages;

	if (MyBgworkerEntry->bgw_extra[0] == WAHOOK_QUIETLY)
		log_min_messages = PANIC;
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	log_min_messages = level;
}

void
wahook_worker_main(Datum database)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	if (!take_slot(DatumGetObjectId(database)))
		proc_exit(0);
	BackgroundWorkerUnblockSignals();
	connect_to(DatumGetObjectId(database));
	wahook_prepare_process();
	turn_context =
		AllocSetContextCreate(TopMemoryContext, "wahook worker turn", ALLOCSET_DEFAULT_SIZES);

	if (!wahook_in_transaction(look_for_extension, NULL))
	{
		if (wahook_extension_is_gone())
			set_state(WAHOOK_WORKER_ABSENT);
		proc_exit(wahook_extension_is_gone() ? 0 : 1);
	}
	wahook_listen(0);
	for (size_t i = 0; i < lengthof(sources); i++)
		states[i] = (State){.wants = sources[i]->wants, .due_at = DT_NOBEGIN};
	update_wants();
	set_state(WAHOOK_WORKER_RUNNING);
	run();
	wahook_begin_ending();
	for (size_t i = 0; i < lengthof(sources); i++)
		if (sources[i]->stop)
			(void) wahook_catch(stop_source, unconstify(wahook_Source *, sources[i]));
	if (wahook_extension_is_gone())
		set_state(WAHOOK_WORKER_ABSENT);
	proc_exit(0);
}
