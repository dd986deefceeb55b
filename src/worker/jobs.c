/*
 * The source of the jobs: runs each when the view webhook_jobs says that its time has come.
 *
 * The dead letters' job is also run when somebody makes one due that is overdue at its commit, by
 * hand for instance: its time lies before the last run then, so the view takes it for one of those
 * that could not be retried.
 */
#include "worker/worker.h"

#include "catalog/pg_type.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/counters.h"
#include "core/plan.h"
#include "core/settings.h"

#define MAX_JOBS 16
#define MAX_PAUSE_S 300

typedef struct Job
{
	char name[NAMEDATALEN];
	TimestampTz next_at; /* as the view says; DT_NOEND: not at all */
	bool runs_at_once;   /* it has more to do than it did, or a note asked for it */
	TimestampTz not_before;
	wahook_Pause pause;
} Job;

/* A run, and how it went. */
typedef struct Run
{
	Job *job;
	bool succeeded;
	bool running; /* elsewhere */
	bool more;
} Run;

static Job jobs[MAX_JOBS];
static int njobs = 0;
static wahook_Pause look_pause;

static wahook_Plan look_plan = {"SELECT job, next_run_at FROM @extschema@.webhook_jobs", 0};

static wahook_Plan run_plan =
	{"SELECT (r->>'success')::boolean, r ? 'running', r->>'error', r->>'sqlstate',"
	 " coalesce((r->>'processed')::bigint >= $2, false)"
	 " OR EXISTS (SELECT FROM jsonb_each_text(r->'deleted') d WHERE d.value::bigint >= $3)"
	 " OR coalesce((r->>'more')::boolean, false)"
	 " FROM @extschema@.webhook_run_job($1, true) AS r",
	 3,
	 {TEXTOID, INT8OID, INT8OID}};

static Job *
find_job(const char *name)
{
	for (int i = 0; i < njobs; i++)
		if (strcmp(jobs[i].name, name) == 0)
			return &jobs[i];
	if (njobs == MAX_JOBS)
		elog(ERROR, "there are more than %d jobs", MAX_JOBS);
	strlcpy(jobs[njobs].name, name, NAMEDATALEN);
	jobs[njobs].not_before = DT_NOBEGIN;
	return &jobs[njobs++];
}

static void
look(void *arg)
{
	uint64 rows = wahook_execute(&look_plan, NULL, NULL);

	for (uint64 i = 0; i < rows; i++)
	{
		Job *job = find_job(wahook_result_text(i, 1));
		bool isnull;
		Datum next = wahook_result(i, 2, &isnull);

		job->next_at = isnull ? DT_NOEND : DatumGetTimestampTz(next);
		if (isnull)
			job->runs_at_once = false; /* there is nothing to do */
	}
}

static void
run_job(void *arg)
{
	Run *run = arg;
	Datum values[] = {CStringGetTextDatum(run->job->name), Int64GetDatum(wahook_dlq_batch_size),
					  Int64GetDatum(wahook_retention_batch_size)};
	bool isnull;

	wahook_execute(&run_plan, values, NULL);
	run->succeeded = DatumGetBool(wahook_result(0, 1, &isnull));
	run->running = DatumGetBool(wahook_result(0, 2, &isnull));
	run->more = DatumGetBool(wahook_result(0, 5, &isnull));
	if (!run->succeeded && !run->running)
		wahook_warn_once(psprintf("job \"%s\"", run->job->name), wahook_result_text(0, 4),
						 wahook_result_text(0, 3));
}

/* When the job is to be run, the pauses after failures and between two runs in a row included. */
static TimestampTz
due_at(const Job *job)
{
	TimestampTz at = job->runs_at_once && job->next_at != DT_NOEND ? DT_NOBEGIN : job->next_at;

	return Max(at, job->not_before);
}

/* A job that has much to do takes no more than half of the time. */
static void
run_and_plan(Job *job)
{
	Run run = {.job = job};
	TimestampTz began_at = GetCurrentTimestamp();
	TimestampTz ended_at;
	bool done;

	job->runs_at_once = false;
	pgstat_report_activity(STATE_RUNNING, psprintf("job %s", job->name));
	done = wahook_in_transaction(run_job, &run);
	if (!done) /* else the job has counted itself */
		wahook_count_labelled(WAHOOK_JOB_RUNS, job->name, WAHOOK_JOB_FAILED, 1);
	done = done && run.succeeded;
	ended_at = GetCurrentTimestamp();
	wahook_note_result(&job->pause, done, MAX_PAUSE_S);
	job->runs_at_once = !done || run.more;
	job->not_before = done ? ended_at + (ended_at - began_at) : job->pause.until;
}

/* After a reload: what was in the way may have been a setting. */
static void
forget_pauses(void)
{
	for (int i = 0; i < njobs; i++)
	{
		jobs[i].pause = (wahook_Pause){0};
		jobs[i].not_before = DT_NOBEGIN;
	}
	look_pause = (wahook_Pause){0};
}

static TimestampTz
turn(TimestampTz now, int heard)
{
	TimestampTz next = DT_NOEND;
	bool ran = false;

	if ((heard & WAHOOK_WORK_ALL) == WAHOOK_WORK_ALL)
	{
		forget_pauses();
		heard |= WAHOOK_WORK_OVERDUE; /* what was noted while no worker ran */
	}
	if (look_pause.failures > 0 && now < look_pause.until)
		return look_pause.until;
	if (!wahook_in_transaction(look, NULL))
	{
		wahook_note_result(&look_pause, false, MAX_PAUSE_S);
		return look_pause.until;
	}
	wahook_note_result(&look_pause, true, MAX_PAUSE_S);
	for (int i = 0; i < njobs && !wahook_is_to_end(); i++)
	{
		Job *job = &jobs[i];

		if ((heard & WAHOOK_WORK_OVERDUE) && strcmp(job->name, "dlq-processor") == 0)
			job->runs_at_once = true;
		if (due_at(job) > GetCurrentTimestamp())
			continue;
		run_and_plan(job);
		ran = true;
	}
	if (ran && !wahook_is_to_end())
		(void) wahook_in_transaction(look, NULL);
	for (int i = 0; i < njobs; i++)
		next = Min(next, due_at(&jobs[i]));
	return next;
}

const wahook_Source wahook_jobs_source = {.name = "wahook jobs",
										  .wants = WAHOOK_WORK_RETRY | WAHOOK_WORK_OVERDUE |
												   WAHOOK_WORK_CONFIG,
										  .turn = turn};
