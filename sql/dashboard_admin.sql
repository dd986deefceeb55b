-- The page: what it is made of, hostile input, nothing personal in it, and who may see it.
\set SHOW_CONTEXT never
SELECT webhook_html(E'<a href="x" on=\'y\'>&amp;\u0001\u001b[31m\t' || 'ü') AS escaped, webhook_html(NULL) = '' AS none, length(webhook_html(repeat('<', 1000000))) AS long;
SELECT array_agg(webhook_short_number(n)) FROM unnest(ARRAY[NULL, 0, 0.04, 5.25, 9999, 10000, 123456, 5e6, 7.25e9, -3]::float8[]) n;
SELECT array_agg(webhook_axis_step(n)) FROM unnest(ARRAY[0, 1, 4, 5, 10, 11, 99, 100, 101, 2500, 2501, 1e9]::float8[]) n;
SELECT count(*) AS wrong FROM generate_series(0, 20000) n WHERE webhook_axis_step(n) * 4 < n OR webhook_axis_step(n) > greatest(1, n) OR webhook_axis_step(n) IS NULL;

-- Classes of errors: of what wahook itself writes, of what handlers do; never a word of the text.
SELECT e, webhook_error_class(e) FROM unnest(ARRAY[NULL, '', 'HTTP 503', 'HTTP 301: redirects are not followed', 'http status: 429 from https://x.example/250788123456',
	'timed out: 5000 ms', 'canceling statement due to statement timeout', 'not processed within 10000 ms', 'connection failed: refused', 'ECONNRESET',
	'TLS failed: certificate has expired', 'address refused: 10.0.0.1', 'could not resolve host: a.example', 'Rate limit reached for gpt-x',
	'duplicate key value violates unique constraint "users_phone_key"', 'deadlock detected', 'permission denied for table users',
	'invalid input syntax for type json', 'relation "x" does not exist', 'TypeError: undefined is not a function', 'its holder vanished',
	'circuit open', 'out of memory', 'worker is shutting down', 'Ines says hello, +250 788 123 456', E'\u0001<script>']) e;
SELECT length(webhook_error_class(repeat('x', 1000000) || 'timeout')), count(DISTINCT webhook_error_class(md5(n::text))) FROM generate_series(1, 200) n;
-- Nor do they depend on how the session writes strings; nor does what an erasure looks for.
SET standard_conforming_strings = off;
SELECT webhook_error_class('HTTP 503'), webhook_error_class('TLS failed: x'), webhook_name_pattern('a.b+c9');
RESET standard_conforming_strings;

-- Charts of nothing, of one value, of gaps.
SELECT webhook_time_chart('a', 'lines', 'A < B', '"d"', ARRAY[timestamptz '2026-01-01 00:00+00'], '[{"name": "n", "class": "good", "values": [null]}]', 'u');
SELECT webhook_svg_lines(ARRAY['2026-01-01', '2026-01-02', '2026-01-03', '2026-01-04']::timestamptz[],
	'[{"name": "n", "class": "good", "values": [4, null, 2, 0]}, {"name": "none", "class": "bad", "values": [null, null, null, null]}]', 1);
SELECT webhook_svg_columns(ARRAY['2026-01-01', '2026-01-02']::timestamptz[],
	'[{"name": "n", "class": "good", "values": [4000, 0]}, {"name": "m", "class": "bad", "values": [1, null]}]', 1000);
SELECT webhook_bar_chart('b', 't', 'd', '[["<b>", [["good", 3], ["bad", 0], ["plain", 1]]], ["two", [["good", 2]]]]');
SELECT webhook_html_table('c', '{a,b}', '[["<x>", null], ["y", "1"]]');

-- Empty, and as XML well-formed but for what HTML may leave open.
CREATE FUNCTION as_xml(p_html text) RETURNS xml LANGUAGE sql AS $$
	SELECT regexp_replace(replace(replace(p_html, '<!DOCTYPE html>', ''), '&middot;', ''), '<meta ([^>]*)>', '<meta \1/>', 'g')::xml $$;
SELECT xpath('count(//section)', as_xml(webhook_dashboard())) AS sections, xpath('//span[contains(@class, "status")]/text()', as_xml(webhook_dashboard())) IS NOT NULL AS status;

-- Full of what must not be seen.
BEGIN;
INSERT INTO webhook_conversations (user_id, whatsapp_phone, locked_by, locked_at, status, last_activity_at)
	SELECT 'user-SECRET-' || n, '250788' || 100000 + n, gen_random_uuid(), now() - interval '1 hour', 'processing', now() - interval '1 hour' FROM generate_series(1, 3) n;
INSERT INTO processed_webhook_messages (whatsapp_message_id, payload, processed_at, processing_time_ms)
	SELECT 'wamid.SECRET-' || n, '{"text": "SECRET"}', now() - interval '1 minute', n FROM generate_series(1, 50) n;
INSERT INTO webhook_message_sums (width, starts_at, received, processed, failed, timed, times, counts)
	SELECT w, date_bin(w, now() - interval '2 hours', '2000-01-01'), 60, 50, 9, 50, '{1,50,1000}', '{20,20,10}' FROM unnest('{5 minutes,1 hour}'::interval[]) w;
INSERT INTO webhook_rollup_state (counted_until) VALUES (now() - interval '1 minute') ON CONFLICT (one) DO UPDATE SET counted_until = excluded.counted_until, history_until = NULL;
DELETE FROM webhook_depth_samples;
SELECT webhook_sample_depth();
SELECT webhook_sample_depth();
SELECT count(*), sum(waiting), sum(dead_letters) FROM webhook_depth_samples;
INSERT INTO webhook_depth_samples VALUES (now() - interval '3 hours', 7, 1.5, 2);
INSERT INTO webhook_dlq (payload, whatsapp_message_id, from_number, error, error_stack, service)
	SELECT '{"SECRET": 1}', 'wamid.SECRET-' || n, '250788123456', CASE WHEN n < 10 THEN 'HTTP 503: SECRET <script>alert(1)</script>' ELSE 'SECRET +250788123456 was here' END,
		'SECRET', CASE WHEN n % 2 = 0 THEN 'default' ELSE 'fallback' END FROM generate_series(1, 15) n;
INSERT INTO agent_sessions (conversation_id, agent_type, session_state) SELECT id, 'waiter', 'failed' FROM webhook_conversations WHERE user_id LIKE 'user-SECRET-%' LIMIT 2;
INSERT INTO webhook_circuits (key, state, failures, timeout_ms, updated_at, opened_at) VALUES ('250788123456', 'open', 5, 60000, now(), now());
CREATE TEMP TABLE page AS SELECT webhook_dashboard() AS html;
SELECT html ~ 'SECRET' AS secret, html ~ '2507' AS phone, html ~ 'wamid' AS message, html ~* '<script|javascript:|https?:|url\(|@import| on[a-z]+=' AS script_or_link,
	html ~ '[0-9a-f]{8}-[0-9a-f]{4}-' AS ids FROM page;
SELECT xpath('//h2/text()', as_xml(html))::text[] AS parts FROM page;
SELECT xpath('count(//svg[@role="img"])', as_xml(html)) AS charts, xpath('count(//svg[@role="img"][title and desc])', as_xml(html)) AS described,
	xpath('count(//table[caption])', as_xml(html)) AS tables FROM page;
SELECT xpath('//section[@aria-labelledby="errors-h"]//tbody//*[self::th or self::td]/text()', as_xml(html))::text[] AS errors,
	xpath('//section[@aria-labelledby="agents-h"]//tbody//*[self::th or self::td]/text()', as_xml(html))::text[] AS agents FROM page;
SELECT count(*) - count(DISTINCT id) AS repeated FROM page, unnest(xpath('//@id', as_xml(html))::text[]) id;
-- Whatever the session's settings.
SET LOCAL TimeZone = 'Asia/Kathmandu';
SET LOCAL DateStyle = 'German';
SET LOCAL extra_float_digits = 0;
SELECT webhook_dashboard() = html AS same FROM page;
ROLLBACK;

-- Who may.
CREATE ROLE dashboard_reader;
SELECT wahook_grant('dashboard_reader', 'monitor');
SET ROLE dashboard_reader;
SELECT webhook_dashboard() LIKE '<!DOCTYPE html>%</html>' AS page;
SELECT webhook_dashboard_errors();
SELECT * FROM webhook_depth_samples;
RESET ROLE;
SELECT wahook_revoke('dashboard_reader', 'monitor');
DROP OWNED BY dashboard_reader;
SET ROLE dashboard_reader;
SELECT webhook_dashboard();
RESET ROLE;
DROP ROLE dashboard_reader;
DROP FUNCTION as_xml(text);
