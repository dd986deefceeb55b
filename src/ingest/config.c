/*
 * What operators configure of services, routes and the limit at intake, as a session remembers it.
 */
#include "ingest/config.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "core/compat.h"
#include "core/plan.h"
#include "core/wake.h"
#include "ingest/route.h"

#define USECS(interval) "(extract(epoch FROM " interval ") * 1000000)::bigint"

static const char *const tables[] = {"webhook_services", "webhook_routes",
									 "webhook_rate_limit_buckets", "webhook_erased_messages"};

static const wahook_Config *current = NULL;
static MemoryContext current_context = NULL;
static Oid current_tables[lengthof(tables)];
static Oid loaded_schema = InvalidOid;
static bool is_current = false;

PG_FUNCTION_INFO_V1(wahook_config_changed);

static wahook_Plan services_plan =
	{"SELECT name, kind, enabled, strict_order, " USECS("debounce") ", coalesce(" USECS("debounce_max") ", 10 * " USECS(
		 "debounce") "),"
					 " coalesce(max_retries, -1), coalesce(" USECS("retry_base_delay") ", -1), coalesce(" USECS(
						 "retry_max_delay") ", -1), rollout_percent, test_users"
											" FROM @extschema@.webhook_services ORDER BY name",
	 0};

static wahook_Plan routes_plan =
	{"SELECT r.name, r.match, r.pattern, r.service, r.clears_state FROM @extschema@.webhook_routes r"
	 " JOIN @extschema@.webhook_services s ON s.name = r.service"
	 " WHERE r.enabled AND s.enabled ORDER BY r.priority, r.name",
	 0};

static wahook_Plan intake_plan =
	{"SELECT action, max_tokens::double precision, refill_per_second"
	 " FROM @extschema@.webhook_rate_limit_buckets WHERE bucket = 'intake' AND enabled",
	 0};

static wahook_Plan erased_plan = {"SELECT FROM @extschema@.webhook_erased_messages LIMIT 1", 0};

/* For relations dropped and made anew as well, and for all of them at once. */
static void
forget(Datum arg, Oid relid)
{
	if (relid == InvalidOid)
		is_current = false;
	for (size_t i = 0; i < lengthof(tables); i++)
		if (relid == current_tables[i])
			is_current = false;
}

static Datum
get(uint64 row, int column)
{
	bool isnull;

	return wahook_result(row, column, &isnull);
}

static wahook_ServiceKind
kind_named(const char *name)
{
	return strcmp(name, "sql") == 0     ? WAHOOK_SQL
		   : strcmp(name, "http") == 0  ? WAHOOK_HTTP
		   : strcmp(name, "agent") == 0 ? WAHOOK_AGENT
										: WAHOOK_PULL;
}

/* SPI's memory goes with this level; what stays is made in the context. */
static void
load_services(wahook_Config *config, MemoryContext context)
{
	uint64 n = wahook_execute(&services_plan, NULL, NULL);
	MemoryContext old = MemoryContextSwitchTo(context);

	config->nservices = (int) n;
	config->services = palloc0(Max(n, 1) * sizeof(wahook_Service));
	for (uint64 i = 0; i < n; i++)
	{
		wahook_Service *service = &config->services[i];

		service->name = TextDatumGetCString(get(i, 1));
		service->kind = kind_named(TextDatumGetCString(get(i, 2)));
		service->enabled = DatumGetBool(get(i, 3));
		service->strict_order = DatumGetBool(get(i, 4));
		service->debounce_us = DatumGetInt64(get(i, 5));
		service->debounce_max_us = DatumGetInt64(get(i, 6));
		service->max_retries = DatumGetInt32(get(i, 7));
		service->retry_base_us = DatumGetInt64(get(i, 8));
		service->retry_max_us = DatumGetInt64(get(i, 9));
		service->rollout_percent = DatumGetInt32(get(i, 10));
		service->test_users = PointerGetDatum(PG_DETOAST_DATUM_COPY(get(i, 11)));
	}
	MemoryContextSwitchTo(old);
}

static const wahook_Service *
find(const wahook_Config *config, const char *name)
{
	for (int i = 0; i < config->nservices; i++)
		if (strcmp(config->services[i].name, name) == 0)
			return &config->services[i];
	return NULL;
}

static void
load_routes(wahook_Config *config, MemoryContext context)
{
	uint64 n = wahook_execute(&routes_plan, NULL, NULL);
	MemoryContext old = MemoryContextSwitchTo(context);

	config->routes = palloc0(Max(n, 1) * sizeof(wahook_Route));
	for (uint64 i = 0; i < n; i++)
	{
		wahook_Route *route = &config->routes[config->nroutes];

		/* The two were read one after the other: a service may have gone in between. */
		route->service = find(config, TextDatumGetCString(get(i, 4)));
		if (route->service == NULL)
			continue;
		config->nroutes++;
		route->name = TextDatumGetCString(get(i, 1));
		route->clears_state = DatumGetBool(get(i, 5));
		route->trouble = palloc0(sizeof(wahook_RouteTrouble));
		wahook_set_pattern(route, TextDatumGetCString(get(i, 2)), wahook_result_text(i, 3));
		config->routes_by_text |=
			route->match == WAHOOK_MATCH_KEYWORD || route->match == WAHOOK_MATCH_REGEX;
		config->routes_by_state |= route->match == WAHOOK_MATCH_STATE;
	}
	MemoryContextSwitchTo(old);
}

static void
load_intake(wahook_Config *config)
{
	if (wahook_execute(&intake_plan, NULL, NULL) == 0)
		return;
	config->intake.enabled = true;
	config->intake.drops = strcmp(TextDatumGetCString(get(0, 1)), "drop") == 0;
	config->intake.max_tokens = DatumGetFloat8(get(0, 2));
	config->intake.refill_per_second = DatumGetFloat8(get(0, 3));
}

/*
 * A change that comes in while it is being read makes it be read once more. A snapshot of the
 * transaction's start may be older than a change that was heard of: then it is not kept.
 */
static void
load(void)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "wahook configuration", ALLOCSET_SMALL_SIZES);
	wahook_Config *config = MemoryContextAllocZero(context, sizeof(wahook_Config));

	for (size_t i = 0; i < lengthof(tables); i++)
		current_tables[i] = wahook_relation(tables[i]);
	loaded_schema = wahook_schema();
	is_current = true;
	PG_TRY();
	{
		if (SPI_connect() != SPI_OK_CONNECT)
			elog(ERROR, "could not connect to SPI");
		load_services(config, context);
		load_routes(config, context);
		load_intake(config);
		config->has_erased = wahook_execute(&erased_plan, NULL, NULL) > 0;
		SPI_finish();
	}
	PG_CATCH();
	{
		is_current = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (IsolationUsesXactSnapshot())
		is_current = false;

	/* Who asked before in this transaction still has the former one. */
	if (current_context != NULL)
		MemoryContextSetParent(current_context, TopTransactionContext);
	MemoryContextSetParent(context, CacheMemoryContext);
	current_context = context;
	current = config;
}

const wahook_Config *
wahook_config(void)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget, (Datum) 0);
		registered = true;
	}
	/* The extension may have been dropped and created anew, in another schema. */
	if (!is_current || loaded_schema != wahook_schema())
		load();
	return current;
}

const wahook_Service *
wahook_find_service(const char *name)
{
	return find(wahook_config(), name);
}

int64
wahook_debounce_us(const char *name)
{
	const wahook_Service *service = wahook_find_service(name);

	return service ? service->debounce_us : 0;
}

bool
wahook_is_strict(const char *name)
{
	const wahook_Service *service = wahook_find_service(name);

	return service != NULL && service->strict_order;
}

/* AFTER ... FOR EACH STATEMENT on the tables that are read here. */
Datum
wahook_config_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be called as a trigger", "webhook_config_changed"),
				 errhint("Write a function of your own for a trigger of your own.")));
	CacheInvalidateRelcache(trigger->tg_relation);
	wahook_note_work(WAHOOK_WORK_CONFIG);
	return PointerGetDatum(NULL);
}
