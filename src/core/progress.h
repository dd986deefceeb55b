/*
 * How far a job is, for others to see while it runs: in shared memory, with the preload line, beside
 * the counters of its database; and in pg_stat_activity, where a background process runs it.
 */
#ifndef WAHOOK_PROGRESS_H
#define WAHOOK_PROGRESS_H

#include "postgres.h"

/*
 * Between the two, this session runs a job. It also ends with the transaction, however that ends. Never
 * an error.
 */
extern void wahook_progress_begin(const char *job);
extern void wahook_progress_end(void);

/* More has been done, in this phase or in a new one. Nothing happens where no job runs. */
extern void wahook_progress(const char *phase, int64 more);

#endif
