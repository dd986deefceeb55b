/*
 * Edits and revocations: what senders changed of messages that they had sent before.
 */
#ifndef WAHOOK_CHANGES_H
#define WAHOOK_CHANGES_H

#include "ingest/store.h"

/* Notes each change among the accepted messages, in webhook_message_changes. Waits for nobody. */
extern void wahook_note_changes(const wahook_Intake *intake, wahook_Outcome *const *messages,
								int n);

#endif
