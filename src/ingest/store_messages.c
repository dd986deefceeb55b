/*
 * Accepting messages: once each, under the conversation of their sender, in order of arrival.
 */
#include "ingest/store.h"

#include "lib/qunique.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"

#include "core/columns.h"
#include "core/event.h"
#include "core/plan.h"
#include "core/table.h"
#include "core/tables.h"
#include "core/uuid.h"
#include "ingest/changes.h"
#include "ingest/config.h"
#include "ingest/erased.h"
#include "ingest/intake_limit.h"
#include "ingest/payload.h"
#include "ingest/queue.h"
#include "ingest/routing.h"

static wahook_Plan known_plan =
	{"SELECT m.n::integer, p.conversation_id, p.service FROM unnest($1) WITH ORDINALITY AS m (id, n)"
	 " JOIN @extschema@.processed_webhook_messages p ON p.whatsapp_message_id = m.id",
	 1,
	 {TEXTARRAYOID}};

static int
by_message_id(const void *a, const void *b)
{
	const wahook_Outcome *const *left = a;
	const wahook_Outcome *const *right = b;
	int order = strcmp((*left)->update->id, (*right)->update->id);

	if (order != 0)
		return order;
	return *left < *right ? -1 : 1; /* they lie in one array, in order of arrival */
}

int
wahook_set_decided_apart(wahook_Outcome **messages, int n)
{
	wahook_Outcome **decided = palloc_array(wahook_Outcome *, n);
	int nleft = 0;
	int ndecided = 0;

	for (int i = 0; i < n; i++)
	{
		if (messages[i]->outcome == NULL)
			messages[nleft++] = messages[i];
		else
			decided[ndecided++] = messages[i];
	}
	memcpy(&messages[nleft], decided, sizeof(wahook_Outcome *) * ndecided);
	return nleft;
}

/*
 * Moves the messages that were accepted before, or that came earlier in this delivery, behind the
 * others. Returns how many others there are.
 */
static int
set_known_apart(wahook_Outcome **messages, int n)
{
	wahook_Outcome **sorted = palloc_array(wahook_Outcome *, n);
	wahook_Column ids;
	Datum values[1];
	uint64 known;

	wahook_start_column(&ids, TEXTOID, n);
	for (int i = 0; i < n; i++)
	{
		wahook_add_text(&ids, messages[i]->update->id);
		sorted[i] = messages[i];
	}
	qsort(sorted, n, sizeof(wahook_Outcome *), by_message_id);
	for (int i = 1; i < n; i++)
		if (strcmp(sorted[i - 1]->update->id, sorted[i]->update->id) == 0)
		{
			sorted[i]->outcome = "duplicate";
			sorted[i]->repeats = sorted[i - 1];
		}
	values[0] = wahook_finish_column(&ids);
	known = wahook_execute(&known_plan, values, NULL);
	for (uint64 i = 0; i < known; i++)
	{
		bool isnull;
		wahook_Outcome *message = messages[DatumGetInt32(wahook_result(i, 1, &isnull)) - 1];
		Datum id = wahook_result(i, 2, &isnull);

		message->outcome = "duplicate";
		message->service = wahook_result_text(i, 3);
		message->has_conversation = !isnull;
		if (!isnull)
			message->conversation_id = *DatumGetUUIDP(id);
	}
	return wahook_set_decided_apart(messages, n);
}

static wahook_Sender *
senders_of(wahook_Outcome **messages, int n)
{
	wahook_Sender *senders = palloc0_array(wahook_Sender, Max(n, 1));

	for (int i = 0; i < n; i++)
	{
		const wahook_Update *update = messages[i]->update;

		senders[i].phone_number_id = update->change->phone_number_id;
		senders[i].phone = update->phone;
		senders[i].user_id = update->user_id;
		senders[i].new_phone = update->new_phone;
		senders[i].new_user_id = update->new_user_id;
	}
	return senders;
}

/*
 * Finds the conversations of the messages. Returns how many messages are left to be accepted, at
 * the front. An old message that is delivered again must not change who leads where: its sender
 * may have another number by now, or the number another owner. So before anything is changed, the
 * messages that are known already are set apart; where nothing is, accepting tells them.
 */
static int
resolve_senders(wahook_Outcome **messages, int n)
{
	wahook_Sender *senders = senders_of(messages, n);
	wahook_Resolver *resolver = wahook_look_up_senders(senders, n);

	if (wahook_senders_change(resolver))
	{
		int nnew = set_known_apart(messages, n);

		if (nnew < n)
		{
			wahook_forget_senders(resolver);
			n = nnew;
			senders = senders_of(messages, n);
			resolver = wahook_look_up_senders(senders, n);
		}
	}
	wahook_write_senders(resolver);
	for (int i = 0; i < n; i++)
	{
		messages[i]->has_conversation = true;
		messages[i]->conversation_id = senders[i].conversation_id;
		messages[i]->announce = senders[i].announce;
	}
	return n;
}

/* Most messages of a delivery are for one service: its name as a value, made once. */
typedef struct ServiceDatum
{
	const char *name;
	Datum value;
} ServiceDatum;

static Datum
service_datum(ServiceDatum *last, const char *name)
{
	if (last->name != name)
	{
		last->name = name;
		last->value = CStringGetTextDatum(name);
	}
	return last->value;
}

/* Whoever receives and claims in one session looks for it soon. */
static void
note_place(wahook_Table *messages, const pg_uuid_t *id, const ItemPointerData *tid)
{
	ScanKeyData key;

	ScanKeyInit(&key, Anum_message_id, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
	wahook_note_row(&messages->rows, &key, 1, tid);
}

/*
 * Inserts the messages that are not there yet; the others are duplicates. In the order of the
 * message ids, so that two deliveries with the same messages in another order can't deadlock. This
 * is the one place where intake waits: for another transaction that is receiving the very same
 * message.
 */
static void
accept(wahook_Intake *intake, wahook_Outcome **messages, int n)
{
	wahook_Outcome **sorted = palloc_array(wahook_Outcome *, n);
	wahook_NewRow *rows = palloc_array(wahook_NewRow, n);
	wahook_Table table;
	Datum values[WAHOOK_MAX_COLUMNS] = {0};
	bool nulls[WAHOOK_MAX_COLUMNS] = {false};
	ServiceDatum service = {0};

	for (int i = 0; i < n; i++)
		sorted[i] = messages[i];
	qsort(sorted, n, sizeof(wahook_Outcome *), by_message_id);

	wahook_open_table_for_new_rows(&table, "processed_webhook_messages",
								   "processed_webhook_messages_pkey");
	values[Anum_message_correlation_id - 1] = UUIDPGetDatum(&intake->correlation_id);
	values[Anum_message_received_at - 1] = TimestampTzGetDatum(intake->now);
	for (int attnum = Anum_message_processed_at; attnum <= Natts_message; attnum++)
		nulls[attnum - 1] = true;
	for (int i = 0; i < n; i++)
	{
		wahook_Outcome *message = sorted[i];

		CHECK_FOR_INTERRUPTS();
		message->due_at = intake->now;
		rows[i].inserted = false;
		if (i > 0 && strcmp(message->update->id, sorted[i - 1]->update->id) == 0)
			continue;
		wahook_new_uuid(&message->message_id);
		values[Anum_message_id - 1] = UUIDPGetDatum(&message->message_id);
		values[Anum_message_whatsapp_message_id - 1] = CStringGetTextDatum(message->update->id);
		values[Anum_message_conversation_id - 1] = UUIDPGetDatum(&message->conversation_id);
		values[Anum_message_kind - 1] = CStringGetTextDatum(message->update->kind);
		values[Anum_message_service - 1] = service_datum(&service, message->service);
		values[Anum_message_payload - 1] = message->payload;
		wahook_add_new_row(&table, values, nulls, Natts_message, &rows[i]);
	}
	wahook_write_added(&table);
	for (int i = 0; i < n; i++)
	{
		sorted[i]->accepted = rows[i].inserted;
		sorted[i]->outcome = rows[i].inserted ? "accepted" : "duplicate";
		if (rows[i].inserted)
			note_place(&table, &sorted[i]->message_id, &rows[i].placed);
	}
	wahook_close_table(&table);
}

static void
set_text(Datum *values, bool *nulls, int attnum, const char *value)
{
	nulls[attnum - 1] = value == NULL;
	values[attnum - 1] = value ? CStringGetTextDatum(value) : (Datum) 0;
}

/* The accepted messages into the inbox, in the order of the delivery. */
static void
enqueue(wahook_Intake *intake, wahook_Outcome **messages, int n)
{
	Datum values[WAHOOK_MAX_COLUMNS];
	bool nulls[WAHOOK_MAX_COLUMNS] = {false};
	wahook_Table inbox;
	ServiceDatum service = {0};

	wahook_open_table(&inbox, "webhook_inbox", "webhook_inbox_pkey");
	values[Anum_inbox_attempts - 1] = Int32GetDatum(0);
	values[Anum_inbox_losses - 1] = Int32GetDatum(0);
	for (int i = 0; i < n; i++)
	{
		const wahook_Update *update = messages[i]->update;
		bool announce = messages[i]->announce;

		if (!messages[i]->accepted || messages[i]->dropped)
			continue;
		values[Anum_inbox_enqueued_at - 1] = TimestampTzGetDatum(messages[i]->due_at);
		values[Anum_inbox_service - 1] = service_datum(&service, messages[i]->service);
		values[Anum_inbox_conversation_id - 1] = UUIDPGetDatum(&messages[i]->conversation_id);
		values[Anum_inbox_seq - 1] = wahook_next_value(&inbox);
		values[Anum_inbox_message_id - 1] = UUIDPGetDatum(&messages[i]->message_id);
		set_text(values, nulls, Anum_inbox_user_id,
				 !announce             ? NULL
				 : update->new_user_id ? update->new_user_id
									   : update->user_id);
		set_text(values, nulls, Anum_inbox_whatsapp_phone,
				 !announce           ? NULL
				 : update->new_phone ? update->new_phone
									 : update->phone);
		wahook_add_row(&inbox, values, nulls, Natts_inbox);
	}
	wahook_close_table(&inbox);
}

/* A conversation that a service is to look at, and when. */
typedef struct Look
{
	const pg_uuid_t *conversation_id;
	const char *service;
	TimestampTz due_at;
} Look;

static int
compare_lines(const void *a, const void *b)
{
	const Look *left = a;
	const Look *right = b;
	int order = memcmp(left->conversation_id, right->conversation_id, sizeof(pg_uuid_t));

	if (order != 0 || left->service == right->service)
		return order;
	return strcmp(left->service, right->service);
}

static int
compare_looks(const void *a, const void *b)
{
	const Look *left = a;
	const Look *right = b;
	int order = compare_lines(a, b);

	return order != 0 ? order : (left->due_at > right->due_at) - (left->due_at < right->due_at);
}

static int
compare_times(const void *a, const void *b)
{
	const Look *left = a;
	const Look *right = b;
	int order = left->service == right->service ? 0 : strcmp(left->service, right->service);

	if (order == 0)
		order = (left->due_at > right->due_at) - (left->due_at < right->due_at);
	return order != 0 ? order : compare_lines(a, b);
}

static bool
at_same_time(const Look *left, const Look *right)
{
	return left->due_at == right->due_at &&
		   (left->service == right->service || strcmp(left->service, right->service) == 0);
}

/* Queue rows for looks, which are sorted: those of one service and time share rows. */
static void
queue_looks(const Look *looks, int n)
{
	ServiceDatum service = {0};
	wahook_Table queue;
	int end;

	wahook_open_queue(&queue);
	for (int first = 0; first < n; first = end)
	{
		pg_uuid_t ids[WAHOOK_MAX_QUEUED];

		for (end = first;
			 end < n && end - first < WAHOOK_MAX_QUEUED && at_same_time(&looks[first], &looks[end]);
			 end++)
			ids[end - first] = *looks[end].conversation_id;
		wahook_queue_conversations(&queue, ids, end - first,
								   service_datum(&service, looks[first].service),
								   looks[first].due_at);
	}
	wahook_close_table(&queue);
}

/*
 * Queues each conversation that got a message, for each service; that commits together with the
 * message. It is for when the first of them is due, or there could be a quiet moment.
 */
void
wahook_queue_messages(const wahook_Intake *intake)
{
	Look *looks = palloc_array(Look, Max(intake->n, 1));
	int n = 0;

	for (int i = 0; i < intake->n; i++)
	{
		const wahook_Outcome *outcome = &intake->outcomes[i];

		if (outcome->accepted && !outcome->dropped && !outcome->claimed)
			looks[n++] = (Look){&outcome->conversation_id, outcome->service, outcome->due_at};
	}
	if (n == 0)
		return;
	qsort(looks, n, sizeof(Look), compare_looks);
	n = qunique(looks, n, sizeof(Look), compare_lines);
	for (int i = 0; i < n; i++)
		looks[i].due_at += wahook_debounce_us(looks[i].service);
	qsort(looks, n, sizeof(Look), compare_times);
	queue_looks(looks, n);
}

/* A message that repeats one of the same delivery has its conversation. */
static void
name_repeated(wahook_Outcome **messages, int n)
{
	for (int i = 0; i < n; i++)
	{
		const wahook_Outcome *first = messages[i]->repeats;

		while (first && first->repeats)
			first = first->repeats;
		if (first && !messages[i]->has_conversation)
		{
			messages[i]->has_conversation = first->has_conversation;
			messages[i]->conversation_id = first->conversation_id;
			messages[i]->service = first->service;
		}
	}
}

static void
log_duplicates(const wahook_Intake *intake, wahook_Outcome **messages, int n)
{
	for (int i = 0; i < n; i++)
	{
		wahook_Event event;

		if (messages[i]->accepted)
			continue;
		wahook_event_begin(&event, "WEBHOOK_DUPLICATE_DETECTED", WAHOOK_EVENT_DETAIL);
		wahook_event_text(&event, "whatsapp_message_id", messages[i]->update->id);
		wahook_event_uuid(&event, "correlation_id", &intake->correlation_id);
		wahook_event_end(&event);
	}
}

void
wahook_store_messages(wahook_Intake *intake)
{
	wahook_Outcome **messages = palloc_array(wahook_Outcome *, Max(intake->n, 1));
	int n = 0;
	int nleft;
	int nnew;

	for (int i = 0; i < intake->n; i++)
		if (intake->outcomes[i].update->class == WAHOOK_MESSAGE)
			messages[n++] = &intake->outcomes[i];
	if (n == 0)
		return;
	nleft = wahook_set_erased_apart(messages, n);
	for (int i = 0; i < nleft; i++)
	{
		const wahook_Update *update = messages[i]->update;

		messages[i]->payload =
			wahook_build_payload("message", update->raw, "contact", update->contact, "metadata",
								 update->change->metadata, (const char *) NULL);
	}
	nnew = nleft > 0 ? resolve_senders(messages, nleft) : 0;
	if (nnew > 0)
	{
		wahook_route_messages(messages, nnew);
		accept(intake, messages, nnew);
		wahook_refuse_erased(messages, nnew);
		wahook_limit_intake(intake, messages, nnew);
		wahook_clear_states(messages, nnew);
		enqueue(intake, messages, nnew);
		wahook_note_changes(intake, messages, nnew);
	}
	name_repeated(&messages[nnew], n - nnew);
	log_duplicates(intake, messages, n);
}
