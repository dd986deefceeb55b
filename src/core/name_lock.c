/*
 * Locks on names. They go by a hash: two names that share it wait for each other, once in 2^64.
 */
#include "core/name_lock.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"

#include "core/compat.h"

PG_FUNCTION_INFO_V1(wahook_try_budget_lock);
PG_FUNCTION_INFO_V1(wahook_try_job_lock);

bool
wahook_lock_name(wahook_LockSpace space, const void *name, Size len, bool wait)
{
	uint64 hash = hash_bytes_extended(name, (int) len, 0);
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, space);
	return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/* webhook_try_job_lock(p_job text) → boolean */
Datum
wahook_try_job_lock(PG_FUNCTION_ARGS)
{
	text *job = PG_GETARG_TEXT_PP(0);

	PG_RETURN_BOOL(
		wahook_lock_name(WAHOOK_LOCK_JOB, VARDATA_ANY(job), VARSIZE_ANY_EXHDR(job), false));
}

/* webhook_try_budget_lock(p_budget text) → boolean */
Datum
wahook_try_budget_lock(PG_FUNCTION_ARGS)
{
	text *budget = PG_GETARG_TEXT_PP(0);

	PG_RETURN_BOOL(wahook_lock_name(WAHOOK_LOCK_BUDGET, VARDATA_ANY(budget),
									VARSIZE_ANY_EXHDR(budget), false));
}
