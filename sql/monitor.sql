-- The monitoring views, each alert of the health check on both sides of its threshold, and the numbers.
\set SHOW_CONTEXT never
BEGIN;
SET LOCAL TimeZone = 'UTC';
-- What other tests left would show.
DELETE FROM webhook_conversations;
DELETE FROM conversation_state_transitions;
DELETE FROM webhook_dlq;
DELETE FROM processed_webhook_messages;

-- All is well.
SELECT * FROM check_webhook_system_health();

-- Conversations: one a status, one of yesterday, one idle too long, one locked too long.
INSERT INTO webhook_conversations (user_id, status, last_activity_at, created_at, retry_count, error_count, locked_by, locked_at)
	VALUES
		('fresh', 'active', now(), now(), 0, 0, NULL, NULL),
		('old', 'active', now() - interval '25 hours', now() - interval '30 days', 9, 9, NULL, NULL),
		('long-lived', 'active', now() - interval '10 s', now() - interval '30 days', 1, 2, NULL, NULL),
		('held', 'processing', now() - interval '20 s', now(), 2, 0, gen_random_uuid(), now() - interval '20 s'),
		('pending', 'pending', now() - interval '4 minutes', now(), 0, 0, NULL, NULL),
		('stuck', 'processing', now() - interval '6 minutes', now(), 0, 3, NULL, NULL);
SELECT status, count, round(avg_idle_seconds, 3) AS avg_idle_seconds, max_retries, total_errors, locked_count
	FROM webhook_conversation_health ORDER BY status;
SELECT user_id, status, idle_seconds FROM stuck_webhook_conversations;
SELECT alert_type, severity, message, details - 'oldest' AS details FROM check_webhook_system_health();
INSERT INTO webhook_conversations (user_id, last_activity_at, locked_by, locked_at)
	VALUES ('left locked', now() - interval '3 minutes', gen_random_uuid(), now() - interval '3 minutes'),
		('lost long ago', now() - interval '2 days', gen_random_uuid(), now() - interval '2 days');
SELECT user_id, status, locked_by IS NOT NULL AS locked, idle_seconds FROM stuck_webhook_conversations;
SELECT alert_type, severity, message, details - 'oldest' AS details FROM check_webhook_system_health();
SELECT jsonb_array_length(details -> 'oldest') FROM check_webhook_system_health();
-- The times are settings.
SET LOCAL wahook.lock_timeout = '1 h';
SET LOCAL wahook.stuck_timeout = '1 h';
SELECT user_id FROM stuck_webhook_conversations;
RESET wahook.lock_timeout;
RESET wahook.stuck_timeout;
DELETE FROM webhook_conversations;

-- More than 10 errors in an hour: now, or recovered since.
INSERT INTO webhook_conversations (user_id, status) SELECT 'e', 'error' FROM generate_series(1, 10);
INSERT INTO webhook_conversations (user_id, status, updated_at) VALUES ('e', 'error', now() - interval '61 minutes');
SELECT * FROM check_webhook_system_health();
INSERT INTO conversation_state_transitions (conversation_id, from_state, to_state)
	SELECT id, 'processing', 'error' FROM webhook_conversations LIMIT 1;
INSERT INTO conversation_state_transitions (conversation_id, from_state, to_state)
	VALUES (gen_random_uuid(), 'processing', 'error');
SELECT alert_type, severity, message, details - 'failed_attempts' AS details FROM check_webhook_system_health();
DELETE FROM webhook_conversations;
DELETE FROM conversation_state_transitions;

-- More than 5 timeouts in an hour.
INSERT INTO webhook_conversations (user_id, status) SELECT 't', 'timeout' FROM generate_series(1, 5);
SELECT * FROM check_webhook_system_health();
INSERT INTO webhook_conversations (user_id, status) VALUES ('t', 'timeout');
SELECT * FROM check_webhook_system_health();
DELETE FROM webhook_conversations;

-- More than 5 dead letters that wait.
INSERT INTO webhook_dlq (payload, whatsapp_message_id, resolution_status, retry_count, created_at, next_retry_at)
	SELECT '{}', 'wamid.monitor-' || n, CASE WHEN n < 6 THEN 'pending' ELSE 'failed' END, n % 4,
		now() - n * interval '1 hour', now() + interval '1 hour'
	FROM generate_series(1, 7) n;
SELECT * FROM check_webhook_system_health();
INSERT INTO webhook_dlq (payload, whatsapp_message_id, next_retry_at, created_at)
	VALUES ('{}', 'wamid.monitor-8', now() + interval '1 hour', now() - interval '25 hours');
SELECT * FROM check_webhook_system_health();
SELECT resolution_status, count, max_retries_reached, round(avg_retry_count, 2) AS avg_retry_count,
		now() - oldest_message AS oldest, now() - newest_message AS newest
	FROM webhook_dlq_summary ORDER BY 1;

-- Messages: by the hour they were processed in, newest first; those that still wait don't count.
INSERT INTO processed_webhook_messages (whatsapp_message_id, processed_at, processing_time_ms)
	SELECT 'wamid.monitor-' || n, date_trunc('hour', now()), n FROM generate_series(1, 100) n;
INSERT INTO processed_webhook_messages (whatsapp_message_id, processed_at, processing_time_ms)
	VALUES ('wamid.monitor-earlier', date_trunc('hour', now()) - interval '2 hours', NULL),
		('wamid.monitor-yesterday', now() - interval '25 hours', 1000000),
		('wamid.monitor-waiting', NULL, NULL);
SELECT date_trunc('hour', now()) - hour AS ago, messages_processed, round(avg_processing_ms, 2) AS avg,
		p95_processing_ms, p99_processing_ms, max_processing_ms, min_processing_ms
	FROM webhook_message_processing_metrics;

-- Agents.
INSERT INTO webhook_conversations (user_id) VALUES ('agents') RETURNING id AS conversation_id \gset
INSERT INTO agent_sessions (conversation_id, agent_type, session_state, started_at, ended_at, total_messages, total_tokens_used, error_count)
	VALUES
		(:'conversation_id', 'waiter', 'active', now() - interval '1 minute', NULL, 3, 100, 0),
		(:'conversation_id', 'waiter', 'completed', now() - interval '2 hours', now() - interval '2 hours' + interval '3 minutes', 5, 300, 1),
		(:'conversation_id', 'waiter', 'failed', now() - interval '25 hours', now(), 50, 3000, 10),
		(:'conversation_id', 'wallet', 'failed', now() - interval '1 hour', now() - interval '1 hour', 0, 0, 2);
SELECT agent_type, unique_conversations AS conversations, round(avg_messages_per_session, 1) AS messages,
		round(avg_tokens_used, 1) AS tokens, total_errors, completed_sessions AS completed,
		failed_sessions AS failed, active_sessions AS active, round(avg_duration_seconds, 1) AS seconds
	FROM webhook_agent_performance ORDER BY 1;

-- The audit trail: the last 100, also of conversations that are gone.
INSERT INTO conversation_state_transitions (conversation_id, from_state, to_state, transition_reason, created_at)
	SELECT CASE WHEN n < 2 THEN :'conversation_id'::uuid END, 'active', 'pending', 'reason ' || n, now() - n * interval '1 s'
	FROM generate_series(0, 149) n;
SELECT user_id, from_state, to_state, transition_reason FROM recent_webhook_state_transitions LIMIT 3;
SELECT count(*) FROM recent_webhook_state_transitions;

-- The numbers, of the last day, of the last hour, and of no time at all.
SELECT * FROM get_webhook_performance_stats();
SELECT * FROM get_webhook_performance_stats(26) WHERE metric_name IN ('total_messages_processed', 'dlq_messages');
SELECT * FROM get_webhook_performance_stats(lookback_hours => 1) WHERE unit = 'count';
DELETE FROM processed_webhook_messages;
SELECT * FROM get_webhook_performance_stats(1) WHERE unit = 'ms';
ROLLBACK;
SELECT get_webhook_performance_stats(0);
SELECT get_webhook_performance_stats(NULL);
SELECT get_webhook_performance_stats(2147483647);
