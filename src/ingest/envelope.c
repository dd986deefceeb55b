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

/* Where an array must be: each of its elements by read, anything else but null is unreadable. */
static bool
read_array(Reader *reader, wahook_Cursor *cursor, wahook_Change *context, const char *reason,
		   bool (*read)(Reader *, wahook_Cursor *, wahook_Change *))
{
	wahook_Span span;
	bool more;

	if (wahook_kind_at(cursor) != '[')
	{
		if (!wahook_skip_value(cursor, &span))
			return false;
		if (!wahook_span_is(span, "null"))
			wahook_add_unreadable(reader->delivery, context, span, reason);
		return true;
	}
	wahook_enter(cursor, '[');
	while (wahook_next_element(cursor, &more) && more)
		if (!read(reader, cursor, context))
			return false;
	return !more && cursor->at[-1] == ']';
}

/* A change: {"field": ..., "value": {...}}. */
static bool
read_change(Reader *reader, wahook_Cursor *cursor, wahook_Change *entry)
{
	wahook_Change *change = palloc0(sizeof(wahook_Change));
	wahook_Span whole = {cursor->at, 0};
	bool more;

	change->entry_id = entry->entry_id;
	change->entry_time = entry->entry_time;
	wahook_kind_at(cursor);
	whole.start = cursor->at;
	if (!wahook_enter(cursor, '{'))
	{
		if (!wahook_skip_value(cursor, &whole))
			return false;
		if (!wahook_span_is(whole, "null"))
			wahook_add_unreadable(reader->delivery, change, whole, "change is not an object");
		return true;
	}
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

/* An entry: {"id": ..., "time": ..., "changes": [...]}. */
static bool
read_entry(Reader *reader, wahook_Cursor *cursor, wahook_Change *unused)
{
	wahook_Change *entry = palloc0(sizeof(wahook_Change));
	wahook_Span changes = {NULL, 0};
	wahook_Span whole;
	wahook_Cursor inside;
	bool more;

	if (!wahook_skip_value(cursor, &whole))
		return false;
	inside = wahook_cursor(whole);
	if (!wahook_enter(&inside, '{'))
	{
		if (!wahook_span_is(whole, "null"))
			wahook_add_unreadable(reader->delivery, NULL, whole, "entry is not an object");
		return true;
	}
	for (;;)
	{
		wahook_Span key;
		wahook_Span value;

		if (!wahook_next_member(&inside, &key, &more))
			return false;
		if (!more)
			break;
		if (!wahook_skip_value(&inside, &value))
			return false;
		if (wahook_key_is(key, "id"))
			entry->entry_id = value;
		else if (wahook_key_is(key, "time"))
			entry->entry_time = value;
		else if (wahook_key_is(key, "changes"))
			changes = value;
	}
	if (changes.len == 0)
		return true;
	inside = wahook_cursor(changes);
	return read_array(reader, &inside, entry, "changes is not an array", read_change);
}

/* Valid JSON that is no envelope is kept whole; what is not JSON is the caller's error. */
static const char *
read_other(wahook_Delivery *delivery, wahook_Span body, int max_depth, const char *reason)
{
	const char *why = wahook_check_json(body, max_depth);

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
	wahook_Span entry = {NULL, 0};
	wahook_Cursor cursor = wahook_cursor(whole);
	bool more = true;

	memset(delivery, 0, sizeof(*delivery));
	if (!wahook_enter(&cursor, '{'))
		return read_other(delivery, whole, max_depth, "not a JSON object");
	for (;;)
	{
		wahook_Span key;
		wahook_Span value;

		if (!wahook_next_member(&cursor, &key, &more))
			return "it ends too soon, or a key or comma is missing";
		if (!more)
			break;
		if (!wahook_skip_value(&cursor, &value))
			return "it ends in the middle of a value";
		if (wahook_key_is(key, "object"))
			object = value;
		else if (wahook_key_is(key, "entry"))
			entry = value;
	}
	if (!wahook_at_end(&cursor))
		return "something follows the object";

	if (object.len > 0 && !wahook_span_is(object, "\"whatsapp_business_account\""))
		return read_other(delivery, whole, max_depth, "not a delivery of WhatsApp");
	if (entry.len == 0)
		return read_other(delivery, whole, max_depth, "no entry");
	cursor = wahook_cursor(entry);
	if (!read_array(&reader, &cursor, NULL, "entry is not an array", read_entry))
		return "its entries are malformed";

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
