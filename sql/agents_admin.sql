-- Agents: what a row must be, versions, keys, variants, budgets. As the owner.
\set SHOW_CONTEXT never
SET client_min_messages = warning;

-- The six known types, each with its first version.
SELECT a.agent_type, a.version, v.variant, v.system_prompt, v.replaced_at, v.from_extension
	FROM webhook_agents a LEFT JOIN webhook_agent_versions v USING (agent_type, version) ORDER BY 1;

-- Registering: what is named is changed, the rest stays; the empty string removes what can be absent.
BEGIN;
SELECT register_webhook_agent('ag', 'You are one of mine.', 'm-1', 'https://api.example.com/v1/chat/completions', 0.5, 300,
	p_context_budget => 1000, p_max_context_messages => 20, p_fallback_agent => 'waiter', p_timeout => '5 seconds',
	p_circuit_threshold => 2, p_circuit_timeout => '1 second', p_description => 'mine');
SELECT register_webhook_agent('ag', p_model => 'm-2', p_fallback_agent => '');
\x
SELECT * FROM webhook_agent_config('ag', '250788000001');
\x
SELECT fallback_agent, description, created_at = updated_at AS untouched FROM webhook_agents WHERE agent_type = 'ag';
-- One that comes with the extension is the user's from then on.
SELECT register_webhook_agent('waiter', p_temperature => 0);
SELECT agent_type, from_extension, version FROM webhook_agents WHERE agent_type = 'waiter';
SELECT version, temperature, from_extension, replaced_at IS NULL AS current FROM webhook_agent_versions WHERE agent_type = 'waiter' ORDER BY 1;
ROLLBACK;

-- Versions: each change of what it is told, by whomever, and nothing else.
BEGIN;
INSERT INTO webhook_agents (agent_type, system_prompt, version) VALUES ('ag', 'one', 17);
UPDATE webhook_agents SET system_prompt = 'two' WHERE agent_type = 'ag';
UPDATE webhook_agents SET system_prompt = 'two', description = 'same', context_budget = 10 WHERE agent_type = 'ag';
UPDATE webhook_agents SET version = 99 WHERE agent_type = 'ag';
UPDATE webhook_agents SET model = 'm' WHERE agent_type = 'ag';
UPDATE webhook_agents SET temperature = 1 WHERE agent_type = 'ag';
UPDATE webhook_agents SET max_output_tokens = 5 WHERE agent_type = 'ag';
UPDATE webhook_agents SET system_prompt = 'one', model = NULL, temperature = NULL, max_output_tokens = NULL WHERE agent_type = 'ag';
INSERT INTO webhook_agents (agent_type, system_prompt) VALUES ('ag', 'three')
	ON CONFLICT (agent_type) DO UPDATE SET system_prompt = EXCLUDED.system_prompt;
SELECT version FROM webhook_agents WHERE agent_type = 'ag';
-- A variant's are of all that it says, so its agent's changes are its own where they show in it.
INSERT INTO webhook_agent_variants (agent_type, variant, system_prompt) VALUES ('ag', 'V', 'I am V');
UPDATE webhook_agents SET model = 'm-2' WHERE agent_type = 'ag';
UPDATE webhook_agents SET system_prompt = 'four' WHERE agent_type = 'ag';
UPDATE webhook_agent_variants SET weight = 5 WHERE agent_type = 'ag';
UPDATE webhook_agent_variants SET model = 'm-3' WHERE agent_type = 'ag';
SELECT variant, version, system_prompt, model, temperature, max_output_tokens, replaced_at IS NULL AS current
	FROM webhook_agent_versions WHERE agent_type = 'ag' ORDER BY 1, 2;
-- They outlive their agent, and go on where it is made anew.
DELETE FROM webhook_agents WHERE agent_type = 'ag';
SELECT count(*), count(*) FILTER (WHERE replaced_at IS NULL) AS current FROM webhook_agent_versions WHERE agent_type = 'ag';
SELECT register_webhook_agent('ag', 'again');
-- Renamed, it is another agent.
UPDATE webhook_agents SET agent_type = 'ag-2' WHERE agent_type = 'ag';
SELECT agent_type, version, system_prompt FROM webhook_agent_versions WHERE agent_type IN ('ag', 'ag-2') AND replaced_at IS NULL ORDER BY 1;
-- A row that is inserted over an untouched seed replaces it; a variant makes the agent the user's.
INSERT INTO webhook_agents (agent_type, system_prompt) VALUES ('wallet', 'mine');
INSERT INTO webhook_agent_variants (agent_type, variant) VALUES ('mobility', 'V');
SELECT agent_type, variant, version, system_prompt, from_extension, replaced_at IS NULL AS current
	FROM webhook_agent_versions WHERE agent_type IN ('wallet', 'mobility') ORDER BY 1, 2, 3;
SELECT agent_type, from_extension FROM webhook_agents WHERE agent_type IN ('wallet', 'mobility') ORDER BY 1;
-- Retention takes what was replaced long ago.
UPDATE webhook_agent_versions SET replaced_at = now() - interval '2 years' WHERE replaced_at IS NOT NULL AND agent_type = 'ag';
SELECT apply_webhook_retention() -> 'webhook_agent_versions' > '5' AS deleted;
SELECT count(*) FROM webhook_agent_versions WHERE agent_type = 'ag';
ROLLBACK;

-- What is refused.
SELECT register_webhook_agent(NULL);
SELECT register_webhook_agent('');
SELECT register_webhook_agent(repeat('x', 201));
SELECT register_webhook_agent('ag', p_temperature => 3);
SELECT register_webhook_agent('ag', p_temperature => 'NaN');
SELECT register_webhook_agent('ag', p_max_output_tokens => 0);
SELECT register_webhook_agent('ag', p_context_budget => -1);
SELECT register_webhook_agent('ag', p_timeout => '2 hours');
SELECT register_webhook_agent('ag', p_endpoint => 'http://api.example.com/');
SELECT register_webhook_agent('ag', p_endpoint => 'https://user:hush@api.example.com/');
SELECT register_webhook_agent('ag', p_endpoint => E'https://api.example.com/\r\nX-Evil: 1');
SELECT register_webhook_agent('ag', p_endpoint => 'file:///etc/passwd', p_allow_http => true);
SELECT register_webhook_agent('ag', p_api_key_from => 'sk-hush');
SELECT register_webhook_agent('ag', p_api_key_from => 'env:PATH');
SELECT register_webhook_agent('ag', p_api_key_from => 'env:WAHOOK_');
SELECT register_webhook_agent('ag', p_fallback_agent => 'nobody');
SELECT register_webhook_agent('ag', p_fallback_agent => 'ag');
SELECT register_webhook_agent('ag', p_daily_tokens => -1);
SELECT register_webhook_agent('ag', p_budget => repeat('x', 201));
SELECT register_webhook_agent_variant('nobody', 'V');
SELECT register_webhook_agent_variant('waiter', '');
SELECT register_webhook_agent_variant('waiter', NULL);
SELECT register_webhook_agent_variant('waiter', 'V', -1);
SELECT register_webhook_agent_variant('waiter', 'V', p_temperature => 2.1);
SELECT count(*) AS registered FROM webhook_agents WHERE agent_type LIKE 'ag%';
\set VERBOSITY terse
UPDATE webhook_agents SET endpoint = 'nowhere' WHERE agent_type = 'waiter';
UPDATE webhook_agents SET budget = '' WHERE agent_type = 'waiter';
INSERT INTO webhook_agent_variants (agent_type, variant) VALUES ('nobody', 'V');
\set VERBOSITY default

-- Fallbacks do not lead back, over however many.
BEGIN;
SELECT register_webhook_agent('ag-1'), register_webhook_agent('ag-2', p_fallback_agent => 'ag-1'),
	register_webhook_agent('ag-3', p_fallback_agent => 'ag-2');
SAVEPOINT cycle;
SELECT register_webhook_agent('ag-1', p_fallback_agent => 'ag-3');
ROLLBACK TO cycle;
UPDATE webhook_agents SET fallback_agent = CASE agent_type WHEN 'wallet' THEN 'waiter' ELSE 'wallet' END WHERE agent_type IN ('waiter', 'wallet');
ROLLBACK TO cycle;
-- A chain may be turned round in one statement.
UPDATE webhook_agents SET fallback_agent = CASE agent_type WHEN 'ag-1' THEN 'ag-2' WHEN 'ag-2' THEN 'ag-3' END WHERE agent_type LIKE 'ag-%';
SELECT agent_type, fallback_agent FROM webhook_agents WHERE agent_type LIKE 'ag-%' ORDER BY 1;
ROLLBACK;

-- Keys: never shown, and only for the host they were set for.
BEGIN;
SELECT register_webhook_agent('ag', p_endpoint => 'https://api.example.com/v1/chat/completions');
SELECT set_webhook_agent_key('ag', 'sk-hush');
SELECT api_key_from FROM webhook_agents WHERE agent_type = 'ag';
UPDATE webhook_agents SET endpoint = 'https://API.example.com/v2' WHERE agent_type = 'ag';
SELECT api_key FROM webhook_agent_secrets WHERE agent_type = 'ag';
SELECT register_webhook_agent('ag', p_endpoint => 'https://api.example.com.evil.example/v1');
SELECT api_key IS NULL AS forgotten FROM webhook_agent_secrets WHERE agent_type = 'ag';
SELECT set_webhook_agent_key('ag', 'sk-hush');
UPDATE webhook_agents SET endpoint = NULL WHERE agent_type = 'ag';
SELECT set_webhook_agent_key('ag', 'sk-hush'), set_webhook_agent_key('ag', '');
SELECT api_key IS NULL AS none, (SELECT api_key_from FROM webhook_agents WHERE agent_type = 'ag') FROM webhook_agent_secrets WHERE agent_type = 'ag';
SELECT set_webhook_agent_key('ag', 'sk-hush'), set_webhook_agent_key('ag', NULL);
SELECT api_key IS NULL AS none FROM webhook_agent_secrets WHERE agent_type = 'ag';
SELECT register_webhook_agent('ag', p_api_key_from => 'env:WAHOOK_OPENAI_KEY');
SELECT set_webhook_agent_key('ag', '');
SELECT api_key_from FROM webhook_agents WHERE agent_type = 'ag';
DELETE FROM webhook_agents WHERE agent_type = 'ag';
SELECT count(*) AS secrets FROM webhook_agent_secrets;
ROLLBACK;
SELECT set_webhook_agent_key('nobody', 'sk-hush');
SELECT set_webhook_agent_key(NULL, 'sk-hush');
SELECT set_webhook_agent_key('waiter', E'sk-hush\r\nX-Evil: 1');
SELECT set_webhook_agent_key('waiter', repeat('sk-hush', 1000));
INSERT INTO webhook_agent_secrets (agent_type, api_key) VALUES ('waiter', 'sk hush');
\set VERBOSITY terse
INSERT INTO webhook_agent_secrets (agent_type, api_key) VALUES ('nobody', 'sk-hush');
\set VERBOSITY default

-- A key that is set while a call is prepared is not for the endpoint that it had before.
BEGIN;
CREATE FUNCTION ag_move(text) RETURNS integer LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
	UPDATE webhook_agents SET endpoint = 'https://api.example.com/v1' WHERE agent_type = 'ag';
	PERFORM set_webhook_agent_key('ag', 'sk-hush');
	RETURN 1;
END
$$;
SELECT register_webhook_agent('ag', 'mine', 'm', 'https://elsewhere.example.com/v1');
SELECT get_or_create_conversation('ag.move', '250788100009', '1001') AS c \gset
SELECT format('%I.ag_move', current_schema()) AS counter \gset
SET LOCAL wahook.token_counter = :'counter';
SELECT problem, url, api_key FROM webhook_agent_call(:'c', 'ag', 'ag', 'ag.move', '[]');
SELECT problem, url, api_key FROM webhook_agent_call(:'c', 'ag', 'ag', 'ag.move', '[]');
ROLLBACK;

-- An admin configures agents, but reads no key, and has none of the environment sent anywhere.
CREATE ROLE ag_admin;
SELECT wahook_grant('ag_admin', 'admin');
SELECT register_webhook_agent('ag-env', p_endpoint => 'https://api.example.com/v1', p_api_key_from => 'env:WAHOOK_OPENAI_KEY');
SET ROLE ag_admin;
SELECT register_webhook_agent('ag', 'mine', p_endpoint => 'https://api.example.com/v1', p_daily_tokens => 100),
	register_webhook_agent_variant('ag', 'V'), set_webhook_agent_key('ag', 'sk-hush');
SELECT variant, version, system_prompt FROM webhook_agent_versions WHERE agent_type = 'ag' ORDER BY 1;
SELECT * FROM webhook_agent_secrets;
SELECT register_webhook_agent('ag', p_api_key_from => 'env:WAHOOK_OPENAI_KEY');
INSERT INTO webhook_agents (agent_type, api_key_from) VALUES ('ag-3', 'env:WAHOOK_OPENAI_KEY');
SELECT register_webhook_agent('ag-env', p_model => 'm');
SELECT register_webhook_agent('ag-env', p_endpoint => 'https://evil.example.com/v1');
SELECT api_key_from FROM webhook_agents WHERE agent_type = 'ag-env';
-- Nor where there was no endpoint yet.
RESET ROLE;
SELECT register_webhook_agent('ag-env', p_endpoint => '', p_api_key_from => 'env:WAHOOK_OPENAI_KEY');
SET ROLE ag_admin;
SELECT register_webhook_agent('ag-env', p_endpoint => 'https://evil.example.com/v1');
SELECT api_key_from FROM webhook_agents WHERE agent_type = 'ag-env';
DELETE FROM webhook_agents WHERE agent_type IN ('ag', 'ag-env');
SELECT count(*) AS budgets FROM webhook_rate_limit_buckets WHERE bucket LIKE 'agent%';
RESET ROLE;
SELECT wahook_revoke('ag_admin', 'admin');
DROP OWNED BY ag_admin;
DROP ROLE ag_admin;

-- Variants: each user has one, the same each time; a weight that changes moves users only to or from its variant.
BEGIN;
SELECT register_webhook_agent('ag', 'base', 'm');
CREATE TEMP TABLE users AS SELECT 'user-' || i AS id FROM generate_series(1, 2000) i;
CREATE FUNCTION pg_temp.variants() RETURNS TABLE (id text, variant text) LANGUAGE sql AS $$
	SELECT u.id, c.variant FROM users u, webhook_agent_config('ag', u.id) c $$;
SELECT DISTINCT variant = '' AS the_agent_itself FROM pg_temp.variants();
SELECT register_webhook_agent_variant('ag', 'A', 60), register_webhook_agent_variant('ag', 'B', 30, 'B''s own'),
	register_webhook_agent_variant('ag', 'C', 10, p_model => 'C''s own');
CREATE TEMP TABLE before AS SELECT * FROM pg_temp.variants();
SELECT variant, round(count(*) / 200.0) * 10 AS percent FROM before GROUP BY 1 ORDER BY 1;
SELECT count(*) AS moved FROM before JOIN pg_temp.variants() v USING (id) WHERE v.variant <> before.variant;
-- The formula of the documentation.
SELECT count(*) AS differ FROM before b WHERE variant <> (SELECT w.variant FROM webhook_agent_variants w WHERE agent_type = 'ag'
	ORDER BY -ln(((hashtextextended(b.id, hashtextextended(agent_type || '/' || w.variant, 0)) & 9223372036854775807)
		+ 1.0::float8) / 9223372036854775808) / weight LIMIT 1);
UPDATE webhook_agent_variants SET weight = 0 WHERE agent_type = 'ag' AND variant = 'C';
SELECT DISTINCT b.variant, v.variant FROM before b JOIN pg_temp.variants() v USING (id) ORDER BY 1, 2;
UPDATE webhook_agent_variants SET weight = 40 WHERE agent_type = 'ag' AND variant = 'C';
SELECT DISTINCT b.variant, v.variant FROM before b JOIN pg_temp.variants() v USING (id) ORDER BY 1, 2;
-- Phone numbers in any way of writing them; nobody has no variant.
SELECT count(DISTINCT variant) FROM unnest(ARRAY['+250 788-000 (001)', '250788000001']) id, webhook_agent_config('ag', id);
SELECT id, variant FROM unnest(ARRAY[NULL, '']) id, webhook_agent_config('ag', id);
SELECT count(*) FROM webhook_agent_config('nobody', 'user-1');
SELECT count(*) FROM webhook_agent_config(NULL, NULL);
SELECT length(system_prompt) FROM webhook_agent_config('ag', repeat('x', 1000000));
-- A session keeps its variant whatever becomes of the weights, and says which it was.
INSERT INTO webhook_conversations (id, user_id) VALUES ('00000000-0000-4000-8000-00000000a901', 'user-1');
UPDATE webhook_agent_variants SET weight = CASE variant WHEN 'B' THEN 1 ELSE 0 END WHERE agent_type = 'ag';
SELECT increment_session_metrics('00000000-0000-4000-8000-00000000a901', 'ag');
UPDATE webhook_agent_variants SET weight = CASE variant WHEN 'A' THEN 1 ELSE 0 END WHERE agent_type = 'ag';
UPDATE webhook_agent_variants SET temperature = 1 WHERE agent_type = 'ag' AND variant = 'B';
SELECT c.variant, c.version, c.system_prompt, s.variant AS of_session, s.version AS began_with
	FROM webhook_agent_config('ag', 'user-1', '00000000-0000-4000-8000-00000000a901') c, agent_sessions s WHERE s.agent_type = 'ag';
SELECT variant FROM webhook_agent_config('ag', 'user-1');
SELECT webhook_open_agent_session('00000000-0000-4000-8000-00000000a901', 'ag', 'B', 2) = id AS same FROM agent_sessions WHERE agent_type = 'ag';
-- Until the variant is gone: the next turn opens a session of another.
DELETE FROM webhook_agent_variants WHERE agent_type = 'ag' AND variant = 'B';
SELECT variant, version FROM webhook_agent_config('ag', 'user-1', '00000000-0000-4000-8000-00000000a901');
SELECT webhook_open_agent_session('00000000-0000-4000-8000-00000000a901', 'ag', 'A', 1) = id AS same FROM agent_sessions WHERE agent_type = 'ag';
SELECT variant, version, session_state FROM agent_sessions WHERE agent_type = 'ag' ORDER BY started_at, variant DESC;
-- One that began with the agent itself stays with it.
SELECT end_agent_session('00000000-0000-4000-8000-00000000a901', 'ag');
UPDATE webhook_agent_variants SET weight = 0 WHERE agent_type = 'ag';
SELECT increment_session_metrics('00000000-0000-4000-8000-00000000a901', 'ag');
UPDATE webhook_agent_variants SET weight = 1 WHERE agent_type = 'ag';
SELECT variant FROM webhook_agent_config('ag', 'user-1', '00000000-0000-4000-8000-00000000a901');
SELECT webhook_open_agent_session('00000000-0000-4000-8000-00000000a901', 'ag', NULL, NULL) = id AS same FROM agent_sessions WHERE agent_type = 'ag' AND session_state = 'active';

-- Turns are counted, and compared by variant and version.
SELECT webhook_count_agent_turn(id, 2, 100, 20, 0), webhook_count_agent_turn(id, NULL, NULL, NULL, 1), webhook_count_agent_turn(NULL, 1, 1, 1, 1)
	FROM agent_sessions WHERE agent_type = 'ag' AND session_state = 'active';
SELECT webhook_count_agent_turn(id, 1, 2147483647, 2147483647, 0) FROM agent_sessions WHERE agent_type = 'ag' AND session_state = 'active';
SELECT total_messages, total_tokens_used, prompt_tokens, completion_tokens, error_count FROM agent_sessions WHERE agent_type = 'ag' AND session_state = 'active';
INSERT INTO agent_turns (conversation_id, agent_type, variant, version, outcome, prompt_tokens, completion_tokens, duration_ms)
	SELECT '00000000-0000-4000-8000-00000000a901', 'ag', v, n, o, 100, 10, d FROM (VALUES ('A', 1, 'answered', 100), ('A', 1, 'failed', 300),
		('A', 2, 'answered', 200), ('B', 1, 'answered', 50), ('', 1, 'answered', NULL)) t(v, n, o, d);
INSERT INTO agent_turns (conversation_id, agent_type, outcome) VALUES ('00000000-0000-4000-8000-00000000a901', 'unknown', 'failed');
SELECT variant, version, model, unique_conversations AS users, total_errors AS errors, active_sessions AS active, completed_sessions AS completed,
		turns, failed_turns AS failed, prompt_tokens AS prompt, completion_tokens AS completion, round(avg_turn_ms) AS ms, p95_turn_ms AS p95
	FROM webhook_agent_performance_by_version WHERE agent_type IN ('ag', 'unknown') ORDER BY agent_type, variant, version;
SELECT variant, version, weight, unique_conversations AS users, sessions, completed_sessions AS completed, failed_sessions AS failed,
		turns, failed_turns, round(error_rate, 2) AS error_rate, prompt_tokens AS prompt, completion_tokens AS completion,
		round(avg_tokens_per_turn) AS tokens, round(avg_turn_ms) AS ms, p50_turn_ms AS p50, round(p95_turn_ms) AS p95
	FROM webhook_agent_experiments;
ROLLBACK;

-- Budgets. What is refilled while the test runs is kept too small to show.
BEGIN;
CREATE FUNCTION pg_temp.may(p_agent_type text, p_user_id text, p_tokens integer) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(', ', answer ->> 'allowed', answer ->> 'reason',
		round(extract(epoch FROM (answer ->> 'retry_at')::timestamptz - clock_timestamp()) / 3600) || ' h')
	FROM webhook_agent_may_spend(p_agent_type, p_user_id, p_tokens) answer $$;
SELECT register_webhook_agent('ag', p_daily_tokens => 2400, p_daily_tokens_per_user => 240), register_webhook_agent('ag-2');
SELECT bucket, max_tokens, round(refill_per_second * 86400) AS a_day FROM webhook_rate_limit_buckets WHERE bucket LIKE 'agent%' ORDER BY 1;
SELECT pg_temp.may('ag', 'u-1', 240) AS all_of_it, pg_temp.may('ag', 'u-1', 1000) AS more_than_ever;
SELECT webhook_agent_spend('ag', 'u-1', 200);
SELECT pg_temp.may('ag', 'u-1', 30) AS less, pg_temp.may('ag', 'u-1', 100) AS more, pg_temp.may('ag', 'u-1', 1000) AS more_than_ever,
	pg_temp.may('ag', 'u-2', 240) AS other_user, pg_temp.may('ag-2', 'u-1', 100000) AS other_agent;
-- What a call cost is taken, had or not.
SELECT webhook_agent_spend('ag', 'u-1', 520);
SELECT pg_temp.may('ag', 'u-1', 1) AS below_zero, pg_temp.may('ag', 'u-2', 240) AS other_user;
SELECT webhook_agent_spend('ag', 'u-' || i, 240) FROM generate_series(2, 8) i;
SELECT pg_temp.may('ag', 'u-9', 240) AS all_spent, pg_temp.may('ag', NULL, 240) AS nobody;
-- It comes back within a day, evenly.
UPDATE webhook_rate_limits SET refilled_at = refilled_at - interval '12 hours' WHERE bucket LIKE 'agent%';
SELECT pg_temp.may('ag', 'u-9', 240) AS half_a_day_later, pg_temp.may('ag', 'u-1', 1) AS below_zero, round(webhook_budget_left('agent', 'agent:ag')) AS left_over;
-- Two agents share only what they are meant to.
SELECT register_webhook_agent('ag-2', p_budget => 'ag');
SELECT pg_temp.may('ag-2', 'u-1', 1);
SELECT webhook_agent_spend('ag-2', 'u-9', 100);
SELECT round(webhook_budget_left('u-9', 'agent-user:ag'));
SELECT register_webhook_agent('ag-2', p_budget => '');
SELECT pg_temp.may('ag-2', 'u-1', 1);
-- An arrear counts, refills, is added up by the next spender, and is swept only when it has refilled.
INSERT INTO webhook_rate_limits VALUES ('u-7', 'agent-user:ag~' || webhook_uuid(), -50, clock_timestamp());
UPDATE webhook_rate_limits SET tokens = 100 WHERE identifier = 'u-7' AND bucket = 'agent-user:ag';
SELECT apply_webhook_retention() IS NOT NULL AS swept;
SELECT webhook_budget_left('u-7', 'agent-user:ag') BETWEEN 169 AND 171 AS with_half_a_day;
UPDATE webhook_rate_limits SET refilled_at = clock_timestamp() WHERE identifier = 'u-7';
SELECT round(webhook_budget_left('u-7', 'agent-user:ag'));
SELECT webhook_agent_spend('ag', 'u-7', 10);
SELECT bucket, round(tokens) FROM webhook_rate_limits WHERE identifier = 'u-7';
INSERT INTO webhook_rate_limits VALUES ('u-7', 'agent-user:ag~' || webhook_uuid(), -50, clock_timestamp() - interval '6 hours');
SELECT apply_webhook_retention() IS NOT NULL AS swept;
SELECT count(*) FROM webhook_rate_limits WHERE identifier = 'u-7';
-- A limit is lifted; null leaves it.
SELECT register_webhook_agent('ag', p_daily_tokens => 0);
SELECT bucket FROM webhook_rate_limit_buckets WHERE bucket LIKE 'agent%';
-- It follows an agent that is renamed, and goes with the last that spends it.
UPDATE webhook_agents SET agent_type = 'ag-3' WHERE agent_type = 'ag';
SELECT bucket FROM webhook_rate_limit_buckets WHERE bucket LIKE 'agent%';
SELECT register_webhook_agent('ag-2', p_budget => 'ag-3');
DELETE FROM webhook_agents WHERE agent_type = 'ag-3';
SELECT bucket FROM webhook_rate_limit_buckets WHERE bucket LIKE 'agent%';
DELETE FROM webhook_agents WHERE agent_type = 'ag-2';
SELECT bucket FROM webhook_rate_limit_buckets WHERE bucket LIKE 'agent%';
-- Whatever it is called with.
SELECT register_webhook_agent('ag', p_daily_tokens => 2147483647, p_daily_tokens_per_user => 1);
SELECT pg_temp.may(NULL, NULL, NULL), pg_temp.may('nobody', 'u', 5), pg_temp.may('ag', '', NULL), pg_temp.may('ag', 'u', -5), pg_temp.may('ag', 'u', 2147483647);
SELECT webhook_agent_spend(NULL, NULL, NULL), webhook_agent_spend('nobody', 'u', 5), webhook_agent_spend('ag', '', 5), webhook_agent_spend('ag', 'u', -5), webhook_agent_spend('ag', 'u', 0);
SELECT count(*) FROM webhook_rate_limits WHERE bucket = 'agent-user:ag';
SELECT webhook_agent_spend('ag', repeat('u', 100000), 2147483647), webhook_agent_spend('ag', 'u', 2147483647);
SELECT webhook_agent_may_spend('ag', repeat('u', 100000), 1) ->> 'reason' AS reason, webhook_agent_may_spend('ag', 'u', 1) ->> 'allowed' AS allowed;
ROLLBACK;
