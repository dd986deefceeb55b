/*
 * What there is to deliver over HTTP: the endpoints, and what is claimed for each.
 *
 * A claim is committed before anything is sent, under a lease that outlasts the request. So a crash
 * loses nothing: the lease runs out and the messages wait again.
 *
 * All messages of a claim go in one request. But where one of them has failed before, or was lost
 * with its holder, each goes in a request of its own: the one that the endpoint can't take must not
 * take the others with it time and again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "conversation/lock.h"
#include "core/plan.h"
#include "core/settings.h"
#include "core/uuid.h"
#include "retry/circuit.h"
#include "retry/retriable.h"
#include "worker/deliver.h"
#include "worker/idempotency.h"

/* A conversation waits when it is due, or when the lease of a holder that vanished is over. */
static wahook_Plan endpoints_plan =
	{"SELECT s.name, s.url, s.allow_http, (extract(epoch FROM s.timeout) * 1000)::bigint,"
	 " s.concurrency, s.strict_order, s.circuit_threshold,"
	 " (extract(epoch FROM s.circuit_timeout) * 1000000)::bigint, x.bearer_token,"
	 " x.signing_secret, x.previous_signing_secret,"
	 " least((SELECT q.due_at FROM @extschema@.webhook_conversation_queue q"
	 " WHERE q.service = s.name ORDER BY q.due_at LIMIT 1),"
	 " (SELECT l.expires_at FROM @extschema@.webhook_leases l WHERE l.service = s.name"
	 " ORDER BY l.expires_at LIMIT 1)),"
	 " (SELECT d.next_retry_at FROM @extschema@.webhook_dlq d WHERE d.service = s.name"
	 " AND d.conversation_id IS NULL AND d.resolution_status = 'pending'"
	 " ORDER BY d.next_retry_at LIMIT 1),"
	 " (SELECT d.next_retry_at FROM @extschema@.webhook_dlq d WHERE d.service = s.name"
	 " AND d.conversation_id IS NULL AND d.resolution_status = 'pending'"
	 " AND d.next_retry_at > now() ORDER BY d.next_retry_at LIMIT 1),"
	 " ceil(extract(epoch FROM s.retry_max_delay))::bigint"
	 " FROM @extschema@.webhook_services s"
	 " LEFT JOIN @extschema@.webhook_service_secrets x ON x.service = s.name"
	 " WHERE s.kind = 'http' AND s.enabled",
	 0,
	 {0}};

/* A row a part, in the order of claim and messages. A claim whose messages are gone has one row. */
static wahook_Plan claim_plan =
	{"SELECT c.conversation_id, c.lock_id, c.lock_token, c.lock_expires_at, p.message_ids,"
	 " p.correlation_id, p.is_retry, (jsonb_build_object('conversation_id', c.conversation_id,"
	 " 'lock_id', c.lock_id, 'lock_token', c.lock_token, 'service', c.service, 'user_id', c.user_id, 'whatsapp_phone', c.whatsapp_phone,"
	 " 'agent_type', c.agent_type, 'conversation_context', c.conversation_context,"
	 " 'messages', p.messages))::text"
	 " FROM @extschema@.claim_conversations($1, NULL, $2, $3) c"
	 " LEFT JOIN LATERAL (SELECT min(m.n) AS n,"
	 " array_agg(m.message ->> 'whatsapp_message_id' ORDER BY m.n) AS message_ids,"
	 " (array_agg(m.message ->> 'correlation_id' ORDER BY m.n))[1] AS correlation_id,"
	 " bool_or((m.message ->> 'attempt')::integer > 1) AS is_retry,"
	 " jsonb_agg(m.message ORDER BY m.n) AS messages"
	 " FROM jsonb_array_elements(c.messages) WITH ORDINALITY AS m (message, n)"
	 " GROUP BY CASE WHEN jsonb_path_exists(c.messages, '$[*] ? (@.attempt > 1)') THEN m.n END) p"
	 " ON true ORDER BY c.conversation_id, p.n",
	 3,
	 {INT4OID, TEXTOID, INTERVALOID}};

/*
 * Entries that the dead letter job can't put back in a queue, because they belong to none. The body
 * is that of a conversation that is not known.
 */
static wahook_Plan take_plan =
	{"WITH due AS ("
	 "SELECT d.id, d.next_retry_at FROM @extschema@.webhook_dlq d"
	 " WHERE d.service = $2 AND d.next_retry_at <= $3 AND " WAHOOK_WAITS_DIRECTLY
	 " ORDER BY d.next_retry_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED"
	 "), taken AS ("
	 "UPDATE @extschema@.webhook_dlq d SET resolution_status = 'retrying', next_retry_at = NULL,"
	 " updated_at = $3, retry_lease_until = $4 FROM due WHERE d.id = due.id"
	 " RETURNING d.*, due.next_retry_at AS was_due_at)"
	 " SELECT id, correlation_id::text, (jsonb_build_object('conversation_id', NULL, 'lock_id',"
	 " NULL, 'lock_token', NULL, 'service', service,"
	 " 'user_id', NULL, 'whatsapp_phone', nullif(from_number, ''), 'agent_type', NULL,"
	 " 'conversation_context', '{}'::jsonb, 'dead_letter_id', id, 'messages',"
	 " jsonb_build_array(CASE jsonb_typeof(payload) WHEN 'object' THEN payload"
	 " ELSE jsonb_build_object('message', payload) END || jsonb_build_object('whatsapp_message_id',"
	 " whatsapp_message_id, 'attempt', retry_count + 2, 'received_at', created_at, 'kind', NULL,"
	 " 'correlation_id', correlation_id))))::text"
	 " FROM taken ORDER BY was_due_at",
	 4,
	 {INT4OID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID}};

static int64
result_int64(uint64 row, int column, int64 otherwise)
{
	bool isnull;
	Datum value = wahook_result(row, column, &isnull);

	return isnull ? otherwise : DatumGetInt64(value);
}

static int
timeout_ms(uint64 row, int column)
{
	int64 ms = result_int64(row, column, wahook_processing_timeout_ms);

	return ms == 0 ? WAHOOK_MAX_DELIVERY_MS : (int) Min(ms, WAHOOK_MAX_DELIVERY_MS);
}

static void
read_endpoint(uint64 row, wahook_Endpoint *endpoint)
{
	bool isnull;

	endpoint->service = wahook_result_text(row, 1);
	endpoint->url = wahook_result_text(row, 2);
	endpoint->allow_http = DatumGetBool(wahook_result(row, 3, &isnull));
	endpoint->timeout_ms = timeout_ms(row, 4);
	endpoint->concurrency = DatumGetInt32(wahook_result(row, 5, &isnull));
	endpoint->strict_order = DatumGetBool(wahook_result(row, 6, &isnull));
	endpoint->circuit_threshold = DatumGetInt32(wahook_result(row, 7, &isnull));
	endpoint->circuit_timeout_us = result_int64(row, 8, 0);
	endpoint->bearer_token = wahook_result_text(row, 9);
	endpoint->signing_secret = wahook_result_text(row, 10);
	endpoint->previous_signing_secret = wahook_result_text(row, 11);
	endpoint->waits_since = result_int64(row, 12, DT_NOEND);
	endpoint->entry_due_at = result_int64(row, 13, DT_NOEND);
	endpoint->next_entry_at = result_int64(row, 14, DT_NOEND);
	endpoint->max_retry_delay_s = result_int64(row, 15, wahook_dlq_max_delay_s);
}

void
wahook_read_endpoints(void *arg)
{
	wahook_ReadEndpoints *read = arg;
	MemoryContext old;

	read->n = (int) wahook_execute(&endpoints_plan, NULL, NULL);
	old = MemoryContextSwitchTo(read->context);
	read->endpoints = palloc(Max(read->n, 1) * sizeof(wahook_Endpoint));
	for (int i = 0; i < read->n; i++)
		read_endpoint(i, &read->endpoints[i]);
	MemoryContextSwitchTo(old);
}

static char *
copy_string(const char *string)
{
	return string ? pstrdup(string) : NULL;
}

static void
copy_endpoint(wahook_Endpoint *to, const wahook_Endpoint *from)
{
	*to = *from;
	to->service = pstrdup(from->service);
	to->url = pstrdup(from->url);
	to->bearer_token = copy_string(from->bearer_token);
	to->signing_secret = copy_string(from->signing_secret);
	to->previous_signing_secret = copy_string(from->previous_signing_secret);
}

/* A new delivery at the end of those claimed. Its context becomes the current one. */
static wahook_Delivery *
new_delivery(wahook_ClaimDeliveries *claim, const pg_uuid_t *id, TimestampTz leased_until)
{
	MemoryContext context =
		AllocSetContextCreate(claim->context, "wahook delivery", ALLOCSET_SMALL_SIZES);
	wahook_Delivery *delivery = MemoryContextAllocZero(context, sizeof(wahook_Delivery));

	delivery->context = context;
	dlist_push_tail(&claim->claimed, &delivery->node);
	claim->n++;
	MemoryContextSwitchTo(context);
	copy_endpoint(&delivery->endpoint, claim->endpoint);
	delivery->id = *id;
	delivery->leased_until = leased_until;
	return delivery;
}

void
wahook_free_delivery(wahook_Delivery *delivery)
{
	wahook_http_free_answer(delivery->answer);
	MemoryContextDelete(delivery->context);
}

/*
 * A key for these messages in this order: a request that carries more than an earlier one is another
 * one.
 */
static char *
make_key(const char *of, ArrayType *message_ids)
{
	StringInfoData all;
	Datum *ids = NULL;
	bool *nulls = NULL;
	int n = 0;

	initStringInfo(&all);
	if (message_ids != NULL)
		deconstruct_array(message_ids, TEXTOID, -1, false, TYPALIGN_INT, &ids, &nulls, &n);
	for (int i = 0; i < n; i++)
		appendStringInfo(&all, "%s\n", nulls[i] ? "" : TextDatumGetCString(ids[i]));
	return wahook_idempotency_key(of, all.data, all.len);
}

static void
add_part(wahook_Delivery *delivery, uint64 row)
{
	wahook_Part *part;
	bool none;
	bool isnull;
	Datum ids = wahook_result(row, 5, &none);

	if (none)
		return;
	delivery->parts = delivery->nparts == 0
						  ? palloc(sizeof(wahook_Part))
						  : repalloc(delivery->parts, (delivery->nparts + 1) * sizeof(wahook_Part));
	part = &delivery->parts[delivery->nparts++];
	part->message_ids = DatumGetArrayTypePCopy(ids);
	part->key = make_key(wahook_uuid_text(&delivery->id), part->message_ids);
	part->correlation_id = wahook_result_text(row, 6);
	part->is_retry = DatumGetBool(wahook_result(row, 7, &isnull));
	part->body = wahook_result_text(row, 8);
}

static Datum
lease_of(const wahook_Endpoint *endpoint)
{
	Interval *lease = palloc0(sizeof(Interval));

	lease->time = (endpoint->timeout_ms + WAHOOK_LEASE_MARGIN_MS) * INT64CONST(1000);
	return IntervalPGetDatum(lease);
}

static void
claim_conversations(wahook_ClaimDeliveries *claim)
{
	Datum values[] = {Int32GetDatum(Min(claim->limit, WAHOOK_MAX_CLAIM_CONVERSATIONS)),
					  CStringGetTextDatum(claim->endpoint->service), lease_of(claim->endpoint)};
	uint64 rows = wahook_execute(&claim_plan, values, NULL);
	wahook_Delivery *delivery = NULL;
	MemoryContext old = CurrentMemoryContext;
	bool isnull;

	for (uint64 i = 0; i < rows; i++)
	{
		pg_uuid_t *id = DatumGetUUIDP(wahook_result(i, 1, &isnull));

		if (delivery == NULL || memcmp(id, &delivery->id, sizeof(pg_uuid_t)) != 0)
		{
			delivery = new_delivery(claim, id, result_int64(i, 4, DT_NOBEGIN));
			delivery->has_conversation = true;
			delivery->lock_id = *DatumGetUUIDP(wahook_result(i, 2, &isnull));
			delivery->lock_token = result_int64(i, 3, 0);
		}
		add_part(delivery, i);
	}
	MemoryContextSwitchTo(old);
}

static void
take_entries(wahook_ClaimDeliveries *claim)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until =
		now + (claim->endpoint->timeout_ms + WAHOOK_LEASE_MARGIN_MS) * INT64CONST(1000);
	Datum values[] = {Int32GetDatum(claim->limit - claim->n),
					  CStringGetTextDatum(claim->endpoint->service), TimestampTzGetDatum(now),
					  TimestampTzGetDatum(until)};
	uint64 rows = wahook_execute(&take_plan, values, NULL);
	MemoryContext old = CurrentMemoryContext;
	bool isnull;

	for (uint64 i = 0; i < rows; i++)
	{
		wahook_Delivery *delivery =
			new_delivery(claim, DatumGetUUIDP(wahook_result(i, 1, &isnull)), until);

		delivery->nparts = 1;
		delivery->parts = palloc0(sizeof(wahook_Part));
		delivery->parts->key = make_key(wahook_uuid_text(&delivery->id), NULL);
		delivery->parts->correlation_id = wahook_result_text(i, 2);
		delivery->parts->is_retry = true;
		delivery->parts->body = wahook_result_text(i, 3);
	}
	MemoryContextSwitchTo(old);
}

static void
claim_up_to_limit(wahook_ClaimDeliveries *claim)
{
	claim_conversations(claim);
	if (claim->n < claim->limit)
		take_entries(claim);
}

static void
forget(wahook_ClaimDeliveries *claim)
{
	while (!dlist_is_empty(&claim->claimed))
		wahook_free_delivery(
			dlist_container(wahook_Delivery, node, dlist_pop_head_node(&claim->claimed)));
	claim->n = 0;
}

/*
 * The probe is taken only when there is something to send: nobody else gets one until it has been
 * answered for. Where somebody was faster, nothing has been claimed.
 */
static void
claim_probe(wahook_ClaimDeliveries *claim, const char *circuit)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	wahook_CircuitVerdict verdict = {.admitted = true};

	claim->limit = 1;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	claim_up_to_limit(claim);
	if (claim->n > 0)
		verdict = wahook_circuit_admit(circuit);
	if (verdict.admitted)
		ReleaseCurrentSubTransaction();
	else
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (!verdict.admitted)
	{
		claim->retry_at = verdict.retry_at;
		forget(claim);
	}
}

void
wahook_claim_deliveries(void *arg)
{
	wahook_ClaimDeliveries *claim = arg;
	const char *circuit = wahook_service_circuit(claim->endpoint->service);
	wahook_CircuitVerdict verdict = wahook_circuit_look(circuit);

	claim->retry_at = verdict.admitted ? DT_NOBEGIN : verdict.retry_at;
	if (verdict.probe)
		claim_probe(claim, circuit);
	else if (verdict.admitted)
		claim_up_to_limit(claim);
}
