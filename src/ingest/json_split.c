/*
 * Telling the updates of a delivery apart: a cursor that steps through JSON text and can step over
 * a value without looking into it. It knows strings, brackets and commas; whether what lies
 * between them is valid JSON is for the parser that gets the span.
 */
#include "ingest/json_split.h"

#include <stdlib.h>
#include <string.h>

#include "ingest/hex.h"

wahook_Cursor
wahook_cursor(wahook_Span span)
{
	wahook_Cursor cursor = {span.start, span.start + span.len};

	return cursor;
}

static void
skip_space(wahook_Cursor *cursor)
{
	while (cursor->at < cursor->end && (*cursor->at == ' ' || *cursor->at == '\t' ||
										*cursor->at == '\n' || *cursor->at == '\r'))
		cursor->at++;
}

/* The first character of the value that comes next; 0 at the end. */
char
wahook_kind_at(wahook_Cursor *cursor)
{
	skip_space(cursor);
	return cursor->at < cursor->end ? *cursor->at : 0;
}

/* Only white space is left. */
bool
wahook_at_end(wahook_Cursor *cursor)
{
	return wahook_kind_at(cursor) == 0 && cursor->at == cursor->end;
}

/* cursor->at is at the opening quote; leaves it behind the closing one. */
static bool
skip_string(wahook_Cursor *cursor)
{
	const char *start = cursor->at + 1;
	const char *quote = start;

	while ((quote = memchr(quote, '"', cursor->end - quote)) != NULL)
	{
		const char *p = quote;

		while (p > start && p[-1] == '\\')
			p--;
		quote++;
		if ((quote - p) % 2 == 1)
		{
			cursor->at = quote;
			return true;
		}
	}
	return false;
}

/* Everything up to the bracket that closes the one at the cursor, whatever is nested in between. */
static bool
skip_container(wahook_Cursor *cursor)
{
	size_t depth = 0;

	while (cursor->at < cursor->end)
	{
		switch (*cursor->at)
		{
			case '"':
				if (!skip_string(cursor))
					return false;
				continue;
			case '{':
			case '[':
				depth++;
				break;
			case '}':
			case ']':
				depth--;
				break;
		}
		cursor->at++;
		if (depth == 0)
			return true;
	}
	return false;
}

static bool
skip_scalar(wahook_Cursor *cursor)
{
	const char *start = cursor->at;

	while (cursor->at < cursor->end && strchr(",]} \t\r\n", *cursor->at) == NULL)
		cursor->at++;
	return cursor->at > start;
}

/* Steps over one value of any kind. False when the text ends in the middle of it. */
bool
wahook_skip_value(wahook_Cursor *cursor, wahook_Span *span)
{
	char kind = wahook_kind_at(cursor);
	const char *start = cursor->at;
	bool ok;

	if (kind == '{' || kind == '[')
		ok = skip_container(cursor);
	else if (kind == '"')
		ok = skip_string(cursor);
	else
		ok = skip_scalar(cursor);
	span->start = start;
	span->len = ok ? (size_t) (cursor->at - start) : 0;
	return ok;
}

/* Steps into an object or array. False when the next value is something else. */
bool
wahook_enter(wahook_Cursor *cursor, char bracket)
{
	if (wahook_kind_at(cursor) != bracket)
		return false;
	cursor->at++;
	return true;
}

/* Behind the opening bracket or a value: at the next value, or (*more false) behind the end. */
static bool
next_item(wahook_Cursor *cursor, char closing, char opening, bool *more)
{
	const char *before = cursor->at - 1;
	char kind = wahook_kind_at(cursor);

	*more = false;
	if (kind == closing)
	{
		cursor->at++;
		return true;
	}
	if (*before == opening)
		*more = kind != ',' && kind != 0;
	else if (kind == ',')
	{
		cursor->at++;
		*more = wahook_kind_at(cursor) != 0;
	}
	return *more;
}

/*
 * The next member of the object that the cursor is in: its key, and the cursor at its value, which
 * must be stepped over or entered before the next call. False when the text is not JSON.
 */
bool
wahook_next_member(wahook_Cursor *cursor, wahook_Span *key, bool *more)
{
	if (!next_item(cursor, '}', '{', more))
		return false;
	if (!*more)
		return true;
	if (wahook_kind_at(cursor) != '"' || !wahook_skip_value(cursor, key) ||
		wahook_kind_at(cursor) != ':')
		return false;
	cursor->at++;
	return true;
}

/* The next element of the array that the cursor is in, as above. */
bool
wahook_next_element(wahook_Cursor *cursor, bool *more)
{
	return next_item(cursor, ']', '[', more);
}

/* Whether a key, quotes included, is the given ASCII name; "\u0069d" is "id". */
bool
wahook_key_is(wahook_Span key, const char *name)
{
	const char *p = key.start + 1;
	const char *end = key.start + key.len - 1;

	if (key.len < 2)
		return false;
	for (; *name; name++)
	{
		if (p >= end)
			return false;
		if (*p != '\\')
		{
			if (*p++ != *name)
				return false;
		}
		else
		{
			int code = 0;

			if (end - p < 6 || p[1] != 'u')
				return false;
			for (int i = 2; i < 6; i++)
				code = wahook_hex_digit(p[i]) < 0 ? -1 : code * 16 + wahook_hex_digit(p[i]);
			if (code != (unsigned char) *name)
				return false;
			p += 6;
		}
	}
	return p == end;
}

static bool
number_fits(wahook_Span number)
{
	const char *e;
	long exponent;

	if (number.len > WAHOOK_MAX_NUMBER_LENGTH)
		return false;
	for (e = number.start; e < number.start + number.len && *e != 'e' && *e != 'E'; e++)
		;
	if (e == number.start + number.len)
		return true;
	exponent = strtol(e + 1, NULL, 10);
	return exponent >= -WAHOOK_MAX_NUMBER_EXPONENT && exponent <= WAHOOK_MAX_NUMBER_EXPONENT;
}

/*
 * Whether jsonb can hold the value, which a parser has found to be valid JSON without \u0000 or
 * lone surrogates: not nested deeper than max_depth, and no number beyond the bounds above.
 */
bool
wahook_fits_jsonb(wahook_Span span, int max_depth, const char **reason)
{
	wahook_Cursor cursor = wahook_cursor(span);
	int depth = 0;

	while (wahook_kind_at(&cursor) != 0)
	{
		wahook_Span scalar;

		switch (*cursor.at)
		{
			case '{':
			case '[':
				if (++depth > max_depth)
				{
					*reason = "nested too deeply";
					return false;
				}
				cursor.at++;
				break;
			case '}':
			case ']':
				depth--;
				cursor.at++;
				break;
			case ',':
			case ':':
				cursor.at++;
				break;
			default:
				if (!wahook_skip_value(&cursor, &scalar))
				{
					*reason = "not valid JSON";
					return false;
				}
				if (scalar.start[0] != '"' && !number_fits(scalar))
				{
					*reason = "number out of range";
					return false;
				}
		}
	}
	return true;
}

void
wahook_find_members(wahook_Span object, const char *const *names, wahook_Span *values, int n)
{
	wahook_Cursor cursor = wahook_cursor(object);
	wahook_Span key;
	wahook_Span value;
	bool more;

	memset(values, 0, n * sizeof(wahook_Span));
	if (object.len == 0 || !wahook_enter(&cursor, '{'))
		return;
	while (wahook_next_member(&cursor, &key, &more) && more && wahook_skip_value(&cursor, &value))
		for (int i = 0; i < n; i++)
			if (wahook_key_is(key, names[i]))
				values[i] = value;
}

wahook_Span
wahook_member(wahook_Span object, const char *name)
{
	wahook_Span value;

	wahook_find_members(object, &name, &value, 1);
	return value;
}
