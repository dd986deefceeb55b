/*
 * Routes: which service a message is for. Pure: what is compared comes as arguments.
 */
#ifndef WAHOOK_ROUTE_H
#define WAHOOK_ROUTE_H

#include "postgres.h"

#include "ingest/config.h"

/* What routes look at of a message. Strings may be null. */
typedef struct wahook_Routable
{
	const char *kind;
	const char *const *texts; /* what it says, and the ids and titles of what was chosen */
	int ntexts;
	char **keywords;   /* the same in the form of keywords; filled in when needed */
	const char *state; /* user_sessions.active_service */
	const char *user_id;
	const char *phone;
} wahook_Routable;

/* Fills in match, words and regex of a route from its columns. */
extern void wahook_set_pattern(wahook_Route *route, const char *match, const char *pattern);

/* The first route that matches and leads this user anywhere, or null. */
extern const wahook_Route *wahook_match_route(const wahook_Config *config,
											  wahook_Routable *message);

/*
 * Whether the user is one of test_users (text[]), or in the share of percent of all users that the
 * name stands for. The larger share has all users of the smaller.
 */
extern bool wahook_is_user_in_share(const char *name, const char *user, int percent,
									Datum test_users);

#endif
