/*
 * What is on record of messages that were completed.
 */
#ifndef WAHOOK_RECORD_H
#define WAHOOK_RECORD_H

#include "postgres.h"

#include "conversation/lock.h"
#include "core/table.h"

/* What one call records with: the tables it writes to, and what is the same for all messages. */
typedef struct wahook_Record
{
	const wahook_Table *beside;
	wahook_Table messages;
	wahook_Table attempts; /* opened when there is a row to write */
	bool attempts_opened;
	TimestampTz now;
	int processing_ms; /* negative: the time since each claim */
} wahook_Record;

/* beside: a table whose executor state is used, which must be closed later. */
extern void wahook_open_record(wahook_Record *record, const wahook_Table *beside,
							   int processing_ms);
extern void wahook_close_record(wahook_Record *record);

/*
 * Records that the message whose inbox row is given was completed, under the lock that the conversation
 * has. Error 55P03 when another transaction has the message's row.
 */
extern void wahook_record_completed(wahook_Record *record, const wahook_Conversation *conversation,
									TupleTableSlot *waiting);

#endif
