/*
 * HMAC-SHA256, by the server's own means: by OpenSSL where the server was built with it.
 */
#include "core/hmac.h"

#include "common/cryptohash.h"
#include "common/hmac.h"

void
wahook_hmac_sha256(const uint8 *key, size_t key_len, const char *head, size_t head_len,
				   const char *body, size_t body_len, uint8 *digest)
{
	pg_hmac_ctx *context = pg_hmac_create(PG_SHA256);
	bool ok = context != NULL && pg_hmac_init(context, key, key_len) == 0 &&
			  (head_len == 0 || pg_hmac_update(context, (const uint8 *) head, head_len) == 0) &&
			  pg_hmac_update(context, (const uint8 *) body, body_len) == 0 &&
			  pg_hmac_final(context, digest, PG_SHA256_DIGEST_LENGTH) == 0;

	if (context != NULL)
		pg_hmac_free(context);
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not compute HMAC-SHA256"),
				 errdetail("The server's cryptographic library refused, or memory ran out."),
				 errhint("Look at the configuration of OpenSSL on the server, and at its memory.")));
}
