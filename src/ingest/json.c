/*
 * jansson, with its memory in a memory context of ours.
 *
 * Its allocator is one for the whole process, so it is put back after each use: another extension
 * may use the library too. The callbacks must not raise: they return null when memory is short.
 */
#include "ingest/json.h"

#include <math.h>

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

json_t *
wahook_parse_json(wahook_Span span, int max_depth, const char **reason)
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

	(void) wahook_parse_json(span, max_depth, &reason);
	return reason;
}

char *
wahook_json_text(const json_t *object, const char *key, size_t max_length)
{
	const json_t *member = json_object_get(object, key);

	if (json_is_string(member))
	{
		size_t len = json_string_length(member);

		return len == 0 || len > max_length ? NULL : pnstrdup(json_string_value(member), len);
	}
	if (json_is_real(member))
	{
		double number = json_real_value(member);

		if (number == floor(number) && fabs(number) <= MAX_EXACT_DOUBLE)
			return psprintf("%.0f", number);
	}
	return NULL;
}

char *
wahook_scalar_text(wahook_Span span, int max_depth)
{
	const char *reason;
	json_t *scalar;

	if (span.len == 0)
		return NULL;
	scalar = wahook_parse_json(span, max_depth, &reason);
	if (json_is_string(scalar))
		return pstrdup(json_string_value(scalar));
	return json_is_real(scalar) ? wahook_span_text(span) : NULL;
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
