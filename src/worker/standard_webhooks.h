/*
 * Standard Webhooks: how a receiver recognises that a request is ours. Pure but for out of memory.
 */
#ifndef WAHOOK_STANDARD_WEBHOOKS_H
#define WAHOOK_STANDARD_WEBHOOKS_H

#include "postgres.h"

#define WAHOOK_SIGNING_PREFIX "whsec_"

/*
 * The three headers, palloc'd, for a request that is sent now, by all of the secrets that are not null.
 * Returns how many headers there are: 3, or 0 where there is no secret, or none that is one. Outside
 * transactions too.
 */
extern int wahook_signature_headers(const char **headers, const char *const *secrets, int nsecrets,
									const char *id, const char *body);

#endif
