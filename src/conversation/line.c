/*
 * A line: the messages of one service that wait in one conversation, in order of arrival.
 *
 * The inbox's primary key has the lines one after the other, so nothing that waits for one service
 * is walked past to get at what waits for another.
 */
#include "conversation/line.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/table.h"
#include "core/tables.h"
#include "ingest/config.h"

static void
init_keys(ScanKeyData keys[2], const wahook_RowReader *inbox, const pg_uuid_t *id,
		  StrategyNumber strategy, RegProcedure compare, const char *service)
{
	ScanKeyInit(&keys[0], Anum_inbox_key_conversation_id, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(id));
	if (service == NULL)
		return;
	ScanKeyInit(&keys[1], Anum_inbox_key_service, strategy, compare, CStringGetTextDatum(service));
	keys[1].sk_collation = inbox->index->rd_indcollation[Anum_inbox_key_service - 1];
}

IndexScanDesc
wahook_begin_line(wahook_RowReader *inbox, Snapshot snapshot, const pg_uuid_t *id,
				  const char *service)
{
	ScanKeyData keys[2];

	init_keys(keys, inbox, id, BTEqualStrategyNumber, F_TEXTEQ, service);
	return wahook_begin_scan(inbox, snapshot, keys, lengthof(keys));
}

IndexScanDesc
wahook_begin_lines(wahook_RowReader *inbox, Snapshot snapshot, const pg_uuid_t *id)
{
	ScanKeyData keys[2];

	init_keys(keys, inbox, id, InvalidStrategy, InvalidOid, NULL);
	return wahook_begin_scan(inbox, snapshot, keys, 1);
}

IndexScanDesc
wahook_begin_part(wahook_RowReader *inbox, Snapshot snapshot, const pg_uuid_t *id,
				  const char *service, int64 first, int64 last)
{
	ScanKeyData keys[4];

	init_keys(keys, inbox, id, BTEqualStrategyNumber, F_TEXTEQ, service);
	ScanKeyInit(&keys[2], Anum_inbox_key_seq, BTGreaterEqualStrategyNumber, F_INT8GE,
				Int64GetDatum(first));
	ScanKeyInit(&keys[3], Anum_inbox_key_seq, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(last));
	return wahook_begin_scan(inbox, snapshot, keys, lengthof(keys));
}

static void
init_place_keys(ScanKeyData keys[2], const pg_uuid_t *id, int64 seq)
{
	ScanKeyInit(&keys[0], Anum_inbox_conversation_id, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(id));
	ScanKeyInit(&keys[1], Anum_inbox_seq, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(seq));
}

void
wahook_note_waiting(wahook_RowReader *inbox)
{
	ScanKeyData keys[2];
	bool isnull;
	Datum id = slot_getattr(inbox->slot, Anum_inbox_conversation_id, &isnull);
	Datum seq = slot_getattr(inbox->slot, Anum_inbox_seq, &isnull);

	init_place_keys(keys, DatumGetUUIDP(id), DatumGetInt64(seq));
	wahook_note_row(inbox, keys, lengthof(keys), &inbox->root);
}

bool
wahook_find_waiting(wahook_RowReader *inbox, Snapshot snapshot, const pg_uuid_t *id, int64 seq)
{
	ScanKeyData keys[2];

	init_place_keys(keys, id, seq);
	return wahook_find_noted(inbox, snapshot, keys, lengthof(keys));
}

char *
wahook_next_line(wahook_RowReader *inbox, Snapshot snapshot, const pg_uuid_t *id, const char *after)
{
	ScanKeyData keys[2];
	IndexScanDesc scan;
	char *service = NULL;
	bool isnull;

	init_keys(keys, inbox, id, BTGreaterStrategyNumber, F_TEXT_GT, after);
	scan = wahook_begin_scan(inbox, snapshot, keys, after ? 2 : 1);
	if (wahook_next_row(inbox, scan))
		service = TextDatumGetCString(slot_getattr(inbox->slot, Anum_inbox_service, &isnull));
	wahook_end_scan(inbox, scan);
	return service;
}

/* A retry has waited enough: it is no part of a burst that may go on. */
TimestampTz
wahook_queued_for(TupleTableSlot *waiting, int64 debounce_us)
{
	bool isnull;
	TimestampTz since = DatumGetTimestampTz(slot_getattr(waiting, Anum_inbox_enqueued_at, &isnull));

	if (debounce_us == 0 || DatumGetInt32(slot_getattr(waiting, Anum_inbox_attempts, &isnull)) > 0)
		return since;
	return since + debounce_us;
}

TimestampTz
wahook_line_due_at(wahook_RowReader *inbox, Snapshot snapshot, const pg_uuid_t *id,
				   const char *service)
{
	const wahook_Service *config = wahook_find_service(service);
	int64 debounce_us = config ? config->debounce_us : 0;
	TimestampTz first = wahook_queued_for(inbox->slot, 0);
	TimestampTz due_at = wahook_queued_for(inbox->slot, debounce_us);
	IndexScanDesc scan;

	if (due_at == first)
		return first;
	scan = wahook_begin_line(inbox, snapshot, id, service);
	if (wahook_next_row_to(inbox, scan, BackwardScanDirection))
		due_at = Max(due_at, wahook_queued_for(inbox->slot, debounce_us));
	wahook_end_scan(inbox, scan);
	return Min(due_at, first + config->debounce_max_us);
}
