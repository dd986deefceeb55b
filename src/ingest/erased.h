/*
 * Messages whose sender has been erased since they were accepted.
 */
#ifndef WAHOOK_ERASED_H
#define WAHOOK_ERASED_H

#include "ingest/store.h"

/*
 * Moves those that come again behind the others, in their order, as duplicates. Returns how many
 * others there are.
 */
extern int wahook_set_erased_apart(wahook_Outcome **messages, int n);

/*
 * For when they have been accepted: a message that is being erased is waited for, and then looks
 * like a new one. Error 55P03; when the delivery comes again, it is a duplicate.
 */
extern void wahook_refuse_erased(wahook_Outcome *const *messages, int n);

#endif
