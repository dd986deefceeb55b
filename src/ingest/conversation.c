/*
 * get_or_create_conversation(): what intake does with the sender of a message, as a call.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#include "core/compat.h"
#include "core/plan.h"
#include "core/row.h"
#include "core/tables.h"
#include "ingest/envelope.h"
#include "ingest/identity.h"

PG_FUNCTION_INFO_V1(wahook_get_or_create_conversation);

/*
 * The row is there already, unless another transaction is creating it right now. Then this waits
 * for it, and creates the row itself if that one rolls back.
 */
static wahook_Plan ensure_plan =
	{"INSERT INTO @extschema@.webhook_conversations AS c (id, user_id, whatsapp_phone,"
	 " phone_number_id) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING",
	 4,
	 {UUIDOID, TEXTOID, TEXTOID, TEXTOID}};

/* Given to a conversation that has none yet; one that is being changed keeps what it has. */
static wahook_Plan agent_type_plan =
	{"UPDATE @extschema@.webhook_conversations SET agent_type = $2 WHERE id = ANY (ARRAY("
	 "SELECT id FROM @extschema@.webhook_conversations WHERE id = $1 AND agent_type IS NULL"
	 " FOR NO KEY UPDATE SKIP LOCKED))",
	 2,
	 {UUIDOID, TEXTOID}};

static char *
text_arg(FunctionCallInfo fcinfo, int arg, const char *name)
{
	char *value;

	if (PG_ARGISNULL(arg))
		return NULL;
	value = text_to_cstring(PG_GETARG_TEXT_PP(arg));
	if (strlen(value) > WAHOOK_MAX_IDENTITY_LENGTH)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s is too long", name),
						errdetail("It has %zu bytes; an id has at most %d.", strlen(value),
								  WAHOOK_MAX_IDENTITY_LENGTH),
						errhint("Pass a phone number or a business-scoped user id.")));
	return value[0] ? value : NULL;
}

/* A row that another transaction is changing exists; to insert beside it would wait. */
static bool
exists(const pg_uuid_t *id)
{
	wahook_RowReader rows;
	ScanKeyData key;
	wahook_RowState state;

	ScanKeyInit(&key, Anum_conversation_id, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
	wahook_open_rows(&rows, "webhook_conversations", "webhook_conversations_pkey", AccessShareLock);
	state = wahook_peek_row(&rows, &key, 1);
	wahook_close_rows(&rows);
	return state == WAHOOK_ROW_STEADY || state == WAHOOK_ROW_CHANGING;
}

/*
 * get_or_create_conversation(p_user_id, p_whatsapp_phone, p_phone_number_id, p_agent_type,
 * p_correlation_id) → uuid
 */
Datum
wahook_get_or_create_conversation(PG_FUNCTION_ARGS)
{
	wahook_Sender sender = {0};
	pg_uuid_t *id = palloc(sizeof(pg_uuid_t));

	sender.user_id = wahook_normalize_identity(text_arg(fcinfo, 0, "p_user_id"));
	sender.phone = wahook_normalize_identity(text_arg(fcinfo, 1, "p_whatsapp_phone"));
	sender.phone_number_id = text_arg(fcinfo, 2, "p_phone_number_id");
	if (sender.user_id == NULL && sender.phone == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("neither p_user_id nor p_whatsapp_phone names a user"),
				 errdetail("Both are null or empty."), errhint("Pass one of them, or both.")));

	wahook_begin(fcinfo);
	wahook_write_senders(wahook_look_up_senders(&sender, 1));
	*id = sender.conversation_id;
	if (!exists(id))
	{
		Datum values[] = {UUIDPGetDatum(id),
						  CStringGetTextDatum(sender.user_id ? sender.user_id : sender.phone),
						  sender.phone ? CStringGetTextDatum(sender.phone) : (Datum) 0,
						  sender.phone_number_id ? CStringGetTextDatum(sender.phone_number_id)
												 : (Datum) 0};
		char nulls[] = {' ', ' ', sender.phone ? ' ' : 'n', sender.phone_number_id ? ' ' : 'n',
						'\0'};

		wahook_execute(&ensure_plan, values, nulls);
	}
	if (!PG_ARGISNULL(3))
	{
		Datum values[] = {UUIDPGetDatum(id), PG_GETARG_DATUM(3)};

		wahook_execute(&agent_type_plan, values, NULL);
	}
	wahook_end();
	PG_RETURN_UUID_P(id);
}
