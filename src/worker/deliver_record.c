/*
 * What came of deliveries over HTTP, in the tables.
 *
 * All that have ended since the last time are recorded in one transaction, each in a subtransaction:
 * one that can't be recorded does not stop the others. Only who still holds the lease records
 * anything; a delivery that lost it is logged, and whoever has it now decides.
 */
#include "postgres.h"

#include <time.h>

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "conversation/lock.h"
#include "core/errors.h"
#include "core/event.h"
#include "core/plan.h"
#include "core/uuid.h"
#include "retry/circuit.h"
#include "retry/retriable.h"
#include "worker/deliver.h"
#include "worker/judge.h"
#include "worker/requests.h"
#include "worker/retry_after.h"
#include "worker/safe_text.h"
#include "worker/worker.h"

#define ERROR_SIZE 400

static wahook_Plan complete_plan =
	{"SELECT @extschema@.complete_webhook_messages($1, $2, $3, $4, $5)",
	 5,
	 {UUIDOID, UUIDOID, TEXTARRAYOID, INT4OID, BOOLOID}};

static wahook_Plan renew_plan = {"SELECT @extschema@.renew_conversation_lock($1, $2, $3)",
								 3,
								 {UUIDOID, UUIDOID, INTERVALOID}};

/* The time until which it was leased stands for the lease itself. */
static wahook_Plan hold_entry_plan =
	{"SELECT retry_count, max_retries FROM @extschema@.webhook_dlq WHERE id = $1"
	 " AND resolution_status = 'retrying' AND retry_lease_until = $2 FOR NO KEY UPDATE NOWAIT",
	 2,
	 {UUIDOID, TIMESTAMPTZOID}};

static int
duration_ms(const wahook_Delivery *delivery)
{
	return delivery->answer ? (int) (delivery->answer->duration_us / 1000) : 0;
}

/* An endpoint may ask for a pause, but not for one longer than any that the schedule has. */
static int64
retry_after_us(const wahook_Delivery *delivery)
{
	const wahook_HttpAnswer *answer = delivery->answer;
	int64 s;

	if (answer == NULL || answer->retry_after[0] == '\0')
		return -1;
	s = wahook_retry_after_s(answer->retry_after, (int64) time(NULL),
							 delivery->endpoint.max_retry_delay_s);
	return s < 0 ? -1 : s * USECS_PER_SEC;
}

static wahook_Failure
describe(const wahook_Delivery *delivery, const wahook_Judgement *judgement)
{
	char error[ERROR_SIZE];

	wahook_describe_failure(delivery->answer, error, sizeof(error));
	return (wahook_Failure){.error = cstring_to_text(
								wahook_safe_text(error, strlen(error), sizeof(error))),
							.error_stack = wahook_kept_body(delivery->answer),
							.retryable = judgement->retryable,
							.delay_us = retry_after_us(delivery),
							.started_at = delivery->started_at,
							.is_attempt = true};
}

static void
raise_lost(const char *what, const pg_uuid_t *id)
{
	ereport(ERROR,
			(errcode(WAHOOK_LOCK_LOST),
			 errmsg("lease of %s %s was lost", what, wahook_uuid_text(id)),
			 errhint(
				 "Its answer does not count, and it is delivered again. Raise the timeout of its service if that happens often.")));
}

/* --- conversations --- */

static void
complete(const wahook_Delivery *delivery, ArrayType *message_ids, bool release)
{
	Datum values[] = {UUIDPGetDatum(&delivery->id), UUIDPGetDatum(&delivery->lock_id),
					  PointerGetDatum(message_ids), Int32GetDatum(duration_ms(delivery)),
					  BoolGetDatum(release)};
	char nulls[] = "     ";

	if (message_ids == NULL)
		nulls[2] = 'n';
	wahook_execute(&complete_plan, values, nulls);
}

/*
 * Where several messages were refused, it may be for one of them: all are tried again at once, and
 * then each alone.
 */
static void
fail_messages(const wahook_Delivery *delivery, ArrayType *message_ids, wahook_Failure *failure)
{
	wahook_Conversation conversation;
	Datum *ids;
	int n;

	wahook_hold_conversation(&delivery->id, &delivery->lock_id, &conversation);
	deconstruct_array(message_ids, TEXTOID, -1, false, TYPALIGN_INT, &ids, NULL, &n);
	if (n > 1 && !failure->retryable)
	{
		failure->retryable = true;
		failure->delay_us = 0;
	}
	for (int i = 0; i < n; i++)
		(void) wahook_fail_message(&conversation, DatumGetTextPP(ids[i]), failure);
}

static void
renew(wahook_Delivery *delivery)
{
	Interval lease = {.time = (delivery->endpoint.timeout_ms + WAHOOK_LEASE_MARGIN_MS) *
							  INT64CONST(1000)};
	Datum values[] = {UUIDPGetDatum(&delivery->id), UUIDPGetDatum(&delivery->lock_id),
					  IntervalPGetDatum(&lease)};
	bool lost;
	Datum until;

	wahook_execute(&renew_plan, values, NULL);
	until = wahook_result(0, 1, &lost);
	if (lost)
		raise_lost("conversation", &delivery->id);
	delivery->leased_until = DatumGetTimestampTz(until);
}

/* Returns whether the delivery goes on with its next part. */
static bool
record_part(wahook_Delivery *delivery, const wahook_Judgement *judgement, bool stopping)
{
	ArrayType *message_ids = delivery->parts[delivery->part].message_ids;
	bool only = delivery->nparts == 1;
	bool goes_on = delivery->part + 1 < delivery->nparts && !stopping &&
				   (judgement->success || !delivery->endpoint.strict_order);

	if (judgement->success)
		complete(delivery, only ? NULL : message_ids, !goes_on);
	else
	{
		wahook_Failure failure = describe(delivery, judgement);

		fail_messages(delivery, message_ids, &failure);
		if (!goes_on)
			complete(delivery, construct_empty_array(TEXTOID), true);
	}
	if (goes_on)
		renew(delivery);
	return goes_on;
}

/* --- dead letters without a conversation --- */

static void
record_entry(const wahook_Delivery *delivery, const wahook_Judgement *judgement)
{
	Datum values[] = {UUIDPGetDatum(&delivery->id), TimestampTzGetDatum(delivery->leased_until)};
	wahook_Failure failure;
	int retry_count;
	int max_retries;
	bool isnull;

	if (wahook_execute(&hold_entry_plan, values, NULL) == 0)
		raise_lost("dead letter", &delivery->id);
	retry_count = DatumGetInt32(wahook_result(0, 1, &isnull));
	max_retries = DatumGetInt32(wahook_result(0, 2, &isnull));
	if (!judgement->success)
		failure = describe(delivery, judgement);
	(void) wahook_end_retry(&delivery->id, retry_count, max_retries,
							judgement->success ? NULL : &failure);
}

/* --- all of them --- */

/* Where all messages of a claim are gone, completing clears up what is left of them. */
static void
record(void *arg)
{
	wahook_RecordDeliveries *run = arg;
	wahook_Delivery *delivery = run->delivery;
	wahook_Judgement judgement = wahook_judge(delivery->answer);

	if (delivery->nparts == 0)
		complete(delivery, NULL, true);
	else if (!delivery->has_conversation)
		record_entry(delivery, &judgement);
	else if (record_part(delivery, &judgement, run->stopping))
		run->to = run->goes_on;
}

static void
report_to_circuit(void *arg)
{
	wahook_RecordDeliveries *run = arg;
	const wahook_Delivery *delivery = run->delivery;
	const wahook_Endpoint *endpoint = &delivery->endpoint;

	if (delivery->nparts > 0)
		(void) wahook_circuit_report(wahook_service_circuit(endpoint->service),
									 wahook_judge(delivery->answer).endpoint_works,
									 endpoint->circuit_threshold, endpoint->circuit_timeout_us);
}

static void
log_lost(const wahook_Delivery *delivery)
{
	wahook_Event event;

	wahook_event_begin(&event, "HTTP_DELIVERY_LEASE_LOST", true);
	wahook_event_text(&event, "service", delivery->endpoint.service);
	wahook_event_uuid(&event, delivery->has_conversation ? "conversation_id" : "dead_letter_id",
					  &delivery->id);
	if (delivery->nparts > 0)
		wahook_event_text(&event, "correlation_id", delivery->parts[delivery->part].correlation_id);
	wahook_event_int(&event, "status", delivery->answer ? delivery->answer->status : 0);
	wahook_event_end(&event);
}

static void
warn(const ErrorData *error)
{
	wahook_warn_of_error("delivery over HTTP", error);
}

/* A delivery that can't be recorded: its lease runs out, unless the trouble passes before. */
static void
sort_out(wahook_RecordDeliveries *run, const wahook_Delivery *delivery, const ErrorData *error)
{
	run->to = run->recorded;
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		run->to = run->busy;
	else if (error->sqlerrcode == WAHOOK_LOCK_LOST ||
			 error->sqlerrcode == WAHOOK_UNKNOWN_CONVERSATION)
		log_lost(delivery);
	else
		warn(error);
}

void
wahook_record_deliveries(void *arg)
{
	wahook_RecordDeliveries *run = arg;

	while (!dlist_is_empty(run->ended))
	{
		wahook_Delivery *delivery =
			dlist_container(wahook_Delivery, node, dlist_head_node(run->ended));
		ErrorData *error;

		run->delivery = delivery;
		run->to = run->recorded;
		error = wahook_try_alone(record, run);
		if (error != NULL)
			sort_out(run, delivery, error);
		if (run->to != run->busy && (error = wahook_try_alone(report_to_circuit, run)) != NULL)
			warn(error);
		dlist_delete(&delivery->node);
		dlist_push_tail(run->to, &delivery->node);
	}
}
