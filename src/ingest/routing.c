/*
 * Routing the messages of a delivery: gathers what the routes want to know, and asks them.
 *
 * state: the service that a user is with, user_sessions.active_service. Callers write it; a route
 * that clears it does so for the messages that follow, those of the same delivery included.
 */
#include "ingest/routing.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "core/args.h"
#include "core/columns.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/plan.h"
#include "core/uuid.h"
#include "ingest/config.h"
#include "ingest/parse.h"
#include "ingest/payload.h"
#include "ingest/route.h"

#define MAX_PATH 3

/* Where a message says something, or says what was chosen. */
static const char *const text_paths[][MAX_PATH] = {
	{"text", "body"},
	{"button", "text"},
	{"button", "payload"},
	{"interactive", "button_reply", "id"},
	{"interactive", "button_reply", "title"},
	{"interactive", "list_reply", "id"},
	{"interactive", "list_reply", "title"},
	{"image", "caption"},
	{"video", "caption"},
	{"document", "caption"},
};

PG_FUNCTION_INFO_V1(wahook_route_webhook_message);

/* Numbers are kept with and without the plus sign, as callers like it. */
static wahook_Plan states_plan =
	{"SELECT u.n::integer, s.active_service FROM unnest($1) WITH ORDINALITY AS u (name, n)"
	 " JOIN @extschema@.user_sessions s ON s.phone_number = ANY (ARRAY[u.name, '+' || u.name])"
	 " WHERE s.active_service IS NOT NULL ORDER BY s.last_interaction",
	 1,
	 {TEXTARRAYOID}};

static wahook_Plan clear_plan =
	{"UPDATE @extschema@.user_sessions SET active_service = NULL, updated_at = $2 WHERE id = ANY"
	 " (ARRAY(SELECT s.id FROM unnest($1) AS u (name) JOIN @extschema@.user_sessions s"
	 " ON s.phone_number = ANY (ARRAY[u.name, '+' || u.name])"
	 " WHERE s.active_service IS NOT NULL FOR NO KEY UPDATE OF s SKIP LOCKED))",
	 2,
	 {TEXTARRAYOID, TIMESTAMPTZOID}};

static wahook_Plan sender_plan =
	{"SELECT user_id, whatsapp_phone FROM @extschema@.webhook_conversations WHERE id = $1",
	 1,
	 {UUIDOID}};

static JsonbContainer *
object_in(JsonbContainer *container, const char *key)
{
	JsonbValue *value = NULL;

	if (JsonContainerIsObject(container))
		value = getKeyJsonValueFromContainer(container, key, strlen(key), NULL);
	return value && value->type == jbvBinary ? value->val.binary.data : NULL;
}

static char *
text_at(JsonbContainer *message, const char *const *path)
{
	JsonbContainer *container = message;
	JsonbValue *value;
	int i = 0;

	while (container && i + 1 < MAX_PATH && path[i + 1])
		container = object_in(container, path[i++]);
	if (container == NULL || !JsonContainerIsObject(container))
		return NULL;
	value = getKeyJsonValueFromContainer(container, path[i], strlen(path[i]), NULL);
	if (value == NULL || value->type != jbvString || value->val.string.len == 0)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static void
find_texts(JsonbContainer *message, wahook_Routable *routable)
{
	const char **texts = palloc(lengthof(text_paths) * sizeof(char *));

	for (size_t i = 0; message && i < lengthof(text_paths); i++)
	{
		const char *text = text_at(message, text_paths[i]);

		if (text != NULL)
			texts[routable->ntexts++] = text;
	}
	routable->texts = texts;
}

/* What a user's session is found by. */
static const char *
session_name(const wahook_Update *update)
{
	return update->phone ? update->phone : update->user_id;
}

static const char **
find_states(wahook_Outcome **messages, int n)
{
	const char **states = palloc0(n * sizeof(char *));
	wahook_Column names;
	Datum value;
	uint64 found;

	wahook_start_column(&names, TEXTOID, n);
	for (int i = 0; i < n; i++)
		wahook_add_text(&names, session_name(messages[i]->update));
	value = wahook_finish_column(&names);
	found = wahook_execute(&states_plan, &value, NULL);
	for (uint64 i = 0; i < found; i++)
	{
		bool isnull;

		states[DatumGetInt32(wahook_result(i, 1, &isnull)) - 1] = wahook_result_text(i, 2);
	}
	return states;
}

static void
forget_state(wahook_Outcome **messages, const char **states, int first, int n)
{
	const char *name = session_name(messages[first]->update);

	for (int i = first + 1; i < n; i++)
		if (states[i] != NULL && strcmp(session_name(messages[i]->update), name) == 0)
			states[i] = NULL;
}

void
wahook_route_messages(wahook_Outcome **messages, int n)
{
	const wahook_Config *config = wahook_config();
	const char **states;

	for (int i = 0; i < n; i++)
		messages[i]->service = WAHOOK_DEFAULT_SERVICE;
	if (config->nroutes == 0 || n == 0)
		return;
	states = config->routes_by_state ? find_states(messages, n) : palloc0(n * sizeof(char *));
	for (int i = 0; i < n; i++)
	{
		const wahook_Update *update = messages[i]->update;
		Jsonb *payload = DatumGetJsonbP(messages[i]->payload);
		wahook_Routable routable = {.kind = update->kind,
									.state = states[i],
									.user_id = update->user_id,
									.phone = update->phone};

		if (config->routes_by_text)
			find_texts(object_in(&payload->root, "message"), &routable);
		messages[i]->route = wahook_match_route(config, &routable);
		if (messages[i]->route == NULL)
			continue;
		messages[i]->service = messages[i]->route->service->name;
		if (messages[i]->route->clears_state)
			forget_state(messages, states, i, n);
	}
}

void
wahook_clear_states(wahook_Outcome **messages, int n)
{
	wahook_Column names;
	Datum values[2];

	wahook_start_column(&names, TEXTOID, n);
	for (int i = 0; i < n; i++)
		if (messages[i]->accepted && !messages[i]->dropped && messages[i]->route &&
			messages[i]->route->clears_state)
			wahook_add_text(&names, session_name(messages[i]->update));
	if (names.n == 0)
		return;
	values[0] = wahook_finish_column(&names);
	values[1] = TimestampTzGetDatum(GetCurrentTimestamp());
	wahook_execute(&clear_plan, values, NULL);
}

/* Its conversation knows the sender better than the message does. */
static void
read_conversation(const pg_uuid_t *id, wahook_Update *update)
{
	Datum value = UUIDPGetDatum(id);

	if (wahook_execute(&sender_plan, &value, NULL) == 0)
		ereport(ERROR,
				(errcode(WAHOOK_UNKNOWN_CONVERSATION),
				 errmsg("conversation %s does not exist", wahook_uuid_text(id)),
				 errhint("Leave p_conversation_id null for the sender that the message names.")));
	update->user_id = wahook_normalize_identity(wahook_result_text(0, 1));
	update->phone = wahook_normalize_identity(wahook_result_text(0, 2));
	if (update->phone == NULL)
		update->phone = update->user_id;
}

static const char *
route_message(wahook_Outcome *message)
{
	wahook_route_messages(&message, 1);
	return message->service;
}

/* route_webhook_message(jsonb, uuid) → text */
Datum
wahook_route_webhook_message(PG_FUNCTION_ARGS)
{
	wahook_Update update;
	wahook_Outcome message = {.update = &update};
	const char *service;
	char *json;
	Jsonb *body;

	wahook_require_arg(fcinfo, 0, "p_message",
					   "Pass a message as it stands in a delivery, or in a claim's messages.");
	body = PG_GETARG_JSONB_P(0);
	json = JsonbToCString(NULL, &body->root, VARSIZE(body));
	wahook_parse_message(json, &update);
	message.payload =
		wahook_build_payload("message", ((wahook_Span){json, strlen(json)}), (const char *) NULL);
	wahook_begin(fcinfo);
	if (!PG_ARGISNULL(1))
		read_conversation(PG_GETARG_UUID_P(1), &update);
	service = route_message(&message);
	wahook_end();
	PG_RETURN_TEXT_P(cstring_to_text(service));
}
