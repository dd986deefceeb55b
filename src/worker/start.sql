-- The worker, where the server was started without wahook.

CREATE FUNCTION @extschema@.start_webhook_worker() RETURNS integer
	AS 'MODULE_PATHNAME', 'wahook_start_webhook_worker' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.start_webhook_worker() IS
	'starts this database''s worker where there is none, until the server is restarted; its process id. For servers without wahook in shared_preload_libraries';
