-- The head of the install script: what must hold before anything is created.
SET LOCAL search_path TO pg_catalog, pg_temp;

-- A webhook body is UTF-8, and its signature covers its bytes.
DO $$
BEGIN
	IF current_setting('server_encoding') <> 'UTF8' THEN
		RAISE EXCEPTION 'wahook needs a database with encoding UTF8, this one has %',
			current_setting('server_encoding')
			USING ERRCODE = 'feature_not_supported',
				HINT = 'Create the database with ENCODING ''UTF8''.';
	END IF;
END
$$;

-- Time-ordered ids keep primary key inserts at the right edge of their index.
CREATE FUNCTION @extschema@.webhook_uuid() RETURNS uuid
	AS 'MODULE_PATHNAME', 'wahook_uuid' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_uuid() IS
	'a new UUID version 7 (RFC 9562): 48 bits of wall clock in milliseconds, then random bits; the default of every id';
