/*
 * The launcher: keeps a worker in each database that has the extension.
 *
 * Whether a database has the extension can be seen only from inside. So a worker is started in each
 * once; where it finds no extension it says so and is gone, and the database is left alone until
 * something happens there that may have changed that (worker/hooks.c). One worker is started at a
 * time, so that a server with many databases is not flooded.
 *
 * What is known of a database's worker is in its slot in shared memory, written by the worker, so a
 * launcher that is started anew finds the workers that are there.
 *
 * A launcher that start_webhook_worker() started looks after one database alone, in the same way.
 */
#include "worker/worker.h"

#include <signal.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/shared.h"
#include "core/wait.h"
#include "worker/databases.h"

/* How long a worker may take from its registration until it says what it found. */
#define START_TIMEOUT_S 60

/* And for how long others wait for it: somebody may have locked what it needs. */
#define START_PATIENCE_S 5

/* A worker that ran for so long has not failed at once: the next pause is short again. */
#define STEADY_S 60

#define MAX_PAUSE_S 1800
#define MAX_PAUSE_FOR_ROOM_S 60

static wahook_Shared *shared;
static Oid only; /* of a launcher for one database, else InvalidOid */
static int own_slot = -1;
static wahook_Pause no_room;

static wahook_LauncherPlace *
own_place(void)
{
	return OidIsValid(only) ? &shared->slots[own_slot].launcher : &shared->launcher;
}

static void
leave_place(int code, Datum arg)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	*own_place() = (wahook_LauncherPlace){0};
	if (OidIsValid(only))
		wahook_free_slot(shared, own_slot);
	LWLockRelease(&shared->lock);
}

/* False where there is a launcher already. */
static bool
take_place(void)
{
	bool taken;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (OidIsValid(only))
		own_slot = wahook_take_slot(shared, only);
	taken = (!OidIsValid(only) || own_slot >= 0) && own_place()->latch == NULL;
	if (taken)
		*own_place() = (wahook_LauncherPlace){.latch = MyLatch, .pid = MyProcPid};
	LWLockRelease(&shared->lock);
	if (taken)
		before_shmem_exit(leave_place, (Datum) 0);
	return taken;
}

void
wahook_describe_process(BackgroundWorker *worker, const char *type, const char *function,
						Oid database)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	snprintf(worker->bgw_type, BGW_MAXLEN, "%s", type);
	snprintf(worker->bgw_library_name, sizeof(worker->bgw_library_name), "wahook");
	snprintf(worker->bgw_function_name, sizeof(worker->bgw_function_name), "%s", function);
	worker->bgw_main_arg = ObjectIdGetDatum(database);
}

static void
describe_launcher(BackgroundWorker *worker, Oid database)
{
	wahook_describe_process(worker, "wahook launcher", "wahook_launcher_main", database);
	snprintf(worker->bgw_name, BGW_MAXLEN, "wahook launcher");
	worker->bgw_restart_time = 5;
}

/* From the preload line. It is started when the server can write: at promotion, on a standby. */
void
wahook_register_launcher(void)
{
	BackgroundWorker worker;

	if (IsBinaryUpgrade)
		return; /* pg_upgrade wants the databases for itself */
	describe_launcher(&worker, InvalidOid);
	RegisterBackgroundWorker(&worker);
}

bool
wahook_start_launcher(Oid database)
{
	BackgroundWorker worker;

	describe_launcher(&worker, database);
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

static void
report_no_room(wahook_Database *database, const char *hint)
{
	wahook_note_result(&no_room, false, MAX_PAUSE_FOR_ROOM_S);
	if (database->no_room_reported)
		return;
	database->no_room_reported = true;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("no background worker is free for wahook in database \"%s\"", database->name),
			 errdetail("It is tried again, and this is not repeated."), errhint("%s", hint)));
}

static void
start_worker(wahook_Database *database)
{
	BackgroundWorker worker;
	int slot;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = wahook_take_slot(shared, database->id);
	if (slot >= 0)
	{
		shared->slots[slot].state = WAHOOK_WORKER_STARTING;
		shared->slots[slot].check = false;
	}
	LWLockRelease(&shared->lock);
	if (slot < 0)
	{
		report_no_room(database,
					   psprintf("There is room for %d databases: narrow wahook.databases.",
								WAHOOK_MAX_DATABASES));
		return;
	}

	wahook_describe_process(&worker, "wahook worker", "wahook_worker_main", database->id);
	snprintf(worker.bgw_name, BGW_MAXLEN, "wahook worker in %s", database->name);
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	if (database->failed_to_run)
		worker.bgw_extra[0] = WAHOOK_QUIETLY;
	if (RegisterDynamicBackgroundWorker(&worker, &database->handle))
	{
		database->started_at = GetCurrentTimestamp();
		database->is_running = true;
		no_room = (wahook_Pause){0};
		database->no_room_reported = false;
		return;
	}
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->slots[slot].state = WAHOOK_WORKER_NONE;
	LWLockRelease(&shared->lock);
	report_no_room(
		database,
		"Raise max_worker_processes: wahook needs one for its launcher, and one or more for each database that has it.");
}

/* Whether the process that was registered never came to be, or is gone, without a word. */
static bool
start_failed(wahook_Database *database, TimestampTz now)
{
	pid_t pid;

	if (database->handle != NULL)
		return GetBackgroundWorkerPid(database->handle, &pid) == BGWH_STOPPED;
	return now > database->started_at + START_TIMEOUT_S * USECS_PER_SEC;
}

/* The worker of the database is gone, though nobody here sent it away. */
static void
note_loss(wahook_Database *database, TimestampTz now)
{
	bool steady = now - database->started_at > STEADY_S * USECS_PER_SEC;

	if (steady)
		database->pause.failures = 0;
	wahook_note_result(&database->pause, false, MAX_PAUSE_S);
	if (!database->loss_reported)
		ereport(LOG,
				(errmsg("wahook worker of database \"%s\" ended", database->name),
				 errdetail("It is started again, after pauses that grow while it keeps ending. This is not repeated until it has run for %d s.",
						   STEADY_S)));
	database->loss_reported = true;
}

static void
forget_handle(wahook_Database *database)
{
	if (database->handle)
		pfree(database->handle);
	database->handle = NULL;
}

/* Reads the slot, which the worker writes. */
static wahook_Slot
look_at_slot(Oid database)
{
	wahook_Slot copy = {.state = WAHOOK_WORKER_NONE};
	int slot;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = wahook_find_slot(shared, database);
	if (slot >= 0)
	{
		copy = shared->slots[slot];
		shared->slots[slot].check = false;
		shared->slots[slot].was_held = false;
	}
	LWLockRelease(&shared->lock);
	return copy;
}

static void
free_slot(Oid database)
{
	int slot;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = wahook_find_slot(shared, database);
	if (slot >= 0)
	{
		shared->slots[slot].state = WAHOOK_WORKER_NONE;
		wahook_free_slot(shared, slot);
	}
	LWLockRelease(&shared->lock);
}

/*
 * Looks after one database. Returns when to look again without being woken. *starting: a worker is
 * being started, here or in another database.
 */
static TimestampTz
look_after(wahook_Database *database, bool *starting)
{
	TimestampTz now = GetCurrentTimestamp();
	wahook_Slot slot = look_at_slot(database->id);
	bool held = slot.holds > 0;
	TimestampTz patient_until;

	if (slot.check)
		database->is_absent = false;
	database->failed_to_run = slot.failed_to_run;
	if (slot.state == WAHOOK_WORKER_STARTING && slot.worker_pid == 0 && start_failed(database, now))
		slot.state = WAHOOK_WORKER_NONE;
	switch (slot.state)
	{
		case WAHOOK_WORKER_STARTING:
			patient_until = database->started_at + USECS_PER_SEC * START_PATIENCE_S;
			*starting |= now < patient_until;
			return now < patient_until ? patient_until : now + USECS_PER_SEC * START_TIMEOUT_S;
		case WAHOOK_WORKER_RUNNING:
			database->is_running = true;
			if (!database->is_wanted)
				kill(slot.worker_pid, SIGTERM);
			if (now - database->started_at > STEADY_S * USECS_PER_SEC)
				database->loss_reported = false;
			return DT_NOEND;
		case WAHOOK_WORKER_ABSENT:
			database->is_absent = !slot.check;
			database->is_running = false;
			break;
		case WAHOOK_WORKER_NONE:
			break;
	}

	if (database->is_running && database->is_wanted && slot.state == WAHOOK_WORKER_NONE && !held &&
		!slot.was_held)
		note_loss(database, now);
	database->is_running = false;
	forget_handle(database);
	if (!database->is_wanted || database->is_absent || held)
	{
		free_slot(database->id);
		return DT_NOEND;
	}
	if (*starting)
		return DT_NOEND; /* woken when that one has said what it found */
	if (database->pause.failures > 0 && now < database->pause.until)
		return database->pause.until;
	if (no_room.failures > 0 && now < no_room.until)
		return no_room.until;
	start_worker(database);
	*starting = database->is_running;
	return *starting ? now + USECS_PER_SEC * START_PATIENCE_S : no_room.until;
}

static bool
is_list_stale(void)
{
	bool stale;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	stale = shared->check_all;
	if (!OidIsValid(only))
		shared->check_all = false;
	LWLockRelease(&shared->lock);
	return stale;
}

static TimestampTz
look_after_all(List *databases)
{
	TimestampTz next = DT_NOEND;
	bool starting = false;
	ListCell *cell;

	/* Those that are being started first: nothing else is started meanwhile. */
	foreach(cell, databases)
	{
		wahook_Database *database = lfirst(cell);

		if (database->is_running)
			next = Min(next, look_after(database, &starting));
	}
	foreach(cell, databases)
	{
		wahook_Database *database = lfirst(cell);

		if (!database->is_running)
			next = Min(next, look_after(database, &starting));
	}
	return next;
}

/* Of databases that are not there any more. */
static void
free_dropped_slots(List *databases)
{
	if (OidIsValid(only))
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < WAHOOK_MAX_DATABASES; i++)
	{
		Oid id = pg_atomic_read_u32(&shared->databases[i]);

		if (OidIsValid(id) && wahook_find_database(databases, id) == NULL)
			wahook_free_slot(shared, i);
	}
	LWLockRelease(&shared->lock);
}

/* For a launcher of one database: the database was dropped, or its extension. */
static bool
nothing_left(List *databases)
{
	return databases == NIL || ((wahook_Database *) linitial(databases))->is_absent;
}

void
wahook_launcher_main(Datum database)
{
	List *databases = NIL;
	bool refresh = true;

	only = DatumGetObjectId(database);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	shared = wahook_shared();
	if (shared == NULL || !take_place())
		proc_exit(0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	wahook_read_settings_anew();

	for (;;)
	{
		TimestampTz next;
		long timeout;

		if (refresh)
		{
			databases = wahook_refresh_databases(databases, only);
			free_dropped_slots(databases);
		}
		next = look_after_all(databases);
		if (OidIsValid(only) && nothing_left(databases))
			proc_exit(0);
		timeout =
			next == DT_NOEND ? -1 : TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, wahook_wait_event(WAHOOK_WAIT_LAUNCHER));
		ResetLatch(MyLatch);
		/* Not 0, after which the postmaster would not start it again. */
		if (ShutdownRequestPending)
			proc_exit(1);
		refresh = ConfigReloadPending;
		wahook_process_interrupts();
		refresh |= is_list_stale();
	}
}
