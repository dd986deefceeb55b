/*
 * Handler processes, and what starts them.
 */
#ifndef WAHOOK_HANDLER_PROCESS_H
#define WAHOOK_HANDLER_PROCESS_H

#include "postgres.h"

#include "worker/worker.h"

/* The source of the database's worker that starts handler processes when there is work for them. */
extern const wahook_Source wahook_handlers_source;

extern PGDLLEXPORT void wahook_handler_main(Datum database);

#endif
