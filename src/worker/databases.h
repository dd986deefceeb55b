/*
 * The databases of the server, as the launcher sees them.
 */
#ifndef WAHOOK_DATABASES_H
#define WAHOOK_DATABASES_H

#include "postgres.h"

#include "catalog/pg_database.h"
#include "nodes/pg_list.h"
#include "postmaster/bgworker.h"

#include "worker/worker.h"

typedef struct wahook_Database
{
	Oid id;
	char name[NAMEDATALEN];
	bool is_wanted;     /* takes connections, is no template, and wahook.databases allows it */
	bool is_absent;     /* has no extension, as far as is known */
	bool is_running;    /* had a worker, or one being started, when it was last looked at */
	bool failed_to_run; /* its last worker did not get to know whether the extension is there */
	bool loss_reported;
	bool no_room_reported;
	bool is_seen; /* while the list is being refreshed */
	TimestampTz started_at;
	wahook_Pause pause;
	BackgroundWorkerHandle *handle; /* of a worker that this launcher registered */
} wahook_Database;

extern wahook_Database *wahook_find_database(List *databases, Oid id);

/* The names in wahook.databases. */
extern List *wahook_wanted_names(void);

/* Whether a database takes connections, is no template, and is among the names; NIL: whatever its name. */
extern bool wahook_wants_database(Form_pg_database row, List *names);

/*
 * Reads the list of databases anew, in a transaction; what is known of those that stay is kept.
 * only: a database, or InvalidOid for all. The list is in TopMemoryContext.
 */
extern List *wahook_refresh_databases(List *databases, Oid only);

#endif
