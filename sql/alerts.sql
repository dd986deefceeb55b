-- The alerts over time: told once, held back while they come and go, resolved. Without a worker; what it does is in test/t/alerts.pl.
\set SHOW_CONTEXT never
BEGIN;
SET LOCAL TimeZone = 'UTC';
DELETE FROM webhook_conversations;
DELETE FROM conversation_state_transitions;
DELETE FROM webhook_attempts;
DELETE FROM webhook_dlq;
DELETE FROM webhook_circuits;
DELETE FROM webhook_job_runs;
CREATE TEMP VIEW alerts AS
	SELECT alert_type, subject, severity, state, times, tell, cleared_at IS NOT NULL AS cleared, resolved_at IS NOT NULL AS resolved,
		firing_told_at IS NOT NULL AS firing_told, resolved_told_at IS NOT NULL AS resolved_told, tell_failures, tell_error
	FROM webhook_alerts ORDER BY started_at, alert_type, subject;

SELECT evaluate_webhook_alerts();
SELECT * FROM alerts;
-- It starts; a further look changes nothing, whatever its numbers are.
SELECT record_circuit_failure('service:shop', 1), record_circuit_failure('service:menu', 1);
SELECT evaluate_webhook_alerts();
SELECT alert_type, subject, state, times, cleared FROM alerts;
CREATE TEMP TABLE before AS SELECT id, ctid AS at, message FROM webhook_alerts;
SELECT record_circuit_failure('service:shop', 1);
SELECT evaluate_webhook_alerts();
SELECT count(*) FROM webhook_alerts a JOIN before b USING (id) WHERE a.ctid = b.at AND a.message = b.message;
-- After a minute its numbers are brought up to date, and nobody is told.
UPDATE webhook_alerts SET last_seen_at = now() - interval '61 s', details = '{}';
SELECT evaluate_webhook_alerts();
SELECT subject, details -> 'failures' AS failures, times FROM webhook_alerts ORDER BY subject;
-- It goes and comes back: held back, counted.
SELECT reset_circuit('service:shop');
SELECT evaluate_webhook_alerts();
SELECT subject, state, times, cleared FROM alerts;
SELECT record_circuit_failure('service:shop', 1);
SELECT evaluate_webhook_alerts();
SELECT subject, state, times, cleared FROM alerts;
-- It stays away for as long as it must.
SELECT reset_circuit('service:shop');
SELECT evaluate_webhook_alerts();
UPDATE webhook_alerts SET cleared_at = cleared_at - interval '299 s' WHERE subject = 'service:shop';
SELECT evaluate_webhook_alerts();
UPDATE webhook_alerts SET cleared_at = cleared_at - interval '2 s' WHERE subject = 'service:shop';
SELECT evaluate_webhook_alerts();
SELECT subject, state, times, cleared, resolved FROM alerts;
-- The next time is another one.
SELECT record_circuit_failure('service:shop', 1);
SELECT evaluate_webhook_alerts();
SELECT subject, state, times FROM alerts;

-- While a check fails nothing is taken for over.
ALTER TABLE webhook_circuits RENAME TO moved;
SET LOCAL wahook.alert_hold_time = 0;
SELECT evaluate_webhook_alerts();
SELECT alert_type, subject, state, cleared FROM alerts WHERE state = 'firing';
ALTER TABLE moved RENAME TO webhook_circuits;
SELECT evaluate_webhook_alerts();
SELECT alert_type, subject, state FROM alerts;

-- What is told, and in which order; what fails is told again.
DELETE FROM webhook_alerts;
DELETE FROM webhook_circuits;
INSERT INTO webhook_alerts (id, alert_type, severity, message, details, started_at, state, resolved_at, cleared_at, firing_told_at) VALUES
	('00000000-0000-7000-8000-000000000001', 'A', 'HIGH', 'first', '{"oldest": ["x"], "count": 1}', now() - interval '3 min', 'resolved', now() - interval '1 min', now() - interval '1 min', NULL),
	('00000000-0000-7000-8000-000000000002', 'B', 'HIGH', 'second', '{}', now() - interval '2 min', 'firing', NULL, NULL, NULL),
	('00000000-0000-7000-8000-000000000003', 'C', 'HIGH', 'long ago', '{}', now() - interval '3 days', 'resolved', now() - interval '2 days', NULL, NULL);
SELECT n.id, n.state, body::jsonb ->> 'type' AS type, body::jsonb ->> 'text' ~ '^\[firing\] HIGH A: first \(database .+\)$' AS text,
	(body::jsonb -> 'data') - 'started_at' - 'database' AS data, body::jsonb ? 'timestamp' AS has_timestamp FROM webhook_next_alert_to_tell() n;
SELECT webhook_note_told('00000000-0000-7000-8000-000000000001', 'firing', 'HTTP 500');
SELECT n.id, n.state FROM webhook_next_alert_to_tell() n;
SELECT * FROM alerts;
SELECT webhook_note_told('00000000-0000-7000-8000-000000000001', 'firing', NULL);
SELECT n.id, n.state FROM webhook_next_alert_to_tell() n;
SELECT webhook_note_told('00000000-0000-7000-8000-000000000002', 'firing', NULL);
SELECT n.id, n.state, body::jsonb -> 'data' ? 'resolved_at' AS resolved_at FROM webhook_next_alert_to_tell() n;
SELECT webhook_note_told('00000000-0000-7000-8000-000000000001', 'resolved', NULL);
SELECT * FROM webhook_next_alert_to_tell();
SELECT * FROM alerts;
-- Where there is no URL nobody is to be told of what is over; of what fires, as soon as there is one.
SELECT webhook_evaluate_alerts(false, false, NULL);
SELECT record_circuit_failure('service:shop', 1);
SELECT webhook_evaluate_alerts(false, false, NULL);
SELECT webhook_evaluate_alerts(true, false, NULL);
SELECT reset_circuit('service:shop');
SELECT webhook_evaluate_alerts(false, false, NULL);
SELECT webhook_evaluate_alerts(true, false, NULL);
SELECT alert_type, state, tell FROM alerts;

-- The first look of a worker: was there one before? Shared memory knows, or the runs of the jobs.
DELETE FROM webhook_alerts;
SELECT webhook_evaluate_alerts(true, true, NULL);
SELECT webhook_evaluate_alerts(true, true, now() - interval '59 s');
SELECT * FROM alerts;
SELECT webhook_evaluate_alerts(true, true, now() - interval '61 s');
SELECT alert_type, message, now() - started_at AS since, state FROM webhook_alerts;
SELECT webhook_evaluate_alerts(true, true, now() - interval '61 s');
SELECT count(*) FROM webhook_alerts;
DELETE FROM webhook_alerts;
INSERT INTO webhook_job_runs (job, last_started_at, duration_ms, succeeded) VALUES ('retention', now() - interval '355 s', 0, true);
SELECT webhook_evaluate_alerts(true, true, NULL);
SELECT * FROM alerts;
UPDATE webhook_job_runs SET last_started_at = now() - interval '2 h';
SELECT webhook_evaluate_alerts(true, true, NULL);
SELECT alert_type, now() - started_at AS since FROM webhook_alerts;
ROLLBACK;

-- The channel, in a session that listens; nothing is told of what is rolled back.
LISTEN wahook_alerts;
BEGIN;
SELECT record_circuit_failure('service:rolled-back', 1);
SELECT evaluate_webhook_alerts() > 0 AS fires;
ROLLBACK;
UNLISTEN wahook_alerts;

-- The settings: secrets are not shown.
SET wahook.alert_url = 'https://hooks.example/secret-path';
SET wahook.alert_secret = 'whsec_c2VjcmV0';
SHOW wahook.alert_url;
SHOW wahook.alert_secret;
SELECT count(*) FROM pg_settings WHERE name IN ('wahook.alert_url', 'wahook.alert_secret');
\set VERBOSITY sqlstate
SET wahook.alert_interval = -1;
\set VERBOSITY default
RESET wahook.alert_url;
RESET wahook.alert_secret;
