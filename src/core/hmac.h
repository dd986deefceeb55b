/*
 * HMAC-SHA256, by the server's own means.
 */
#ifndef WAHOOK_HMAC_H
#define WAHOOK_HMAC_H

#include "postgres.h"

#include "common/sha2.h"

/* Of two pieces one behind the other, the first of which may be empty. digest: PG_SHA256_DIGEST_LENGTH bytes. */
extern void wahook_hmac_sha256(const uint8 *key, size_t key_len, const char *head, size_t head_len,
							   const char *body, size_t body_len, uint8 *digest);

#endif
