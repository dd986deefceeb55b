/*
 * Standard Webhooks: the headers webhook-id, webhook-timestamp and webhook-signature.
 *
 * The signature is HMAC-SHA256 over "id.timestamp.body", so that neither an old request nor an old
 * body under a new id can be sent again. The secret is written as whsec_ and base64. While secrets
 * are rotated a request carries a signature by each, and a receiver accepts either.
 */
#include "worker/standard_webhooks.h"

#include <time.h>

#include "common/base64.h"
#include "common/sha2.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/hmac.h"

PG_FUNCTION_INFO_V1(wahook_webhook_signature);

/* The secret's bytes, palloc'd; null where it is not base64. */
static uint8 *
decode_secret(const char *secret, int *len)
{
	const int prefix_len = strlen(WAHOOK_SIGNING_PREFIX);
	uint8 *key;
	int size;

	if (strncmp(secret, WAHOOK_SIGNING_PREFIX, prefix_len) == 0)
		secret += prefix_len;
	size = pg_b64_dec_len(strlen(secret));
	key = palloc(size + 1);
	*len = wahook_b64_decode(secret, strlen(secret), key, size);
	return *len > 0 ? key : NULL;
}

/*
 * Appends "v1," and the signature of id.timestamp.body to the value of the header webhook-signature,
 * with a space before it where it is not the first one. timestamp: seconds since 1970. False, with
 * nothing appended, where the secret is not base64 of at least one byte, with or without "whsec_".
 */
static bool
append_signature(StringInfo header, const char *secret, const char *id, int64 timestamp,
				 const char *body, size_t body_len)
{
	char *before = psprintf("%s." INT64_FORMAT ".", id, timestamp);
	uint8 digest[PG_SHA256_DIGEST_LENGTH];
	int size = pg_b64_enc_len(sizeof(digest));
	int key_len;
	uint8 *key = decode_secret(secret, &key_len);
	int len;

	if (key == NULL)
		return false;
	wahook_hmac_sha256(key, key_len, before, strlen(before), body, body_len, digest);
	explicit_bzero(key, key_len);
	if (header->len > 0)
		appendStringInfoChar(header, ' ');
	appendStringInfoString(header, "v1,");
	enlargeStringInfo(header, size);
	len = wahook_b64_encode(digest, sizeof(digest), header->data + header->len, size);
	Assert(len > 0);
	header->len += len;
	header->data[header->len] = '\0';
	return true;
}

/*
 * The server's HMAC keeps account of its memory with an owner, which there is none of outside
 * transactions.
 */
int
wahook_signature_headers(const char **headers, const char *const *secrets, int nsecrets,
						 const char *id, const char *body)
{
	int64 timestamp = (int64) time(NULL);
	ResourceOwner current = CurrentResourceOwner;
	StringInfoData signature;
	static ResourceOwner owner = NULL;

	if (owner == NULL)
		owner = ResourceOwnerCreate(NULL, "wahook signature");
	CurrentResourceOwner = owner;
	initStringInfo(&signature);
	for (int i = 0; i < nsecrets; i++)
		if (secrets[i] != NULL)
			(void) append_signature(&signature, secrets[i], id, timestamp, body, strlen(body));
	CurrentResourceOwner = current;
	if (signature.len == 0)
		return 0;
	headers[0] = psprintf("webhook-id: %s", id);
	headers[1] = psprintf("webhook-timestamp: " INT64_FORMAT, timestamp);
	headers[2] = psprintf("webhook-signature: %s", signature.data);
	return 3;
}

/* webhook_signature(p_secret text, p_id text, p_timestamp timestamptz, p_body text) → text */
Datum
wahook_webhook_signature(PG_FUNCTION_ARGS)
{
	text *body = PG_GETARG_TEXT_PP(3);
	int64 timestamp = PG_GETARG_TIMESTAMPTZ(2) / USECS_PER_SEC +
					  (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY;
	StringInfoData header;

	initStringInfo(&header);
	if (!append_signature(&header, text_to_cstring(PG_GETARG_TEXT_PP(0)),
						  text_to_cstring(PG_GETARG_TEXT_PP(1)), timestamp, VARDATA_ANY(body),
						  VARSIZE_ANY_EXHDR(body)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("p_secret is not a Standard Webhooks secret"),
				 errdetail("It is not \"whsec_\" and base64, or holds no byte."),
				 errhint(
					 "Make one with: SELECT 'whsec_' || encode(gen_random_bytes(32), 'base64') by "
					 "pgcrypto, or with openssl rand -base64 32.")));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(header.data, header.len));
}
