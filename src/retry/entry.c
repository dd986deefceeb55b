/*
 * The triggers on webhook_dlq, which keep an entry the same thing under both its names.
 *
 * Callers of webhook_dlq set resolution_status, callers of wa_dead_letter_queue know only processed,
 * retry_count and next_retry_at. Whatever a caller changed decides, and the rest follows:
 *   pending   has a next_retry_at, and retries left
 *   retrying  has none, so that nobody who polls the table takes it as well
 *   resolved  is processed, and so is its message
 *   failed    has none
 * A message is retried by its entry or waits in its conversation's queue, never both.
 */
#include "retry/entry.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/counters.h"
#include "core/settings.h"
#include "core/wake.h"
#include "ingest/config.h"
#include "retry/backoff.h"

typedef struct Entry
{
	Datum *values;
	bool *nulls;
} Entry;

static bool settled = false;
static bool discarding = false;

PG_FUNCTION_INFO_V1(wahook_dlq_before_change);
PG_FUNCTION_INFO_V1(wahook_dlq_after_change);

static wahook_Plan known_plan =
	{"SELECT m.conversation_id, m.service, m.correlation_id,"
	 " coalesce($2->>'from', $2->'message'->>'from', m.payload->'message'->>'from')"
	 " FROM (VALUES (1)) AS always LEFT JOIN @extschema@.processed_webhook_messages m"
	 " ON m.whatsapp_message_id = $1",
	 2,
	 {TEXTOID, JSONBOID}};

static wahook_Plan mark_message_plan =
	{"UPDATE @extschema@.processed_webhook_messages SET processed_at = $2"
	 " WHERE whatsapp_message_id = $1 AND (processed_at IS NULL) <> ($2 IS NULL)",
	 2,
	 {TEXTOID, TIMESTAMPTZOID}};

/*
 * SKIP LOCKED: who changes the conversation at this moment is its holder, and a message that is
 * claimed is its holder's to complete or fail.
 */
#define WAITING_MESSAGE \
	"WITH c AS (" \
	"SELECT id, CASE WHEN lock_expires_at > $2 THEN claimed_messages END AS claimed" \
	" FROM @extschema@.webhook_conversations WHERE id = (" \
	"SELECT conversation_id FROM @extschema@.processed_webhook_messages" \
	" WHERE whatsapp_message_id = $1) FOR NO KEY UPDATE SKIP LOCKED), m AS (" \
	"SELECT i.conversation_id, i.service, i.seq FROM c" \
	" JOIN @extschema@.processed_webhook_messages p ON p.whatsapp_message_id = $1" \
	" JOIN @extschema@.webhook_inbox i ON i.conversation_id = c.id AND i.message_id = p.id" \
	" WHERE NOT i.seq = ANY (coalesce(c.claimed, '{}'))), changed AS ("

/* Those that it held back are looked at: now, or when it is due itself. */
#define LOOK_AT(due_at) \
	" RETURNING m.conversation_id, m.service)" \
	" INSERT INTO @extschema@.webhook_conversation_queue (conversation_id, service, due_at)" \
	" SELECT conversation_id, service, " due_at " FROM changed"

static wahook_Plan leave_inbox_plan =
	{WAITING_MESSAGE "DELETE FROM @extschema@.webhook_inbox i USING m"
					 " WHERE i.conversation_id = m.conversation_id AND i.seq = m.seq" LOOK_AT("$2"),
	 2,
	 {TEXTOID, TIMESTAMPTZOID}};

static wahook_Plan put_off_plan =
	{WAITING_MESSAGE
	 "UPDATE @extschema@.webhook_inbox i SET enqueued_at = $3, attempts = $4 + 1, losses = 0 FROM m"
	 " WHERE i.conversation_id = m.conversation_id AND i.seq = m.seq" LOOK_AT("$3"),
	 4,
	 {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID}};

/* Runs a statement while a flag that the triggers look at is set. */
static uint64
execute_under(bool *flag, wahook_Plan *plan, Datum *values, const char *nulls)
{
	bool outer = *flag;
	uint64 processed = 0;

	*flag = true;
	PG_TRY();
	{
		processed = wahook_execute(plan, values, nulls);
	}
	PG_FINALLY();
	{
		*flag = outer;
	}
	PG_END_TRY();
	return processed;
}

uint64
wahook_execute_settled(wahook_Plan *plan, Datum *values, const char *nulls)
{
	return execute_under(&settled, plan, values, nulls);
}

uint64
wahook_execute_discarding(wahook_Plan *plan, Datum *values, const char *nulls)
{
	return execute_under(&discarding, plan, values, nulls);
}

static Entry
read_entry(HeapTuple tuple, TupleDesc desc)
{
	Entry entry;

	entry.values = palloc(desc->natts * sizeof(Datum));
	entry.nulls = palloc(desc->natts * sizeof(bool));
	heap_deform_tuple(tuple, desc, entry.values, entry.nulls);
	return entry;
}

static void
set(Entry *entry, int column, Datum value)
{
	entry->values[column - 1] = value;
	entry->nulls[column - 1] = false;
}

static void
set_null(Entry *entry, int column)
{
	entry->nulls[column - 1] = true;
}

static bool
is_null(const Entry *entry, int column)
{
	return entry->nulls[column - 1];
}

static int
get_int(const Entry *entry, int column)
{
	return is_null(entry, column) ? 0 : DatumGetInt32(entry->values[column - 1]);
}

static char *
get_service(const Entry *entry)
{
	return is_null(entry, Anum_dlq_service)
			   ? NULL
			   : TextDatumGetCString(entry->values[Anum_dlq_service - 1]);
}

static bool
has_text(const Entry *entry, int column, const char *value)
{
	text *is;
	size_t len = strlen(value);

	if (is_null(entry, column))
		return false;
	is = DatumGetTextPP(entry->values[column - 1]);
	return VARSIZE_ANY_EXHDR(is) == len && memcmp(VARDATA_ANY(is), value, len) == 0;
}

static bool
has_status(const Entry *entry, const char *status)
{
	return has_text(entry, Anum_dlq_resolution_status, status);
}

static void
set_status(Entry *entry, const char *status)
{
	set(entry, Anum_dlq_resolution_status, CStringGetTextDatum(status));
}

static bool
is_processed(const Entry *entry)
{
	return !is_null(entry, Anum_dlq_processed) &&
		   DatumGetBool(entry->values[Anum_dlq_processed - 1]);
}

/* For the columns that are passed by value. */
static bool
changed(const Entry *new, const Entry *old, int column)
{
	if (is_null(new, column) || is_null(old, column))
		return is_null(new, column) != is_null(old, column);
	return new->values[column - 1] != old->values[column - 1];
}

static bool
status_changed(const Entry *new, const Entry *old)
{
	char *status;

	if (is_null(new, Anum_dlq_resolution_status))
		return false;
	status = TextDatumGetCString(new->values[Anum_dlq_resolution_status - 1]);
	return !has_status(old, status);
}

static bool
is_exhausted(const Entry *entry)
{
	return get_int(entry, Anum_dlq_retry_count) >= get_int(entry, Anum_dlq_max_retries);
}

/* What is known of the message completes what the caller did not say. */
static void
fill_in(Entry *entry)
{
	Datum values[] = {entry->values[Anum_dlq_whatsapp_message_id - 1],
					  entry->values[Anum_dlq_payload - 1]};
	char nulls[] = {is_null(entry, Anum_dlq_whatsapp_message_id) ? 'n' : ' ',
					is_null(entry, Anum_dlq_payload) ? 'n' : ' '};
	Datum known[4];
	bool unknown[4];

	wahook_execute(&known_plan, values, nulls);
	for (size_t i = 0; i < lengthof(known); i++)
		known[i] = wahook_result(0, i + 1, &unknown[i]);
	if (is_null(entry, Anum_dlq_conversation_id) && !unknown[0])
		set(entry, Anum_dlq_conversation_id, known[0]);
	if (has_text(entry, Anum_dlq_service, "default") && !unknown[1])
		set(entry, Anum_dlq_service, known[1]);
	if (is_null(entry, Anum_dlq_correlation_id) && !unknown[2])
		set(entry, Anum_dlq_correlation_id, known[2]);
	if (has_text(entry, Anum_dlq_from_number, "") && !unknown[3])
		set(entry, Anum_dlq_from_number, known[3]);
}

/* The columns that follow from the status. */
static void
settle(Entry *entry, TimestampTz now)
{
	bool resolved = has_status(entry, "resolved");

	set(entry, Anum_dlq_processed, BoolGetDatum(resolved));
	if (resolved && is_null(entry, Anum_dlq_processed_at))
		set(entry, Anum_dlq_processed_at, TimestampTzGetDatum(now));
	if (!has_status(entry, "pending"))
		set_null(entry, Anum_dlq_next_retry_at);
	else if (is_null(entry, Anum_dlq_next_retry_at))
	{
		int64 delay =
			wahook_retry_delay_us(get_service(entry), get_int(entry, Anum_dlq_retry_count));

		set(entry, Anum_dlq_next_retry_at, TimestampTzGetDatum(now + delay));
	}
	if (!has_status(entry, "retrying"))
		set_null(entry, Anum_dlq_retry_lease_until);
}

static void
settle_new(Entry *entry, TimestampTz now)
{
	if (is_processed(entry))
		set_status(entry, "resolved");
	else if (has_status(entry, "pending") && is_exhausted(entry))
		set_status(entry, "failed");
	settle(entry, now);
}

/* The status that an update means, where it did not set one itself. */
static void
infer_status(Entry *new, const Entry *old)
{
	bool next_given =
		!is_null(new, Anum_dlq_next_retry_at) && changed(new, old, Anum_dlq_next_retry_at);

	if (changed(new, old, Anum_dlq_processed))
		set_status(new, is_processed(new) ? "resolved" : "pending");
	else if (next_given && !is_exhausted(new))
		set_status(new, "pending");
	else if (changed(new, old, Anum_dlq_retry_count) && is_exhausted(new) &&
			 (has_status(new, "pending") || has_status(new, "retrying")))
		set_status(new, "failed");
}

static void
settle_changed(Entry *new, const Entry *old, TimestampTz now)
{
	bool done = has_status(old, "failed") || has_status(old, "resolved");

	if (!status_changed(new, old))
		infer_status(new, old);
	else if (done && has_status(new, "pending"))
	{
		/* Revived by hand: it starts afresh, and at once. */
		if (!changed(new, old, Anum_dlq_retry_count))
			set(new, Anum_dlq_retry_count, Int32GetDatum(0));
		if (is_null(new, Anum_dlq_next_retry_at))
			set(new, Anum_dlq_next_retry_at, TimestampTzGetDatum(now));
	}
	else if (has_status(new, "pending") && is_exhausted(new))
		set_status(new, "failed");
	else if (has_status(new, "retrying") && is_null(new, Anum_dlq_retry_lease_until))
		set(new, Anum_dlq_retry_lease_until,
			TimestampTzGetDatum(now + wahook_lock_timeout_s * USECS_PER_SEC));

	if (has_status(old, "resolved") && !has_status(new, "resolved") &&
		!changed(new, old, Anum_dlq_processed_at))
		set_null(new, Anum_dlq_processed_at);
	if (!changed(new, old, Anum_dlq_updated_at))
		set(new, Anum_dlq_updated_at, TimestampTzGetDatum(now));
	settle(new, now);
}

/* Starts a row trigger. On any other table, its idea of the columns would be wrong. */
static TriggerData *
begin_trigger(FunctionCallInfo fcinfo, const char *name)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (CALLED_AS_TRIGGER(fcinfo) && TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
	{
		wahook_begin(fcinfo);
		if (RelationGetRelid(trigger->tg_relation) == wahook_relation("webhook_dlq"))
			return trigger;
	}
	ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
					errmsg("function \"%s\" is a row trigger of webhook_dlq only", name),
					errhint("Write a function of your own for a trigger of your own.")));
}

/* When the entry is due, or its retrier's lease ends: then there is something to do for the job. */
static void
note_due(HeapTuple tuple, TupleDesc desc)
{
	static const int times[] = {Anum_dlq_next_retry_at, Anum_dlq_retry_lease_until};

	for (size_t i = 0; i < lengthof(times); i++)
	{
		bool isnull;
		Datum due_at = heap_getattr(tuple, times[i], desc, &isnull);

		if (!isnull)
			wahook_note_work_at(WAHOOK_WORK_RETRY, DatumGetTimestampTz(due_at));
	}
}

/* BEFORE INSERT OR UPDATE on webhook_dlq */
Datum
wahook_dlq_before_change(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = begin_trigger(fcinfo, "webhook_dlq_before_change");
	bool inserts = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
	HeapTuple tuple = inserts ? trigger->tg_trigtuple : trigger->tg_newtuple;
	TupleDesc desc = RelationGetDescr(trigger->tg_relation);
	TimestampTz now = GetCurrentTimestamp();

	if (!settled)
	{
		Entry entry = read_entry(tuple, desc);

		if (inserts)
		{
			wahook_add_entry(fcinfo, entry.values, entry.nulls);
			fill_in(&entry);
			settle_new(&entry, now);
		}
		else
		{
			Entry old = read_entry(trigger->tg_trigtuple, desc);

			settle_changed(&entry, &old, now);
		}
		tuple = SPI_copytuple(heap_form_tuple(desc, entry.values, entry.nulls));
	}
	note_due(tuple, desc);
	wahook_end();
	return PointerGetDatum(tuple);
}

/* The entry decides on the retry of its message. In strict order it is retried in its place. */
static void
leave_inbox(const Entry *entry, bool put_off)
{
	TimestampTz now = GetCurrentTimestamp();
	Datum values[] = {entry->values[Anum_dlq_whatsapp_message_id - 1], TimestampTzGetDatum(now),
					  entry->values[Anum_dlq_next_retry_at - 1],
					  Int32GetDatum(get_int(entry, Anum_dlq_retry_count))};
	TimestampTz due_at = put_off ? DatumGetTimestampTz(values[2]) : now;

	if (wahook_execute(put_off ? &put_off_plan : &leave_inbox_plan, values, NULL) > 0)
		wahook_note_work_at(WAHOOK_WORK_DELIVER, due_at);
}

/* What a change of an entry means for its message. old: null unless it was updated. */
static void
follow(const Entry *entry, const Entry *old, bool deleted)
{
	Datum values[] = {entry->values[Anum_dlq_whatsapp_message_id - 1],
					  TimestampTzGetDatum(GetCurrentTimestamp())};
	bool resolved = has_status(entry, "resolved");
	bool strict = get_service(entry) && wahook_is_strict(get_service(entry));

	if (is_null(entry, Anum_dlq_whatsapp_message_id))
		return;
	if (old != NULL && resolved != has_status(old, "resolved"))
		wahook_execute(&mark_message_plan, values, resolved ? NULL : " n");
	if (deleted)
	{
		if (strict || has_status(entry, "retrying"))
			leave_inbox(entry, false);
	}
	else if (has_status(entry, "pending") && strict)
		leave_inbox(entry, true);
	else if (!has_status(entry, "retrying") && (old == NULL || status_changed(entry, old)))
		leave_inbox(entry, false);
}

/* Whichever way an entry is changed, it is counted here. One that had been resolved is a new one. */
static void
count_change(const TriggerData *trigger, TupleDesc desc)
{
	Entry old;
	Entry new;
	bool is_new = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);

	if (!wahook_counts() || TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		return;
	new = read_entry(is_new ? trigger->tg_trigtuple : trigger->tg_newtuple, desc);
	if (!is_new)
	{
		old = read_entry(trigger->tg_trigtuple, desc);
		if (!status_changed(&new, &old))
			return;
		is_new = has_status(&old, "resolved");
	}
	wahook_count(WAHOOK_DEAD_LETTERS_ADDED, is_new);
	wahook_count(WAHOOK_DEAD_LETTERS_FAILED, has_status(&new, "failed"));
	wahook_count(discarding ? WAHOOK_DEAD_LETTERS_DISCARDED : WAHOOK_DEAD_LETTERS_RESOLVED,
				 has_status(&new, "resolved"));
}

/* AFTER INSERT OR UPDATE OR DELETE on webhook_dlq */
Datum
wahook_dlq_after_change(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = begin_trigger(fcinfo, "webhook_dlq_after_change");
	TupleDesc desc = RelationGetDescr(trigger->tg_relation);

	count_change(trigger, desc);
	if (!settled)
	{
		Entry entry = read_entry(trigger->tg_trigtuple, desc);

		if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		{
			Entry new = read_entry(trigger->tg_newtuple, desc);

			follow(&new, &entry, false);
		}
		else
			follow(&entry, NULL, TRIGGER_FIRED_BY_DELETE(trigger->tg_event));
	}
	wahook_end();
	return PointerGetDatum(NULL);
}
