/*
 * Idempotency keys.
 */
#include "postgres.h"

#include "worker/idempotency.h"

#include "core/hmac.h"

char *
wahook_idempotency_key(const char *of, const char *text, size_t len)
{
	uint8 digest[PG_SHA256_DIGEST_LENGTH];
	char *key = palloc(2 * sizeof(digest) + 1);

	wahook_hmac_sha256((const uint8 *) of, strlen(of), NULL, 0, text, len, digest);
	for (size_t i = 0; i < sizeof(digest); i++)
		sprintf(key + 2 * i, "%02x", digest[i]);
	return key;
}
