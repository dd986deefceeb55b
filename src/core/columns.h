/*
 * Columns of values for statements that take a whole delivery at once: an array a column.
 */
#ifndef WAHOOK_COLUMNS_H
#define WAHOOK_COLUMNS_H

#include "postgres.h"

#include "utils/uuid.h"

/* Room for n values of a type. Add in order; finish gives the array. */
typedef struct wahook_Column
{
	Oid type;
	int n;
	Datum *values;
	bool *nulls;
} wahook_Column;

extern void wahook_start_column(wahook_Column *column, Oid type, int max);
extern void wahook_add_value(wahook_Column *column, Datum value, bool isnull);
extern void wahook_add_text(wahook_Column *column, const char *value);
extern void wahook_add_uuid(wahook_Column *column, const pg_uuid_t *value);
extern Datum wahook_finish_column(wahook_Column *column);

#endif
