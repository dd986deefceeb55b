-- The secrets of the settings, which only a superuser can set and nobody can read.
CREATE FUNCTION pg_temp.sign(p_body text, p_secret text) RETURNS text LANGUAGE sql AS $$
	-- HMAC by its definition, so that it is not our own code that is compared with itself.
	SELECT 'sha256=' || encode(sha256(opad || sha256(ipad || convert_to(p_body, 'UTF8'))), 'hex')
	FROM (SELECT string_agg(set_byte('\x00', 0, get_byte(key, i) # x'36'::integer), '' ORDER BY i) AS ipad,
			string_agg(set_byte('\x00', 0, get_byte(key, i) # x'5c'::integer), '' ORDER BY i) AS opad
		FROM (SELECT convert_to(p_secret, 'UTF8') || decode(repeat('00', 64 - octet_length(p_secret)), 'hex') AS key) AS k
		CROSS JOIN generate_series(0, 63) AS i) AS pads
	$$;
\set body '{"object": "whatsapp_business_account", "entry": [], "of": "signature_admin"}'

-- Without preloading, a setting is the module's own only once the module is loaded.
LOAD 'wahook';
SET wahook.app_secret = 'first';
SHOW wahook.app_secret;
SELECT current_setting('wahook.app_secret'), (SELECT setting FROM pg_settings WHERE name = 'wahook.app_secret') AS in_pg_settings;
SELECT verify_webhook_signature(:'body', pg_temp.sign(:'body', 'first')) AS first,
	verify_webhook_signature(:'body', pg_temp.sign(:'body', 'second')) AS second;

-- While the secret is rotated, both are good, and nothing else.
SET wahook.app_secret = 'first, second';
SELECT s AS secret, verify_webhook_signature(:'body', pg_temp.sign(:'body', s)) AS verified
	FROM unnest(ARRAY['first', 'second', 'third', '', 'first, second', 'first,second', ' second']) AS s;
SET wahook.app_secret = ' ,second, ';
SELECT s AS secret, verify_webhook_signature(:'body', pg_temp.sign(:'body', s)) AS verified
	FROM unnest(ARRAY['first', 'second', '']) AS s;

-- No secret at all fails closed, however it is written.
SET wahook.app_secret = '';
SELECT verify_webhook_signature(:'body', pg_temp.sign(:'body', ''));
SET wahook.app_secret = ' , ';
SELECT verify_webhook_signature(:'body', pg_temp.sign(:'body', ''));
SELECT * FROM receive_webhook(:'body', pg_temp.sign(:'body', ''));

-- A delivery: with a secret it must be signed; without one, unless a signature is required, it may come as it is.
SELECT kind, outcome FROM receive_webhook(:'body');
SET wahook.require_signature = on;
SELECT kind, outcome FROM receive_webhook(:'body');
\echo :LAST_ERROR_SQLSTATE
RESET wahook.require_signature;
SET wahook.app_secret = 'first, second';
SELECT kind, outcome FROM receive_webhook(:'body');
SELECT kind, outcome FROM receive_webhook(:'body', 'sha256=00');
\echo :LAST_ERROR_SQLSTATE
SELECT kind, outcome FROM receive_webhook(:'body' || ' ', pg_temp.sign(:'body', 'first'));
SELECT kind, outcome FROM receive_webhook(:'body', replace(pg_temp.sign(:'body', 'first'), 'sha256=', 'sha1='));
SELECT kind, outcome FROM receive_webhook(:'body', pg_temp.sign(:'body', 'second'));
SELECT count(*) FROM receive_and_claim_webhook(:'body', 'sha256=00');
SELECT count(*) FROM receive_and_claim_webhook(:'body', pg_temp.sign(:'body', 'first'));
-- What is not signed is not even read.
SELECT kind, outcome FROM receive_webhook('not JSON', 'sha256=00');
SELECT kind, outcome FROM receive_webhook('not JSON', pg_temp.sign('not JSON', 'first'));
\echo :LAST_ERROR_SQLSTATE

-- The handshake.
SET wahook.verify_token = 'a token, with a comma';
SHOW wahook.verify_token;
SELECT verify_webhook_subscription('subscribe', 'a token, with a comma', '1158201444');
SELECT verify_webhook_subscription('subscribe', 'a token', '1158201444');
\echo :LAST_ERROR_SQLSTATE
SELECT verify_webhook_subscription('subscribe', 'A token, with a comma', '1158201444');
SELECT verify_webhook_subscription('subscribe', NULL, '1158201444');
SELECT verify_webhook_subscription('unsubscribe', 'a token, with a comma', '1158201444');
\echo :LAST_ERROR_SQLSTATE
SELECT verify_webhook_subscription(NULL, NULL, NULL);
SELECT verify_webhook_subscription('subscribe', 'a token, with a comma', NULL);
\echo :LAST_ERROR_SQLSTATE
SET wahook.verify_token = '';
SELECT verify_webhook_subscription('subscribe', '', '1158201444');
RESET wahook.verify_token;
RESET wahook.app_secret;
