/*
 * Running SQL in a background process: transactions that may fail without ending it.
 *
 * The process is connected as the bootstrap superuser, because it can't know the extension's owner
 * before. No SQL runs as that: a trigger on one of our tables, or a function in an index of it,
 * must not get more rights than the owner has. Nor can it get them back by RESET ROLE.
 */
#include "worker/worker.h"

#include <signal.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/plan.h"

/* How many different errors are remembered, and for how long they are not repeated. */
#define REMEMBERED_WARNINGS 32
#define REPEAT_WARNING_AFTER (USECS_PER_HOUR)

typedef struct Extension
{
	Oid id;
	Oid owner;
	Oid schema;
} Extension;

/* For what is logged outside transactions. */
static char database[NAMEDATALEN];

bool (*wahook_sigterm_hook)(void) = NULL;

static volatile sig_atomic_t in_unit = false;
static bool unit_was_busy = false;
static volatile sig_atomic_t end_requested = false;
static bool ending = false;
static bool extension_gone = false;

/* In the midst of a unit: false where it can't be told to end, or has been told and asked again. */
static bool
tell_unit_to_end(void)
{
	if (ending)
		return false;
	if (wahook_sigterm_hook)
		return end_requested || wahook_sigterm_hook();
	if (end_requested)
		return false;
	InterruptPending = QueryCancelPending = true;
	return true;
}

/* A request, so that the process can give back what it has taken, and record what it has done. */
static void
handle_sigterm(SIGNAL_ARGS)
{
	if (in_unit && !tell_unit_to_end())
		die(postgres_signal_arg);
	end_requested = true;
	SetLatch(MyLatch);
}

/* A setting for sessions of users must not end or bend a unit. */
static void
override(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * The server passes a reload on to a process that has just been made before this can take the signal,
 * and so it would go by the former settings until the next one.
 */
void
wahook_read_settings_anew(void)
{
	ConfigReloadPending = true;
	wahook_process_interrupts();
}

void
wahook_prepare_process(void)
{
	wahook_read_settings_anew();
	override("search_path", "pg_catalog, pg_temp");
	override("session_replication_role", "origin");
	override("check_function_bodies", "on");
	override("row_security", "on");
	override("statement_timeout", "0");
	override("lock_timeout", "0");
	override("idle_in_transaction_session_timeout", "0");
	override("default_transaction_isolation", "read committed");
	override("default_transaction_deferrable", "off");
	if (GetConfigOption("transaction_timeout", true, false) != NULL)
		override("transaction_timeout", "0");
	pqsignal(SIGTERM, handle_sigterm);
	if (ProcDiePending)
		end_requested = true;
}

bool
wahook_is_to_end(void)
{
	return end_requested || extension_gone;
}

bool
wahook_extension_is_gone(void)
{
	return extension_gone;
}

void
wahook_process_interrupts(void)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	QueryCancelPending = false; /* there is nothing to be cancelled here */
	CHECK_FOR_INTERRUPTS();
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
}

static bool
read_extension(Extension *extension)
{
	Relation catalog = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("wahook"));
	scan = systable_beginscan(catalog, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_extension row = (Form_pg_extension) GETSTRUCT(tuple);

		*extension =
			(Extension){.id = row->oid, .owner = row->extowner, .schema = row->extnamespace};
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

/*
 * With the lock that it takes, DROP EXTENSION waits for the end of the unit, and the unit for the
 * end of a DROP EXTENSION that came first, before either has locked any table.
 */
static bool
lock_extension(Extension *extension)
{
	Extension again;

	while (read_extension(extension))
	{
		LockDatabaseObject(ExtensionRelationId, extension->id, 0, AccessShareLock);
		if (!read_extension(&again))
			return false;
		if (again.id == extension->id)
		{
			*extension = again;
			return true;
		}
		UnlockDatabaseObject(ExtensionRelationId, extension->id, 0, AccessShareLock);
	}
	return false;
}

static void
run_unit(void (*work)(void *arg), void *arg)
{
	Extension extension;

	if (!lock_extension(&extension))
	{
		extension_gone = true;
		return;
	}
	if (database[0] == '\0')
		strlcpy(database, get_database_name(MyDatabaseId), NAMEDATALEN);
	SetUserIdAndSecContext(extension.owner, SECURITY_LOCAL_USERID_CHANGE);
	wahook_begin_in(extension.schema);
	work(arg);
	wahook_end();
}

void
wahook_warn_once(const char *subject, const char *sqlstate, const char *message)
{
	static struct
	{
		uint64 hash;
		TimestampTz at;
	} warned[REMEMBERED_WARNINGS];
	static int next = 0;
	TimestampTz now = GetCurrentTimestamp();
	char *text = psprintf("%s %s %s", subject, sqlstate, message);
	uint64 hash = hash_bytes_extended((unsigned char *) text, strlen(text), 0);

	pfree(text);
	for (int i = 0; i < REMEMBERED_WARNINGS; i++)
		if (warned[i].hash == hash && now - warned[i].at < REPEAT_WARNING_AFTER)
			return;
	warned[next].hash = hash;
	warned[next].at = now;
	next = (next + 1) % REMEMBERED_WARNINGS;
	ereport(WARNING,
			(errcode(strlen(sqlstate) == 5 ? MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2],
														   sqlstate[3], sqlstate[4])
										   : ERRCODE_INTERNAL_ERROR),
			 errmsg("wahook %s failed: %s", subject, message),
			 errdetail("Database \"%s\", SQLSTATE %s.", database, sqlstate),
			 errhint("It is tried again, after growing pauses. This is not repeated for an hour."),
			 errhidestmt(true), errhidecontext(true)));
}

void
wahook_warn_of_error(const char *subject, const ErrorData *error)
{
	wahook_warn_once(subject, unpack_sql_state(error->sqlerrcode),
					 error->message ? error->message : "unknown error");
}

static void
recover(MemoryContext context)
{
	ErrorData *error;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(context);
	unit_was_busy = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
	if (!end_requested || error->sqlerrcode != ERRCODE_QUERY_CANCELED)
		wahook_warn_of_error("worker", error);
	FreeErrorData(error);
	RESUME_INTERRUPTS();
}

bool
wahook_in_transaction(void (*work)(void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool done = false;
	Oid user;
	int security;

	in_unit = true;
	unit_was_busy = false;
	if (extension_gone || (end_requested && !ending))
	{
		in_unit = false;
		return false;
	}
	GetUserIdAndSecContext(&user, &security);
	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		run_unit(work, arg);
		PopActiveSnapshot();
		CommitTransactionCommand();
		done = !extension_gone;
	}
	PG_CATCH();
	{
		recover(context);
	}
	PG_END_TRY();
	SetUserIdAndSecContext(user, security);
	MemoryContextSwitchTo(context);
	in_unit = false;
	return done;
}

ErrorData *
wahook_try_alone(void (*step)(void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		step(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error != NULL && (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
						  error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN))
		ReThrowError(error);
	return error;
}

bool
wahook_unit_was_busy(void)
{
	return unit_was_busy;
}

void
wahook_begin_ending(void)
{
	ProcDiePending = false;
	QueryCancelPending = false;
	ending = true;
}

bool
wahook_catch(void (*part)(void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool done = false;

	PG_TRY();
	{
		part(arg);
		done = true;
	}
	PG_CATCH();
	{
		in_unit = false;
		recover(context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return done;
}

void
wahook_note_result(wahook_Pause *pause, bool success, int max_s)
{
	int s;

	pause->failures = success ? 0 : Min(pause->failures + 1, 30);
	pause->until = DT_NOBEGIN;
	if (success)
		return;
	s = pause->failures > 16 ? max_s : Min(1 << (pause->failures - 1), max_s);
	pause->until = GetCurrentTimestamp() + s * USECS_PER_SEC;
}
