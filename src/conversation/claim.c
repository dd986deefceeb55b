/*
 * Claiming conversations.
 *
 * A claim looks at conversations whose lease has ended, and then walks the due rows of the queue
 * (conversation/due.c), and takes those that are free (conversation/take.c).
 */
#include "conversation/claim.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "conversation/due.h"
#include "conversation/take.h"
#include "core/columns.h"
#include "core/compat.h"
#include "core/counters.h"
#include "core/plan.h"
#include "core/settings.h"
#include "core/tables.h"
#include "core/uuid.h"
#include "ingest/config.h"

/* How long a session may go on without a look at the whole queue, in microseconds. */
#define FULL_WALK_INTERVAL USECS_PER_SEC

PG_FUNCTION_INFO_V1(wahook_claim_conversations);

bool
wahook_may_pull(const char *service)
{
	const wahook_Service *config = wahook_find_service(service);

	return config != NULL && config->enabled && config->kind == WAHOOK_PULL;
}

/* What waits for a disabled service goes on waiting, also when it is asked for. */
static bool
is_wanted(const wahook_Claim *claim, const char *service)
{
	const wahook_Service *config;

	if (claim->request->service == NULL)
		return wahook_may_pull(service);
	config = wahook_find_service(service);
	return strcmp(claim->request->service, service) == 0 && (config == NULL || config->enabled);
}

/*
 * Whose messages are wanted: those of the service that is asked for, else of all that clients pull.
 * False: nobody's.
 */
static bool
choose_services(wahook_Claim *claim)
{
	const wahook_Config *config = wahook_config();
	wahook_Column names;

	claim->service = claim->request->service;
	if (claim->service != NULL)
		return is_wanted(claim, claim->service);
	wahook_start_column(&names, TEXTOID, config->nservices);
	for (int i = 0; i < config->nservices; i++)
		if (is_wanted(claim, config->services[i].name))
		{
			claim->service = config->services[i].name;
			wahook_add_text(&names, claim->service);
		}
	if (names.n > 1)
	{
		claim->service = NULL;
		claim->services = wahook_finish_column(&names);
	}
	return names.n > 0;
}

/* Looks at a conversation whose lease should have ended. */
static wahook_LeaseEnd
claim_expired(void *arg, const wahook_Lease *lease, const pg_uuid_t *id, TimestampTz *until)
{
	wahook_Claim *claim = arg;
	pg_uuid_t holder;

	if (!is_wanted(claim, lease->service))
		return WAHOOK_LEASE_UNCLEAR;
	if (claim->n == claim->request->limit)
		return WAHOOK_LEASE_ENOUGH;
	switch (wahook_look_at(claim, id, lease->service, &holder, until))
	{
		case WAHOOK_HELD:
			return memcmp(&holder, &lease->lock_id, sizeof(pg_uuid_t)) == 0 ? WAHOOK_LEASE_RENEWED
																			: WAHOOK_LEASE_OVER;
		case WAHOOK_BUSY:
			return WAHOOK_LEASE_UNCLEAR;
		default:
			return WAHOOK_LEASE_OVER;
	}
}

/*
 * While an old snapshot is held somewhere, an index keeps an entry for each row that ever was, and
 * a walk from its beginning would pass them all. So a session remembers where it last met a row
 * and starts there. What came to stand before that place since then is found by a full walk, at
 * the latest a second later, and whenever the short one does not bring enough.
 */
typedef struct Start
{
	TimestampTz at;
	TimestampTz full_walk_at;
	char service[NAMEDATALEN];
} Start;

static bool
needs_full_walk(const Start *start, const wahook_Claim *claim)
{
	const char *wanted = claim->request->service ? claim->request->service : "";

	return start->at == DT_NOBEGIN || claim->now - start->full_walk_at > FULL_WALK_INTERVAL ||
		   strcmp(start->service, wanted) != 0;
}

static void
note_full_walk(Start *start, const wahook_Claim *claim)
{
	start->full_walk_at = claim->now;
	strlcpy(start->service, claim->request->service ? claim->request->service : "",
			sizeof(start->service));
}

static void
claim_from_leases(wahook_Claim *claim, bool all)
{
	static Start start = {.at = DT_NOBEGIN};
	TimestampTz from = start.at;
	TimestampTz left;

	if (all && start.full_walk_at == claim->now)
		return;
	if (all || needs_full_walk(&start, claim))
	{
		note_full_walk(&start, claim);
		from = DT_NOBEGIN;
	}
	start.at = DT_NOBEGIN; /* should this fail */
	left = wahook_visit_leases(&claim->store.leases, from, claim->now, claim_expired, claim);
	start.at = Min(left, claim->now);
}

static void
claim_from_queue(wahook_Claim *claim)
{
	static Start start = {.at = DT_NOBEGIN};

	if (!needs_full_walk(&start, claim))
		start.at = wahook_claim_due_after(claim, start.at - 1);
	if (claim->n < claim->request->limit)
	{
		start.at = wahook_claim_due_after(claim, DT_NOBEGIN);
		note_full_walk(&start, claim);
	}
	if (start.at == DT_NOEND)
		start.at = DT_NOBEGIN;
}

void
wahook_claim_waiting(const wahook_ClaimRequest *request, ReturnSetInfo *result)
{
	wahook_Claim claim;

	wahook_begin_claim(&claim, request, AccessShareLock, result);
	claim.walks = true;
	if (choose_services(&claim))
	{
		claim_from_leases(&claim, false);
		if (claim.n < request->limit)
			claim_from_queue(&claim);
		if (claim.n < request->limit)
			claim_from_leases(&claim, true);
	}
	wahook_end_claim(&claim);
}

/* Several messages of a delivery may be for one conversation: the first of them claims it. */
static bool
is_from_this_call(const wahook_Claim *claim, const pg_uuid_t *holder, TimestampTz until)
{
	return until == claim->expires_at &&
		   memcmp(holder, &claim->request->lock_id, sizeof(pg_uuid_t)) == 0;
}

void
wahook_claim_these(const wahook_ClaimRequest *request, const wahook_ClaimTarget *targets,
				   bool *claimed, int n, TimestampTz received_at, ReturnSetInfo *result)
{
	wahook_Claim claim;

	wahook_begin_claim(&claim, request, RowExclusiveLock, result);
	claim.queued_for = received_at;
	for (int i = 0; i < n; i++)
	{
		pg_uuid_t holder;
		TimestampTz until;
		wahook_Look look = wahook_look_at(&claim, &targets[i].conversation_id, targets[i].service,
										  &holder, &until);

		claimed[i] = look == WAHOOK_CLAIMED;
		wahook_count(WAHOOK_LOCKS_REFUSED,
					 look == WAHOOK_HELD && !is_from_this_call(&claim, &holder, until));
	}
	wahook_end_claim(&claim);
}

void
wahook_read_claim_request(FunctionCallInfo fcinfo, int lock_id_arg, int lease_arg,
						  wahook_ClaimRequest *request)
{
	bool lease = lease_arg >= 0 && !PG_ARGISNULL(lease_arg);

	memset(request, 0, sizeof(*request));
	if (PG_ARGISNULL(lock_id_arg))
		wahook_new_uuid(&request->lock_id);
	else
		request->lock_id = *PG_GETARG_UUID_P(lock_id_arg);
	request->lease_us = wahook_lease_us(lease ? PG_GETARG_INTERVAL_P(lease_arg) : NULL);
}

/* claim_conversations(p_limit, p_lock_id, p_service, p_lease) → setof claim */
Datum
wahook_claim_conversations(PG_FUNCTION_ARGS)
{
	wahook_ClaimRequest request;

	wahook_read_claim_request(fcinfo, 1, 3, &request);
	request.limit = PG_ARGISNULL(0) ? 1 : PG_GETARG_INT32(0);
	if (request.limit < 1 || request.limit > WAHOOK_MAX_CLAIM_CONVERSATIONS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("p_limit is out of range"),
						errdetail("A call claims between 1 and %d conversations, not %d.",
								  WAHOOK_MAX_CLAIM_CONVERSATIONS, request.limit),
						errhint("Call again for more.")));
	if (!PG_ARGISNULL(2))
		request.service = text_to_cstring(PG_GETARG_TEXT_PP(2));

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	wahook_begin(fcinfo);
	wahook_claim_waiting(&request, (ReturnSetInfo *) fcinfo->resultinfo);
	wahook_end();
	return (Datum) 0;
}
