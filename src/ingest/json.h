/*
 * Checking JSON, and reading the members of objects that have been checked.
 */
#ifndef WAHOOK_JSON_H
#define WAHOOK_JSON_H

#include "postgres.h"

#include "ingest/json_split.h"

/* Between these two, jansson allocates from the current memory context. Nothing may raise. */
extern void wahook_json_begin(void);
extern void wahook_json_end(void);

/* Null, or why the span is not valid JSON or jsonb could not hold it. */
extern const char *wahook_check_json(wahook_Span span, int max_depth);

/* The text of a string, palloc'd; null for anything else. */
extern char *wahook_value_string(wahook_Span value);

/* The same of a member. */
extern char *wahook_json_string(wahook_Span object, const char *key);

/* A value's text, palloc'd: of a string that is not empty, or a whole number's digits. */
extern char *wahook_value_text(wahook_Span value, size_t max_length);

/* The same of a member. */
extern char *wahook_json_text(wahook_Span object, const char *key, size_t max_length);

/* A string's text, or a number as it stands, palloc'd; null for anything else. */
extern char *wahook_scalar_text(wahook_Span span);

extern bool wahook_span_is(wahook_Span span, const char *text);
extern char *wahook_span_text(wahook_Span span);

#endif
