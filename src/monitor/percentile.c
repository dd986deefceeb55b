/*
 * Percentiles of a distribution: values in any order, and how often each occurs. The same as
 * percentile_cont() of all of them one by one, which sorts millions where this looks through thousands.
 */
#include "postgres.h"

#include <math.h>

#include "common/int.h"
#include "fmgr.h"
#include "utils/array.h"

#include "core/compat.h"

PG_FUNCTION_INFO_V1(wahook_percentile);

/* The elements of a one-dimensional array of a type without padding between its elements. */
static const void *
read_array(ArrayType *array, const char *name, int *n)
{
	*n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	if (ARR_NDIM(array) > 1 || array_contains_nulls(array))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must have one dimension and no nulls", name),
						errhint("Pass what array_agg() makes of a column.")));
	return ARR_DATA_PTR(array);
}

typedef struct Distribution
{
	const int32 *values;
	const int64 *counts;
	int n;
} Distribution;

/* How many are not above a limit. */
static int64
count_up_to(const Distribution *d, int64 limit)
{
	int64 count = 0;

	for (int i = 0; i < d->n; i++)
		count += d->values[i] <= limit ? d->counts[i] : 0;
	return count;
}

/* The value at a place, counted from 0, of all values in order, by bisection: there is no sorting. */
static int64
value_at(const Distribution *d, int64 place)
{
	int64 low = PG_INT32_MAX;
	int64 high = PG_INT32_MIN;

	for (int i = 0; i < d->n; i++)
	{
		low = Min(low, d->values[i]);
		high = Max(high, d->values[i]);
	}
	while (low < high)
	{
		int64 middle = low + (high - low) / 2;

		if (count_up_to(d, middle) > place)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* The least value above another one; there is one. */
static int64
value_above(const Distribution *d, int64 value)
{
	int64 least = PG_INT64_MAX;

	for (int i = 0; i < d->n; i++)
		if (d->values[i] > value && d->counts[i] > 0)
			least = Min(least, d->values[i]);
	return least;
}

/* webhook_percentile(integer[], bigint[], double precision) → double precision */
Datum
wahook_percentile(PG_FUNCTION_ARGS)
{
	Distribution d;
	int ncounts;
	double fraction = PG_GETARG_FLOAT8(2);
	int64 total = 0;
	double place;
	int64 below;
	int64 above;

	d.values = read_array(PG_GETARG_ARRAYTYPE_P(0), "p_values", &d.n);
	d.counts = read_array(PG_GETARG_ARRAYTYPE_P(1), "p_counts", &ncounts);
	if (d.n != ncounts)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("there are %d values and %d counts", d.n, ncounts),
						errhint("Pass a count for each value.")));
	if (!(fraction >= 0 && fraction <= 1))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("percentile value %g is not between 0 and 1", fraction),
						errhint("The median is 0.5.")));
	for (int i = 0; i < d.n; i++)
		if (d.counts[i] < 0 || pg_add_s64_overflow(total, d.counts[i], &total))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("count %lld is negative, or too large", (long long) d.counts[i]),
							errhint("Pass how often each value occurs.")));
	if (total == 0)
		PG_RETURN_NULL();
	place = fraction * (double) (total - 1);
	below = value_at(&d, (int64) place);
	above = below;
	if (place > floor(place) && count_up_to(&d, below) <= (int64) place + 1)
		above = value_above(&d, below);
	PG_RETURN_FLOAT8(below + (place - floor(place)) * (double) (above - below));
}
