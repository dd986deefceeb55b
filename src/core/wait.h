/*
 * What the processes of wahook wait for, as pg_stat_activity shows it.
 */
#ifndef WAHOOK_WAIT_H
#define WAHOOK_WAIT_H

#include "postgres.h"

/* Under the names in core/wait.c. */
typedef enum wahook_Wait
{
	WAHOOK_WAIT_LAUNCHER,  /* for a worker to end, a database to come, or a pause to be over */
	WAHOOK_WAIT_WORKER,    /* for the next thing that is due */
	WAHOOK_WAIT_HTTP,      /* the same, and for answers of endpoints */
	WAHOOK_WAIT_HANDLER,   /* for messages to be handled */
	WAHOOK_WAIT_ROW,       /* a moment, for a row that somebody else is changing */
	WAHOOK_WAIT_PROCESSES, /* a command, for the processes of its database to go */
	WAHOOK_WAIT_START,     /* start_webhook_worker(), for the worker */
	WAHOOK_NWAITS
} wahook_Wait;

/* For WaitLatch() and the like. Before PostgreSQL 17, one for all. */
extern uint32 wahook_wait_event(wahook_Wait wait);

/* pg_usleep(), and pg_stat_activity shows why. */
extern void wahook_pause(wahook_Wait wait, long microseconds);

#endif
