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
-- A year is 360 days to a comparison, but 365.25 as seconds.
UPDATE webhook_services SET timeout = '-1 year 360 days 1 second' WHERE name = 'default';
UPDATE webhook_services SET timeout = '100 years -36000 days 1 second' WHERE name = 'default';
UPDATE webhook_services SET debounce = '-1 year 360 days' WHERE name = 'default';
UPDATE webhook_services SET debounce_max = '-1 year 360 days' WHERE name = 'default';
UPDATE webhook_services SET retry_base_delay = '-1 year 360 days 1 second' WHERE name = 'default';
UPDATE webhook_services SET retry_max_delay = '-1 year 360 days 1 second' WHERE name = 'default';
UPDATE webhook_services SET circuit_timeout = '-1 year 360 days 1 second' WHERE name = 'default';
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

-- Registering: what is named is changed, the rest stays.
BEGIN;
CREATE SCHEMA sv;
CREATE FUNCTION sv.handle(p_message jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
SET LOCAL search_path = sv, public;
SELECT register_webhook_service('sv', 'handle(jsonb)', p_timeout => '5 seconds', p_max_retries => 1, p_test_users => '{1}', p_description => 'mine');
SELECT kind, enabled, handler, run_as = current_user AS mine, timeout, max_retries, concurrency, test_users, description FROM webhook_services WHERE name = 'sv';
SELECT register_webhook_service('sv', p_concurrency => 3, p_enabled => NULL);
SELECT kind, enabled, handler, timeout, max_retries, concurrency FROM webhook_services WHERE name = 'sv';
-- Of the two, the one that is named last.
SELECT register_webhook_service('sv', p_url => 'https://bot.example.com/', p_enabled => false);
SELECT kind, enabled, handler, run_as, url FROM webhook_services WHERE name = 'sv';
SELECT register_webhook_service('sv', p_handler => 'handle(jsonb)');
SELECT kind, enabled, handler, url FROM webhook_services WHERE name = 'sv';
-- An agent, and who gets its replies; the agent can change without the handler, and the other way round.
SELECT register_webhook_service('sv', p_agent_type => 'waiter');
SELECT kind, agent_type, reply_handler, handler, run_as FROM webhook_services WHERE name = 'sv';
SELECT register_webhook_service('sv', p_reply_handler => 'handle(jsonb)');
SELECT register_webhook_service('sv', p_agent_type => 'wallet');
SELECT kind, agent_type, reply_handler, run_as = current_user AS mine FROM webhook_services WHERE name = 'sv';
SELECT register_webhook_service('sv', p_url => 'https://bot.example.com/');
SELECT kind, agent_type, reply_handler, run_as, url FROM webhook_services WHERE name = 'sv';
SELECT register_webhook_service('sv', p_agent_type => 'waiter', p_reply_handler => 'handle(jsonb)');
SELECT kind, agent_type, reply_handler, run_as = current_user AS mine, url FROM webhook_services WHERE name = 'sv';
-- One that comes with the extension is the user's from then on, and keeps its routes.
SELECT register_webhook_service('jobs', p_url => 'https://bot.example.com/jobs');
SELECT kind, enabled, from_extension, description, (SELECT count(*) FROM webhook_routes WHERE service = 'jobs') AS routes FROM webhook_services WHERE name = 'jobs';
ROLLBACK;
SELECT register_webhook_service(NULL);
SELECT register_webhook_service('');
SELECT register_webhook_service(repeat('x', 201));
SELECT register_webhook_service('sv', 'jsonb_typeof(jsonb)', 'https://bot.example.com/');
SELECT register_webhook_service('sv', 'no_such_function(jsonb)');
SELECT register_webhook_service('sv', 'upper(text)');
SELECT register_webhook_service('sv', 'jsonb_typeof(jsonb)', p_agent_type => 'waiter');
SELECT register_webhook_service('sv', p_url => 'https://bot.example.com/', p_reply_handler => 'jsonb_typeof(jsonb)');
SELECT register_webhook_service('sv', p_agent_type => 'no such agent');
SELECT register_webhook_service('sv', p_reply_handler => 'jsonb_typeof(jsonb)');
SELECT register_webhook_service('sv', p_agent_type => 'waiter', p_reply_handler => 'upper(text)');
SELECT register_webhook_service('sv', p_url => 'http://bot.example.com/');
SELECT register_webhook_service('sv', p_concurrency => 0);
SELECT register_webhook_service('sv', p_debounce => '-1 second');
SELECT count(*) AS registered FROM webhook_services WHERE name = 'sv';

-- Whoever registers a handler must have the right to run it, and lends nobody another role.
CREATE ROLE sv_admin;
SELECT wahook_grant('sv_admin', 'admin');
CREATE FUNCTION sv_secret(p_message jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
REVOKE ALL ON FUNCTION sv_secret(jsonb) FROM PUBLIC;
CREATE FUNCTION sv_open(p_message jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
SET ROLE sv_admin;
SELECT register_webhook_service('sv', 'sv_secret(jsonb)');
SELECT register_webhook_service('sv', p_agent_type => 'waiter', p_reply_handler => 'sv_secret(jsonb)');
SELECT register_webhook_service('sv', 'sv_open(jsonb)');
SELECT name, run_as FROM webhook_services WHERE name = 'sv';
SELECT set_webhook_service_secrets('sv', 'hush', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
SELECT * FROM webhook_service_secrets;
SELECT add_webhook_route('sv', 'sv', 'keyword', 'sv') IS NOT NULL AS added, disable_webhook_route('sv'), disable_webhook_service('sv'), remove_webhook_route('sv');
RESET ROLE;

-- Secrets: null leaves them, empty removes them, one that is replaced goes on for a while.
SELECT bearer_token, signing_secret, previous_signing_secret FROM webhook_service_secrets;
SELECT set_webhook_service_secrets('sv', p_signing_secret => 'whsec_' || encode(repeat('n', 32)::bytea, 'base64'));
SELECT bearer_token, left(signing_secret, 10) AS signing, previous_signing_secret FROM webhook_service_secrets;
SELECT set_webhook_service_secrets('sv', p_bearer_token => '', p_previous_signing_secret => '');
SELECT bearer_token, left(signing_secret, 10) AS signing, previous_signing_secret FROM webhook_service_secrets;
SELECT set_webhook_service_secrets('nobody', 'hush');
SELECT set_webhook_service_secrets(NULL, 'hush');
SELECT set_webhook_service_secrets('sv', p_signing_secret => 'hush');
SELECT set_webhook_service_secrets('sv', p_bearer_token => E'hu\nsh');

-- A service stays while anything is for it.
DELETE FROM webhook_services WHERE name = 'default';
DELETE FROM webhook_services WHERE name = 'fallback';
UPDATE webhook_services SET name = 'other' WHERE name = 'default';
DELETE FROM webhook_services WHERE name = 'jobs';
INSERT INTO webhook_inbox (conversation_id, message_id, service, enqueued_at) VALUES ('00000000-0000-4000-8000-0000000000e1', '00000000-0000-4000-8000-0000000000e2', 'sv', now());
DELETE FROM webhook_services WHERE name = 'sv';
UPDATE webhook_services SET name = 'sv-2' WHERE name = 'sv';
DELETE FROM webhook_inbox WHERE service = 'sv';
INSERT INTO webhook_dlq (payload, service) VALUES ('{}', 'sv');
DELETE FROM webhook_services WHERE name = 'sv';
SELECT discard_dead_letters(p_service => 'sv');
UPDATE webhook_services SET name = 'sv-2' WHERE name = 'sv';
SELECT service, bearer_token IS NULL AS none FROM webhook_service_secrets;
DELETE FROM webhook_services WHERE name = 'sv-2';
SELECT count(*) AS secrets FROM webhook_service_secrets;
DELETE FROM webhook_dlq WHERE service = 'sv';
DROP FUNCTION sv_secret, sv_open;
SELECT wahook_revoke('sv_admin', 'admin');
DROP OWNED BY sv_admin;
DROP ROLE sv_admin;
