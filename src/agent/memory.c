/*
 * What an agent remembers of a conversation: adding the messages of a turn, each once, and keeping
 * what is remembered within its bounds.
 *
 * Messages are copied as they are stored, never taken apart: the work is that of a look at the id of
 * each and of one copy of the bytes.
 */
#include "agent/memory.h"

#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/uuid.h"

#include "core/args.h"
#include "core/compat.h"
#include "core/json_writer.h"
#include "core/plan.h"
#include "core/row.h"
#include "core/uuid.h"
#include "conversation/lock.h"

PG_FUNCTION_INFO_V1(wahook_hold_memory);
PG_FUNCTION_INFO_V1(wahook_remember);
PG_FUNCTION_INFO_V1(wahook_memory_messages_sql);

#define MESSAGES_KEY "messages"

/* No message may take more than this part of what memory can hold. */
#define MAX_SHARE 4

static const char shortened_mark[] = " [shortened]";

/* A list of messages, and what they take. */
typedef struct Messages
{
	JsonbValue *all;
	int n;
	int64 bytes;
} Messages;

static void
set_key(JsonbValue *key, const char *string, int len)
{
	key->type = jbvString;
	key->val.string.val = unconstify(char *, string);
	key->val.string.len = len;
}

static bool
find_member(JsonbContainer *object, const char *key, JsonbValue *value)
{
	return JsonContainerIsObject(object) &&
		   getKeyJsonValueFromContainer(object, key, (int) strlen(key), value) != NULL;
}

JsonbContainer *
wahook_memory_messages(Jsonb *memory)
{
	JsonbValue value;

	if (JB_ROOT_IS_ARRAY(memory) && !JB_ROOT_IS_SCALAR(memory))
		return &memory->root;
	if (!find_member(&memory->root, MESSAGES_KEY, &value) || value.type != jbvBinary ||
		!JsonContainerIsArray(value.val.binary.data))
		return NULL;
	return value.val.binary.data;
}

bool
wahook_message_string(const JsonbValue *message, const char *key, JsonbValue *value)
{
	return message->type == jbvBinary && find_member(message->val.binary.data, key, value) &&
		   value->type == jbvString;
}

static int
size_of(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvBinary:
			return value->val.binary.len;
		case jbvString:
			return value->val.string.len;
		case jbvNumeric:
			return (int) VARSIZE_ANY(value->val.numeric);
		default:
			return 0;
	}
}

/* The elements of an array, which may be null; with room for some more. */
static Messages
read_messages(JsonbContainer *array, int room)
{
	int max = (array ? JsonContainerSize(array) : 0) + room;
	Messages messages = {palloc_extended(Max(max, 1) * sizeof(JsonbValue), MCXT_ALLOC_HUGE)};
	JsonbIterator *it;
	JsonbValue value;

	if (array == NULL)
		return messages;
	it = JsonbIteratorInit(array);
	(void) JsonbIteratorNext(&it, &value, true);
	while (JsonbIteratorNext(&it, &messages.all[messages.n], true) == WJB_ELEM)
	{
		messages.bytes += size_of(&messages.all[messages.n]);
		messages.n++;
	}
	return messages;
}

static int
compare_strings(const void *a, const void *b)
{
	const JsonbValue *left = a;
	const JsonbValue *right = b;
	int len = Min(left->val.string.len, right->val.string.len);
	int order = memcmp(left->val.string.val, right->val.string.val, len);

	return order != 0 ? order : left->val.string.len - right->val.string.len;
}

/* The ids that new messages have, sorted, each with whether it is known already. */
typedef struct Ids
{
	JsonbValue *all;
	bool *known;
	int n;
} Ids;

static Ids
ids_of(const Messages *messages)
{
	Ids ids = {palloc_array(JsonbValue, messages->n + 1), palloc0_array(bool, messages->n + 1)};

	for (int i = 0; i < messages->n; i++)
		if (wahook_message_string(&messages->all[i], "wamid", &ids.all[ids.n]))
			ids.n++;
	qsort(ids.all, ids.n, sizeof(JsonbValue), compare_strings);
	return ids;
}

/* Its first place among the ids, or -1. */
static int
find_id(const Ids *ids, const JsonbValue *id)
{
	const JsonbValue *found = bsearch(id, ids->all, ids->n, sizeof(JsonbValue), compare_strings);
	int at;

	if (found == NULL)
		return -1;
	at = (int) (found - ids->all);
	while (at > 0 && compare_strings(&ids->all[at - 1], id) == 0)
		at--;
	return at;
}

static void
note_known(Ids *ids, const JsonbValue *id)
{
	int at = find_id(ids, id);

	if (at >= 0)
		ids->known[at] = true;
}

static void
note_remembered(Ids *ids, const Messages *messages)
{
	JsonbValue id;

	for (int i = 0; ids->n > 0 && i < messages->n; i++)
		if (wahook_message_string(&messages->all[i], "wamid", &id))
			note_known(ids, &id);
}

static void
note_listed(Ids *ids, ArrayType *list)
{
	Datum *names;
	bool *nulls;
	int n;

	deconstruct_array(list, TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		JsonbValue id;

		if (nulls[i])
			continue;
		set_key(&id, VARDATA_ANY(DatumGetPointer(names[i])),
				(int) VARSIZE_ANY_EXHDR(DatumGetPointer(names[i])));
		note_known(ids, &id);
	}
}

/* A message with content that is too long, with the beginning of it and a mark. */
static JsonbValue
shorten(const JsonbValue *message, int max_bytes)
{
	JsonbContainer *object = message->val.binary.data;
	wahook_JsonMember *members = palloc_array(wahook_JsonMember, JsonContainerSize(object));
	JsonbIterator *it = JsonbIteratorInit(object);
	StringInfoData json;
	JsonbValue value;
	Jsonb *shortened;
	int n = 0;

	(void) JsonbIteratorNext(&it, &value, true);
	while (JsonbIteratorNext(&it, &value, true) == WJB_KEY)
	{
		wahook_JsonMember *member = &members[n++];

		member->key = value.val.string.val;
		member->key_len = value.val.string.len;
		(void) JsonbIteratorNext(&it, &member->value, true);
		if (member->value.type == jbvString && member->value.val.string.len > max_bytes)
		{
			const char *text = member->value.val.string.val;
			int len = pg_mbcliplen(text, member->value.val.string.len, max_bytes);
			char *cut = palloc(len + sizeof(shortened_mark));

			memcpy(cut, text, len);
			memcpy(cut + len, shortened_mark, sizeof(shortened_mark));
			set_key(&member->value, cut, len + (int) sizeof(shortened_mark) - 1);
		}
	}
	wahook_begin_jsonb(&json, max_bytes + 256);
	(void) wahook_append_object(&json, members, n, wahook_append_value);
	shortened = wahook_end_jsonb(&json);
	value.type = jbvBinary;
	value.val.binary.data = &shortened->root;
	value.val.binary.len = (int) VARSIZE(shortened) - VARHDRSZ;
	return value;
}

/*
 * Adds what is new to memory. A turn whose messages with an id are all known has been saved before:
 * nothing of it is new. Returns how many were added.
 */
static int
add_messages(Messages *memory, const Messages *turn, Ids *ids, int max_bytes)
{
	int added = 0;
	bool all_known = ids->n > 0;

	for (int i = 0; i < ids->n; i++)
		if (!ids->known[find_id(ids, &ids->all[i])])
			all_known = false;
	for (int i = 0; !all_known && i < turn->n; i++)
	{
		JsonbValue message = turn->all[i];
		JsonbValue id;

		if (wahook_message_string(&message, "wamid", &id))
		{
			int at = find_id(ids, &id);

			if (ids->known[at])
				continue;
			ids->known[at] = true;
		}
		if (size_of(&message) > max_bytes / MAX_SHARE && message.type == jbvBinary &&
			JsonContainerIsObject(message.val.binary.data))
			message = shorten(&message, max_bytes / MAX_SHARE / 2);
		memory->all[memory->n++] = message;
		memory->bytes += size_of(&message);
		added++;
	}
	return added;
}

static bool
is_pinned(const JsonbValue *message)
{
	JsonbValue value;

	return message->type == jbvBinary && find_member(message->val.binary.data, "pinned", &value) &&
		   value.type == jbvBool && value.val.boolean;
}

/* The result of a tool means nothing without its call, which is in front of it. */
static bool
is_tool_result(const JsonbValue *message)
{
	JsonbValue role;

	return wahook_message_string(message, "role", &role) && role.val.string.len == 4 &&
		   memcmp(role.val.string.val, "tool", 4) == 0;
}

/*
 * Moves the oldest messages to forgotten until the rest is within its bounds: first those that are
 * not pinned, then, if need be, the others.
 */
static void
forget_messages(Messages *memory, Messages *forgotten, int max_messages, int max_bytes)
{
	for (int pinned = 0; pinned < 2; pinned++)
	{
		int kept = 0;
		bool cut = false; /* the one before in order went */
		int left = memory->n;

		for (int i = 0; i < memory->n; i++)
		{
			JsonbValue *message = &memory->all[i];
			bool over = left > max_messages || memory->bytes > max_bytes;

			if ((over || (cut && is_tool_result(message))) && (pinned || !is_pinned(message)))
			{
				forgotten->all[forgotten->n++] = *message;
				memory->bytes -= size_of(message);
				left--;
				cut = true;
				continue;
			}
			if (!is_pinned(message))
				cut = false;
			memory->all[kept++] = *message;
		}
		memory->n = kept;
	}
}

/* A member that is an array which is still to be written has the type jbvArray. */
static JEntry
write_value(StringInfo out, const JsonbValue *value)
{
	if (value->type == jbvArray)
		return wahook_append_array(out, value->val.array.elems, value->val.array.nElems,
								   wahook_append_value);
	return wahook_append_value(out, value);
}

static Jsonb *
write_array(const Messages *messages)
{
	StringInfoData json;

	wahook_begin_jsonb(&json, (int) messages->bytes + messages->n * 8 + 64);
	(void) wahook_append_array(&json, messages->all, messages->n, wahook_append_value);
	return wahook_end_jsonb(&json);
}

/* Memory with these messages, in the shape that it has. */
static Jsonb *
write_memory(Jsonb *old, const Messages *messages)
{
	StringInfoData json;
	wahook_JsonMember *members;
	JsonbIterator *it;
	JsonbValue value;
	int n = 0;

	if (JB_ROOT_IS_ARRAY(old) && !JB_ROOT_IS_SCALAR(old))
		return write_array(messages);
	members = palloc_array(wahook_JsonMember, JB_ROOT_COUNT(old) + 1);
	if (JB_ROOT_IS_OBJECT(old))
	{
		it = JsonbIteratorInit(&old->root);
		(void) JsonbIteratorNext(&it, &value, true);
		while (JsonbIteratorNext(&it, &value, true) == WJB_KEY)
		{
			members[n].key = value.val.string.val;
			members[n].key_len = value.val.string.len;
			(void) JsonbIteratorNext(&it, &members[n++].value, true);
		}
	}
	/* Of members of one name the last one stays. */
	members[n].key = MESSAGES_KEY;
	members[n].key_len = (int) strlen(MESSAGES_KEY);
	members[n].value.type = jbvArray;
	members[n].value.val.array.elems = messages->all;
	members[n++].value.val.array.nElems = messages->n;
	wahook_begin_jsonb(&json, (int) messages->bytes + messages->n * 8 + 256);
	(void) wahook_append_object(&json, members, n, write_value);
	return wahook_end_jsonb(&json);
}

/* What is no message, as a text: of anything but a text the JSON that it is. */
static JsonbValue
text_of(const JsonbValue *value)
{
	JsonbValue text = *value;
	char *string;

	if (value->type == jbvString)
		return text;
	string = value->type == jbvBinary
				 ? JsonbToCString(NULL, value->val.binary.data, value->val.binary.len)
				 : JsonbToCString(NULL, &JsonbValueToJsonb(&text)->root, 0);
	set_key(&text, string, (int) strlen(string));
	return text;
}

static JsonbValue
user_message(const JsonbValue *value)
{
	wahook_JsonMember members[2] = {{"content", 7}, {"role", 4}};
	StringInfoData json;
	JsonbValue message;
	Jsonb *written;

	members[0].value = text_of(value);
	set_key(&members[1].value, "user", 4);
	wahook_begin_jsonb(&json, members[0].value.val.string.len + 64);
	(void) wahook_append_object(&json, members, lengthof(members), wahook_append_value);
	written = wahook_end_jsonb(&json);
	message.type = jbvBinary;
	message.val.binary.data = &written->root;
	message.val.binary.len = (int) VARSIZE(written) - VARHDRSZ;
	return message;
}

/* webhook_memory_messages(jsonb) → jsonb: an array of objects, whatever is in memory. */
Datum
wahook_memory_messages_sql(PG_FUNCTION_ARGS)
{
	Messages messages = read_messages(wahook_memory_messages(PG_GETARG_JSONB_P(0)), 0);

	for (int i = 0; i < messages.n; i++)
	{
		JsonbValue *message = &messages.all[i];

		CHECK_FOR_INTERRUPTS();
		if (message->type != jbvBinary || !JsonContainerIsObject(message->val.binary.data))
			*message = user_message(message);
	}
	PG_RETURN_JSONB_P(write_array(&messages));
}

/*
 * webhook_remember(memory jsonb, turn jsonb, known text[], max_messages integer, max_bytes integer)
 * → (memory jsonb, forgotten jsonb, added integer)
 */
Datum
wahook_remember(PG_FUNCTION_ARGS)
{
	Jsonb *old = PG_GETARG_JSONB_P(0);
	Jsonb *new = PG_GETARG_JSONB_P(1);
	int max_messages = PG_GETARG_INT32(3);
	int max_bytes = PG_GETARG_INT32(4);
	Messages turn = read_messages(wahook_memory_messages(new), 0);
	Messages memory = read_messages(wahook_memory_messages(old), turn.n);
	Messages forgotten = {0};
	Ids ids = ids_of(&turn);
	TupleDesc tupdesc;
	Datum values[3];
	bool nulls[3] = {false};
	int added;

	note_remembered(&ids, &memory);
	note_listed(&ids, PG_GETARG_ARRAYTYPE_P(2));
	added = add_messages(&memory, &turn, &ids, max_bytes);
	if (added > 0)
	{
		forgotten.all = palloc_extended(memory.n * sizeof(JsonbValue), MCXT_ALLOC_HUGE);
		forget_messages(&memory, &forgotten, max_messages, max_bytes);
		for (int i = 0; i < forgotten.n; i++)
			forgotten.bytes += size_of(&forgotten.all[i]);
		old = write_memory(old, &memory);
	}
	values[0] = JsonbPGetDatum(old);
	values[1] = JsonbPGetDatum(write_array(&forgotten));
	values[2] = Int32GetDatum(added);
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/*
 * webhook_hold_memory(uuid, uuid, text) → void: holds the conversation for its lock, and what the
 * agent remembers of it, until the transaction ends. Waits for nobody.
 */
Datum
wahook_hold_memory(PG_FUNCTION_ARGS)
{
	pg_uuid_t *id;
	wahook_Conversation conversation;
	wahook_RowReader rows;
	ScanKeyData keys[2];
	wahook_RowState state;

	wahook_require_arg(fcinfo, 0, "p_conversation_id", "Pass what claim_conversations() returned.");
	wahook_require_arg(fcinfo, 1, "p_lock_id", "Pass what claim_conversations() returned.");
	wahook_require_arg(fcinfo, 2, "p_agent_type",
					   "Pass one of webhook_agents, or a name of your own.");
	id = PG_GETARG_UUID_P(0);
	wahook_begin(fcinfo);
	wahook_hold_conversation(id, PG_GETARG_UUID_P(1), &conversation);

	wahook_open_rows(&rows, "agent_contexts", "agent_contexts_conversation_id_agent_type_key",
					 RowExclusiveLock);
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_TEXTEQ, PG_GETARG_DATUM(2));
	keys[1].sk_collation = rows.index->rd_indcollation[1];
	state = wahook_peek_row(&rows, keys, lengthof(keys));
	if (state == WAHOOK_ROW_CHANGING || state == WAHOOK_ROW_ARRIVING ||
		(state == WAHOOK_ROW_STEADY && !wahook_try_lock_row(&rows)))
		wahook_raise_busy("the memory of an agent in conversation", wahook_uuid_text(id));
	wahook_close_rows(&rows);
	wahook_end();
	PG_RETURN_VOID();
}
