/*
 * A line: the messages of one service that wait in one conversation, in order of arrival.
 *
 * The services of a conversation share its lock, but not their order: what one can't take yet does
 * not hold up another. A message may be put off (a limit at intake, a retry in strict order): then
 * those behind it wait as well.
 */
#ifndef WAHOOK_LINE_H
#define WAHOOK_LINE_H

#include "postgres.h"

#include "access/genam.h"
#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "core/row.h"

/* A scan of the rows of a line, for wahook_next_row() and index_endscan(). */
extern IndexScanDesc wahook_begin_line(wahook_RowReader *inbox, Snapshot snapshot,
									   const pg_uuid_t *id, const char *service);

/* The same of all lines of a conversation, and of a part of one: from one seq to another. */
extern IndexScanDesc wahook_begin_lines(wahook_RowReader *inbox, Snapshot snapshot,
										const pg_uuid_t *id);
extern IndexScanDesc wahook_begin_part(wahook_RowReader *inbox, Snapshot snapshot,
									   const pg_uuid_t *id, const char *service, int64 first,
									   int64 last);

/* A session remembers where the inbox row in the slot is; the other finds it there, or nothing. */
extern void wahook_note_waiting(wahook_RowReader *inbox);
extern bool wahook_find_waiting(wahook_RowReader *inbox, Snapshot snapshot, const pg_uuid_t *id,
								int64 seq);

/*
 * The first service after another one (null: of all) for which messages wait in the conversation,
 * palloc'd, or null. The first message of its line is left in the reader's slot.
 */
extern char *wahook_next_line(wahook_RowReader *inbox, Snapshot snapshot, const pg_uuid_t *id,
							  const char *after);

/* When the queue row of the message in the slot is due: when it came or, for a quiet moment, later. */
extern TimestampTz wahook_queued_for(TupleTableSlot *waiting, int64 debounce_us);

/*
 * When the line whose first message is in the reader's slot can be taken, in the past or to come.
 * What is in the slot is lost.
 */
extern TimestampTz wahook_line_due_at(wahook_RowReader *inbox, Snapshot snapshot,
									  const pg_uuid_t *id, const char *service);

#endif
