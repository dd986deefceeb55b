/*
 * Standard Webhooks: how a receiver recognises that a request is ours. Pure but for out of memory.
 */
#ifndef WAHOOK_STANDARD_WEBHOOKS_H
#define WAHOOK_STANDARD_WEBHOOKS_H

#include "postgres.h"

#include "lib/stringinfo.h"

#define WAHOOK_SIGNING_PREFIX "whsec_"

/*
 * Appends "v1," and the signature of id.timestamp.body to the value of the header webhook-signature,
 * with a space before it where it is not the first one. timestamp: seconds since 1970. False, with
 * nothing appended, where the secret is not base64 of at least one byte, with or without "whsec_".
 */
extern bool wahook_append_signature(StringInfo header, const char *secret, const char *id,
									int64 timestamp, const char *body, size_t body_len);

/*
 * The three headers, palloc'd, for a request that is sent now, by all of the secrets that are not null.
 * Returns how many headers there are: 3, or 0 where there is no secret, or none that is one. Outside
 * transactions too.
 */
extern int wahook_signature_headers(const char **headers, const char *const *secrets, int nsecrets,
									const char *id, const char *body);

#endif
