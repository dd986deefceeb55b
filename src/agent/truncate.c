/*
 * truncate_context and count_context_tokens: reads the messages, lets the window choose, and writes
 * what is kept.
 */
#include "agent/truncate.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "agent/message.h"
#include "agent/window.h"
#include "core/args.h"
#include "core/compat.h"
#include "core/json_writer.h"

PG_FUNCTION_INFO_V1(wahook_truncate_context_sql);
PG_FUNCTION_INFO_V1(wahook_count_context_tokens);

#define MESSAGES_HINT \
	"Pass an array of chat messages, oldest first, like [{\"role\": \"user\", \"content\": \"hello\"}]."

typedef struct Context
{
	wahook_MessageRuler ruler;
	int n;
	JsonbValue *messages;
	wahook_WindowItem *items;
	wahook_ToolRef *refs;
	int n_refs;
	int max_refs;
} Context;

static void *
allocate(Size n, Size size)
{
	return palloc_extended(Max(n, 1) * size, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

static bool
is_string(const JsonbValue *value, const char *string)
{
	return value->type == jbvString && value->val.string.len == (int) strlen(string) &&
		   memcmp(value->val.string.val, string, value->val.string.len) == 0;
}

static void
read_messages(Context *context, Jsonb *messages)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue value;

	if (!JB_ROOT_IS_ARRAY(messages) || JB_ROOT_IS_SCALAR(messages))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("p_messages is not an array"),
				 errdetail("It is %s.", JB_ROOT_IS_SCALAR(messages) ? "a scalar" : "an object"),
				 errhint(MESSAGES_HINT)));
	context->messages = allocate(JB_ROOT_COUNT(messages), sizeof(JsonbValue));
	iterator = JsonbIteratorInit(&messages->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (value.type != jbvBinary || !JsonContainerIsObject(value.val.binary.data))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("p_messages holds something that is not a message"),
							errdetail("Element %d is not an object.", context->n),
							errhint(MESSAGES_HINT)));
		context->messages[context->n++] = value;
	}
}

static void
add_ref(Context *context, int item, const JsonbValue *id, bool result)
{
	wahook_ToolRef *ref;

	if (context->n_refs == context->max_refs)
	{
		context->max_refs = Max(64, 2 * context->max_refs);
		if (context->refs == NULL)
			context->refs = allocate(context->max_refs, sizeof(wahook_ToolRef));
		else
			context->refs =
				repalloc_huge(context->refs, context->max_refs * sizeof(wahook_ToolRef));
	}
	ref = &context->refs[context->n_refs++];
	ref->id = id->type == jbvString ? id->val.string.val : "";
	ref->id_len = id->type == jbvString ? id->val.string.len : 0;
	ref->item = item;
	ref->result = result;
}

static void
read_calls(Context *context, int item, const JsonbValue *calls)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue call;

	if (calls->type != jbvBinary || !JsonContainerIsArray(calls->val.binary.data))
		return;
	iterator = JsonbIteratorInit(calls->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &call, true)) != WJB_DONE)
	{
		JsonbValue id = {.type = jbvNull};

		if (token != WJB_ELEM)
			continue;
		if (call.type == jbvBinary && JsonContainerIsObject(call.val.binary.data))
			getKeyJsonValueFromContainer(call.val.binary.data, "id", 2, &id);
		add_ref(context, item, &id, false);
	}
}

/* What kind of a message each is, and which belong together. */
static void
classify(Context *context)
{
	context->items = allocate(context->n, sizeof(wahook_WindowItem));
	for (int i = 0; i < context->n; i++)
	{
		JsonbContainer *message = context->messages[i].val.binary.data;
		wahook_WindowItem *item = &context->items[i];
		JsonbValue role = {.type = jbvNull};
		JsonbValue value = {.type = jbvNull};

		CHECK_FOR_INTERRUPTS();
		item->cost = -1;
		item->floor = -1;
		getKeyJsonValueFromContainer(message, "role", 4, &role);
		getKeyJsonValueFromContainer(message, "pinned", 6, &value);
		item->system = is_string(&role, "system") || is_string(&role, "developer");
		item->fixed = item->system || (value.type == jbvBool && value.val.boolean);
		value.type = jbvNull;
		if (is_string(&role, "tool"))
		{
			getKeyJsonValueFromContainer(message, "tool_call_id", 12, &value);
			add_ref(context, i, &value, true);
		}
		else if (getKeyJsonValueFromContainer(message, "tool_calls", 10, &value) != NULL)
			read_calls(context, i, &value);
	}
	wahook_link_tools(context->items, context->n, context->refs, context->n_refs);
}

static int64_t
item_cost(void *arg, int item)
{
	Context *context = arg;

	CHECK_FOR_INTERRUPTS();
	return wahook_message_cost(&context->ruler, &context->messages[item]);
}

static int64_t
item_floor(void *arg, int item)
{
	Context *context = arg;

	CHECK_FOR_INTERRUPTS();
	return wahook_message_floor(&context->ruler, &context->messages[item]);
}

static int64_t
shorten_item(void *arg, int item, int64_t limit)
{
	Context *context = arg;

	return wahook_shorten_message(&context->ruler, &context->messages[item], limit);
}

/* Puts what is kept to the front. Returns whether all is, as it was. */
static bool
gather(Context *context, wahook_Truncation *result)
{
	bool whole = true;

	result->given = context->n;
	for (int i = 0; i < context->n; i++)
	{
		wahook_WindowState state = context->items[i].state;

		whole = whole && state == WAHOOK_WINDOW_WHOLE;
		if (state != WAHOOK_WINDOW_OUT)
			context->messages[result->kept++] = context->messages[i];
	}
	return whole;
}

void
wahook_truncate_context(Jsonb *messages, int max_tokens, int max_messages,
						wahook_Truncation *result)
{
	Context context = {.n = 0};
	wahook_Window window = {.max_tokens = max_tokens,
							.max_messages = max_messages,
							.arg = &context,
							.cost = item_cost,
							.floor = item_floor,
							.shorten = shorten_item};
	StringInfoData out;

	memset(result, 0, sizeof(*result));
	wahook_open_ruler(&context.ruler);
	read_messages(&context, messages);
	classify(&context);
	window.n = context.n;
	window.items = context.items;
	window.list = allocate(context.n, sizeof(int));
	result->tokens = (int) wahook_choose_window(&window);
	result->messages = messages;
	if (gather(&context, result))
		return;
	wahook_begin_jsonb(&out, 1024);
	wahook_append_array(&out, context.messages, result->kept, wahook_append_value);
	result->messages = wahook_end_jsonb(&out);
}

/* truncate_context(jsonb, integer, integer) → jsonb */
Datum
wahook_truncate_context_sql(PG_FUNCTION_ARGS)
{
	wahook_Truncation result;
	int max_tokens;
	int max_messages = PG_ARGISNULL(2) ? INT_MAX : PG_GETARG_INT32(2);

	wahook_require_arg(fcinfo, 0, "p_messages", MESSAGES_HINT);
	wahook_require_arg(fcinfo, 1, "p_max_tokens", "Pass the model's budget, for example 4000.");
	max_tokens = PG_GETARG_INT32(1);
	if (max_tokens < 0 || max_messages < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must not be negative",
							   max_tokens < 0 ? "p_max_tokens" : "p_max_messages"),
						errdetail("It is %d.", Min(max_tokens, max_messages)),
						errhint("Pass how much of the conversation the model may be sent.")));
	wahook_truncate_context(PG_GETARG_JSONB_P(0), max_tokens, max_messages, &result);
	PG_RETURN_JSONB_P(result.messages);
}

/* count_context_tokens(jsonb) → integer */
Datum
wahook_count_context_tokens(PG_FUNCTION_ARGS)
{
	Context context = {.n = 0};
	int64 tokens = 0;

	wahook_open_ruler(&context.ruler);
	read_messages(&context, PG_GETARG_JSONB_P(0));
	for (int i = 0; i < context.n; i++)
		tokens += item_cost(&context, i);
	PG_RETURN_INT32((int) Min(tokens, INT_MAX));
}
