/*
 * SQL handlers: functions that process messages inside the database.
 */
#ifndef WAHOOK_HANDLER_H
#define WAHOOK_HANDLER_H

#include "postgres.h"

#include "retry/dead_letter.h"

typedef struct wahook_Handler
{
	char *service;
	Oid function;
	Oid role; /* as which it runs */
} wahook_Handler;

/* The handlers of all services that have one which can be run; palloc'd. */
extern int wahook_find_handlers(wahook_Handler **handlers);

/*
 * Runs the handler in a subtransaction of its own. message: jsonb. False when it failed; then its
 * work is undone and *failure says why. Being cancelled is no failure but an error, 57014.
 */
extern bool wahook_run_handler(const wahook_Handler *handler, Datum message,
							   wahook_Failure *failure);

#endif
