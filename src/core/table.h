/*
 * Writing rows of the extension's tables directly, as replication does: what the executor does for
 * a row, without planning, starting and ending a statement for it. For the hot path only.
 */
#ifndef WAHOOK_TABLE_H
#define WAHOOK_TABLE_H

#include "postgres.h"

#include "access/genam.h"
#include "executor/executor.h"
#include "utils/snapshot.h"

#include "core/row.h"

/* Arrays of values have room for columns that a later version adds. */
#define WAHOOK_MAX_COLUMNS 32

/* So many rows are written at once. */
#define WAHOOK_MAX_ADDED 32

/* What became of a row that was to be inserted where its key is not there already. */
typedef struct wahook_NewRow
{
	bool inserted;
	ItemPointerData placed; /* where it is */
} wahook_NewRow;

typedef struct wahook_Table
{
	wahook_RowReader rows; /* rows.slot: the row that was found last */
	EState *estate;
	bool owns_estate;
	bool speculative;
	ResultRelInfo *info;
	EPQState epq;
	TupleTableSlot *new_row;
	bool update_by_executor; /* a trigger wants to see every update, or a column follows others */
	bool delete_by_executor; /* a trigger wants to see every deletion */
	TupleTableSlot **added;  /* rows that are still to be written; null until there are any */
	int nadded;
	wahook_NewRow *new_rows[WAHOOK_MAX_ADDED]; /* of a table opened for new rows: whom to tell */
	bool first_is_next;                        /* no new row has been added */
	bool new_together;                         /* all that were added were new */
	ItemPointerData placed;                    /* where the row that was inserted last is */
	ExprState **defaults; /* of columns that callers know nothing of; null until needed */
	Oid sequence;         /* name_seq, once it was asked for a value */
	int64 value;          /* what it gave last */
	int64 step;           /* from there to its next value; 0: not looked up */
	int64 nvalues;        /* how many of these numbers are spent */
} wahook_Table;

/* index: the one for look-ups. Error 25006 in a read-only transaction. */
extern void wahook_open_table(wahook_Table *table, const char *name, const char *index);

/* The same with the other's executor state; the other must be closed later. */
extern void wahook_open_table_beside(wahook_Table *table, const wahook_Table *other,
									 const char *name, const char *index);
extern void wahook_close_table(wahook_Table *table);

/* The first n columns are given; others, which users or later versions added, have their defaults. */
extern void wahook_insert_row(wahook_Table *table, const Datum *values, const bool *nulls, int n);

/* The same, but when it pleases, at the latest when the table is closed: many together cost less. */
extern void wahook_add_row(wahook_Table *table, const Datum *values, const bool *nulls, int n);

/*
 * The same where no unique index has the row's key already, else false. Waits while another
 * transaction is inserting that key. For tables opened with wahook_open_table_for_new_rows().
 */
extern bool wahook_insert_new_row(wahook_Table *table, const Datum *values, const bool *nulls,
								  int n);
extern void wahook_open_table_for_new_rows(wahook_Table *table, const char *name,
										   const char *index);

/*
 * The same when it pleases, at the latest in wahook_write_added(): many together cost less. Tells
 * row, which must live until then. The rows are inserted in the order in which they are added.
 */
extern void wahook_add_new_row(wahook_Table *table, const Datum *values, const bool *nulls, int n,
							   wahook_NewRow *row);

/* Writes the rows that were added and are still to be written. */
extern void wahook_write_added(wahook_Table *table);

/*
 * Changes the columns marked in replace of rows.slot, which no constraint may cover; the arrays hold
 * WAHOOK_MAX_COLUMNS. False when another transaction has the row, or has changed it since it was found.
 */
extern bool wahook_update_row(wahook_Table *table, const Datum *values, const bool *nulls,
							  const bool *replace);

/* The same, where the caller has row-locked it. */
extern bool wahook_update_locked_row(wahook_Table *table, const Datum *values, const bool *nulls,
									 const bool *replace);

/*
 * The next value of the table's sequence. Where that goes in steps, the numbers up to its next value
 * are ours, and come first.
 */
extern Datum wahook_next_value(wahook_Table *table);

/* Deletes rows.slot. False when another transaction has it, or has deleted it since. */
extern bool wahook_delete_row(wahook_Table *table);

#endif
