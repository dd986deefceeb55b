/*
 * Columns of values for statements that take a whole delivery at once.
 */
#include "core/columns.h"

#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

void
wahook_start_column(wahook_Column *column, Oid type, int max)
{
	column->type = type;
	column->n = 0;
	column->values = palloc_array(Datum, Max(max, 1));
	column->nulls = palloc_array(bool, Max(max, 1));
}

void
wahook_add_value(wahook_Column *column, Datum value, bool isnull)
{
	column->values[column->n] = value;
	column->nulls[column->n++] = isnull;
}

/* A null pointer is a null. */
void
wahook_add_text(wahook_Column *column, const char *value)
{
	wahook_add_value(column, value ? CStringGetTextDatum(value) : (Datum) 0, value == NULL);
}

/* The uuid must live until the column is finished. A null pointer is a null. */
void
wahook_add_uuid(wahook_Column *column, const pg_uuid_t *value)
{
	wahook_add_value(column, value ? UUIDPGetDatum(value) : (Datum) 0, value == NULL);
}

Datum
wahook_finish_column(wahook_Column *column)
{
	int lower = 1;
	int16 typlen;
	bool typbyval;
	char typalign;

	get_typlenbyvalalign(column->type, &typlen, &typbyval, &typalign);
	return PointerGetDatum(construct_md_array(column->values, column->nulls, 1, &column->n, &lower,
											  column->type, typlen, typbyval, typalign));
}
