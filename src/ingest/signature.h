/*
 * X-Hub-Signature-256: HMAC-SHA256 over the raw bytes of a body. Pure but for its out-of-memory.
 */
#ifndef WAHOOK_SIGNATURE_H
#define WAHOOK_SIGNATURE_H

#include "postgres.h"

/* Whether the header was made with this secret. An empty secret verifies nothing. */
extern bool wahook_signature_matches(const char *body, size_t body_len, const char *header,
									 size_t header_len, const char *secret, size_t secret_len);

/* The same with each secret of the setting wahook.app_secret. Error WH006 when there is none. */
extern bool wahook_signature_is_ours(const char *body, size_t body_len, const char *header,
									 size_t header_len);

extern bool wahook_app_secret_is_set(void);

#endif
