/*
 * Routing the messages of a delivery.
 */
#ifndef WAHOOK_ROUTING_H
#define WAHOOK_ROUTING_H

#include "ingest/store.h"

/* Sets service and route of the messages. Reads what users are with; writes nothing. */
extern void wahook_route_messages(wahook_Outcome **messages, int n);

/*
 * Takes the senders of accepted messages whose routes say so out of the service they are with. A
 * session that another transaction is writing is left to it, as if it came after.
 */
extern void wahook_clear_states(wahook_Outcome **messages, int n);

#endif
