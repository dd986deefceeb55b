/*
 * A claim under way: looking at one conversation after another.
 */
#ifndef WAHOOK_TAKE_H
#define WAHOOK_TAKE_H

#include "conversation/claim.h"
#include "conversation/lease.h"
#include "conversation/lock.h"

typedef struct wahook_Claim
{
	const wahook_ClaimRequest *request;
	const char *service; /* whose messages are wanted; null: those of services */
	Datum services;      /* text[] */
	ReturnSetInfo *result;
	MemoryContext context;
	TimestampTz now;
	TimestampTz expires_at;
	bool walks; /* the queue, not conversations that somebody named */
	TimestampTz
		queued_for; /* the caller sees to the queue row for this time; DT_NOBEGIN: there is none */
	wahook_Store store;
	wahook_RowReader messages;
	int n; /* conversations claimed so far */

	/* those of them that are not in webhook_leases yet: all for one service */
	char *leased_service;
	int nleased;
	pg_uuid_t leased[WAHOOK_MAX_LEASED];
} wahook_Claim;

/* What a look at a conversation showed. */
typedef enum wahook_Look
{
	WAHOOK_CLAIMED,
	WAHOOK_HELD,  /* its lease goes on */
	WAHOOK_EMPTY, /* nothing is there for the service yet; what waits is queued elsewhere */
	WAHOOK_BUSY   /* somebody is changing it */
} wahook_Look;

/* messages_lock: of the table of messages; one that the transaction has already costs less. */
extern void wahook_begin_claim(wahook_Claim *claim, const wahook_ClaimRequest *request,
							   LOCKMODE messages_lock, ReturnSetInfo *result);

/*
 * Looks at a conversation, and claims it where it is free and has messages for the service:
 * appends it to the result. Where it is held, *holder is who has it and *until for how long. Where nothing
 * is to be claimed yet, rows for times before *until name it for nothing.
 */
extern wahook_Look wahook_look_at(wahook_Claim *claim, const pg_uuid_t *id, const char *service,
								  pg_uuid_t *holder, TimestampTz *until);

/* Whether a free conversation is still the version that was in the slot after a look at it. */
extern bool wahook_is_untouched(wahook_Claim *claim, const pg_uuid_t *id,
								const ItemPointerData *version);

/* Without it, nobody would look at what was claimed when the lease has ended. */
extern void wahook_end_claim(wahook_Claim *claim);

#endif
