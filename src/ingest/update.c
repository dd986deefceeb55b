/*
 * Understanding the updates of one change: messages, statuses, calls, echoes, and everything else
 * as notices. What a kind is called is written here and nowhere else.
 */
#include "ingest/update.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "ingest/contacts.h"
#include "ingest/json.h"

/* The arrays of a value whose elements are updates of their own, and the rest of the value. */
typedef struct Value
{
	wahook_Span messages;
	wahook_Span statuses;
	wahook_Span calls;
	wahook_Span echoes;
	wahook_Span id_updates;
	bool has_rest; /* members that are none of these, nor what they share */
} Value;

typedef struct Context
{
	wahook_Delivery *delivery;
	wahook_Change *change;
	int max_depth;
	wahook_Contacts contacts;
} Context;

typedef void (*ElementReader)(Context *, wahook_Span);

/* Names under which the same thing may be found. */
#define MAX_KEYS 4

/* Of milliseconds: those of any more digits can be past the last time that PostgreSQL knows. */
#define MAX_TIMESTAMP_DIGITS 15

/* Dots join a kind's parts; what Meta may invent tomorrow is bounded. */
static const char *
make_kind(const char *first, const char *second)
{
	char *kind = second == NULL ? pstrdup(first) : psprintf("%s.%s", first, second);

	if (strlen(kind) > WAHOOK_MAX_KIND_LENGTH)
		kind[pg_mbcliplen(kind, strlen(kind), WAHOOK_MAX_KIND_LENGTH)] = '\0';
	return kind;
}

static char *
text_of(wahook_Span object, const char *key)
{
	return wahook_json_text(object, key, WAHOOK_MAX_IDENTITY_LENGTH);
}

/* Of the first value that has one. */
static char *
first_value_text(const wahook_Span *values, int n)
{
	char *text = NULL;

	for (int i = 0; i < n && text == NULL; i++)
		text = wahook_value_text(values[i], WAHOOK_MAX_IDENTITY_LENGTH);
	return text;
}

/* Of the first of up to MAX_KEYS members that has one. */
static char *
first_text(wahook_Span object, const char *const *keys, int n)
{
	wahook_Span values[MAX_KEYS];

	Assert(n <= MAX_KEYS);
	wahook_find_members(object, keys, values, n);
	return first_value_text(values, n);
}

/* Seconds since 1970, as a string or a number; milliseconds too. Anything else is not known. */
static TimestampTz
read_timestamp(wahook_Span object)
{
	const int64 epoch_s = (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (int64) SECS_PER_DAY;
	char *text = wahook_json_text(object, "timestamp", MAX_TIMESTAMP_DIGITS);
	int64 value;

	if (text == NULL || strlen(text) > MAX_TIMESTAMP_DIGITS ||
		strspn(text, "0123456789") != strlen(text))
		return DT_NOBEGIN;
	value = strtoll(text, NULL, 10);
	if (strlen(text) > 12)
		return (value - epoch_s * 1000) * 1000;
	return (value - epoch_s) * USECS_PER_SEC;
}

/* The members of a message that are read. Several may hold the sender's user id. */
typedef enum MessagePart
{
	PART_ID,
	PART_TYPE,
	PART_SYSTEM,
	PART_FROM,
	PART_USER_ID,
	PARTS = PART_USER_ID + MAX_KEYS
} MessagePart;

static void
find_parts(wahook_Span message, wahook_Span parts[PARTS])
{
	static const char *const keys[PARTS] = {"id",           "type",
											"system",       "from",
											"from_user_id", "user_id",
											"from_bsuid",   "business_scoped_user_id"};

	wahook_find_members(message, keys, parts, PARTS);
}

static void
read_sender(Context *context, wahook_Update *update, const wahook_Span parts[PARTS])
{
	char *from =
		wahook_normalize_identity(wahook_value_text(parts[PART_FROM], WAHOOK_MAX_IDENTITY_LENGTH));
	char *user_id = first_value_text(&parts[PART_USER_ID], MAX_KEYS);
	const wahook_Contact *contact;

	if (from && !(from[0] >= '0' && from[0] <= '9') && user_id == NULL)
	{
		user_id = from; /* "from" itself can hold a user id */
		from = NULL;
	}
	contact = wahook_find_contact(&context->contacts, from, user_id);
	if (from == NULL && user_id == NULL && context->contacts.n == 1)
		contact =
			&context->contacts.all[0]; /* no name in the message, and only one it can be from */
	if (contact)
	{
		update->contact = contact->raw;
		if (from == NULL)
			from = contact->phone;
		if (user_id == NULL)
			user_id = contact->user_id;
	}
	update->phone = from;
	update->user_id = user_id;
}

/* A system message says under which number or id its sender is known from now on. */
static void
read_change_of_identity(wahook_Update *update, wahook_Span system)
{
	static const char *const phone_keys[] = {"wa_id", "new_wa_id"};
	const char *type = wahook_json_string(system, "type");

	if (type == NULL ||
		(strncmp(type, "user_changed_", 13) != 0 && strcmp(type, "customer_changed_number") != 0))
		return;
	update->new_phone =
		wahook_normalize_identity(first_text(system, phone_keys, lengthof(phone_keys)));
	update->new_user_id = text_of(system, "user_id");
	if (update->phone == NULL && update->user_id == NULL)
	{
		update->phone = update->new_phone;
		update->user_id = update->new_user_id;
	}
}

static const char *
message_kind(const wahook_Change *change, wahook_Span message, const wahook_Span parts[PARTS])
{
	const char *type = wahook_value_string(parts[PART_TYPE]);
	const char *kind;

	if (type == NULL || type[0] == '\0')
		type = "unknown";
	if (strcmp(type, "interactive") == 0 || strcmp(type, "system") == 0)
		kind = make_kind(type, wahook_json_string(wahook_member(message, type), "type"));
	else if (strcmp(type, "audio") == 0 &&
			 wahook_span_is(wahook_member(wahook_member(message, type), "voice"), "true"))
		kind = "audio.voice";
	else if (strcmp(type, "reaction") == 0 &&
			 text_of(wahook_member(message, type), "emoji") == NULL)
		kind = "reaction.removed";
	else
		kind = make_kind(type, NULL);
	if (change->field_name && strcmp(change->field_name, "history") == 0)
		kind = make_kind("history", kind);
	return kind;
}

static void
read_message(Context *context, wahook_Span message)
{
	wahook_Span parts[PARTS];
	wahook_Update *update;
	char *id;

	find_parts(message, parts);
	id = wahook_value_text(parts[PART_ID], WAHOOK_MAX_MESSAGE_ID_LENGTH);
	if (id == NULL)
	{
		wahook_add_unreadable(context->delivery, context->change, message,
							  "message without a usable id");
		return;
	}
	update = wahook_add_update(context->delivery, WAHOOK_MESSAGE, context->change, message);
	update->id = id;
	update->kind = message_kind(context->change, message, parts);
	read_sender(context, update, parts);
	read_change_of_identity(update, parts[PART_SYSTEM]);
	if (update->phone == NULL && update->user_id == NULL)
	{
		update->class = WAHOOK_UNREADABLE;
		update->reason = "message without a sender";
	}
}

static void
read_status(Context *context, wahook_Span status)
{
	static const char *const participant_keys[] = {"recipient_participant_id",
												   "participant_recipient_id",
												   "recipient_participant_user_id"};
	char *id = wahook_json_text(status, "id", WAHOOK_MAX_MESSAGE_ID_LENGTH);
	char *name = wahook_json_text(status, "status", WAHOOK_MAX_KIND_LENGTH);
	char *participant = first_text(status, participant_keys, lengthof(participant_keys));
	char *type = text_of(status, "type");
	wahook_Update *update;

	if (id == NULL || name == NULL)
	{
		wahook_add_unreadable(context->delivery, context->change, status,
							  id ? "status without a name" : "status without a usable id");
		return;
	}
	update = wahook_add_update(context->delivery, WAHOOK_STATUS, context->change, status);
	update->id = id;
	update->status = name;
	update->status_type = type ? make_kind(type, NULL) : "";
	update->recipient = participant ? participant : "";
	update->status_at = read_timestamp(status);
	update->kind = make_kind("status", type ? make_kind(type, name) : name);
}

/* A notice with an id of its own: a call, or what the business itself sent from its app. */
static void
read_item(Context *context, wahook_Span item, const char *kind, const char *detail_key)
{
	wahook_Update *update =
		wahook_add_update(context->delivery, WAHOOK_NOTICE, context->change, item);

	update->id = wahook_json_text(item, "id", WAHOOK_MAX_MESSAGE_ID_LENGTH);
	update->kind = make_kind(kind, wahook_json_string(item, detail_key));
}

static void
read_call(Context *context, wahook_Span call)
{
	read_item(context, call, "call", "event");
}

static void
read_echo(Context *context, wahook_Span echo)
{
	read_item(context, echo, "echo", "type");
}

/* {"wa_id", "user_id": {"previous", "current"}}: a new id for the user who had the previous one. */
static void
read_id_update(Context *context, wahook_Span item)
{
	wahook_Span user_id = wahook_member(item, "user_id");
	wahook_Update *update =
		wahook_add_update(context->delivery, WAHOOK_NOTICE, context->change, item);

	update->kind = "user_id_update";
	update->phone = wahook_normalize_identity(text_of(item, "wa_id"));
	update->user_id = text_of(user_id, "previous");
	update->new_user_id = text_of(user_id, "current");
}

/* Null, or why the value is no object; otherwise where it is something else. */
static const char *
check_object(wahook_Span value, int max_depth, const char *otherwise)
{
	const char *reason = wahook_check_json(value, max_depth);

	return reason == NULL && value.start[0] != '{' ? otherwise : reason;
}

void
wahook_read_lone_message(wahook_Update *update, wahook_Span message, int max_depth)
{
	wahook_Change change = {0};
	Context context = {.change = &change};
	wahook_Span parts[PARTS];

	if (check_object(message, max_depth, "not an object") != NULL)
		return;
	find_parts(message, parts);
	read_sender(&context, update, parts);
	update->kind = message_kind(&change, message, parts);
}

/* Checks each element of an array on its own, so that one that can't be read costs no other. */
static bool
read_elements(Context *context, wahook_Span array, ElementReader read)
{
	wahook_Cursor cursor = wahook_cursor(array);
	bool more;

	if (array.len == 0 || wahook_span_is(array, "null"))
		return true;
	if (!wahook_enter(&cursor, '['))
	{
		wahook_add_unreadable(context->delivery, context->change, array, "not an array");
		return true;
	}
	for (;;)
	{
		const char *reason;
		wahook_Span element;

		CHECK_FOR_INTERRUPTS();
		if (!wahook_next_element(&cursor, &more))
			return false;
		if (!more)
			return true;
		if (!wahook_skip_value(&cursor, &element))
			return false;
		reason = check_object(element, context->max_depth, "not an object");
		if (reason == NULL)
			read(context, element);
		else
			wahook_add_unreadable(context->delivery, context->change, element, reason);
	}
}

static void
keep_contact(Context *context, wahook_Span contact)
{
	wahook_add_contact(&context->contacts, contact);
}

static int
count_elements(wahook_Span array)
{
	wahook_Cursor cursor = wahook_cursor(array);
	wahook_Span element;
	bool more;
	int n = 0;

	if (array.len == 0 || !wahook_enter(&cursor, '['))
		return 0;
	while (wahook_next_element(&cursor, &more) && more && wahook_skip_value(&cursor, &element))
		n++;
	return n;
}

/* Finds the parts of a value. False when the text is not JSON. */
static bool
split_value(wahook_Change *change, Value *parts)
{
	wahook_Cursor cursor = wahook_cursor(change->value);
	bool more;

	wahook_enter(&cursor, '{');
	for (;;)
	{
		wahook_Span key;
		wahook_Span value;

		if (!wahook_next_member(&cursor, &key, &more))
			return false;
		if (!more)
			return true;
		if (!wahook_skip_value(&cursor, &value))
			return false;
		if (wahook_key_is(key, "messages"))
			parts->messages = value;
		else if (wahook_key_is(key, "statuses"))
			parts->statuses = value;
		else if (wahook_key_is(key, "calls"))
			parts->calls = value;
		else if (wahook_key_is(key, "message_echoes"))
			parts->echoes = value;
		else if (wahook_key_is(key, "user_id_update"))
			parts->id_updates = value;
		else if (wahook_key_is(key, "metadata"))
			change->metadata = value;
		else if (wahook_key_is(key, "contacts"))
			change->contacts = value;
		else if (!wahook_key_is(key, "messaging_product"))
			parts->has_rest = true;
	}
}

/* The value as a whole is a notice: it holds nothing else, or something beside its updates. */
static void
read_notice(Context *context)
{
	wahook_Change *change = context->change;
	const char *field = change->field_name ? change->field_name : "unknown";
	wahook_Span value = change->value;
	const char *reason = check_object(value, context->max_depth, "value is not an object");
	const char *detail;
	wahook_Update *update;

	if (reason != NULL)
	{
		wahook_add_unreadable(context->delivery, change, change->value, reason);
		return;
	}
	detail = wahook_json_string(value, "event");
	if (detail == NULL)
		detail = wahook_json_string(value, "decision");
	update = wahook_add_update(context->delivery, WAHOOK_NOTICE, change, change->value);
	update->kind = make_kind(field, detail);
}

static bool
same_text(wahook_Span a, wahook_Span b)
{
	return a.len == b.len && memcmp(a.start, b.start, a.len) == 0;
}

/* False when the text is not JSON. */
static bool
read_shared_parts(Context *context)
{
	wahook_Change *change = context->change;
	const wahook_Change *last = context->delivery->last;

	if (last && same_text(change->metadata, last->metadata))
		change->phone_number_id = last->phone_number_id;
	else if (change->metadata.len > 0)
	{
		const char *reason =
			check_object(change->metadata, context->max_depth, "metadata is not an object");

		if (reason == NULL)
			change->phone_number_id = text_of(change->metadata, "phone_number_id");
		else
		{
			if (!wahook_span_is(change->metadata, "null"))
				wahook_add_unreadable(context->delivery, change, change->metadata, reason);
			change->metadata.len = 0;
		}
	}
	wahook_start_contacts(&context->contacts, count_elements(change->contacts));
	if (!read_elements(context, change->contacts, keep_contact))
		return false;
	wahook_sort_contacts(&context->contacts);
	return true;
}

bool
wahook_read_change(wahook_Delivery *delivery, wahook_Change *change, wahook_Span whole,
				   int max_depth)
{
	Context context = {.delivery = delivery, .change = change, .max_depth = max_depth};
	Value parts = {0};
	const wahook_Change *last = delivery->last;
	int before = delivery->n;

	if (last && same_text(change->field, last->field))
		change->field_name = last->field_name;
	else
	{
		wahook_keep_storable(delivery, change, &change->field, max_depth);
		change->field_name = wahook_scalar_text(change->field);
	}
	if (change->value.len == 0 || change->value.start[0] != '{')
	{
		wahook_add_unreadable(delivery, change, whole, "value is not an object");
		return true;
	}
	if (!split_value(change, &parts))
		return false;
	if (!read_shared_parts(&context) || !read_elements(&context, parts.messages, read_message) ||
		!read_elements(&context, parts.statuses, read_status) ||
		!read_elements(&context, parts.calls, read_call) ||
		!read_elements(&context, parts.echoes, read_echo) ||
		!read_elements(&context, parts.id_updates, read_id_update))
		return false;
	if (parts.has_rest || delivery->n == before)
		read_notice(&context);
	delivery->last = change;
	return true;
}
