/*
 * Receiving and claiming in one call, for callers that process in the request.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"

#include "conversation/claim.h"
#include "core/compat.h"
#include "core/plan.h"
#include "ingest/receive.h"

PG_FUNCTION_INFO_V1(wahook_receive_and_claim_webhook);

/*
 * receive_and_claim_webhook(p_body, p_signature, p_correlation_id, p_lock_id) → setof claim:
 * receives, and claims the conversations of its messages where they are free.
 */
Datum
wahook_receive_and_claim_webhook(PG_FUNCTION_ARGS)
{
	wahook_ClaimRequest request;
	wahook_Intake intake;
	pg_uuid_t *ids;
	int n = 0;

	wahook_read_claim_request(fcinfo, 3, -1, &request);
	InitMaterializedSRF(fcinfo, 0);
	wahook_begin(fcinfo);
	wahook_take_in(fcinfo, &intake);
	ids = palloc_array(pg_uuid_t, Max(intake.n, 1));
	for (int i = 0; i < intake.n; i++)
		if (intake.outcomes[i].has_conversation)
			ids[n++] = intake.outcomes[i].conversation_id;
	wahook_claim_these(&request, ids, n, (ReturnSetInfo *) fcinfo->resultinfo);
	wahook_end();
	return (Datum) 0;
}
