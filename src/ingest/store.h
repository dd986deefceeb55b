/*
 * Writing what a delivery brought, a statement for all updates of a class.
 */
#ifndef WAHOOK_STORE_H
#define WAHOOK_STORE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "ingest/envelope.h"
#include "ingest/identity.h"

/* What became of an update; the result has a row for each. */
typedef struct wahook_Outcome
{
	wahook_Update *update;
	const char *outcome;
	bool has_conversation;
	pg_uuid_t conversation_id;
	const struct wahook_Outcome *repeats; /* below: of messages; null: the first in its delivery */
	bool announce;
	bool claimed;  /* with its conversation, in the same call */
	bool accepted; /* it is a new one, and stored */
	bool dropped;  /* stored all the same, but not to be processed */
	TimestampTz due_at;
	pg_uuid_t message_id;
	Datum payload;
	const char *service;
	const struct wahook_Route *route; /* that led there; null: none */
} wahook_Outcome;

typedef struct wahook_Intake
{
	TimestampTz began_at;
	TimestampTz now;
	pg_uuid_t correlation_id;
	wahook_Outcome *outcomes; /* in the order of the delivery */
	int n;
} wahook_Intake;

/*
 * Moves the messages whose outcome is known already behind the others, both in their order. Returns
 * how many others there are.
 */
extern int wahook_set_decided_apart(wahook_Outcome **messages, int n);

extern void wahook_store_messages(wahook_Intake *intake);

/* Queues the conversations of the accepted messages, but for those that were claimed. */
extern void wahook_queue_messages(const wahook_Intake *intake);

extern void wahook_store_statuses(wahook_Intake *intake);
extern void wahook_store_notices(wahook_Intake *intake);
extern void wahook_store_unreadable(wahook_Intake *intake);

#endif
