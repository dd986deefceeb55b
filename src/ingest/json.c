/*
 * Understanding JSON: jansson, with its memory in a memory context of ours.
 *
 * Parsing everything would be a tenth of the time that a message takes. Most values are seen to be
 * valid in one pass (ingest/json_plain.c), and their members are read where they stand. jansson has
 * the last word on all others, and reads strings with escapes.
 *
 * Its allocator is one for the whole process, so it is put back after each use: another extension
 * may use the library too. The callbacks must not raise: they return null when memory is short.
 */
#include "ingest/json.h"

#include <jansson.h>
#include <math.h>

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

static json_malloc_t saved_malloc;
static json_free_t saved_free;

/* Whole numbers up to here are exact in a double. */
#define MAX_EXACT_DOUBLE 9007199254740992.0

static void *
allocate(size_t size)
{
	return MemoryContextAllocExtended(CurrentMemoryContext, size,
									  MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
}

static void
release(void *pointer)
{
	if (pointer)
		pfree(pointer);
}

void
wahook_json_begin(void)
{
	json_get_alloc_funcs(&saved_malloc, &saved_free);
	json_set_alloc_funcs(allocate, release);
}

void
wahook_json_end(void)
{
	json_set_alloc_funcs(saved_malloc, saved_free);
}

/* Null and *reason when the span is not valid JSON or jsonb could not hold it. */
static json_t *
parse(wahook_Span span, int max_depth, const char **reason)
{
	json_error_t error;
	json_t *json;

	if (!wahook_fits_jsonb(span, max_depth, reason))
		return NULL;

	/* Numbers are stored from the text; as reals, those beyond 64 bits don't fail here. */
	json = json_loadb(span.start, span.len, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, &error);
	if (json == NULL)
	{
		/* "... near 'text'" quotes the body, which must not get into a log. */
		char *near = strstr(error.text, " near ");

		if (near != NULL)
			*near = '\0';
		*reason = pstrdup(error.text);
	}
	return json;
}

const char *
wahook_check_json(wahook_Span span, int max_depth)
{
	const char *reason = NULL;

	/* Text is valid in the database's encoding. */
	if (!wahook_is_plain_json(span, max_depth, GetDatabaseEncoding() == PG_UTF8))
		(void) parse(span, max_depth, &reason);
	return reason;
}

/* A string or number, which is valid. */
static json_t *
parse_scalar(wahook_Span scalar)
{
	const char *reason;

	return parse(scalar, 1, &reason);
}

char *
wahook_value_string(wahook_Span value)
{
	if (value.len == 0 || value.start[0] != '"')
		return NULL;
	if (memchr(value.start, '\\', value.len) == NULL)
		return pnstrdup(value.start + 1, value.len - 2);
	return pstrdup(json_string_value(parse_scalar(value)));
}

char *
wahook_json_string(wahook_Span object, const char *key)
{
	return wahook_value_string(wahook_member(object, key));
}

char *
wahook_value_text(wahook_Span value, size_t max_length)
{
	char *text = wahook_value_string(value);
	json_t *number;

	if (text != NULL)
	{
		size_t len = strlen(text);

		return len == 0 || len > max_length ? NULL : text;
	}
	if (value.len == 0 || strchr("-0123456789", value.start[0]) == NULL)
		return NULL;
	number = parse_scalar(value);
	if (json_real_value(number) != floor(json_real_value(number)) ||
		fabs(json_real_value(number)) > MAX_EXACT_DOUBLE)
		return NULL;
	return psprintf("%.0f", json_real_value(number));
}

char *
wahook_json_text(wahook_Span object, const char *key, size_t max_length)
{
	return wahook_value_text(wahook_member(object, key), max_length);
}

char *
wahook_scalar_text(wahook_Span span)
{
	char *text = wahook_value_string(span);

	if (text == NULL && span.len > 0 && strchr("-0123456789", span.start[0]) != NULL)
		text = wahook_span_text(span);
	return text;
}

bool
wahook_span_is(wahook_Span span, const char *text)
{
	return span.len == strlen(text) && memcmp(span.start, text, span.len) == 0;
}

/* A copy of the span as it stands in the text. */
char *
wahook_span_text(wahook_Span span)
{
	return pnstrdup(span.start, span.len);
}
