-- Circuit breakers.

CREATE FUNCTION @extschema@.is_circuit_open(p_key text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'wahook_is_circuit_open' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.is_circuit_open(text) IS
	'false: the caller may go, and past an open circuit''s timeout is the one probe that decides; never waits. To only look, read webhook_circuits';

CREATE FUNCTION @extschema@.require_circuit_closed(p_key text) RETURNS void
	AS 'MODULE_PATHNAME', 'wahook_require_circuit_closed' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.require_circuit_closed(text) IS
	'is_circuit_open() as an error, WH005, where it answers true';

CREATE FUNCTION @extschema@.record_circuit_failure(
	p_key text, p_threshold integer DEFAULT 5, p_timeout_ms integer DEFAULT 60000) RETURNS text
	AS 'MODULE_PATHNAME', 'wahook_record_circuit_failure' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.record_circuit_failure(text, integer, integer) IS
	'counts a failed call: p_threshold of them in a row, or a failed probe, open the circuit for p_timeout_ms; the new state: closed, open, half-open';

CREATE FUNCTION @extschema@.record_circuit_success(p_key text) RETURNS text
	AS 'MODULE_PATHNAME', 'wahook_record_circuit_success' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.record_circuit_success(text) IS
	'a call succeeded: closes a circuit that was being probed; the new state';

CREATE FUNCTION @extschema@.reset_circuit(p_key text) RETURNS void
	AS 'MODULE_PATHNAME', 'wahook_reset_circuit' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.reset_circuit(text) IS 'closes a circuit by hand, and forgets its failures';
