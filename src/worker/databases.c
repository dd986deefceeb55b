/*
 * The databases of the server, as the launcher sees them: from the shared catalog, narrowed by the
 * setting wahook.databases.
 */
#include "worker/databases.h"

#include <signal.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"

#include "worker/worker_settings.h"

static bool
names_contain(List *names, const char *name)
{
	ListCell *cell;

	foreach(cell, names)
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	return false;
}

List *
wahook_wanted_names(void)
{
	List *names = NIL;

	/* The setting's check hook has found it to be a list. */
	(void) SplitGUCList(pstrdup(wahook_databases), ',', &names);
	return names;
}

bool
wahook_wants_database(Form_pg_database row, List *names)
{
	return row->datallowconn && !row->datistemplate && !database_is_invalid_form(row) &&
		   (names == NIL || names_contain(names, NameStr(row->datname)));
}

wahook_Database *
wahook_find_database(List *databases, Oid id)
{
	ListCell *cell;

	foreach(cell, databases)
		if (((wahook_Database *) lfirst(cell))->id == id)
			return lfirst(cell);
	return NULL;
}

static List *
note_database(List *databases, Form_pg_database row, List *names)
{
	wahook_Database *database = wahook_find_database(databases, row->oid);
	bool wanted = wahook_wants_database(row, names);

	if (database == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		database = palloc0_object(wahook_Database);
		database->id = row->oid;
		databases = lappend(databases, database);
		MemoryContextSwitchTo(old);
	}
	/* What changed may be what was in the way. */
	if (wanted && !database->is_wanted)
		database->pause = (wahook_Pause){0};
	database->is_wanted = wanted;
	database->is_seen = true;
	strlcpy(database->name, NameStr(row->datname), NAMEDATALEN);
	return databases;
}

static List *
forget_dropped(List *databases)
{
	ListCell *cell;

	foreach(cell, databases)
	{
		wahook_Database *database = lfirst(cell);

		if (database->is_seen)
			continue;
		if (database->handle)
			pfree(database->handle);
		pfree(database);
		databases = foreach_delete_current(databases, cell);
	}
	return databases;
}

/* Names that no database has are told of once, and again when the setting has changed. */
static void
report_missing(List *databases, List *names)
{
	static char *reported = NULL;
	ListCell *name;

	if (reported && strcmp(reported, wahook_databases) == 0)
		return;
	if (reported)
		pfree(reported);
	reported = MemoryContextStrdup(TopMemoryContext, wahook_databases);
	foreach(name, names)
	{
		ListCell *cell;
		bool found = false;

		foreach(cell, databases)
			found |= strcmp(((wahook_Database *) lfirst(cell))->name, lfirst(name)) == 0;
		if (!found)
			ereport(WARNING, (errcode(ERRCODE_UNDEFINED_DATABASE),
							  errmsg("database \"%s\" in wahook.databases does not exist",
									 (char *) lfirst(name)),
							  errhint("Its worker is started as soon as it is created.")));
	}
}

List *
wahook_refresh_databases(List *databases, Oid only)
{
	Relation catalog;
	TableScanDesc scan;
	HeapTuple tuple;
	List *names;
	ListCell *cell;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	names = wahook_wanted_names();
	foreach(cell, databases)
		((wahook_Database *) lfirst(cell))->is_seen = false;
	catalog = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(catalog, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database row = (Form_pg_database) GETSTRUCT(tuple);

		if (!OidIsValid(only) || row->oid == only)
			databases = note_database(databases, row, OidIsValid(only) ? NIL : names);
	}
	table_endscan(scan);
	table_close(catalog, AccessShareLock);
	databases = forget_dropped(databases);
	if (!OidIsValid(only))
		report_missing(databases, names);
	CommitTransactionCommand();
	return databases;
}
