/*
 * The places of handler processes in shared memory.
 *
 * A place is reserved by the worker before it registers a process, so that it does not start a
 * second one for the same work, and then belongs to the process until it exits.
 */
#include "worker/handler_place.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/ipc.h"

#include "core/shared.h"

static int own_slot = -1;
static int own_place = -1;

static wahook_Slot *
slot_of(wahook_Shared *shared, Oid database)
{
	int slot = wahook_find_slot(shared, database);

	return slot < 0 ? NULL : &shared->slots[slot];
}

static uint64
hash_of(const char *service)
{
	return hash_bytes_extended((const unsigned char *) service, strlen(service), 0);
}

wahook_HandlerCensus
wahook_count_handlers(void)
{
	wahook_Shared *shared = wahook_shared();
	wahook_HandlerCensus census = {0};
	wahook_Slot *slot;

	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = slot_of(shared, MyDatabaseId);
	for (int i = 0; slot != NULL && i < WAHOOK_MAX_HANDLERS; i++)
	{
		wahook_HandlerState state = slot->handlers[i].state;

		census.all += state != WAHOOK_HANDLER_NONE && state != WAHOOK_HANDLER_LEAVING;
		census.starting += state == WAHOOK_HANDLER_STARTING;
		census.idle += state == WAHOOK_HANDLER_IDLE;
	}
	LWLockRelease(&shared->lock);
	return census;
}

int
wahook_reserve_handler_place(void)
{
	wahook_Shared *shared = wahook_shared();
	wahook_Slot *slot;
	int place = -1;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = slot_of(shared, MyDatabaseId);
	for (int i = 0; slot != NULL && place < 0 && i < WAHOOK_MAX_HANDLERS; i++)
		if (slot->handlers[i].state == WAHOOK_HANDLER_NONE)
		{
			slot->handlers[i].state = WAHOOK_HANDLER_STARTING;
			place = i;
		}
	LWLockRelease(&shared->lock);
	return place;
}

/* place: -1 for all. */
static void
unreserve(int place)
{
	wahook_Shared *shared = wahook_shared();
	wahook_Slot *slot;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = slot_of(shared, MyDatabaseId);
	for (int i = 0; slot != NULL && i < WAHOOK_MAX_HANDLERS; i++)
		if ((place < 0 || i == place) && slot->handlers[i].state == WAHOOK_HANDLER_STARTING)
			slot->handlers[i].state = WAHOOK_HANDLER_NONE;
	LWLockRelease(&shared->lock);
}

void
wahook_give_handler_place_back(int place)
{
	unreserve(place);
}

void
wahook_forget_reserved_places(void)
{
	unreserve(-1);
}

static void
set_own(wahook_HandlerState state, uint64 service)
{
	wahook_Shared *shared = wahook_shared();

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->slots[own_slot].handlers[own_place] =
		(wahook_HandlerPlace){.state = state, .service = service};
	LWLockRelease(&shared->lock);
}

static void
leave_place(int code, Datum arg)
{
	set_own(WAHOOK_HANDLER_NONE, 0);
}

bool
wahook_take_handler_place(Oid database, int place)
{
	wahook_Shared *shared = wahook_shared();
	bool taken = false;

	if (shared == NULL || place < 0 || place >= WAHOOK_MAX_HANDLERS)
		return false;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	own_slot = wahook_find_slot(shared, database);
	if (own_slot >= 0)
	{
		wahook_Slot *slot = &shared->slots[own_slot];

		taken = slot->handlers[place].state == WAHOOK_HANDLER_STARTING && slot->holds == 0;
		if (taken)
			slot->handlers[place].state = WAHOOK_HANDLER_BUSY;
		else if (slot->handlers[place].state == WAHOOK_HANDLER_STARTING)
			slot->handlers[place].state = WAHOOK_HANDLER_NONE;
	}
	LWLockRelease(&shared->lock);
	own_place = place;
	if (taken)
		before_shmem_exit(leave_place, (Datum) 0);
	return taken;
}

bool
wahook_is_held_away(void)
{
	wahook_Shared *shared = wahook_shared();
	bool held;

	LWLockAcquire(&shared->lock, LW_SHARED);
	held = shared->slots[own_slot].holds > 0;
	LWLockRelease(&shared->lock);
	return held;
}

/* Under the lock. */
static int
count_service(const wahook_Slot *slot, uint64 service)
{
	int n = 0;

	for (int i = 0; i < WAHOOK_MAX_HANDLERS; i++)
		n += slot->handlers[i].state == WAHOOK_HANDLER_BUSY && slot->handlers[i].service == service;
	return n;
}

bool
wahook_begin_service(const char *service, int at_most)
{
	wahook_Shared *shared = wahook_shared();
	uint64 hash = hash_of(service);
	wahook_Slot *slot = &shared->slots[own_slot];
	bool has_room;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	has_room = count_service(slot, hash) < at_most;
	if (has_room)
		slot->handlers[own_place] =
			(wahook_HandlerPlace){.state = WAHOOK_HANDLER_BUSY, .service = hash};
	LWLockRelease(&shared->lock);
	return has_room;
}

void
wahook_end_service(void)
{
	set_own(WAHOOK_HANDLER_IDLE, 0);
}

void
wahook_start_leaving(void)
{
	set_own(WAHOOK_HANDLER_LEAVING, 0);
}

bool
wahook_service_has_room(const char *service, int at_most)
{
	wahook_Shared *shared = wahook_shared();
	wahook_Slot *slot;
	bool has_room;

	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = slot_of(shared, MyDatabaseId);
	has_room = slot != NULL && count_service(slot, hash_of(service)) < at_most;
	LWLockRelease(&shared->lock);
	return has_room;
}
