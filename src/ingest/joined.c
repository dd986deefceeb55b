/*
 * Conversations that are made other than by the delivery of their first message: joined ones, whose
 * creator rolled back, ones that somebody deleted while messages waited in them, and those that
 * are inserted directly.
 */
#include "ingest/identity.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "utils/builtins.h"

#include "core/compat.h"
#include "core/name_lock.h"
#include "core/plan.h"
#include "core/tables.h"
#include "core/wake.h"
#include "ingest/envelope.h"

static wahook_Plan add_name_plan =
	{"INSERT INTO @extschema@.webhook_identities (phone_number_id, identity, kind, conversation_id)"
	 " VALUES ($1, $2, CASE WHEN $2 ~ '^[0-9]' THEN 'phone' ELSE 'user_id' END, $3)"
	 " ON CONFLICT DO NOTHING",
	 3,
	 {TEXTOID, TEXTOID, UUIDOID}};

/* What the first message received into the conversation, or its names, tell of its user. */
static wahook_Plan joined_plan =
	{"SELECT coalesce(i.user_id, (SELECT identity FROM @extschema@.webhook_identities"
	 " WHERE conversation_id = $1 AND kind = 'user_id' LIMIT 1)),"
	 " coalesce(i.whatsapp_phone, (SELECT identity FROM @extschema@.webhook_identities"
	 " WHERE conversation_id = $1 AND kind = 'phone' LIMIT 1)),"
	 " p.payload->'metadata'->>'phone_number_id'"
	 " FROM @extschema@.webhook_inbox i"
	 " LEFT JOIN @extschema@.processed_webhook_messages p ON p.id = i.message_id"
	 " WHERE i.conversation_id = $1 ORDER BY i.conversation_id, i.seq LIMIT 1",
	 1,
	 {UUIDOID}};

/* What came for the conversation $1 is $2's: those rows that nobody is changing, in their order. */
static wahook_Plan adopt_plan =
	{"WITH moved AS ("
	 "UPDATE @extschema@.webhook_inbox SET conversation_id = $2 WHERE ctid = ANY (ARRAY("
	 "SELECT ctid FROM @extschema@.webhook_inbox WHERE conversation_id = $1"
	 " FOR UPDATE SKIP LOCKED)) RETURNING message_id, service, enqueued_at"
	 "), told AS ("
	 "UPDATE @extschema@.processed_webhook_messages p SET conversation_id = $2"
	 " FROM moved WHERE p.id = moved.message_id)"
	 " INSERT INTO @extschema@.webhook_conversation_queue (conversation_id, service, due_at)"
	 " SELECT $2, service, min(enqueued_at) FROM moved GROUP BY service",
	 2,
	 {UUIDOID, UUIDOID}};

PG_FUNCTION_INFO_V1(wahook_register_identities);

/*
 * Makes the names that lead nowhere yet lead to a conversation. Those that another transaction is
 * writing are left to it.
 */
static void
add_free_names(const pg_uuid_t *id, const char *scope, const char *const *names, int n)
{
	wahook_RowReader rows;

	wahook_open_rows(&rows, "webhook_identities", "webhook_identities_pkey", RowExclusiveLock);
	for (int i = 0; i < n; i++)
	{
		pg_uuid_t other;

		if (names[i] != NULL &&
			wahook_peek_identity(&rows, scope, names[i], &other) == WAHOOK_ROW_NONE)
		{
			Datum values[] = {CStringGetTextDatum(scope), CStringGetTextDatum(names[i]),
							  UUIDPGetDatum(id)};

			wahook_execute(&add_name_plan, values, NULL);
		}
	}
	wahook_close_rows(&rows);
}

/* Where the first name that leads anywhere leads to. */
static wahook_RowState
follow_names(const char *scope, const char *const *names, int n, pg_uuid_t *id)
{
	wahook_RowReader rows;
	wahook_RowState state = WAHOOK_ROW_NONE;

	wahook_open_rows(&rows, "webhook_identities", "webhook_identities_pkey", AccessShareLock);
	for (int i = 0; i < n && state == WAHOOK_ROW_NONE; i++)
		if (names[i] != NULL)
		{
			state = wahook_peek_identity(&rows, scope, names[i], id);
			if (state == WAHOOK_ROW_NONE && scope[0] != '\0')
				state = wahook_peek_identity(&rows, "", names[i], id);
		}
	wahook_close_rows(&rows);
	return state;
}

/*
 * Creates the conversation, unless its user has got another one meanwhile: then its messages are
 * moved there. While another transaction is creating that, nothing is done yet.
 */
bool
wahook_create_joined_conversation(const pg_uuid_t *id)
{
	pg_uuid_t other;
	Datum values[] = {UUIDPGetDatum(id), UUIDPGetDatum(&other)};
	wahook_Sender sender = {.conversation_id = *id};
	const char *scope;
	const char *names[2];
	wahook_RowState state;

	if (wahook_execute(&joined_plan, values, NULL) == 0)
		return false;
	if (!wahook_lock_name(WAHOOK_LOCK_CONVERSATION, id, sizeof(*id), false))
		return true;
	sender.user_id = wahook_result_text(0, 1);
	sender.phone = wahook_result_text(0, 2);
	sender.phone_number_id = wahook_result_text(0, 3);
	names[0] = sender.user_id;
	names[1] = sender.phone;
	if (sender.user_id == NULL && sender.phone == NULL)
		sender.user_id = "unknown"; /* no name to be found by */
	scope = sender.phone_number_id ? sender.phone_number_id : "";
	state = follow_names(scope, names, 2, &other);
	if (state == WAHOOK_ROW_ARRIVING)
		return true;
	if (state != WAHOOK_ROW_NONE && memcmp(&other, id, sizeof(pg_uuid_t)) != 0)
	{
		if (wahook_execute(&adopt_plan, values, NULL) > 0)
			wahook_note_work(WAHOOK_WORK_DELIVER);
		return true;
	}
	add_free_names(id, scope, names, 2);
	wahook_create_conversations(list_make1(&sender));
	return true;
}

/* Trigger: a conversation that is inserted directly is found by the names in its row. */
Datum
wahook_register_identities(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc desc;
	const char *names[2];
	char *scope;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("function \"%s\" is a row trigger of webhook_conversations only",
							   "webhook_register_identities"),
						errhint("Write a function of your own for a trigger of your own.")));
	if (wahook_creating_conversations)
		return PointerGetDatum(NULL);

	wahook_begin(fcinfo);
	desc = RelationGetDescr(trigger->tg_relation);
	names[0] = wahook_normalize_identity(
		SPI_getvalue(trigger->tg_trigtuple, desc, Anum_conversation_user_id));
	names[1] = wahook_normalize_identity(
		SPI_getvalue(trigger->tg_trigtuple, desc, Anum_conversation_whatsapp_phone));
	scope = SPI_getvalue(trigger->tg_trigtuple, desc, SPI_fnumber(desc, "phone_number_id"));
	add_free_names(DatumGetUUIDP(SPI_getbinval(trigger->tg_trigtuple, desc, Anum_conversation_id,
											   &(bool){false})),
				   scope ? scope : "", names, 2);
	wahook_end();
	return PointerGetDatum(NULL);
}
