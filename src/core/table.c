/*
 * Writing rows of the extension's tables directly.
 *
 * A statement through SPI costs some thirty microseconds before it touches a row. Here the
 * relation, its indexes and an executor state are opened once a call, and each row costs what its
 * heap and index changes cost. Row triggers fire as in a statement, but for those on UPDATE OF
 * columns; statement triggers do not.
 */
#include "core/table_internal.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_sequence.h"
#include "catalog/pg_trigger.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/syscache.h"

#include "core/compat.h"
#include "core/plan.h"

/*
 * Triggers on UPDATE OF columns are the extension's own, or want columns that nothing here changes;
 * so do those of foreign keys. Any other must see each update.
 */
static bool
has_update_triggers(const TriggerDesc *triggers)
{
	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (TRIGGER_FOR_UPDATE(trigger->tgtype) && TRIGGER_FOR_ROW(trigger->tgtype) &&
			!trigger->tgisinternal && trigger->tgnattr == 0)
			return true;
	}
	return false;
}

static void
open_table(wahook_Table *table, const wahook_Table *other, const char *name, const char *index,
		   bool speculative)
{
	const TriggerDesc *triggers;
	const TupleConstr *constraints;

	if (XactReadOnly)
		PreventCommandIfReadOnly(psprintf("a write to %s", name));
	wahook_open_rows(&table->rows, name, index, RowExclusiveLock);
	if (RelationGetNumberOfAttributes(table->rows.heap) > WAHOOK_MAX_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("table \"%s\" has too many columns", name),
				 errdetail("It has %d, dropped ones included; wahook writes rows of at most %d.",
						   RelationGetNumberOfAttributes(table->rows.heap), WAHOOK_MAX_COLUMNS),
				 errhint("Keep columns of your own in a table of your own.")));
	table->owns_estate = other == NULL;
	table->estate = other ? other->estate : CreateExecutorState();
	table->speculative = speculative;
	table->info = makeNode(ResultRelInfo);
	InitResultRelInfo(table->info, table->rows.heap, 0, NULL, 0);
	table->estate->es_opened_result_relations =
		lappend(table->estate->es_opened_result_relations, table->info);
	table->new_row = NULL;
	triggers = table->rows.heap->trigdesc;
	constraints = RelationGetDescr(table->rows.heap)->constr;
	table->update_by_executor =
		has_update_triggers(triggers) || (constraints && constraints->has_generated_stored);
	table->delete_by_executor =
		triggers && (triggers->trig_delete_before_row || triggers->trig_delete_after_row);
	if (table->update_by_executor || table->delete_by_executor)
		wahook_init_epq(&table->epq, table->estate);
	table->added = NULL;
	table->nadded = 0;
	table->first_is_next = true;
	table->new_together = false;
	table->defaults = NULL;
	table->sequence = InvalidOid;
	AfterTriggerBeginQuery();
}

void
wahook_open_table(wahook_Table *table, const char *name, const char *index)
{
	open_table(table, NULL, name, index, false);
}

void
wahook_open_table_beside(wahook_Table *table, const wahook_Table *other, const char *name,
						 const char *index)
{
	open_table(table, other, name, index, false);
}

void
wahook_open_table_for_new_rows(wahook_Table *table, const char *name, const char *index)
{
	open_table(table, NULL, name, index, true);
}

void
wahook_open_indexes(wahook_Table *table)
{
	if (table->info->ri_IndexRelationDescs == NULL)
		ExecOpenIndices(table->info, table->speculative);
}

/* As the executor does, but their locks are kept to the end of the transaction, like the table's. */
static void
close_indexes(ResultRelInfo *info)
{
	for (int i = 0; i < info->ri_NumIndices; i++)
	{
		wahook_index_insert_cleanup(info->ri_IndexRelationDescs[i], info->ri_IndexRelationInfo[i]);
		index_close(info->ri_IndexRelationDescs[i], NoLock);
	}
	info->ri_NumIndices = 0;
}

MemoryContext
wahook_enter_executor(wahook_Table *table)
{
	table->estate->es_output_cid = GetCurrentCommandId(true);
	return MemoryContextSwitchTo(table->estate->es_query_cxt);
}

MemoryContext
wahook_enter_to_write(wahook_Table *table)
{
	MemoryContext caller = wahook_enter_executor(table);

	if (table->new_row == NULL)
		table->new_row =
			MakeSingleTupleTableSlot(RelationGetDescr(table->rows.heap), &TTSOpsHeapTuple);
	return caller;
}

void
wahook_leave_executor(wahook_Table *table, MemoryContext caller)
{
	MemoryContextSwitchTo(caller);
	if (table->new_row != NULL)
		ExecClearTuple(table->new_row);
	ResetPerTupleExprContext(table->estate);
}

/* wait: for whoever has the row; where the caller has row-locked it, there is nobody. */
static TM_Result
try_update(wahook_Table *table, bool wait)
{
	wahook_UpdateIndexes update_indexes;
	TM_FailureData failure;
	LockTupleMode lockmode;
	TM_Result result =
		table_tuple_update(table->rows.heap, &table->rows.slot->tts_tid, table->new_row,
						   GetCurrentCommandId(true), InvalidSnapshot, InvalidSnapshot, wait,
						   &failure, &lockmode, &update_indexes);

	if (result == TM_Ok && wahook_has_index_updates(update_indexes))
	{
		wahook_open_indexes(table);
		wahook_insert_index_tuples(table->info, table->new_row, table->estate, update_indexes);
	}
	return result;
}

/*
 * A row that nobody has is updated at once. heapam.c refuses one that somebody has, but it asserts
 * that whoever updates would wait; and it refuses also where only the key is locked, which a row
 * lock gets along with. So then, and where assertions are checked, the row is locked first.
 */
static bool
update(wahook_Table *table, bool locked)
{
	TM_Result result = TM_BeingModified;

	if (table->update_by_executor)
	{
		if (!locked && !wahook_try_lock_row(&table->rows))
			return false;
		wahook_open_indexes(table);
		ExecSimpleRelationUpdate(table->info, table->estate, &table->epq, table->rows.slot,
								 table->new_row);
		return true;
	}
#ifndef USE_ASSERT_CHECKING
	if (!locked)
		result = try_update(table, false);
#endif
	if (result == TM_BeingModified && (locked || wahook_try_lock_row(&table->rows)))
		result = try_update(table, true);
	return result == TM_Ok;
}

static bool
modify_and_update(wahook_Table *table, const Datum *values, const bool *nulls, const bool *replace,
				  bool locked)
{
	MemoryContext caller = wahook_enter_to_write(table);
	HeapTuple old = ExecFetchSlotHeapTuple(table->rows.slot, false, NULL);
	HeapTuple tuple =
		heap_modify_tuple(old, RelationGetDescr(table->rows.heap), unconstify(Datum *, values),
						  unconstify(bool *, nulls), unconstify(bool *, replace));
	bool updated;

	ExecForceStoreHeapTuple(tuple, table->new_row, true);
	updated = update(table, locked);
	wahook_leave_executor(table, caller);
	return updated;
}

bool
wahook_update_locked_row(wahook_Table *table, const Datum *values, const bool *nulls,
						 const bool *replace)
{
	return modify_and_update(table, values, nulls, replace, true);
}

bool
wahook_update_row(wahook_Table *table, const Datum *values, const bool *nulls, const bool *replace)
{
	return modify_and_update(table, values, nulls, replace, false);
}

static int64
step_of(Oid sequence)
{
	HeapTuple tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(sequence));
	int64 step;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for sequence %u", sequence);
	step = ((Form_pg_sequence) GETSTRUCT(tuple))->seqincrement;
	ReleaseSysCache(tuple);
	return step;
}

/* What the step is only matters to the second row. */
static bool
has_value_left(wahook_Table *table)
{
	if (table->step == 0)
		table->step = step_of(table->sequence);
	return table->nvalues < table->step;
}

Datum
wahook_next_value(wahook_Table *table)
{
	if (!OidIsValid(table->sequence))
	{
		char *name = psprintf("%s_seq", RelationGetRelationName(table->rows.heap));

		table->sequence = wahook_relation(name);
		table->step = 0;
		pfree(name);
	}
	else if (has_value_left(table))
		return Int64GetDatum(table->value + table->nvalues++);
	table->value = nextval_internal(table->sequence, false);
	table->nvalues = 1;
	return Int64GetDatum(table->value);
}

static TM_Result
try_delete(wahook_Table *table, bool wait)
{
	TM_FailureData failure;

	return table_tuple_delete(table->rows.heap, &table->rows.slot->tts_tid,
							  GetCurrentCommandId(true), InvalidSnapshot, InvalidSnapshot, wait,
							  &failure, false);
}

static bool
delete_by_executor(wahook_Table *table)
{
	MemoryContext caller;

	if (!wahook_try_lock_row_to_delete(&table->rows))
		return false;
	caller = wahook_enter_executor(table);
	ExecSimpleRelationDelete(table->info, table->estate, &table->epq, table->rows.slot);
	wahook_leave_executor(table, caller);
	return true;
}

bool
wahook_delete_row(wahook_Table *table)
{
	TM_Result result;

	if (table->delete_by_executor)
		return delete_by_executor(table);
	result = try_delete(table, false);
	if (result == TM_BeingModified && wahook_try_lock_row_to_delete(&table->rows))
		result = try_delete(table, true);
	return result == TM_Ok;
}

/*
 * Fires the AFTER triggers, also those of tables that were opened before this one and are still
 * open, and makes what was written visible to the commands that follow.
 */
void
wahook_close_table(wahook_Table *table)
{
	EState *estate = table->estate;

	wahook_write_added(table);
	for (int i = 0; table->added && i < WAHOOK_MAX_ADDED && table->added[i]; i++)
		ExecDropSingleTupleTableSlot(table->added[i]);
	AfterTriggerEndQuery(estate);
	if (table->update_by_executor || table->delete_by_executor)
		EvalPlanQualEnd(&table->epq);
	if (table->new_row != NULL)
		ExecDropSingleTupleTableSlot(table->new_row);
	close_indexes(table->info);
	if (table->owns_estate)
	{
		ExecCloseResultRelations(estate);
		ExecResetTupleTable(estate->es_tupleTable, false);
		FreeExecutorState(estate);
	}
	else
		estate->es_opened_result_relations =
			list_delete_ptr(estate->es_opened_result_relations, table->info);
	wahook_close_rows(&table->rows);
	CommandCounterIncrement();
}
