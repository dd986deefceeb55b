/*
 * A message as its handler sees it: what is known of it, and the keys of its payload beside.
 */
#include "conversation/message.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"

#include "core/compat.h"
#include "core/tables.h"
#include "core/uuid.h"

PG_FUNCTION_INFO_V1(wahook_message_json);

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, key);
	value.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &value);
}

static void
push_string(JsonbParseState **state, const char *key, const char *string, int len)
{
	JsonbValue value;

	push_key(state, key);
	if (string == NULL)
		value.type = jbvNull;
	else
	{
		value.type = jbvString;
		value.val.string.val = unconstify(char *, string);
		value.val.string.len = len;
	}
	pushJsonbValue(state, WJB_VALUE, &value);
}

static void
push_text(JsonbParseState **state, const char *key, text *value)
{
	push_string(state, key, value ? VARDATA_ANY(value) : NULL,
				value ? VARSIZE_ANY_EXHDR(value) : 0);
}

/* Copies the top-level keys of an object into the one that is being built. */
static void
push_members(JsonbParseState **state, Jsonb *object)
{
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbValue value;

	if (!JB_ROOT_IS_OBJECT(object))
	{
		push_key(state, "message");
		value.type = jbvBinary;
		value.val.binary.data = &object->root;
		value.val.binary.len = VARSIZE_ANY_EXHDR(object);
		pushJsonbValue(state, WJB_VALUE, &value);
		return;
	}
	(void) JsonbIteratorNext(&it, &value, true);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_END_OBJECT)
		pushJsonbValue(state, token, &value);
}

void
wahook_push_message(JsonbParseState **state, const wahook_Message *message)
{
	char *received_at;
	char *correlation_id = wahook_uuid_text(message->correlation_id);
	JsonbValue attempt;

	received_at =
		JsonEncodeDateTime(NULL, TimestampTzGetDatum(message->received_at), TIMESTAMPTZOID, NULL);
	attempt.type = jbvNumeric;
	attempt.val.numeric = int64_to_numeric(message->attempt);

	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	if (message->payload)
		push_members(state, message->payload);
	push_text(state, "whatsapp_message_id", message->whatsapp_message_id);
	push_key(state, "attempt");
	pushJsonbValue(state, WJB_VALUE, &attempt);
	push_string(state, "received_at", received_at, strlen(received_at));
	push_text(state, "kind", message->kind);
	push_string(state, "correlation_id", correlation_id, strlen(correlation_id));
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/* webhook_message_json(processed_webhook_messages, integer) → jsonb */
Datum
wahook_message_json(PG_FUNCTION_ARGS)
{
	HeapTupleHeader row = PG_GETARG_HEAPTUPLEHEADER(0);
	JsonbParseState *state = NULL;
	JsonbValue *array;
	JsonbValue *object;
	bool isnull;
	Datum value;
	wahook_Message message = {.attempt = PG_GETARG_INT32(1)};

	message.whatsapp_message_id =
		DatumGetTextPP(GetAttributeByNum(row, Anum_message_whatsapp_message_id, &isnull));
	message.correlation_id =
		DatumGetUUIDP(GetAttributeByNum(row, Anum_message_correlation_id, &isnull));
	message.received_at =
		DatumGetTimestampTz(GetAttributeByNum(row, Anum_message_received_at, &isnull));
	value = GetAttributeByNum(row, Anum_message_kind, &isnull);
	message.kind = isnull ? NULL : DatumGetTextPP(value);
	value = GetAttributeByNum(row, Anum_message_payload, &isnull);
	message.payload = isnull ? NULL : DatumGetJsonbP(value);

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	wahook_push_message(&state, &message);
	array = pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	object = &array->val.array.elems[0];
	PG_RETURN_JSONB_P(JsonbValueToJsonb(object));
}
