/*
 * Writing rows of the extension's tables directly.
 *
 * A statement through SPI costs some thirty microseconds before it touches a row. Here the
 * relation, its indexes and an executor state are opened once a call, and each row costs what its
 * heap and index changes cost. Constraints are checked and row triggers fire as in a statement,
 * but for triggers on UPDATE OF columns: nothing here says which columns it sets.
 */
#include "core/table.h"

#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "utils/snapmgr.h"

#include "core/compat.h"

void
wahook_open_table(wahook_Table *table, const char *name, const char *index)
{
	wahook_open_rows(&table->rows, name, index, RowExclusiveLock);
	if (RelationGetNumberOfAttributes(table->rows.heap) > WAHOOK_MAX_COLUMNS)
		elog(ERROR, "relation \"%s\" has too many columns", name);
	table->estate = CreateExecutorState();
	table->info = makeNode(ResultRelInfo);
	InitResultRelInfo(table->info, table->rows.heap, 0, NULL, 0);
	ExecOpenIndices(table->info, false);
	table->estate->es_opened_result_relations =
		lappend(table->estate->es_opened_result_relations, table->info);
	table->estate->es_output_cid = GetCurrentCommandId(true);
	wahook_init_epq(&table->epq, table->estate);
	table->new_row = MakeSingleTupleTableSlot(RelationGetDescr(table->rows.heap), &TTSOpsHeapTuple);
	AfterTriggerBeginQuery();
}

/* Also makes what was written visible to the commands that follow. */
void
wahook_close_table(wahook_Table *table)
{
	AfterTriggerEndQuery(table->estate);
	EvalPlanQualEnd(&table->epq);
	ExecDropSingleTupleTableSlot(table->new_row);
	ExecCloseIndices(table->info);
	ExecResetTupleTable(table->estate->es_tupleTable, false);
	FreeExecutorState(table->estate);
	wahook_close_rows(&table->rows);
	CommandCounterIncrement();
}

IndexScanDesc
wahook_begin_scan(wahook_RowReader *rows, Snapshot snapshot, ScanKey keys, int nkeys)
{
	IndexScanDesc scan = wahook_index_beginscan(rows->heap, rows->index, snapshot, nkeys);

	index_rescan(scan, keys, nkeys, NULL, 0);
	return scan;
}

bool
wahook_next_row(wahook_RowReader *rows, IndexScanDesc scan)
{
	return index_getnext_slot(scan, ForwardScanDirection, rows->slot);
}

void
wahook_insert_row(wahook_Table *table, const Datum *values, bool *nulls, int n)
{
	HeapTuple tuple;

	for (int i = n; i < WAHOOK_MAX_COLUMNS; i++)
		nulls[i] = true;
	tuple = heap_form_tuple(RelationGetDescr(table->rows.heap), unconstify(Datum *, values), nulls);
	ExecForceStoreHeapTuple(tuple, table->new_row, true);
	ExecSimpleRelationInsert(table->info, table->estate, table->new_row);
	ExecClearTuple(table->new_row);
	ResetPerTupleExprContext(table->estate);
}

void
wahook_update_row(wahook_Table *table, const Datum *values, const bool *nulls, const bool *replace)
{
	HeapTuple old = ExecFetchSlotHeapTuple(table->rows.slot, false, NULL);
	HeapTuple tuple =
		heap_modify_tuple(old, RelationGetDescr(table->rows.heap), unconstify(Datum *, values),
						  unconstify(bool *, nulls), unconstify(bool *, replace));

	ExecForceStoreHeapTuple(tuple, table->new_row, true);
	ExecSimpleRelationUpdate(table->info, table->estate, &table->epq, table->rows.slot,
							 table->new_row);
	ExecClearTuple(table->new_row);
	ResetPerTupleExprContext(table->estate);
}

bool
wahook_delete_row(wahook_Table *table)
{
	TM_FailureData failure;

	return table_tuple_delete(table->rows.heap, &table->rows.slot->tts_tid,
							  GetCurrentCommandId(true), InvalidSnapshot, InvalidSnapshot, false,
							  &failure, false) == TM_Ok;
}
