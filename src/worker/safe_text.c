/*
 * Bytes of others as text that the database takes: an endpoint may answer anything.
 */
#include "worker/safe_text.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

/* How many bytes the next character has; 0: it is none that the database takes. */
static int
character_length(const char *at, size_t left)
{
	int len = pg_utf_mblen((const unsigned char *) at);

	if (*at == '\0' || (size_t) len > left)
		return 0;
	/* The other encodings of servers agree on ASCII, and not everything can be converted to them. */
	if (len > 1 &&
		(GetDatabaseEncoding() != PG_UTF8 || !pg_utf8_islegal((const unsigned char *) at, len)))
		return 0;
	return len > 1 || !IS_HIGHBIT_SET(*at) ? len : 0;
}

char *
wahook_safe_text(const char *bytes, size_t len, size_t max)
{
	StringInfoData text;

	initStringInfo(&text);
	for (size_t i = 0; i < len;)
	{
		int n = character_length(bytes + i, len - i);

		if ((size_t) text.len + Max(n, 1) > max)
			break;
		if (n > 0)
			appendBinaryStringInfo(&text, bytes + i, n);
		else
			appendStringInfoChar(&text, '?');
		i += Max(n, 1);
	}
	return text.data;
}
