/*
 * Inserting rows of the extension's tables directly, one by one or many together, and those whose
 * keys may be there already.
 *
 * New rows, in the sense of this file, are inserted unless a unique index has their key. One alone
 * is inserted as INSERT ... ON CONFLICT DO NOTHING does it: on trial, with a record of the log for
 * the row and one more for its confirmation. Many are written to pages at once, as COPY does, in a
 * subtransaction. When a key turns out to be there, all of them are rolled back and inserted one by
 * one: only then does anybody wait. Rows that we deleted again instead would not do. Until our
 * transaction ends they are in the way of everybody else with that key, and two sessions, each with
 * such a row, would wait for each other when the one that had come first rolls back.
 */
#include "core/table_internal.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "commands/trigger.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "core/compat.h"

/*
 * Whether to look for a conflict before inserting. That costs as much as an index insertion or two,
 * so it is done only where the row before was a repetition: they come in deliveries that were here
 * before.
 */
static bool look_first = false;

/* The default of a column; null where it has none, or is computed from others. */
static Datum
default_value(wahook_Table *table, int column, bool *isnull)
{
	Relation heap = table->rows.heap;
	Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(heap), column);

	*isnull = true;
	if (attribute->attisdropped || attribute->attgenerated)
		return (Datum) 0;
	if (table->defaults == NULL)
		table->defaults = MemoryContextAllocZero(table->estate->es_query_cxt,
												 WAHOOK_MAX_COLUMNS * sizeof(ExprState *));
	if (table->defaults[column] == NULL)
	{
		Expr *expression = (Expr *) build_column_default(heap, column + 1);

		if (expression == NULL)
			return (Datum) 0;
		table->defaults[column] = ExecPrepareExpr(expression, table->estate);
	}
	return ExecEvalExprSwitchContext(table->defaults[column], GetPerTupleExprContext(table->estate),
									 isnull);
}

static void
form_row(wahook_Table *table, TupleTableSlot *slot, const Datum *values, const bool *nulls, int n)
{
	TupleDesc desc = RelationGetDescr(table->rows.heap);
	Datum all_values[WAHOOK_MAX_COLUMNS];
	bool all_nulls[WAHOOK_MAX_COLUMNS];

	memcpy(all_values, values, n * sizeof(Datum));
	memcpy(all_nulls, nulls, n * sizeof(bool));
	for (int i = n; i < desc->natts; i++)
		all_values[i] = default_value(table, i, &all_nulls[i]);
	ExecForceStoreHeapTuple(heap_form_tuple(desc, all_values, all_nulls), slot, true);
}

void
wahook_insert_row(wahook_Table *table, const Datum *values, const bool *nulls, int n)
{
	MemoryContext caller = wahook_enter_to_write(table);

	wahook_open_indexes(table);
	form_row(table, table->new_row, values, nulls, n);
	ExecSimpleRelationInsert(table->info, table->estate, table->new_row);
	table->placed = table->new_row->tts_tid;
	wahook_leave_executor(table, caller);
}

/* A deferrable constraint tells of a conflict later; the executor refuses to look for one in it. */
static bool
has_conflict(wahook_Table *table, TupleTableSlot *row)
{
	List *indexes = NIL;
	ItemPointerData other;
	bool conflict;

	for (int i = 0; i < table->info->ri_NumIndices; i++)
	{
		const FormData_pg_index *index = table->info->ri_IndexRelationDescs[i]->rd_index;

		if (index->indimmediate)
			indexes = lappend_oid(indexes, index->indexrelid);
	}
	ItemPointerSetInvalid(&other);
	conflict = !wahook_check_unique(table->info, row, table->estate, &other, indexes);
	list_free(indexes);
	return conflict;
}

/* What INSERT ... ON CONFLICT DO NOTHING does: insert tentatively, and take it back on a conflict. */
static bool
insert_speculatively(wahook_Table *table, TupleTableSlot *row)
{
	Relation heap = table->rows.heap;
	TransactionId xid = GetCurrentTransactionId();
	List *recheck;
	bool conflict;

	do
	{
		uint32 token;

		if (look_first && has_conflict(table, row))
			return false;
		conflict = false;
		token = SpeculativeInsertionLockAcquire(xid);
		table_tuple_insert_speculative(heap, row, GetCurrentCommandId(true), 0, NULL, token);
		recheck = wahook_insert_new_index_tuples(table->info, row, table->estate, &conflict);
		table_tuple_complete_speculative(heap, row, token, !conflict);
		SpeculativeInsertionLockRelease(xid);
		look_first = conflict;
	} while (conflict);
	ExecARInsertTriggers(table->estate, table->info, row, recheck, NULL);
	return true;
}

/* What holds for every row of the table, whichever way it is inserted. */
static void
check_row(wahook_Table *table, TupleTableSlot *slot)
{
	const TupleConstr *constraints = RelationGetDescr(table->rows.heap)->constr;

	if (constraints == NULL)
		return;
	if (constraints->has_generated_stored)
		ExecComputeStoredGenerated(table->info, table->estate, slot, CMD_INSERT);
	ExecConstraints(table->info, slot, table->estate);
}

/* Such a trigger wants to see the rows before it. */
static bool
has_before_trigger(const wahook_Table *table)
{
	const TriggerDesc *triggers = table->rows.heap->trigdesc;

	return triggers != NULL && triggers->trig_insert_before_row;
}

bool
wahook_insert_new_row(wahook_Table *table, const Datum *values, const bool *nulls, int n)
{
	MemoryContext caller = wahook_enter_to_write(table);
	bool inserted = false;

	wahook_open_indexes(table);
	form_row(table, table->new_row, values, nulls, n);
	if (!has_before_trigger(table) ||
		ExecBRInsertTriggers(table->estate, table->info, table->new_row))
	{
		check_row(table, table->new_row);
		inserted = insert_speculatively(table, table->new_row);
	}
	table->placed = table->new_row->tts_tid;
	wahook_leave_executor(table, caller);
	return inserted;
}

/* An empty slot, of those that are kept until the table is closed. */
static TupleTableSlot *
next_added(wahook_Table *table)
{
	if (table->added == NULL)
		table->added = palloc0_array(TupleTableSlot *, WAHOOK_MAX_ADDED);
	if (table->added[table->nadded] == NULL)
		table->added[table->nadded] =
			MakeSingleTupleTableSlot(RelationGetDescr(table->rows.heap), &TTSOpsHeapTuple);
	return table->added[table->nadded++];
}

/* Keeps a row that is to be written together with others. */
static void
keep_row(wahook_Table *table, const Datum *values, const bool *nulls, int n)
{
	MemoryContext caller;
	TupleTableSlot *row;

	if (table->nadded == WAHOOK_MAX_ADDED)
		wahook_write_added(table);
	caller = wahook_enter_executor(table);
	row = next_added(table);
	form_row(table, row, values, nulls, n);
	check_row(table, row);
	MemoryContextSwitchTo(caller);
	ResetPerTupleExprContext(table->estate);
}

void
wahook_add_row(wahook_Table *table, const Datum *values, const bool *nulls, int n)
{
	if (has_before_trigger(table))
		wahook_insert_row(table, values, nulls, n);
	else
		keep_row(table, values, nulls, n);
}

/*
 * The first row of a call is inserted alone: it tells a delivery that was here before, and such a
 * one is to leave nothing dead behind. So do all from the first that meets its key among others.
 */
void
wahook_add_new_row(wahook_Table *table, const Datum *values, const bool *nulls, int n,
				   wahook_NewRow *row)
{
	if (table->nadded == WAHOOK_MAX_ADDED)
		wahook_write_added(table);
	if (!table->new_together || has_before_trigger(table))
	{
		row->inserted = wahook_insert_new_row(table, values, nulls, n);
		row->placed = table->placed;
		table->new_together = table->first_is_next && row->inserted;
		table->first_is_next = false;
		return;
	}
	keep_row(table, values, nulls, n);
	table->new_rows[table->nadded - 1] = row;
}

/* What COPY does. Their pages are looked for, locked and logged once for all that fit. */
static void
insert_together(wahook_Table *table)
{
	if (table->nadded == 1)
		table_tuple_insert(table->rows.heap, table->added[0], GetCurrentCommandId(true), 0, NULL);
	else
		table_multi_insert(table->rows.heap, table->added, table->nadded, GetCurrentCommandId(true),
						   0, NULL);
}

/*
 * Whether two rows are the same to a BRIN index. Its option does not tell how many pages a range
 * has: it may have been changed since the index was built.
 */
static bool
is_summarized(const IndexInfo *info, TupleTableSlot *before, TupleTableSlot *row)
{
	/* The one before may not have been for it. */
	if (info->ii_Predicate != NIL)
		return false;
	if (ItemPointerGetBlockNumber(&before->tts_tid) != ItemPointerGetBlockNumber(&row->tts_tid))
		return false;
	for (int i = 0; i < info->ii_NumIndexAttrs; i++)
	{
		int attnum = info->ii_IndexAttrNumbers[i];
		Form_pg_attribute attribute;
		bool null_before;
		bool null;
		Datum value_before;
		Datum value;

		if (attnum <= 0)
			return false;
		attribute = TupleDescAttr(row->tts_tupleDescriptor, attnum - 1);
		value_before = slot_getattr(before, attnum, &null_before);
		value = slot_getattr(row, attnum, &null);
		if (null_before || null ||
			!datumIsEqual(value_before, value, attribute->attbyval, attribute->attlen))
			return false;
	}
	return true;
}

/*
 * Rows that are written together have their times in common. A BRIN index, which knows ranges of
 * pages, is told of the first row on a page and passes over the others. before: null for the first.
 */
static void
choose_indexes(wahook_Table *table, TupleTableSlot *before, TupleTableSlot *row)
{
	for (int i = 0; i < table->info->ri_NumIndices; i++)
	{
		Relation index = table->info->ri_IndexRelationDescs[i];
		IndexInfo *info = table->info->ri_IndexRelationInfo[i];

		if (index->rd_rel->relam == BRIN_AM_OID)
			info->ii_ReadyForInserts = index->rd_index->indisready &&
									   (before == NULL || !is_summarized(info, before, row));
	}
}

static void
write_rows(wahook_Table *table)
{
	insert_together(table);
	for (int i = 0; i < table->nadded; i++)
	{
		TupleTableSlot *row = table->added[i];
		List *recheck;

		choose_indexes(table, i > 0 ? table->added[i - 1] : NULL, row);
		recheck = wahook_insert_all_index_tuples(table->info, row, table->estate);

		ExecARInsertTriggers(table->estate, table->info, row, recheck, NULL);
		list_free(recheck);
		ResetPerTupleExprContext(table->estate);
	}
}

/* Returns how many rows there are before the first whose key is there already. */
static int
try_together(wahook_Table *table, List **rechecks)
{
	insert_together(table);
	for (int i = 0; i < table->nadded; i++)
	{
		bool conflict = false;

		choose_indexes(table, i > 0 ? table->added[i - 1] : NULL, table->added[i]);
		rechecks[i] =
			wahook_insert_new_index_tuples(table->info, table->added[i], table->estate, &conflict);
		ResetPerTupleExprContext(table->estate);
		if (conflict)
			return i;
	}
	return table->nadded;
}

/*
 * Those who wait for a row wait for the lock on the transaction id in it. That of a subtransaction
 * is let go when it ends well, and from then on they would wait for the end of the whole, even where
 * the row is rolled back to a savepoint. So its lock is taken once more, for as long as the caller's
 * subtransaction has what it did.
 */
static void
keep_xid_lock(ResourceOwner keeper)
{
	ResourceOwner owner = CurrentResourceOwner;

	CurrentResourceOwner = keeper;
	XactLockTableInsert(GetCurrentTransactionId());
	CurrentResourceOwner = owner;
}

/*
 * The same in a subtransaction, which leaves none of the rows unless all are new. What the indexes
 * keep from row to row belongs to the caller. An error must not leave the subtransaction behind: who
 * catches it, a block in PL/pgSQL for one, would roll back that instead of its own.
 */
static int
try_in_subtransaction(wahook_Table *table, List **rechecks)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ResourceOwner keeper = CurTransactionResourceOwner;
	volatile int nnew = 0;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	PG_TRY();
	{
		nnew = try_together(table, rechecks);
		if (nnew == table->nadded)
		{
			keep_xid_lock(keeper);
			ReleaseCurrentSubTransaction();
		}
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		ReThrowError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return nnew;
}

/*
 * When a transaction has more subtransactions than are kept in shared memory, all snapshots of the
 * server cost more. Half of the room is left to others.
 */
static bool
has_room_for_subtransaction(void)
{
	return !MyProc->subxidStatus.overflowed &&
		   MyProc->subxidStatus.count < PGPROC_MAX_CACHED_SUBXIDS / 2;
}

static void
write_new_rows(wahook_Table *table)
{
	List *rechecks[WAHOOK_MAX_ADDED] = {NIL};
	int nnew = -1;
	bool together;

	if (table->nadded > 1 && has_room_for_subtransaction())
		nnew = try_in_subtransaction(table, rechecks);
	together = nnew == table->nadded;
	choose_indexes(table, NULL, NULL);
	for (int i = 0; i < table->nadded; i++)
	{
		TupleTableSlot *row = table->added[i];

		CHECK_FOR_INTERRUPTS();
		if (i == nnew)
			look_first = true;
		table->new_rows[i]->inserted = together || insert_speculatively(table, row);
		table->new_rows[i]->placed = row->tts_tid;
		if (together)
			ExecARInsertTriggers(table->estate, table->info, row, rechecks[i], NULL);
		ResetPerTupleExprContext(table->estate);
	}
	table->new_together = together;
}

void
wahook_write_added(wahook_Table *table)
{
	MemoryContext caller;

	if (table->nadded == 0)
		return;
	caller = wahook_enter_executor(table);
	wahook_open_indexes(table);
	if (table->speculative)
		write_new_rows(table);
	else
		write_rows(table);
	for (int i = 0; i < table->nadded; i++)
		ExecClearTuple(table->added[i]);
	choose_indexes(table, NULL, NULL);
	table->nadded = 0;
	MemoryContextSwitchTo(caller);
}
