/*
 * What a character costs, in hundredths of a token.
 *
 * An ASCII character costs a quarter of a token. That is the rule of thumb for English, and far
 * too low for other scripts: a tokenizer learns its tokens from what it has read most, and spells
 * what it has read little of in bytes. The weights below were fitted to two tokenizers, o200k_base
 * and cl100k_base, between the two where they differ; sql/tokens.sql has samples, and the error of
 * each. Where nothing is known, a character costs what its bytes in UTF-8 do at a token each: more
 * than that no tokenizer that works on bytes can make of it.
 */
#include "agent/token_rule.h"

#define ASCII_COST 25
#define CONTROL_COST 100
#define BAD_BYTE_COST 100

/*
 * Ids, links and compact JSON are written without blanks and with digits in them, and cost more
 * than words: from here on in such a run, each character.
 */
#define PLAIN_RUN 8
#define RUN_COST 60

typedef struct Weight
{
	uint32_t first; /* holds up to the next one's first */
	uint16_t cost;
} Weight;

static const Weight weights[] = {
	{0x80, 200},    {0xA0, 100},   /* Latin letters with marks */
	{0x250, 200},                  /* phonetic */
	{0x300, 100},                  /* combining marks */
	{0x370, 75},                   /* Greek */
	{0x400, 50},                   /* Cyrillic */
	{0x530, 120},                  /* Armenian */
	{0x590, 70},                   /* Hebrew */
	{0x600, 65},                   /* Arabic */
	{0x700, 200},                  /* Syriac, Thaana, N'Ko */
	{0x800, 300},   {0x900, 70},   /* Devanagari */
	{0x980, 80},                   /* Bengali */
	{0xA00, 110},                  /* Gurmukhi */
	{0xA80, 110},                  /* Gujarati */
	{0xB00, 150},                  /* Odia */
	{0xB80, 85},                   /* Tamil */
	{0xC00, 115},                  /* Telugu */
	{0xC80, 115},                  /* Kannada */
	{0xD00, 105},                  /* Malayalam */
	{0xD80, 120},                  /* Sinhala */
	{0xE00, 60},                   /* Thai */
	{0xE80, 210},                  /* Lao */
	{0xF00, 180},                  /* Tibetan */
	{0x1000, 115},                 /* Burmese */
	{0x10A0, 115},                 /* Georgian */
	{0x1100, 300},  {0x1200, 265}, /* Ethiopic */
	{0x13A0, 300},  {0x1780, 110}, /* Khmer */
	{0x1800, 300},  {0x1E00, 100}, /* Latin, for Vietnamese among others */
	{0x1F00, 250},                 /* ancient Greek */
	{0x2000, 100},                 /* punctuation, joiners */
	{0x2070, 150},                 /* currencies, letterlike signs */
	{0x2190, 100},                 /* arrows */
	{0x2200, 200},  {0x2500, 100}, /* boxes */
	{0x25A0, 200},  {0x27C0, 250},
	{0x3000, 80}, /* CJK punctuation, kana */
	{0x3100, 250},  {0x3400, 300},
	{0x4E00, 110},                 /* Han */
	{0xA000, 300},  {0xAC00, 105}, /* Hangul */
	{0xD7B0, 300},  {0xFE00, 100}, /* variation selectors */
	{0xFE10, 250},  {0xFF00, 110}, /* full width */
	{0xFFF0, 300},  {0x10000, 400},
	{0x1D400, 300},                 /* mathematical letters */
	{0x1D800, 400}, {0x1F000, 170}, /* emoji */
	{0x1F1E6, 250},                 /* flags */
	{0x1F200, 170}, {0x1FB00, 400},
	{0x20000, 300}, /* rare Han */
	{0x32000, 400}, {0x110000, BAD_BYTE_COST},
};

#define N_WEIGHTS (sizeof(weights) / sizeof(weights[0]))

static int
cost_beyond_ascii(uint32_t c)
{
	size_t low = 0;
	size_t high = N_WEIGHTS;

	while (high - low > 1)
	{
		size_t middle = (low + high) / 2;

		if (weights[middle].first <= c)
			low = middle;
		else
			high = middle;
	}
	return weights[low].cost;
}

static void
end_run(wahook_TokenMeter *meter)
{
	meter->run = 0;
	meter->digits = false;
}

void
wahook_meter_character(wahook_TokenMeter *meter, uint32_t c)
{
	const int beyond = RUN_COST - ASCII_COST;

	if (c >= 0x80)
	{
		end_run(meter);
		meter->hundredths += cost_beyond_ascii(c);
		return;
	}
	if (c <= ' ' || c == 0x7F)
	{
		end_run(meter);
		meter->hundredths +=
			c == ' ' || c == '\t' || c == '\n' || c == '\r' ? ASCII_COST : CONTROL_COST;
		return;
	}
	meter->run++;
	meter->hundredths += ASCII_COST;
	if (meter->digits)
		meter->hundredths += meter->run > PLAIN_RUN ? beyond : 0;
	else if (c >= '0' && c <= '9')
	{
		/* The first digit: what came before in this run was counted as a word. */
		meter->digits = true;
		if (meter->run > PLAIN_RUN)
			meter->hundredths += (meter->run - PLAIN_RUN) * beyond;
	}
}

/* A byte that belongs to no character is one of its own. */
size_t
wahook_next_character(const char *s, size_t len, uint32_t *c)
{
	const unsigned char *bytes = (const unsigned char *) s;
	static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n;
	uint32_t value;

	*c = bytes[0];
	if (bytes[0] < 0x80)
		return 1;
	n = bytes[0] >= 0xF0 ? 4 : bytes[0] >= 0xE0 ? 3 : 2;
	value = bytes[0] & (0x7F >> n);
	*c = WAHOOK_NO_CHARACTER;
	if (bytes[0] < 0xC0 || bytes[0] >= 0xF8 || n > len)
		return 1;
	for (size_t i = 1; i < n; i++)
	{
		if ((bytes[i] & 0xC0) != 0x80)
			return 1;
		value = value << 6 | (bytes[i] & 0x3F);
	}
	if (value < smallest[n] || value > 0x10FFFF)
		return 1;
	*c = value;
	return n;
}

int64_t
wahook_metered_tokens(const wahook_TokenMeter *meter)
{
	return (meter->hundredths + 99) / 100;
}
