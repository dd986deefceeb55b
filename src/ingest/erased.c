/*
 * Messages whose sender has been erased since they were accepted.
 *
 * Meta repeats deliveries for days. What tells that a message is known is its id, and that has the
 * sender's phone number in it; so of erased ones a hash of the id is kept (monitor/erase.sql). Where
 * nobody has been erased within the retention, nothing is looked up.
 */
#include "ingest/erased.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "core/columns.h"
#include "core/plan.h"
#include "ingest/config.h"

static wahook_Plan erased_plan =
	{"SELECT m.n::integer FROM unnest($1) WITH ORDINALITY AS m (hash, n)"
	 " JOIN @extschema@.webhook_erased_messages e ON e.id_hash = m.hash",
	 1,
	 {BYTEAARRAYOID}};

int
wahook_set_erased_apart(wahook_Outcome **messages, int n)
{
	wahook_Outcome **erased;
	wahook_Column hashes;
	Datum values[1];
	uint64 found;
	int nleft = 0;
	int nerased = 0;

	if (!wahook_config()->has_erased)
		return n;
	wahook_start_column(&hashes, BYTEAOID, n);
	for (int i = 0; i < n; i++)
		wahook_add_value(&hashes,
						 DirectFunctionCall1(sha256_bytea,
											 CStringGetTextDatum(messages[i]->update->id)),
						 false);
	values[0] = wahook_finish_column(&hashes);
	found = wahook_execute(&erased_plan, values, NULL);
	if (found == 0)
		return n;
	for (uint64 i = 0; i < found; i++)
	{
		bool isnull;

		messages[DatumGetInt32(wahook_result(i, 1, &isnull)) - 1]->outcome = "duplicate";
	}
	erased = palloc_array(wahook_Outcome *, n);
	for (int i = 0; i < n; i++)
	{
		if (messages[i]->outcome == NULL)
			messages[nleft++] = messages[i];
		else
			erased[nerased++] = messages[i];
	}
	memcpy(&messages[nleft], erased, sizeof(wahook_Outcome *) * nerased);
	return nleft;
}
