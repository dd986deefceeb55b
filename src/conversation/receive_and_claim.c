/*
 * Receiving and claiming in one call, for callers that process in the request.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"

#include "conversation/claim.h"
#include "core/compat.h"
#include "core/plan.h"
#include "core/uuid.h"
#include "ingest/receive.h"

PG_FUNCTION_INFO_V1(wahook_receive_and_claim_webhook);

/* Claims the conversations of what was received, and notes which messages were claimed with them. */
static void
claim_received(const wahook_ClaimRequest *request, wahook_Intake *intake, ReturnSetInfo *result)
{
	wahook_ClaimTarget *targets = palloc_array(wahook_ClaimTarget, Max(intake->n, 1));
	pg_uuid_t *ids = palloc_array(pg_uuid_t, Max(intake->n, 1));
	bool *claimed = palloc_array(bool, Max(intake->n, 1));
	int n = 0;
	int nclaimed = 0;

	for (int i = 0; i < intake->n; i++)
	{
		const wahook_Outcome *outcome = &intake->outcomes[i];

		if (outcome->has_conversation && outcome->service && wahook_may_pull(outcome->service))
			targets[n++] = (wahook_ClaimTarget){outcome->conversation_id, outcome->service};
	}
	wahook_claim_these(request, targets, claimed, n, intake->now, result);
	for (int i = 0; i < n; i++)
		if (claimed[i])
			ids[nclaimed++] = targets[i].conversation_id;
	qsort(ids, nclaimed, sizeof(pg_uuid_t), wahook_compare_uuids);
	for (int i = 0; i < intake->n; i++)
		intake->outcomes[i].claimed = bsearch(&intake->outcomes[i].conversation_id, ids, nclaimed,
											  sizeof(pg_uuid_t), wahook_compare_uuids) != NULL;
}

/*
 * receive_and_claim_webhook(p_body, p_signature, p_correlation_id, p_lock_id) → setof claim:
 * receives, and claims the conversations of its messages where they are free, for services that
 * clients pull. Only the others go to the queue.
 */
Datum
wahook_receive_and_claim_webhook(PG_FUNCTION_ARGS)
{
	wahook_ClaimRequest request;
	wahook_Intake intake;

	wahook_read_claim_request(fcinfo, 3, -1, &request);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	wahook_begin(fcinfo);
	wahook_take_in(fcinfo, &intake);
	claim_received(&request, &intake, (ReturnSetInfo *) fcinfo->resultinfo);
	wahook_queue_messages(&intake);
	wahook_count_intake(&intake);
	wahook_end();
	return (Datum) 0;
}
