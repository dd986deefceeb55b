/*
 * Looking at rows without waiting.
 *
 * SQL offers SKIP LOCKED, but it follows a row to its newest version before it checks the
 * condition again, and keeps the lock it took there even when the condition has become false: a
 * claim would hold up the very holder it lost to. Here the row is first looked at with a dirty
 * snapshot, and then exactly the version that was seen is locked, or none.
 */
#include "core/row.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "core/compat.h"
#include "core/page.h"
#include "core/plan.h"

/* How often a row is looked for that is there, but not for a dirty snapshot. */
#define MAX_LOOKS 100

/* Opens a table of the extension for look-ups by one of its indexes. */
void
wahook_open_rows(wahook_RowReader *reader, const char *table, const char *index, LOCKMODE lockmode)
{
	reader->heap = table_open(wahook_relation(table), lockmode);
	reader->index = index_open(wahook_relation(index), lockmode);
	reader->slot = table_slot_create(reader->heap, NULL);
	reader->spare = NULL;
	ItemPointerSetInvalid(&reader->root);
	reader->places = wahook_places_of(reader->heap, false);
	reader->fetch = NULL;
	reader->nblocks = 0;
	reader->context = CurrentMemoryContext;
}

void
wahook_close_rows(wahook_RowReader *reader)
{
	if (reader->spare != NULL)
		index_endscan(reader->spare);
	if (reader->fetch != NULL)
		table_index_fetch_end(reader->fetch);
	ExecDropSingleTupleTableSlot(reader->slot);
	index_close(reader->index, NoLock);
	table_close(reader->heap, NoLock);
}

/* A scan takes more memory than a small block has, and most find one row: one serves for many. */
IndexScanDesc
wahook_begin_scan(wahook_RowReader *reader, Snapshot snapshot, ScanKey keys, int nkeys)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->context);
	IndexScanDesc scan = reader->spare;

	reader->spare = NULL;
	if (scan != NULL && scan->numberOfKeys == nkeys)
		scan->xs_snapshot = snapshot;
	else
	{
		if (scan != NULL)
			index_endscan(scan);
		scan = wahook_index_beginscan(reader->heap, reader->index, snapshot, nkeys);
	}
	index_rescan(scan, keys, nkeys, NULL, 0);
	MemoryContextSwitchTo(caller);
	return scan;
}

/* As index_getnext_slot(), which keeps to itself where the index led to. */
static bool
next_row(wahook_RowReader *reader, IndexScanDesc scan, ScanDirection direction)
{
	for (;;)
	{
		if (!scan->xs_heap_continue)
		{
			if (index_getnext_tid(scan, direction) == NULL)
				return false;
			reader->root = scan->xs_heaptid;
			wahook_enter_page(reader->heap, scan->xs_heapfetch,
							  ItemPointerGetBlockNumber(&scan->xs_heaptid));
		}
		if (index_fetch_heap(scan, reader->slot))
			return true;
	}
}

/* What a scan takes note of on its way must live as long as it. */
bool
wahook_next_row_to(wahook_RowReader *reader, IndexScanDesc scan, ScanDirection direction)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->context);
	bool found = next_row(reader, scan, direction);

	MemoryContextSwitchTo(caller);
	return found;
}

bool
wahook_next_row(wahook_RowReader *reader, IndexScanDesc scan)
{
	return wahook_next_row_to(reader, scan, ForwardScanDirection);
}

/* Whatever page the scan is on is let go; the slot keeps its own pin on its row's page. */
void
wahook_end_scan(wahook_RowReader *reader, IndexScanDesc scan)
{
	if (reader->spare != NULL)
		index_endscan(scan);
	else
	{
		index_rescan(scan, NULL, scan->numberOfKeys, NULL, 0);
		reader->spare = scan;
	}
}

/* Of a table whose end was cut off, what a session remembers may lie beyond it. */
static bool
is_in_table(wahook_RowReader *reader, const ItemPointerData *tid)
{
	BlockNumber block = ItemPointerGetBlockNumber(tid);

	if (block >= reader->nblocks)
		reader->nblocks = RelationGetNumberOfBlocks(reader->heap);
	return block < reader->nblocks;
}

/* Whether the row in the slot has the keys. attnums: columns of the index; null: keys name the table's. */
static bool
has_keys(wahook_RowReader *reader, ScanKey keys, int nkeys, const int16 *attnums)
{
	for (int i = 0; i < nkeys; i++)
	{
		bool isnull;
		Datum value =
			slot_getattr(reader->slot, attnums ? attnums[keys[i].sk_attno - 1] : keys[i].sk_attno,
						 &isnull);

		if (isnull || !DatumGetBool(FunctionCall2Coll(&keys[i].sk_func, keys[i].sk_collation, value,
													  keys[i].sk_argument)))
			return false;
	}
	return true;
}

/* Looks where the row was last, along its chain of versions as an index scan would. */
static bool
find_noted(wahook_RowReader *reader, Snapshot snapshot, ScanKey keys, int nkeys,
		   const int16 *attnums, uint64 hash)
{
	ItemPointerData tid;
	ItemPointerData root;
	bool call_again = false;
	bool found;

	if (reader->places == NULL || !wahook_guess_place(reader->places, hash, &tid) ||
		!is_in_table(reader, &tid))
		return false;
	if (reader->fetch == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(reader->context);

		reader->fetch = table_index_fetch_begin(reader->heap);
		MemoryContextSwitchTo(caller);
	}
	root = tid;
	ExecClearTuple(reader->slot);
	wahook_enter_page(reader->heap, reader->fetch, ItemPointerGetBlockNumber(&tid));
	found = table_index_fetch_tuple(reader->fetch, &tid, snapshot, reader->slot, &call_again, NULL);
	table_index_fetch_reset(reader->fetch);
	reader->root = root;
	return found && has_keys(reader, keys, nkeys, attnums);
}

bool
wahook_find_noted(wahook_RowReader *reader, Snapshot snapshot, ScanKey keys, int nkeys)
{
	return find_noted(reader, snapshot, keys, nkeys, NULL, wahook_hash_keys(keys, nkeys));
}

static void
note_place(wahook_RowReader *reader, uint64 hash, const ItemPointerData *tid)
{
	if (reader->places == NULL)
		reader->places = wahook_places_of(reader->heap, true);
	wahook_note_place(reader->places, hash, tid);
}

void
wahook_note_row(wahook_RowReader *reader, const ScanKeyData *keys, int nkeys,
				const ItemPointerData *tid)
{
	note_place(reader, wahook_hash_keys(keys, nkeys), tid);
}

bool
wahook_find_row(wahook_RowReader *reader, Snapshot snapshot, ScanKey keys, int nkeys)
{
	uint64 hash = wahook_hash_keys(keys, nkeys);
	IndexScanDesc scan;
	bool found;

	if (find_noted(reader, snapshot, keys, nkeys, reader->index->rd_index->indkey.values, hash))
		return true;
	scan = wahook_begin_scan(reader, snapshot, keys, nkeys);
	found = wahook_next_row(reader, scan);
	wahook_end_scan(reader, scan);
	if (found)
		note_place(reader, hash, &reader->root);
	return found;
}

/*
 * Looks at the index once. False when INSERT ... ON CONFLICT has a row on trial there: before long
 * it is kept or, when it loses against another one, taken away as if it had never been. Then
 * dirty->xmin and its token say what to wait for.
 */
static bool
look_once(wahook_RowReader *reader, ScanKey keys, int nkeys, SnapshotData *dirty,
		  wahook_RowState *state)
{
	IndexScanDesc scan;
	HeapTuple arriving = NULL;
	bool on_trial = false;

	*state = WAHOOK_ROW_NONE;
	InitDirtySnapshot(*dirty);
	ExecClearTuple(reader->slot);
	scan = wahook_begin_scan(reader, dirty, keys, nkeys);
	while (wahook_next_row(reader, scan))
	{
		if (TransactionIdIsValid(dirty->xmin))
		{
			on_trial = dirty->speculativeToken != 0;
			if (on_trial)
				break;
			*state = WAHOOK_ROW_ARRIVING;
			if (arriving)
				heap_freetuple(arriving);
			arriving = ExecCopySlotHeapTuple(reader->slot);
			continue;
		}
		*state = TransactionIdIsValid(dirty->xmax) ? WAHOOK_ROW_CHANGING : WAHOOK_ROW_STEADY;
		break;
	}
	wahook_end_scan(reader, scan);
	if (!on_trial && *state == WAHOOK_ROW_ARRIVING)
		ExecForceStoreHeapTuple(arriving, reader->slot, true);
	return !on_trial;
}

/* Looks where the row was last. What is arriving there, the index shows beside what else there is. */
static bool
look_where_noted(wahook_RowReader *reader, ScanKey keys, int nkeys, uint64 hash,
				 wahook_RowState *state)
{
	SnapshotData dirty;

	InitDirtySnapshot(dirty);
	if (!find_noted(reader, &dirty, keys, nkeys, reader->index->rd_index->indkey.values, hash) ||
		TransactionIdIsValid(dirty.xmin))
		return false;
	*state = TransactionIdIsValid(dirty.xmax) ? WAHOOK_ROW_CHANGING : WAHOOK_ROW_STEADY;
	return true;
}

/* Whether there is such a row for all who come now. Nothing can be missed in such a snapshot. */
static bool
is_there(wahook_RowReader *reader, ScanKey keys, int nkeys)
{
	bool found;

	PushActiveSnapshot(GetLatestSnapshot());
	found = wahook_find_row(reader, GetActiveSnapshot(), keys, nkeys);
	PopActiveSnapshot();
	return found;
}

/*
 * Finds the row with the given key, the whole of it, and tells what is happening to it. A committed
 * version is preferred to one that is still arriving. The row is in reader->slot unless there is none.
 *
 * A dirty snapshot can miss a row whose update commits while the index is read, when the new
 * version is on another page and so under an index entry of its own. Then it is looked for again:
 * that there is none is believed of a snapshot that can't miss it. Such updates come one by one, so
 * the looks end soon; their bound is for a row that this command itself has deleted.
 */
wahook_RowState
wahook_peek_row(wahook_RowReader *reader, ScanKey keys, int nkeys)
{
	uint64 hash = wahook_hash_keys(keys, nkeys);
	SnapshotData dirty;
	wahook_RowState state;

	if (look_where_noted(reader, keys, nkeys, hash, &state))
		return state;
	for (int look = 0; look < MAX_LOOKS; look++)
	{
		/* The wait is for the end of one insertion, not of a transaction. */
		while (!look_once(reader, keys, nkeys, &dirty, &state))
			SpeculativeInsertionWait(dirty.xmin, dirty.speculativeToken);
		if (state != WAHOOK_ROW_NONE || !is_there(reader, keys, nkeys))
			break;
	}
	if (state == WAHOOK_ROW_STEADY || state == WAHOOK_ROW_CHANGING)
		note_place(reader, hash, &reader->root);
	return state;
}

wahook_RowState
wahook_fetch_row_state(wahook_RowReader *reader, const ItemPointerData *tid)
{
	SnapshotData dirty;
	ItemPointerData at = *tid;

	InitDirtySnapshot(dirty);
	ExecClearTuple(reader->slot);
	if (!table_tuple_fetch_row_version(reader->heap, &at, &dirty, reader->slot))
		return WAHOOK_ROW_NONE;
	if (TransactionIdIsValid(dirty.xmin))
		return WAHOOK_ROW_ARRIVING;
	return TransactionIdIsValid(dirty.xmax) ? WAHOOK_ROW_CHANGING : WAHOOK_ROW_STEADY;
}

bool
wahook_fetch_row(wahook_RowReader *reader, const ItemPointerData *tid)
{
	return wahook_fetch_row_state(reader, tid) == WAHOOK_ROW_STEADY;
}

/* One that several transactions have locked may not be any more: then this says true for nothing. */
bool
wahook_is_row_locked(const wahook_RowReader *reader)
{
	HeapTupleHeader row = ExecFetchSlotHeapTuple(reader->slot, false, NULL)->t_data;

	return !(row->t_infomask & HEAP_XMAX_INVALID) &&
		   ((row->t_infomask & HEAP_XMAX_IS_MULTI) ||
			TransactionIdIsInProgress(HeapTupleHeaderGetRawXmax(row)));
}

bool
wahook_is_row_ours(const wahook_RowReader *reader)
{
	HeapTupleHeader row = ExecFetchSlotHeapTuple(reader->slot, false, NULL)->t_data;

	return TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(row));
}

/* Where the row's next version is; the row's own place where it has none. */
static ItemPointerData
next_version(const wahook_RowReader *reader)
{
	return ExecFetchSlotHeapTuple(reader->slot, false, NULL)->t_data->t_ctid;
}

bool
wahook_is_being_deleted(const wahook_RowReader *reader)
{
	ItemPointerData next = next_version(reader);

	return ItemPointerEquals(&next, &reader->slot->tts_tid);
}

bool
wahook_fetch_next_version(wahook_RowReader *reader)
{
	ItemPointerData next = next_version(reader);

	return !ItemPointerEquals(&next, &reader->slot->tts_tid) &&
		   wahook_fetch_row_state(reader, &next) != WAHOOK_ROW_NONE;
}

static bool
try_lock(wahook_RowReader *reader, LockTupleMode mode)
{
	ItemPointerData tid = reader->slot->tts_tid;
	TM_FailureData failure;
	TM_Result result;

	/* Which snapshot it is does not matter: it is for those who want to lock a later version. */
	result = table_tuple_lock(reader->heap, &tid, GetActiveSnapshot(), reader->slot,
							  GetCurrentCommandId(false), mode, LockWaitSkip, 0, &failure);
	return result == TM_Ok;
}

/*
 * Locks the row version in reader->slot against updates by others until the transaction ends.
 * False, and nothing is locked, when another transaction has it or has changed it since.
 */
bool
wahook_try_lock_row(wahook_RowReader *reader)
{
	return try_lock(reader, LockTupleNoKeyExclusive);
}

/* The same, also against those who only want the row to stay: a foreign key, FOR KEY SHARE. */
bool
wahook_try_lock_row_to_delete(wahook_RowReader *reader)
{
	return try_lock(reader, LockTupleExclusive);
}

void
wahook_raise_busy(const char *what, const char *which)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("%s %s is being changed by another transaction", what, which),
			 errdetail("This call does not wait for other transactions."),
			 errhint(
				 "Try again. If that does not help, look in pg_stat_activity for a transaction that is open for long.")));
}
