/*
 * Routes: which service a message is for.
 *
 * word: one of the alternatives in a route's pattern.
 */
#include "ingest/route.h"

#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/formatting.h"

#include "core/compat.h"
#include "ingest/envelope.h"
#include "ingest/route_regex.h"

/* What WhatsApp lets a user write is 4096 characters; what is beyond is not looked at. */
#define MAX_TEXT_BYTES 16384

/* As many as a pattern holds; a text that is longer is no keyword. */
#define MAX_KEYWORD_BYTES 8000

/* An expression that needs longer is at fault, however slow the machine. */
#define REGEX_TIMEOUT_MS 250

PG_FUNCTION_INFO_V1(wahook_user_hash);
PG_FUNCTION_INFO_V1(wahook_user_in_share);

/* Lower case, without space around, and one space for each run of it within. */
static char *
fold_text(const char *text, size_t len)
{
	char *squeezed = palloc(len + 1);
	char *to = squeezed;
	char *folded;

	for (const char *from = text; from < text + len; from++)
	{
		bool space = strchr(" \t\r\n", *from) != NULL;

		if (!space)
			*to++ = *from;
		else if (to > squeezed && to[-1] != ' ')
			*to++ = ' ';
	}
	if (to > squeezed && to[-1] == ' ')
		to--;
	folded = str_tolower(squeezed, to - squeezed, DEFAULT_COLLATION_OID);
	pfree(squeezed);
	return folded;
}

/* Names of states and kinds are compared as they are. */
static char *
trim(const char *text, size_t len)
{
	while (len > 0 && *text == ' ')
		text++, len--;
	while (len > 0 && text[len - 1] == ' ')
		len--;
	return pnstrdup(text, len);
}

static void
split_words(wahook_Route *route, const char *pattern)
{
	const char *end = pattern;
	int max = 1;

	for (const char *c = pattern; *c; c++)
		max += *c == ',';
	route->words = palloc(max * sizeof(char *));
	for (const char *start = pattern; *end; start = end + 1)
	{
		char *word;

		end = start + strcspn(start, ",");
		word = route->match == WAHOOK_MATCH_KEYWORD ? fold_text(start, end - start)
													: trim(start, end - start);
		if (word[0] != '\0')
			route->words[route->nwords++] = word;
	}
}

void
wahook_set_pattern(wahook_Route *route, const char *match, const char *pattern)
{
	static const char *const names[] = {"keyword", "state", "type", "regex", "all"};

	for (size_t i = 0; i < lengthof(names); i++)
		if (strcmp(match, names[i]) == 0)
			route->match = (wahook_RouteMatch) i;
	if (pattern == NULL)
		return;
	if (route->match == WAHOOK_MATCH_REGEX)
		route->regex = CStringGetTextDatum(pattern);
	else
		split_words(route, pattern);
}

static bool
has_word(const wahook_Route *route, const char *text)
{
	for (int i = 0; text != NULL && i < route->nwords; i++)
		if (strcmp(route->words[i], text) == 0)
			return true;
	return false;
}

/* A kind's first part stands for all that begin with it. */
static bool
has_kind(const wahook_Route *route, const char *kind)
{
	for (int i = 0; kind != NULL && i < route->nwords; i++)
	{
		size_t len = strlen(route->words[i]);

		if (strncmp(kind, route->words[i], len) == 0 && (kind[len] == '\0' || kind[len] == '.'))
			return true;
	}
	return false;
}

static bool
has_keyword(const wahook_Route *route, wahook_Routable *message)
{
	if (message->keywords == NULL)
	{
		message->keywords = palloc(Max(message->ntexts, 1) * sizeof(char *));
		for (int i = 0; i < message->ntexts; i++)
		{
			size_t len = strlen(message->texts[i]);

			message->keywords[i] =
				len <= MAX_KEYWORD_BYTES ? fold_text(message->texts[i], len) : NULL;
		}
	}
	for (int i = 0; i < message->ntexts; i++)
		if (has_word(route, message->keywords[i]))
			return true;
	return false;
}

/*
 * A route that can't be matched is logged once a session and change. What can be slow for one
 * message of a delivery can be so for a thousand: it is not tried again in this transaction.
 */
static void
give_up(const wahook_Route *route, const char *problem)
{
	route->trouble->transaction = GetCurrentTransactionStartTimestamp();
	if (route->trouble->logged)
		return;
	route->trouble->logged = true;
	ereport(WARNING,
			(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
			 errmsg("route \"%s\" can't be matched", route->name),
			 errdetail("Its regular expression failed: %s.", problem),
			 errhint("Messages pass it by. Correct its pattern, or call disable_webhook_route().")));
}

static bool
has_match(const wahook_Route *route, const wahook_Routable *message)
{
	if (route->trouble->transaction == GetCurrentTransactionStartTimestamp())
		return false;
	for (int i = 0; i < message->ntexts; i++)
	{
		int len = (int) Min(strlen(message->texts[i]), MAX_TEXT_BYTES);
		const char *problem;

		len = pg_mbcliplen(message->texts[i], len, len);
		if (wahook_regex_matches(route->regex, message->texts[i], len, REGEX_TIMEOUT_MS, &problem))
			return true;
		if (problem != NULL)
		{
			give_up(route, problem);
			return false;
		}
	}
	return false;
}

static bool
matches(const wahook_Route *route, wahook_Routable *message)
{
	switch (route->match)
	{
		case WAHOOK_MATCH_KEYWORD:
			return has_keyword(route, message);
		case WAHOOK_MATCH_STATE:
			return has_word(route, message->state);
		case WAHOOK_MATCH_TYPE:
			return has_kind(route, message->kind);
		case WAHOOK_MATCH_REGEX:
			return has_match(route, message);
		case WAHOOK_MATCH_ALL:
			return true;
	}
	return false;
}

static bool
is_test_user(const char *user, Datum test_users)
{
	char *wanted = wahook_normalize_identity(user);
	Datum *users;
	bool *nulls;
	int n;

	deconstruct_array(DatumGetArrayTypeP(test_users), TEXTOID, -1, false, TYPALIGN_INT, &users,
					  &nulls, &n);
	for (int i = 0; wanted != NULL && i < n; i++)
	{
		char *name = nulls[i] ? NULL : wahook_normalize_identity(TextDatumGetCString(users[i]));

		if (name != NULL && strcmp(name, wanted) == 0)
			return true;
	}
	return false;
}

/* From 0 to PG_INT64_MAX; -1 where user names nobody. */
static int64
hash_user(const char *name, const char *user)
{
	char *identity = wahook_normalize_identity(user);
	uint64 hash;

	if (identity == NULL)
		return -1;
	hash = hash_bytes_extended((const unsigned char *) name, strlen(name), 0);
	hash = hash_bytes_extended((const unsigned char *) identity, strlen(identity), hash);
	return (int64) (hash & PG_INT64_MAX);
}

static bool
is_in_share(const char *name, const char *user, int percent)
{
	int64 hash = percent <= 0 ? -1 : hash_user(name, user);

	return hash >= 0 && (int) (hash % 100) < percent;
}

bool
wahook_is_user_in_share(const char *name, const char *user, int percent, Datum test_users)
{
	return user != NULL && (is_in_share(name, user, percent) || is_test_user(user, test_users));
}

/* The id of a user stays when the number changes, so it is what the share goes by where it is known. */
static bool
leads_anywhere(const wahook_Service *service, const wahook_Routable *message)
{
	const char *user = message->user_id ? message->user_id : message->phone;

	if (service->rollout_percent >= 100)
		return true;
	return wahook_is_user_in_share(service->name, user, service->rollout_percent,
								   service->test_users) ||
		   wahook_is_user_in_share(service->name, message->phone, 0, service->test_users);
}

const wahook_Route *
wahook_match_route(const wahook_Config *config, wahook_Routable *message)
{
	for (int i = 0; i < config->nroutes; i++)
	{
		const wahook_Route *route = &config->routes[i];

		if (matches(route, message) && leads_anywhere(route->service, message))
			return route;
	}
	return NULL;
}

/* webhook_user_hash(text, text) → bigint */
Datum
wahook_user_hash(PG_FUNCTION_ARGS)
{
	int64 hash =
		hash_user(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));

	if (hash < 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(hash);
}

/* webhook_user_in_share(text, text, integer, text[]) → boolean */
Datum
wahook_user_in_share(PG_FUNCTION_ARGS)
{
	Datum test_users =
		PG_ARGISNULL(3) ? PointerGetDatum(construct_empty_array(TEXTOID)) : PG_GETARG_DATUM(3);

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(wahook_is_user_in_share(text_to_cstring(PG_GETARG_TEXT_PP(0)),
										   text_to_cstring(PG_GETARG_TEXT_PP(1)),
										   PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2), test_users));
}
