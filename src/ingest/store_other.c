/*
 * Recording what is not a message: statuses, notices, and what could not be read.
 */
#include "ingest/store.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/columns.h"
#include "core/plan.h"
#include "core/uuid.h"
#include "ingest/payload.h"

/*
 * The statuses of one message that come in one delivery are merged before they are written: a row
 * can't be updated twice by one statement. By windows and not by a join, which these plans would
 * do as a nested loop.
 */
static wahook_Plan status_plan =
	{"WITH given AS ("
	 "SELECT s.*, @extschema@.webhook_status_rank(s.status) AS rank"
	 " FROM unnest($1, $2, $3, $4, $5, $6, $7)"
	 " AS s (whatsapp_message_id, recipient, type, status, status_at, phone_number_id, payload)"
	 "), furthest AS ("
	 "SELECT DISTINCT ON (whatsapp_message_id, recipient, type) *,"
	 " min(coalesce(status_at, $9)) FILTER (WHERE status = 'sent') OVER message AS sent_at,"
	 " min(coalesce(status_at, $9)) FILTER (WHERE status = 'delivered') OVER message"
	 " AS delivered_at,"
	 " min(coalesce(status_at, $9)) FILTER (WHERE status = 'read') OVER message AS read_at,"
	 " min(coalesce(status_at, $9)) FILTER (WHERE status = 'played') OVER message AS played_at,"
	 " min(coalesce(status_at, $9)) FILTER (WHERE status = 'failed') OVER message AS failed_at"
	 " FROM given WINDOW message AS (PARTITION BY whatsapp_message_id, recipient, type)"
	 " ORDER BY whatsapp_message_id, recipient, type, rank DESC, status_at DESC NULLS LAST)"
	 " INSERT INTO @extschema@.webhook_message_statuses AS s (whatsapp_message_id, recipient, type,"
	 " status, status_at, sent_at, delivered_at, read_at, played_at, failed_at, phone_number_id,"
	 " errors, payload, correlation_id)"
	 " SELECT f.whatsapp_message_id, f.recipient, f.type, f.status, f.status_at, f.sent_at,"
	 " f.delivered_at, f.read_at, f.played_at, f.failed_at, f.phone_number_id,"
	 " f.payload->'status'->'errors', f.payload, $8 FROM furthest f"
	 " ORDER BY f.whatsapp_message_id, f.recipient, f.type"
	 " ON CONFLICT (whatsapp_message_id, recipient, type) DO UPDATE SET"
	 " status = CASE WHEN @extschema@.webhook_status_advances(s.status, s.status_at,"
	 " excluded.status, excluded.status_at) THEN excluded.status ELSE s.status END,"
	 " status_at = CASE WHEN @extschema@.webhook_status_advances(s.status, s.status_at,"
	 " excluded.status, excluded.status_at) THEN excluded.status_at ELSE s.status_at END,"
	 " payload = CASE WHEN @extschema@.webhook_status_advances(s.status, s.status_at,"
	 " excluded.status, excluded.status_at) THEN excluded.payload ELSE s.payload END,"
	 " sent_at = coalesce(s.sent_at, excluded.sent_at),"
	 " delivered_at = coalesce(s.delivered_at, excluded.delivered_at),"
	 " read_at = coalesce(s.read_at, excluded.read_at),"
	 " played_at = coalesce(s.played_at, excluded.played_at),"
	 " failed_at = coalesce(s.failed_at, excluded.failed_at),"
	 " errors = coalesce(excluded.errors, s.errors), updated_at = $9"
	 " WHERE @extschema@.webhook_status_advances(s.status, s.status_at, excluded.status,"
	 " excluded.status_at)"
	 " OR (s.sent_at IS NULL AND excluded.sent_at IS NOT NULL)"
	 " OR (s.delivered_at IS NULL AND excluded.delivered_at IS NOT NULL)"
	 " OR (s.read_at IS NULL AND excluded.read_at IS NOT NULL)"
	 " OR (s.played_at IS NULL AND excluded.played_at IS NOT NULL)"
	 " OR (s.failed_at IS NULL AND excluded.failed_at IS NOT NULL)"
	 " RETURNING s.whatsapp_message_id, s.recipient, s.type",
	 9,
	 {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID,
	  JSONBARRAYOID, UUIDOID, TIMESTAMPTZOID}};

static wahook_Plan notice_plan =
	{"WITH given AS ("
	 "SELECT n.*, sha256(convert_to(n.payload::text, 'UTF8')) AS content_hash"
	 " FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY"
	 " AS n (id, kind, entry_id, phone_number_id, payload, n))"
	 " INSERT INTO @extschema@.webhook_notices (id, content_hash, kind, entry_id, phone_number_id,"
	 " payload, correlation_id, received_at)"
	 " SELECT DISTINCT ON (content_hash) id, content_hash, kind, entry_id, phone_number_id,"
	 " payload, $6, $7 FROM given ORDER BY content_hash, n"
	 " ON CONFLICT (content_hash) DO NOTHING RETURNING id",
	 7,
	 {UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID, UUIDOID,
	  TIMESTAMPTZOID}};

static wahook_Plan quarantine_plan =
	{"INSERT INTO @extschema@.webhook_quarantine AS q (content_hash, reason, body, entry_id,"
	 " correlation_id, received_at, last_seen_at)"
	 " SELECT DISTINCT ON (content_hash) content_hash, reason, body, entry_id, $4, $5, $5"
	 " FROM unnest($1, $2, $3) AS u (body, reason, entry_id)"
	 " CROSS JOIN LATERAL (SELECT sha256(convert_to(u.body, 'UTF8')) AS content_hash) h"
	 " ORDER BY content_hash"
	 " ON CONFLICT (content_hash) DO UPDATE SET seen_count = q.seen_count + 1, last_seen_at = $5",
	 5,
	 {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, UUIDOID, TIMESTAMPTZOID}};

static int
count_class(const wahook_Intake *intake, wahook_UpdateClass class)
{
	int n = 0;

	for (int i = 0; i < intake->n; i++)
		n += intake->outcomes[i].update->class == class;
	return n;
}

typedef struct StatusKey
{
	const char *whatsapp_message_id;
	const char *recipient;
	const char *type;
} StatusKey;

static int
compare_status_keys(const void *a, const void *b)
{
	const StatusKey *left = a;
	const StatusKey *right = b;
	int order = strcmp(left->whatsapp_message_id, right->whatsapp_message_id);

	if (order == 0)
		order = strcmp(left->recipient, right->recipient);
	return order != 0 ? order : strcmp(left->type, right->type);
}

/* The keys of the rows that the last statement wrote, sorted. */
static StatusKey *
written_statuses(uint64 n)
{
	StatusKey *keys = palloc_array(StatusKey, Max(n, 1));

	for (uint64 i = 0; i < n; i++)
	{
		keys[i].whatsapp_message_id = wahook_result_text(i, 1);
		keys[i].recipient = wahook_result_text(i, 2);
		keys[i].type = wahook_result_text(i, 3);
	}
	qsort(keys, n, sizeof(StatusKey), compare_status_keys);
	return keys;
}

void
wahook_store_statuses(wahook_Intake *intake)
{
	int n = count_class(intake, WAHOOK_STATUS);
	wahook_Column columns[7];
	static const Oid types[] = {TEXTOID,        TEXTOID, TEXTOID, TEXTOID,
								TIMESTAMPTZOID, TEXTOID, JSONBOID};
	Datum values[9];
	StatusKey *keys;
	uint64 written;

	if (n == 0)
		return;
	for (size_t i = 0; i < lengthof(types); i++)
		wahook_start_column(&columns[i], types[i], n);
	for (int i = 0; i < intake->n; i++)
	{
		wahook_Update *update = intake->outcomes[i].update;

		if (update->class != WAHOOK_STATUS)
			continue;
		wahook_add_text(&columns[0], update->id);
		wahook_add_text(&columns[1], update->recipient);
		wahook_add_text(&columns[2], update->status_type);
		wahook_add_text(&columns[3], update->status);
		wahook_add_value(&columns[4], TimestampTzGetDatum(update->status_at),
						 update->status_at == DT_NOBEGIN);
		wahook_add_text(&columns[5], update->change->phone_number_id);
		wahook_add_value(&columns[6],
						 wahook_build_payload("status", update->raw, "metadata",
											  update->change->metadata, (const char *) NULL),
						 false);
	}
	for (size_t i = 0; i < lengthof(types); i++)
		values[i] = wahook_finish_column(&columns[i]);
	values[7] = UUIDPGetDatum(&intake->correlation_id);
	values[8] = TimestampTzGetDatum(intake->now);
	written = wahook_execute(&status_plan, values, NULL);
	keys = written_statuses(written);
	for (int i = 0; i < intake->n; i++)
	{
		const wahook_Update *update = intake->outcomes[i].update;
		StatusKey key = {update->id, update->recipient, update->status_type};

		if (update->class == WAHOOK_STATUS)
			intake->outcomes[i].outcome =
				bsearch(&key, keys, written, sizeof(StatusKey), compare_status_keys) ? "recorded"
																					 : "duplicate";
	}
}

/* A notice's outcome is found again by the id it was to be written with. */
typedef struct Notice
{
	pg_uuid_t id;
	wahook_Outcome *outcome;
} Notice;

static int
compare_notices(const void *a, const void *b)
{
	return memcmp(&((const Notice *) a)->id, &((const Notice *) b)->id, sizeof(pg_uuid_t));
}

/* The business itself reported a new user id: the identity moves, there is no message. */
static void
move_identities(wahook_Intake *intake)
{
	wahook_Sender *senders = palloc0_array(wahook_Sender, Max(intake->n, 1));
	int n = 0;

	for (int i = 0; i < intake->n; i++)
	{
		const wahook_Update *update = intake->outcomes[i].update;

		if (update->class != WAHOOK_NOTICE || update->new_user_id == NULL ||
			strcmp(intake->outcomes[i].outcome, "recorded") != 0)
			continue;
		senders[n].phone_number_id = update->change->phone_number_id;
		senders[n].phone = update->phone;
		senders[n].user_id = update->user_id;
		senders[n++].new_user_id = update->new_user_id;
	}
	if (n > 0)
		wahook_write_senders(wahook_look_up_senders(senders, n));
}

void
wahook_store_notices(wahook_Intake *intake)
{
	int n = count_class(intake, WAHOOK_NOTICE);
	static const Oid types[] = {UUIDOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID};
	wahook_Column columns[lengthof(types)];
	Datum values[7];
	Notice *notices;
	Notice *next;
	uint64 written;

	if (n == 0)
		return;
	for (size_t i = 0; i < lengthof(types); i++)
		wahook_start_column(&columns[i], types[i], n);
	notices = palloc_array(Notice, n);
	next = notices;
	for (int i = 0; i < intake->n; i++)
	{
		const wahook_Update *update = intake->outcomes[i].update;
		static const wahook_Entry no_entry = {0};
		static const wahook_Change nothing = {.entry = &no_entry};
		const wahook_Change *change = update->change ? update->change : &nothing;

		if (update->class != WAHOOK_NOTICE)
			continue;
		intake->outcomes[i].outcome = "duplicate";
		next->outcome = &intake->outcomes[i];
		wahook_new_uuid(&next->id);
		wahook_add_uuid(&columns[0], &next->id);
		next++;
		wahook_add_text(&columns[1], update->kind);
		wahook_add_text(&columns[2], change->entry->name);
		wahook_add_text(&columns[3], change->phone_number_id);
		wahook_add_value(&columns[4],
						 wahook_build_payload("entry_id", change->entry->id, "time",
											  change->entry->time, "field", change->field, "value",
											  update->raw, (const char *) NULL),
						 false);
	}
	for (size_t i = 0; i < lengthof(types); i++)
		values[i] = wahook_finish_column(&columns[i]);
	values[5] = UUIDPGetDatum(&intake->correlation_id);
	values[6] = TimestampTzGetDatum(intake->now);
	written = wahook_execute(&notice_plan, values, NULL);
	qsort(notices, n, sizeof(Notice), compare_notices);
	for (uint64 i = 0; i < written; i++)
	{
		Notice key = {0};
		const Notice *notice;
		bool isnull;

		key.id = *DatumGetUUIDP(wahook_result(i, 1, &isnull));
		notice = bsearch(&key, notices, n, sizeof(Notice), compare_notices);
		/* A trigger of the user's may have given the row another id. */
		if (notice != NULL)
			notice->outcome->outcome = "recorded";
	}
	move_identities(intake);
}

void
wahook_store_unreadable(wahook_Intake *intake)
{
	int n = count_class(intake, WAHOOK_UNREADABLE);
	wahook_Column bodies;
	wahook_Column reasons;
	wahook_Column entries;
	Datum values[5];

	if (n == 0)
		return;
	wahook_start_column(&bodies, TEXTOID, n);
	wahook_start_column(&reasons, TEXTOID, n);
	wahook_start_column(&entries, TEXTOID, n);
	for (int i = 0; i < intake->n; i++)
	{
		const wahook_Update *update = intake->outcomes[i].update;

		if (update->class != WAHOOK_UNREADABLE)
			continue;
		intake->outcomes[i].outcome = "quarantined";
		wahook_add_value(&bodies,
						 PointerGetDatum(
							 cstring_to_text_with_len(update->raw.start, update->raw.len)),
						 false);
		wahook_add_text(&reasons, update->reason);
		wahook_add_text(&entries, update->change ? update->change->entry->name : NULL);
	}
	values[0] = wahook_finish_column(&bodies);
	values[1] = wahook_finish_column(&reasons);
	values[2] = wahook_finish_column(&entries);
	values[3] = UUIDPGetDatum(&intake->correlation_id);
	values[4] = TimestampTzGetDatum(intake->now);
	wahook_execute(&quarantine_plan, values, NULL);
}
