-- What keeps an entry of the dead letter queue in order, whoever writes it, under either name.

CREATE FUNCTION @extschema@.webhook_dlq_note_statement() RETURNS trigger
	AS 'MODULE_PATHNAME', 'wahook_dlq_note_statement' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION @extschema@.webhook_dlq_note_statement() IS
	'tells INSERT ... ON CONFLICT DO UPDATE from a plain insert, for the row triggers';
CREATE TRIGGER webhook_dlq_note_insert
	BEFORE INSERT ON @extschema@.webhook_dlq
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.webhook_dlq_note_statement();
CREATE TRIGGER webhook_dlq_note_update
	BEFORE UPDATE ON @extschema@.webhook_dlq
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.webhook_dlq_note_statement();

CREATE FUNCTION @extschema@.webhook_dlq_before_change() RETURNS trigger
	AS 'MODULE_PATHNAME', 'wahook_dlq_before_change' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_dlq_before_change() IS
	'keeps the columns of both generations of callers in step, and one entry a message';
CREATE TRIGGER webhook_dlq_before_change
	BEFORE INSERT OR UPDATE ON @extschema@.webhook_dlq
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_dlq_before_change();

CREATE FUNCTION @extschema@.webhook_dlq_after_change() RETURNS trigger
	AS 'MODULE_PATHNAME', 'wahook_dlq_after_change' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_dlq_after_change() IS
	'marks the message of a resolved entry as processed, and takes it out of its conversation''s queue where the entry decides on its retry';
CREATE TRIGGER webhook_dlq_after_insert
	AFTER INSERT ON @extschema@.webhook_dlq
	FOR EACH ROW WHEN (NEW.resolution_status IN ('pending', 'failed'))
	EXECUTE FUNCTION @extschema@.webhook_dlq_after_change();
CREATE TRIGGER webhook_dlq_after_update
	AFTER UPDATE ON @extschema@.webhook_dlq
	FOR EACH ROW WHEN ((OLD.resolution_status, OLD.next_retry_at)
		IS DISTINCT FROM (NEW.resolution_status, NEW.next_retry_at))
	EXECUTE FUNCTION @extschema@.webhook_dlq_after_change();
CREATE TRIGGER webhook_dlq_after_delete
	AFTER DELETE ON @extschema@.webhook_dlq
	FOR EACH ROW WHEN (OLD.resolution_status IN ('pending', 'retrying'))
	EXECUTE FUNCTION @extschema@.webhook_dlq_after_change();
