/*
 * Counting from SQL functions, by the names that a counter has in the metrics.
 */
#include "core/counter_names.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "core/compat.h"

PG_FUNCTION_INFO_V1(wahook_count_sql);

static bool
is_called(int metric, const char *name)
{
	size_t len = strlen(name);
	const char *full = wahook_metrics[metric].name + strlen("wahook_");

	return strncmp(full, name, len) == 0 && strcmp(full + len, "_total") == 0;
}

static int
find_counter(const char *metric, const char *const *labels)
{
	for (int i = 0; i < WAHOOK_NCOUNTERS; i++)
	{
		const wahook_CounterName *name = &wahook_counter_names[i];
		bool found = is_called(name->metric, metric);

		for (int j = 0; j < WAHOOK_MAX_METRIC_LABELS && found; j++)
			found = name->values[j] == NULL
						? labels[j] == NULL
						: labels[j] != NULL && strcmp(name->values[j], labels[j]) == 0;
		if (found)
			return i;
	}
	return -1;
}

/* Of a family: the label is any name, the result one of its own. False: there is none. */
static bool
count_in_family(const char *metric, const char *const *labels)
{
	for (int i = 0; i < WAHOOK_NFAMILIES && labels[1] != NULL; i++)
		for (int result = 0; result < wahook_family_layouts[i].nresults; result++)
			if (is_called(wahook_family_names[i].metric, metric) &&
				strcmp(wahook_family_names[i].results[result], labels[1]) == 0)
			{
				wahook_count_labelled(i, labels[0], result, 1);
				return true;
			}
	return false;
}

/* webhook_count(text, text[]) */
Datum
wahook_count_sql(PG_FUNCTION_ARGS)
{
	char *metric = text_to_cstring(PG_GETARG_TEXT_PP(0));
	const char *labels[WAHOOK_MAX_METRIC_LABELS] = {NULL};
	Datum *values;
	bool *nulls;
	int n;
	int counter;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls,
					  &n);
	for (int i = 0; i < n && i < WAHOOK_MAX_METRIC_LABELS; i++)
	{
		if (nulls[i])
			PG_RETURN_VOID();
		labels[i] = TextDatumGetCString(values[i]);
	}
	counter = n <= WAHOOK_MAX_METRIC_LABELS ? find_counter(metric, labels) : -1;
	if (counter >= 0)
		wahook_count(counter, 1);
	else if (n > WAHOOK_MAX_METRIC_LABELS || !count_in_family(metric, labels))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("there is no counter \"%s\" with such labels", metric),
						errhint("Read webhook_metrics() for the names.")));
	PG_RETURN_VOID();
}
