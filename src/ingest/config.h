/*
 * What operators configure of services, routes and the limit at intake, as a session remembers it.
 *
 * It is read once and again after a change: the triggers webhook_config_changed() invalidate it in
 * all sessions, as a changed catalog does.
 */
#ifndef WAHOOK_CONFIG_H
#define WAHOOK_CONFIG_H

#include "postgres.h"

#include "datatype/timestamp.h"

#define WAHOOK_DEFAULT_SERVICE "default"

typedef enum wahook_ServiceKind
{
	WAHOOK_PULL, /* clients claim its messages */
	WAHOOK_SQL,  /* its handler is run */
	WAHOOK_HTTP, /* its endpoint is called */
	WAHOOK_AGENT /* the worker asks a model */
} wahook_ServiceKind;

/* A row of webhook_services. Durations in microseconds; -1: the setting. */
typedef struct wahook_Service
{
	char *name;
	wahook_ServiceKind kind;
	bool enabled;
	bool strict_order;
	int64 debounce_us;
	int64 debounce_max_us;
	int max_retries;
	int64 retry_base_us;
	int64 retry_max_us;
	int rollout_percent;
	Datum test_users; /* text[] */
} wahook_Service;

typedef enum wahook_RouteMatch
{
	WAHOOK_MATCH_KEYWORD,
	WAHOOK_MATCH_STATE,
	WAHOOK_MATCH_TYPE,
	WAHOOK_MATCH_REGEX,
	WAHOOK_MATCH_ALL
} wahook_RouteMatch;

/* A row of webhook_routes that is enabled, as its service is. */
typedef struct wahook_Route
{
	char *name;
	wahook_RouteMatch match;
	char **words; /* the alternatives of the pattern; keywords as wahook_fold_text() makes them */
	int nwords;
	Datum regex; /* text */
	const wahook_Service *service;
	bool clears_state;
	struct wahook_RouteTrouble *trouble;
} wahook_Route;

/* What came of matching a route that can't be matched. */
typedef struct wahook_RouteTrouble
{
	bool logged;
	TimestampTz transaction; /* it is not tried again in the one that began then */
} wahook_RouteTrouble;

/* The token bucket of each user at intake. */
typedef struct wahook_IntakeLimit
{
	bool enabled;
	bool drops;
	double max_tokens;
	double refill_per_second;
} wahook_IntakeLimit;

typedef struct wahook_Config
{
	wahook_Service *services;
	int nservices;
	wahook_Route *routes; /* in the order in which they are tried */
	int nroutes;
	bool routes_by_text;
	bool routes_by_state;
	wahook_IntakeLimit intake;
	bool has_erased; /* messages of users who were erased are remembered */
} wahook_Config;

/* Valid until the transaction ends. wahook_begin() must have been called. */
extern const wahook_Config *wahook_config(void);

/* Null: there is no such service, or not any more. */
extern const wahook_Service *wahook_find_service(const char *name);

/* How long a conversation must have been quiet before the service gets its messages. */
extern int64 wahook_debounce_us(const char *name);

/* Whether a message that failed holds back those behind it until it is resolved or given up. */
extern bool wahook_is_strict(const char *name);

#endif
