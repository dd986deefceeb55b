/*
 * Adding the messages of a turn to what an agent remembers, each once, and keeping it within its
 * bounds.
 */
#include "agent/memory.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/qunique.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"

#include "core/compat.h"
#include "core/json_writer.h"

PG_FUNCTION_INFO_V1(wahook_remember);

/* No message may take more than this part of what memory can hold. */
#define MAX_SHARE 4

static const char shortened_mark[] = " [shortened]";

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
ids_of(const wahook_Messages *messages)
{
	Ids ids = {palloc_array(JsonbValue, messages->n + 1), palloc0_array(bool, messages->n + 1)};

	for (int i = 0; i < messages->n; i++)
		if (wahook_message_string(&messages->all[i], "wamid", &ids.all[ids.n]))
			ids.n++;
	qsort(ids.all, ids.n, sizeof(JsonbValue), compare_strings);
	ids.n = (int) qunique(ids.all, ids.n, sizeof(JsonbValue), compare_strings);
	return ids;
}

/* Its place among the ids, or -1. */
static int
find_id(const Ids *ids, const JsonbValue *id)
{
	const JsonbValue *found = bsearch(id, ids->all, ids->n, sizeof(JsonbValue), compare_strings);

	return found ? (int) (found - ids->all) : -1;
}

static void
note_known(Ids *ids, const JsonbValue *id)
{
	int at = find_id(ids, id);

	if (at >= 0)
		ids->known[at] = true;
}

static void
note_remembered(Ids *ids, const wahook_Messages *messages)
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
		wahook_set_string(&id, VARDATA_ANY(DatumGetPointer(names[i])),
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
	int n = wahook_read_members(object, members);
	StringInfoData json;
	JsonbValue shortened;

	for (int i = 0; i < n; i++)
	{
		JsonbValue *value = &members[i].value;

		if (value->type == jbvString && value->val.string.len > max_bytes)
		{
			const char *text = value->val.string.val;
			int len = pg_mbcliplen(text, value->val.string.len, max_bytes);
			char *cut = palloc(len + sizeof(shortened_mark));

			memcpy(cut, text, len);
			memcpy(cut + len, shortened_mark, sizeof(shortened_mark));
			wahook_set_string(value, cut, len + (int) sizeof(shortened_mark) - 1);
		}
	}
	wahook_begin_jsonb(&json, max_bytes + 256);
	(void) wahook_append_object(&json, members, n, wahook_append_value);
	wahook_set_jsonb(&shortened, wahook_end_jsonb(&json));
	return shortened;
}

/*
 * Adds what is new to memory. A turn whose messages with an id are all known has been saved before:
 * nothing of it is new. Returns how many were added.
 */
static int
add_messages(wahook_Messages *memory, const wahook_Messages *turn, Ids *ids, int max_bytes)
{
	int added = 0;
	bool all_known = ids->n > 0;

	for (int i = 0; i < ids->n; i++)
		if (!ids->known[i])
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
		if (wahook_message_size(&message) > max_bytes / MAX_SHARE && message.type == jbvBinary &&
			JsonContainerIsObject(message.val.binary.data))
			message = shorten(&message, max_bytes / MAX_SHARE / 2);
		memory->all[memory->n++] = message;
		memory->bytes += wahook_message_size(&message);
		added++;
	}
	return added;
}

static bool
is_pinned(const JsonbValue *message)
{
	JsonbValue value;

	return wahook_message_member(message, "pinned", &value) && value.type == jbvBool &&
		   value.val.boolean;
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
forget_messages(wahook_Messages *memory, wahook_Messages *forgotten, int max_messages,
				int max_bytes)
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
				memory->bytes -= wahook_message_size(message);
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
	wahook_Messages turn = wahook_read_messages(wahook_memory_array(new), 0);
	wahook_Messages memory = wahook_read_messages(wahook_memory_array(old), turn.n);
	wahook_Messages forgotten = {0};
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
			forgotten.bytes += wahook_message_size(&forgotten.all[i]);
		old = wahook_write_memory(old, &memory);
	}
	values[0] = JsonbPGetDatum(old);
	values[1] = JsonbPGetDatum(wahook_write_messages(&forgotten));
	values[2] = Int32GetDatum(added);
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
