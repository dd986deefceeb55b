-- Locking, claiming, completing.

CREATE FUNCTION @extschema@.acquire_conversation_lock(p_conversation_id uuid, p_lock_id uuid)
	RETURNS boolean AS 'MODULE_PATHNAME', 'wahook_acquire_conversation_lock'
	LANGUAGE C VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.acquire_conversation_lock(uuid, uuid) IS
	'true when this call took the lock, for wahook.lock_timeout; never waits';

CREATE FUNCTION @extschema@.release_conversation_lock(p_conversation_id uuid, p_lock_id uuid)
	RETURNS boolean AS 'MODULE_PATHNAME', 'wahook_release_conversation_lock'
	LANGUAGE C VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.release_conversation_lock(uuid, uuid) IS
	'true when this lock id held it; what it had claimed and not completed waits again';

CREATE FUNCTION @extschema@.renew_conversation_lock(
	p_conversation_id uuid, p_lock_id uuid, p_lease interval DEFAULT NULL)
	RETURNS timestamptz AS 'MODULE_PATHNAME', 'wahook_renew_conversation_lock'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.renew_conversation_lock(uuid, uuid, interval) IS
	'the lock''s new expiry, p_lease (default wahook.lock_timeout) from now; null when it was lost';

CREATE FUNCTION @extschema@.claim_conversations(
	p_limit integer DEFAULT 1, p_lock_id uuid DEFAULT NULL, p_service text DEFAULT NULL,
	p_lease interval DEFAULT NULL)
	RETURNS TABLE (conversation_id uuid, lock_id uuid, lock_token bigint,
		lock_expires_at timestamptz, user_id text, whatsapp_phone text, agent_type text,
		service text, conversation_context jsonb, messages jsonb)
	AS 'MODULE_PATHNAME', 'wahook_claim_conversations'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.claim_conversations(integer, uuid, text, interval) IS
	'locks the longest-waiting free conversations, all under one lock id, and hands over their messages in order; never waits';

CREATE FUNCTION @extschema@.receive_and_claim_webhook(
	p_body text, p_signature text DEFAULT NULL, p_correlation_id uuid DEFAULT NULL,
	p_lock_id uuid DEFAULT NULL)
	RETURNS TABLE (conversation_id uuid, lock_id uuid, lock_token bigint,
		lock_expires_at timestamptz, user_id text, whatsapp_phone text, agent_type text,
		service text, conversation_context jsonb, messages jsonb)
	AS 'MODULE_PATHNAME', 'wahook_receive_and_claim_webhook'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.receive_and_claim_webhook(text, text, uuid, uuid) IS
	'takes in a delivery and at once claims the conversations of its messages, where they are free';

CREATE FUNCTION @extschema@.complete_webhook_messages(
	p_conversation_id uuid, p_lock_id uuid, p_whatsapp_message_ids text[] DEFAULT NULL,
	p_processing_time_ms integer DEFAULT NULL, p_release boolean DEFAULT true)
	RETURNS integer AS 'MODULE_PATHNAME', 'wahook_complete_webhook_messages'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.complete_webhook_messages(uuid, uuid, text[], integer, boolean) IS
	'how many messages it completed: those named, or all that were claimed; WH002 when the lock was lost';

CREATE FUNCTION @extschema@.complete_conversations(
	p_conversation_ids uuid[], p_lock_id uuid, p_processing_time_ms integer DEFAULT NULL)
	RETURNS integer AS 'MODULE_PATHNAME', 'wahook_complete_conversations'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.complete_conversations(uuid[], uuid, integer) IS
	'completes all that was claimed in these conversations and releases them, or nothing: WH002 names those that were lost';

CREATE FUNCTION @extschema@.cleanup_stuck_webhook_conversations()
	RETURNS integer AS 'MODULE_PATHNAME', 'wahook_cleanup_stuck_conversations'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.cleanup_stuck_webhook_conversations() IS
	'releases locks whose lease has run out and times out conversations that are stuck; how many locks it released';

CREATE FUNCTION @extschema@.webhook_message_json(
	p_message @extschema@.processed_webhook_messages, p_attempt integer)
	RETURNS jsonb AS 'MODULE_PATHNAME', 'wahook_message_json'
	LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_message_json(@extschema@.processed_webhook_messages, integer) IS
	'a message as claims and SQL handlers get it; p_attempt counts from 1';
