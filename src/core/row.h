/*
 * Looking at rows without waiting: what others are writing can be seen, and a row can be locked or
 * found busy, but no call here ever blocks behind another transaction.
 */
#ifndef WAHOOK_ROW_H
#define WAHOOK_ROW_H

#include "postgres.h"

#include "access/genam.h"
#include "access/skey.h"
#include "executor/tuptable.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "core/compat.h"
#include "core/place.h"

typedef enum wahook_RowState
{
	WAHOOK_ROW_NONE,     /* no such row */
	WAHOOK_ROW_STEADY,   /* committed, and nobody is changing it */
	WAHOOK_ROW_CHANGING, /* committed, another transaction has changed or deleted it */
	WAHOOK_ROW_ARRIVING  /* inserted by a transaction that has not committed yet */
} wahook_RowState;

typedef struct wahook_RowReader
{
	Relation heap;
	Relation index;
	TupleTableSlot *slot;
	IndexScanDesc spare;  /* a scan that has ended, for the next one; null: none */
	ItemPointerData root; /* where the index led to for the row that was found last */
	wahook_Places *places;
	struct IndexFetchTableData *fetch; /* for looking where places are; null until needed */
	BlockNumber nblocks;               /* the table has at least so many */
	MemoryContext context;
} wahook_RowReader;

extern void wahook_open_rows(wahook_RowReader *reader, const char *table, const char *index,
							 LOCKMODE lockmode);
extern wahook_RowState wahook_peek_row(wahook_RowReader *reader, ScanKey keys, int nkeys);

/* Fetches a row by its place. False unless it is steady. */
extern bool wahook_fetch_row(wahook_RowReader *reader, const ItemPointerData *tid);

/* The same; tells what is happening to it. The slot is good unless there is none. */
extern wahook_RowState wahook_fetch_row_state(wahook_RowReader *reader, const ItemPointerData *tid);

/* Whether the row in the slot is locked, as far as that can be told without trying. */
extern bool wahook_is_row_locked(const wahook_RowReader *reader);

/* Whether this transaction, which has not committed it yet, has written the row in the slot. */
extern bool wahook_is_row_ours(const wahook_RowReader *reader);

/* Of a row that another transaction is changing, in the slot: whether it is being deleted. */
extern bool wahook_is_being_deleted(const wahook_RowReader *reader);

/* Fetches what it is being changed into, which others can't see yet. False where that is the row itself. */
extern bool wahook_fetch_next_version(wahook_RowReader *reader);
extern bool wahook_try_lock_row(wahook_RowReader *reader);
extern bool wahook_try_lock_row_to_delete(wahook_RowReader *reader);
extern void wahook_close_rows(wahook_RowReader *reader);

/* Between these, wahook_next_row() puts the rows that match into the slot, one after the other. */
extern IndexScanDesc wahook_begin_scan(wahook_RowReader *reader, Snapshot snapshot, ScanKey keys,
									   int nkeys);
extern bool wahook_next_row(wahook_RowReader *reader, IndexScanDesc scan);
extern bool wahook_next_row_to(wahook_RowReader *reader, IndexScanDesc scan,
							   ScanDirection direction);
extern void wahook_end_scan(wahook_RowReader *reader, IndexScanDesc scan);

/* Finds the one row with the given key, the whole of it, that the snapshot shows. */
extern bool wahook_find_row(wahook_RowReader *reader, Snapshot snapshot, ScanKey keys, int nkeys);

/* The same where this session remembers its place, else false. By the columns of the table. */
extern bool wahook_find_noted(wahook_RowReader *reader, Snapshot snapshot, ScanKey keys, int nkeys);

/* Remembers a place. By the columns of the index or of the table, as the row will be looked for. */
extern void wahook_note_row(wahook_RowReader *reader, const ScanKeyData *keys, int nkeys,
							const ItemPointerData *tid);

/* Error 55P03: another transaction is changing this thing, "conversation ..." for one. */
pg_noreturn extern void wahook_raise_busy(const char *what, const char *which);

#endif
