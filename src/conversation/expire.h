/*
 * What happens to the messages of a holder that vanished.
 */
#ifndef WAHOOK_EXPIRE_H
#define WAHOOK_EXPIRE_H

#include "conversation/lock.h"

/*
 * Counts the claim of an expired lease as lost, for each message that it still held; those lost
 * wahook.max_attempts times become dead letters. Nothing to do where there was no claim. The
 * caller has row-locked the conversation, and changes its lock itself.
 */
extern void wahook_expire_claim(const wahook_Conversation *conversation, TimestampTz now);

#endif
