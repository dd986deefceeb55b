-- Events from SQL.

CREATE FUNCTION @extschema@.webhook_log_event(p_event text, p_details jsonb) RETURNS void
	AS 'MODULE_PATHNAME', 'wahook_log_event' LANGUAGE C VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_log_event(text, jsonb) IS
	'writes an event to the server log, where wahook.log_events is ''info'' or ''all''';
