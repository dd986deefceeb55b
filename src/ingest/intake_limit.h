/*
 * The limit at intake: how many messages of each user are accepted, and how fast.
 */
#ifndef WAHOOK_INTAKE_LIMIT_H
#define WAHOOK_INTAKE_LIMIT_H

#include "ingest/store.h"

/*
 * Takes a token for each accepted message from its user's bucket, in the order of the delivery. A
 * message that finds none is put off until there is one, or dropped, as the bucket says. Waits for
 * other transactions a little while at most: then the messages are accepted without a token.
 */
extern void wahook_limit_intake(wahook_Intake *intake, wahook_Outcome **messages, int n);

#endif
