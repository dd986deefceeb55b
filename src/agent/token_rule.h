/*
 * The built-in estimate of how many tokens a text costs a model. Pure: no tables, no server.
 *
 * Meter: what a text that is read character by character has cost so far. It never goes back, so
 * the longest beginning of a text that fits a budget is found in one pass.
 */
#ifndef WAHOOK_TOKEN_RULE_H
#define WAHOOK_TOKEN_RULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct wahook_TokenMeter
{
	int64_t hundredths; /* of a token */
	int64_t run;        /* ASCII characters since the last blank or other character */
	bool digits;        /* whether a digit is among them */
} wahook_TokenMeter;

/* What is no character: a byte that is none in UTF-8. */
#define WAHOOK_NO_CHARACTER UINT32_MAX

/* Reads the character at the beginning of s, which has len > 0 bytes. Returns how many it takes. */
extern size_t wahook_next_character(const char *s, size_t len, uint32_t *c);
extern void wahook_meter_character(wahook_TokenMeter *meter, uint32_t c);

/* Rounded up. */
extern int64_t wahook_metered_tokens(const wahook_TokenMeter *meter);

#endif
