-- Messages that failed.

CREATE FUNCTION @extschema@.fail_webhook_message(
	p_conversation_id uuid, p_lock_id uuid, p_whatsapp_message_id text, p_error text,
	p_error_stack text DEFAULT NULL, p_retry_after interval DEFAULT NULL,
	p_retryable boolean DEFAULT true)
	RETURNS @extschema@.webhook_dlq
	AS 'MODULE_PATHNAME', 'wahook_fail_webhook_message' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.fail_webhook_message(uuid, uuid, text, text, text, interval, boolean) IS
	'reports that processing a claimed message failed: it goes to the dead letter queue, and its entry is returned; the lock stays with its holder; never waits';

CREATE FUNCTION @extschema@.add_to_dead_letter_queue(
	p_payload jsonb, p_error text, p_error_stack text DEFAULT NULL,
	p_whatsapp_message_id text DEFAULT NULL, p_correlation_id uuid DEFAULT NULL,
	p_retry_count integer DEFAULT 0, p_delay interval DEFAULT NULL)
	RETURNS uuid
	AS 'MODULE_PATHNAME', 'wahook_add_to_dead_letter_queue' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.add_to_dead_letter_queue(jsonb, text, text, text, uuid, integer, interval) IS
	'adds a dead letter, or renews the one that the message has, and returns its id; given up at once where the retries are used up';

CREATE FUNCTION @extschema@.webhook_dead_letter_lost(p_conversation_id uuid, p_seqs bigint[])
	RETURNS integer
	AS 'MODULE_PATHNAME', 'wahook_dead_letter_lost' LANGUAGE C VOLATILE STRICT
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_dead_letter_lost(uuid, bigint[]) IS
	'internal: dead-letters waiting messages whose holders vanished too often; how many';
