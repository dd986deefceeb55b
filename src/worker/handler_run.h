/*
 * What a handler process does for a service: claim, run, and give back.
 */
#ifndef WAHOOK_HANDLER_RUN_H
#define WAHOOK_HANDLER_RUN_H

#include "postgres.h"

typedef enum wahook_ServiceRun
{
	WAHOOK_RAN,         /* a conversation, or a dead letter, has been dealt with */
	WAHOOK_RAN_NOTHING, /* nothing could be claimed */
	WAHOOK_PUT_OFF      /* it could not be dealt with, and waits */
} wahook_ServiceRun;

/* Claims what has waited longest for the service and runs its handler, as long as it takes. */
extern wahook_ServiceRun wahook_run_service(const char *service);

/* The same for a service of which the handler takes the replies of an agent: one reply. */
extern wahook_ServiceRun wahook_run_reply(const char *service);

/* What was claimed and not dealt with waits again. For a process that ends, however it ends. */
extern void wahook_give_work_back(void);

/* Once a process. */
extern void wahook_prepare_handler_runs(void);

#endif
