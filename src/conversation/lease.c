/*
 * The ends of leases, by which holders that vanished are found.
 *
 * A claim writes one row for all that it locks, and removing the row when all of it is released
 * costs one look-up by the lease's end, which the conversations' rows hold. A row that is left,
 * because its conversations were released one by one, or renewed, is removed by whoever looks at it
 * when its time has come.
 */
#include "conversation/lease.h"

#include "access/genam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/tables.h"
#include "core/uuid.h"
#include "core/wake.h"

/* What a session remembers the place of a lease by: the last one of the claim. */
static void
init_place_keys(ScanKeyData keys[2], TimestampTz expires_at, const pg_uuid_t *lock_id)
{
	ScanKeyInit(&keys[0], Anum_lease_expires_at, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ,
				TimestampTzGetDatum(expires_at));
	ScanKeyInit(&keys[1], Anum_lease_lock_id, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(lock_id));
}

void
wahook_add_lease(wahook_Table *leases, TimestampTz expires_at, const pg_uuid_t *lock_id,
				 const char *service, const pg_uuid_t *ids, int n)
{
	Datum values[WAHOOK_MAX_COLUMNS];
	bool nulls[WAHOOK_MAX_COLUMNS] = {false};
	ScanKeyData keys[2];

	Assert(n >= 1 && n <= WAHOOK_MAX_LEASED);
	values[Anum_lease_expires_at - 1] = TimestampTzGetDatum(expires_at);
	values[Anum_lease_conversation_id - 1] = UUIDPGetDatum(&ids[0]);
	values[Anum_lease_lock_id - 1] = UUIDPGetDatum(lock_id);
	values[Anum_lease_service - 1] = CStringGetTextDatum(service);
	nulls[Anum_lease_others - 1] = n == 1;
	if (n > 1)
		values[Anum_lease_others - 1] = wahook_uuid_array(&ids[1], n - 1);
	wahook_insert_row(leases, values, nulls, Natts_lease);
	init_place_keys(keys, expires_at, lock_id);
	wahook_note_row(&leases->rows, keys, lengthof(keys), &leases->placed);
	wahook_note_work_at(WAHOOK_WORK_DELIVER, expires_at);
}

/* Copies the row in the slot into the current memory context. */
static void
read_lease(TupleTableSlot *slot, wahook_Lease *lease)
{
	bool isnull;
	Datum value;
	int nothers = 0;
	Datum *others = NULL;
	bool *nulls = NULL;

	value = slot_getattr(slot, Anum_lease_others, &isnull);
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(value), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR,
						  &others, &nulls, &nothers);
	lease->ids = palloc_array(pg_uuid_t, nothers + 1);
	lease->ids[0] = *DatumGetUUIDP(slot_getattr(slot, Anum_lease_conversation_id, &isnull));
	lease->n = 1;
	for (int i = 0; i < nothers; i++)
		if (!nulls[i])
			lease->ids[lease->n++] = *DatumGetUUIDP(others[i]);
	lease->expires_at = DatumGetTimestampTz(slot_getattr(slot, Anum_lease_expires_at, &isnull));
	lease->lock_id = *DatumGetUUIDP(slot_getattr(slot, Anum_lease_lock_id, &isnull));
	lease->service = TextDatumGetCString(slot_getattr(slot, Anum_lease_service, &isnull));
}

static bool
is_of_others(const wahook_Lease *lease, const pg_uuid_t *ids, int n)
{
	for (int i = 0; i < lease->n; i++)
		if (bsearch(&lease->ids[i], ids, n, sizeof(pg_uuid_t), wahook_compare_uuids) == NULL)
			return true;
	return false;
}

/* Where this session remembers a lease of just these conversations: there is no other to look for. */
static bool
end_noted(wahook_Table *leases, TimestampTz expires_at, const pg_uuid_t *lock_id,
		  const pg_uuid_t *ids, int n)
{
	ScanKeyData keys[2];
	wahook_Lease lease;

	init_place_keys(keys, expires_at, lock_id);
	if (!wahook_find_noted(&leases->rows, GetActiveSnapshot(), keys, lengthof(keys)))
		return false;
	read_lease(leases->rows.slot, &lease);
	return lease.n == n && !is_of_others(&lease, ids, n) && wahook_delete_row(leases);
}

void
wahook_end_leases(wahook_Table *leases, TimestampTz expires_at, const pg_uuid_t *lock_id,
				  const pg_uuid_t *ids, int n)
{
	ScanKeyData key;
	IndexScanDesc scan;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ, TimestampTzGetDatum(expires_at));
	PushActiveSnapshot(GetLatestSnapshot());
	if (end_noted(leases, expires_at, lock_id, ids, n))
	{
		PopActiveSnapshot();
		return;
	}
	scan = wahook_begin_scan(&leases->rows, GetActiveSnapshot(), &key, 1);
	while (wahook_next_row(&leases->rows, scan))
	{
		wahook_Lease lease;

		read_lease(leases->rows.slot, &lease);
		if (memcmp(&lease.lock_id, lock_id, sizeof(pg_uuid_t)) == 0 &&
			!is_of_others(&lease, ids, n))
			(void) wahook_delete_row(leases);
	}
	wahook_end_scan(&leases->rows, scan);
	PopActiveSnapshot();
}

/*
 * The holder renewed its lease: the next look is at the end of that. Another row may stand there,
 * of a lock that was written directly.
 */
static void
add_renewed(wahook_Table *leases, const wahook_Lease *lease, const pg_uuid_t *id, TimestampTz until)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ, TimestampTzGetDatum(until));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
	if (wahook_peek_row(&leases->rows, keys, lengthof(keys)) == WAHOOK_ROW_NONE)
		wahook_add_lease(leases, until, &lease->lock_id, lease->service, id, 1);
}

/* False when the row must stay, because not all of its conversations have been seen to. */
static bool
visit_lease(wahook_Table *leases, const wahook_Lease *lease, wahook_LeaseVisitor visit, void *arg,
			bool *enough)
{
	ItemPointerData tid = leases->rows.slot->tts_tid;
	TimestampTz *renewed = palloc_array(TimestampTz, lease->n);
	bool over = true;

	for (int i = 0; i < lease->n && !*enough; i++)
	{
		wahook_LeaseEnd end = visit(arg, lease, &lease->ids[i], &renewed[i]);

		CHECK_FOR_INTERRUPTS();
		if (end != WAHOOK_LEASE_RENEWED)
			renewed[i] = DT_NOBEGIN;
		*enough = end == WAHOOK_LEASE_ENOUGH;
		over &= end == WAHOOK_LEASE_OVER || end == WAHOOK_LEASE_RENEWED;
	}
	/* Whoever is at the row at this moment sees to what was renewed. */
	if (!over || !wahook_fetch_row(&leases->rows, &tid) || !wahook_delete_row(leases))
		return over;
	for (int i = 0; i < lease->n; i++)
		if (renewed[i] != DT_NOBEGIN)
			add_renewed(leases, lease, &lease->ids[i], renewed[i]);
	return true;
}

TimestampTz
wahook_visit_leases(wahook_Table *leases, TimestampTz from, TimestampTz to,
					wahook_LeaseVisitor visit, void *arg)
{
	MemoryContext own =
		AllocSetContextCreate(CurrentMemoryContext, "wahook lease", ALLOCSET_SMALL_SIZES);
	TimestampTz first = DT_NOEND;
	bool enough = false;
	ScanKeyData keys[2];
	IndexScanDesc scan;

	ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_TIMESTAMPTZ_GE,
				TimestampTzGetDatum(from));
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE, TimestampTzGetDatum(to));
	PushActiveSnapshot(GetLatestSnapshot());
	scan = wahook_begin_scan(&leases->rows, GetActiveSnapshot(), keys, lengthof(keys));
	while (!enough && wahook_next_row(&leases->rows, scan))
	{
		MemoryContext old = MemoryContextSwitchTo(own);
		wahook_Lease lease;

		read_lease(leases->rows.slot, &lease);
		if (!visit_lease(leases, &lease, visit, arg, &enough))
			first = Min(first, lease.expires_at);
		MemoryContextSwitchTo(old);
		MemoryContextReset(own);
	}
	wahook_end_scan(&leases->rows, scan);
	PopActiveSnapshot();
	MemoryContextDelete(own);
	return first;
}
