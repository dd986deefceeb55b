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
#include "utils/inval.h"

#include "core/columns.h"
#include "core/plan.h"
#include "ingest/config.h"

static wahook_Plan erased_plan =
	{"SELECT m.n::integer FROM unnest($1) WITH ORDINALITY AS m (hash, n)"
	 " JOIN @extschema@.webhook_erased_messages e ON e.id_hash = m.hash",
	 1,
	 {BYTEAARRAYOID}};

/* Looks them up; the places of those that were erased are results of the plan. */
static uint64
look_up(wahook_Outcome *const *messages, int n)
{
	wahook_Column hashes;
	Datum values[1];

	wahook_start_column(&hashes, BYTEAOID, n);
	for (int i = 0; i < n; i++)
	{
		Datum id = CStringGetTextDatum(messages[i]->update->id);

		wahook_add_value(&hashes, DirectFunctionCall1(sha256_bytea, id), false);
	}
	values[0] = wahook_finish_column(&hashes);
	return wahook_execute(&erased_plan, values, NULL);
}

static wahook_Outcome *
found(wahook_Outcome *const *messages, uint64 row)
{
	bool isnull;

	return messages[DatumGetInt32(wahook_result(row, 1, &isnull)) - 1];
}

int
wahook_set_erased_apart(wahook_Outcome **messages, int n)
{
	uint64 rows;

	if (!wahook_config()->has_erased)
		return n;
	rows = look_up(messages, n);
	if (rows == 0)
		return n;
	for (uint64 i = 0; i < rows; i++)
		found(messages, i)->outcome = "duplicate";
	return wahook_set_decided_apart(messages, n);
}

void
wahook_refuse_erased(wahook_Outcome *const *messages, int n)
{
	uint64 rows;

	AcceptInvalidationMessages();
	if (!wahook_config()->has_erased)
		return;
	rows = look_up(messages, n);
	for (uint64 i = 0; i < rows; i++)
		if (found(messages, i)->accepted)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("a message of the delivery has just been erased with its sender"),
					 errdetail("erase_webhook_user() committed while this call waited for it."),
					 errhint("Deliver it again: now it is known.")));
}
