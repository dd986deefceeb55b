/*
 * Starting a database's worker by hand.
 */
#include "worker/worker.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/shared.h"
#include "core/wait.h"

#define START_TIMEOUT_MS 10000
#define LOOK_AGAIN_MS 20

PG_FUNCTION_INFO_V1(wahook_start_webhook_worker);

typedef struct Look
{
	bool has_launcher;
	wahook_WorkerState state;
	pid_t pid;
} Look;

static Look
look_at_own_slot(wahook_Shared *shared, bool ask)
{
	Look look = {.has_launcher = false};
	int slot;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = ask ? wahook_take_slot(shared, MyDatabaseId) : wahook_find_slot(shared, MyDatabaseId);
	look.has_launcher = shared->launcher.latch != NULL;
	if (slot >= 0)
	{
		look.has_launcher |= shared->slots[slot].launcher.latch != NULL;
		look.state = shared->slots[slot].state;
		look.pid = shared->slots[slot].worker_pid;
		if (ask && look.state != WAHOOK_WORKER_RUNNING)
		{
			shared->slots[slot].check = true;
			wahook_wake_launchers(shared, slot);
		}
	}
	LWLockRelease(&shared->lock);
	return look;
}

static void
raise_not_started(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the worker of this database did not start"),
			 errdetail("It had %d seconds for it.", START_TIMEOUT_MS / 1000),
			 errhint(
				 "Commit CREATE EXTENSION first. See the server log, max_worker_processes, and whether wahook.databases allows this database.")));
}

/* start_webhook_worker() → integer: the process id of the worker, which runs */
Datum
wahook_start_webhook_worker(PG_FUNCTION_ARGS)
{
	wahook_Shared *shared = wahook_shared();
	TimestampTz began_at = GetCurrentTimestamp();
	Look look;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION), errmsg("a standby has no worker"),
				 errdetail("Nothing can be written here while the server is in recovery."),
				 errhint(
					 "Start it on the primary; or preload wahook, and it starts at promotion.")));
	if (shared == NULL)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
						errmsg("this server has no shared memory to spare for wahook"),
						errdetail("What libraries that are not preloaded may share is used up."),
						errhint("Add wahook to shared_preload_libraries and restart.")));
	look = look_at_own_slot(shared, true);
	if (!look.has_launcher && !wahook_start_launcher(MyDatabaseId))
		ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						errmsg("no background worker is free"),
						errdetail("max_worker_processes is %d.", max_worker_processes),
						errhint("Raise max_worker_processes by at least two.")));
	while (look.state != WAHOOK_WORKER_RUNNING)
	{
		if (TimestampDifferenceExceeds(began_at, GetCurrentTimestamp(), START_TIMEOUT_MS))
			raise_not_started();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_AGAIN_MS,
						 wahook_wait_event(WAHOOK_WAIT_START));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		look = look_at_own_slot(shared, false);
	}
	PG_RETURN_INT32(look.pid);
}
