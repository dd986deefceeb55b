/*
 * jansson, with its memory in a memory context of ours.
 */
#ifndef WAHOOK_JSON_H
#define WAHOOK_JSON_H

#include "postgres.h"

#include <jansson.h>

#include "ingest/json_split.h"

/* Between these two, jansson allocates from the current memory context. Nothing may raise. */
extern void wahook_json_begin(void);
extern void wahook_json_end(void);

/*
 * Parses a span. Null and *reason when it is not valid JSON or jsonb could not hold it. What it
 * returns is freed with the memory context.
 */
extern json_t *wahook_parse_json(wahook_Span span, int max_depth, const char **reason);

/* Null, or why the span can't be parsed. */
extern const char *wahook_check_json(wahook_Span span, int max_depth);

/* A member's text, palloc'd: a string that is not empty, or a whole number's digits. */
extern char *wahook_json_text(const json_t *object, const char *key, size_t max_length);

/* A string's text, or a number as it stands, palloc'd; null for anything else. */
extern char *wahook_scalar_text(wahook_Span span, int max_depth);

extern bool wahook_span_is(wahook_Span span, const char *text);
extern char *wahook_span_text(wahook_Span span);

#endif
