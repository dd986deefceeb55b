-- Circuits as time passes: which is moved here by writing to the table.
\pset null -
BEGIN;
DELETE FROM webhook_circuits;
CREATE FUNCTION pg_temp.pass(p_key text, p_time interval) RETURNS void LANGUAGE sql AS $$
	UPDATE webhook_circuits SET probe_at = probe_at - p_time, updated_at = updated_at - p_time WHERE key = p_key $$;
CREATE FUNCTION pg_temp.circuit(p_key text) RETURNS text LANGUAGE sql AS $$
	SELECT state || ' ' || failures || CASE WHEN probe_at > clock_timestamp() THEN ', waits' ELSE '' END FROM webhook_circuits WHERE key = p_key $$;

-- Past its timeout it lets one probe through.
SELECT record_circuit_failure('c-1', 1, 3600000);
SELECT pg_temp.pass('c-1', '30 minutes');
SELECT is_circuit_open('c-1');
SELECT pg_temp.pass('c-1', '30 minutes');
SELECT is_circuit_open('c-1'), pg_temp.circuit('c-1');
SELECT is_circuit_open('c-1');
-- The probe fails: open again, with the timeout that it names.
SELECT record_circuit_failure('c-1', 1, 7200000), pg_temp.circuit('c-1');
SELECT pg_temp.pass('c-1', '1 h');
SELECT is_circuit_open('c-1');
SELECT pg_temp.pass('c-1', '1 h');
SELECT is_circuit_open('c-1');
-- A prober that vanishes: after the timeout the next one may go.
SELECT pg_temp.pass('c-1', '2 h');
SELECT is_circuit_open('c-1'), is_circuit_open('c-1'), pg_temp.circuit('c-1');
-- The probe succeeds: closed, and the count begins anew.
SELECT record_circuit_success('c-1'), is_circuit_open('c-1');
SELECT opened_at, probe_at FROM webhook_circuits;
SELECT record_circuit_failure('c-1', 2, 3600000), record_circuit_failure('c-1', 2, 3600000);

-- Whoever calls without having asked is the probe, too.
SELECT pg_temp.pass('c-1', '1 h');
SELECT record_circuit_failure('c-1', 2, 3600000), pg_temp.circuit('c-1');
SELECT pg_temp.pass('c-1', '1 h');
SELECT record_circuit_success('c-1'), pg_temp.circuit('c-1');

-- It can't be opened for longer than its timeout by a clock that was set back.
SELECT record_circuit_failure('c-2', 1, 3600000);
SELECT pg_temp.pass('c-2', '-1 day');
SELECT is_circuit_open('c-2'), is_circuit_open('c-2');

-- What is written by hand, without a time, lets probes through.
INSERT INTO webhook_circuits VALUES ('c-3', 'open', 0, 3600000, NULL, NULL, now());
SELECT is_circuit_open('c-3'), is_circuit_open('c-3');
INSERT INTO webhook_circuits VALUES ('c-4', 'broken', 0, 60000, NULL, NULL, 'epoch');
ROLLBACK;

-- A probe cannot be taken in a read-only transaction.
SELECT record_circuit_failure('c-1', 1);
UPDATE webhook_circuits SET probe_at = now();
BEGIN READ ONLY;
SELECT is_circuit_open('c-1');
COMMIT;
SELECT is_circuit_open('c-1');

-- Retention.
UPDATE webhook_circuits SET updated_at = now() - interval '25 h', probe_at = now() + interval '1 h';
SELECT apply_webhook_retention() -> 'webhook_circuits' AS deleted;
UPDATE webhook_circuits SET probe_at = now() - interval '23 h';
SELECT apply_webhook_retention() -> 'webhook_circuits' AS deleted;
UPDATE webhook_circuits SET probe_at = now() - interval '25 h';
SELECT apply_webhook_retention() -> 'webhook_circuits' AS deleted;
INSERT INTO webhook_circuits SELECT 'c-' || n, 'closed', 1, 60000, NULL, NULL, now() - interval '23 h' * n FROM generate_series(1, 2) n;
SELECT apply_webhook_retention() -> 'webhook_circuits' AS deleted;
SELECT key FROM webhook_circuits;
DELETE FROM webhook_circuits;
