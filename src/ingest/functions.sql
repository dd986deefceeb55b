-- Receiving deliveries. A parallel worker does not know the secrets, see core/settings.c.

CREATE FUNCTION @extschema@.verify_webhook_subscription(
	p_mode text, p_token text, p_challenge text)
	RETURNS text AS 'MODULE_PATHNAME', 'wahook_verify_webhook_subscription'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.verify_webhook_subscription(text, text, text) IS
	'the GET handshake: returns the challenge, or raises WH001 (wrong token), 22023 (wrong mode), WH006 (no token configured)';

CREATE FUNCTION @extschema@.verify_webhook_signature(
	p_body text, p_signature text, p_secret text DEFAULT NULL)
	RETURNS boolean AS 'MODULE_PATHNAME', 'wahook_verify_webhook_signature'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.verify_webhook_signature(text, text, text) IS
	'whether X-Hub-Signature-256 matches the raw body; null secret: wahook.app_secret (WH006 when that is not set)';

CREATE FUNCTION @extschema@.verify_webhook_signature_bytea(
	p_body bytea, p_signature text, p_secret text DEFAULT NULL)
	RETURNS boolean AS 'MODULE_PATHNAME', 'wahook_verify_webhook_signature'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.verify_webhook_signature_bytea(bytea, text, text) IS
	'verify_webhook_signature() for a body that is not text';

-- With RETURN, names are looked up now, not in the search_path of whoever calls; and unlike with SET,
-- the call can be inlined.
CREATE FUNCTION @extschema@.webhook_status_rank(p_status text)
	RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	RETURN CASE p_status
		WHEN 'pending' THEN 1 WHEN 'RINGING' THEN 1
		WHEN 'sent' THEN 2 WHEN 'ACCEPTED' THEN 2 WHEN 'REJECTED' THEN 2
		WHEN 'failed' THEN 3
		WHEN 'delivered' THEN 4 WHEN 'captured' THEN 4
		WHEN 'read' THEN 5
		WHEN 'played' THEN 6
		WHEN 'deleted' THEN 7
		ELSE 0 END;
COMMENT ON FUNCTION @extschema@.webhook_status_rank(text) IS
	'how far a status is; unknown ones are 0';

CREATE FUNCTION @extschema@.webhook_status_advances(
	p_from text, p_from_at timestamptz, p_to text, p_to_at timestamptz)
	RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN @extschema@.webhook_status_rank(p_to) > @extschema@.webhook_status_rank(p_from)
		OR (@extschema@.webhook_status_rank(p_to) = @extschema@.webhook_status_rank(p_from)
			AND p_to <> p_from
			AND coalesce(p_to_at > p_from_at, p_to_at IS NOT NULL));
COMMENT ON FUNCTION @extschema@.webhook_status_advances(text, timestamptz, text, timestamptz) IS
	'whether a status comes after another; between equals of rank the later one';

CREATE FUNCTION @extschema@.receive_webhook(
	p_body text, p_signature text DEFAULT NULL, p_correlation_id uuid DEFAULT NULL)
	RETURNS TABLE (whatsapp_message_id text, kind text, conversation_id uuid, service text,
		outcome text, correlation_id uuid)
	AS 'MODULE_PATHNAME', 'wahook_receive_webhook'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.receive_webhook(text, text, uuid) IS
	'takes in a delivery; a row an update, its outcome accepted, duplicate, recorded or quarantined; WH001 bad signature, WH007 not JSON, WH008 too large';

CREATE FUNCTION @extschema@.get_or_create_conversation(
	p_user_id text, p_whatsapp_phone text DEFAULT NULL, p_phone_number_id text DEFAULT NULL,
	p_agent_type text DEFAULT NULL, p_correlation_id uuid DEFAULT NULL)
	RETURNS uuid AS 'MODULE_PATHNAME', 'wahook_get_or_create_conversation'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.get_or_create_conversation(text, text, text, text, uuid) IS
	'the conversation of a user, by business-scoped user id or phone number; one, however many ask at once';

CREATE FUNCTION @extschema@.record_processed_message(
	p_whatsapp_message_id text, p_conversation_id uuid, p_correlation_id uuid,
	p_processing_time_ms integer DEFAULT NULL, p_payload jsonb DEFAULT NULL)
	RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	-- The bounds are those of a message that is received: ingest/envelope.h.
	IF coalesce(octet_length(p_whatsapp_message_id), 0) NOT BETWEEN 1 AND 512 THEN
		RAISE EXCEPTION 'p_whatsapp_message_id is null, empty or too long'
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'A message id has between 1 and 512 bytes.',
				HINT = 'Pass the id of the message as it was delivered.';
	END IF;
	IF p_processing_time_ms < 0 THEN
		RAISE EXCEPTION 'p_processing_time_ms must not be negative, it is %', p_processing_time_ms
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Leave it null where it is not known.';
	END IF;
	INSERT INTO @extschema@.processed_webhook_messages (whatsapp_message_id, conversation_id,
			correlation_id, processing_time_ms, payload, processed_at)
		SELECT p_whatsapp_message_id, p_conversation_id,
			coalesce(p_correlation_id, gen_random_uuid()), p_processing_time_ms, p_payload,
			clock_timestamp()
		WHERE NOT EXISTS (SELECT FROM @extschema@.webhook_erased_messages
			WHERE id_hash = sha256(convert_to(p_whatsapp_message_id, 'UTF8')))
		ON CONFLICT (whatsapp_message_id) DO NOTHING;
	IF NOT FOUND THEN
		PERFORM @extschema@.webhook_count('events', ARRAY['message', 'duplicate']::text[]);
		RETURN false;
	END IF;
	PERFORM @extschema@.webhook_count('events', ARRAY['message', 'accepted']::text[]);
	PERFORM @extschema@.webhook_count('messages_completed', ARRAY[]::text[]);
	RETURN true;
END
$$;
COMMENT ON FUNCTION @extschema@.record_processed_message(text, uuid, uuid, integer, jsonb) IS
	'the idempotent insert for callers that process without a claim: true when this call recorded the message';
