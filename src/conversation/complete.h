/*
 * Completing claimed messages.
 */
#ifndef WAHOOK_COMPLETE_H
#define WAHOOK_COMPLETE_H

#include "conversation/lock.h"

/*
 * Completes messages of conversations that the caller holds: takes them out of the inbox, records
 * the attempts, resolves their dead letters. seqs[i]: bigint[] of webhook_inbox.seq, or null for
 * none. processing_ms < 0: the time since the lock was taken. Returns how many it completed.
 */
extern int wahook_complete_messages(const wahook_Conversation *conversations,
									ArrayType *const *seqs, int n, int processing_ms);

#endif
