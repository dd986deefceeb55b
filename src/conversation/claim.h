/*
 * Claiming conversations: their lock and their waiting messages in one step.
 */
#ifndef WAHOOK_CLAIM_H
#define WAHOOK_CLAIM_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "nodes/execnodes.h"
#include "utils/uuid.h"

typedef struct wahook_ClaimRequest
{
	pg_uuid_t lock_id;
	int64 lease_us;
	const char *service; /* null: any that clients pull */
	int limit;
} wahook_ClaimRequest;

/* p_lock_id, p_lease of a claiming function's arguments; a lock id is made up where it is null. */
extern void wahook_read_claim_request(FunctionCallInfo fcinfo, int lock_id_arg, int lease_arg,
									  wahook_ClaimRequest *request);

/* Claims the longest-waiting conversations and appends a row for each to the result. */
extern void wahook_claim_waiting(const wahook_ClaimRequest *request, ReturnSetInfo *result);

typedef struct wahook_ClaimTarget
{
	pg_uuid_t conversation_id;
	const char *service;
} wahook_ClaimTarget;

/* Whether the service is enabled and its messages are for clients to claim. */
extern bool wahook_may_pull(const char *service);

/*
 * Claims those of the given conversations that are free and have messages for the service, and tells
 * which in claimed. Messages that came at received_at are not in the queue yet.
 */
extern void wahook_claim_these(const wahook_ClaimRequest *request,
							   const wahook_ClaimTarget *targets, bool *claimed, int n,
							   TimestampTz received_at, ReturnSetInfo *result);

#endif
