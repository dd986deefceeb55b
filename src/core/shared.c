/*
 * The shared memory of wahook.
 *
 * Where the library is preloaded, it asks for its share as the server starts. Where it is not, the
 * first session that needs it takes it from what the server keeps to spare, as pg_prewarm does; it
 * is small enough for that.
 */
#include "core/shared.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "core/compat.h"

#define SHARED_NAME "wahook"

static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;
static wahook_Shared *shared_memory = NULL;
static bool is_missing = false;

static void
init_slot(wahook_Slot *slot)
{
	memset(slot, 0, sizeof(*slot));
	wahook_init_heartbeat(&slot->heartbeat);
	for (int i = 0; i < WAHOOK_MAX_LISTENERS; i++)
	{
		pg_atomic_init_u64(&slot->listeners[i].latch, 0);
		pg_atomic_init_u32(&slot->listeners[i].pid, 0);
		pg_atomic_init_u32(&slot->listeners[i].wants, 0);
		pg_atomic_init_u32(&slot->listeners[i].heard, 0);
		pg_atomic_init_u64(&slot->listeners[i].sleeps_until, 0);
	}
}

/* Under AddinShmemInitLock. */
static wahook_Shared *
attach(void)
{
	bool found;
	wahook_Shared *shared = ShmemInitStruct(SHARED_NAME, sizeof(wahook_Shared), &found);

	if (!found)
	{
		LWLockInitialize(&shared->lock, LWLockNewTrancheId());
		shared->launcher = (wahook_LauncherPlace){0};
		shared->check_all = false;
		for (int i = 0; i < WAHOOK_MAX_DATABASES; i++)
		{
			pg_atomic_init_u32(&shared->databases[i], InvalidOid);
			init_slot(&shared->slots[i]);
		}
	}
	LWLockRegisterTranche(shared->lock.tranche, SHARED_NAME);
	return shared;
}

static void
request(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(wahook_Shared)));
}

static void
startup(void)
{
	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared_memory = attach();
	LWLockRelease(AddinShmemInitLock);
}

void
wahook_reserve_shared(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup;
}

/*
 * A delivery must be accepted also where the server has no memory to spare. Nothing but the lock is
 * held when ShmemInitStruct() gives up.
 */
wahook_Shared *
wahook_shared(void)
{
	MemoryContext context = CurrentMemoryContext;

	if (shared_memory != NULL || is_missing || !IsUnderPostmaster)
		return shared_memory;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	PG_TRY();
	{
		shared_memory = attach();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS(); /* the error has forgotten that the lock holds them */
		MemoryContextSwitchTo(context);
		FlushErrorState();
		is_missing = true;
	}
	PG_END_TRY();
	LWLockRelease(AddinShmemInitLock);
	return shared_memory;
}

int
wahook_find_slot(wahook_Shared *shared, Oid database)
{
	static int last = 0;

	if (pg_atomic_read_u32(&shared->databases[last]) == database)
		return last;
	for (int i = 0; i < WAHOOK_MAX_DATABASES; i++)
		if (pg_atomic_read_u32(&shared->databases[i]) == database)
			return last = i;
	return -1;
}

int
wahook_take_slot(wahook_Shared *shared, Oid database)
{
	int slot = wahook_find_slot(shared, database);

	Assert(LWLockHeldByMeInMode(&shared->lock, LW_EXCLUSIVE));
	if (slot >= 0)
		return slot;
	slot = wahook_find_slot(shared, InvalidOid);
	if (slot >= 0)
	{
		init_slot(&shared->slots[slot]);
		pg_atomic_write_u32(&shared->databases[slot], database);
	}
	return slot;
}

void
wahook_free_slot(wahook_Shared *shared, int slot)
{
	wahook_Slot *free = &shared->slots[slot];

	Assert(LWLockHeldByMeInMode(&shared->lock, LW_EXCLUSIVE));
	if (free->holds > 0 || free->worker_pid != 0 || free->launcher.latch != NULL)
		return;
	for (int i = 0; i < WAHOOK_MAX_LISTENERS; i++)
		if (pg_atomic_read_u64(&free->listeners[i].latch) != 0)
			return;
	for (int i = 0; i < WAHOOK_MAX_HANDLERS; i++)
		if (free->handlers[i].state > WAHOOK_HANDLER_STARTING)
			return;
	pg_atomic_write_u32(&shared->databases[slot], InvalidOid);
}

void
wahook_wake_launchers(wahook_Shared *shared, int slot)
{
	Assert(LWLockHeldByMe(&shared->lock));
	if (shared->launcher.latch)
		SetLatch(shared->launcher.latch);
	if (slot >= 0 && shared->slots[slot].launcher.latch)
		SetLatch(shared->slots[slot].launcher.latch);
}
