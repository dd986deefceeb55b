/*
 * What happens to the messages of a holder that vanished.
 */
#ifndef WAHOOK_EXPIRE_H
#define WAHOOK_EXPIRE_H

#include "conversation/lock.h"

/*
 * Counts the claim of an expired lease as lost, for each message that it still held; those lost
 * wahook.max_attempts times become dead letters. Nothing to do where there was no claim. The
 * caller has row-locked the conversation, which is in rows, and changes its lock itself; a dead letter
 * changes the row, so rows and *conversation are read anew.
 */
extern void wahook_expire_claim(wahook_RowReader *rows, wahook_Conversation *conversation,
								TimestampTz now);

#endif
