/*
 * Receiving a delivery: verified, cut up, stored, and answered with a row for each update.
 */
#include "ingest/receive.h"

#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "core/args.h"
#include "core/compat.h"
#include "core/counters.h"
#include "core/errors.h"
#include "core/plan.h"
#include "core/settings.h"
#include "core/uuid.h"
#include "ingest/parse.h"
#include "ingest/signature.h"

PG_FUNCTION_INFO_V1(wahook_receive_webhook);

/* An unsigned delivery is the caller's word alone; it counts only where no secret is set. */
static void
check_signature(FunctionCallInfo fcinfo, text *body)
{
	text *signature;

	if (PG_ARGISNULL(1))
	{
		if (wahook_require_signature || wahook_app_secret_is_set())
			ereport(ERROR,
					(errcode(WAHOOK_BAD_SIGNATURE), errmsg("delivery is not signed"),
					 errdetail("It must be, because %s.", wahook_app_secret_is_set()
															  ? "wahook.app_secret is set"
															  : "wahook.require_signature is on"),
					 errhint(
						 "Pass the header X-Hub-Signature-256 as p_signature. Answer a request without it with 401.")));
		return;
	}
	signature = PG_GETARG_TEXT_PP(1);
	if (!wahook_signature_is_ours(VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body),
								  VARDATA_ANY(signature), VARSIZE_ANY_EXHDR(signature)))
		ereport(
			ERROR,
			(errcode(WAHOOK_BAD_SIGNATURE), errmsg("signature does not match the body"),
			 errdetail(
				 "It must be \"sha256=\" and 64 hex digits, made with the app secret over the raw bytes of the body."),
			 errhint(
				 "Answer with 401. If it came from Meta: pass the body exactly as it arrived, not parsed and written again, and check wahook.app_secret.")));
}

static text *
body_arg(FunctionCallInfo fcinfo)
{
	text *body;

	wahook_require_arg(fcinfo, 0, "p_body", "Pass the raw body of the request.");
	body = PG_GETARG_TEXT_PP(0);
	if (VARSIZE_ANY_EXHDR(body) > (Size) wahook_max_body_kb * 1024)
		ereport(ERROR,
				(errcode(WAHOOK_BODY_TOO_LARGE), errmsg("delivery is too large"),
				 errdetail("It has %zu bytes; wahook.max_body_size allows %zu.",
						   (size_t) VARSIZE_ANY_EXHDR(body), (size_t) wahook_max_body_kb * 1024),
				 errhint("Meta sends up to 3 MB. Answer with 413, or raise the setting.")));
	check_signature(fcinfo, body);
	return body;
}

/* What is refused is counted, although the error undoes all else. */
static void
read_delivery(FunctionCallInfo fcinfo, wahook_Delivery *delivery)
{
	PG_TRY();
	{
		wahook_parse_delivery(body_arg(fcinfo), delivery);
	}
	PG_CATCH();
	{
		wahook_count_now(WAHOOK_DELIVERIES_REFUSED, 1);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Where nothing is counted, the outcomes need not be looked at. */
void
wahook_count_intake(const wahook_Intake *intake)
{
	if (!wahook_counts())
		return;
	wahook_count(WAHOOK_DELIVERIES_ACCEPTED, 1);
	for (int i = 0; i < intake->n; i++)
	{
		const wahook_Outcome *outcome = &intake->outcomes[i];
		bool duplicate = strcmp(outcome->outcome, "duplicate") == 0;

		switch (outcome->update->class)
		{
			case WAHOOK_MESSAGE:
				wahook_count(duplicate ? WAHOOK_MESSAGES_DUPLICATE
							 : strcmp(outcome->outcome, "rate_limited") == 0
								 ? WAHOOK_MESSAGES_RATE_LIMITED
								 : WAHOOK_MESSAGES_ACCEPTED,
							 1);
				break;
			case WAHOOK_STATUS:
				wahook_count(duplicate ? WAHOOK_STATUSES_DUPLICATE : WAHOOK_STATUSES_RECORDED, 1);
				break;
			case WAHOOK_NOTICE:
				wahook_count(duplicate ? WAHOOK_NOTICES_DUPLICATE : WAHOOK_NOTICES_RECORDED, 1);
				break;
			case WAHOOK_UNREADABLE:
				wahook_count(WAHOOK_UNREADABLE_QUARANTINED, 1);
				break;
		}
	}
	wahook_observe(WAHOOK_INTAKE_TIME, GetCurrentTimestamp() - intake->began_at);
}

void
wahook_take_in(FunctionCallInfo fcinfo, wahook_Intake *intake)
{
	wahook_Delivery delivery;

	intake->began_at = GetCurrentTimestamp();
	read_delivery(fcinfo, &delivery);
	intake->now = GetCurrentTimestamp();
	if (PG_ARGISNULL(2))
		wahook_new_uuid(&intake->correlation_id);
	else
		intake->correlation_id = *PG_GETARG_UUID_P(2);
	intake->n = delivery.n;
	intake->outcomes = palloc0_array(wahook_Outcome, delivery.n);
	for (int i = 0; i < delivery.n; i++)
		intake->outcomes[i].update = &delivery.updates[i];
	wahook_store_messages(intake);
	wahook_store_statuses(intake);
	wahook_store_notices(intake);
	wahook_store_unreadable(intake);
}

/* receive_webhook(p_body, p_signature, p_correlation_id) → a row an update, in their order */
Datum
wahook_receive_webhook(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	wahook_Intake intake;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	wahook_begin(fcinfo);
	wahook_take_in(fcinfo, &intake);
	wahook_queue_messages(&intake);
	for (int i = 0; i < intake.n; i++)
	{
		const wahook_Outcome *outcome = &intake.outcomes[i];
		Datum values[6] = {0};
		bool nulls[6] = {0};

		nulls[0] = outcome->update->id == NULL;
		if (!nulls[0])
			values[0] = CStringGetTextDatum(outcome->update->id);
		values[1] = CStringGetTextDatum(outcome->update->kind);
		nulls[2] = !outcome->has_conversation;
		values[2] = UUIDPGetDatum(&outcome->conversation_id);
		nulls[3] = !outcome->has_conversation || outcome->service == NULL;
		if (!nulls[3])
			values[3] = CStringGetTextDatum(outcome->service);
		values[4] = CStringGetTextDatum(outcome->outcome);
		values[5] = UUIDPGetDatum(&intake.correlation_id);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	wahook_count_intake(&intake);
	wahook_end();
	return (Datum) 0;
}
