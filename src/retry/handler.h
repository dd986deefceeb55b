/*
 * SQL handlers: functions that process messages inside the database.
 */
#ifndef WAHOOK_HANDLER_H
#define WAHOOK_HANDLER_H

#include "postgres.h"

#include "retry/dead_letter.h"

/* A service with a handler. palloc'd, as its strings are. */
typedef struct wahook_Handler
{
	char *service;
	const char *problem; /* why it can't be run; null: it can */
	Oid function;
	Oid role;       /* as which it runs */
	int timeout_ms; /* of a call; 0: none */
	int concurrency;
	bool bursts;       /* one call gets all messages that were claimed together */
	bool strict_order; /* none is handed over while an earlier one has failed */
	int circuit_threshold;
	int64 circuit_timeout_us;
} wahook_Handler;

/* The enabled services that have a handler, by name, or only the named one; returns how many. */
extern int wahook_find_handlers(const char *service, wahook_Handler **handlers);

/* The handler of the replies of a service's agent. False: it has none. */
extern bool wahook_find_reply_handler(const char *service, wahook_Handler *handler);

/*
 * Runs the handler in a subtransaction of its own. message: jsonb. False when it failed; then its
 * work is undone and *failure says why. Being cancelled is no failure but an error, 57014.
 */
extern bool wahook_run_handler(const wahook_Handler *handler, Datum message,
							   wahook_Failure *failure);

/*
 * For processes of our own, which can be sacrificed: a handler that goes on for this long after it
 * was told to end takes its process with it. Then wahook_overran() is true while the process exits,
 * and *failure says what the handler did.
 */
extern void wahook_end_process_after_ms(int grace_ms);
extern bool wahook_overran(wahook_Failure *failure);

/*
 * Async-signal-safe: tells the handler that runs to end, which then is an error, 57014. False where
 * none runs.
 */
extern bool wahook_cancel_handler(void);

#endif
