/*
 * The shared memory of the counters: who has which block.
 *
 * Only asked for while the server preloads the library: counters that some sessions can reach and
 * others can't would tell nothing. A block is taken by the first transaction of a database that
 * counts, and freed when the extension or the database is dropped.
 */
#include "core/counter_block.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#define COUNTERS_NAME "wahook_counters"

const wahook_FamilyLayout wahook_family_layouts[WAHOOK_NFAMILIES] = {
	[WAHOOK_HTTP_ATTEMPTS] = {WAHOOK_SERVICES, WAHOOK_FIRST_HTTP, WAHOOK_NHTTPRESULTS},
	[WAHOOK_AGENT_CALLS] = {WAHOOK_AGENTS, WAHOOK_FIRST_CALL, WAHOOK_NAGENTRESULTS},
	[WAHOOK_AGENT_TOKENS] = {WAHOOK_AGENTS, WAHOOK_FIRST_TOKEN, WAHOOK_NTOKENDIRECTIONS},
	[WAHOOK_JOB_RUNS] = {WAHOOK_JOBS, WAHOOK_FIRST_RUN, WAHOOK_NJOBRESULTS},
};

const int wahook_max_labels[WAHOOK_NLABELSETS] = {
	[WAHOOK_SERVICES] = WAHOOK_MAX_SERVICE_LABELS,
	[WAHOOK_AGENTS] = WAHOOK_MAX_AGENT_LABELS,
	[WAHOOK_JOBS] = WAHOOK_MAX_JOB_LABELS,
};

/* From a tenth of a millisecond to a day. 2 s is a bound because the contract's p95 is held to it. */
const int64 wahook_bucket_bounds[WAHOOK_NBUCKETS] = {100,        250,         500,        1000,
													 2500,       5000,        10000,      25000,
													 50000,      100000,      250000,     500000,
													 1000000,    2000000,     5000000,    10000000,
													 30000000,   60000000,    300000000,  900000000,
													 3600000000, 21600000000, 86400000000};

static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;
static wahook_CounterMemory *memory = NULL;

wahook_CounterMemory *
wahook_counter_memory(void)
{
	return memory;
}

static void
request(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(wahook_CounterMemory)));
}

/* After a crash nothing is written: the numbers may be anything. */
static void
save_at_shutdown(int code, Datum arg)
{
	if (code == 0 && memory != NULL)
		wahook_save_counters(memory);
}

static void
startup(void)
{
	bool found;

	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	memory = ShmemInitStruct(COUNTERS_NAME, sizeof(wahook_CounterMemory), &found);
	if (!found)
	{
		memset(memory, 0, sizeof(*memory));
		LWLockInitialize(&memory->lock, LWLockNewTrancheId());
		for (int i = 0; i < WAHOOK_MAX_COUNTING_DATABASES; i++)
		{
			pg_atomic_init_u32(&memory->blocks[i].database, InvalidOid);
			pg_atomic_init_u32(&memory->blocks[i].generation, 0);
			for (int j = 0; j < WAHOOK_NVALUES; j++)
				pg_atomic_init_u64(&memory->blocks[i].values[j], 0);
		}
		memory->started_at = GetCurrentTimestamp();
	}
	LWLockRegisterTranche(memory->lock.tranche, COUNTERS_NAME);
	LWLockRelease(AddinShmemInitLock);

	if (!IsUnderPostmaster)
	{
		on_shmem_exit(save_at_shutdown, (Datum) 0);
		if (!found)
			wahook_load_counters(memory);
	}
}

void
wahook_reserve_counters(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup;
}

wahook_CounterBlock *
wahook_find_block(Oid database)
{
	for (int i = 0; memory != NULL && i < WAHOOK_MAX_COUNTING_DATABASES; i++)
		if (pg_atomic_read_u32(&memory->blocks[i].database) == database)
			return &memory->blocks[i];
	return NULL;
}

wahook_CounterBlock *
wahook_take_block_locked(Oid database)
{
	wahook_CounterBlock *block = wahook_find_block(database);

	Assert(LWLockHeldByMeInMode(&memory->lock, LW_EXCLUSIVE));
	if (block != NULL)
		return block;
	block = wahook_find_block(InvalidOid);
	if (block == NULL)
		return NULL;
	wahook_reset_block(block, memory->start_reason);
	block->reset_at = memory->started_at;
	block->extension = InvalidOid;
	block->is_checked = false;
	memset(block->running, 0, sizeof(block->running));
	pg_write_barrier();
	pg_atomic_write_u32(&block->database, database);
	return block;
}

wahook_CounterBlock *
wahook_take_block(Oid database)
{
	wahook_CounterBlock *block = wahook_find_block(database);

	if (block != NULL || memory == NULL)
		return block;
	LWLockAcquire(&memory->lock, LW_EXCLUSIVE);
	block = wahook_take_block_locked(database);
	LWLockRelease(&memory->lock);
	return block;
}

void
wahook_reset_block(wahook_CounterBlock *block, wahook_ResetReason reason)
{
	Assert(LWLockHeldByMeInMode(&memory->lock, LW_EXCLUSIVE));
	(void) pg_atomic_fetch_add_u32(&block->generation, 1);
	for (int i = 0; i < WAHOOK_NLABELSETS; i++)
		block->labels[i].n = 0;
	for (int i = 0; i < WAHOOK_NVALUES; i++)
		pg_atomic_write_u64(&block->values[i], 0);
	block->reset_at = GetCurrentTimestamp();
	block->reset_reason = reason;
}

void
wahook_begin_block(wahook_CounterBlock *block, Oid extension)
{
	wahook_reset_block(block, WAHOOK_RESET_CREATED);
	block->extension = extension;
	block->is_checked = true;
}

void
wahook_free_block(wahook_CounterBlock *block)
{
	Assert(LWLockHeldByMeInMode(&memory->lock, LW_EXCLUSIVE));
	pg_atomic_write_u32(&block->database, InvalidOid);
	(void) pg_atomic_fetch_add_u32(&block->generation, 1);
}

int
wahook_label_number(wahook_CounterBlock *block, wahook_LabelSet set, const char *name)
{
	wahook_Labels *labels = &block->labels[set];
	int number;

	LWLockAcquire(&memory->lock, LW_EXCLUSIVE);
	for (number = 0; number < labels->n; number++)
		if (strcmp(labels->names[number], name) == 0)
			break;
	if (number == labels->n && number < wahook_max_labels[set])
		strlcpy(labels->names[labels->n++], name, NAMEDATALEN);
	LWLockRelease(&memory->lock);
	return number;
}
