-- Settings as SQL sees them.

CREATE FUNCTION @extschema@.webhook_setting(p_name text) RETURNS text
	AS 'MODULE_PATHNAME', 'wahook_setting' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_setting(text) IS
	'a wahook.* setting with its unit, by the name behind the dot';
