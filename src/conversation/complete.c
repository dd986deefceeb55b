/*
 * Completing claimed messages.
 *
 * Completing is fenced: it needs the lock under which the messages were claimed, and raises WH002
 * when that was lost, so that the work done in the same transaction is undone with it.
 */
#include "conversation/complete.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/qunique.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "conversation/lease.h"
#include "conversation/line.h"
#include "conversation/record.h"
#include "core/args.h"
#include "core/compat.h"
#include "core/counters.h"
#include "core/errors.h"
#include "core/event.h"
#include "core/plan.h"
#include "core/settings.h"
#include "core/tables.h"
#include "core/uuid.h"

/* What one call completes with. */
typedef struct Completion
{
	wahook_Store *store;
	wahook_Record record;
	ArrayBuildState *retried; /* ids of messages that may have a dead letter */
} Completion;

PG_FUNCTION_INFO_V1(wahook_complete_webhook_messages);
PG_FUNCTION_INFO_V1(wahook_complete_conversations);

/* NOWAIT: somebody who edits the dead letter by hand must not hold up the holder. */
static wahook_Plan resolve_plan =
	{"UPDATE @extschema@.webhook_dlq SET resolution_status = 'resolved', processed_at = $2"
	 " WHERE id = ANY (ARRAY(SELECT d.id FROM @extschema@.webhook_dlq d"
	 " JOIN @extschema@.processed_webhook_messages p"
	 " ON p.whatsapp_message_id = d.whatsapp_message_id"
	 " WHERE p.id = ANY ($1) FOR UPDATE OF d NOWAIT))"
	 " RETURNING id, whatsapp_message_id, correlation_id, retry_count, conversation_id, service",
	 2,
	 {UUIDARRAYOID, TIMESTAMPTZOID}};

static wahook_Plan seqs_plan =
	{"SELECT array_agg(i.seq ORDER BY i.seq) FROM unnest($2) AS w (id)"
	 " JOIN @extschema@.processed_webhook_messages p ON p.whatsapp_message_id = w.id"
	 " CROSS JOIN LATERAL (SELECT seq FROM @extschema@.webhook_inbox i"
	 " WHERE i.conversation_id = $1 AND i.message_id = p.id) i",
	 2,
	 {UUIDOID, TEXTARRAYOID}};

static void
open_completion(Completion *completion, wahook_Store *store, int processing_ms)
{
	completion->store = store;
	wahook_open_record(&completion->record, &store->conversations, processing_ms);
	completion->retried = NULL;
}

/* Each dead letter that was resolved is an event, whichever way it was retried. */
static void
log_resolved(uint64 n)
{
	for (uint64 i = 0; i < n; i++)
	{
		wahook_Event event;
		bool no_correlation;
		bool no_conversation;
		Datum conversation_id;
		bool isnull;
		Datum correlation_id = wahook_result(i, 3, &no_correlation);

		wahook_event_begin(&event, "DLQ_MESSAGE_PROCESSED", false);
		wahook_event_uuid(&event, "id", DatumGetUUIDP(wahook_result(i, 1, &isnull)));
		wahook_event_text(&event, "message_id", wahook_result_text(i, 2));
		wahook_event_uuid(&event, "correlation_id",
						  no_correlation ? NULL : DatumGetUUIDP(correlation_id));
		conversation_id = wahook_result(i, 5, &no_conversation);
		wahook_event_uuid(&event, "conversation_id",
						  no_conversation ? NULL : DatumGetUUIDP(conversation_id));
		wahook_event_text(&event, "service", wahook_result_text(i, 6));
		wahook_event_int(&event, "retry_count", DatumGetInt32(wahook_result(i, 4, &isnull)));
		wahook_event_end(&event);
	}
}

/* Resolves the dead letters of what was completed. */
static void
close_completion(Completion *completion)
{
	wahook_close_record(&completion->record);
	if (completion->retried != NULL)
	{
		Datum values[] = {makeArrayResult(completion->retried, CurrentMemoryContext),
						  TimestampTzGetDatum(completion->record.now)};

		uint64 resolved = wahook_execute(&resolve_plan, values, NULL);

		log_resolved(resolved);
		wahook_count(WAHOOK_RETRIES_RESOLVED, resolved);
	}
}

/* Completes the message whose inbox row is in the slot. */
static void
complete_message(Completion *completion, const wahook_Conversation *conversation)
{
	TupleTableSlot *waiting = completion->store->inbox.rows.slot;
	bool isnull;
	Datum message_id = slot_getattr(waiting, Anum_inbox_message_id, &isnull);

	wahook_count(WAHOOK_MESSAGES_COMPLETED, 1);
	wahook_record_completed(&completion->record, conversation, waiting);
	if (DatumGetInt32(slot_getattr(waiting, Anum_inbox_attempts, &isnull)) > 0)
		completion->retried =
			accumArrayResult(completion->retried, message_id, false, UUIDOID, CurrentMemoryContext);
	if (!wahook_delete_row(&completion->store->inbox))
		wahook_raise_busy("message", wahook_uuid_text(DatumGetUUIDP(message_id)));
}

static int
compare_seqs(const void *a, const void *b)
{
	int64 left = *(const int64 *) a;
	int64 right = *(const int64 *) b;

	return (left > right) - (left < right);
}

/* The messages that are to be completed: seqs in ascending order. */
typedef struct Wanted
{
	const int64 *seqs;
	bool *found;
	int n;
	int nfound;
} Wanted;

/* Completes what is wanted of the rows of a scan, up to the first other one where it is to stop. */
static void
complete_found(Completion *completion, const wahook_Conversation *conversation, Wanted *wanted,
			   IndexScanDesc scan, bool stop)
{
	wahook_RowReader *inbox = &completion->store->inbox.rows;

	while (wanted->nfound < wanted->n && wahook_next_row(inbox, scan))
	{
		bool isnull;
		int64 seq = DatumGetInt64(slot_getattr(inbox->slot, Anum_inbox_seq, &isnull));
		const int64 *found = bsearch(&seq, wanted->seqs, wanted->n, sizeof(int64), compare_seqs);

		if (found != NULL && !wanted->found[found - wanted->seqs])
		{
			complete_message(completion, conversation);
			wanted->found[found - wanted->seqs] = true;
			wanted->nfound++;
		}
		else if (stop)
			break;
	}
	wahook_end_scan(inbox, scan);
}

/* Completes those of which this session, which may have claimed them, remembers the places. */
static void
complete_noted(Completion *completion, const wahook_Conversation *conversation, Wanted *wanted,
			   Snapshot snapshot)
{
	for (int i = 0; i < wanted->n; i++)
	{
		if (!wahook_find_waiting(&completion->store->inbox.rows, snapshot, &conversation->id,
								 wanted->seqs[i]))
			continue;
		complete_message(completion, conversation);
		wanted->found[i] = true;
		wanted->nfound++;
	}
}

/*
 * Where their places are not known, nearly always they are the first of the inbox. Else they are
 * looked for line by line, so that what waits for other services is not walked past.
 */
static void
complete_others(Completion *completion, const wahook_Conversation *conversation, Wanted *wanted)
{
	wahook_RowReader *inbox = &completion->store->inbox.rows;
	char *service = NULL;
	Snapshot snapshot;

	PushActiveSnapshot(GetLatestSnapshot());
	snapshot = GetActiveSnapshot();
	complete_found(completion, conversation, wanted,
				   wahook_begin_lines(inbox, snapshot, &conversation->id), true);
	while (wanted->nfound < wanted->n &&
		   (service = wahook_next_line(inbox, snapshot, &conversation->id, service)) != NULL)
		complete_found(completion, conversation, wanted,
					   wahook_begin_part(inbox, snapshot, &conversation->id, service,
										 wanted->seqs[0], wanted->seqs[wanted->n - 1]),
					   false);
	PopActiveSnapshot();
}

/* What the active snapshot is too old to show is found all the same. */
static int
complete(Completion *completion, const wahook_Conversation *conversation, ArrayType *seqs)
{
	int n = seqs ? ArrayGetNItems(ARR_NDIM(seqs), ARR_DIMS(seqs)) : 0;
	Wanted wanted = {0};
	int64 *each;

	/* Nulls can only have been written by hand. They take no room in the array. */
	if (n == 0 || array_contains_nulls(seqs))
		return 0;
	each = palloc_array(int64, n);
	memcpy(each, ARR_DATA_PTR(seqs), n * sizeof(int64));
	n = qunique(each, n, sizeof(int64), compare_seqs);
	wanted.seqs = each;
	wanted.n = n;
	wanted.found = palloc0_array(bool, n);
	complete_noted(completion, conversation, &wanted, GetActiveSnapshot());
	if (wanted.nfound < n)
		complete_others(completion, conversation, &wanted);
	return wanted.nfound;
}

/* Those of one conversation alone. */
static int
complete_alone(Completion *completion, const wahook_Conversation *conversation, ArrayType *seqs)
{
	int completed;

	PushActiveSnapshot(GetLatestSnapshot());
	completed = complete(completion, conversation, seqs);
	PopActiveSnapshot();
	return completed;
}

int
wahook_complete_messages(const wahook_Conversation *conversation, ArrayType *seqs,
						 int processing_ms)
{
	wahook_Store store;
	Completion completion;
	int completed;

	CommandCounterIncrement();
	wahook_open_store(&store);
	open_completion(&completion, &store, processing_ms);
	completed = complete_alone(&completion, conversation, seqs);
	close_completion(&completion);
	wahook_close_store(&store);
	return completed;
}

/* The inbox rows of the conversation's messages with the given ids; null: none of them waits. */
static ArrayType *
find_seqs(const pg_uuid_t *id, Datum whatsapp_message_ids)
{
	Datum values[] = {UUIDPGetDatum(id), whatsapp_message_ids};
	bool isnull;
	Datum seqs;

	wahook_execute(&seqs_plan, values, NULL);
	seqs = wahook_result(0, 1, &isnull);
	return isnull ? NULL : DatumGetArrayTypeP(seqs);
}

static int
processing_ms_arg(FunctionCallInfo fcinfo, int arg)
{
	int ms = PG_ARGISNULL(arg) ? -1 : PG_GETARG_INT32(arg);

	if (!PG_ARGISNULL(arg) && ms < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("p_processing_time_ms is negative"), errdetail("It is %d.", ms),
						errhint("Leave it null for the time since the claim.")));
	return ms;
}

static void
require_args(FunctionCallInfo fcinfo, const char *first, const char *second)
{
	wahook_require_arg(fcinfo, 0, first, "Pass what claim_conversations() returned.");
	wahook_require_arg(fcinfo, 1, second, "Pass what claim_conversations() returned.");
}

/*
 * complete_webhook_messages(p_conversation_id, p_lock_id, p_whatsapp_message_ids,
 * p_processing_time_ms, p_release) → integer: how many it completed.
 */
Datum
wahook_complete_webhook_messages(PG_FUNCTION_ARGS)
{
	int processing_ms = processing_ms_arg(fcinfo, 3);
	wahook_Conversation conversation;
	wahook_Store store;
	Completion completion;
	ArrayType *seqs;
	int completed;

	require_args(fcinfo, "p_conversation_id", "p_lock_id");
	wahook_begin(fcinfo);
	wahook_open_store(&store);
	open_completion(&completion, &store, processing_ms);
	wahook_hold(&store.conversations.rows, PG_GETARG_UUID_P(0), PG_GETARG_UUID_P(1), &conversation);
	seqs = PG_ARGISNULL(2) ? conversation.claimed : find_seqs(&conversation.id, PG_GETARG_DATUM(2));
	completed = complete_alone(&completion, &conversation, seqs);
	if (PG_ARGISNULL(4) || PG_GETARG_BOOL(4))
		wahook_release(&store, &conversation, completion.record.now);
	close_completion(&completion);
	wahook_close_store(&store);
	wahook_end();
	PG_RETURN_INT32(completed);
}

typedef struct Released
{
	TimestampTz expires_at;
	pg_uuid_t id;
} Released;

static int
compare_released(const void *a, const void *b)
{
	const Released *left = a;
	const Released *right = b;

	if (left->expires_at != right->expires_at)
		return left->expires_at < right->expires_at ? -1 : 1;
	return memcmp(&left->id, &right->id, sizeof(pg_uuid_t));
}

/* Forgets the ends of leases of which nothing is held any more. Reorders what was released. */
static void
end_leases(wahook_Table *leases, const pg_uuid_t *lock_id, Released *released, int n)
{
	pg_uuid_t *ids = palloc_array(pg_uuid_t, Max(n, 1));
	int first = 0;

	qsort(released, n, sizeof(Released), compare_released);
	for (int i = 0; i < n; i++)
	{
		ids[i] = released[i].id;
		if (i + 1 < n && released[i + 1].expires_at == released[first].expires_at)
			continue;
		wahook_end_leases(leases, released[first].expires_at, lock_id, &ids[first], i + 1 - first);
		first = i + 1;
	}
}

/* Completes and releases what the lock id holds; the others are named in lost. */
static int
complete_all(Completion *completion, const Datum *ids, int n, const pg_uuid_t *lock_id,
			 StringInfo lost)
{
	wahook_Store *store = completion->store;
	Released *released = palloc_array(Released, Max(n, 1));
	pg_uuid_t *freed = palloc_array(pg_uuid_t, Max(n, 1));
	int nreleased = 0;
	int completed = 0;

	PushActiveSnapshot(GetLatestSnapshot());
	for (int i = 0; i < n; i++)
	{
		pg_uuid_t *id = DatumGetUUIDP(ids[i]);
		wahook_Conversation conversation;

		CHECK_FOR_INTERRUPTS();
		if (!wahook_try_hold(&store->conversations.rows, id, lock_id, &conversation))
		{
			wahook_count_now(WAHOOK_LOCKS_LOST, 1);
			appendStringInfo(lost, "%s%s", lost->len > 0 ? ", " : "", wahook_uuid_text(id));
			continue;
		}
		completed += complete(completion, &conversation, conversation.claimed);
		wahook_take_lock_off(store, completion->record.now);
		freed[nreleased] = *id;
		released[nreleased++] = (Released){conversation.lock_expires_at, *id};
	}
	PopActiveSnapshot();
	wahook_requeue(store, freed, nreleased);
	end_leases(&store->leases, lock_id, released, nreleased);
	return completed;
}

static int
compare_uuid_datums(const void *a, const void *b)
{
	return memcmp(DatumGetUUIDP(*(const Datum *) a), DatumGetUUIDP(*(const Datum *) b), UUID_LEN);
}

/* complete_conversations(p_conversation_ids, p_lock_id, p_processing_time_ms) → integer */
Datum
wahook_complete_conversations(PG_FUNCTION_ARGS)
{
	int processing_ms = processing_ms_arg(fcinfo, 2);
	StringInfoData lost;
	wahook_Store store;
	Completion completion;
	Datum *ids;
	bool *nulls;
	int n;
	int completed;

	require_args(fcinfo, "p_conversation_ids", "p_lock_id");
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &ids,
					  &nulls, &n);
	for (int i = 0; i < n; i++)
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("p_conversation_ids contains a null"),
							errdetail("It is element %d of %d.", i + 1, n),
							errhint("Pass what claim_conversations() returned.")));

	/* One that is named twice would be found released the second time. */
	qsort(ids, n, sizeof(Datum), compare_uuid_datums);
	n = qunique(ids, n, sizeof(Datum), compare_uuid_datums);

	wahook_begin(fcinfo);
	initStringInfo(&lost);
	wahook_open_store(&store);
	open_completion(&completion, &store, processing_ms);
	completed = complete_all(&completion, ids, n, PG_GETARG_UUID_P(1), &lost);
	if (lost.len > 0)
		ereport(ERROR,
				(errcode(WAHOOK_LOCK_LOST), errmsg("locks on conversations were lost"),
				 errdetail("Lock id %s does not hold: %s.", wahook_uuid_text(PG_GETARG_UUID_P(1)),
						   lost.data),
				 errhint(
					 "Nothing was completed. Complete the others without these; their messages wait for the next claim, or have had it.")));
	close_completion(&completion);
	wahook_close_store(&store);
	wahook_end();
	PG_RETURN_INT32(completed);
}
