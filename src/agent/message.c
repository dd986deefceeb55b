/*
 * The cost of a chat message, and shortening it.
 *
 * Each message costs 4 tokens of its own, for its role and for what stands between messages. Texts
 * cost what is counted; a picture a fixed number; anything else (calls of tools, parts of kinds
 * that we don't know) what its JSON text does. Only content is ever shortened.
 */
#include "agent/message.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "agent/text_cut.h"
#include "core/json_writer.h"

#define MESSAGE_TOKENS 4

/* OpenAI's rule for pictures: 85, and in high detail 170 more for each of, here, 6 tiles: a photo of 16:9. */
#define SMALL_PICTURE_TOKENS 85
#define PICTURE_TOKENS (85 + 6 * 170)

/* How often a shortened text is measured with the user's counter. */
#define MAX_TRIES 8

#define IS(value, literal) \
	((value)->type == jbvString && (value)->val.string.len == (int) strlen(literal) && \
	 memcmp((value)->val.string.val, literal, strlen(literal)) == 0)

/* The two parts of a message's cost. */
typedef struct MessageCost
{
	int64 content;
	int64 others;
	bool can_shorten; /* content is a text, or an array */
} MessageCost;

static bool
is_array(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data);
}

static bool
is_object(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
}

static int64
count_string(wahook_MessageRuler *ruler, const JsonbValue *value)
{
	return wahook_count_tokens(&ruler->counter, value->val.string.val, value->val.string.len);
}

/* What its JSON text costs; a string, what is in it. */
static int64
value_cost(wahook_MessageRuler *ruler, const JsonbValue *value)
{
	char *text;
	int64 cost;

	switch (value->type)
	{
		case jbvString:
			return count_string(ruler, value);
		case jbvNumeric:
			text = DatumGetCString(
				DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
			break;
		case jbvBinary:
			text = JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
			break;
		default:
			return 1;
	}
	cost = wahook_count_tokens(&ruler->counter, text, strlen(text));
	pfree(text);
	return cost;
}

static bool
is_text_part(const JsonbValue *part, JsonbValue *text)
{
	JsonbValue type;

	return is_object(part) &&
		   getKeyJsonValueFromContainer(part->val.binary.data, "type", 4, &type) != NULL &&
		   (IS(&type, "text") || IS(&type, "input_text")) &&
		   getKeyJsonValueFromContainer(part->val.binary.data, "text", 4, text) != NULL &&
		   text->type == jbvString;
}

/* 0: it is none. */
static int64
picture_cost(const JsonbValue *part)
{
	JsonbValue value;
	JsonbValue detail;
	JsonbContainer *container = is_object(part) ? part->val.binary.data : NULL;

	if (container == NULL || getKeyJsonValueFromContainer(container, "type", 4, &value) == NULL ||
		!(IS(&value, "image_url") || IS(&value, "input_image")))
		return 0;
	if (getKeyJsonValueFromContainer(container, "image_url", 9, &value) != NULL &&
		is_object(&value))
		container = value.val.binary.data;
	if (getKeyJsonValueFromContainer(container, "detail", 6, &detail) != NULL && IS(&detail, "low"))
		return SMALL_PICTURE_TOKENS;
	return PICTURE_TOKENS;
}

static int64
part_cost(wahook_MessageRuler *ruler, const JsonbValue *part)
{
	JsonbValue text;
	int64 picture = picture_cost(part);

	if (picture > 0)
		return picture;
	return is_text_part(part, &text) ? count_string(ruler, &text) : value_cost(ruler, part);
}

static int64
content_cost(wahook_MessageRuler *ruler, const JsonbValue *content)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue part;
	int64 cost = 0;

	if (content->type == jbvNull)
		return 0;
	if (!is_array(content))
		return value_cost(ruler, content);
	iterator = JsonbIteratorInit(content->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &part, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			cost += part_cost(ruler, &part);
	return cost;
}

/* What these keys are called costs nothing. */
static bool
is_usual_key(const JsonbValue *key)
{
	return IS(key, "tool_calls") || IS(key, "tool_call_id") || IS(key, "name") ||
		   IS(key, "refusal");
}

static bool
is_usual_role(const JsonbValue *role)
{
	return IS(role, "user") || IS(role, "assistant") || IS(role, "tool") || IS(role, "system") ||
		   IS(role, "developer") || IS(role, "function");
}

/* Our own, not the model's. */
static bool
is_private_key(const JsonbValue *key)
{
	return IS(key, "pinned") || IS(key, "wamid") || IS(key, "at");
}

static MessageCost
measure(wahook_MessageRuler *ruler, const JsonbValue *message)
{
	JsonbIterator *iterator = JsonbIteratorInit(message->val.binary.data);
	JsonbIteratorToken token;
	JsonbValue key;
	JsonbValue value;
	MessageCost cost = {0, MESSAGE_TOKENS, false};

	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		JsonbIteratorNext(&iterator, &value, true);
		if (IS(&key, "content"))
		{
			cost.content = content_cost(ruler, &value);
			cost.can_shorten = value.type == jbvString || is_array(&value);
			continue;
		}
		if (is_private_key(&key) || (IS(&key, "role") && is_usual_role(&value)))
			continue;
		cost.others += value_cost(ruler, &value);
		if (!is_usual_key(&key))
			cost.others += count_string(ruler, &key);
	}
	return cost;
}

void
wahook_open_ruler(wahook_MessageRuler *ruler)
{
	wahook_open_token_counter(&ruler->counter);
	ruler->mark =
		wahook_count_tokens(&ruler->counter, WAHOOK_SHORTENED_MARK, strlen(WAHOOK_SHORTENED_MARK));
}

int64
wahook_message_cost(wahook_MessageRuler *ruler, const JsonbValue *message)
{
	MessageCost cost = measure(ruler, message);

	return cost.content + cost.others;
}

int64
wahook_message_floor(wahook_MessageRuler *ruler, const JsonbValue *message)
{
	MessageCost cost = measure(ruler, message);

	return cost.others + (cost.can_shorten ? Min(cost.content, ruler->mark) : cost.content);
}

/* The beginning of a text, by the built-in estimate of at most so many tokens, with the mark. */
static void
cut(const JsonbValue *text, double tokens, JsonbValue *result)
{
	const char *mark = " " WAHOOK_SHORTENED_MARK;
	int64 hundredths = (int64) (tokens * 100) - (int64) strlen(mark) * 25;
	int len = 0;
	StringInfoData string;

	if (hundredths > 0)
		len = (int) wahook_cut_text(text->val.string.val, text->val.string.len, hundredths);
	initStringInfo(&string);
	appendBinaryStringInfo(&string, text->val.string.val, len);
	appendStringInfoString(&string, len > 0 ? mark : mark + 1);
	wahook_set_string(result, string.data, string.len);
}

/*
 * Shortens a text to at most limit tokens, and returns what it costs then; -1: it can't. What
 * another counter than ours makes of a text can only be tried: the longest that was seen to fit.
 */
static int64
shorten_text(wahook_MessageRuler *ruler, JsonbValue *text, int64 limit)
{
	JsonbValue best = {0};
	int64 best_cost = -1;
	double tokens = (double) limit;
	int tries = wahook_counter_is_built_in(&ruler->counter) ? 1 : MAX_TRIES;

	for (int i = 0; i < tries && tokens >= 1; i++)
	{
		JsonbValue attempt;
		int64 cost;

		cut(text, tokens, &attempt);
		cost = count_string(ruler, &attempt);
		if (cost <= limit && (best_cost < 0 || attempt.val.string.len > best.val.string.len))
		{
			best = attempt;
			best_cost = cost;
		}
		if (cost <= limit && cost >= limit - limit / 16)
			break;
		/* Aim a little below, so as to come from above and from below. */
		tokens *= 0.97 * (double) limit / (double) Max(cost, 1);
		tokens = Min(tokens, (double) text->val.string.len);
	}
	if (best_cost < 0 && ruler->mark <= limit)
	{
		wahook_set_string(&best, WAHOOK_SHORTENED_MARK, strlen(WAHOOK_SHORTENED_MARK));
		best_cost = ruler->mark;
	}
	if (best_cost >= 0)
		*text = best;
	return best_cost;
}

/* The object with another value for one of its keys. */
static void
replace_member(JsonbValue *object, const char *replaced, const JsonbValue *by)
{
	int n = JsonContainerSize(object->val.binary.data);
	wahook_JsonMember *members = palloc_extended((n + 1) * sizeof(*members), MCXT_ALLOC_HUGE);
	StringInfoData out;

	n = wahook_read_members(object->val.binary.data, members);
	/* Of members of one name the last one stays. */
	members[n].key = replaced;
	members[n].key_len = (int) strlen(replaced);
	members[n].value = *by;
	wahook_begin_jsonb(&out, 256);
	wahook_append_object(&out, members, n + 1, wahook_append_value);
	wahook_set_jsonb(object, wahook_end_jsonb(&out));
	pfree(members);
}

static void
make_mark_part(JsonbValue *part)
{
	wahook_JsonMember members[2] = {{"type", 4}, {"text", 4}};
	StringInfoData out;

	wahook_set_string(&members[0].value, "text", 4);
	wahook_set_string(&members[1].value, WAHOOK_SHORTENED_MARK, strlen(WAHOOK_SHORTENED_MARK));
	wahook_begin_jsonb(&out, 64);
	wahook_append_object(&out, members, 2, wahook_append_value);
	wahook_set_jsonb(part, wahook_end_jsonb(&out));
}

typedef struct Parts
{
	JsonbValue *parts;
	bool *kept;
	int n;
	int64 left;   /* tokens, beside those put by for the mark */
	bool is_full; /* a text was shortened, which has the mark */
	bool lacks;   /* something was left out */
} Parts;

/* Keeps the parts that are texts, or those that are not, for as long as there is room. */
static void
keep_parts(wahook_MessageRuler *ruler, Parts *parts, bool texts)
{
	for (int i = 0; i < parts->n; i++)
	{
		JsonbValue *part = &parts->parts[i];
		JsonbValue text;
		int64 cost;

		CHECK_FOR_INTERRUPTS();
		if (is_text_part(part, &text) != texts)
			continue;
		cost = texts && parts->is_full ? PG_INT64_MAX : part_cost(ruler, part);
		if (cost > parts->left && texts && !parts->is_full)
		{
			parts->left += ruler->mark;
			cost = shorten_text(ruler, &text, parts->left);
			if (cost >= 0)
				replace_member(part, "text", &text);
			parts->is_full = cost >= 0;
			if (cost < 0)
			{
				parts->left -= ruler->mark;
				cost = PG_INT64_MAX;
			}
		}
		parts->kept[i] = cost <= parts->left;
		if (parts->kept[i])
			parts->left -= cost;
		else
			parts->lacks = true;
	}
}

/* Texts go before pictures and others: what the user says of a picture is worth more than it. */
static int64
shorten_parts(wahook_MessageRuler *ruler, JsonbValue *content, int64 limit)
{
	Parts parts = {.n = 0, .left = limit - ruler->mark};
	int n = JsonContainerSize(content->val.binary.data);
	JsonbIterator *iterator = JsonbIteratorInit(content->val.binary.data);
	JsonbIteratorToken token;
	JsonbValue part;
	StringInfoData out;
	int kept = 0;

	if (parts.left < 0)
		return -1;
	parts.parts = palloc_extended((n + 1) * sizeof(JsonbValue), MCXT_ALLOC_HUGE);
	parts.kept = palloc0(n + 1);
	while ((token = JsonbIteratorNext(&iterator, &part, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			parts.parts[parts.n++] = part;
	keep_parts(ruler, &parts, true);
	keep_parts(ruler, &parts, false);
	for (int i = 0; i < n; i++)
		if (parts.kept[i])
			parts.parts[kept++] = parts.parts[i];
	if (!parts.is_full && parts.lacks)
		make_mark_part(&parts.parts[kept++]);
	wahook_begin_jsonb(&out, 256);
	wahook_append_array(&out, parts.parts, kept, wahook_append_value);
	wahook_set_jsonb(content, wahook_end_jsonb(&out));
	return content_cost(ruler, content);
}

int64
wahook_shorten_message(wahook_MessageRuler *ruler, JsonbValue *message, int64 limit)
{
	MessageCost cost = measure(ruler, message);
	JsonbValue content;
	int64 room = limit - cost.others;

	if (!cost.can_shorten || room < ruler->mark ||
		getKeyJsonValueFromContainer(message->val.binary.data, "content", 7, &content) == NULL)
		return -1;
	cost.content = content.type == jbvString ? shorten_text(ruler, &content, room)
											 : shorten_parts(ruler, &content, room);
	if (cost.content < 0)
		return -1;
	replace_member(message, "content", &content);
	return cost.others + cost.content;
}
