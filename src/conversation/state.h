/*
 * The status of a conversation, and the audit trail of its changes.
 */
#ifndef WAHOOK_STATE_H
#define WAHOOK_STATE_H

#include "postgres.h"

#include "core/plan.h"

/*
 * Runs a statement that changes the status of conversations, as wahook_execute() does. Its audit
 * rows carry the reason, which says in a word or two why: "stuck", "claimed".
 */
extern uint64 wahook_execute_transition(wahook_Plan *plan, Datum *values, const char *reason);

#endif
