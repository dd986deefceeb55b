/*
 * Seeing that a text is valid JSON without parsing it.
 *
 * Nearly all that comes is plain: no number that jsonb might not hold, no escape of a character
 * that may be half of one. That is seen in one pass that allocates nothing. Whatever else there is
 * gets the full treatment (ingest/json.c), so this may say no, but must never be wrong with a yes.
 */
#include "ingest/json_split.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ingest/hex.h"

/* Deeper nesting is not plain. */
#define MAX_PLAIN_DEPTH 63

/* So many digits fit everywhere. */
#define MAX_PLAIN_DIGITS 15

typedef struct Scanner
{
	const char *at;
	const char *end;
	bool utf8;
	int depth;
	uint64_t objects; /* bit n: what is open at depth n is an object, not an array */
} Scanner;

/* The next character that is no white space; 0 at the end. */
static char
next_character(Scanner *scanner)
{
	while (scanner->at < scanner->end && (*scanner->at == ' ' || *scanner->at == '\n' ||
										  *scanner->at == '\t' || *scanner->at == '\r'))
		scanner->at++;
	return scanner->at < scanner->end ? *scanner->at : 0;
}

static bool
accept(Scanner *scanner, char expected)
{
	if (next_character(scanner) != expected)
		return false;
	scanner->at++;
	return true;
}

/* Behind the backslash. \u0000 and surrogates are not plain. */
static bool
accept_escape(Scanner *scanner)
{
	int code = 0;

	if (scanner->at == scanner->end)
		return false;
	if (*scanner->at != 'u')
		return *scanner->at != 0 && strchr("\"\\/bfnrt", *scanner->at++) != NULL;
	scanner->at++;
	if (scanner->end - scanner->at < 4)
		return false;
	for (int i = 0; i < 4; i++)
	{
		int digit = wahook_hex_digit(*scanner->at++);

		if (digit < 0)
			return false;
		code = code * 16 + digit;
	}
	return code != 0 && (code < 0xD800 || code > 0xDFFF);
}

#define EACH_BYTE(byte) (UINT64_C(0x0101010101010101) * (byte))

/* Marks each byte below the bound, which is at most 128, and now and then one that follows it. */
static uint64_t
bytes_below(uint64_t bytes, unsigned char bound)
{
	return (bytes - EACH_BYTE(bound)) & ~bytes & EACH_BYTE(0x80);
}

/* Steps over what needs no look of its own, eight bytes at a time. */
static void
skip_ordinary(Scanner *scanner)
{
	const uint64_t foreign = scanner->utf8 ? 0 : EACH_BYTE(0x80);
	uint64_t bytes;

	for (; scanner->end - scanner->at >= (ptrdiff_t) sizeof(bytes); scanner->at += sizeof(bytes))
	{
		memcpy(&bytes, scanner->at, sizeof(bytes));
		if ((bytes_below(bytes, ' ') | bytes_below(bytes ^ EACH_BYTE('"'), 1) |
			 bytes_below(bytes ^ EACH_BYTE('\\'), 1) | (bytes & foreign)) != 0)
			return;
	}
}

/* Behind the opening quote. */
static bool
accept_string(Scanner *scanner)
{
	skip_ordinary(scanner);
	while (scanner->at < scanner->end)
	{
		unsigned char c = *scanner->at++;

		if (c == '"')
			return true;
		if (c < ' ' || (c >= 0x80 && !scanner->utf8))
			return false;
		if (c == '\\')
		{
			if (!accept_escape(scanner))
				return false;
			skip_ordinary(scanner);
		}
	}
	return false;
}

static int
count_digits(Scanner *scanner)
{
	const char *start = scanner->at;

	while (scanner->at < scanner->end && *scanner->at >= '0' && *scanner->at <= '9')
		scanner->at++;
	return (int) (scanner->at - start);
}

/* No exponents: whoever uses one may mean any number. */
static bool
accept_number(Scanner *scanner)
{
	bool zero;
	int digits;

	if (*scanner->at == '-')
		scanner->at++;
	zero = scanner->at < scanner->end && *scanner->at == '0';
	digits = count_digits(scanner);
	if (digits == 0 || (zero && digits > 1))
		return false;
	if (scanner->at < scanner->end && *scanner->at == '.')
	{
		int fraction;

		scanner->at++;
		fraction = count_digits(scanner);
		if (fraction == 0)
			return false;
		digits += fraction;
	}
	return digits <= MAX_PLAIN_DIGITS &&
		   (scanner->at == scanner->end || (*scanner->at != 'e' && *scanner->at != 'E'));
}

static bool
accept_word(Scanner *scanner, const char *word)
{
	size_t len = strlen(word);

	if ((size_t) (scanner->end - scanner->at) < len || memcmp(scanner->at, word, len) != 0)
		return false;
	scanner->at += len;
	return true;
}

/* A value, or the opening bracket of one. */
static bool
begin_value(Scanner *scanner, int max_depth)
{
	char c = next_character(scanner);

	switch (c)
	{
		case '{':
		case '[':
			scanner->at++;
			if (++scanner->depth > max_depth || scanner->depth > MAX_PLAIN_DEPTH)
				return false;
			scanner->objects &= ~(UINT64_C(1) << scanner->depth);
			scanner->objects |= (uint64_t) (c == '{') << scanner->depth;
			return true;
		case '"':
			scanner->at++;
			return accept_string(scanner);
		case 't':
			return accept_word(scanner, "true");
		case 'f':
			return accept_word(scanner, "false");
		case 'n':
			return accept_word(scanner, "null");
		case 0:
			return false;
		default:
			return accept_number(scanner);
	}
}

static bool
in_object(const Scanner *scanner)
{
	return scanner->depth > 0 && (scanner->objects >> scanner->depth & 1) != 0;
}

bool
wahook_is_plain_json(wahook_Span span, int max_depth, bool utf8)
{
	Scanner scanner = {span.start, span.start + span.len, utf8, 0, 0};
	bool opened = false;

	for (;;)
	{
		int depth = scanner.depth;

		/* Behind an opening bracket the closing one may stand instead. */
		if (!opened || !accept(&scanner, in_object(&scanner) ? '}' : ']'))
		{
			if (in_object(&scanner) &&
				!(accept(&scanner, '"') && accept_string(&scanner) && accept(&scanner, ':')))
				return false;
			if (!begin_value(&scanner, max_depth))
				return false;
			opened = scanner.depth > depth;
			if (opened)
				continue;
		}
		else
			scanner.depth--;

		/* A value has ended, and with it perhaps those that it is in. */
		while (scanner.depth > 0 && accept(&scanner, in_object(&scanner) ? '}' : ']'))
			scanner.depth--;
		opened = false;
		if (scanner.depth == 0)
			return next_character(&scanner) == 0 && scanner.at == scanner.end;
		if (!accept(&scanner, ','))
			return false;
	}
}
