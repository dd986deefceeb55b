/*
 * What those who write rows share: core/table.c and core/insert.c.
 */
#ifndef WAHOOK_TABLE_INTERNAL_H
#define WAHOOK_TABLE_INTERNAL_H

#include "core/table.h"

/* All of the table's indexes, which a HOT update or a deletion does without. */
extern void wahook_open_indexes(wahook_Table *table);

/*
 * Before a call into the executor. What it keeps between rows, the triggers' functions among it,
 * must live as long as its state, whatever context the caller works in. Returns that context.
 */
extern MemoryContext wahook_enter_executor(wahook_Table *table);

/* The same, with a slot for the row that is written. */
extern MemoryContext wahook_enter_to_write(wahook_Table *table);
extern void wahook_leave_executor(wahook_Table *table, MemoryContext caller);

#endif
