/*
 * Discarding dead letters: they are resolved without being processed. In C only because the triggers
 * count what was discarded apart from what was processed.
 */
#include "retry/entry.h"

#include "catalog/pg_type.h"
#include "fmgr.h"

#include "core/compat.h"

PG_FUNCTION_INFO_V1(wahook_discard_dead_letters);

static wahook_Plan discard_plan =
	{"WITH chosen AS ("
	 "SELECT id FROM @extschema@.webhook_dlq WHERE resolution_status IN ('pending', 'failed')"
	 " AND ($1 IS NULL OR service = $1) AND ($2 IS NULL OR error LIKE $2)"
	 " AND ($3 IS NULL OR created_at >= $3)"
	 " ORDER BY created_at LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED)"
	 " UPDATE @extschema@.webhook_dlq AS d SET resolution_status = 'resolved',"
	 " processed_at = clock_timestamp(), updated_at = clock_timestamp()"
	 " FROM chosen WHERE d.id = chosen.id",
	 4,
	 {TEXTOID, TEXTOID, TIMESTAMPTZOID, INT8OID}};

/* discard_dead_letters(p_service, p_error_like, p_since, p_limit) → integer: how many */
Datum
wahook_discard_dead_letters(PG_FUNCTION_ARGS)
{
	Datum values[4];
	char nulls[] = "    ";
	int discarded;

	for (int i = 0; i < 4; i++)
	{
		values[i] = fcinfo->args[i].value;
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	if (!PG_ARGISNULL(3))
		values[3] = Int64GetDatum(PG_GETARG_INT32(3));
	wahook_begin(fcinfo);
	discarded = (int) wahook_execute_discarding(&discard_plan, values, nulls);
	wahook_end();
	PG_RETURN_INT32(discarded);
}
