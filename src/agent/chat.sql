-- WhatsApp messages as a model reads them: each kind as a text, in chat messages of the role user.
--
-- chat message: {"role", "content", ...} as chat completions take it. wahook's own members, which
-- agent_prompt() leaves out: wamid, the id of the WhatsApp message; at, when it came; pinned, to be kept
-- whatever else goes; edits, the id of the message that it is a new wording of; edited and revoked.

-- What a text can't show is named in brackets.
CREATE FUNCTION @extschema@.webhook_message_text(p_message jsonb) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_type text := CASE WHEN jsonb_typeof(p_message) = 'object' THEN p_message ->> 'type' END;
	v_body jsonb := CASE WHEN jsonb_typeof(p_message -> v_type) = 'object' THEN p_message -> v_type ELSE '{}' END;
	v_reply jsonb;
	v_items jsonb;
	v_text text;
BEGIN
	CASE v_type
	WHEN 'text' THEN
		v_text := v_body ->> 'body';
	WHEN 'image', 'video', 'document', 'audio', 'voice', 'sticker' THEN
		v_text := concat_ws(' ', format('[%s%s]',
				CASE WHEN v_type = 'audio' AND v_body ->> 'voice' = 'true' THEN 'voice message' ELSE v_type END,
				CASE WHEN v_body ->> 'filename' <> '' THEN ' ' || (v_body ->> 'filename') END),
			nullif(v_body ->> 'caption', ''));
	WHEN 'button' THEN
		v_text := coalesce(nullif(v_body ->> 'text', ''), v_body ->> 'payload');
	WHEN 'interactive' THEN
		v_reply := coalesce(v_body -> (v_body ->> 'type'), v_body -> 'button_reply', v_body -> 'list_reply', v_body -> 'nfm_reply', '{}');
		v_text := CASE
			WHEN v_body ->> 'type' = 'nfm_reply' OR v_reply ? 'response_json' THEN concat_ws(' ',
				format('[form%s]', CASE WHEN v_reply ->> 'name' <> '' THEN ' ' || (v_reply ->> 'name') END), v_reply ->> 'response_json')
			WHEN v_body ->> 'type' = 'call_permission_reply' THEN format('[permission to call: %s]', coalesce(v_reply ->> 'response', 'unknown'))
			ELSE concat_ws(': ', nullif(v_reply ->> 'title', ''), nullif(v_reply ->> 'description', '')) END;
	WHEN 'location' THEN
		v_text := format('[location: %s]', concat_ws(', ', nullif(v_body ->> 'name', ''), nullif(v_body ->> 'address', ''),
			v_body ->> 'latitude', v_body ->> 'longitude'));
	WHEN 'contacts' THEN
		v_items := CASE WHEN jsonb_typeof(p_message -> 'contacts') = 'array' THEN p_message -> 'contacts' ELSE '[]' END;
		v_text := format('[contacts: %s]', (SELECT string_agg(concat_ws(' ', contact #>> '{name,formatted_name}',
				(SELECT string_agg(phone ->> 'phone', ' ') FROM jsonb_path_query(contact, 'lax $.phones[*]') phone)), '; ')
			FROM jsonb_array_elements(v_items) contact));
	WHEN 'order' THEN
		v_items := CASE WHEN jsonb_typeof(v_body -> 'product_items') = 'array' THEN v_body -> 'product_items' ELSE '[]' END;
		v_text := concat_ws(' ', format('[order: %s]', (SELECT string_agg(concat_ws(' ', item ->> 'quantity', 'x',
				item ->> 'product_retailer_id', 'at', item ->> 'item_price', item ->> 'currency'), '; ')
			FROM jsonb_array_elements(v_items) item)), nullif(v_body ->> 'text', ''));
	WHEN 'reaction' THEN
		v_text := CASE WHEN v_body ->> 'emoji' <> '' THEN format('[reacted with %s to an earlier message]', v_body ->> 'emoji')
			ELSE '[took a reaction to an earlier message back]' END;
	WHEN 'system' THEN
		v_text := format('[%s]', coalesce(nullif(v_body ->> 'body', ''), v_body ->> 'type', 'system message'));
	WHEN 'edit' THEN
		v_text := '[edited an earlier message] ' || @extschema@.webhook_message_text(v_body -> 'message');
	WHEN 'revoke' THEN
		v_text := '[deleted an earlier message]';
	WHEN 'request_welcome' THEN
		v_text := '[opened the chat]';
	WHEN 'unsupported', 'unknown' THEN
		v_text := '[a message of a kind that can''t be shown]';
	ELSE
		v_text := concat_ws(' ', format('[%s]', coalesce(nullif(left(v_type, 100), ''), 'unknown message')),
			coalesce(v_body ->> 'body', v_body ->> 'caption', v_body ->> 'text', p_message #>> '{text,body}'));
	END CASE;
	IF p_message #>> '{referral,headline}' <> '' THEN
		v_text := concat_ws(' ', format('[came from an ad: %s]', p_message #>> '{referral,headline}'), v_text);
	END IF;
	RETURN coalesce(nullif(v_text, ''), '[empty message]');
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_message_text(jsonb) IS
	'a WhatsApp message as a text for a model';

CREATE FUNCTION @extschema@.webhook_changed_message(p_message jsonb, p_kind text, p_text text) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN CASE p_kind
		WHEN 'revoke' THEN (SELECT jsonb_object_agg(key, value) FROM jsonb_each(p_message)
				WHERE key IN ('role', 'wamid', 'at', 'edits', 'pinned'))
			|| jsonb_build_object('content', '[deleted by its sender]', 'revoked', true)
		ELSE p_message || jsonb_build_object('content', CASE WHEN p_message ? 'edits' THEN '[edited an earlier message] ' ELSE '' END
			|| coalesce(p_text, ''), 'edited', true) END;
COMMENT ON FUNCTION @extschema@.webhook_changed_message(jsonb, text, text) IS
	'a chat message as it is after its sender edited or revoked it';

CREATE FUNCTION @extschema@.agent_user_messages(p_messages jsonb) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_given jsonb := CASE jsonb_typeof(p_messages) WHEN 'array' THEN p_messages ELSE jsonb_build_array(p_messages) END;
	v_messages jsonb[] := '{}';
	v_ids text[] := '{}';
	v_senders text[] := '{}';
	v_element jsonb;
	v_message jsonb;
	v_id text;
	v_of text;
	v_at text;
	v_name text;
	v_sender text;
	v_place integer;
	v_chat jsonb;
BEGIN
	IF p_messages IS NULL THEN
		RETURN '[]';
	END IF;
	FOR v_element IN SELECT value FROM jsonb_array_elements(v_given) LOOP
		IF jsonb_typeof(v_element) = 'string' THEN
			v_element := jsonb_build_object('role', 'user', 'content', v_element);
		END IF;
		CONTINUE WHEN jsonb_typeof(v_element) <> 'object';
		-- What came from outside is told by what wahook itself puts there, before anything else.
		IF v_element ? 'whatsapp_message_id' THEN
			v_message := v_element -> 'message';
			v_id := v_element ->> 'whatsapp_message_id';
			v_at := v_element ->> 'received_at';
		ELSIF v_element ? 'role' THEN
			v_messages := array_append(v_messages, v_element);
			v_ids := array_append(v_ids, v_element ->> 'wamid');
			v_senders := array_append(v_senders, NULL);
			CONTINUE;
		ELSE
			v_message := v_element;
			v_id := v_element ->> 'id';
			v_at := NULL;
		END IF;
		v_sender := coalesce(v_message ->> 'from_user_id', v_message ->> 'from');
		v_of := CASE WHEN v_message ->> 'type' IN ('edit', 'revoke')
			THEN v_message #>> ARRAY[v_message ->> 'type', 'original_message_id'] END;
		v_place := CASE WHEN v_of IS NOT NULL THEN array_position(v_ids, v_of) END;
		IF v_place IS NOT NULL THEN
			IF v_senders[v_place] IS NOT DISTINCT FROM v_sender THEN
				v_messages[v_place] := @extschema@.webhook_changed_message(v_messages[v_place], v_message ->> 'type',
					@extschema@.webhook_message_text(v_message #> '{edit,message}'));
			END IF;
			CONTINUE;
		END IF;
		CONTINUE WHEN v_message ->> 'type' = 'revoke';
		v_name := CASE WHEN v_message ? 'group_id' THEN nullif(v_element #>> '{contact,profile,name}', '') END;
		v_chat := jsonb_strip_nulls(jsonb_build_object('role', 'user', 'wamid', v_id, 'at', v_at, 'edits', v_of,
			'content', concat_ws(': ', v_name, @extschema@.webhook_message_text(v_message))));
		v_messages := array_append(v_messages, v_chat);
		v_ids := array_append(v_ids, v_id);
		v_senders := array_append(v_senders, v_sender);
	END LOOP;
	RETURN to_jsonb(v_messages);
END
$$;
COMMENT ON FUNCTION @extschema@.agent_user_messages(jsonb) IS
	'the messages of a claim as chat messages of the user; what was edited or revoked among them is so already, and what are chat messages stay as they are';
