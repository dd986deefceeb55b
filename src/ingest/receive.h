/*
 * Taking in a delivery, for the calls that do so.
 */
#ifndef WAHOOK_RECEIVE_H
#define WAHOOK_RECEIVE_H

#include "postgres.h"

#include "fmgr.h"

#include "ingest/store.h"

/*
 * Verifies and stores the delivery in the arguments p_body, p_signature, p_correlation_id. What
 * *intake points to is in the current memory context. wahook_queue_messages() must follow in the same
 * transaction: no message may wait where nobody looks. Errors: WH001, WH006, WH007, WH008.
 */
extern void wahook_take_in(FunctionCallInfo fcinfo, wahook_Intake *intake);

/* Counts the delivery and what it brought; the last thing that a call does. */
extern void wahook_count_intake(const wahook_Intake *intake);

#endif
