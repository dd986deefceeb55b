/*
 * Waking the background processes of a database.
 *
 * A session notes what it did that makes work. When its transaction has committed, and not before,
 * for only then can others see it, the note is left with each listener of the database, and its
 * latch is set. A listener that says until when it sleeps is not woken for what is due later: it
 * finds the note when it wakes by itself. So a failing message, to be retried in a minute, costs
 * the worker no more than a look in a minute.
 *
 * Two orders matter. A listener says that it is awake before it looks for work, and a session reads
 * that after its commit: either the look sees what was committed, or the session sees that it has
 * to wake. And the note is left before the latch is set.
 */
#include "core/wake.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/shared.h"

static int noted = 0;
static TimestampTz noted_at;       /* the earliest time of all that was noted */
static TimestampTz retry_noted_at; /* and of the retries among it */
static wahook_Listener *myself = NULL;

static void
tell(wahook_Listener *listener, int what, TimestampTz at)
{
	Latch *latch = (Latch *) (uintptr_t) pg_atomic_read_u64(&listener->latch);

	if (latch == NULL || (pg_atomic_read_u32(&listener->wants) & what) == 0)
		return;
	(void) pg_atomic_fetch_or_u32(&listener->heard, what); /* a full barrier */

	/* Nobody needs to wake himself: wahook_about_to_sleep() finds the note. */
	if (listener != myself && at < (TimestampTz) pg_atomic_read_u64(&listener->sleeps_until))
		SetLatch(latch);
}

static void
tell_all(int what, TimestampTz at)
{
	wahook_Shared *shared = wahook_shared();
	int slot = shared ? wahook_find_slot(shared, MyDatabaseId) : -1;

	if (slot >= 0 && (what & WAHOOK_WORK_RETRY) && retry_noted_at <= GetCurrentTimestamp())
		what |= WAHOOK_WORK_OVERDUE;
	for (int i = 0; slot >= 0 && i < WAHOOK_MAX_LISTENERS; i++)
		tell(&shared->slots[slot].listeners[i], what, at);
}

/* Runs in the midst of a commit: it must not fail. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (noted)
				tell_all(noted, noted_at);
			noted = 0;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE: /* its COMMIT PREPARED wakes, see worker/hooks.c */
			noted = 0;
			break;
		default:
			break;
	}
}

void
wahook_note_work_at(int what, TimestampTz at)
{
	static bool registered = false;

	if (!registered)
	{
		(void) wahook_shared(); /* now, for at the commit it would be too late for trouble */
		RegisterXactCallback(at_transaction_end, NULL);
		registered = true;
	}
	noted_at = noted ? Min(noted_at, at) : at;
	if (what & WAHOOK_WORK_RETRY)
		retry_noted_at = noted & WAHOOK_WORK_RETRY ? Min(retry_noted_at, at) : at;
	noted |= what;
}

void
wahook_note_work(int what)
{
	wahook_note_work_at(what, DT_NOBEGIN);
}

static void
stop_listening(int code, Datum arg)
{
	pg_atomic_write_u64(&myself->latch, 0);
	pg_atomic_write_u32(&myself->pid, 0);
	myself = NULL;
}

void
wahook_listen(int wants)
{
	wahook_Shared *shared = wahook_shared();

	Assert(OidIsValid(MyDatabaseId) && myself == NULL);
	if (shared)
	{
		int slot;

		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		slot = wahook_take_slot(shared, MyDatabaseId);
		for (int i = 0; slot >= 0 && i < WAHOOK_MAX_LISTENERS && myself == NULL; i++)
		{
			wahook_Listener *listener = &shared->slots[slot].listeners[i];

			if (pg_atomic_read_u64(&listener->latch) == 0)
			{
				pg_atomic_write_u32(&listener->heard, 0);
				pg_atomic_write_u64(&listener->sleeps_until, (uint64) DT_NOEND);
				pg_atomic_write_u32(&listener->wants, wants);
				pg_atomic_write_u32(&listener->pid, MyProcPid);
				pg_atomic_write_u64(&listener->latch, (uintptr_t) MyLatch);
				myself = listener;
			}
		}
		LWLockRelease(&shared->lock);
	}
	if (myself == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("wahook has no room in shared memory for another background process"),
				 errdetail("There is room for %d databases with %d processes each.",
						   WAHOOK_MAX_DATABASES, WAHOOK_MAX_LISTENERS),
				 errhint("Add wahook to shared_preload_libraries, or narrow wahook.databases.")));
	before_shmem_exit(stop_listening, (Datum) 0);
}

void
wahook_listen_for(int wants)
{
	if ((int) pg_atomic_read_u32(&myself->wants) != wants)
		pg_atomic_write_u32(&myself->wants, wants);
}

int
wahook_heard(void)
{
	(void) pg_atomic_exchange_u64(&myself->sleeps_until, (uint64) DT_NOEND); /* a full barrier */
	return pg_atomic_exchange_u32(&myself->heard, 0);
}

bool
wahook_about_to_sleep(TimestampTz until)
{
	(void) pg_atomic_exchange_u64(&myself->sleeps_until, (uint64) until); /* a full barrier */
	return pg_atomic_read_u32(&myself->heard) == 0;
}
