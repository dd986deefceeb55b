-- When a dead letter is retried.

CREATE FUNCTION @extschema@.dlq_retry_delay(p_retry_count integer) RETURNS interval
	AS 'MODULE_PATHNAME', 'wahook_dlq_retry_delay' LANGUAGE C VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.dlq_retry_delay(integer) IS
	'how long a dead letter waits after so many failed retries: wahook.dlq_base_delay, doubled each time, at most wahook.dlq_max_delay, and jitter';
