/*
 * Reading a delivery: {"object", "entry": [{"id", "changes": [{"field", "value": {...}}]}]}.
 *
 * First the text is cut into the spans of its updates, in one pass (ingest/json_split.c); then
 * each is parsed on its own with jansson (ingest/update.c). Where the shape is not the documented
 * one, what can be told apart is read and the rest is kept as unreadable, never dropped.
 */
#include "ingest/envelope.h"

#include "ingest/json.h"
#include "ingest/update.h"

typedef struct Reader
{
	wahook_Delivery *delivery;
	int max_depth;
} Reader;

wahook_Update *
wahook_add_update(wahook_Delivery *delivery, wahook_UpdateClass class, const wahook_Change *change,
				  wahook_Span raw)
{
	wahook_Update *update;

	if (delivery->n == delivery->max)
	{
		delivery->max = Max(16, delivery->max * 2);
		delivery->updates = delivery->updates == NULL
								? palloc_array(wahook_Update, delivery->max)
								: repalloc_array(delivery->updates, wahook_Update, delivery->max);
	}
	update = &delivery->updates[delivery->n++];
	memset(update, 0, sizeof(*update));
	update->class = class;
	update->change = change;
	update->raw = raw;
	update->status_at = DT_NOBEGIN;
	return update;
}

void
wahook_add_unreadable(wahook_Delivery *delivery, const wahook_Change *change, wahook_Span raw,
					  const char *reason)
{
	wahook_Update *update = wahook_add_update(delivery, WAHOOK_UNREADABLE, change, raw);

	update->kind = "unreadable";
	update->reason = reason;
}

/* What is stored beside an update must not cost it: a part that jsonb can't hold is set apart. */
void
wahook_keep_storable(wahook_Delivery *delivery, const wahook_Change *change, wahook_Span *part,
					 int max_depth)
{
	const char *reason = part->len > 0 ? wahook_check_json(*part, max_depth) : NULL;

	if (reason == NULL)
		return;
	wahook_add_unreadable(delivery, change, *part, reason);
	part->len = 0;
}

/* Steps over a value that is not of the kind that must be here; null is nothing. */
static bool
skip_other(Reader *reader, wahook_Cursor *cursor, const wahook_Change *change, const char *reason)
{
	wahook_Span span;

	if (!wahook_skip_value(cursor, &span))
		return false;
	if (!wahook_span_is(span, "null"))
		wahook_add_unreadable(reader->delivery, change, span, reason);
	return true;
}

/* A change: {"field": ..., "value": {...}}. */
static bool
read_change(Reader *reader, wahook_Cursor *cursor, const wahook_Entry *entry)
{
	wahook_Change *change = palloc0(sizeof(wahook_Change));
	wahook_Span whole;
	bool more;

	change->entry = entry;
	if (wahook_kind_at(cursor) != '{')
		return skip_other(reader, cursor, change, "change is not an object");
	whole.start = cursor->at;
	wahook_enter(cursor, '{');
	for (;;)
	{
		wahook_Span key;
		wahook_Span value;

		if (!wahook_next_member(cursor, &key, &more))
			return false;
		if (!more)
			break;
		if (!wahook_skip_value(cursor, &value))
			return false;
		if (wahook_key_is(key, "field"))
			change->field = value;
		else if (wahook_key_is(key, "value"))
			change->value = value;
	}
	whole.len = cursor->at - whole.start;
	return wahook_read_change(reader->delivery, change, whole, reader->max_depth);
}

/* The rest of an array that has been entered. */
static bool
read_changes(Reader *reader, wahook_Cursor *cursor, const wahook_Entry *entry)
{
	bool more;

	for (;;)
	{
		if (!wahook_next_element(cursor, &more))
			return false;
		if (!more)
			return true;
		if (!read_change(reader, cursor, entry))
			return false;
	}
}

/* An entry: {"id": ..., "time": ..., "changes": [...]}. */
static bool
read_entry(Reader *reader, wahook_Cursor *cursor)
{
	wahook_Entry *entry = palloc0(sizeof(wahook_Entry));
	wahook_Change *change = palloc0(sizeof(wahook_Change));

	change->entry = entry;
	if (!wahook_enter(cursor, '{'))
		return skip_other(reader, cursor, NULL, "entry is not an object");
	for (;;)
	{
		wahook_Span key;
		wahook_Span value;
		bool more;

		if (!wahook_next_member(cursor, &key, &more))
			return false;
		if (!more)
			break;
		if (wahook_key_is(key, "changes"))
		{
			if (wahook_enter(cursor, '[')
					? !read_changes(reader, cursor, entry)
					: !skip_other(reader, cursor, change, "changes is not an array"))
				return false;
			continue;
		}
		if (!wahook_skip_value(cursor, &value))
			return false;
		if (wahook_key_is(key, "id"))
			entry->id = value;
		else if (wahook_key_is(key, "time"))
			entry->time = value;
	}
	wahook_keep_storable(reader->delivery, change, &entry->id, reader->max_depth);
	wahook_keep_storable(reader->delivery, change, &entry->time, reader->max_depth);
	entry->name = wahook_scalar_text(entry->id);
	return true;
}

static bool
read_entries(Reader *reader, wahook_Cursor *cursor)
{
	bool more;

	if (!wahook_enter(cursor, '['))
		return skip_other(reader, cursor, NULL, "entry is not an array");
	for (;;)
	{
		if (!wahook_next_element(cursor, &more))
			return false;
		if (!more)
			return true;
		if (!read_entry(reader, cursor))
			return false;
	}
}

/* Valid JSON that is no envelope is kept whole; what is not JSON is the caller's error. */
static const char *
read_other(wahook_Delivery *delivery, wahook_Span body, int max_depth, const char *reason)
{
	const char *why = wahook_check_json(body, max_depth);

	delivery->n = 0;
	if (why == NULL)
		wahook_add_unreadable(delivery, NULL, body, reason);
	return why;
}

const char *
wahook_read_delivery(const char *body, size_t len, int max_depth, wahook_Delivery *delivery)
{
	Reader reader = {delivery, max_depth};
	wahook_Span whole = {body, len};
	wahook_Span object = {NULL, 0};
	wahook_Cursor cursor = wahook_cursor(whole);
	bool has_entry = false;

	memset(delivery, 0, sizeof(*delivery));
	if (!wahook_enter(&cursor, '{'))
		return read_other(delivery, whole, max_depth, "not a JSON object");
	for (;;)
	{
		wahook_Span key;
		wahook_Span value;
		bool more;

		if (!wahook_next_member(&cursor, &key, &more))
			return "it ends too soon, or a key or comma is missing";
		if (!more)
			break;
		if (wahook_key_is(key, "entry"))
		{
			has_entry = true;
			if (!read_entries(&reader, &cursor))
				return "its entries end too soon, or a key or comma is missing";
			continue;
		}
		if (!wahook_skip_value(&cursor, &value))
			return "it ends in the middle of a value";
		if (wahook_key_is(key, "object"))
			object = value;
	}
	if (!wahook_at_end(&cursor))
		return "something follows the object";

	if (object.len > 0 && !wahook_span_is(object, "\"whatsapp_business_account\""))
		return read_other(delivery, whole, max_depth, "not a delivery of WhatsApp");
	if (!has_entry)
		return read_other(delivery, whole, max_depth, "no entry");

	/* A delivery that tells nothing is recorded all the same: somebody sent it. */
	if (delivery->n == 0)
	{
		const char *why = wahook_check_json(whole, max_depth);

		if (why != NULL)
			return why;
		wahook_add_update(delivery, WAHOOK_NOTICE, NULL, whole)->kind = "empty";
	}
	return NULL;
}

char *
wahook_normalize_identity(const char *identity)
{
	char *digits;
	char *to;

	if (identity == NULL)
		return NULL;
	digits = pstrdup(identity);
	to = digits;
	for (const char *from = identity; *from; from++)
	{
		if (*from >= '0' && *from <= '9')
			*to++ = *from;
		else if (strchr("+ -()", *from) == NULL)
			return digits[0] ? pstrdup(identity) : NULL;
	}
	*to = '\0';
	return to > digits ? digits : pstrdup(identity);
}
