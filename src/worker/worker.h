/*
 * The background worker of a database: what runs in it, and how its SQL is run.
 *
 * unit: work that is done in one transaction of its own, as the owner of the extension.
 * source: a part of the worker that has work from time to time.
 */
#ifndef WAHOOK_WORKER_H
#define WAHOOK_WORKER_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"

#include "core/compat.h"
#include "core/wake.h"

/*
 * Deliveries over HTTP can be twice as many as wahook.http_max_connections, which is at most 1000, and
 * calls of agents as well.
 */
#define WAHOOK_MAX_SOCKETS 4096

typedef struct wahook_Socket
{
	pgsocket fd;
	uint32 events; /* WL_SOCKET_READABLE, WL_SOCKET_WRITEABLE */
} wahook_Socket;

/* All are called outside transactions. A turn that raises an error is called again after a pause. */
typedef struct wahook_Source
{
	const char *name;
	int wants; /* WAHOOK_WORK_*: notes that call for a turn; see also wahook_source_wants() */

	/*
	 * Does what is due. heard: what was noted, WAHOOK_WORK_ALL the first time and after a reload.
	 * Returns when to be called next without a note: DT_NOEND for never.
	 */
	TimestampTz (*turn)(TimestampTz now, int heard);

	/*
	 * Both null, or: which sockets to wait for, at most max; and what happened on one of them, perhaps
	 * one of another source, after which a turn follows. changed is another number whenever the list
	 * is, or has another socket by a number that it had before.
	 */
	int (*sockets)(wahook_Socket *sockets, int max, unsigned *changed);
	void (*on_socket)(pgsocket fd, uint32 events);

	/* Null, or: the worker is about to exit. Units still run, but SIGTERM has a second meaning now. */
	void (*stop)(void);
} wahook_Source;

/* The sources, in the order of their turns. */
extern const wahook_Source wahook_alerts_source;
extern const wahook_Source wahook_jobs_source;
extern const wahook_Source wahook_requests_source;
extern const wahook_Source wahook_http_source;
extern const wahook_Source wahook_agents_source;

/* Changes which notes call for turns of a source: what no source wants costs the sessions nothing. */
extern void wahook_source_wants(const wahook_Source *source, int wants);

/* It gets a turn before the worker sleeps again. */
extern void wahook_source_is_due(const wahook_Source *source);

/* When the worker before this one was last there; DT_NOBEGIN: not known in this run of the server. */
extern TimestampTz wahook_former_worker_alive_until(void);

/*
 * Runs a unit: a transaction in READ COMMITTED, as the owner of the extension, search_path
 * pg_catalog, connected to SPI. False when it failed: then it was rolled back and its error logged
 * (the same one at most once an hour), or the extension is gone, or the process is to end. What
 * outlives the unit must be allocated in a context of the caller's.
 */
extern bool wahook_in_transaction(void (*work)(void *arg), void *arg);

/*
 * Runs a step of a unit in a subtransaction of its own. The error that it ended with, or null; where
 * the process is told to end, the unit ends.
 */
extern ErrorData *wahook_try_alone(void (*step)(void *arg), void *arg);

/* Whether the last unit failed only because another transaction was changing a row (55P03). */
extern bool wahook_unit_was_busy(void);

/* For handler processes: once after they are connected, before the first unit. */
extern void wahook_prepare_process(void);

/* What has been set meanwhile; for a process that has just begun. */
extern void wahook_read_settings_anew(void);

/*
 * Null: SIGTERM cancels the unit that is under way. Or: called then, in the signal handler. True where
 * it has told the unit to end in its own way; else the process ends at once.
 */
extern bool (*wahook_sigterm_hook)(void);

/* True once SIGTERM came, or the extension was found missing: end soon. */
extern bool wahook_is_to_end(void);
extern bool wahook_extension_is_gone(void);

/* Call it where a process waits: ends it, rereads the configuration, answers other processes. */
extern void wahook_process_interrupts(void);

/* How often something failed in a row, and when to try again: after 1 s, 2 s, ... up to max_s. */
typedef struct wahook_Pause
{
	int failures;
	TimestampTz until;
} wahook_Pause;

extern void wahook_note_result(wahook_Pause *pause, bool success, int max_s);

/* Writes a warning to the server log, the same one at most once an hour. */
extern void wahook_warn_once(const char *subject, const char *sqlstate, const char *message);

/* The same of an error. Neither its DETAIL nor its CONTEXT: they may hold what a user wrote. */
extern void wahook_warn_of_error(const char *subject, const ErrorData *error);

/* Runs a part of a process; false when it raised an error, which was logged. */
extern bool wahook_catch(void (*part)(void *arg), void *arg);

/* From now on units run although the process is to end, and SIGTERM interrupts them. */
extern void wahook_begin_ending(void);

/* In bgw_extra of a worker that failed before. */
#define WAHOOK_QUIETLY 'q'

/* Entry points of the processes, and their registration. */
extern PGDLLEXPORT void wahook_launcher_main(Datum database);
extern PGDLLEXPORT void wahook_worker_main(Datum database);
/* What all of them have in common; the name, and when it is started again, are for the caller to say. */
extern void wahook_describe_process(BackgroundWorker *worker, const char *type,
									const char *function, Oid database);
extern void wahook_register_launcher(void);
extern bool wahook_start_launcher(Oid database);
extern void wahook_install_hooks(void);

/* The library was preloaded: a worker is to be expected. */
extern void wahook_note_preload(void);

#endif
