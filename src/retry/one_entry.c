/*
 * One entry a message, whichever way it is added.
 *
 * First-generation callers insert an entry again each time a message fails. Such a plain insert
 * takes the place of the entry that is there, and keeps its id and created_at. INSERT ... ON
 * CONFLICT DO UPDATE is left to PostgreSQL. A row trigger is not told which of the two it runs
 * under, but for the second PostgreSQL fires the BEFORE UPDATE statement triggers right after the
 * BEFORE INSERT ones, before any row: so statement triggers take note of it. ON CONFLICT DO
 * NOTHING can't be told from a plain insert, and replaces the entry too.
 */
#include "retry/entry.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"

#include "core/compat.h"
#include "core/name_lock.h"
#include "core/row.h"

/*
 * A restore or another bulk load must not fill the shared lock table. Past this many messages in a
 * transaction, two transactions that add the same one can meet in the unique index instead.
 */
#define MAX_MESSAGE_LOCKS 256

/* An INSERT ... ON CONFLICT DO UPDATE that is being executed; it lives in its query's memory. */
typedef struct Upsert
{
	MemoryContext query;
	MemoryContextCallback at_end;
	struct Upsert *outer;
} Upsert;

static Upsert *upserts = NULL;
static MemoryContext inserting_query = NULL;

PG_FUNCTION_INFO_V1(wahook_dlq_note_statement);

static wahook_Plan replace_plan =
	{"DELETE FROM @extschema@.webhook_dlq WHERE whatsapp_message_id = $1 RETURNING id, created_at",
	 1,
	 {TEXTOID}};

/* Called when the memory of the query goes, however it ended. */
static void
forget_upsert(void *arg)
{
	Upsert **link = &upserts;

	while (*link != NULL && *link != arg)
		link = &(*link)->outer;
	if (*link != NULL)
		*link = (*link)->outer;
}

/* The function of both statement triggers. It touches no table and needs no rights. */
Datum
wahook_dlq_note_statement(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	MemoryContext query = fcinfo->flinfo->fn_mcxt;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("function \"%s\" must be called as a statement trigger",
							   "webhook_dlq_note_statement"),
						errhint("Write a function of your own for a trigger of your own.")));
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		inserting_query = query;
	else if (query == inserting_query)
	{
		Upsert *upsert = MemoryContextAlloc(query, sizeof(Upsert));

		upsert->query = query;
		upsert->outer = upserts;
		upsert->at_end.func = forget_upsert;
		upsert->at_end.arg = upsert;
		MemoryContextRegisterResetCallback(query, &upsert->at_end);
		upserts = upsert;
		inserting_query = NULL;
	}
	return PointerGetDatum(NULL);
}

static bool
is_upsert(MemoryContext query)
{
	for (Upsert *upsert = upserts; upsert != NULL; upsert = upsert->outer)
		if (upsert->query == query)
			return true;
	return false;
}

/*
 * Locks the message's place in the dead letter queue, whether it has an entry or not, until the
 * transaction ends. False when others have it and wait is false.
 */
bool
wahook_lock_message(Datum message_id, bool wait)
{
	static TransactionId counted_in = InvalidTransactionId;
	static int count;
	TransactionId current = GetTopTransactionId();
	text *key = DatumGetTextPP(message_id);

	if (counted_in != current)
	{
		counted_in = current;
		count = 0;
	}
	if (count >= MAX_MESSAGE_LOCKS)
		return true;
	if (!wahook_lock_name(WAHOOK_LOCK_MESSAGE, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), wait))
		return false;
	count++;
	return true;
}

/*
 * For the row trigger, before a row is inserted: makes sure that the message has no other entry,
 * unless the statement says itself what is to happen then.
 */
void
wahook_add_entry(FunctionCallInfo fcinfo, Datum *values, const bool *nulls)
{
	Datum message_id = values[Anum_dlq_whatsapp_message_id - 1];
	bool isnull;

	if (nulls[Anum_dlq_whatsapp_message_id - 1])
		return;
	(void) wahook_lock_message(message_id, true);
	if (is_upsert(fcinfo->flinfo->fn_mcxt))
		return;
	if (wahook_execute_settled(&replace_plan, &message_id, NULL) > 0)
	{
		values[Anum_dlq_id - 1] = wahook_result(0, 1, &isnull);
		values[Anum_dlq_created_at - 1] = wahook_result(0, 2, &isnull);
	}
}

wahook_Hold
wahook_hold_entry(Datum message_id, int *max_retries)
{
	wahook_RowReader reader;
	ScanKeyData key;
	wahook_Hold hold = WAHOOK_HOLD_BUSY;
	bool isnull;

	if (!wahook_lock_message(message_id, false))
		return WAHOOK_HOLD_BUSY;
	wahook_open_rows(&reader, "webhook_dlq", "webhook_dlq_whatsapp_message_id_key",
					 RowExclusiveLock);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_TEXTEQ, message_id);
	switch (wahook_peek_row(&reader, &key, 1))
	{
		case WAHOOK_ROW_NONE:
			hold = WAHOOK_HOLD_NONE;
			break;
		case WAHOOK_ROW_STEADY:
			*max_retries = DatumGetInt32(slot_getattr(reader.slot, Anum_dlq_max_retries, &isnull));
			if (wahook_try_lock_row(&reader))
				hold = WAHOOK_HOLD_HELD;
			break;
		case WAHOOK_ROW_CHANGING:
		case WAHOOK_ROW_ARRIVING:
			break;
	}
	wahook_close_rows(&reader);
	return hold;
}
