/*
 * Giving replies of agents to the handlers of their services.
 */
#ifndef WAHOOK_HANDLER_REPLY_H
#define WAHOOK_HANDLER_REPLY_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "retry/attempt.h"

/* Takes the reply of a service that has waited longest, until then at the latest. False: none waits. */
extern bool wahook_take_reply(const char *service, TimestampTz until, pg_uuid_t *conversation_id,
							  pg_uuid_t *lock_id);

/*
 * Saves the turn, runs the handler with the reply, and completes the messages, or dead-letters them.
 * The caller has row-locked the conversation under the reply's lock.
 */
extern wahook_Outcome wahook_give_reply(const wahook_Conversation *conversation,
										const wahook_Handler *handler);

/* What follows where the handler failed. */
extern wahook_Outcome wahook_fail_reply(const wahook_Conversation *conversation,
										const wahook_Handler *handler,
										const wahook_Failure *failure);

/* The lock was lost: the reply waits for who claims the same messages again. */
extern void wahook_leave_reply(const pg_uuid_t *conversation_id, const char *service);

#endif
