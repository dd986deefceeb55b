/*
 * Taking a conversation: its lock, and its waiting messages as they are handed over.
 *
 * A conversation is looked at without waiting: one that is being changed is left to whoever comes
 * next. Of a free one the waiting messages are read in a snapshot taken after that look, and then
 * exactly the version that was seen gets the lock, or none: nobody can have had it meanwhile. What
 * its former holder completed is gone in that snapshot, so no message is handed over twice. Where
 * there is more to do than to write the lock, the row is locked first.
 */
#include "conversation/take.h"

#include "access/genam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "conversation/expire.h"
#include "conversation/line.h"
#include "conversation/message.h"
#include "conversation/state.h"
#include "core/compat.h"
#include "core/counters.h"
#include "core/event.h"
#include "core/json_writer.h"
#include "core/plan.h"
#include "core/settings.h"
#include "core/tables.h"
#include "ingest/config.h"
#include "ingest/identity.h"
#include "ingest/queue.h"

/*
 * When the messages of one conversation have so many bytes, no more are taken. What jsonb could not
 * hold would fail each time, and so would all claims that meet it.
 */
#define MAX_CLAIM_BYTES (16 * 1024 * 1024)

/* The messages of one conversation that are being claimed. */
typedef struct Batch
{
	const char *service;
	Datum *seqs;
	TimestampTz *queued; /* when each was */
	int n;
	TimestampTz *since; /* when they were queued for, each time once where they came together */
	int nsince;
	StringInfoData messages; /* jsonb of each */
	int *begins;             /* where in it */
	int nmessages;
	Datum user_id; /* where a message changed what is known of the user, else 0 */
	Datum whatsapp_phone;
} Batch;

static wahook_Plan reopen_plan =
	{"UPDATE @extschema@.webhook_conversations SET status = 'active' WHERE id = $1", 1, {UUIDOID}};

static wahook_Plan new_identity_plan =
	{"UPDATE @extschema@.webhook_conversations SET user_id = coalesce($2, user_id),"
	 " whatsapp_phone = coalesce($3, whatsapp_phone) WHERE id = $1",
	 3,
	 {UUIDOID, TEXTOID, TEXTOID}};

/*
 * Finds the message of the inbox row in the slot. It is good until the next one is looked for. False
 * when it was deleted by hand.
 */
static bool
find_message(wahook_Claim *claim, Snapshot snapshot, wahook_Message *message)
{
	TupleTableSlot *waiting = claim->store.inbox.rows.slot;
	TupleTableSlot *slot = claim->messages.slot;
	ScanKeyData key;
	bool isnull;
	Datum value;

	ScanKeyInit(&key, Anum_message_id, BTEqualStrategyNumber, F_UUID_EQ,
				slot_getattr(waiting, Anum_inbox_message_id, &isnull));
	if (!wahook_find_row(&claim->messages, snapshot, &key, 1))
		return false;

	message->attempt = DatumGetInt32(slot_getattr(waiting, Anum_inbox_attempts, &isnull)) +
					   DatumGetInt32(slot_getattr(waiting, Anum_inbox_losses, &isnull)) + 1;
	message->whatsapp_message_id =
		DatumGetTextPP(slot_getattr(slot, Anum_message_whatsapp_message_id, &isnull));
	message->correlation_id =
		DatumGetUUIDP(slot_getattr(slot, Anum_message_correlation_id, &isnull));
	message->received_at =
		DatumGetTimestampTz(slot_getattr(slot, Anum_message_received_at, &isnull));
	value = slot_getattr(slot, Anum_message_kind, &isnull);
	message->kind = isnull ? NULL : DatumGetTextPP(value);
	value = slot_getattr(slot, Anum_message_payload, &isnull);
	message->payload = isnull ? NULL : DatumGetJsonbP(value);
	return true;
}

static Datum
copy_text(TupleTableSlot *slot, int attnum, Datum otherwise)
{
	bool isnull;
	Datum value = slot_getattr(slot, attnum, &isnull);

	return isnull ? otherwise : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}

static void
take_message(wahook_Claim *claim, Batch *batch, TimestampTz since)
{
	TupleTableSlot *waiting = claim->store.inbox.rows.slot;
	wahook_Message message;
	bool isnull;

	if (batch->nsince == 0 || batch->since[batch->nsince - 1] != since)
		batch->since[batch->nsince++] = since;
	batch->queued[batch->n] = wahook_queued_for(waiting, 0);
	batch->seqs[batch->n++] = slot_getattr(waiting, Anum_inbox_seq, &isnull);
	wahook_note_waiting(&claim->store.inbox.rows);
	batch->user_id = copy_text(waiting, Anum_inbox_user_id, batch->user_id);
	batch->whatsapp_phone = copy_text(waiting, Anum_inbox_whatsapp_phone, batch->whatsapp_phone);

	/* One whose message is gone is claimed all the same: completing clears it away. */
	if (find_message(claim, GetActiveSnapshot(), &message))
	{
		batch->begins[batch->nmessages++] = INTALIGN(batch->messages.len);
		(void) wahook_append_message(&batch->messages, &message);
	}
}

/* When the line is due in the active snapshot; DT_NOEND: nothing waits in it. */
static TimestampTz
line_due_at(wahook_Claim *claim, const pg_uuid_t *id, const char *service)
{
	wahook_RowReader *inbox = &claim->store.inbox.rows;
	IndexScanDesc scan = wahook_begin_line(inbox, GetActiveSnapshot(), id, service);
	bool waits = wahook_next_row(inbox, scan);

	wahook_end_scan(inbox, scan);
	return waits ? wahook_line_due_at(inbox, GetActiveSnapshot(), id, service) : DT_NOEND;
}

/* Reads the messages at the head of a line, up to the first that is put off. */
static void
take_messages(wahook_Claim *claim, const pg_uuid_t *id, const char *service, Batch *batch)
{
	wahook_RowReader *inbox = &claim->store.inbox.rows;
	int64 debounce_us = wahook_debounce_us(service);
	IndexScanDesc scan;

	*batch = (Batch){.service = service};
	batch->seqs = palloc_array(Datum, wahook_claim_max_messages);
	batch->queued = palloc_array(TimestampTz, wahook_claim_max_messages);
	batch->since = palloc_array(TimestampTz, wahook_claim_max_messages);
	batch->begins = palloc_array(int, wahook_claim_max_messages);
	initStringInfo(&batch->messages);
	PushActiveSnapshot(GetLatestSnapshot());
	if (debounce_us == 0 || line_due_at(claim, id, service) <= claim->now)
	{
		scan = wahook_begin_line(inbox, GetActiveSnapshot(), id, service);
		for (int n = 0; n < wahook_claim_max_messages && batch->messages.len < MAX_CLAIM_BYTES &&
						wahook_next_row(inbox, scan);
			 n++)
		{
			if (wahook_queued_for(inbox->slot, 0) > claim->now)
				break;
			take_message(claim, batch, wahook_queued_for(inbox->slot, debounce_us));
		}
		wahook_end_scan(inbox, scan);
	}
	PopActiveSnapshot();
}

static bool
is_over(const wahook_Conversation *conversation)
{
	return strcmp(conversation->status, "completed") == 0 ||
		   strcmp(conversation->status, "timeout") == 0 ||
		   strcmp(conversation->status, "error") == 0;
}

/* What a message, or being claimed at all, changes about a conversation besides its lock. Rare. */
static void
update_conversation(wahook_Claim *claim, wahook_Conversation *conversation, const Batch *batch)
{
	Datum values[] = {UUIDPGetDatum(&conversation->id), batch->user_id, batch->whatsapp_phone};
	const char nulls[] = {' ', batch->user_id ? ' ' : 'n', batch->whatsapp_phone ? ' ' : 'n', '\0'};
	bool over = is_over(conversation);

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

static Datum
messages_of(const Batch *batch)
{
	JsonbValue *elements = palloc_array(JsonbValue, Max(batch->nmessages, 1));
	StringInfoData json;

	for (int i = 0; i < batch->nmessages; i++)
	{
		int end = i + 1 < batch->nmessages ? batch->begins[i + 1] : batch->messages.len;

		elements[i].type = jbvBinary;
		elements[i].val.binary.data = (JsonbContainer *) (batch->messages.data + batch->begins[i]);
		elements[i].val.binary.len = end - batch->begins[i];
	}
	wahook_begin_jsonb(&json, batch->messages.len + 64);
	(void) wahook_append_array(&json, elements, batch->nmessages, wahook_append_value);
	return JsonbPGetDatum(wahook_end_jsonb(&json));
}

static void
return_claim(wahook_Claim *claim, const wahook_Conversation *conversation, Batch *batch)
{
	Datum values[10];
	bool nulls[10] = {false};

	values[0] = UUIDPGetDatum(&conversation->id);
	values[1] = UUIDPGetDatum(&claim->request->lock_id);
	values[2] = Int64GetDatum(conversation->lock_token + 1);
	values[3] = TimestampTzGetDatum(claim->expires_at);
	values[4] = conversation->user_id;
	values[5] = conversation->whatsapp_phone;
	nulls[5] = conversation->whatsapp_phone == (Datum) 0;
	values[6] = conversation->agent_type;
	nulls[6] = conversation->agent_type == (Datum) 0;
	values[7] = CStringGetTextDatum(batch->service);
	values[8] = conversation->context;
	values[9] = messages_of(batch);
	tuplestore_putvalues(claim->result->setResult, claim->result->setDesc, values, nulls);
}

static void
log_claim(const wahook_Claim *claim, const pg_uuid_t *id)
{
	wahook_Event event;

	wahook_event_begin(&event, "CONVERSATION_LOCK_ACQUIRED", WAHOOK_EVENT_DETAIL);
	wahook_event_uuid(&event, "conversation_id", id);
	wahook_event_uuid(&event, "lock_id", &claim->request->lock_id);
	wahook_event_end(&event);
}

/* One row tells when the leases of all that was claimed for a service end. */
static void
write_leases(wahook_Claim *claim)
{
	if (claim->nleased > 0)
		wahook_add_lease(&claim->store.leases, claim->expires_at, &claim->request->lock_id,
						 claim->leased_service, claim->leased, claim->nleased);
	claim->nleased = 0;
}

static void
note_lease(wahook_Claim *claim, const pg_uuid_t *id, const char *service)
{
	if (claim->nleased == WAHOOK_MAX_LEASED ||
		(claim->nleased > 0 && strcmp(claim->leased_service, service) != 0))
		write_leases(claim);
	if (claim->leased_service == NULL || strcmp(claim->leased_service, service) != 0)
		claim->leased_service = MemoryContextStrdup(claim->context, service);
	claim->leased[claim->nleased++] = *id;
}

/*
 * Takes what tells of the messages that have been claimed out of the queue. Who walks the queue leaves it in
 * rows with others, which a walk comes to as well: meanwhile another claim can have such a row to itself.
 */
static void
unqueue_messages(wahook_Claim *claim, const pg_uuid_t *id, const Batch *batch)
{
	Datum service = (Datum) 0;
	wahook_Table *queue = NULL;

	for (int i = 0; i < batch->nsince; i++)
	{
		if (batch->since[i] == claim->queued_for)
			continue;
		if (service == (Datum) 0)
		{
			service = CStringGetTextDatum(batch->service);
			queue = wahook_queue_of(&claim->store);
		}
		if (claim->walks)
			wahook_unqueue_alone(queue, id, service, batch->since[i]);
		else
			wahook_unqueue(queue, id, service, batch->since[i]);
	}
}

/*
 * Whether the row that led here names a free conversation for nothing: the message it told of was claimed
 * through another row, or its line is not quiet yet. What came since is not to be claimed before its turn;
 * another row names the conversation for then. Nobody takes it out there before he has looked at it in its turn.
 */
static bool
is_out_of_turn(wahook_Claim *claim, const wahook_Conversation *conversation, const char *service,
			   TimestampTz *due_at)
{
	const pg_uuid_t *id = &conversation->id;

	if (!claim->walks || claim->queued_for == DT_NOBEGIN || conversation->locked ||
		(conversation->last_activity_at < claim->queued_for && wahook_debounce_us(service) == 0))
		return false;
	PushActiveSnapshot(GetLatestSnapshot());
	*due_at = line_due_at(claim, id, service);
	PopActiveSnapshot();
	return *due_at == DT_NOEND ||
		   (*due_at > claim->queued_for && wahook_is_queued(wahook_queue_of(&claim->store), id,
															CStringGetTextDatum(service), *due_at));
}

/* False where somebody else was faster, which can't be when the row is locked. */
static bool
write_claim(wahook_Claim *claim, const wahook_Conversation *conversation, const Batch *batch,
			bool row_locked)
{
	ArrayType *seqs = construct_array(batch->seqs, batch->n, INT8OID, sizeof(int64),
									  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);

	return wahook_write_lock(&claim->store, conversation, &claim->request->lock_id, claim->now,
							 claim->expires_at, PointerGetDatum(seqs), row_locked);
}

/* Looks at a conversation, and claims it where it is free and has messages for the service. */
static wahook_Look
claim_conversation(wahook_Claim *claim, const pg_uuid_t *id, const char *service,
				   wahook_Conversation *conversation, TimestampTz *until)
{
	wahook_RowReader *rows = &claim->store.conversations.rows;
	wahook_RowState state = wahook_peek_conversation(rows, id, conversation);
	bool row_locked;
	Batch batch;

	*until = conversation->lock_expires_at;

	if (state == WAHOOK_ROW_NONE)
	{
		if (!wahook_create_joined_conversation(id))
			return WAHOOK_EMPTY;
		CommandCounterIncrement();
		state = wahook_peek_conversation(rows, id, conversation);
	}
	if (state != WAHOOK_ROW_STEADY)
		return WAHOOK_BUSY;
	if (!wahook_lock_is_free(conversation, claim->now))
		return WAHOOK_HELD;
	if (is_out_of_turn(claim, conversation, service, until))
		return WAHOOK_EMPTY;
	row_locked = conversation->locked || is_over(conversation);
	if (row_locked && !wahook_try_lock_row(rows))
		return WAHOOK_BUSY;
	wahook_expire_claim(rows, conversation, claim->now);
	take_messages(claim, id, service, &batch);
	if (!row_locked && (batch.n == 0 || batch.user_id || batch.whatsapp_phone))
	{
		if (!wahook_try_lock_row(rows))
			return WAHOOK_BUSY;
		row_locked = true;
	}
	if (batch.n == 0)
	{
		/* What an expired lock had claimed has been counted as lost: the lock goes with it. */
		if (conversation->locked)
			wahook_unlock(&claim->store, id, claim->now);
		else
			wahook_requeue(&claim->store, id, 1);
		return WAHOOK_EMPTY;
	}
	update_conversation(claim, conversation, &batch);
	wahook_read_party(rows, conversation);
	if (!write_claim(claim, conversation, &batch, row_locked))
		return WAHOOK_BUSY;
	unqueue_messages(claim, id, &batch);
	note_lease(claim, id, batch.service);
	return_claim(claim, conversation, &batch);
	log_claim(claim, id);
	wahook_count(wahook_acquisition(conversation), 1);
	wahook_count(WAHOOK_CLAIMS, 1);
	for (int i = 0; i < batch.n; i++)
		wahook_observe(WAHOOK_INBOX_WAIT, claim->now - batch.queued[i]);
	claim->n++;
	return WAHOOK_CLAIMED;
}

/* The version in the slot of the look is never pruned meanwhile: a snapshot is held that is older. */
bool
wahook_is_untouched(wahook_Claim *claim, const pg_uuid_t *id, const ItemPointerData *version)
{
	wahook_RowReader *rows = &claim->store.conversations.rows;
	ScanKeyData key;

	ScanKeyInit(&key, Anum_conversation_id, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
	return wahook_peek_row(rows, &key, 1) == WAHOOK_ROW_STEADY &&
		   ItemPointerEquals(&rows->slot->tts_tid, unconstify(ItemPointerData *, version));
}

/* In memory that is freed with it. */
wahook_Look
wahook_look_at(wahook_Claim *claim, const pg_uuid_t *id, const char *service, pg_uuid_t *holder,
			   TimestampTz *until)
{
	MemoryContext own =
		AllocSetContextCreate(CurrentMemoryContext, "wahook claim", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(own);
	wahook_Conversation conversation;
	wahook_Look look = claim_conversation(claim, id, service, &conversation, until);

	*holder = conversation.locked_by;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(own);
	return look;
}

void
wahook_begin_claim(wahook_Claim *claim, const wahook_ClaimRequest *request, LOCKMODE messages_lock,
				   ReturnSetInfo *result)
{
	CommandCounterIncrement();
	memset(claim, 0, offsetof(wahook_Claim, leased));
	claim->context = CurrentMemoryContext;
	claim->request = request;
	claim->result = result;
	claim->now = GetCurrentTimestamp();
	claim->expires_at = claim->now + request->lease_us;
	claim->queued_for = DT_NOBEGIN;
	wahook_open_store(&claim->store);
	wahook_open_rows(&claim->messages, "processed_webhook_messages",
					 "processed_webhook_messages_pkey", messages_lock);
}

void
wahook_end_claim(wahook_Claim *claim)
{
	write_leases(claim);
	wahook_close_rows(&claim->messages);
	wahook_close_store(&claim->store);
}
