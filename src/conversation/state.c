/*
 * The status of a conversation: a state machine, and an audit row for each change.
 *
 * transition_conversation() is the way that asks first: it refuses what the state machine does not
 * allow. Callers of the first generation update the column directly; that is never refused. A
 * trigger writes the audit row, so none is missing whichever way the status was changed.
 */
#include "conversation/state.h"

#include "access/genam.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "conversation/lock.h"
#include "core/args.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/row.h"
#include "core/uuid.h"

/* Columns of webhook_conversations; new ones are only ever added at the end. */
enum
{
	Anum_id = 1,
	Anum_status = 5
};

typedef enum State
{
	ACTIVE,
	PENDING,
	PROCESSING,
	COMPLETED,
	TIMEOUT,
	ERRONEOUS,
	STATES
} State;

static const char *const state_names[STATES] = {"active",    "pending", "processing",
												"completed", "timeout", "error"};

#define TO(state) (1 << (state))

/* A completed conversation is only ever reopened; one that failed goes through work again. */
static const int allowed[STATES] = {
	[ACTIVE] = TO(PENDING) | TO(PROCESSING) | TO(COMPLETED) | TO(TIMEOUT) | TO(ERRONEOUS),
	[PENDING] = TO(ACTIVE) | TO(PROCESSING) | TO(COMPLETED) | TO(TIMEOUT) | TO(ERRONEOUS),
	[PROCESSING] = TO(ACTIVE) | TO(PENDING) | TO(COMPLETED) | TO(TIMEOUT) | TO(ERRONEOUS),
	[COMPLETED] = TO(ACTIVE),
	[TIMEOUT] = TO(ACTIVE) | TO(PENDING) | TO(PROCESSING) | TO(COMPLETED) | TO(ERRONEOUS),
	[ERRONEOUS] = TO(ACTIVE) | TO(PENDING) | TO(PROCESSING),
};

/* What the audit trigger writes beside the states, while a statement of ours changes them. */
typedef struct Transition
{
	const char *reason;
	const pg_uuid_t *correlation_id;
	const Jsonb *metadata;
} Transition;

static const Transition *current_transition = NULL;

PG_FUNCTION_INFO_V1(wahook_transition_conversation);
PG_FUNCTION_INFO_V1(wahook_audit_status);

static wahook_Plan transition_plan =
	{"UPDATE @extschema@.webhook_conversations"
	 " SET status = $2, last_activity_at = $3, updated_at = $3 WHERE id = $1",
	 3,
	 {UUIDOID, TEXTOID, TIMESTAMPTZOID}};

static wahook_Plan audit_plan =
	{"INSERT INTO @extschema@.conversation_state_transitions"
	 " (conversation_id, from_state, to_state, transition_reason, correlation_id, metadata)"
	 " VALUES ($1, $2, $3, $4, $5, coalesce($6, '{}'))",
	 6,
	 {UUIDOID, TEXTOID, TEXTOID, TEXTOID, UUIDOID, JSONBOID}};

/* The former transition is put back also after an error, which a caller's savepoint may survive. */
static uint64
execute_transition(wahook_Plan *plan, Datum *values, const Transition *transition)
{
	const Transition *outer = current_transition;
	uint64 processed = 0;

	current_transition = transition;
	PG_TRY();
	{
		processed = wahook_execute(plan, values, NULL);
	}
	PG_FINALLY();
	{
		current_transition = outer;
	}
	PG_END_TRY();
	return processed;
}

uint64
wahook_execute_transition(wahook_Plan *plan, Datum *values, const char *reason)
{
	Transition transition = {.reason = reason};

	return execute_transition(plan, values, &transition);
}

/* The audit trigger: AFTER UPDATE OF status on webhook_conversations, where it changed. */
Datum
wahook_audit_status(PG_FUNCTION_ARGS)
{
	static const Transition direct = {.reason = "direct update"};
	const Transition *transition = current_transition ? current_transition : &direct;
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc desc;
	Datum values[6];
	char nulls[] = "      ";
	bool isnull;

	wahook_begin(fcinfo);
	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ||
		RelationGetRelid(trigger->tg_relation) != wahook_relation("webhook_conversations"))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("function \"%s\" is a row trigger of webhook_conversations only",
							   "webhook_audit_status"),
						errhint("Write a function of your own for a trigger of your own.")));
	desc = RelationGetDescr(trigger->tg_relation);
	values[0] = SPI_getbinval(trigger->tg_newtuple, desc, Anum_id, &isnull);
	values[1] = SPI_getbinval(trigger->tg_trigtuple, desc, Anum_status, &isnull);
	values[2] = SPI_getbinval(trigger->tg_newtuple, desc, Anum_status, &isnull);
	values[3] = CStringGetTextDatum(transition->reason);
	values[4] = UUIDPGetDatum(transition->correlation_id);
	values[5] = JsonbPGetDatum(transition->metadata);
	if (transition->correlation_id == NULL)
		nulls[4] = 'n';
	if (transition->metadata == NULL)
		nulls[5] = 'n';
	wahook_execute(&audit_plan, values, nulls);
	wahook_end();
	return PointerGetDatum(NULL);
}

/* The named states, separated by commas; palloc'd. */
static char *
list_states(int states)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < STATES; i++)
		if (states & TO(i))
			appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", state_names[i]);
	return list.data;
}

static State
parse_state(const char *name)
{
	for (int i = 0; i < STATES; i++)
		if (strcmp(name, state_names[i]) == 0)
			return i;
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("unknown conversation state \"%s\"", name),
					errhint("The states are %s.", list_states((1 << STATES) - 1))));
}

/* Row-locks the conversation and returns its state. Errors: WH003, and 55P03 when it is busy. */
static State
lock_state(const pg_uuid_t *id)
{
	wahook_RowReader reader;
	wahook_Conversation conversation;
	wahook_RowState state;

	wahook_open_conversations(&reader);
	state = wahook_peek_conversation(&reader, id, &conversation);
	if (state == WAHOOK_ROW_NONE)
		wahook_raise_unknown_conversation(id);
	if (state != WAHOOK_ROW_STEADY || !wahook_try_lock_row(&reader))
		wahook_raise_busy("conversation", wahook_uuid_text(id));
	wahook_close_rows(&reader);
	return parse_state(conversation.status);
}

static void
check_transition(const pg_uuid_t *id, State from, State to)
{
	if (allowed[from] & TO(to))
		return;
	ereport(ERROR,
			(errcode(WAHOOK_TRANSITION_NOT_ALLOWED),
			 errmsg("transition from \"%s\" to \"%s\" is not allowed", state_names[from],
					state_names[to]),
			 errdetail("Conversation %s is \"%s\".", wahook_uuid_text(id), state_names[from]),
			 errhint("From \"%s\" it can go to: %s.", state_names[from],
					 list_states(allowed[from]))));
}

/*
 * transition_conversation(uuid, text, text, uuid, jsonb) → text: the former state. A transition to
 * the state it is in already changes nothing and leaves no audit row, so it can be repeated.
 */
Datum
wahook_transition_conversation(PG_FUNCTION_ARGS)
{
	Transition transition = {0};
	pg_uuid_t *id;
	State from;
	State to;

	wahook_require_arg(fcinfo, 0, "p_conversation_id",
					   "Pass the id of a row of webhook_conversations.");
	wahook_require_arg(fcinfo, 1, "p_to_state",
					   "Pass the status that the conversation is to have.");
	wahook_require_arg(fcinfo, 2, "p_reason", "Say why the status changes.");
	id = PG_GETARG_UUID_P(0);
	to = parse_state(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	transition.reason = text_to_cstring(PG_GETARG_TEXT_PP(2));
	transition.correlation_id = PG_ARGISNULL(3) ? NULL : PG_GETARG_UUID_P(3);
	transition.metadata = PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4);

	wahook_begin(fcinfo);
	from = lock_state(id);
	if (from != to)
	{
		Datum values[] = {UUIDPGetDatum(id), PG_GETARG_DATUM(1),
						  TimestampTzGetDatum(GetCurrentTimestamp())};

		check_transition(id, from, to);
		execute_transition(&transition_plan, values, &transition);
	}
	wahook_end();
	PG_RETURN_TEXT_P(cstring_to_text(state_names[from]));
}
