-- The sums that the monitoring views read: the same numbers as the tables give, whatever was when.
\set SHOW_CONTEXT never
BEGIN;
SET LOCAL TimeZone = 'UTC';
-- What other tests left would show.
DELETE FROM webhook_conversations;
DELETE FROM webhook_dlq;
DELETE FROM processed_webhook_messages;
DELETE FROM webhook_attempts;
DELETE FROM webhook_message_sums;
DELETE FROM webhook_rollup_state;

-- Percentiles are percentile_cont()'s.
CREATE TEMP TABLE samples AS SELECT n % 7 AS grp, (abs(hashint4(n)) % (10 * (n % 7) + 3) - 5)::integer AS ms FROM generate_series(1, 700) n;
SELECT count(*) FROM (SELECT grp, f, percentile_cont(f) WITHIN GROUP (ORDER BY ms) AS right_one FROM samples, unnest(ARRAY[0, 0.01, 0.5, 0.95, 0.99, 1]) f GROUP BY grp, f) r
	JOIN LATERAL (SELECT array_agg(ms) AS ms, array_agg(n) AS n FROM (SELECT ms, count(*) AS n FROM samples WHERE grp = r.grp GROUP BY ms) d) d ON true
	WHERE abs(webhook_percentile(d.ms, d.n, f) - right_one) < 1e-9;
SELECT webhook_percentile('{5,1,5}', '{1,1,1}', 0.5) AS unordered, webhook_percentile('{5}', '{1}', 0.99) AS one,
	webhook_percentile('{-2147483648,2147483647}', '{1,1}', 0.5) AS extremes, webhook_percentile('{1,2,3}', '{1,0,1}', 0.5) AS gap,
	webhook_percentile('{}', '{}', 0.5) AS none, webhook_percentile(NULL, '{}', 0.5) AS nulls, webhook_percentile('{1}', '{0}', 0.5) AS zero;
SAVEPOINT s;
SELECT webhook_percentile('{1,2}', '{1}', 0.5);
ROLLBACK TO s;
SELECT webhook_percentile('{1}', '{1}', 'NaN');
ROLLBACK TO s;
SELECT webhook_percentile('{1}', '{1}', 1.5);
ROLLBACK TO s;
SELECT webhook_percentile('{1}', '{-1}', 0.5);
ROLLBACK TO s;
SELECT webhook_percentile('{1,2}', '{9223372036854775807,1}', 0.5);
ROLLBACK TO s;
SELECT webhook_percentile('{{1},{2}}', '{1,1}', 0.5);
ROLLBACK TO s;
SELECT webhook_percentile('{1,null}', '{1,1}', 0.5);
ROLLBACK TO s;

-- What the tables say, from a multiple of five minutes on, as the sums do.
CREATE FUNCTION since() RETURNS timestamptz LANGUAGE sql AS $$ SELECT date_bin('5 minutes', now() - interval '24 hours', '2000-01-01') + interval '5 minutes' $$;
CREATE VIEW truth AS SELECT date_trunc('hour', processed_at) AS hour, count(*) AS messages_processed, round(avg(processing_time_ms), 6) AS avg_processing_ms,
		percentile_cont(0.95) WITHIN GROUP (ORDER BY processing_time_ms) AS p95_processing_ms,
		percentile_cont(0.99) WITHIN GROUP (ORDER BY processing_time_ms) AS p99_processing_ms,
		max(processing_time_ms) AS max_processing_ms, min(processing_time_ms) AS min_processing_ms
	FROM processed_webhook_messages WHERE processed_at >= since() GROUP BY 1;
CREATE FUNCTION differences() RETURNS TABLE (what text, differ bigint) LANGUAGE sql AS $$
	SELECT 'hours', count(*) FILTER (WHERE to_jsonb(t) IS DISTINCT FROM to_jsonb(v))
		FROM truth t FULL JOIN (SELECT hour, messages_processed, round(avg_processing_ms, 6) AS avg_processing_ms, p95_processing_ms,
			p99_processing_ms, max_processing_ms, min_processing_ms FROM webhook_message_processing_metrics) v USING (hour)
	UNION ALL SELECT 'stats', count(*) FROM get_webhook_performance_stats(24) JOIN (
			SELECT 'total_messages_processed' AS metric_name, count(*)::numeric AS value FROM processed_webhook_messages WHERE processed_at >= since()
			UNION ALL SELECT 'p95_processing_time_ms', percentile_cont(0.95) WITHIN GROUP (ORDER BY processing_time_ms)::numeric
				FROM processed_webhook_messages WHERE processed_at >= since()) t USING (metric_name)
		WHERE t.value::numeric(20, 2) <> get_webhook_performance_stats.value::numeric(20, 2) $$;

-- Two days of messages, one a minute, a second or a day late, some without a time, some not processed.
INSERT INTO processed_webhook_messages (id, whatsapp_message_id, received_at, processed_at, processing_time_ms)
	SELECT (left(webhook_uuid_floor(at)::text, 14) || '7' || right(gen_random_uuid()::text, 21))::uuid, 'wamid.rollup-' || n, at,
		CASE WHEN n % 10 <> 0 THEN at + CASE WHEN n % 11 = 0 THEN least(interval '23 hours', now() - at - interval '2 hours') ELSE interval '1 second' END END,
		CASE WHEN n % 10 <> 0 AND n % 13 <> 0 THEN abs(hashint4(n)) % 500 END
	FROM (SELECT n, since() + interval '24 hours' - n * interval '1 minute' AS at FROM generate_series(1, 2880) n) m
	WHERE n % 11 <> 0 OR at < now() - interval '3 hours';
INSERT INTO webhook_attempts (message_id, attempt, outcome, finished_at)
	SELECT id, 1, CASE WHEN processed_at IS NULL THEN 'failed' ELSE 'succeeded' END, coalesce(processed_at, received_at) FROM processed_webhook_messages;

-- The first runs: how far to count is noted, then counted. No other transaction is waited for here.
SELECT webhook_roll_up();
UPDATE webhook_rollup_state SET next_until = now() - interval '65 minutes', next_xid = '3';
SELECT counted_until IS NULL AS nothing_counted FROM webhook_rollup_state;
SELECT webhook_roll_up();
SELECT counted_until = now() - interval '65 minutes' AS counted, history_until IS NULL AS all_of_it, count(*) > 300 AS sums
	FROM webhook_rollup_state, webhook_message_sums GROUP BY 1, 2;
SELECT * FROM differences();
SELECT sum(received) = (SELECT count(*) FROM processed_webhook_messages WHERE received_at < counted_until) AS received,
		sum(failed) = (SELECT count(*) FROM webhook_delivery_attempts WHERE outcome = 'failed' AND finished_at < counted_until) AS failed
	FROM webhook_message_sums, webhook_rollup_state WHERE width = '1 hour' GROUP BY counted_until;

-- What is known since: received and processed; received earlier and completed, or retried, or resolved by
-- hand; recorded with a time long past.
INSERT INTO processed_webhook_messages (id, whatsapp_message_id, received_at, processed_at, processing_time_ms)
	VALUES (webhook_uuid(), 'wamid.rollup-a', now() - interval '30 minutes', now() - interval '20 minutes', 7),
		(webhook_uuid(), 'wamid.rollup-d', now(), now() - interval '5 hours', 100000),
		-- By a caller whose clock is ahead, and without an attempt: received before what was counted, processed after.
		(webhook_uuid(), 'wamid.rollup-e', now() - interval '65 minutes 10 seconds', now() - interval '64 minutes 30 seconds', 8);
CREATE TEMP TABLE later AS SELECT id, whatsapp_message_id, row_number() OVER (ORDER BY received_at) AS n
	FROM processed_webhook_messages WHERE processed_at IS NULL AND received_at < now() - interval '3 hours' ORDER BY received_at LIMIT 20;
UPDATE processed_webhook_messages m SET processed_at = now() - interval '1 minute' * n, processing_time_ms = 3000 + n
	FROM later WHERE later.id = m.id AND n <= 10;
INSERT INTO webhook_attempts (message_id, attempt, outcome, finished_at)
	SELECT id, 2, 'succeeded', now() - interval '1 minute' * n FROM later WHERE n <= 10;
-- Ids of the caller's own making.
INSERT INTO processed_webhook_messages (id, whatsapp_message_id, received_at, processed_at, processing_time_ms)
	VALUES ('ffffffff-0000-4000-8000-000000000001', 'wamid.rollup-f', now() - interval '10 hours', now() - interval '9 minutes', 77);
INSERT INTO webhook_attempts (message_id, attempt, outcome, finished_at)
	VALUES ('ffffffff-0000-4000-8000-000000000001', 1, 'succeeded', now() - interval '9 minutes');
INSERT INTO webhook_dlq (payload, whatsapp_message_id) SELECT '{}', whatsapp_message_id FROM later WHERE n > 10;
UPDATE webhook_dlq SET resolution_status = 'resolved' WHERE whatsapp_message_id LIKE 'wamid.rollup-%';
SELECT count(*) FROM processed_webhook_messages JOIN later USING (id) WHERE processed_at IS NOT NULL;
SELECT * FROM differences();
-- Counted, and counted once.
UPDATE webhook_rollup_state SET next_until = now() - interval '4 minutes', next_xid = '3';
SELECT webhook_roll_up() -> 'counted' > '20' AS counted;
SELECT * FROM differences();
SELECT webhook_count_messages(counted_until, counted_until) FROM webhook_rollup_state;
SELECT * FROM differences();
-- The clock is set back, after all of this was counted.
SAVEPOINT s;
-- What was recorded with a time long past would count twice.
DELETE FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.rollup-d';
SELECT webhook_count_messages(counted_until, now() + interval '10 minutes') > 0 AS counted FROM webhook_rollup_state;
UPDATE webhook_rollup_state SET counted_until = now() + interval '10 minutes', next_until = now() + interval '11 minutes';
INSERT INTO processed_webhook_messages (whatsapp_message_id, received_at, processed_at, processing_time_ms) VALUES ('wamid.rollup-back', now(), now(), 9);
-- What came in an hour before is found by its attempt, where its id is as old.
UPDATE processed_webhook_messages SET id = webhook_uuid_floor(received_at) WHERE whatsapp_message_id = 'wamid.rollup-a';
INSERT INTO webhook_attempts (message_id, attempt, outcome, finished_at)
	SELECT id, 1, 'succeeded', processed_at FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.rollup-a';
SELECT webhook_roll_up() ->> 'success' AS success;
SELECT * FROM differences();
ROLLBACK TO s;
-- Somebody's transaction is still open.
UPDATE webhook_rollup_state SET next_until = now() - interval '2 minutes', next_xid = '9000000000000000000';
SELECT webhook_roll_up() -> 'counted' AS waits;
UPDATE webhook_rollup_state SET next_until = now() - interval '16 minutes', counted_until = now() - interval '16 minutes 1 second';
SELECT webhook_roll_up() ->> 'success' AS success;
SELECT counted_until = now() - interval '16 minutes' AS not_for_ever FROM webhook_rollup_state;
-- Sums of five minutes go, those of hours stay.
INSERT INTO webhook_message_sums (width, starts_at) VALUES ('5 minutes', now() - interval '27 hours'), ('1 hour', now() - interval '27 hours');
SELECT webhook_roll_up() ->> 'success' AS success;
SELECT width, count(*) FROM webhook_message_sums WHERE starts_at = now() - interval '27 hours' GROUP BY 1;

-- Conversations: of a small table nothing is kept.
INSERT INTO webhook_conversations (user_id, status, last_activity_at, retry_count, error_count, locked_by, locked_at, lock_expires_at, lock_token)
	SELECT 'u' || n, (ARRAY['active', 'completed', 'error'])[n % 3 + 1], date_bin('15 minutes', now(), '2000-01-01') - n * interval '15 minutes' + interval '1 minute',
		n % 4, n % 5, CASE WHEN n % 6 = 0 THEN gen_random_uuid() END, now(), now() + interval '1 hour', 1
	FROM generate_series(1, 200) n;
CREATE FUNCTION by_status() RETURNS SETOF webhook_conversation_health LANGUAGE sql AS $$
	SELECT * FROM webhook_conversations_by_status(date_bin('15 minutes', now(), '2000-01-01') - interval '24 hours') $$;
CREATE TEMP TABLE counted AS SELECT * FROM by_status();
SELECT status, count, round(avg_idle_seconds) > 0 AS idle, max_retries, total_errors, locked_count FROM counted ORDER BY 1;
SELECT count(*) FROM webhook_conversation_sums;
SELECT written IS NOT NULL AS written, next_at - clock_timestamp() BETWEEN '0' AND interval '10 minutes' AS later FROM webhook_count_conversations(NULL, NULL, 0);
SELECT run_webhook_job('rollup') ->> 'success' AS success;
SELECT count(*) FROM webhook_conversation_sums;
SELECT webhook_count_conversations(NULL, NULL, 0) IS NOT NULL AS again;
SELECT c.status, c.count - v.count AS count, c.avg_idle_seconds - v.avg_idle_seconds AS avg, c.max_retries - v.max_retries AS retries,
		c.total_errors - v.total_errors AS errors, c.locked_count - v.locked_count AS locked
	FROM counted c FULL JOIN by_status() v USING (status) ORDER BY 1;
-- They are not counted again before their time, and not where nothing was written.
UPDATE webhook_conversation_sums SET conversations = array_fill(2, ARRAY[cardinality(since)]);
SELECT written, next_at > now() FROM webhook_count_conversations(-1, 'infinity', 0);
SELECT sum(count) FROM by_status();
-- Nobody keeps them up any more.
UPDATE webhook_job_runs SET last_started_at = now() - interval '16 minutes' WHERE job = 'rollup';
SELECT status, count FROM by_status() ORDER BY 1;
ROLLBACK;

-- What is completed by wahook's own calls is found as well, when it came before the last count.
BEGIN;
DELETE FROM webhook_rollup_state;
SELECT outcome FROM receive_webhook('{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"messages","value":{"messaging_product":"whatsapp","metadata":{"phone_number_id":"rollup"},"contacts":[{"wa_id":"15550199","profile":{"name":"A"}}],"messages":[{"id":"wamid.rollup-late","from":"15550199","timestamp":"1760000000","type":"text","text":{"body":"a"}},{"id":"wamid.rollup-failed","from":"15550199","timestamp":"1760000000","type":"text","text":{"body":"b"}}]}}]}]}');
INSERT INTO webhook_rollup_state (counted_until) VALUES (clock_timestamp());
SELECT count(*) FROM webhook_rollup_state, webhook_messages_known(counted_until, 'infinity');
SELECT conversation_id, lock_id, jsonb_array_length(messages) AS messages FROM claim_conversations(1) \gset
SELECT :messages AS messages, complete_webhook_messages(:'conversation_id', :'lock_id', '{wamid.rollup-late}', 42, false) AS completed,
	(fail_webhook_message(:'conversation_id', :'lock_id', 'wamid.rollup-failed', 'no')).resolution_status;
SELECT processing_time_ms FROM webhook_rollup_state, webhook_messages_known(counted_until, 'infinity');
SELECT mark_message_processed('wamid.rollup-failed', true);
SELECT processing_time_ms FROM webhook_rollup_state, webhook_messages_known(counted_until, 'infinity') ORDER BY 1;
ROLLBACK;

-- What is completed soon after it came has no attempt in the table, what came earlier has; the sums find both, once. So what
-- completing takes for soon must be what the sums take for it: c_soon in rollup.sql, SOON_US in conversation/record.c.
BEGIN;
DELETE FROM webhook_rollup_state;
SELECT count(*) FROM generate_series(1, 4) n, receive_webhook(format('{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"messages","value":{"messaging_product":"whatsapp","metadata":{"phone_number_id":"rollup"},"messages":[{"id":"wamid.rollup-soon-%s","from":"1555019%s","timestamp":"1760000000","type":"text","text":{"body":"a"}}]}}]}]}', n, n));
UPDATE processed_webhook_messages m SET received_at = clock_timestamp() - make_interval(secs => seconds)
	FROM (VALUES (1, -3600), (2, 55), (3, 61), (4, 3600)) v (n, seconds) WHERE whatsapp_message_id = 'wamid.rollup-soon-' || n;
SELECT sum(complete_webhook_messages(conversation_id, lock_id, NULL, 900000 + right(messages -> 0 ->> 'whatsapp_message_id', 1)::integer)) AS completed FROM claim_conversations(4);
-- How often each is counted: until then, and from then on.
CREATE FUNCTION pg_temp.times(p_from timestamptz, p_until timestamptz, p_ms integer) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM webhook_messages_known(p_from, p_until) WHERE processing_time_ms = p_ms $$;
CREATE FUNCTION pg_temp.counted(p_boundary text) RETURNS TABLE (n integer, told_by_itself boolean, before bigint, after bigint) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE 'SELECT processing_time_ms - 900000, claimed_by IS NOT NULL, pg_temp.times(now() - interval ''2 hours'', '
		|| p_boundary || ', processing_time_ms), pg_temp.times(' || p_boundary || ', ''infinity'', processing_time_ms)
		FROM processed_webhook_messages WHERE whatsapp_message_id LIKE ''wamid.rollup-soon-%'' ORDER BY 1';
END
$$;
SELECT * FROM pg_temp.counted('processed_at');
SELECT * FROM pg_temp.counted($$processed_at + interval '1 microsecond'$$);
SELECT * FROM pg_temp.counted($$received_at + interval '1 microsecond'$$);
-- No longer than it is: without their attempts, those that came earlier are not found.
DELETE FROM webhook_attempts WHERE message_id IN (SELECT id FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'wamid.rollup-soon-%');
SELECT * FROM pg_temp.counted('processed_at');
ROLLBACK;
