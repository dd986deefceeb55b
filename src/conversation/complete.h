/*
 * Completing claimed messages.
 */
#ifndef WAHOOK_COMPLETE_H
#define WAHOOK_COMPLETE_H

#include "conversation/lock.h"

/*
 * Completes messages of a conversation that the caller holds: takes them out of the inbox, records
 * the attempt, resolves their dead letter. seqs: bigint[] of webhook_inbox.seq in their order, or
 * null for none. processing_ms < 0: the time since the lock was taken. Returns how many it
 * completed. Error 55P03 when another transaction is changing one of them.
 */
extern int wahook_complete_messages(const wahook_Conversation *conversation, ArrayType *seqs,
									int processing_ms);

#endif
