/*
 * Delivery over HTTP: claims what waits for services with a URL, POSTs it, and has the outcome
 * recorded. Nothing is sent, and no answer awaited, inside a transaction.
 *
 * Services don't get in each other's way: each has at most its concurrency of deliveries under way,
 * and all together wahook.http_max_connections; but one that has none under way may always start
 * one, up to twice that number, so that services that hang can't use up all there is.
 *
 * What is under way when the process ends, after a short wait for answers, stays leased: the endpoint may
 * still be at work, and must not get the same messages beside it. After the lease they wait again.
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "worker/deliver.h"
#include "worker/http_count.h"
#include "worker/requests.h"
#include "worker/standard_webhooks.h"
#include "worker/worker.h"

/* What can't be claimed though it is due, or not be recorded, is tried again after such pauses. */
#define LAST_LOOK_PAUSE_US (60 * USECS_PER_SEC)
#define LAST_RECORD_PAUSE_US USECS_PER_SEC

#define MAX_HEADERS 12

static MemoryContext deliveries_context;
static dlist_head under_way = DLIST_STATIC_INIT(under_way);
static dlist_head ended = DLIST_STATIC_INIT(ended); /* to be recorded */

/* When to look for something to claim, to record again what was busy. */
static TimestampTz look_at = DT_NOBEGIN;
static TimestampTz record_at = DT_NOBEGIN;
static int64 look_pause_us;
static int64 record_pause_us;

static wahook_Delivery *
first_of(dlist_head *list)
{
	return dlist_container(wahook_Delivery, node, dlist_head_node(list));
}

static void
free_all(dlist_head *list)
{
	while (!dlist_is_empty(list))
	{
		wahook_Delivery *delivery = first_of(list);

		dlist_delete(&delivery->node);
		wahook_free_delivery(delivery);
	}
}

/* How many deliveries there are, of a service or of all. */
static int
count(const char *service)
{
	dlist_head *const lists[] = {&under_way, &ended};
	int n = 0;

	for (size_t i = 0; i < lengthof(lists); i++)
	{
		dlist_iter iter;

		dlist_foreach(iter, lists[i])
		{
			wahook_Delivery *delivery = dlist_container(wahook_Delivery, node, iter.cur);

			n += service == NULL || strcmp(delivery->endpoint.service, service) == 0;
		}
	}
	return n;
}

static int
free_slots(const wahook_Endpoint *endpoint)
{
	return wahook_free_slots(count(endpoint->service), count(NULL), endpoint->concurrency);
}

/* --- requests --- */

static void
on_answer(void *arg, wahook_HttpAnswer *answer)
{
	wahook_Delivery *delivery = arg;

	wahook_count_http_attempt(delivery->endpoint.service, answer);
	delivery->answer = answer;
	dlist_delete(&delivery->node);
	dlist_push_tail(&ended, &delivery->node);
	wahook_source_is_due(&wahook_http_source);
}

static void
set_headers(const char **headers, const wahook_Delivery *delivery, const wahook_Part *part)
{
	const wahook_Endpoint *endpoint = &delivery->endpoint;
	const char *const secrets[] = {endpoint->signing_secret, endpoint->previous_signing_secret};
	int n = 0;

	headers[n++] = "Content-Type: application/json";
	headers[n++] = "X-WA-Internal-Forward: true";
	headers[n++] = psprintf("Idempotency-Key: %s", part->key);
	if (part->correlation_id != NULL)
		headers[n++] = psprintf("X-Correlation-ID: %s", part->correlation_id);
	if (part->is_retry)
		headers[n++] = "X-DLQ-Retry: true";
	if (delivery->has_conversation)
		headers[n++] = psprintf("X-Wahook-Lock-Token: " INT64_FORMAT, delivery->lock_token);
	if (endpoint->bearer_token != NULL)
		headers[n++] = psprintf("Authorization: Bearer %s", endpoint->bearer_token);
	/* By both secrets, while they are rotated. They were checked when they were set. */
	n += wahook_signature_headers(&headers[n], secrets, lengthof(secrets), part->key, part->body);
	headers[n] = NULL;
	Assert(n < MAX_HEADERS);
}

/* Sends the part that is next, and puts the delivery where it belongs from then on. */
static void
start(wahook_Delivery *delivery)
{
	const wahook_Endpoint *endpoint = &delivery->endpoint;
	const wahook_Part *part = &delivery->parts[delivery->part];
	const char *headers[MAX_HEADERS];
	wahook_HttpRequest request = {.url = endpoint->url,
								  .allow_http = endpoint->allow_http,
								  .headers = headers,
								  .timeout_ms = endpoint->timeout_ms,
								  .done = on_answer,
								  .arg = delivery};

	delivery->started_at = GetCurrentTimestamp();
	if (delivery->nparts == 0)
	{
		dlist_push_tail(&ended, &delivery->node);
		return;
	}
	request.body = part->body;
	request.body_len = strlen(part->body);
	set_headers(headers, delivery, part);
	dlist_push_tail(wahook_start_request(&request) ? &under_way : &ended, &delivery->node);
}

static void
start_all(dlist_head *deliveries)
{
	while (!dlist_is_empty(deliveries))
	{
		wahook_Delivery *delivery = first_of(deliveries);

		dlist_delete(&delivery->node);
		start(delivery);
	}
}

/* --- recording --- */

static void
start_next_parts(dlist_head *deliveries)
{
	dlist_iter iter;

	dlist_foreach(iter, deliveries)
	{
		wahook_Delivery *delivery = dlist_container(wahook_Delivery, node, iter.cur);

		wahook_http_free_answer(delivery->answer);
		delivery->answer = NULL;
		delivery->part++;
	}
	start_all(deliveries);
}

/* What has not been recorded before its lease is over can't be any more. */
static void
keep_leased(dlist_head *list)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, list)
	{
		wahook_Delivery *delivery = dlist_container(wahook_Delivery, node, iter.cur);

		if (delivery->leased_until < now)
		{
			dlist_delete(iter.cur);
			wahook_free_delivery(delivery);
		}
	}
}

/* Records what has ended; what can't be for the moment stays in the list. */
static void
record_ended(bool stopping)
{
	dlist_head recorded;
	dlist_head goes_on;
	dlist_head busy;
	wahook_RecordDeliveries run = {.ended = &ended,
								   .recorded = &recorded,
								   .goes_on = &goes_on,
								   .busy = &busy,
								   .stopping = stopping};

	dlist_init(&recorded);
	dlist_init(&goes_on);
	dlist_init(&busy);
	if (wahook_in_transaction(wahook_record_deliveries, &run))
	{
		free_all(&recorded);
		start_next_parts(&goes_on);
	}
	wahook_move_all(&recorded, &ended);
	wahook_move_all(&goes_on, &ended);
	wahook_move_all(&busy, &ended);
	keep_leased(&ended);
	record_pause_us =
		dlist_is_empty(&ended) ? 0 : wahook_longer_pause(record_pause_us, LAST_RECORD_PAUSE_US);
	record_at = GetCurrentTimestamp() + record_pause_us;
}

/* --- claiming --- */

/*
 * Starts as many deliveries of a service as it may have. Returns when there will be something to claim,
 * or DT_NOEND where nothing waits, or the end of a delivery will tell.
 */
static TimestampTz
claim_for(const wahook_Endpoint *endpoint, TimestampTz now)
{
	TimestampTz next = Min(endpoint->waits_since, endpoint->next_entry_at);
	wahook_ClaimDeliveries claim = {.endpoint = endpoint,
									.limit = free_slots(endpoint),
									.context = deliveries_context};

	if (claim.limit == 0)
		return DT_NOEND;
	if (Min(endpoint->waits_since, endpoint->entry_due_at) > now)
		return next;
	dlist_init(&claim.claimed);
	if (!wahook_in_transaction(wahook_claim_deliveries, &claim))
	{
		free_all(&claim.claimed);
		return now;
	}
	start_all(&claim.claimed);
	if (claim.n > 0)
		look_pause_us = 0;
	if (claim.n == claim.limit)
		return DT_NOEND;
	if (claim.retry_at > now)
		return claim.retry_at;
	return claim.n > 0 ? now : next;
}

/*
 * Looks through all services once, a different one first each time. Where a claim brought something,
 * there may be more, and another look costs little. What is due and can't be claimed is somebody
 * else's at the moment, and the next commit will bring another look; what will be due for others
 * before the end of the pause does not wait for it.
 */
static void
look_for_work(TimestampTz now)
{
	static unsigned first = 0;
	wahook_ReadEndpoints read = {.context = CurrentMemoryContext};
	bool again = false;

	look_at = DT_NOEND;
	if (!wahook_in_transaction(wahook_read_endpoints, &read))
		again = true;
	else if (read.n > 0)
		wahook_source_wants(&wahook_http_source, WAHOOK_WORK_ALL);
	else
		wahook_source_wants(&wahook_http_source, WAHOOK_WORK_CONFIG);
	first++;
	for (int i = 0; i < read.n; i++)
	{
		TimestampTz next = claim_for(&read.endpoints[(first + i) % read.n], now);

		if (next > now)
			look_at = Min(look_at, next);
		else
			again = true;
	}
	look_pause_us = again ? wahook_longer_pause(look_pause_us, LAST_LOOK_PAUSE_US) : 0;
	if (again)
		look_at = Min(look_at, now + look_pause_us);
}

/* --- the source --- */

static TimestampTz
turn(TimestampTz now, int heard)
{
	bool over;

	if (deliveries_context == NULL)
		deliveries_context =
			AllocSetContextCreate(TopMemoryContext, "wahook deliveries", ALLOCSET_DEFAULT_SIZES);
	over = !dlist_is_empty(&ended) && record_at <= now;
	if (over)
		record_ended(false);
	if (heard != 0 || over || look_at <= now)
		look_for_work(now);

	return dlist_is_empty(&ended) ? look_at : Min(look_at, Max(record_at, now));
}

static void
record_what_ended(void)
{
	if (!dlist_is_empty(&ended))
		record_ended(true);
}

static void
stop(void)
{
	wahook_await_answers(&under_way, record_what_ended);
}

const wahook_Source wahook_http_source = {.name = "delivery over HTTP",
										  .wants = WAHOOK_WORK_CONFIG,
										  .turn = turn,
										  .stop = stop};
