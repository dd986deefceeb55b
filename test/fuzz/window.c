/*
 * Feeds src/agent/text_cut.c with random texts, also such that are no UTF-8, and src/agent/window.c
 * with random conversations whose messages cost and shrink as they please, always the same ones.
 *
 * Whatever the input: a cut is within the budget, the longest but for a word, and between
 * characters; a window never exceeds its budget, never parts a unit, and keeps nothing that is
 * broken. Run under the sanitizers, which watch the rest.
 *
 *   window INPUTS
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/text_cut.h"
#include "agent/window.h"

#define SEED 20260101u
#define MAX_TEXT 400
#define MAX_ITEMS 40

static long input;

#define CHECK(condition) \
	do \
	{ \
		if (!(condition)) \
		{ \
			fprintf(stderr, "window: input %ld, seed %u: not true: %s\n", input, SEED, #condition); \
			exit(1); \
		} \
	} while (0)

static uint32_t
below(uint32_t bound)
{
	static uint64_t state = SEED;

	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t) (state >> 33) % bound;
}

static int64_t
cost_of_text(const char *s, size_t len)
{
	wahook_TokenMeter meter = {0, 0, false};
	int64_t before = 0;

	for (size_t at = 0; at < len;)
	{
		uint32_t c;
		size_t n = wahook_next_character(s + at, len - at, &c);

		CHECK(n >= 1 && n <= 4 && at + n <= len);
		CHECK(c == WAHOOK_NO_CHARACTER ? n == 1 : c <= 0x10FFFF);
		wahook_meter_character(&meter, c);
		CHECK(meter.hundredths >= before);
		before = meter.hundredths;
		at += n;
	}
	return meter.hundredths;
}

static void
check_text(void)
{
	static const char *const pieces[] = {
		"word ", "x", "7", "\xE1\x88\xB0", "\xD9\x85", "\xE4\xBD\xA0", "e\xCC\x81", "\xF0\x9F\x87\xB7",
		"\xF0\x9F\x91\xA9\xF0\x9F\x8F\xBD\xE2\x80\x8D\xF0\x9F\x9A\x80", "\xE0\xA4\x95\xE0\xA5\x8D",
		"\r\n", "  ", "\xFF", "\xE1\x88", "\xC0\x80", "\xED\xA0\x80", "\xF5\x80\x80\x80", "https://a.b/?c=1",
	};
	size_t wanted = below(MAX_TEXT);
	char *text = malloc(MAX_TEXT + 32);
	size_t len = 0;
	int64_t budget;
	size_t cut;

	while (len < wanted)
	{
		const char *piece = pieces[below(sizeof(pieces) / sizeof(pieces[0]))];

		memcpy(text + len, piece, strlen(piece));
		len += strlen(piece);
	}
	/* Exactly as long as it is, so that the sanitizer sees what is read beyond it. */
	text = realloc(text, len + (len == 0));
	budget = (int64_t) below(2 * 100 * (uint32_t) len + 100) - 50;
	cut = wahook_cut_text(text, len, budget);
	CHECK(cut <= len);
	CHECK(cut == 0 || cost_of_text(text, cut) <= budget);
	CHECK(cut < len || cost_of_text(text, len) <= budget || len == 0);
	if (budget >= 0 && cost_of_text(text, len) <= budget)
		CHECK(cut == len);
	/* Not within a character. */
	if (cut < len && cut > 0 && ((unsigned char) text[cut] & 0xC0) == 0x80)
		for (size_t at = 0; at < cut;)
		{
			uint32_t c;

			at += wahook_next_character(text + at, len - at, &c);
			CHECK(at <= cut);
		}
	free(text);
}

typedef struct Message
{
	int64_t cost;
	int64_t floor;
	bool stubborn; /* can't be shortened, whatever its floor says */
	int64_t left;
} Message;

static int64_t
cost(void *arg, int item)
{
	return ((Message *) arg)[item].cost;
}

static int64_t
floor_of(void *arg, int item)
{
	return ((Message *) arg)[item].floor;
}

static int64_t
shorten(void *arg, int item, int64_t limit)
{
	Message *message = &((Message *) arg)[item];

	CHECK(limit < message->cost);
	if (message->stubborn || limit < message->floor)
		return -1;
	message->left = limit - below((uint32_t) (limit - message->floor < 5 ? limit - message->floor + 1 : 5));
	return message->left;
}

static void
check_window(void)
{
	static const char *const ids[] = {"a", "b", "ab", "", "c"};
	Message messages[MAX_ITEMS];
	wahook_WindowItem items[MAX_ITEMS];
	wahook_ToolRef refs[3 * MAX_ITEMS];
	int list[MAX_ITEMS];
	int n = (int) below(MAX_ITEMS);
	int n_refs = 0;
	int64_t sum;
	wahook_Window window = {.items = items, .list = list, .n = n, .arg = messages,
							.cost = cost, .floor = floor_of, .shorten = shorten};

	memset(items, 0, sizeof(items));
	for (int i = 0; i < n; i++)
	{
		bool result;

		messages[i].cost = below(20) == 0 ? 1 + below(5000) : 1 + below(50);
		messages[i].floor = 1 + below((uint32_t) messages[i].cost);
		messages[i].stubborn = below(20) == 0;
		messages[i].left = messages[i].cost;
		items[i].cost = items[i].floor = -1;
		items[i].system = below(15) == 0;
		items[i].fixed = items[i].system || below(15) == 0;
		if (items[i].system)
			continue;
		result = below(2) == 0;
		for (uint32_t k = below(result ? 2 : 4); k > 0; k--)
		{
			const char *id = ids[below(5)];

			refs[n_refs++] = (wahook_ToolRef){id, (int) strlen(id), i, result};
		}
	}
	wahook_link_tools(items, n, refs, n_refs);
	window.max_tokens = below(3) == 0 ? below(5000) : below(500);
	window.max_messages = (int) below(MAX_ITEMS);
	sum = wahook_choose_window(&window);
	CHECK(sum >= 0 && sum <= window.max_tokens);
	for (int i = 0; i < n; i++)
	{
		int head = items[i].head;

		CHECK(head >= 0 && head <= i && items[head].head == head);
		CHECK((items[i].state == WAHOOK_WINDOW_OUT) == (items[head].state == WAHOOK_WINDOW_OUT));
		CHECK(items[i].state == WAHOOK_WINDOW_OUT || !items[i].broken);
		CHECK(items[i].next < 0 || (items[i].next > i && items[items[i].next].head == head));
		if (items[i].state != WAHOOK_WINDOW_OUT)
			sum -= messages[i].left;
	}
	CHECK(sum == 0);
}

int
main(int argc, char **argv)
{
	long inputs = argc > 1 ? atol(argv[1]) : 100000;

	for (input = 0; input < inputs; input++)
	{
		check_text();
		check_window();
	}
	return 0;
}
