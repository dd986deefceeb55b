/*
 * What an agent remembers of a conversation, read and written.
 *
 * Messages are copied as they are stored, never taken apart.
 */
#include "agent/memory.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/uuid.h"

#include "agent/truncate.h"
#include "conversation/lock.h"
#include "core/args.h"
#include "core/compat.h"
#include "core/json_writer.h"
#include "core/plan.h"
#include "core/row.h"
#include "core/uuid.h"

PG_FUNCTION_INFO_V1(wahook_hold_memory);
PG_FUNCTION_INFO_V1(wahook_memory_messages_sql);
PG_FUNCTION_INFO_V1(wahook_with_member);
PG_FUNCTION_INFO_V1(wahook_fit);

#define MESSAGES_KEY "messages"

static bool
find_member(JsonbContainer *object, const char *key, JsonbValue *value)
{
	return JsonContainerIsObject(object) &&
		   getKeyJsonValueFromContainer(object, key, (int) strlen(key), value) != NULL;
}

JsonbContainer *
wahook_memory_array(Jsonb *memory)
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
wahook_message_member(const JsonbValue *message, const char *key, JsonbValue *value)
{
	return message->type == jbvBinary && find_member(message->val.binary.data, key, value);
}

bool
wahook_message_string(const JsonbValue *message, const char *key, JsonbValue *value)
{
	return wahook_message_member(message, key, value) && value->type == jbvString;
}

int
wahook_message_size(const JsonbValue *value)
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

wahook_Messages
wahook_read_messages(JsonbContainer *array, int room)
{
	int max = (array ? JsonContainerSize(array) : 0) + room + 1; /* the iterator may use one more */
	wahook_Messages messages = {palloc_extended(max * sizeof(JsonbValue), MCXT_ALLOC_HUGE)};
	JsonbIterator *it;
	JsonbValue value;

	if (array == NULL)
		return messages;
	it = JsonbIteratorInit(array);
	(void) JsonbIteratorNext(&it, &value, true);
	while (JsonbIteratorNext(&it, &messages.all[messages.n], true) == WJB_ELEM)
	{
		messages.bytes += wahook_message_size(&messages.all[messages.n]);
		messages.n++;
	}
	return messages;
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

Jsonb *
wahook_write_messages(const wahook_Messages *messages)
{
	StringInfoData json;

	wahook_begin_jsonb(&json, (int) messages->bytes + messages->n * 8 + 64);
	(void) wahook_append_array(&json, messages->all, messages->n, wahook_append_value);
	return wahook_end_jsonb(&json);
}

/* Of anything but an object: none. */
static int
read_members(Jsonb *object, wahook_JsonMember *members)
{
	return JB_ROOT_IS_OBJECT(object) ? wahook_read_members(&object->root, members) : 0;
}

Jsonb *
wahook_write_memory(Jsonb *old, const wahook_Messages *messages)
{
	StringInfoData json;
	wahook_JsonMember *members;
	int n;

	if (JB_ROOT_IS_ARRAY(old) && !JB_ROOT_IS_SCALAR(old))
		return wahook_write_messages(messages);
	members = palloc_array(wahook_JsonMember, JB_ROOT_COUNT(old) + 1);
	n = read_members(old, members);
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

/* A value as a text: of anything but a text the JSON that it is. */
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
	wahook_set_string(&text, string, (int) strlen(string));
	return text;
}

/* What is no message, as one of the user. */
static JsonbValue
user_message(const JsonbValue *value)
{
	wahook_JsonMember members[2] = {{.key = "content", .key_len = 7},
									{.key = "role", .key_len = 4}};
	StringInfoData json;
	JsonbValue message;

	members[0].value = text_of(value);
	wahook_set_string(&members[1].value, "user", 4);
	wahook_begin_jsonb(&json, members[0].value.val.string.len + 64);
	(void) wahook_append_object(&json, members, lengthof(members), wahook_append_value);
	wahook_set_jsonb(&message, wahook_end_jsonb(&json));
	return message;
}

/* webhook_memory_messages(jsonb) → jsonb: an array of objects, whatever is in memory. */
Datum
wahook_memory_messages_sql(PG_FUNCTION_ARGS)
{
	wahook_Messages messages = wahook_read_messages(wahook_memory_array(PG_GETARG_JSONB_P(0)), 0);

	for (int i = 0; i < messages.n; i++)
	{
		JsonbValue *message = &messages.all[i];

		CHECK_FOR_INTERRUPTS();
		if (message->type != jbvBinary || !JsonContainerIsObject(message->val.binary.data))
			*message = user_message(message);
	}
	PG_RETURN_JSONB_P(wahook_write_messages(&messages));
}

/* webhook_with_member(object jsonb, key text, value jsonb) → jsonb */
Datum
wahook_with_member(PG_FUNCTION_ARGS)
{
	Jsonb *object = PG_GETARG_JSONB_P(0);
	text *key = PG_GETARG_TEXT_PP(1);
	Jsonb *value = PG_GETARG_JSONB_P(2);
	wahook_JsonMember *members = palloc_array(wahook_JsonMember, JB_ROOT_COUNT(object) + 1);
	int n = read_members(object, members);
	StringInfoData json;

	members[n].key = VARDATA_ANY(key);
	members[n].key_len = (int) VARSIZE_ANY_EXHDR(key);
	wahook_set_jsonb(&members[n].value, value);
	wahook_begin_jsonb(&json, (int) VARSIZE(object) + (int) VARSIZE(value) + 64);
	(void) wahook_append_object(&json, members, n + 1, wahook_append_value);
	PG_RETURN_JSONB_P(wahook_end_jsonb(&json));
}

/* webhook_fit(messages jsonb, max_tokens integer, max_messages integer) → (messages jsonb, tokens integer, left_out integer) */
Datum
wahook_fit(PG_FUNCTION_ARGS)
{
	wahook_Truncation result;
	TupleDesc tupdesc;
	Datum values[3];
	bool nulls[3] = {false};

	wahook_truncate_context(PG_GETARG_JSONB_P(0), Max(PG_GETARG_INT32(1), 0),
							Max(PG_GETARG_INT32(2), 0), &result);
	values[0] = JsonbPGetDatum(result.messages);
	values[1] = Int32GetDatum(result.tokens);
	values[2] = Int32GetDatum(result.given - result.kept);
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/* Locks the agent's row in the conversation, where it has one. */
static void
hold_row(const char *table, const char *index, const char *what, const pg_uuid_t *id,
		 Datum agent_type)
{
	wahook_RowReader rows;
	ScanKeyData keys[2];
	wahook_RowState state;

	wahook_open_rows(&rows, table, index, RowExclusiveLock);
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_TEXTEQ, agent_type);
	keys[1].sk_collation = rows.index->rd_indcollation[1];
	state = wahook_peek_row(&rows, keys, lengthof(keys));
	if (state == WAHOOK_ROW_CHANGING || state == WAHOOK_ROW_ARRIVING ||
		(state == WAHOOK_ROW_STEADY && !wahook_try_lock_row(&rows)))
		wahook_raise_busy(what, wahook_uuid_text(id));
	wahook_close_rows(&rows);
}

/*
 * webhook_hold_memory(uuid, uuid, text) → void: holds the conversation for its lock, what the agent
 * remembers of it, and its session, until the transaction ends. Waits for nobody.
 */
Datum
wahook_hold_memory(PG_FUNCTION_ARGS)
{
	pg_uuid_t *id;
	wahook_Conversation conversation;

	wahook_require_arg(fcinfo, 0, "p_conversation_id", "Pass what claim_conversations() returned.");
	wahook_require_arg(fcinfo, 1, "p_lock_id", "Pass what claim_conversations() returned.");
	wahook_require_arg(fcinfo, 2, "p_agent_type",
					   "Pass one of webhook_agents, or a name of your own.");
	id = PG_GETARG_UUID_P(0);
	wahook_begin(fcinfo);
	wahook_hold_conversation(id, PG_GETARG_UUID_P(1), &conversation);
	hold_row("agent_contexts", "agent_contexts_conversation_id_agent_type_key",
			 "the memory of an agent in conversation", id, PG_GETARG_DATUM(2));
	hold_row("agent_sessions", "agent_sessions_active_key",
			 "the session of an agent in conversation", id, PG_GETARG_DATUM(2));
	wahook_end();
	PG_RETURN_VOID();
}
