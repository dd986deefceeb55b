-- A dashboard for the terminal, in 100 columns: what comes in and out, how long it takes, what waits, what is wrong.
--
--   psql -X -d bot -f dashboard.sql                    every two seconds, until Ctrl-C
--   psql -X -d bot -v every=10 -v plain=1 -f ...       every ten, one below the other, for a log
--   psql -X -d bot -v schema=webhooks -f ...           where wahook is in another schema
--
-- The level "monitor" is enough. It writes nothing: the counters of one look are kept in a setting of the session, for the
-- next one to tell what happened in between. It shows no phone numbers, payloads and error texts.
\set QUIET on
\pset pager off
\pset tuples_only on
\pset format unaligned
\pset null ''
\set ON_ERROR_STOP on
\if :{?every}
\else
	\set every 2
\endif
\if :{?plain}
\else
	\set plain 0
\endif
\if :{?schema}
	SELECT set_config('search_path', quote_ident(:'schema'), false) \g /dev/null
\endif

WITH previous AS MATERIALIZED (
	SELECT nullif(current_setting('wahook_dashboard.look', true), '')::jsonb AS look
), metrics AS MATERIALIZED (
	SELECT name, labels, name || labels::text AS key, value FROM webhook_metrics()
), look AS MATERIALIZED (
	SELECT jsonb_build_object('at', extract(epoch FROM clock_timestamp()),
		'reset', (SELECT max(value) FROM metrics WHERE name = 'wahook_counters_reset_timestamp_seconds'),
		'values', (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM metrics
			WHERE name ~ '(_total|_bucket)$')) AS look
), between_looks AS MATERIALIZED (
	-- Nothing to compare with: the first look, or the counters began anew.
	SELECT CASE WHEN p.look -> 'reset' = l.look -> 'reset' THEN p.look -> 'values' END AS before,
		greatest(0.001, (l.look ->> 'at')::float8 - (p.look ->> 'at')::float8) AS seconds,
		set_config('wahook_dashboard.look', l.look::text, false) IS NOT NULL AS kept
	FROM previous p, look l
), health AS MATERIALIZED (
	SELECT webhook_health() AS h
), counted AS MATERIALIZED (
	SELECT m.name, m.labels, m.value, m.value - CASE WHEN b.before IS NOT NULL
		THEN coalesce((b.before ->> m.key)::float8, 0) END AS more
	FROM metrics m, between_looks b WHERE m.name ~ '(_total|_bucket)$'
), flow (n, label, metric, labels) AS (
	VALUES (1, 'messages received', 'events', '{"kind": "message", "outcome": "accepted"}'::jsonb),
		(2, 'duplicates', 'events', '{"outcome": "duplicate"}'),
		(3, 'rate-limited', 'events', '{"outcome": "rate_limited"}'),
		(4, 'deliveries refused', 'deliveries', '{"outcome": "refused"}'),
		(5, 'messages completed', 'messages_completed', '{}'),
		(6, 'attempts failed', 'messages_failed', '{}'),
		(7, 'retries', 'retries', '{}'),
		(8, 'requests to endpoints', 'http_attempts', '{}'),
		(9, 'agent calls', 'agent_calls', '{}'),
		(10, 'locks lost', 'locks', '{"result": "lost"}')
), throughput AS (
	SELECT f.n, rpad(f.label, 22) || lpad(coalesce(to_char(sum(c.more) / (SELECT seconds FROM between_looks), 'FM9,999,990.0'), '-'), 10)
		|| lpad(coalesce(to_char(sum(c.value), 'FM999,999,999,990'), '-'), 15) AS line
	FROM flow f LEFT JOIN counted c ON c.name = 'wahook_' || f.metric || '_total' AND c.labels @> f.labels
	GROUP BY f.n, f.label
), gauge (n, label, metric, labels) AS (
	VALUES (1, 'waiting or in work', 'inbox_messages', '{}'::jsonb),
		(2, 'oldest', 'inbox_oldest_seconds', '{}'),
		(3, 'conversations locked', 'conversations_locked', '{}'),
		(4, 'conversations stuck', 'conversations_stuck', '{}'),
		(5, 'circuits open', 'circuits_open', '{}'),
		(6, 'dead letters: pending', 'dead_letters', '{"state": "pending"}'),
		(7, '              retrying', 'dead_letters', '{"state": "retrying"}'),
		(8, '              given up', 'dead_letters', '{"state": "failed"}'),
		(9, 'in the quarantine', 'quarantine_messages', '{}'),
		(10, 'agent sessions', 'agent_sessions_active', '{}')
), state AS (
	SELECT g.n, rpad(g.label, 30) || lpad(coalesce(CASE
		WHEN g.metric <> 'inbox_oldest_seconds' THEN to_char(m.value, 'FM999,999,999,990')
		WHEN m.value < 120 THEN round(m.value) || ' s'
		WHEN m.value < 7200 THEN round(m.value / 60) || ' min'
		WHEN m.value < 172800 THEN round(m.value / 3600) || ' h'
		ELSE round(m.value / 86400) || ' days' END, '?'), 16) AS line
	FROM gauge g LEFT JOIN metrics m ON m.name = 'wahook_' || g.metric AND m.labels @> g.labels
), histogram (n, label, metric) AS (
	VALUES (1, 'intake of a delivery', 'intake'), (2, 'wait in the inbox', 'inbox_wait'), (3, 'processing', 'processing'),
		(4, 'end to end', 'end_to_end'), (5, 'request to an endpoint', 'http_request')
), bucket AS MATERIALIZED (
	-- Cumulative, as Prometheus has them; since the last look and in all.
	SELECT h.n, v.which, (c.labels ->> 'le')::float8 AS bound, v.value,
		lag((c.labels ->> 'le')::float8, 1, 0) OVER w AS lower, lag(v.value, 1, 0) OVER w AS below, max(v.value) OVER (PARTITION BY h.n, v.which) AS count
	FROM histogram h
		JOIN counted c ON c.name IN ('wahook_' || h.metric || '_duration_seconds_bucket', 'wahook_' || h.metric || '_seconds_bucket')
		CROSS JOIN LATERAL (VALUES (1, c.more), (2, c.value)) AS v (which, value)
	WINDOW w AS (PARTITION BY h.n, v.which ORDER BY (c.labels ->> 'le')::float8)
), quantile AS (
	SELECT h.n, w.which, q.q, (SELECT CASE WHEN b.bound = 'Infinity' THEN b.lower
			ELSE b.lower + (b.bound - b.lower) * (q.q * b.count - b.below) / nullif(b.value - b.below, 0) END
		FROM bucket b WHERE b.n = h.n AND b.which = w.which AND b.count > 0 AND b.value >= q.q * b.count
		ORDER BY b.bound LIMIT 1) AS seconds
	FROM histogram h CROSS JOIN (VALUES (1), (2)) AS w (which) CROSS JOIN (VALUES (0.5), (0.95), (0.99)) AS q (q)
), latency AS (
	SELECT h.n, rpad(h.label, 24) || string_agg(lpad(CASE
			WHEN q.seconds IS NULL THEN '-'
			WHEN q.seconds < 0.01 THEN to_char(q.seconds * 1000, 'FM990.0') || ' ms'
			WHEN q.seconds < 1 THEN to_char(q.seconds * 1000, 'FM990') || ' ms'
			WHEN q.seconds < 100 THEN to_char(q.seconds, 'FM990.0') || ' s'
			WHEN q.seconds < 7200 THEN to_char(q.seconds / 60, 'FM990') || ' min'
			ELSE to_char(q.seconds / 3600, 'FM990') || ' h' END, CASE WHEN q.which = 2 AND q.q = 0.5 THEN 16 ELSE 12 END), '' ORDER BY q.which, q.q) AS line
	FROM histogram h JOIN quantile q USING (n) GROUP BY h.n, h.label
), hours AS MATERIALIZED (
	SELECT g AS ago, coalesce(m.messages_processed, 0) AS messages, m.p95_processing_ms AS p95,
		max(m.messages_processed) OVER () AS most, max(m.p95_processing_ms) OVER () AS slowest
	FROM generate_series(0, 23) g LEFT JOIN webhook_message_processing_metrics m
		ON m.hour = date_trunc('hour', now()) - g * interval '1 hour'
), day AS (
	SELECT string_agg(substr(' .:-=+*#%@', 1 + ceil(9.0 * messages / greatest(most, 1))::integer, 1), '' ORDER BY ago DESC) AS messages,
		string_agg(substr(' .:-=+*#%@', 1 + ceil(9.0 * coalesce(p95, 0) / greatest(slowest, 1))::integer, 1), '' ORDER BY ago DESC) AS p95,
		max(most) AS most, max(slowest) AS slowest, sum(messages) AS total
	FROM hours
), circuits AS (
	SELECT row_number() OVER (ORDER BY key) AS n, key FROM health,
		jsonb_array_elements_text(coalesce(nullif(h #> '{circuits,services}', 'null'), '[]')) AS key
), alerts AS (
	SELECT n, rpad(r ->> 'severity', 9) || rpad(r ->> 'reason', 21) || (r ->> 'message') AS line
	FROM health, jsonb_array_elements(h -> 'reasons') WITH ORDINALITY AS e (r, n)
), lines (part, n, line) AS (
	SELECT 1, 0, E'\033[2J\033[H' WHERE NOT :'plain'::boolean
	UNION ALL SELECT 1, 1, rpad(left(format('wahook %s, database %s, %s', h #>> '{version,extension}', current_database(),
			to_char(now(), 'YYYY-MM-DD HH24:MI:SS TZ')), 84), 84) || lpad(upper(h ->> 'status'), 16) FROM health
	UNION ALL SELECT 1, 2, CASE WHEN h #>> '{worker,pid}' IS NOT NULL
			THEN format('worker: %s, process %s, last turn %s s ago', h #>> '{worker,state}', h #>> '{worker,pid}', round((h #>> '{worker,heartbeat_age_seconds}')::numeric))
		WHEN (h #>> '{worker,expected}')::boolean THEN 'worker: GONE'
		ELSE format('worker: none here; the jobs last ran at %s', coalesce(to_char((h #>> '{worker,last_job_at}')::timestamptz, 'YYYY-MM-DD HH24:MI:SS'), '(never)')) END
		FROM health
	UNION ALL SELECT 1, 3, ''
	UNION ALL SELECT 2, 0, rpad('THROUGHPUT', 22) || lpad('per s', 10) || lpad('total', 15) || '    ' || 'NOW'
	UNION ALL SELECT 2, t.n, rpad(t.line, 47) || '    ' || s.line FROM throughput t JOIN state s USING (n)
	UNION ALL SELECT 2, 11, CASE WHEN (SELECT count(*) FROM counted WHERE name LIKE '%\_bucket') = 0
		THEN 'Throughput and latencies are counted where wahook is in shared_preload_libraries.'
		ELSE format('Totals since %s%s.', (SELECT to_char(to_timestamp((look ->> 'reset')::float8), 'YYYY-MM-DD HH24:MI') FROM look),
			(SELECT CASE WHEN before IS NOT NULL THEN format('; per s: in the last %s s', round(seconds::numeric, 1))
				ELSE '; per s: from the next look on' END FROM between_looks)) END
	UNION ALL SELECT 3, 0, ''
	UNION ALL SELECT 3, 1, rpad('LATENCY', 24) || lpad('now p50', 12) || lpad('p95', 12) || lpad('p99', 12) || lpad('total p50', 16) || lpad('p95', 12) || lpad('p99', 12)
	UNION ALL SELECT 3, 1 + n, line FROM latency
	UNION ALL SELECT 4, 0, ''
	UNION ALL SELECT 4, 1, 'LAST 24 HOURS, one column an hour, this hour last'
	UNION ALL SELECT 4, 2, format('messages processed  |%s|  %s, at most %s an hour', messages, to_char(total, 'FM999,999,999,990'), to_char(coalesce(most, 0), 'FM999,999,990')) FROM day
	UNION ALL SELECT 4, 3, format('p95 of processing   |%s|  at most %s ms', p95, to_char(coalesce(slowest, 0), 'FM999,999,990')) FROM day
	UNION ALL SELECT 5, 0, '' WHERE EXISTS (SELECT FROM circuits)
	UNION ALL SELECT 5, 1, 'CIRCUITS OPEN' WHERE EXISTS (SELECT FROM circuits)
	UNION ALL SELECT 5, 1 + n, key FROM circuits WHERE n <= 5
	UNION ALL SELECT 5, 10, format('and %s more', count(*) - 5) FROM circuits HAVING count(*) > 5
	UNION ALL SELECT 6, 0, ''
	UNION ALL SELECT 6, 1, CASE WHEN EXISTS (SELECT FROM alerts) THEN 'ALERTS' ELSE 'ALERTS: none' END
	UNION ALL SELECT 6, 1 + n, line FROM alerts WHERE n <= 10
	UNION ALL SELECT 6, 20, format('and %s more', count(*) - 10) FROM alerts HAVING count(*) > 10
), clean AS (
	-- Names may have any characters: none may move the cursor, or take more than a column.
	SELECT part, n, CASE WHEN part = 1 AND n = 0 THEN line
		ELSE rtrim(regexp_replace(line, '[^ -~\u00a1-\u00ac\u00ae-\u024f]', '?', 'g')) END AS line
	FROM lines
)
SELECT CASE WHEN length(line) > 100 THEN left(line, 97) || '...' ELSE line END FROM clean ORDER BY part, n
\watch :every
