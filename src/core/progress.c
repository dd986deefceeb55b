/*
 * How far a job is, for others to see while it runs.
 */
#include "core/progress.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "core/compat.h"
#include "core/counter_block.h"

PG_FUNCTION_INFO_V1(wahook_progress_begin_sql);
PG_FUNCTION_INFO_V1(wahook_progress_sql);
PG_FUNCTION_INFO_V1(wahook_progress_end_sql);
PG_FUNCTION_INFO_V1(wahook_job_progress);

/* What this session runs; place: null where shared memory has none for it. */
static wahook_JobProgress mine;
static wahook_JobProgress *place = NULL;

static void
set_name(char *to, const char *name)
{
	strlcpy(to, name, pg_mbcliplen(name, (int) strlen(name), NAMEDATALEN - 1) + 1);
}

/* The query of a session is its own; a background process has none. */
static void
show_activity(void)
{
	char text[4 * NAMEDATALEN];

	if (MyBackendType != B_BG_WORKER)
		return;
	snprintf(text, sizeof(text), "job %s%s%s", mine.job, mine.phase[0] != '\0' ? ": " : "",
			 mine.phase);
	if (mine.done > 0)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), ", " INT64_FORMAT, mine.done);
	pgstat_report_activity(STATE_RUNNING, text);
}

static void
show(void)
{
	mine.changed_at = GetCurrentTimestamp();
	if (place != NULL)
	{
		LWLockAcquire(&wahook_counter_memory()->lock, LW_EXCLUSIVE);
		*place = mine;
		LWLockRelease(&wahook_counter_memory()->lock);
	}
	show_activity();
}

/* The place of a session that is gone can't be there: its transaction has ended. */
static wahook_JobProgress *
find_place(void)
{
	wahook_CounterBlock *block = wahook_take_block(MyDatabaseId);
	wahook_JobProgress *found = NULL;

	if (block == NULL)
		return NULL;
	LWLockAcquire(&wahook_counter_memory()->lock, LW_EXCLUSIVE);
	for (int i = 0; i < WAHOOK_MAX_RUNNING_JOBS && found == NULL; i++)
		if (block->running[i].pid == 0)
			found = &block->running[i];
	if (found != NULL)
		*found = mine;
	LWLockRelease(&wahook_counter_memory()->lock);
	return found;
}

void
wahook_progress_end(void)
{
	if (place != NULL)
	{
		LWLockAcquire(&wahook_counter_memory()->lock, LW_EXCLUSIVE);
		place->pid = 0;
		LWLockRelease(&wahook_counter_memory()->lock);
	}
	place = NULL;
	mine.pid = 0;
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (mine.pid != 0 &&
		(event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE))
		wahook_progress_end();
}

void
wahook_progress_begin(const char *job)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(at_transaction_end, NULL);
	registered = true;
	wahook_progress_end();
	mine = (wahook_JobProgress){.pid = MyProcPid, .started_at = GetCurrentTimestamp()};
	set_name(mine.job, job);
	place = find_place();
	show();
}

void
wahook_progress(const char *phase, int64 more)
{
	char name[NAMEDATALEN];

	if (mine.pid == 0)
		return;
	set_name(name, phase);
	if (strcmp(mine.phase, name) != 0)
	{
		strlcpy(mine.phase, name, NAMEDATALEN);
		mine.done = 0;
	}
	mine.done += more;
	show();
}

/* webhook_progress_begin(text), webhook_progress(text, bigint), webhook_progress_end() */
Datum
wahook_progress_begin_sql(PG_FUNCTION_ARGS)
{
	wahook_progress_begin(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_VOID();
}

Datum
wahook_progress_sql(PG_FUNCTION_ARGS)
{
	wahook_progress(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_INT64(1));
	PG_RETURN_VOID();
}

Datum
wahook_progress_end_sql(PG_FUNCTION_ARGS)
{
	wahook_progress_end();
	PG_RETURN_VOID();
}

/* webhook_job_progress() → a row for each job that runs in this database. */
Datum
wahook_job_progress(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	wahook_CounterBlock *block = wahook_find_block(MyDatabaseId);
	wahook_JobProgress running[WAHOOK_MAX_RUNNING_JOBS];

	InitMaterializedSRF(fcinfo, 0);
	if (block == NULL)
		return (Datum) 0;
	LWLockAcquire(&wahook_counter_memory()->lock, LW_SHARED);
	memcpy(running, block->running, sizeof(running));
	LWLockRelease(&wahook_counter_memory()->lock);
	for (int i = 0; i < WAHOOK_MAX_RUNNING_JOBS; i++)
	{
		Datum values[6];
		bool nulls[6] = {false};

		if (running[i].pid == 0)
			continue;
		values[0] = CStringGetTextDatum(running[i].job);
		values[1] = Int32GetDatum(running[i].pid);
		values[2] = TimestampTzGetDatum(running[i].started_at);
		values[3] = CStringGetTextDatum(running[i].phase);
		nulls[3] = running[i].phase[0] == '\0';
		values[4] = Int64GetDatum(running[i].done);
		values[5] = TimestampTzGetDatum(running[i].changed_at);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
