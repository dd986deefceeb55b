-- SQL handlers of services.

CREATE FUNCTION @extschema@.webhook_check_service() RETURNS trigger
	AS 'MODULE_PATHNAME', 'wahook_check_service' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION @extschema@.webhook_check_service() IS
	'checks the handler of a service, and ties it to the role that sets it';
CREATE TRIGGER webhook_check_service
	BEFORE INSERT OR UPDATE OF handler, run_as ON @extschema@.webhook_services
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_check_service();
