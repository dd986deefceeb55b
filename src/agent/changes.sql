-- Edits and revocations applied to what agents remember.
--
-- They are applied whenever memory is read or written, whoever writes it, from the rows that intake left
-- in webhook_message_changes: so it makes no difference which came first, the change or the turn that it
-- changes. A job sees to memory that nobody writes any more.

-- A list of messages after the changes that the sender made to his own, or the very list where there are none.
CREATE FUNCTION @extschema@.webhook_apply_changes(p_conversation_id uuid, p_messages jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_changes jsonb;
	v_changed jsonb;
BEGIN
	IF NOT EXISTS (SELECT FROM @extschema@.webhook_message_changes c WHERE c.conversation_id = p_conversation_id) THEN
		RETURN p_messages;
	END IF;
	-- A revocation is for good; of edits the last one counts, by the sender's clock where it is known.
	SELECT jsonb_object_agg(of_id, jsonb_build_array(kind, new_text)) INTO v_changes FROM (
		SELECT DISTINCT ON (c.whatsapp_message_id) c.whatsapp_message_id AS of_id, c.kind,
			CASE c.kind WHEN 'edit' THEN @extschema@.webhook_message_text(p.payload #> '{message,edit,message}') END AS new_text
		FROM @extschema@.webhook_message_changes c
			LEFT JOIN @extschema@.processed_webhook_messages p ON p.id = c.message_id
		WHERE c.conversation_id = p_conversation_id AND c.whatsapp_message_id = ANY (ARRAY(
			SELECT id FROM jsonb_array_elements(p_messages) message,
				LATERAL (VALUES (message ->> 'wamid'), (message ->> 'edits')) ids(id)
			WHERE message ->> 'role' = 'user' AND id IS NOT NULL))
			AND (c.kind = 'revoke' OR p.payload #> '{message,edit,message}' IS NOT NULL)
		ORDER BY c.whatsapp_message_id, c.kind = 'revoke' DESC,
			lpad(p.payload #>> '{message,timestamp}', 20, '0') COLLATE "C" DESC NULLS LAST, c.message_id DESC) last;
	IF v_changes IS NULL THEN
		RETURN p_messages;
	END IF;
	SELECT jsonb_agg(CASE WHEN change IS NULL THEN message
			ELSE @extschema@.webhook_changed_message(message, change ->> 0, change ->> 1) END ORDER BY place)
		INTO v_changed
		FROM jsonb_array_elements(p_messages) WITH ORDINALITY m(message, place),
			LATERAL (SELECT CASE WHEN message ->> 'role' = 'user' THEN
				coalesce(v_changes -> (message ->> 'wamid'), v_changes -> (message ->> 'edits')) END) c(change);
	RETURN v_changed;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_apply_changes(uuid, jsonb) IS
	'chat messages of a conversation with what their senders edited or revoked since';

CREATE FUNCTION @extschema@.webhook_current_memory(p_conversation_id uuid, p_agent_type text, p_memory jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_memory jsonb := p_memory;
	v_messages jsonb := @extschema@.webhook_memory_array(p_memory);
	v_changed jsonb;
BEGIN
	IF NOT EXISTS (SELECT FROM @extschema@.webhook_message_changes c WHERE c.conversation_id = p_conversation_id) THEN
		RETURN p_memory;
	END IF;
	IF v_messages IS NOT NULL THEN
		v_changed := @extschema@.webhook_apply_changes(p_conversation_id, v_messages);
		IF v_changed <> v_messages THEN
			v_memory := CASE jsonb_typeof(v_memory) WHEN 'array' THEN v_changed
				ELSE v_memory || jsonb_build_object('messages', v_changed) END;
		END IF;
	END IF;
	-- A summary of what is remembered no more may tell what was in a message that was revoked since: it
	-- goes when this agent had seen that message.
	IF v_memory ? 'summary' AND EXISTS (
		SELECT FROM @extschema@.webhook_message_changes c
		WHERE c.conversation_id = p_conversation_id AND c.kind = 'revoke'
			AND c.received_at > coalesce(@extschema@.webhook_time(v_memory ->> 'summary_at'), '-infinity')
			AND NOT EXISTS (SELECT FROM jsonb_array_elements(v_messages) message WHERE message ->> 'wamid' = c.whatsapp_message_id)
			AND EXISTS (SELECT FROM @extschema@.agent_turns t
				WHERE t.whatsapp_message_ids @> ARRAY[c.whatsapp_message_id]
					AND t.conversation_id = p_conversation_id AND t.agent_type = p_agent_type))
	THEN
		v_memory := v_memory - '{summary,summary_at}'::text[];
	END IF;
	RETURN v_memory;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_current_memory(uuid, text, jsonb) IS
	'what an agent remembers of a conversation, after the changes that the sender made to messages since';
