/*
 * Understanding the updates of one change.
 */
#ifndef WAHOOK_UPDATE_H
#define WAHOOK_UPDATE_H

#include "ingest/envelope.h"

extern wahook_Update *wahook_add_update(wahook_Delivery *delivery, wahook_UpdateClass class,
										const wahook_Change *change, wahook_Span raw);
extern void wahook_add_unreadable(wahook_Delivery *delivery, const wahook_Change *change,
								  wahook_Span raw, const char *reason);
extern void wahook_keep_storable(wahook_Delivery *delivery, const wahook_Change *change,
								 wahook_Span *part, int max_depth);

/*
 * Adds the updates of a change whose field and value are known; whole is all of its text. False
 * when the text is not JSON.
 */
extern bool wahook_read_change(wahook_Delivery *delivery, wahook_Change *change, wahook_Span whole,
							   int max_depth);

/* Fills in kind and sender of a message that stands alone; nothing where it is no message. */
extern void wahook_read_lone_message(wahook_Update *update, wahook_Span message, int max_depth);

#endif
