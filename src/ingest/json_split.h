/*
 * Telling the updates of a delivery apart without understanding them.
 *
 * A delivery is one JSON text with up to a thousand updates in it. One that no parser accepts (a
 * lone surrogate, a number beyond all bounds) must not cost the others, and what is stored must be
 * what was sent, digit for digit. So the text is first cut into spans, and each is checked alone.
 *
 * Pure: no tables, no palloc, no ereport. Linear in the length of the text.
 */
#ifndef WAHOOK_JSON_SPLIT_H
#define WAHOOK_JSON_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

/* A piece of the text; len 0: there is none. */
typedef struct wahook_Span
{
	const char *start;
	size_t len;
} wahook_Span;

typedef struct wahook_Cursor
{
	const char *at;
	const char *end;
} wahook_Cursor;

/* Numbers up to these bounds fit in jsonb's numeric whatever their form. */
#define WAHOOK_MAX_NUMBER_LENGTH 1000
#define WAHOOK_MAX_NUMBER_EXPONENT 1000

extern wahook_Cursor wahook_cursor(wahook_Span span);
extern char wahook_kind_at(wahook_Cursor *cursor);
extern bool wahook_skip_value(wahook_Cursor *cursor, wahook_Span *span);
extern bool wahook_enter(wahook_Cursor *cursor, char bracket);
extern bool wahook_next_member(wahook_Cursor *cursor, wahook_Span *key, bool *more);
extern bool wahook_next_element(wahook_Cursor *cursor, bool *more);
extern bool wahook_at_end(wahook_Cursor *cursor);
extern bool wahook_key_is(wahook_Span key, const char *name);

/* The values of an object's members, the last one of each name; anything else has none. */
extern void wahook_find_members(wahook_Span object, const char *const *names, wahook_Span *values,
								int n);
extern wahook_Span wahook_member(wahook_Span object, const char *name);

extern bool wahook_fits_jsonb(wahook_Span span, int max_depth, const char **reason);

/*
 * Whether the text is surely valid JSON that jsonb can hold: true for all that is common, and false
 * for whatever needs a second look. utf8: bytes beyond ASCII are known to be valid UTF-8; else they
 * need one.
 */
extern bool wahook_is_plain_json(wahook_Span span, int max_depth, bool utf8);

#endif
