/*
 * Feeds src/ingest/json_split.c with the fixtures and with mutations of them, always the same.
 *
 * Whatever the text: it ends, and each span lies inside the one it was found in, behind the one
 * before. Where jansson finds the text valid, the spans are the values that jansson finds. What
 * src/ingest/json_plain.c finds plain, jansson finds valid; what is valid JSON and none of its rare
 * kinds is plain. Run under the address and undefined behaviour sanitizers, which watch the rest.
 *
 *   json_split INPUTS FILE...    a JSON text a line; INPUTS mutations over all of them
 */
#include "ingest/json_split.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#define MAX_DEPTH 200
#define MAX_SEEDS 4096
#define MAX_SEED_LENGTH (8 * 1024) /* longer ones are only read as they are */
#define MAX_LENGTH (4 * MAX_SEED_LENGTH)
#define SEED 20260101u

typedef struct Text
{
	char *bytes;
	size_t len;
} Text;

static Text seeds[MAX_SEEDS];
static int nseeds;
static const char *current;
static size_t current_len;
static unsigned long valid;
static unsigned long plain;

static void
fail(const char *what)
{
	fprintf(stderr, "json_split: %s\nthe text, %zu bytes:\n", what, current_len);
	fwrite(current, 1, current_len, stderr);
	fputc('\n', stderr);
	exit(1);
}

#define CHECK(condition) ((condition) ? (void) 0 : fail(#condition))

static uint32_t
next_random(uint32_t bound)
{
	static uint64_t state = SEED;

	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t) (state >> 33) % bound;
}

/* A span behind *from, which it moves, and inside the text that ends at end. */
static void
check_span(wahook_Span span, const char **from, const char *end)
{
	CHECK(span.len > 0);
	CHECK(span.start >= *from);
	CHECK(span.start + span.len <= end);
	*from = span.start + span.len;
}

/* An escape that the key ends in must not be read beyond it: so the key has memory of its own. */
static void
try_key(wahook_Span key)
{
	static const char *const names[] = {"messages", "a", ""};
	wahook_Span copy = {malloc(key.len), key.len};

	memcpy((char *) copy.start, key.start, key.len);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		(void) wahook_key_is(copy, names[i]);
	free((char *) copy.start);
}

/* Looks at everything in the span. False when it is not well-formed. */
static bool
walk(wahook_Span span, int depth)
{
	wahook_Cursor cursor = wahook_cursor(span);
	const char *end = span.start + span.len;
	const char *from = span.start;
	char kind = wahook_kind_at(&cursor);
	bool more;

	CHECK(cursor.at >= span.start && cursor.at <= end);
	if (depth == MAX_DEPTH || (kind != '{' && kind != '['))
		return true;
	CHECK(wahook_enter(&cursor, kind));
	for (;;)
	{
		wahook_Span key;
		wahook_Span value;
		const char *before = cursor.at;

		if (kind == '{' ? !wahook_next_member(&cursor, &key, &more)
						: !wahook_next_element(&cursor, &more))
			return false;
		CHECK(cursor.at > before || more);
		CHECK(cursor.at <= end);
		if (!more)
			return wahook_at_end(&cursor);
		if (kind == '{')
		{
			check_span(key, &from, end);
			CHECK(key.len >= 2 && key.start[0] == '"' && key.start[key.len - 1] == '"');
			try_key(key);
		}
		if (!wahook_skip_value(&cursor, &value))
		{
			CHECK(value.len == 0);
			return false;
		}
		check_span(value, &from, end);
		CHECK(cursor.at == from);
		if (!walk(value, depth + 1))
			return false;
	}
}

/* wahook_key_is() is for plain names, which may be written with escapes. */
static bool
is_plain(const char *key)
{
	for (; *key; key++)
		if (!isalnum((unsigned char) *key) && *key != '_')
			return false;
	return true;
}

/* The last of the members with this key, as jansson and jsonb take it. */
static bool
find_member(wahook_Span object, const char *name, wahook_Span *found)
{
	wahook_Cursor cursor = wahook_cursor(object);
	wahook_Span key;
	wahook_Span value;
	bool more;

	found->len = 0;
	CHECK(wahook_enter(&cursor, '{'));
	for (;;)
	{
		CHECK(wahook_next_member(&cursor, &key, &more));
		if (!more)
			return found->len > 0;
		CHECK(wahook_skip_value(&cursor, &value));
		if (wahook_key_is(key, name))
			*found = value;
	}
}

/* The spans against what jansson made of the same valid text. */
static void
compare(wahook_Span span, const json_t *json, int depth)
{
	wahook_Cursor cursor = wahook_cursor(span);
	char kind = wahook_kind_at(&cursor);

	if (depth == MAX_DEPTH)
		return;
	if (json_is_array(json))
	{
		size_t n = 0;
		wahook_Span element;
		bool more;

		CHECK(wahook_enter(&cursor, '['));
		for (;; n++)
		{
			CHECK(wahook_next_element(&cursor, &more));
			if (!more)
				break;
			CHECK(wahook_skip_value(&cursor, &element));
			CHECK(n < json_array_size(json));
			compare(element, json_array_get(json, n), depth + 1);
		}
		CHECK(n == json_array_size(json));
	}
	else if (json_is_object(json))
	{
		const char *key;
		json_t *value;
		wahook_Span member;

		json_object_foreach((json_t *) json, key, value)
		{
			if (!is_plain(key))
				continue;
			CHECK(find_member(span, key, &member));
			compare(member, value, depth + 1);
		}
	}
	else if (json_is_string(json))
		CHECK(kind == '"');
	else if (json_is_number(json))
		CHECK(kind == '-' || isdigit((unsigned char) kind));
	else
		CHECK(kind == (json_is_null(json) ? 'n' : json_is_true(json) ? 't' : 'f'));
}

/* What is not plain although it is valid: exponents, long numbers, surrogates, deep nesting. */
static bool
is_rare(const char *text)
{
	int digits = 0;
	int depth = 0;

	for (; *text; text++)
	{
		digits = isdigit((unsigned char) *text) || *text == '.' ? digits + 1 : 0;
		depth += (*text == '[' || *text == '{') - (*text == ']' || *text == '}');
		if (digits > 15 || depth > 60 || (digits > 0 && (text[1] | 32) == 'e') ||
			(text[0] == '\\' && text[1] == 'u' && (text[2] | 32) == 'd'))
			return true;
	}
	return false;
}

/* The text in memory of its own, so that a step outside is noticed; a zero byte follows it. */
static void
try_text(const char *bytes, size_t len)
{
	char *copy = malloc(len + 1);
	wahook_Span span = {copy, len};
	const char *reason = NULL;
	bool well_formed;
	bool fits;
	bool ascii = true;
	json_t *json = NULL;

	for (size_t i = 0; i < len; i++)
		ascii &= (signed char) bytes[i] >= 0;
	memcpy(copy, bytes, len);
	copy[len] = '\0';
	current = copy;
	current_len = len;
	well_formed = walk(span, 0);
	fits = wahook_fits_jsonb(span, MAX_DEPTH, &reason);
	CHECK(fits == (reason == NULL));
	/* A text of PostgreSQL's has no zero byte; jansson overlooks one behind a number. */
	if (len <= MAX_LENGTH && memchr(copy, '\0', len) == NULL)
	{
		json = json_loadb(copy, len, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);
		if (json != NULL)
		{
			valid++;
			CHECK(well_formed);
			compare(span, json, 0);
		}
	}
	if (wahook_is_plain_json(span, MAX_DEPTH, ascii))
	{
		plain++;
		CHECK(fits);
		CHECK(json != NULL || len > MAX_LENGTH);
	}
	else
		CHECK(json == NULL || !ascii || is_rare(copy));
	json_decref(json);
	free(copy);
}

static size_t
mutate(char *text, size_t len)
{
	static const char marks[] = "{}[]\",:\\ \n0e-u";

	for (uint32_t n = 1 + next_random(4); n > 0 && len > 0; n--)
	{
		size_t at = next_random(len);
		size_t run = 1 + next_random(len - at < 64 ? len - at : 64);

		switch (next_random(8))
		{
			case 0:
				text[at] ^= 1 << next_random(8);
				break;
			case 1:
			case 2:
				text[at] = marks[next_random(sizeof(marks))]; /* the zero byte too */
				break;
			case 3:
				len = at;
				break;
			case 4:
				memmove(text + at, text + at + run, len - at - run);
				len -= run;
				break;
			case 5: /* a piece twice */
				if (len + run <= MAX_LENGTH)
				{
					memmove(text + at + run, text + at, len - at);
					len += run;
				}
				break;
			case 6: /* a piece of another text over it */
			{
				const Text *other = &seeds[next_random(nseeds)];

				if (other->len > run)
					memcpy(text + at, other->bytes + next_random(other->len - run), run);
				break;
			}
			case 7: /* one bracket without the other */
				if (len < MAX_LENGTH)
				{
					memmove(text + at + 1, text + at, len - at);
					text[at] = marks[next_random(4)];
					len++;
				}
				break;
		}
	}
	return len;
}

static void
read_file(const char *name)
{
	FILE *file = fopen(name, "r");
	char *line = NULL;
	size_t size = 0;
	ssize_t len;

	if (file == NULL)
	{
		perror(name);
		exit(1);
	}
	while ((len = getline(&line, &size, file)) > 0)
	{
		/* What is in the line as a string, like a hostile body, is a text too. */
		json_t *json = json_loadb(line, len, JSON_ALLOW_NUL, NULL);
		const json_t *body = json_object_get(json, "body");
		json_t *payload = json_object_get(json, "payload");
		char *dumped = payload ? json_dumps(payload, JSON_COMPACT) : NULL;
		const char *text = dumped ? dumped : json_is_string(body) ? json_string_value(body) : line;
		size_t text_len = dumped                 ? strlen(dumped)
						  : json_is_string(body) ? json_string_length(body)
												 : (size_t) len;

		try_text(text, text_len);
		if (text_len > 0 && text_len <= MAX_SEED_LENGTH && nseeds < MAX_SEEDS)
		{
			seeds[nseeds].bytes = malloc(text_len);
			memcpy(seeds[nseeds].bytes, text, text_len);
			seeds[nseeds++].len = text_len;
		}
		free(dumped);
		json_decref(json);
	}
	free(line);
	fclose(file);
}

int
main(int argc, char **argv)
{
	static const char escaped[] = "{\"mess\\u0061ges\\u0041\":1}";
	static char text[MAX_LENGTH];
	unsigned long inputs = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
	unsigned long unchanged;

	for (int i = 2; i < argc; i++)
		read_file(argv[i]);
	if (inputs == 0 || nseeds == 0)
	{
		fprintf(stderr, "usage: json_split INPUTS FILE...\n");
		return 2;
	}
	for (size_t len = 3; len <= sizeof(escaped) - 4; len++)
	{
		char object[sizeof(escaped)];

		/* The key cut short at each place. */
		memcpy(object, escaped, len);
		memcpy(object + len, "\":1}", 4);
		try_text(object, len + 4);
	}
	unchanged = valid;
	for (unsigned long i = 0; i < inputs; i++)
	{
		const Text *seed = &seeds[next_random(nseeds)];

		memcpy(text, seed->bytes, seed->len);
		try_text(text, mutate(text, seed->len));
	}
	for (int i = 0; i < nseeds; i++)
		free(seeds[i].bytes);
	printf("%lu inputs from %d texts, %lu of them valid JSON; %lu texts valid as they are; %lu plain\n",
		   inputs, nseeds, valid - unchanged, unchanged, plain);
	return 0;
}
