-- Services: what a row must be, whoever writes it.
\set SHOW_CONTEXT never
SET client_min_messages = warning;

-- What comes with the extension. Only 'default' is enabled.
SELECT name, kind, enabled FROM webhook_services ORDER BY enabled DESC, name;
SELECT name, priority, match, pattern, service, clears_state FROM webhook_routes ORDER BY priority, name;
SELECT flag, state, percentage, test_users FROM webhook_feature_flags;

-- Endpoints.
BEGIN;
INSERT INTO webhook_services (name, url, allow_http) VALUES
	('sv-1', 'https://bot.example.com', false),
	('sv-2', 'HTTPS://bot.example.com:8443/a/b?c=d&e=%20', false),
	('sv-3', 'http://[::1]:80/', true),
	('sv-4', 'http://localhost?x', true)
	RETURNING name, kind;
ROLLBACK;
CREATE FUNCTION pg_temp.try_url(url text, allow_http boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	v_detail text;
BEGIN
	INSERT INTO webhook_services (name, url, allow_http) VALUES ('sv-url', url, allow_http);
	RAISE EXCEPTION 'accepted: %', url;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS v_detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ' ' || SQLERRM || left('; ' || v_detail, 60);
END
$$;
SELECT pg_temp.try_url('http://bot.example.com');
SELECT url, pg_temp.try_url(url, true) FROM unnest(ARRAY['', 'bot.example.com', 'ftp://bot.example.com', 'https://',
	'https:///x', 'https://user:secret@bot.example.com/', 'https://bot.example.com/#x', 'https://bot.example.com:0/',
	'https://bot.example.com:65536/', 'https://bot.example.com:99999999999/', 'https://bot.example.com:x/', 'https://bot example.com/',
	E'https://bot.example.com/\r\nX-Evil: 1', 'https://böt.example.com/', 'file:///etc/passwd', 'https://[::1/', E' https://bot.example.com/']) AS url;
SELECT left(pg_temp.try_url('https://bot.example.com/' || repeat('x', 5000)), 60);
UPDATE webhook_services SET url = 'https://bot.example.com/', handler = 'pg_temp.none' WHERE name = 'default';

-- Bounds.
\set VERBOSITY terse
INSERT INTO webhook_services (name) VALUES ('');
INSERT INTO webhook_services (name) VALUES (NULL);
UPDATE webhook_services SET timeout = '0' WHERE name = 'default';
UPDATE webhook_services SET timeout = '2 hours' WHERE name = 'default';
UPDATE webhook_services SET concurrency = 0 WHERE name = 'default';
UPDATE webhook_services SET debounce = '-1 second' WHERE name = 'default';
UPDATE webhook_services SET debounce = '10 seconds', debounce_max = '1 second' WHERE name = 'default';
UPDATE webhook_services SET max_retries = -1 WHERE name = 'default';
UPDATE webhook_services SET retry_base_delay = '0' WHERE name = 'default';
UPDATE webhook_services SET retry_max_delay = '1 year' WHERE name = 'default';
UPDATE webhook_services SET circuit_threshold = 0 WHERE name = 'default';
UPDATE webhook_services SET rollout_percent = 101 WHERE name = 'default';
UPDATE webhook_services SET kind = 'http' WHERE name = 'default';
UPDATE webhook_services SET url = 'https://bot.example.com/', handler = 'pg_catalog.jsonb_typeof' WHERE name = 'default';
INSERT INTO webhook_routes (name, match, service) VALUES ('sv', 'keyword', 'default');
INSERT INTO webhook_routes (name, match, pattern, service) VALUES ('sv', 'all', 'x', 'default');
INSERT INTO webhook_routes (name, match, pattern, service) VALUES ('sv', 'magic', 'x', 'default');
INSERT INTO webhook_routes (name, match, pattern, service) VALUES ('sv', 'keyword', 'x', 'sv-none');
INSERT INTO webhook_routes (name, match, pattern, service) VALUES ('menu', 'keyword', 'x', 'default'), ('menu', 'keyword', 'x', 'default');
INSERT INTO webhook_feature_flags (flag, percentage) VALUES ('sv', 101);
INSERT INTO webhook_feature_flags (flag, state) VALUES ('sv', 'maybe');
\set VERBOSITY default

-- Secrets are checked, and never shown.
INSERT INTO webhook_service_secrets (service, bearer_token) VALUES ('default', E'hush\r\nX-Evil: 1');
INSERT INTO webhook_service_secrets (service, bearer_token) VALUES ('default', '');
INSERT INTO webhook_service_secrets (service, signing_secret) VALUES ('default', 'hush');
INSERT INTO webhook_service_secrets (service, signing_secret) VALUES ('default', 'whsec_hush');
INSERT INTO webhook_service_secrets (service, signing_secret) VALUES ('default', 'whsec_' || encode('too short', 'base64'));
INSERT INTO webhook_service_secrets (service, previous_signing_secret) VALUES ('default', 'whsec_hush=');
INSERT INTO webhook_service_secrets (service, bearer_token) VALUES ('sv-none', 'hush');
BEGIN;
INSERT INTO webhook_service_secrets (service, bearer_token, signing_secret)
	VALUES ('jobs', 'hush', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
DELETE FROM webhook_routes WHERE service = 'jobs';
DELETE FROM webhook_services WHERE name = 'jobs';
SELECT count(*) AS secrets_left FROM webhook_service_secrets;
ROLLBACK;
