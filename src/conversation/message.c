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
#include "core/json_writer.h"
#include "core/tables.h"
#include "core/uuid.h"

PG_FUNCTION_INFO_V1(wahook_message_json);

/* What is known of a message beside its payload. */
#define MAX_OWN_MEMBERS 5

static void
set_key(wahook_JsonMember *member, const char *key)
{
	member->key = key;
	member->key_len = (int) strlen(key);
}

static void
set_string(wahook_JsonMember *member, const char *key, const char *string, int len)
{
	set_key(member, key);
	if (string != NULL)
		wahook_set_string(&member->value, string, len);
	else
		member->value.type = jbvNull;
}

static void
set_text(wahook_JsonMember *member, const char *key, text *value)
{
	set_string(member, key, value ? VARDATA_ANY(value) : NULL,
			   value ? (int) VARSIZE_ANY_EXHDR(value) : 0);
}

/* The members of an object, or one that is called message. Returns how many. */
static int
read_members(Jsonb *payload, wahook_JsonMember *members)
{
	if (JB_ROOT_IS_OBJECT(payload))
		return wahook_read_members(&payload->root, members);
	set_key(&members[0], "message");
	wahook_set_jsonb(&members[0].value, payload);
	return 1;
}

/* As JSON has it; the messages of a delivery have the same. Good until the next call. */
static const char *
time_text(TimestampTz time)
{
	static char text[MAXDATELEN + 1];
	static TimestampTz last;
	static pg_tz *timezone = NULL;

	if (timezone != session_timezone || last != time)
	{
		timezone = NULL;
		JsonEncodeDateTime(text, TimestampTzGetDatum(time), TIMESTAMPTZOID, NULL);
		last = time;
		timezone = session_timezone;
	}
	return text;
}

JEntry
wahook_append_message(StringInfo out, const wahook_Message *message)
{
	int max = message->payload ? Max(JsonContainerSize(&message->payload->root), 1) : 0;
	wahook_JsonMember *members = palloc_array(wahook_JsonMember, max + MAX_OWN_MEMBERS);
	int n = message->payload ? read_members(message->payload, members) : 0;
	char *correlation_id = wahook_uuid_text(message->correlation_id);
	const char *received_at = time_text(message->received_at);
	JEntry type;

	/* Behind those of the payload, which can't hide them. */
	set_text(&members[n++], "whatsapp_message_id", message->whatsapp_message_id);
	set_key(&members[n], "attempt");
	members[n].value.type = jbvNumeric;
	members[n++].value.val.numeric = int64_to_numeric(message->attempt);
	set_string(&members[n++], "received_at", received_at, (int) strlen(received_at));
	set_text(&members[n++], "kind", message->kind);
	set_string(&members[n++], "correlation_id", correlation_id, (int) strlen(correlation_id));
	type = wahook_append_object(out, members, n, wahook_append_value);
	pfree(members);
	return type;
}

/* webhook_message_json(processed_webhook_messages, integer) → jsonb */
Datum
wahook_message_json(PG_FUNCTION_ARGS)
{
	HeapTupleHeader row = PG_GETARG_HEAPTUPLEHEADER(0);
	StringInfoData json;
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

	wahook_begin_jsonb(&json, 1024);
	(void) wahook_append_message(&json, &message);
	PG_RETURN_JSONB_P(wahook_end_jsonb(&json));
}
