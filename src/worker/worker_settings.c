/*
 * The settings of the launcher and the worker. The intervals are read by the view webhook_jobs.
 */
#include "worker/worker_settings.h"

#include "utils/guc.h"
#include "utils/varlena.h"

#include "core/compat.h"

#define MAX_INTERVAL_S (30 * 24 * 3600)

char *wahook_databases;

static int cleanup_interval_s;
static int dlq_interval_s;
static int session_cleanup_interval_s;
static int retention_interval_s;
static int rollup_interval_s;

static bool
check_databases(char **newval, void **extra, GucSource source)
{
	char *copy = pstrdup(*newval);
	List *names = NIL;
	bool valid = SplitGUCList(copy, ',', &names);

	if (!valid)
		GUC_check_errdetail("It must be names of databases, separated by commas.");
	list_free(names);
	pfree(copy);
	return valid;
}

static void
define_interval(const char *name, const char *what, int *value, int default_s)
{
	DefineCustomIntVariable(name, what, "0 turns it off in the worker.", value, default_s, 0,
							MAX_INTERVAL_S, PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
}

void
wahook_define_worker_settings(void)
{
	DefineCustomStringVariable("wahook.databases",
							   "The databases in which workers are started, where they have wahook.",
							   "Empty for all that take connections and are no templates.",
							   &wahook_databases, "", PGC_SIGHUP, GUC_LIST_INPUT, check_databases,
							   NULL, NULL);
	define_interval("wahook.cleanup_interval",
					"How often locks of vanished holders are given back and stuck conversations timed out.",
					&cleanup_interval_s, 300);
	define_interval("wahook.dlq_interval",
					"How often dead letters that were due but could not be retried are looked at again.",
					&dlq_interval_s, 300);
	define_interval("wahook.session_cleanup_interval",
					"How often idle sessions are deleted; whole days: at 2 in the morning.",
					&session_cleanup_interval_s, 24 * 3600);
	define_interval("wahook.retention_interval",
					"How often rows that are past their retention are deleted.",
					&retention_interval_s, 300);
	define_interval("wahook.rollup_interval",
					"How often the sums that the monitoring views read are brought up to date.",
					&rollup_interval_s, 60);
}
