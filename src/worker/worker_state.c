/*
 * webhook_worker_state(): what shared memory tells of this database's worker. Only facts: what is an
 * alert is decided in SQL.
 */
#include "worker/worker.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/shared.h"
#include "worker/databases.h"

PG_FUNCTION_INFO_V1(wahook_webhook_worker_state);

/* The columns of the result, in their order. */
enum
{
	PRELOADED,
	EXPECTED,
	STATE,
	PID,
	SILENT_SECONDS,
	HEARTBEAT_AGE_SECONDS,
	STARTED_AT,
	WAKES_AT,
	CLOCK_JUMPED_AT,
	CLOCK_JUMP_SECONDS,
	LIBRARY_VERSION,
	WORKER_VERSION,
	NCOLUMNS
};

typedef struct Columns
{
	Datum values[NCOLUMNS];
	bool nulls[NCOLUMNS];
} Columns;

typedef struct Facts
{
	bool has_slot;
	bool has_room; /* for a slot */
	bool has_launcher;
	bool has_own_launcher;
	pid_t pid;
} Facts;

static bool is_preloaded = false;

void
wahook_note_preload(void)
{
	is_preloaded = true;
}

static void
set(Columns *columns, int column, Datum value)
{
	columns->values[column] = value;
	columns->nulls[column] = false;
}

static Datum
seconds(int64 us)
{
	return Float8GetDatum((double) us / USECS_PER_SEC);
}

/* The wall clock's time of a time by the monotonic one. */
static Datum
wall_time(int64 at)
{
	return TimestampTzGetDatum(GetCurrentTimestamp() + (at - wahook_monotonic_us()));
}

/* Whether the launcher of the preload line would start a worker here. */
static bool
is_wanted(void)
{
	HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	bool wanted;

	if (!HeapTupleIsValid(tuple))
		return false;
	wanted = wahook_wants_database((Form_pg_database) GETSTRUCT(tuple), wahook_wanted_names());
	ReleaseSysCache(tuple);
	return wanted;
}

static Facts
look(wahook_Shared *shared, int *slot)
{
	Facts facts = {0};

	LWLockAcquire(&shared->lock, LW_SHARED);
	*slot = wahook_find_slot(shared, MyDatabaseId);
	facts.has_slot = *slot >= 0;
	facts.has_room = facts.has_slot || wahook_find_slot(shared, InvalidOid) >= 0;
	facts.has_launcher = shared->launcher.latch != NULL;
	if (facts.has_slot)
	{
		facts.has_own_launcher = shared->slots[*slot].launcher.latch != NULL;
		facts.pid = shared->slots[*slot].worker_pid;
	}
	LWLockRelease(&shared->lock);
	return facts;
}

/* What the worker that is there does, and how long it should not have. */
static const char *
describe_worker(Columns *columns, wahook_Heartbeat *heartbeat, pid_t pid)
{
	int64 now = wahook_monotonic_us();
	int64 turn_at = (int64) pg_atomic_read_u64(&heartbeat->turn_at);
	uint64 sleeps_until = pg_atomic_read_u64(&heartbeat->sleeps_until);

	set(columns, PID, Int32GetDatum(pid));
	set(columns, HEARTBEAT_AGE_SECONDS, seconds(Max(now - turn_at, 0)));
	set(columns, STARTED_AT, wall_time((int64) pg_atomic_read_u64(&heartbeat->began_at)));
	set(columns, WORKER_VERSION, CStringGetTextDatum(heartbeat->version));
	if (sleeps_until == 0)
	{
		set(columns, SILENT_SECONDS, seconds(Max(now - turn_at, 0)));
		return "busy";
	}
	if (sleeps_until != PG_UINT64_MAX)
		set(columns, WAKES_AT, wall_time((int64) sleeps_until));
	if (sleeps_until >= (uint64) now)
	{
		set(columns, SILENT_SECONDS, seconds(0));
		return "asleep";
	}
	set(columns, SILENT_SECONDS, seconds(now - (int64) sleeps_until));
	return "late";
}

static const char *
describe_absence(Columns *columns, wahook_Heartbeat *heartbeat, const Facts *facts)
{
	int64 since_start = GetCurrentTimestamp() - PgStartTime;

	if (heartbeat != NULL)
	{
		int64 gone_at = (int64) pg_atomic_read_u64(&heartbeat->gone_at);

		set(columns, SILENT_SECONDS, seconds(gone_at == 0 ? 0 : wahook_monotonic_us() - gone_at));
	}
	else if (!facts->has_launcher || !facts->has_room)
		set(columns, SILENT_SECONDS, seconds(Max(since_start, 0)));
	else
		set(columns, SILENT_SECONDS, seconds(0)); /* the launcher is about to see the extension */
	return facts->has_room ? "gone" : "no room";
}

static void
describe_clock(Columns *columns, wahook_Heartbeat *heartbeat)
{
	int64 jumped_at = (int64) pg_atomic_read_u64(&heartbeat->jumped_at);

	if (jumped_at == 0)
		return;
	set(columns, CLOCK_JUMPED_AT, wall_time(jumped_at));
	set(columns, CLOCK_JUMP_SECONDS, seconds((int64) pg_atomic_read_u64(&heartbeat->jump)));
}

/* webhook_worker_state() → one row */
Datum
wahook_webhook_worker_state(PG_FUNCTION_ARGS)
{
	wahook_Shared *shared = wahook_shared();
	Facts facts = {.has_room = true};
	Columns columns;
	TupleDesc desc;
	int slot = -1;
	wahook_Heartbeat *heartbeat = NULL;
	bool expected;
	const char *state;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != NCOLUMNS)
		elog(ERROR, "webhook_worker_state() has %d columns", NCOLUMNS);
	memset(columns.nulls, true, sizeof(columns.nulls));
	if (shared != NULL)
		facts = look(shared, &slot);
	if (slot >= 0)
		heartbeat = &shared->slots[slot].heartbeat;
	expected = !RecoveryInProgress() && ((is_preloaded && is_wanted()) || facts.has_own_launcher);
	set(&columns, PRELOADED, BoolGetDatum(is_preloaded));
	set(&columns, EXPECTED, BoolGetDatum(expected));
	set(&columns, LIBRARY_VERSION, CStringGetTextDatum(WAHOOK_VERSION));
	if (facts.pid != 0)
		state = describe_worker(&columns, heartbeat, facts.pid);
	else if (expected)
		state = describe_absence(&columns, heartbeat, &facts);
	else
		state = "not expected";
	set(&columns, STATE, CStringGetTextDatum(state));
	if (heartbeat != NULL)
		describe_clock(&columns, heartbeat);
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), columns.values, columns.nulls)));
}
