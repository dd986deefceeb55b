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
	v_messages jsonb;
	v_changed jsonb;
BEGIN
	IF NOT EXISTS (SELECT FROM @extschema@.webhook_message_changes c WHERE c.conversation_id = p_conversation_id) THEN
		RETURN p_memory;
	END IF;
	v_messages := @extschema@.webhook_memory_array(p_memory);
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

-- What of a message may stay when its sender took it back: that there was one, from whom, and when.
CREATE FUNCTION @extschema@.webhook_revoked_payload(p_payload jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE WHEN jsonb_typeof(p_payload -> 'message') = 'object' THEN p_payload || jsonb_build_object('message', left_over)
			ELSE left_over END
	FROM (SELECT coalesce(jsonb_object_agg(key, value), '{}') || '{"revoked": true}' AS left_over
		FROM jsonb_each(CASE WHEN jsonb_typeof(p_payload -> 'message') = 'object' THEN p_payload -> 'message'
			WHEN jsonb_typeof(p_payload) = 'object' THEN p_payload ELSE '{}' END)
		WHERE key IN ('id', 'from', 'from_user_id', 'group_id', 'timestamp', 'type')) kept
	$$;
COMMENT ON FUNCTION @extschema@.webhook_revoked_payload(jsonb) IS
	'the payload of a message without its content';

-- The payloads of a revoked message and of its edits, where nobody is to process them any more. False:
-- one of them is still to be processed, or in somebody's hands.
CREATE FUNCTION @extschema@.webhook_remove_revoked(p_conversation_id uuid, p_whatsapp_message_id text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_message record;
	v_done boolean := true;
BEGIN
	FOR v_message IN
		SELECT p.id, p.whatsapp_message_id AS wamid, p.processed_at IS NOT NULL AND NOT EXISTS (SELECT FROM @extschema@.webhook_dlq d
				WHERE d.whatsapp_message_id = p.whatsapp_message_id AND d.resolution_status IN ('pending', 'retrying')) AS is_over
		FROM @extschema@.processed_webhook_messages p
		WHERE p.conversation_id = p_conversation_id AND NOT coalesce(p.payload #>> '{message,revoked}' = 'true', p.payload IS NULL, false)
			AND coalesce(p.kind, '') <> 'revoke'
			AND p.whatsapp_message_id IN (SELECT p_whatsapp_message_id UNION ALL
				SELECT e.whatsapp_message_id FROM @extschema@.webhook_message_changes c
					JOIN @extschema@.processed_webhook_messages e ON e.id = c.message_id
				WHERE c.conversation_id = p_conversation_id AND c.whatsapp_message_id = p_whatsapp_message_id AND c.kind = 'edit')
	LOOP
		-- Given up is over, too, unless somebody revives it: then without what was revoked.
		IF NOT v_message.is_over AND NOT EXISTS (SELECT FROM @extschema@.webhook_dlq d
			WHERE d.whatsapp_message_id = v_message.wamid AND d.resolution_status = 'failed')
		THEN
			v_done := false;
			CONTINUE;
		END IF;
		PERFORM FROM @extschema@.processed_webhook_messages WHERE id = v_message.id FOR NO KEY UPDATE SKIP LOCKED;
		IF FOUND THEN
			UPDATE @extschema@.processed_webhook_messages SET payload = @extschema@.webhook_revoked_payload(payload) WHERE id = v_message.id;
			PERFORM FROM @extschema@.webhook_dlq WHERE whatsapp_message_id = v_message.wamid FOR NO KEY UPDATE SKIP LOCKED;
			UPDATE @extschema@.webhook_dlq SET payload = @extschema@.webhook_revoked_payload(payload)
				WHERE FOUND AND whatsapp_message_id = v_message.wamid;
		ELSE
			v_done := false;
		END IF;
	END LOOP;
	RETURN v_done;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_remove_revoked(uuid, text) IS
	'takes the content of a revoked message, and of edits of it, out of what is stored; false: not everywhere yet';

-- A transaction that began before a change was committed may write, and commit, memory without it. So a
-- change is settled only when it has been found applied by a run after all transactions had ended that
-- were there in an earlier run. A conversation in use is left to its holder for a while, who would be
-- told "busy" else; what he saves has the change.
CREATE FUNCTION @extschema@.webhook_settle_changes(p_limit integer) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_change @extschema@.webhook_message_changes;
	v_memory record;
	v_applied boolean;
	v_settled bigint := 0;
BEGIN
	FOR v_change IN
		SELECT * FROM @extschema@.webhook_message_changes WHERE NOT settled
		ORDER BY applied_in NULLS FIRST LIMIT p_limit FOR UPDATE SKIP LOCKED
	LOOP
		v_applied := true;
		FOR v_memory IN
			SELECT a.id, c.locked_by IS NOT NULL AND c.lock_expires_at > clock_timestamp()
					AND v_change.received_at > clock_timestamp() - interval '15 minutes' AS in_use
			FROM @extschema@.agent_contexts a JOIN @extschema@.webhook_conversations c ON c.id = a.conversation_id
			WHERE a.conversation_id = v_change.conversation_id
				AND @extschema@.webhook_current_memory(a.conversation_id, a.agent_type, a.context_data) <> a.context_data
		LOOP
			PERFORM FROM @extschema@.agent_contexts WHERE id = v_memory.id AND NOT v_memory.in_use FOR NO KEY UPDATE SKIP LOCKED;
			IF FOUND THEN
				-- The trigger does the rest.
				UPDATE @extschema@.agent_contexts SET updated_at = clock_timestamp() WHERE id = v_memory.id;
			ELSE
				v_applied := false;
			END IF;
		END LOOP;
		IF v_change.kind = 'revoke' AND NOT @extschema@.webhook_remove_revoked(v_change.conversation_id, v_change.whatsapp_message_id) THEN
			v_applied := false;
		END IF;
		-- A number from another server, of which this is the copy, is too large.
		v_applied := v_applied AND coalesce(v_change.applied_in < pg_snapshot_xmin(pg_current_snapshot()), false);
		UPDATE @extschema@.webhook_message_changes
			SET settled = v_applied,
				applied_in = CASE WHEN applied_in < pg_current_xact_id() AND v_applied THEN applied_in ELSE pg_current_xact_id() END
			WHERE (conversation_id, whatsapp_message_id, message_id)
				= (v_change.conversation_id, v_change.whatsapp_message_id, v_change.message_id);
		v_settled := v_settled + v_applied::integer;
	END LOOP;
	RETURN v_settled;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_settle_changes(integer) IS
	'applies edits and revocations to what is stored and has not been written since; how many are done with';
