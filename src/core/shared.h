/*
 * The shared memory of wahook: who listens in which database, and what sessions ask of the launcher.
 *
 * slot: what one database has here, from the moment its worker is started.
 * listener: a background process of a slot's database that sleeps until a commit brings it work.
 */
#ifndef WAHOOK_SHARED_H
#define WAHOOK_SHARED_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

/* How many databases of a server can have a worker. */
#define WAHOOK_MAX_DATABASES 64

/* A database's worker, and its handler processes. */
#define WAHOOK_MAX_LISTENERS 17

typedef struct wahook_Listener
{
	pg_atomic_uint64 latch;        /* a Latch *; 0: the place is free */
	pg_atomic_uint32 wants;        /* WAHOOK_WORK_* that it wants to hear of */
	pg_atomic_uint32 heard;        /* and those that it has not looked at yet */
	pg_atomic_uint64 sleeps_until; /* a TimestampTz; DT_NOEND while it is awake */
} wahook_Listener;

/* What the launcher knows of a database. */
typedef enum wahook_WorkerState
{
	WAHOOK_WORKER_NONE,     /* none was started, or it is gone */
	WAHOOK_WORKER_STARTING, /* registered; it has not said yet whether the extension is there */
	WAHOOK_WORKER_RUNNING,
	WAHOOK_WORKER_ABSENT /* it found no extension, and is gone */
} wahook_WorkerState;

typedef struct wahook_Slot
{
	/* Under the lock. */
	wahook_WorkerState state;
	pid_t worker_pid;
	int holds;  /* sessions that want the database's processes to stay away */
	bool check; /* look whether the extension is there: something may have changed */

	wahook_Listener listeners[WAHOOK_MAX_LISTENERS];
} wahook_Slot;

typedef struct wahook_Shared
{
	LWLock lock;
	pg_atomic_uint64 launcher_latch; /* a Latch *; 0: no launcher runs */
	pid_t launcher_pid;
	bool check_all; /* under the lock: look at the list of databases anew */

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

/* Under the lock. Leaves it where somebody holds it or listens. */
extern void wahook_free_slot(wahook_Shared *shared, int slot);

#endif
