/*
 * Handler processes of a database, as all of them and its worker see each other: which are there,
 * and what each is at.
 */
#ifndef WAHOOK_HANDLER_PLACE_H
#define WAHOOK_HANDLER_PLACE_H

#include "postgres.h"

typedef struct wahook_HandlerCensus
{
	int all; /* but those that are leaving */
	int starting;
	int idle;
} wahook_HandlerCensus;

extern wahook_HandlerCensus wahook_count_handlers(void);

/* For the worker: a place for a process that is to be started; -1: there is none. */
extern int wahook_reserve_handler_place(void);
extern void wahook_give_handler_place_back(int place);
/* Places that were reserved by a worker that is no more. */
extern void wahook_forget_reserved_places(void);

/* Whether a session wants the database's processes to stay away. */
extern bool wahook_is_held_away(void);

/* For the process, before it connects: false when its place is not reserved any more. */
extern bool wahook_take_handler_place(Oid database, int place);

/*
 * Makes the process busy with a service, unless at_most of them are. Between this and
 * wahook_end_service() it is not idle.
 */
extern bool wahook_begin_service(const char *service, int at_most);
extern void wahook_end_service(void);

/* Whether a service has room, as wahook_begin_service() would say. */
extern bool wahook_service_has_room(const char *service, int at_most);

/* The process does not count any more: whoever finds work now must start another one. */
extern void wahook_start_leaving(void);

#endif
