/*
 * Where the counters are: a block of shared memory for each database that counts.
 *
 * value: a number of a block that only grows, until the block is reset.
 * label set: the names that some families are told apart by. A block knows a name by its number in
 * the set, given when it is first counted under; the last number of each set is that of "other".
 */
#ifndef WAHOOK_COUNTER_BLOCK_H
#define WAHOOK_COUNTER_BLOCK_H

#include "core/counters.h"

#include "port/atomics.h"
#include "storage/lwlock.h"

/* How many databases of a server can count. */
#define WAHOOK_MAX_COUNTING_DATABASES 64

#define WAHOOK_NBUCKETS 23

/* A histogram: its buckets, what is above the last, the sum of all in microseconds. */
#define WAHOOK_HISTOGRAM_VALUES (WAHOOK_NBUCKETS + 2)

typedef enum wahook_LabelSet
{
	WAHOOK_SERVICES,
	WAHOOK_AGENTS,
	WAHOOK_JOBS,
	WAHOOK_NLABELSETS
} wahook_LabelSet;

#define WAHOOK_MAX_SERVICE_LABELS 64
#define WAHOOK_MAX_AGENT_LABELS 32
#define WAHOOK_MAX_JOB_LABELS 16
#define WAHOOK_MAX_LABELS 64

/* The first value of each kind; a family has its results side by side for each label. */
#define WAHOOK_FIRST_BUCKET WAHOOK_NCOUNTERS
#define WAHOOK_FIRST_HTTP (WAHOOK_FIRST_BUCKET + WAHOOK_NHISTOGRAMS * WAHOOK_HISTOGRAM_VALUES)
#define WAHOOK_FIRST_CALL \
	(WAHOOK_FIRST_HTTP + (WAHOOK_MAX_SERVICE_LABELS + 1) * WAHOOK_NHTTPRESULTS)
#define WAHOOK_FIRST_TOKEN \
	(WAHOOK_FIRST_CALL + (WAHOOK_MAX_AGENT_LABELS + 1) * WAHOOK_NAGENTRESULTS)
#define WAHOOK_FIRST_RUN \
	(WAHOOK_FIRST_TOKEN + (WAHOOK_MAX_AGENT_LABELS + 1) * WAHOOK_NTOKENDIRECTIONS)
#define WAHOOK_NVALUES (WAHOOK_FIRST_RUN + (WAHOOK_MAX_JOB_LABELS + 1) * WAHOOK_NJOBRESULTS)

/* Why the numbers of a block begin when they do. */
typedef enum wahook_ResetReason
{
	WAHOOK_RESET_CREATED,    /* the extension was created */
	WAHOOK_RESET_STARTED,    /* the server was started without numbers of a former run */
	WAHOOK_RESET_CRASHED,    /* the server came up after a crash */
	WAHOOK_RESET_UNREADABLE, /* what a former run had written could not be read */
	WAHOOK_RESET_REQUESTED,  /* webhook_metrics_reset() */
	WAHOOK_NRESETREASONS
} wahook_ResetReason;

typedef struct wahook_Labels
{
	int n;
	char names[WAHOOK_MAX_LABELS][NAMEDATALEN];
} wahook_Labels;

/* A job that is running, and what it has done so far; see core/progress.h. */
typedef struct wahook_JobProgress
{
	int pid; /* 0: the place is free */
	char job[NAMEDATALEN];
	char phase[NAMEDATALEN];
	int64 done; /* in this phase */
	TimestampTz started_at;
	TimestampTz changed_at;
} wahook_JobProgress;

#define WAHOOK_MAX_RUNNING_JOBS 8

typedef struct wahook_CounterBlock
{
	pg_atomic_uint32 database;   /* InvalidOid: the block is free */
	pg_atomic_uint32 generation; /* grows whenever labels get other numbers */

	/* Under the lock. */
	Oid extension;   /* whose numbers they are */
	bool is_checked; /* that it is still there, since they were read from a file */
	TimestampTz reset_at;
	wahook_ResetReason reset_reason;
	wahook_Labels labels[WAHOOK_NLABELSETS];
	wahook_JobProgress running[WAHOOK_MAX_RUNNING_JOBS];

	pg_atomic_uint64 values[WAHOOK_NVALUES];
} wahook_CounterBlock;

typedef struct wahook_CounterMemory
{
	LWLock lock;
	TimestampTz started_at;
	wahook_ResetReason start_reason;
	wahook_CounterBlock blocks[WAHOOK_MAX_COUNTING_DATABASES];
} wahook_CounterMemory;

typedef struct wahook_FamilyLayout
{
	wahook_LabelSet set;
	int first; /* value */
	int nresults;
} wahook_FamilyLayout;

extern const wahook_FamilyLayout wahook_family_layouts[WAHOOK_NFAMILIES];
extern const int wahook_max_labels[WAHOOK_NLABELSETS];
extern const int64 wahook_bucket_bounds[WAHOOK_NBUCKETS]; /* microseconds, ascending */

/* Null where the library is not preloaded. */
extern wahook_CounterMemory *wahook_counter_memory(void);

/* The block of a database. Null: it has none; or, where one is to be taken, none is free. */
extern wahook_CounterBlock *wahook_find_block(Oid database);
extern wahook_CounterBlock *wahook_take_block(Oid database);

/* All these under the lock, exclusively. */
extern wahook_CounterBlock *wahook_take_block_locked(Oid database);
extern void wahook_reset_block(wahook_CounterBlock *block, wahook_ResetReason reason);
/* For an installation that has just been made. */
extern void wahook_begin_block(wahook_CounterBlock *block, Oid extension);
extern void wahook_free_block(wahook_CounterBlock *block);

/* The number of a name in a set, which gets one where it has none and there is room. Takes the lock. */
extern int wahook_label_number(wahook_CounterBlock *block, wahook_LabelSet set, const char *name);

/* Between two runs of the server: core/counter_file.c. */
extern void wahook_load_counters(wahook_CounterMemory *memory);
extern void wahook_save_counters(const wahook_CounterMemory *memory);

#endif
