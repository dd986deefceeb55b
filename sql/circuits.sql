-- Circuits: what callers of the functions see. What needs time to pass is in circuits_admin.
\pset null -
\set SHOW_CONTEXT never
BEGIN;
-- An unknown key is closed, and neither asking nor succeeding leaves anything behind.
SELECT is_circuit_open('c-1'), record_circuit_success('c-1'), is_circuit_open('c-1');
SELECT count(*) FROM webhook_circuits;

-- Five failures in a row open it, for a minute.
SELECT n, record_circuit_failure('c-1'), is_circuit_open('c-1') FROM generate_series(1, 6) n;
SELECT key, state, failures, timeout_ms, probe_at - updated_at AS waits, opened_at IS NOT NULL AS opened,
	probe_at BETWEEN clock_timestamp() + '0 s' AND clock_timestamp() + '60 s' AS in_time FROM webhook_circuits;
SELECT is_circuit_open('c-2') AS other_key;
-- What ends now began before it opened, and says nothing.
SELECT record_circuit_success('c-1'), is_circuit_open('c-1');
-- By hand.
SELECT reset_circuit('c-1');
SELECT is_circuit_open('c-1'), count(*) FROM webhook_circuits;
SELECT reset_circuit('c-1'), reset_circuit('c-none');

-- A success in between begins the count anew.
SELECT record_circuit_failure('c-3', 3), record_circuit_failure('c-3', 3), record_circuit_success('c-3'),
	record_circuit_failure('c-3', 3), record_circuit_failure('c-3', 3), record_circuit_failure('c-3', 3);
-- A threshold that is lowered counts what has been.
SELECT record_circuit_failure('c-4', 100), record_circuit_failure('c-4', 100), record_circuit_failure('c-4', 2);
-- One failure; the longest timeout; null is the default; the longest key, and one with anything in it.
SELECT record_circuit_failure('c-5', 1, 2147483647), is_circuit_open('c-5');
SELECT record_circuit_failure(p_key => 'c-6', p_threshold => NULL, p_timeout_ms => NULL);
SELECT timeout_ms FROM webhook_circuits WHERE key IN ('c-5', 'c-6') ORDER BY key;
SELECT record_circuit_failure(repeat('x', 1000), 1), is_circuit_open(repeat('x', 1000)), is_circuit_open(repeat('x', 999));
SELECT record_circuit_failure(E'''; DROP TABLE webhook_circuits; -- \n"é', 1), is_circuit_open(E'''; DROP TABLE webhook_circuits; -- \n"é');

-- As an error.
SELECT require_circuit_closed('c-2');
\set VERBOSITY sqlstate
SAVEPOINT s;
SELECT require_circuit_closed('c-4');
ROLLBACK TO s;
\set VERBOSITY default
-- In a read-only transaction a closed one can be asked, a closed one succeed, and nothing counted.
SET TRANSACTION READ ONLY;
SELECT is_circuit_open('c-2'), is_circuit_open('c-4'), record_circuit_success('c-2');
SELECT record_circuit_failure('c-2');
ROLLBACK;
SELECT count(*) FROM webhook_circuits;

-- Errors.
SELECT is_circuit_open(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT is_circuit_open('');
SELECT require_circuit_closed(NULL);
SELECT record_circuit_failure(NULL);
SELECT record_circuit_success('');
SELECT reset_circuit(NULL);
SELECT reset_circuit(repeat('é', 501));
SELECT record_circuit_failure('c', 0);
\echo :LAST_ERROR_SQLSTATE
SELECT record_circuit_failure('c', -2147483648);
SELECT record_circuit_failure('c', 5, 0);
SELECT record_circuit_failure('c', 5, -1);
