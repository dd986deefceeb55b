/*
 * Claiming conversations.
 *
 * A claim walks the due rows of webhook_conversation_queue, oldest first. For each it looks at the
 * conversation without waiting: one that is locked is parked until its lease ends, one that is
 * being changed is left to whoever comes next, a free one is row-locked. The queue rows themselves
 * are not locked: a caller may work for long before it commits, and nothing that it walked past and
 * did not claim must be out of the others' reach until then. Only after the row lock, in a
 * snapshot taken after it, are the conversation's waiting messages read: what the former holder
 * completed is gone by then, so no message is handed over twice.
 */
#include "conversation/claim.h"

#include "access/genam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "conversation/expire.h"
#include "conversation/lock.h"
#include "conversation/message.h"
#include "conversation/state.h"
#include "core/compat.h"
#include "core/event.h"
#include "core/plan.h"
#include "core/settings.h"
#include "core/tables.h"
#include "core/uuid.h"
#include "core/wake.h"
#include "ingest/identity.h"

/* How many due queue rows are looked at in one go when many of them can't be claimed. */
#define MAX_DUE_BATCH 64

/* How long a session may go on without a look at the whole queue, in microseconds. */
#define FULL_WALK_INTERVAL USECS_PER_SEC

typedef struct Claim
{
	const wahook_ClaimRequest *request;
	ReturnSetInfo *result;
	TimestampTz now;
	TimestampTz expires_at;
	wahook_Store store;
	wahook_RowReader messages;
	int n; /* conversations claimed so far */
} Claim;

/* The messages of one conversation that are being claimed. */
typedef struct Batch
{
	char *service; /* of all of them; null: there are none */
	ArrayBuildState *seqs;
	JsonbParseState *json;
	Datum user_id; /* where a message changed what is known of the user, else 0 */
	Datum whatsapp_phone;
} Batch;

PG_FUNCTION_INFO_V1(wahook_claim_conversations);

#define DUE_ROWS(service) \
	"SELECT q.conversation_id, q.seq, q.due_at FROM @extschema@.webhook_conversation_queue q" \
	" WHERE q.service = " service " AND q.due_at <= $1 AND (q.due_at, q.seq) > ($2, $3)" \
	" ORDER BY q.due_at, q.seq LIMIT $4"

static wahook_Plan due_plan = {DUE_ROWS("$5"),
							   5,
							   {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, INT8OID, TEXTOID}};

static wahook_Plan due_in_any_service_plan =
	{"SELECT due.* FROM @extschema@.webhook_services s CROSS JOIN LATERAL (" DUE_ROWS(
		 "s.name") ") due ORDER BY due.due_at, due.seq LIMIT $4",
	 4,
	 {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, INT8OID}};

static wahook_Plan reopen_plan =
	{"UPDATE @extschema@.webhook_conversations SET status = 'active' WHERE id = $1", 1, {UUIDOID}};

static wahook_Plan new_identity_plan =
	{"UPDATE @extschema@.webhook_conversations SET user_id = coalesce($2, user_id),"
	 " whatsapp_phone = coalesce($3, whatsapp_phone) WHERE id = $1",
	 3,
	 {UUIDOID, TEXTOID, TEXTOID}};

/*
 * Finds the message of the inbox row in the slot, and copies it: what is built of it outlives the
 * slot. False when it was deleted by hand.
 */
static bool
find_message(Claim *claim, Snapshot snapshot, wahook_Message *message)
{
	TupleTableSlot *waiting = claim->store.inbox.rows.slot;
	TupleTableSlot *slot = claim->messages.slot;
	ScanKeyData key;
	IndexScanDesc scan;
	bool found;
	bool isnull;
	Datum value;

	ScanKeyInit(&key, Anum_message_id, BTEqualStrategyNumber, F_UUID_EQ,
				slot_getattr(waiting, Anum_inbox_message_id, &isnull));
	scan = wahook_begin_scan(&claim->messages, snapshot, &key, 1);
	found = wahook_next_row(&claim->messages, scan);
	index_endscan(scan);
	if (!found)
		return false;

	message->attempt = DatumGetInt32(slot_getattr(waiting, Anum_inbox_attempts, &isnull)) +
					   DatumGetInt32(slot_getattr(waiting, Anum_inbox_losses, &isnull)) + 1;
	message->whatsapp_message_id =
		DatumGetTextPCopy(slot_getattr(slot, Anum_message_whatsapp_message_id, &isnull));
	message->correlation_id =
		DatumGetUUIDP(slot_getattr(slot, Anum_message_correlation_id, &isnull));
	message->received_at =
		DatumGetTimestampTz(slot_getattr(slot, Anum_message_received_at, &isnull));
	value = slot_getattr(slot, Anum_message_kind, &isnull);
	message->kind = isnull ? NULL : DatumGetTextPCopy(value);
	value = slot_getattr(slot, Anum_message_payload, &isnull);
	message->payload = isnull ? NULL : DatumGetJsonbPCopy(value);
	return true;
}

static Datum
copy_text(TupleTableSlot *slot, int attnum, Datum otherwise)
{
	bool isnull;
	Datum value = slot_getattr(slot, attnum, &isnull);

	return isnull ? otherwise : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}

/* Reads the messages at the head of a conversation's inbox, as many as are for one service. */
static void
take_messages(Claim *claim, const pg_uuid_t *id, Batch *batch)
{
	wahook_RowReader *inbox = &claim->store.inbox.rows;
	const char *wanted = claim->request->service;
	ScanKeyData key;
	IndexScanDesc scan;

	memset(batch, 0, sizeof(*batch));
	pushJsonbValue(&batch->json, WJB_BEGIN_ARRAY, NULL);
	ScanKeyInit(&key, Anum_inbox_conversation_id, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(id));
	PushActiveSnapshot(GetLatestSnapshot());
	scan = wahook_begin_scan(inbox, GetActiveSnapshot(), &key, 1);
	for (int n = 0; n < wahook_claim_max_messages && wahook_next_row(inbox, scan); n++)
	{
		bool isnull;
		char *service = TextDatumGetCString(slot_getattr(inbox->slot, Anum_inbox_service, &isnull));
		wahook_Message message;

		if (batch->service == NULL && (wanted == NULL || strcmp(wanted, service) == 0))
			batch->service = service;
		if (batch->service == NULL || strcmp(batch->service, service) != 0)
			break;
		batch->seqs =
			accumArrayResult(batch->seqs, slot_getattr(inbox->slot, Anum_inbox_seq, &isnull), false,
							 INT8OID, CurrentMemoryContext);
		batch->user_id = copy_text(inbox->slot, Anum_inbox_user_id, batch->user_id);
		batch->whatsapp_phone =
			copy_text(inbox->slot, Anum_inbox_whatsapp_phone, batch->whatsapp_phone);

		/* One whose message is gone is claimed all the same: completing clears it away. */
		if (find_message(claim, GetActiveSnapshot(), &message))
			wahook_push_message(&batch->json, &message);
	}
	index_endscan(scan);
	PopActiveSnapshot();
}

/* What a message, or being claimed at all, changes about a conversation besides its lock. Rare. */
static void
update_conversation(Claim *claim, wahook_Conversation *conversation, const Batch *batch)
{
	Datum values[] = {UUIDPGetDatum(&conversation->id), batch->user_id, batch->whatsapp_phone};
	const char nulls[] = {' ', batch->user_id ? ' ' : 'n', batch->whatsapp_phone ? ' ' : 'n', '\0'};
	bool over = strcmp(conversation->status, "completed") == 0 ||
				strcmp(conversation->status, "timeout") == 0 ||
				strcmp(conversation->status, "error") == 0;

	if (batch->user_id || batch->whatsapp_phone)
		wahook_execute(&new_identity_plan, values, nulls);
	if (over)
		wahook_execute_transition(&reopen_plan, values, "message claimed");
	if (over || batch->user_id || batch->whatsapp_phone)
	{
		CommandCounterIncrement();
		(void) wahook_peek_conversation(&claim->store.conversations.rows, &conversation->id,
										conversation);
	}
}

static void
return_claim(Claim *claim, const wahook_Conversation *conversation, Batch *batch)
{
	Datum values[10];
	bool nulls[10] = {false};

	values[0] = UUIDPGetDatum(&conversation->id);
	values[1] = UUIDPGetDatum(&claim->request->lock_id);
	values[2] = Int64GetDatum(conversation->lock_token + 1);
	values[3] = TimestampTzGetDatum(claim->expires_at);
	values[4] = CStringGetTextDatum(conversation->user_id);
	values[5] = conversation->whatsapp_phone;
	nulls[5] = conversation->whatsapp_phone == (Datum) 0;
	values[6] = conversation->agent_type;
	nulls[6] = conversation->agent_type == (Datum) 0;
	values[7] = CStringGetTextDatum(batch->service);
	values[8] = conversation->context;
	values[9] =
		JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&batch->json, WJB_END_ARRAY, NULL)));
	tuplestore_putvalues(claim->result->setResult, claim->result->setDesc, values, nulls);
}

static void
log_claim(const Claim *claim, const pg_uuid_t *id)
{
	wahook_Event event;

	wahook_event_begin(&event, "CONVERSATION_LOCK_ACQUIRED", false);
	wahook_event_uuid(&event, "conversation_id", id);
	wahook_event_uuid(&event, "lock_id", &claim->request->lock_id);
	wahook_event_end(&event);
}

/*
 * Claims a conversation that is free and has messages for us. False otherwise; then *until is when
 * to look at it again, where that is known.
 */
static bool
claim_conversation(Claim *claim, const pg_uuid_t *id, TimestampTz *until)
{
	wahook_RowReader *rows = &claim->store.conversations.rows;
	wahook_Conversation conversation;
	wahook_RowState state = wahook_peek_conversation(rows, id, &conversation);
	Batch batch;

	*until = DT_NOBEGIN;
	if (state == WAHOOK_ROW_NONE)
	{
		wahook_create_joined_conversation(id);
		CommandCounterIncrement();
		state = wahook_peek_conversation(rows, id, &conversation);
	}
	if (state != WAHOOK_ROW_STEADY)
		return false;
	if (!wahook_lock_is_free(&conversation, claim->now))
	{
		*until = conversation.lock_expires_at;
		return false;
	}
	if (!wahook_try_lock_row(rows))
		return false;

	wahook_expire_claim(rows, &conversation, claim->now);
	take_messages(claim, id, &batch);
	if (batch.service == NULL)
	{
		/* What an expired lock had claimed has been counted as lost: the lock goes with it. */
		if (conversation.locked)
			wahook_unlock(&claim->store, id, claim->now);
		else
			wahook_requeue(&claim->store, id);
		return false;
	}
	update_conversation(claim, &conversation, &batch);
	wahook_write_lock(&claim->store, &conversation, &claim->request->lock_id, claim->now,
					  claim->expires_at, makeArrayResult(batch.seqs, CurrentMemoryContext));
	wahook_park(&claim->store, id, batch.service, claim->expires_at);
	return_claim(claim, &conversation, &batch);
	log_claim(claim, id);
	claim->n++;
	return true;
}

/* The memory of one conversation's claim is freed with it. */
static bool
claim_in_own_context(Claim *claim, const pg_uuid_t *id, TimestampTz *until)
{
	MemoryContext own =
		AllocSetContextCreate(CurrentMemoryContext, "wahook claim", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(own);
	bool claimed = claim_conversation(claim, id, until);

	MemoryContextSwitchTo(old);
	MemoryContextDelete(own);
	return claimed;
}

/* False when the queue row has been dealt with since it was read, or is at this moment. */
static bool
find_queue_row(Claim *claim, Datum id, int64 seq)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], Anum_queue_conversation_id, BTEqualStrategyNumber, F_UUID_EQ, id);
	ScanKeyInit(&keys[1], Anum_queue_seq, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(seq));
	return wahook_peek_row(&claim->store.queue.rows, keys, lengthof(keys)) == WAHOOK_ROW_STEADY;
}

/* Puts off the queue row that was found last. Where somebody else is at it, they know better. */
static void
put_off(Claim *claim, TimestampTz until)
{
	Datum values[WAHOOK_MAX_COLUMNS] = {[Anum_queue_due_at - 1] = TimestampTzGetDatum(until)};
	static const bool nulls[WAHOOK_MAX_COLUMNS] = {false};
	static const bool replace[WAHOOK_MAX_COLUMNS] = {[Anum_queue_due_at - 1] = true};

	if (wahook_update_row(&claim->store.queue, values, nulls, replace))
		wahook_note_work_at(WAHOOK_WORK_DELIVER, until);
}

/*
 * Looks at up to batch due queue rows after *due_at, *seq, and claims the free conversations among
 * them. Returns how many rows there were; *first becomes the time of the earliest of them.
 */
static int
claim_due(Claim *claim, int batch, TimestampTz *due_at, int64 *seq, TimestampTz *first)
{
	const char *service = claim->request->service;
	Datum values[] = {TimestampTzGetDatum(claim->now), TimestampTzGetDatum(*due_at),
					  Int64GetDatum(*seq), Int64GetDatum(batch),
					  service ? CStringGetTextDatum(service) : (Datum) 0};
	int n = wahook_execute(service ? &due_plan : &due_in_any_service_plan, values, NULL);
	SPITupleTable *rows = SPI_tuptable;

	for (int i = 0; i < n && claim->n < claim->request->limit; i++)
	{
		bool isnull;
		TimestampTz until;
		Datum id = SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull);

		CHECK_FOR_INTERRUPTS();
		*seq = DatumGetInt64(SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &isnull));
		*due_at = DatumGetTimestampTz(SPI_getbinval(rows->vals[i], rows->tupdesc, 3, &isnull));
		*first = Min(*first, *due_at);
		if (find_queue_row(claim, id, *seq) &&
			!claim_in_own_context(claim, DatumGetUUIDP(id), &until) && until > claim->now)
			put_off(claim, until);
	}
	return n;
}

static void
begin_claim(Claim *claim, const wahook_ClaimRequest *request, ReturnSetInfo *result)
{
	CommandCounterIncrement();
	claim->request = request;
	claim->result = result;
	claim->now = GetCurrentTimestamp();
	claim->expires_at = claim->now + request->lease_us;
	claim->n = 0;
	wahook_open_store(&claim->store);
	wahook_open_rows(&claim->messages, "processed_webhook_messages",
					 "processed_webhook_messages_pkey", AccessShareLock);
}

static void
end_claim(Claim *claim)
{
	wahook_close_rows(&claim->messages);
	wahook_close_store(&claim->store);
}

/*
 * Claims from the due queue rows after a time, oldest first, until the limit is reached or there
 * are no more. Returns the time of the first row it met, or DT_NOEND.
 */
static TimestampTz
claim_after(Claim *claim, TimestampTz due_at)
{
	TimestampTz first = DT_NOEND;
	int64 seq = 0;
	int wanted = claim->request->limit - claim->n;

	while (claim_due(claim, wanted, &due_at, &seq, &first) == wanted &&
		   claim->n < claim->request->limit)
		wanted = Min(wanted * 2, Max(MAX_DUE_BATCH, claim->request->limit - claim->n));
	return first;
}

/*
 * While an old snapshot is held somewhere, the index keeps an entry for each queue row that ever
 * was, and a walk from its beginning would pass them all. So a session remembers where it last met
 * a row and starts there. What came to stand before that place since then is found by a full walk,
 * at the latest a second later, and whenever the short one does not bring enough.
 */
void
wahook_claim_waiting(const wahook_ClaimRequest *request, ReturnSetInfo *result)
{
	static TimestampTz start = DT_NOBEGIN;
	static TimestampTz full_walk_at = DT_NOBEGIN;
	static char service[NAMEDATALEN];
	const char *wanted = request->service ? request->service : "";
	Claim claim;

	begin_claim(&claim, request, result);
	if (claim.now - full_walk_at > FULL_WALK_INTERVAL || strcmp(service, wanted) != 0)
		start = DT_NOBEGIN;
	if (start != DT_NOBEGIN)
		start = claim_after(&claim, start - 1);
	if (claim.n < request->limit)
	{
		start = claim_after(&claim, DT_NOBEGIN);
		full_walk_at = claim.now;
		strlcpy(service, wanted, sizeof(service));
	}
	if (start == DT_NOEND)
		start = DT_NOBEGIN;
	end_claim(&claim);
}

void
wahook_claim_these(const wahook_ClaimRequest *request, const pg_uuid_t *ids, int n,
				   ReturnSetInfo *result)
{
	Claim claim;

	begin_claim(&claim, request, result);
	for (int i = 0; i < n; i++)
	{
		TimestampTz until;

		(void) claim_in_own_context(&claim, &ids[i], &until);
	}
	end_claim(&claim);
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

	InitMaterializedSRF(fcinfo, 0);
	wahook_begin(fcinfo);
	wahook_claim_waiting(&request, (ReturnSetInfo *) fcinfo->resultinfo);
	wahook_end();
	return (Datum) 0;
}
