/*
 * X-Hub-Signature-256, and the handshake that comes before the first delivery.
 *
 * The header is "sha256=" and the hex digits of HMAC-SHA256(app secret, body). The SHA-1 header of
 * older times is not accepted: it would be a way round this one. Digits are compared as the bytes
 * they stand for, in constant time.
 */
#include "ingest/signature.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "core/args.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/hmac.h"
#include "core/settings.h"
#include "ingest/hex.h"

#define PREFIX "sha256="
#define PREFIX_LENGTH (sizeof(PREFIX) - 1)
#define HEADER_LENGTH (PREFIX_LENGTH + 2 * PG_SHA256_DIGEST_LENGTH)

PG_FUNCTION_INFO_V1(wahook_verify_webhook_signature);
PG_FUNCTION_INFO_V1(wahook_verify_webhook_subscription);

static bool
decode_hex(const char *hex, size_t bytes, uint8 *to)
{
	for (size_t i = 0; i < bytes; i++)
	{
		int high = wahook_hex_digit(hex[2 * i]);
		int low = wahook_hex_digit(hex[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		to[i] = (uint8) (high << 4 | low);
	}
	return true;
}

/* Takes as long whichever byte differs. */
static bool
equal_in_constant_time(const uint8 *a, const uint8 *b, size_t len)
{
	volatile uint8 difference = 0;

	for (size_t i = 0; i < len; i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

bool
wahook_signature_matches(const char *body, size_t body_len, const char *header, size_t header_len,
						 const char *secret, size_t secret_len)
{
	uint8 given[PG_SHA256_DIGEST_LENGTH];
	uint8 expected[PG_SHA256_DIGEST_LENGTH];
	uint8 *key = (uint8 *) unconstify(char *, secret);

	if (secret_len == 0 || header_len != HEADER_LENGTH ||
		memcmp(header, PREFIX, PREFIX_LENGTH) != 0 ||
		!decode_hex(header + PREFIX_LENGTH, PG_SHA256_DIGEST_LENGTH, given))
		return false;

	/* A secret that is not text can be given as bytea is written. */
	if (secret_len > 2 && secret_len % 2 == 0 && memcmp(secret, "\\x", 2) == 0)
	{
		uint8 *decoded = palloc(secret_len / 2 - 1);

		if (decode_hex(secret + 2, secret_len / 2 - 1, decoded))
		{
			key = decoded;
			secret_len = secret_len / 2 - 1;
		}
	}
	wahook_hmac_sha256(key, secret_len, NULL, 0, body, body_len, expected);
	return equal_in_constant_time(given, expected, PG_SHA256_DIGEST_LENGTH);
}

bool
wahook_app_secret_is_set(void)
{
	return wahook_app_secret != NULL &&
		   strspn(wahook_app_secret, ", ") != strlen(wahook_app_secret);
}

bool
wahook_signature_is_ours(const char *body, size_t body_len, const char *header, size_t header_len)
{
	bool ours = false;

	if (!wahook_app_secret_is_set())
		ereport(ERROR,
				(errcode(WAHOOK_NOT_CONFIGURED), errmsg("no app secret is configured"),
				 errdetail("A signature can't be verified without the secret it was made with."),
				 errhint(
					 "Set wahook.app_secret to the app secret of your Meta app and reload the configuration.")));

	/* All are tried, so that the time does not tell which one matched. */
	for (const char *secret = wahook_app_secret; secret != NULL;)
	{
		const char *comma = strchr(secret, ',');
		size_t len = comma ? (size_t) (comma - secret) : strlen(secret);

		while (len > 0 && secret[0] == ' ')
			secret++, len--;
		while (len > 0 && secret[len - 1] == ' ')
			len--;
		if (len > 0 && wahook_signature_matches(body, body_len, header, header_len, secret, len))
			ours = true;
		secret = comma ? comma + 1 : NULL;
	}
	return ours;
}

/*
 * verify_webhook_signature(p_body text, p_signature text, p_secret text) → boolean, and the same
 * for a bytea body: text and bytea are the same bytes here. A null secret: the setting.
 */
Datum
wahook_verify_webhook_signature(PG_FUNCTION_ARGS)
{
	text *body;
	text *signature;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_BOOL(false);
	body = PG_GETARG_TEXT_PP(0);
	signature = PG_GETARG_TEXT_PP(1);
	if (PG_ARGISNULL(2))
		PG_RETURN_BOOL(wahook_signature_is_ours(VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body),
												VARDATA_ANY(signature),
												VARSIZE_ANY_EXHDR(signature)));
	else
	{
		text *secret = PG_GETARG_TEXT_PP(2);

		PG_RETURN_BOOL(wahook_signature_matches(VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body),
												VARDATA_ANY(signature),
												VARSIZE_ANY_EXHDR(signature), VARDATA_ANY(secret),
												VARSIZE_ANY_EXHDR(secret)));
	}
}

/* verify_webhook_subscription(p_mode, p_token, p_challenge) → text: the challenge. */
Datum
wahook_verify_webhook_subscription(PG_FUNCTION_ARGS)
{
	text *mode = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	text *token = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1);
	size_t len = wahook_verify_token ? strlen(wahook_verify_token) : 0;

	if (len == 0)
		ereport(ERROR,
				(errcode(WAHOOK_NOT_CONFIGURED), errmsg("no verify token is configured"),
				 errdetail("A handshake can't be answered without the token it must present."),
				 errhint(
					 "Set wahook.verify_token to the token you entered for the webhook at Meta, and reload the configuration.")));
	if (mode == NULL || VARSIZE_ANY_EXHDR(mode) != strlen("subscribe") ||
		memcmp(VARDATA_ANY(mode), "subscribe", strlen("subscribe")) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("hub.mode is not \"subscribe\""),
				 errdetail("It is %s.", mode == NULL ? "missing" : "something else"),
				 errhint("Answer the request with 403; it is not a subscription handshake.")));
	if (token == NULL || VARSIZE_ANY_EXHDR(token) != len ||
		!equal_in_constant_time((const uint8 *) VARDATA_ANY(token),
								(const uint8 *) wahook_verify_token, len))
		ereport(ERROR,
				(errcode(WAHOOK_BAD_SIGNATURE), errmsg("hub.verify_token is wrong"),
				 errdetail("It is %s.",
						   token == NULL ? "missing" : "not that of wahook.verify_token"),
				 errhint(
					 "Answer the request with 403. If it came from Meta, compare wahook.verify_token with the token entered there.")));
	wahook_require_arg(fcinfo, 2, "p_challenge",
					   "Pass the parameter hub.challenge of the request.");
	PG_RETURN_TEXT_P(PG_GETARG_TEXT_PP(2));
}
