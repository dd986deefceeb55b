/*
 * jsonb of what was delivered, straight from text that has been checked.
 *
 * jsonb_in() reads the text a third time, copies each string twice and builds a tree in between.
 * Here strings go from the delivery into the jsonb; what needs more than that, a string with
 * escapes or a long number, is left to PostgreSQL.
 */
#include "ingest/payload.h"

#include <stdarg.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "core/json_writer.h"

/* Members of a payload, none of which the caller names twice. */
#define MAX_PARTS 8

/* Whole numbers of so many characters fit in 64 bits. */
#define MAX_INT64_LENGTH 18

static JEntry write_text(StringInfo out, const JsonbValue *text);

/* The text of a value that is still to be read; only write_text() knows what to do with it. */
static void
set_text(JsonbValue *text, wahook_Span span)
{
	text->type = jbvString;
	text->val.string.val = unconstify(char *, span.start);
	text->val.string.len = (int) span.len;
}

/* A scalar that needs PostgreSQL's parser. */
static void
parse_scalar(wahook_Span span, JsonbValue *value)
{
	char *text = pnstrdup(span.start, span.len);
	Jsonb *jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));

	if (!JsonbExtractScalar(&jsonb->root, value))
		elog(ERROR, "a scalar is none");
}

/* A string without its quotes. */
static void
read_string(wahook_Span span, JsonbValue *value)
{
	if (memchr(span.start, '\\', span.len) != NULL)
		parse_scalar(span, value);
	else
	{
		value->type = jbvString;
		value->val.string.val = unconstify(char *, span.start + 1);
		value->val.string.len = (int) span.len - 2;
	}
}

static void
read_number(wahook_Span span, JsonbValue *value)
{
	char digits[MAX_INT64_LENGTH + 1];
	char *end;

	if (span.len > MAX_INT64_LENGTH)
	{
		parse_scalar(span, value);
		return;
	}
	memcpy(digits, span.start, span.len);
	digits[span.len] = '\0';
	value->type = jbvNumeric;
	value->val.numeric = int64_to_numeric(strtoll(digits, &end, 10));
	if (*end != '\0')
		parse_scalar(span, value);
}

static void
read_scalar(wahook_Span span, JsonbValue *value)
{
	switch (span.start[0])
	{
		case '"':
			read_string(span, value);
			break;
		case 'n':
			value->type = jbvNull;
			break;
		case 't':
		case 'f':
			value->type = jbvBool;
			value->val.boolean = span.start[0] == 't';
			break;
		default:
			read_number(span, value);
	}
}

/* An array of n items, with room for one more, which may be as large as the text. */
static void *
make_room(void *items, int n, int *max, Size size)
{
	if (n < *max)
		return items;
	*max *= 2;
	return repalloc_huge(items, *max * size);
}

static JEntry
write_object(StringInfo out, wahook_Cursor *cursor)
{
	int max = 16;
	int n = 0;
	wahook_JsonMember *members = palloc_array(wahook_JsonMember, max);
	wahook_Span key;
	wahook_Span value;
	JEntry type;
	bool more;

	while (wahook_next_member(cursor, &key, &more) && more && wahook_skip_value(cursor, &value))
	{
		JsonbValue name;

		members = make_room(members, n, &max, sizeof(wahook_JsonMember));
		read_string(key, &name);
		members[n].key = name.val.string.val;
		members[n].key_len = name.val.string.len;
		set_text(&members[n++].value, value);
	}
	type = wahook_append_object(out, members, n, write_text);
	pfree(members);
	return type;
}

static JEntry
write_array(StringInfo out, wahook_Cursor *cursor)
{
	int max = 16;
	int n = 0;
	JsonbValue *elements = palloc_array(JsonbValue, max);
	wahook_Span element;
	JEntry type;
	bool more;

	while (wahook_next_element(cursor, &more) && more && wahook_skip_value(cursor, &element))
	{
		elements = make_room(elements, n, &max, sizeof(JsonbValue));
		set_text(&elements[n++], element);
	}
	type = wahook_append_array(out, elements, n, write_text);
	pfree(elements);
	return type;
}

static JEntry
write_text(StringInfo out, const JsonbValue *text)
{
	wahook_Span span = {text->val.string.val, text->val.string.len};
	wahook_Cursor cursor = wahook_cursor(span);
	JsonbValue value;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (wahook_enter(&cursor, '{'))
		return write_object(out, &cursor);
	if (wahook_enter(&cursor, '['))
		return write_array(out, &cursor);
	read_scalar(span, &value);
	return wahook_append_value(out, &value);
}

Datum
wahook_build_payload(const char *key, wahook_Span value, ...)
{
	static const wahook_Span null = {"null", 4};
	wahook_JsonMember members[MAX_PARTS];
	StringInfoData json;
	Size size = 0;
	va_list args;
	int n = 0;

	va_start(args, value);
	while (key != NULL)
	{
		Assert(n < MAX_PARTS);
		members[n].key = key;
		members[n].key_len = (int) strlen(key);
		set_text(&members[n++].value, value.len > 0 ? value : null);
		size += value.len;
		key = va_arg(args, const char *);
		if (key != NULL)
			value = va_arg(args, wahook_Span);
	}
	va_end(args);
	wahook_begin_jsonb(&json, (int) Min(size + 256, MaxAllocSize - VARHDRSZ));
	(void) wahook_append_object(&json, members, n, write_text);
	return JsonbPGetDatum(wahook_end_jsonb(&json));
}
