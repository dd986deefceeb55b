/*
 * What the counters are called, and what is said about them.
 */
#ifndef WAHOOK_COUNTER_NAMES_H
#define WAHOOK_COUNTER_NAMES_H

#include "core/counter_block.h"

#define WAHOOK_MAX_METRIC_LABELS 2

/* A metric: all samples of one name. */
typedef struct wahook_Metric
{
	const char *name;
	const char *kind; /* counter, histogram */
	const char *unit;
	const char *help;
} wahook_Metric;

/* What a counter is among those of its name: the names of labels, and its values. */
typedef struct wahook_CounterName
{
	int metric;
	const char *values[WAHOOK_MAX_METRIC_LABELS];
} wahook_CounterName;

typedef struct wahook_FamilyName
{
	int metric;
	const char *const *results;
} wahook_FamilyName;

typedef enum wahook_MetricNumber
{
	WAHOOK_METRIC_DELIVERIES,
	WAHOOK_METRIC_EVENTS,
	WAHOOK_METRIC_LOCKS,
	WAHOOK_METRIC_CLAIMS,
	WAHOOK_METRIC_COMPLETED,
	WAHOOK_METRIC_FAILED,
	WAHOOK_METRIC_DEAD_LETTERS,
	WAHOOK_METRIC_RETRIES,
	WAHOOK_METRIC_HTTP_ATTEMPTS,
	WAHOOK_METRIC_AGENT_CALLS,
	WAHOOK_METRIC_AGENT_TOKENS,
	WAHOOK_METRIC_JOB_RUNS,
	WAHOOK_METRIC_INTAKE,
	WAHOOK_METRIC_WAIT,
	WAHOOK_METRIC_PROCESSING,
	WAHOOK_METRIC_END_TO_END,
	WAHOOK_METRIC_HTTP_TIME,
	WAHOOK_NMETRICS
} wahook_MetricNumber;

extern const wahook_Metric wahook_metrics[WAHOOK_NMETRICS];
extern const char *const wahook_metric_labels[WAHOOK_NMETRICS][WAHOOK_MAX_METRIC_LABELS];
extern const wahook_CounterName wahook_counter_names[WAHOOK_NCOUNTERS];
extern const wahook_FamilyName wahook_family_names[WAHOOK_NFAMILIES];
extern const char *const wahook_reset_reasons[WAHOOK_NRESETREASONS];

/* Differs where the values of a block mean something else. */
extern uint32 wahook_hash_counter_names(void);

#endif
