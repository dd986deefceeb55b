/*
 * The shared memory of wahook: who listens in which database, and what sessions ask of the launcher.
 *
 * slot: what one database has here, from the moment its worker is to be started.
 * listener: a background process of a slot's database that sleeps until a commit brings it work.
 * hold: a session's wish that the database's processes stay away, until it is taken back.
 */
#ifndef WAHOOK_SHARED_H
#define WAHOOK_SHARED_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "core/heartbeat.h"

/* How many databases of a server can have a worker. */
#define WAHOOK_MAX_DATABASES 64

/* How many handler processes a database can have. */
#define WAHOOK_MAX_HANDLERS 16

/* A database's worker, and its handler processes. */
#define WAHOOK_MAX_LISTENERS (1 + WAHOOK_MAX_HANDLERS)

typedef struct wahook_Listener
{
	pg_atomic_uint64 latch; /* a Latch *; 0: the place is free */
	pg_atomic_uint32 pid;
	pg_atomic_uint32 wants;        /* WAHOOK_WORK_* that it wants to hear of */
	pg_atomic_uint32 heard;        /* and those that it has not looked at yet */
	pg_atomic_uint64 sleeps_until; /* a TimestampTz; DT_NOEND while it is awake */
} wahook_Listener;

typedef enum wahook_WorkerState
{
	WAHOOK_WORKER_NONE,     /* none was started, or it is gone */
	WAHOOK_WORKER_STARTING, /* registered; it has not said yet whether the extension is there */
	WAHOOK_WORKER_RUNNING,
	WAHOOK_WORKER_ABSENT /* it found no extension, and is gone */
} wahook_WorkerState;

typedef enum wahook_HandlerState
{
	WAHOOK_HANDLER_NONE,     /* the place is free */
	WAHOOK_HANDLER_STARTING, /* reserved for a process that was registered */
	WAHOOK_HANDLER_IDLE,     /* it sleeps, or looks for work */
	WAHOOK_HANDLER_BUSY,
	WAHOOK_HANDLER_LEAVING /* it looks for work once more, and then exits */
} wahook_HandlerState;

typedef struct wahook_HandlerPlace
{
	wahook_HandlerState state;
	uint64 service; /* the hash of its name, while it is busy with one */
} wahook_HandlerPlace;

/* A launcher, while it runs: the one of the preload line, or one for a database alone. */
typedef struct wahook_LauncherPlace
{
	Latch *latch;
	pid_t pid;
} wahook_LauncherPlace;

/* All but the listeners and the heartbeat under the lock. */
typedef struct wahook_Slot
{
	wahook_WorkerState state;
	pid_t worker_pid;   /* from when it connects until it is gone */
	bool failed_to_run; /* the last worker ended before it knew whether the extension is there */
	int holds;
	bool was_held; /* since the launcher last looked */
	bool check;    /* look anew whether the extension is there */
	wahook_LauncherPlace launcher;

	wahook_HandlerPlace handlers[WAHOOK_MAX_HANDLERS];

	wahook_Listener listeners[WAHOOK_MAX_LISTENERS];
	wahook_Heartbeat heartbeat;
} wahook_Slot;

typedef struct wahook_Shared
{
	LWLock lock;
	wahook_LauncherPlace launcher; /* under the lock */
	bool check_all;                /* under the lock: look at the list of databases anew */

	/* The databases of the slots, side by side to be searched at each commit. InvalidOid: free. */
	pg_atomic_uint32 databases[WAHOOK_MAX_DATABASES];
	wahook_Slot slots[WAHOOK_MAX_DATABASES];
} wahook_Shared;

/* Called while the server preloads the library. */
extern void wahook_reserve_shared(void);

/* Null where the server was started without wahook and has no shared memory to spare. */
extern wahook_Shared *wahook_shared(void);

/* The number of a database's slot, or -1. */
extern int wahook_find_slot(wahook_Shared *shared, Oid database);

/* The same; where it has none, a free one becomes its. -1: there is none. Under the lock. */
extern int wahook_take_slot(wahook_Shared *shared, Oid database);

/* Under the lock. Leaves it where somebody holds it or listens, or has a launcher for it. */
extern void wahook_free_slot(wahook_Shared *shared, int slot);

/* Under the lock. slot: -1 for the launcher of all databases alone. */
extern void wahook_wake_launchers(wahook_Shared *shared, int slot);

#endif
