-- What the contract's alerts do not know of, thresholds that are settings, and webhook_health(). Not preloaded.
\set SHOW_CONTEXT never
BEGIN;
SET LOCAL TimeZone = 'UTC';
DELETE FROM webhook_conversations;
DELETE FROM conversation_state_transitions;
DELETE FROM webhook_attempts;
DELETE FROM webhook_dlq;
DELETE FROM webhook_quarantine;
DELETE FROM webhook_inbox;
DELETE FROM webhook_conversation_queue;
DELETE FROM webhook_leases;
DELETE FROM webhook_circuits;
DELETE FROM webhook_job_runs;
DELETE FROM processed_webhook_messages;
CREATE TEMP VIEW alerts AS
	SELECT alert_type, severity, message, details - 'oldest' - 'opened_at' - 'last_job_at' AS details FROM check_webhook_system_health();
CREATE TEMP VIEW health AS
	SELECT h ->> 'status' AS status, h -> 'accepting' AS accepting, jsonb_path_query_array(h, '$.reasons[*].reason') AS reasons
	FROM webhook_health() h;

-- All is well: there is no worker to be expected, and it says so.
SELECT * FROM alerts;
SELECT * FROM health;
SELECT h -> 'worker' AS worker, h -> 'queue' AS queue, h -> 'dead_letters' AS dead_letters, h -> 'circuits' AS circuits,
	(h -> 'version') - 'server' AS version FROM webhook_health() h;

-- A circuit: of a service, by name; of clients, without their keys, which may hold anything.
SELECT record_circuit_failure('service:shop', 1), record_circuit_failure('15557654321', 1), record_circuit_failure('menu', 1),
	record_circuit_failure('service:slow', 2);
SELECT alert_type, severity, message ~ 'open' AS open, details FROM alerts ORDER BY details ->> 'subject';
SELECT h -> 'circuits' AS circuits, h::text ~ '5557654321' AS shows_key FROM webhook_health() h;
SET LOCAL wahook.health_circuits = 3;
SELECT * FROM alerts;
SET LOCAL wahook.health_circuits = -1;
SELECT reset_circuit(key) FROM webhook_circuits;
RESET wahook.health_circuits;
SELECT * FROM alerts;

-- The quarantine.
INSERT INTO webhook_quarantine (content_hash, reason, body, correlation_id)
	SELECT sha256(n::text::bytea), 'test', 'body', gen_random_uuid() FROM generate_series(1, 10) n;
INSERT INTO webhook_quarantine (content_hash, reason, body, correlation_id, received_at)
	SELECT sha256(n::text::bytea), 'test', 'body', gen_random_uuid(), now() - interval '61 minutes' FROM generate_series(11, 40) n;
SELECT * FROM alerts;
SET LOCAL wahook.health_window = '2 h';
SELECT * FROM alerts;
SET LOCAL wahook.health_quarantine = 40;
SELECT * FROM alerts;
RESET wahook.health_window;
SET LOCAL wahook.health_quarantine = 9;
SELECT * FROM alerts;
DELETE FROM webhook_quarantine;

-- What waits, a row a service: not what is due later, not what is being handled, not a row of the queue without a message
-- from then.
SELECT outcome, count(*) FROM generate_series(1, 3) n, receive_webhook(format('{"object": "whatsapp_business_account",
	"entry": [{"changes": [{"field": "messages", "value": {"metadata": {"phone_number_id": "1000"}, "messages": [
	{"from": "1555000111%s", "id": "wamid.health-%s", "timestamp": "1760000000", "type": "text", "text": {"body": "hello"}}]}}]}]}', n, n)) GROUP BY 1;
SELECT * FROM alerts;
UPDATE webhook_conversation_queue SET due_at = due_at - interval '290 s';
UPDATE webhook_inbox SET enqueued_at = enqueued_at - interval '290 s';
SELECT * FROM alerts;
UPDATE webhook_conversation_queue SET due_at = due_at - interval '20 s';
UPDATE webhook_inbox SET enqueued_at = enqueued_at - interval '20 s';
INSERT INTO webhook_conversation_queue (conversation_id, service, due_at)
	VALUES (gen_random_uuid(), 'a', now() - interval '1 day'), (gen_random_uuid(), 'default', now() - interval '1 day'),
	((SELECT conversation_id FROM webhook_inbox LIMIT 1), 'default', now() - interval '1 hour');
SELECT alert_type, severity, message, details - 'oldest_seconds' AS details FROM alerts;
SELECT h -> 'queue' -> 'messages' AS messages, (h -> 'queue' ->> 'oldest_seconds')::numeric BETWEEN 300 AND 400 AS oldest,
	h::text ~ '1555000111' AS shows_phone, h::text ~ 'hello' AS shows_payload FROM webhook_health() h;
SET LOCAL wahook.health_inbox_age = '10 min';
SELECT * FROM alerts;
RESET wahook.health_inbox_age;
SELECT count(*) FROM claim_conversations(10);
SELECT * FROM alerts;
DELETE FROM webhook_conversations;
DELETE FROM webhook_inbox;
DELETE FROM webhook_conversation_queue;
DELETE FROM webhook_leases;

-- Rows that should be gone: a day after their time, and what is kept on purpose does not count.
INSERT INTO processed_webhook_messages (id, whatsapp_message_id, received_at)
	VALUES (webhook_uuid_floor(now() - interval '30 days 23 hours'), 'wamid.old-1', now() - interval '30 days 23 hours'),
		(webhook_uuid_floor(now() - interval '40 days'), 'wamid.kept', now() - interval '40 days');
INSERT INTO webhook_dlq (payload, whatsapp_message_id, resolution_status, next_retry_at, created_at)
	VALUES ('{}', 'wamid.kept', 'failed', NULL, now() - interval '40 days');
SELECT * FROM alerts;
INSERT INTO processed_webhook_messages (id, whatsapp_message_id, received_at)
	VALUES (webhook_uuid_floor(now() - interval '32 days'), 'wamid.old-2', now() - interval '32 days');
INSERT INTO webhook_attempts (message_id, attempt, outcome, finished_at)
	VALUES (webhook_uuid_floor(now() - interval '32 days'), 1, 'succeeded', now() - interval '32 days');
SELECT * FROM alerts;
SET LOCAL wahook.health_retention_lag = '3 d';
SELECT * FROM alerts;
RESET wahook.health_retention_lag;
SELECT run_webhook_job('retention') -> 'success' AS success;
SELECT * FROM alerts;
DELETE FROM webhook_dlq;
DELETE FROM processed_webhook_messages;

-- The jobs, where nobody expects a worker: they ran, and run no more. And one ran in the future.
UPDATE webhook_job_runs SET last_started_at = now() - interval '14 minutes';
SELECT * FROM alerts;
UPDATE webhook_job_runs SET last_started_at = now() - interval '16 minutes';
SELECT * FROM alerts;
SELECT * FROM health;
SET LOCAL wahook.health_worker_timeout = -1;
SELECT * FROM alerts;
UPDATE webhook_job_runs SET last_started_at = now() + interval '3 hours';
SELECT * FROM alerts;
SELECT job, next_run_at = now() AS now FROM webhook_jobs WHERE job = 'retention';
SELECT * FROM health;
DELETE FROM webhook_job_runs;
RESET wahook.health_worker_timeout;

-- The thresholds of the contract's alerts.
INSERT INTO webhook_conversations (user_id, status, last_activity_at) VALUES ('s', 'pending', now() - interval '1 h');
INSERT INTO webhook_conversations (user_id, locked_by, locked_at) VALUES ('l', gen_random_uuid(), now() - interval '1 h');
INSERT INTO webhook_conversations (user_id, status) SELECT 'e', 'error' FROM generate_series(1, 2);
INSERT INTO webhook_conversations (user_id, status) SELECT 't', 'timeout' FROM generate_series(1, 3);
INSERT INTO webhook_dlq (payload, next_retry_at) VALUES ('{}', now() + interval '1 h');
SELECT alert_type, message FROM alerts;
SET LOCAL wahook.health_stuck = 2;
SET LOCAL wahook.health_stale_locks = 1;
SET LOCAL wahook.health_errors = 1;
SET LOCAL wahook.health_timeouts = 2;
SET LOCAL wahook.health_dead_letters = 0;
SELECT alert_type, message FROM alerts;
SET LOCAL wahook.health_stuck = -1;
SET LOCAL wahook.health_errors = -1;
SET LOCAL wahook.health_timeouts = -1;
SET LOCAL wahook.health_dead_letters = -1;
SELECT * FROM alerts;
SET LOCAL wahook.health_stuck = -2;
ROLLBACK;
\set VERBOSITY sqlstate
SET wahook.health_window = 0;
\set VERBOSITY default

-- The same conversations as in the view. One that is inserted with a lock counts, and the cleanup finds it.
BEGIN;
DELETE FROM webhook_conversations;
INSERT INTO webhook_conversations (user_id, status, last_activity_at, locked_by, locked_at) VALUES
	('held', 'active', now(), gen_random_uuid(), now()), ('left', 'active', now(), gen_random_uuid(), now() - interval '3 minutes'),
	('idle', 'pending', now() - interval '6 minutes', NULL, NULL), ('both', 'processing', now() - interval '7 minutes', gen_random_uuid(), now() - interval '5 minutes');
SELECT details ->> 'count' AS count, (SELECT array_agg(id ORDER BY last_activity_at) FROM stuck_webhook_conversations)
		= ARRAY(SELECT jsonb_array_elements_text(details -> 'oldest')::uuid) AS same
	FROM check_webhook_system_health() WHERE alert_type = 'STUCK_CONVERSATIONS';
SELECT cleanup_stuck_webhook_conversations();
SELECT user_id, locked_by IS NOT NULL AS locked FROM webhook_conversations ORDER BY user_id;

-- No table is read from end to end, however the statistics look.
CREATE TEMP TABLE scans AS SELECT relname, seq_scan FROM pg_stat_xact_user_tables;
SELECT count(*) FROM check_webhook_system_health();
SELECT h IS NOT NULL AS answers FROM webhook_health() h;
SELECT s.relname, s.seq_scan - b.seq_scan AS scans FROM pg_stat_xact_user_tables s JOIN scans b USING (relname)
	WHERE s.seq_scan > b.seq_scan AND relname NOT IN ('scans', 'webhook_job_runs');
ROLLBACK;

-- One part that fails hides no other.
BEGIN;
DELETE FROM webhook_dlq;
DELETE FROM webhook_conversations;
INSERT INTO webhook_dlq (payload, next_retry_at) SELECT '{}', now() + interval '1 h' FROM generate_series(1, 6);
ALTER TABLE webhook_circuits RENAME TO moved;
SELECT alert_type, message, details FROM check_webhook_system_health();
SELECT h -> 'circuits' AS circuits, h -> 'dead_letters' -> 'pending' AS pending, jsonb_path_query_array(h, '$.reasons[*].message') AS reasons
	FROM webhook_health() h;
ALTER TABLE moved RENAME TO webhook_circuits;
-- The library is older than the extension, or newer.
UPDATE pg_extension SET extversion = '99.0.0' WHERE extname = 'wahook';
SELECT r ->> 'reason' AS reason, r ->> 'message' ~ 'restart the server$' AS restart FROM webhook_health() h, jsonb_array_elements(h -> 'reasons') r LIMIT 1;
UPDATE pg_extension SET extversion = '0.1.0' WHERE extname = 'wahook';
SELECT r ->> 'reason' AS reason, r ->> 'message' ~ 'ALTER EXTENSION wahook UPDATE$' AS update FROM webhook_health() h, jsonb_array_elements(h -> 'reasons') r LIMIT 1;
ROLLBACK;

-- What to run next runs; of every alert there is.
BEGIN;
DO $$
DECLARE
	v_type text;
BEGIN
	FOR v_type IN SELECT DISTINCT m[1] FROM pg_proc, regexp_matches(prosrc, '''([A-Z_]+)'', ''(?:CRITICAL|HIGH|MEDIUM)''', 'g') m
		WHERE proname LIKE 'webhook_check\_%' OR proname IN ('webhook_health_reasons', 'check_webhook_system_health') ORDER BY 1
	LOOP
		RAISE NOTICE '%', v_type;
		EXECUTE webhook_alert_hint(v_type);
	END LOOP;
END
$$;
ROLLBACK;
SELECT webhook_alert_hint('NO_SUCH_ALERT'), webhook_alert_hint(NULL);
