/*
 * What sessions do for the background processes of wahook.
 *
 * Some commands want a database, or the extension, for themselves: DROP DATABASE fails where
 * anybody is connected. Before such a command the database's processes are sent away, and held
 * away until its transaction has ended, however it ends; then the launcher starts them anew, where
 * there is still something to start.
 *
 * And the launcher is told of what may want a worker: an extension or a database that was created,
 * a database that was renamed or opened.
 */
#include "worker/worker.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/counters.h"
#include "core/shared.h"
#include "core/wait.h"

/* How long a command waits for processes to go. Then it meets them, and says so itself. */
#define SEND_AWAY_TIMEOUT_S 10
#define LOOK_AGAIN_MS 10

/* A transaction that wants more databases for itself is none that we know of. */
#define MAX_HOLDS 8

static ProcessUtility_hook_type previous_utility_hook = NULL;
static object_access_hook_type previous_access_hook = NULL;

/* Of the transaction that is under way. */
static Oid held[MAX_HOLDS];
static int nheld = 0;
static bool databases_changed = false;
static bool extensions_changed = false;

static bool
is_held(Oid database)
{
	for (int i = 0; i < nheld; i++)
		if (held[i] == database)
			return true;
	return false;
}

/* Under the lock. */
static void
send_away(const wahook_Slot *slot)
{
	if (slot->worker_pid != 0)
		kill(slot->worker_pid, SIGTERM);
	for (int i = 0; i < WAHOOK_MAX_LISTENERS; i++)
	{
		pid_t pid = pg_atomic_read_u32(unconstify(pg_atomic_uint32 *, &slot->listeners[i].pid));

		if (pid != 0 && pid != slot->worker_pid)
			kill(pid, SIGTERM);
	}
}

/* A handler that was registered and has not connected does not: it sees the hold first. */
static bool
is_deserted(const wahook_Slot *slot)
{
	if (slot->worker_pid != 0 || slot->state == WAHOOK_WORKER_STARTING)
		return false;
	for (int i = 0; i < WAHOOK_MAX_HANDLERS; i++)
		if (slot->handlers[i].state != WAHOOK_HANDLER_NONE &&
			slot->handlers[i].state != WAHOOK_HANDLER_STARTING)
			return false;
	return true;
}

/* Takes part in a hold; where the database has no slot there is nobody to be held away yet. */
static bool
begin_hold(wahook_Shared *shared, Oid database)
{
	int slot;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = shared->launcher.latch ? wahook_take_slot(shared, database)
								  : wahook_find_slot(shared, database);
	if (slot >= 0)
	{
		shared->slots[slot].holds++;
		held[nheld++] = database;
	}
	LWLockRelease(&shared->lock);
	return slot >= 0;
}

/* The slot stays the database's while it is held. */
static bool
are_gone(wahook_Shared *shared, Oid database, bool tell)
{
	wahook_Slot *slot;
	bool gone;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = &shared->slots[wahook_find_slot(shared, database)];
	if (tell)
		send_away(slot);
	gone = is_deserted(slot);
	slot->was_held = true;
	LWLockRelease(&shared->lock);
	return gone;
}

static void
hold(Oid database)
{
	wahook_Shared *shared = wahook_shared();
	TimestampTz began_at = GetCurrentTimestamp();
	bool tell = true;

	if (shared == NULL || !OidIsValid(database) || is_held(database) || nheld == MAX_HOLDS ||
		!begin_hold(shared, database))
		return;
	while (!are_gone(shared, database, tell) &&
		   !TimestampDifferenceExceeds(began_at, GetCurrentTimestamp(), SEND_AWAY_TIMEOUT_S * 1000))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_AGAIN_MS,
						 wahook_wait_event(WAHOOK_WAIT_PROCESSES));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		tell = false;
	}
}

static void
end_holds(wahook_Shared *shared)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	while (nheld > 0)
	{
		int slot = wahook_find_slot(shared, held[--nheld]);

		if (slot < 0)
			continue;
		shared->slots[slot].holds--;
		wahook_wake_launchers(shared, slot);
	}
	LWLockRelease(&shared->lock);
}

static void
tell_launcher(wahook_Shared *shared)
{
	int slot = -1;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->check_all |= databases_changed;
	if (extensions_changed && shared->launcher.latch)
		slot = wahook_take_slot(shared, MyDatabaseId);
	else if (extensions_changed)
		slot = wahook_find_slot(shared, MyDatabaseId);
	if (slot >= 0)
		shared->slots[slot].check = true;
	for (int i = 0; databases_changed && i < WAHOOK_MAX_DATABASES; i++)
		if (shared->slots[i].launcher.latch)
			SetLatch(shared->slots[i].launcher.latch);
	wahook_wake_launchers(shared, slot);
	LWLockRelease(&shared->lock);
}

/* Runs in the midst of a commit or abort: it must not fail. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	wahook_Shared *shared;

	if (nheld == 0 && !databases_changed && !extensions_changed)
		return;
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	shared = wahook_shared();
	if (shared && event != XACT_EVENT_ABORT)
		tell_launcher(shared);
	if (shared)
		end_holds(shared);
	databases_changed = extensions_changed = false;
}

static void
access_hook(ObjectAccessType access, Oid class, Oid object, int sub_object, void *arg)
{
	if (previous_access_hook)
		previous_access_hook(access, class, object, sub_object, arg);
	if (access != OAT_POST_CREATE && access != OAT_POST_ALTER && access != OAT_DROP)
		return;
	if (class == DatabaseRelationId)
		databases_changed = true;
	if (class == DatabaseRelationId && access == OAT_DROP)
		wahook_counters_database_goes(object);
	if (class == ExtensionRelationId)
	{
		wahook_counters_extension_changes();
		extensions_changed |= access == OAT_POST_CREATE;
		wahook_note_work(WAHOOK_WORK_CONFIG);
	}
}

static Oid
owned_database(const char *name)
{
	Oid database = get_database_oid(name, true);

	if (OidIsValid(database) && wahook_owns_database(database, GetUserId()))
		return database;
	return InvalidOid;
}

/* The database that CREATE DATABASE copies, where the caller may. */
static Oid
template_of(const CreatedbStmt *create)
{
	const char *name = "template1";
	ListCell *cell;

	foreach(cell, create->options)
	{
		DefElem *option = lfirst(cell);

		if (strcmp(option->defname, "template") == 0 && option->arg)
			name = defGetString(option);
	}
	return superuser() ? get_database_oid(name, true) : owned_database(name);
}

static bool
moves_database(const AlterDatabaseStmt *alter)
{
	ListCell *cell;

	foreach(cell, alter->options)
		if (strcmp(((DefElem *) lfirst(cell))->defname, "tablespace") == 0)
			return true;
	return false;
}

static bool
drops_wahook(const DropStmt *drop)
{
	ListCell *cell;

	if (drop->removeType != OBJECT_EXTENSION)
		return false;
	foreach(cell, drop->objects)
		if (strcmp(strVal(lfirst(cell)), "wahook") == 0)
			return true;
	return false;
}

/* Of those who may not do it anyway, no command disturbs the processes. */
static bool
owns_wahook(void)
{
	Oid extension = get_extension_oid("wahook", true);

	return OidIsValid(extension) && wahook_owns_extension(extension, GetUserId());
}

/* The database whose processes are in the way of a command, or InvalidOid. */
static Oid
wanted_alone(Node *command)
{
	switch (nodeTag(command))
	{
		case T_DropdbStmt:
			return owned_database(((DropdbStmt *) command)->dbname);
		case T_RenameStmt:
			return ((RenameStmt *) command)->renameType == OBJECT_DATABASE
					   ? owned_database(((RenameStmt *) command)->subname)
					   : InvalidOid;
		case T_AlterDatabaseStmt:
			return moves_database((AlterDatabaseStmt *) command)
					   ? owned_database(((AlterDatabaseStmt *) command)->dbname)
					   : InvalidOid;
		case T_AlterDatabaseSetStmt: /* a process reads these settings when it starts */
			return owned_database(((AlterDatabaseSetStmt *) command)->dbname);
		case T_CreatedbStmt:
			return template_of((CreatedbStmt *) command);
		case T_DropStmt:
			return drops_wahook((DropStmt *) command) && owns_wahook() ? MyDatabaseId : InvalidOid;
		case T_AlterExtensionStmt:
			return strcmp(((AlterExtensionStmt *) command)->extname, "wahook") == 0 && owns_wahook()
					   ? MyDatabaseId
					   : InvalidOid;
		default:
			return InvalidOid;
	}
}

/* What a prepared transaction noted is gone: its commit may be anything. */
static bool
commits_prepared(Node *command)
{
	return IsA(command, TransactionStmt) &&
		   ((TransactionStmt *) command)->kind == TRANS_STMT_COMMIT_PREPARED;
}

static void
utility_hook(PlannedStmt *statement, const char *query, bool read_only_tree,
			 ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *environment,
			 DestReceiver *receiver, QueryCompletion *completion)
{
	ProcessUtility_hook_type next =
		previous_utility_hook ? previous_utility_hook : standard_ProcessUtility;

	/* In an aborted transaction nothing may be looked up. */
	if (IsTransactionState() && !IsAbortedTransactionBlockState())
	{
		hold(wanted_alone(statement->utilityStmt));
		if (commits_prepared(statement->utilityStmt))
		{
			wahook_note_work(WAHOOK_WORK_ALL);
			databases_changed = extensions_changed = true;
		}
	}
	next(statement, query, read_only_tree, context, params, environment, receiver, completion);
}

void
wahook_install_hooks(void)
{
	previous_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = utility_hook;
	previous_access_hook = object_access_hook;
	object_access_hook = access_hook;
	RegisterXactCallback(at_transaction_end, NULL);
}
