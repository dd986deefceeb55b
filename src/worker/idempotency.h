/*
 * Idempotency keys: by which an endpoint can tell that it is sent the same thing again.
 */
#ifndef WAHOOK_IDEMPOTENCY_H
#define WAHOOK_IDEMPOTENCY_H

#include <stddef.h>

/*
 * A key, palloc'd, for what is sent: the same each time for the same text. A hash, because the text
 * may hold anything, and a key goes into a header. Inside transactions only.
 */
extern char *wahook_idempotency_key(const char *of, const char *text, size_t len);

#endif
