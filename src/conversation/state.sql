-- The status of a conversation: the state machine and the audit trail.

CREATE FUNCTION @extschema@.transition_conversation(
	p_conversation_id uuid, p_to_state text, p_reason text,
	p_correlation_id uuid DEFAULT NULL, p_metadata jsonb DEFAULT '{}')
	RETURNS text
	AS 'MODULE_PATHNAME', 'wahook_transition_conversation' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.transition_conversation(uuid, text, text, uuid, jsonb) IS
	'changes the status of a conversation where the state machine allows it, with an audit row; returns the former status; repeating a transition changes nothing; never waits';

CREATE FUNCTION @extschema@.webhook_audit_status() RETURNS trigger
	AS 'MODULE_PATHNAME', 'wahook_audit_status' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_audit_status() IS
	'writes the audit row of a change of status, whoever made it';
CREATE TRIGGER webhook_audit_status
	AFTER UPDATE OF status ON @extschema@.webhook_conversations
	FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
	EXECUTE FUNCTION @extschema@.webhook_audit_status();
