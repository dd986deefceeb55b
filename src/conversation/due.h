/*
 * Walking the due rows of the queue, oldest first.
 */
#ifndef WAHOOK_DUE_H
#define WAHOOK_DUE_H

#include "conversation/take.h"

/*
 * Claims what the due rows after a time name, until the limit is reached or there are no more. Returns the
 * time of the first row it met, or DT_NOEND.
 */
extern TimestampTz wahook_claim_due_after(wahook_Claim *claim, TimestampTz due_at);

#endif
