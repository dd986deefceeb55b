/*
 * The counters as rows, and their reset.
 */
#include "core/counter_names.h"

#include <math.h>

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "core/compat.h"
#include "core/errors.h"

PG_FUNCTION_INFO_V1(wahook_counter_samples);
PG_FUNCTION_INFO_V1(wahook_reset_counters);

/* The rows that are being made; a sample has no more labels than a metric, or one that is "le". */
typedef struct Samples
{
	ReturnSetInfo *result;
	int position;
} Samples;

static void
append_member(StringInfo json, const char *name, const char *value)
{
	if (name == NULL || value == NULL)
		return;
	if (json->len > 1)
		appendStringInfoString(json, ", ");
	escape_json(json, name);
	appendStringInfoString(json, ": ");
	escape_json(json, value);
}

/* A row: position, metric, name, labels, kind, value, unit, help. */
static void
put_sample(Samples *samples, const wahook_Metric *metric, const char *suffix,
		   const char *const *names, const char *const *labels, int nlabels, double value)
{
	Datum values[8];
	bool nulls[8] = {false};
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < nlabels; i++)
		append_member(&json, names[i], labels[i]);
	appendStringInfoChar(&json, '}');
	values[0] = Int32GetDatum(samples->position++);
	values[1] = CStringGetTextDatum(metric->name);
	values[2] = CStringGetTextDatum(psprintf("%s%s", metric->name, suffix));
	values[3] = DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
	values[4] = CStringGetTextDatum(metric->kind);
	values[5] = Float8GetDatum(value);
	values[6] = CStringGetTextDatum(metric->unit);
	values[7] = CStringGetTextDatum(metric->help);
	tuplestore_putvalues(samples->result->setResult, samples->result->setDesc, values, nulls);
}

static double
read_value(wahook_CounterBlock *block, int value)
{
	return block == NULL ? 0 : (double) pg_atomic_read_u64(&block->values[value]);
}

static void
put_counters(Samples *samples, wahook_CounterBlock *block)
{
	for (int i = 0; i < WAHOOK_NCOUNTERS; i++)
	{
		const wahook_CounterName *name = &wahook_counter_names[i];

		put_sample(samples, &wahook_metrics[name->metric], "", wahook_metric_labels[name->metric],
				   name->values, WAHOOK_MAX_METRIC_LABELS, read_value(block, i));
	}
}

/* All results of a label that something was counted under: a rate needs the zeros too. */
static void
put_label(Samples *samples, wahook_CounterBlock *block, wahook_CounterFamily family, int number,
		  const char *label)
{
	const wahook_FamilyLayout *layout = &wahook_family_layouts[family];
	const wahook_FamilyName *name = &wahook_family_names[family];
	int first = layout->first + number * layout->nresults;
	double total = 0;

	for (int i = 0; i < layout->nresults; i++)
		total += read_value(block, first + i);
	for (int i = 0; i < layout->nresults && total > 0; i++)
	{
		const char *labels[] = {label, name->results[i]};

		put_sample(samples, &wahook_metrics[name->metric], "", wahook_metric_labels[name->metric],
				   labels, lengthof(labels), read_value(block, first + i));
	}
}

static void
put_families(Samples *samples, wahook_CounterBlock *block, const wahook_Labels *labels)
{
	for (int family = 0; block != NULL && family < WAHOOK_NFAMILIES; family++)
	{
		wahook_LabelSet set = wahook_family_layouts[family].set;

		for (int i = 0; i < labels[set].n; i++)
			put_label(samples, block, family, i, labels[set].names[i]);
		put_label(samples, block, family, wahook_max_labels[set], "other");
	}
}

/* The count is that of the buckets as they were read, so that a histogram agrees with itself. */
static void
put_histogram(Samples *samples, wahook_CounterBlock *block, wahook_Histogram histogram)
{
	static const char *const names[] = {"le"};
	const wahook_Metric *metric = &wahook_metrics[WAHOOK_METRIC_INTAKE + histogram];
	int first = WAHOOK_FIRST_BUCKET + histogram * WAHOOK_HISTOGRAM_VALUES;
	double count = 0;

	for (int i = 0; i <= WAHOOK_NBUCKETS; i++)
	{
		const char *bound = i == WAHOOK_NBUCKETS
								? "+Inf"
								: psprintf("%g", (double) wahook_bucket_bounds[i] / 1000000.0);

		count += read_value(block, first + i);
		put_sample(samples, metric, "_bucket", names, &bound, 1, count);
	}
	put_sample(samples, metric, "_sum", NULL, NULL, 0,
			   read_value(block, first + WAHOOK_NBUCKETS + 1) / 1000000.0);
	put_sample(samples, metric, "_count", NULL, NULL, 0, count);
}

static void
put_reset(Samples *samples, TimestampTz at, wahook_ResetReason reason)
{
	static const char *const names[] = {"reason"};
	static const wahook_Metric metric =
		{"wahook_counters_reset_timestamp_seconds", "gauge", "seconds",
		 "When the counters began at zero, in seconds since 1970, and "
		 "why"};
	double seconds = (double) (at + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY) /
					 (double) USECS_PER_SEC;

	put_sample(samples, &metric, "", names, &wahook_reset_reasons[reason], 1, seconds);
}

/*
 * webhook_counter_samples() → a row for each number of this database. None where the library is not
 * preloaded, or has no room for its counters.
 */
Datum
wahook_counter_samples(PG_FUNCTION_ARGS)
{
	wahook_CounterMemory *memory = wahook_counter_memory();
	wahook_CounterBlock *block = wahook_find_block(MyDatabaseId);
	wahook_Labels *labels = palloc0(sizeof(wahook_Labels) * WAHOOK_NLABELSETS);
	Samples samples = {.result = (ReturnSetInfo *) fcinfo->resultinfo};
	TimestampTz reset_at;
	wahook_ResetReason reset_reason;

	InitMaterializedSRF(fcinfo, 0);
	/* Zeros of a database that there is no room for would look as if nothing happened in it. */
	if (memory == NULL || (block == NULL && wahook_find_block(InvalidOid) == NULL))
		return (Datum) 0;
	LWLockAcquire(&memory->lock, LW_SHARED);
	reset_at = block ? block->reset_at : memory->started_at;
	reset_reason = block ? block->reset_reason : memory->start_reason;
	if (block)
		memcpy(labels, block->labels, sizeof(block->labels));
	LWLockRelease(&memory->lock);

	put_counters(&samples, block);
	put_families(&samples, block, labels);
	for (int i = 0; i < WAHOOK_NHISTOGRAMS; i++)
		put_histogram(&samples, block, i);
	put_reset(&samples, reset_at, reset_reason);
	return (Datum) 0;
}

/*
 * webhook_metrics_reset() → timestamptz: since when the counters of this database count. At once,
 * whatever becomes of the transaction.
 */
Datum
wahook_reset_counters(PG_FUNCTION_ARGS)
{
	wahook_CounterMemory *memory = wahook_counter_memory();
	wahook_CounterBlock *block;
	TimestampTz reset_at = 0;

	if (memory == NULL)
		ereport(ERROR,
				(errcode(WAHOOK_NOT_CONFIGURED), errmsg("there are no counters to reset"),
				 errdetail("They are in shared memory that is reserved as the server starts."),
				 errhint("Add wahook to shared_preload_libraries, and restart the server.")));
	LWLockAcquire(&memory->lock, LW_EXCLUSIVE);
	block = wahook_take_block_locked(MyDatabaseId);
	if (block != NULL)
	{
		wahook_reset_block(block, WAHOOK_RESET_REQUESTED);
		reset_at = block->reset_at;
	}
	LWLockRelease(&memory->lock);
	if (block == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("there is no room in shared memory for the counters of this database"),
				 errdetail("There is room for %d databases.", WAHOOK_MAX_COUNTING_DATABASES),
				 errhint("Drop the extension in databases that do not need it.")));
	PG_RETURN_TIMESTAMPTZ(reset_at);
}
