-- X-Hub-Signature-256, with the secret as an argument.
\getenv abs_srcdir PG_ABS_SRCDIR
\cd :abs_srcdir
CREATE TEMP TABLE vectors (n serial, line jsonb);
\copy vectors (line) from 'test/fixtures/signatures.jsonl' csv quote e'\x01' delimiter e'\x02'

CREATE TEMP VIEW verified AS
	SELECT n, line, (line ->> 'valid')::boolean AND line ->> 'algo' = 'sha256' AS expected,
		verify_webhook_signature_bytea(body, signature, secret) AS by_bytes,
		verify_webhook_signature(convert_from(body, 'UTF8'), signature, secret) AS by_text
	FROM (SELECT n, line,
			-- One source passes the digits alone; that vector says so.
			CASE WHEN line ->> 'note' ~ 'bare hex' AND line ->> 'signature' !~ '^sha256=' THEN 'sha256=' ELSE '' END
				|| (line ->> 'signature') AS signature,
			coalesce(decode(line ->> 'body_hex', 'hex'), convert_to(line ->> 'body', 'UTF8')) AS body,
			coalesce('\x' || (line ->> 'secret_hex'), line ->> 'secret') AS secret
		FROM vectors) AS v;
-- Two of the RFC's bodies are bytes that are no text.
SELECT expected, by_bytes, count(*) FROM (SELECT expected, by_bytes FROM verified OFFSET 0) AS v GROUP BY 1, 2 ORDER BY 1, 2;
SELECT expected, by_text, count(*) FROM (SELECT expected, by_text FROM verified WHERE line ->> 'body' IS NOT NULL OFFSET 0) AS v
	GROUP BY 1, 2 ORDER BY 1, 2;
SELECT line ->> 'note' AS note, line ->> 'algo' AS algo, by_bytes FROM verified
	WHERE NOT expected ORDER BY n;

-- What is missing never verifies.
SELECT verify_webhook_signature(NULL, 'sha256=', 'secret'), verify_webhook_signature('body', NULL, 'secret'),
	verify_webhook_signature_bytea(NULL, NULL, 'secret');
-- The HMAC of a body under no secret is known to everybody.
SELECT verify_webhook_signature('', 'sha256=b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad', ''),
	verify_webhook_signature('', 'sha256=b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad', '\x');
-- A secret in hexadecimal is bytes; one that only begins like it is text.
SELECT verify_webhook_signature('Hi There', 'sha256=b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7',
		'\x0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b'),
	verify_webhook_signature('Hi There', 'sha256=b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7',
		'\x0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0g');

-- The setting is a superuser's, and none is set here.
SELECT verify_webhook_signature('body', 'sha256=');
\echo :LAST_ERROR_SQLSTATE
SELECT verify_webhook_subscription('subscribe', 'token', '1158201444');
\echo :LAST_ERROR_SQLSTATE
