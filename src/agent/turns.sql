-- Turns: what an agent is sent, and what it remembers of that and of its answer.

CREATE INDEX agent_turns_messages_idx
	ON @extschema@.agent_turns USING gin (whatsapp_message_ids) WITH (fastupdate = off);

CREATE FUNCTION @extschema@.webhook_require_agent_type(p_conversation_id uuid, p_agent_type text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF coalesce(p_agent_type, '') = '' OR octet_length(p_agent_type) > 1000 THEN
		RAISE EXCEPTION 'agent type must have between 1 and 1000 bytes'
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = format('It was for conversation %s.', coalesce(p_conversation_id::text, 'null')),
				HINT = 'Pass one of webhook_agents, or a name of your own.';
	END IF;
	IF NOT EXISTS (SELECT FROM @extschema@.webhook_conversations WHERE id = p_conversation_id) THEN
		RAISE EXCEPTION 'conversation % does not exist', coalesce(p_conversation_id::text, 'null')
			USING ERRCODE = 'WH003',
				HINT = 'Pass an id that claim_conversations(), receive_webhook() or get_or_create_conversation() returned.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_require_agent_type(uuid, text) IS
	'an error unless the conversation exists and the agent type can be one';

-- What an agent is told of a conversation beside its messages, and how much there is room for.
CREATE FUNCTION @extschema@.webhook_agent_memory(
	p_conversation_id uuid, p_agent_type text,
	OUT messages jsonb, OUT summary text, OUT updated_at timestamptz)
	RETURNS record
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_memory jsonb;
BEGIN
	SELECT @extschema@.webhook_current_memory(c.conversation_id, c.agent_type, c.context_data), c.updated_at
		INTO v_memory, updated_at
		FROM @extschema@.agent_contexts c
		WHERE c.conversation_id = p_conversation_id AND c.agent_type = p_agent_type;
	messages := coalesce(@extschema@.webhook_memory_messages(v_memory), '[]');
	IF jsonb_typeof(v_memory) = 'object' THEN
		summary := nullif(v_memory ->> 'summary', '');
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_agent_memory(uuid, text) IS
	'what an agent remembers of a conversation: all messages, and the summary of those before';

-- A text within a budget, as the content of a message.
CREATE FUNCTION @extschema@.webhook_shortened_text(p_text text, p_max_tokens integer) RETURNS text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT nullif(@extschema@.truncate_context(
		jsonb_build_array(jsonb_build_object('role', 'system', 'content', p_text)),
		greatest(p_max_tokens, 0), 2147483647) #>> '{0,content}', '')
	WHERE p_text <> ''
	$$;
COMMENT ON FUNCTION @extschema@.webhook_shortened_text(text, integer) IS
	'the beginning of a text that is too long for a budget, with a mark; null where nothing is left';

CREATE FUNCTION @extschema@.agent_load_context(
	p_conversation_id uuid, p_agent_type text, p_max_tokens integer DEFAULT NULL, p_omitted boolean DEFAULT false)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_agent record;
	v_memory record;
	v_budget integer := p_max_tokens;
	v_summary text;
	v_summary_tokens integer := 0;
	v_messages jsonb;
	v_tokens integer;
	v_left_out integer;
	v_answer jsonb;
BEGIN
	PERFORM @extschema@.webhook_require_agent_type(p_conversation_id, p_agent_type);
	IF p_max_tokens < 0 THEN
		RAISE EXCEPTION 'p_max_tokens must not be negative, it is %', p_max_tokens
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it null for the budget of the agent.';
	END IF;
	SELECT a.* INTO v_agent FROM @extschema@.webhook_conversations c,
		@extschema@.webhook_agent_config(p_agent_type, c.user_id, c.id) a WHERE c.id = p_conversation_id;
	IF v_budget IS NULL THEN
		v_budget := coalesce(v_agent.context_budget, 4000);
		IF v_agent.system_prompt <> '' THEN
			v_budget := greatest(0, v_budget - @extschema@.count_context_tokens(
				jsonb_build_array(jsonb_build_object('role', 'system', 'content', v_agent.system_prompt))));
		END IF;
	END IF;
	SELECT * INTO v_memory FROM @extschema@.webhook_agent_memory(p_conversation_id, p_agent_type);
	IF v_memory.summary IS NOT NULL THEN
		v_summary := @extschema@.webhook_shortened_text(v_memory.summary, v_budget / 4);
		v_summary_tokens := coalesce(@extschema@.estimate_tokens(v_summary), 0);
	END IF;
	SELECT f.messages, f.tokens, f.left_out INTO v_messages, v_tokens, v_left_out
		FROM @extschema@.webhook_fit(v_memory.messages, v_budget - v_summary_tokens, coalesce(v_agent.max_context_messages, 200)) f;
	v_answer := jsonb_build_object(
		'conversation_id', p_conversation_id, 'agent_type', p_agent_type,
		'variant', v_agent.variant, 'version', v_agent.version,
		'messages_count', jsonb_array_length(v_messages),
		'summary', v_summary,
		'token_count', v_tokens + v_summary_tokens,
		'max_tokens', v_budget, 'left_out', v_left_out, 'updated_at', v_memory.updated_at);
	v_answer := @extschema@.webhook_with_member(v_answer, 'messages'::text, v_messages);
	IF p_omitted THEN
		v_answer := v_answer || jsonb_build_object('omitted', (
			SELECT coalesce(jsonb_agg(message ORDER BY place), '[]')
			FROM (SELECT message, place FROM jsonb_array_elements(v_memory.messages) WITH ORDINALITY m(message, place)
				WHERE coalesce(message ->> 'pinned', '') <> 'true' ORDER BY place LIMIT v_left_out) oldest));
	END IF;
	IF v_left_out > 0 THEN
		PERFORM @extschema@.webhook_log_event('AI_CONTEXT_TRUNCATED', jsonb_build_object(
			'conversation_id', p_conversation_id, 'agent_type', p_agent_type,
			'left_out', v_left_out, 'max_tokens', v_budget));
	END IF;
	RETURN v_answer;
END
$$;
COMMENT ON FUNCTION @extschema@.agent_load_context(uuid, text, integer, boolean) IS
	'what an agent remembers of a conversation, within a budget: messages, summary, token_count, messages_count, left_out';

-- Chat completions refuse members that they do not know.
CREATE FUNCTION @extschema@.webhook_sendable_messages(p_messages jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT coalesce(jsonb_agg(jsonb_build_object(
			'role', CASE WHEN message ->> 'role' IN ('system', 'developer', 'user', 'assistant', 'tool')
				THEN message -> 'role' ELSE '"user"' END,
			'content', CASE jsonb_typeof(message -> 'content')
				WHEN 'string' THEN message -> 'content'
				WHEN 'array' THEN message -> 'content'
				ELSE CASE WHEN message ? 'tool_calls' AND jsonb_typeof(message -> 'content') IS NOT DISTINCT FROM 'null' THEN 'null'
					ELSE to_jsonb(coalesce(message ->> 'content', '')) END END)
			|| coalesce((SELECT jsonb_object_agg(key, value) FROM jsonb_each(message)
				WHERE key IN ('name', 'tool_calls', 'tool_call_id', 'refusal', 'pinned') AND value <> 'null'), '{}')
			ORDER BY place), '[]')
	FROM jsonb_array_elements(p_messages) WITH ORDINALITY m(message, place)
	$$;
COMMENT ON FUNCTION @extschema@.webhook_sendable_messages(jsonb) IS
	'chat messages with the members that chat completions know, and pinned';

CREATE FUNCTION @extschema@.agent_prompt(
	p_conversation_id uuid, p_agent_type text, p_messages jsonb DEFAULT NULL, p_options jsonb DEFAULT NULL,
	p_max_tokens integer DEFAULT NULL, p_answered_by text DEFAULT NULL)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_agent record;
	v_memory record;
	v_budget integer;
	v_system text;
	v_messages jsonb;
	v_window jsonb;
	v_body jsonb;
	v_left_out integer;
BEGIN
	PERFORM @extschema@.webhook_require_agent_type(p_conversation_id, p_agent_type);
	IF p_max_tokens < 0 OR jsonb_typeof(p_options) <> 'object' THEN
		RAISE EXCEPTION 'p_options must be an object, and p_max_tokens not negative'
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = format('They are %s and %s.', coalesce(jsonb_typeof(p_options), 'null'), coalesce(p_max_tokens::text, 'null')),
				HINT = 'Leave them null for what is configured in webhook_agents.';
	END IF;
	SELECT a.* INTO v_agent FROM @extschema@.webhook_conversations c,
		@extschema@.webhook_agent_config(coalesce(p_answered_by, p_agent_type), c.user_id, c.id) a WHERE c.id = p_conversation_id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'agent "%" is not configured', left(coalesce(p_answered_by, p_agent_type), 64)
			USING ERRCODE = 'WH006', HINT = 'Insert it into webhook_agents, with its model and system prompt.';
	END IF;
	v_budget := coalesce(p_max_tokens, v_agent.context_budget);
	SELECT * INTO v_memory FROM @extschema@.webhook_agent_memory(p_conversation_id, p_agent_type);
	-- In the system prompt, for many models take but one message of that role.
	v_system := concat_ws(E'\n\n', nullif(v_agent.system_prompt, ''),
		'Summary of the conversation before: ' || @extschema@.webhook_shortened_text(v_memory.summary, v_budget / 4));
	-- What a turn that was cut short has saved already is not said twice.
	v_messages := (@extschema@.webhook_remember(v_memory.messages,
		@extschema@.webhook_apply_changes(p_conversation_id, @extschema@.agent_user_messages(p_messages)),
		'{}'::text[], 2147483647, 2147483647)).memory;
	v_window := @extschema@.truncate_context(
		CASE WHEN v_system = '' THEN '[]' ELSE jsonb_build_array(jsonb_build_object('role', 'system', 'content', v_system)) END
			|| @extschema@.webhook_sendable_messages(v_messages),
		v_budget, v_agent.max_context_messages);
	v_left_out := jsonb_array_length(v_messages) + (v_system <> '')::integer - jsonb_array_length(v_window);
	IF v_left_out > 0 THEN
		PERFORM @extschema@.webhook_log_event('AI_CONTEXT_TRUNCATED', jsonb_build_object(
			'conversation_id', p_conversation_id, 'agent_type', p_agent_type,
			'left_out', v_left_out, 'max_tokens', v_budget));
	END IF;
	v_body := jsonb_build_object('model', v_agent.model, 'temperature', v_agent.temperature);
	IF NOT coalesce(p_options ?| '{max_tokens,max_completion_tokens}', false) THEN
		-- The newer name is refused by many servers, the older one by the models that think first.
		v_body := v_body || jsonb_build_object(CASE WHEN v_agent.model ~ '^(.*/)?(o[0-9]|gpt-[5-9])'
			THEN 'max_completion_tokens' ELSE 'max_tokens' END, v_agent.max_output_tokens);
	END IF;
	-- Only what is null itself goes, not what is in the schema of a tool.
	RETURN (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(v_body || coalesce(p_options, '{}'))
			WHERE value <> 'null' AND key <> 'messages')
		|| jsonb_build_object('messages', (SELECT coalesce(jsonb_agg(message - 'pinned'::text ORDER BY place), '[]')
			FROM jsonb_array_elements(v_window) WITH ORDINALITY m(message, place)));
END
$$;
COMMENT ON FUNCTION @extschema@.agent_prompt(uuid, text, jsonb, jsonb, integer, text) IS
	'the body of a request for chat completions, within the agent''s budget: system prompt, summary, memory and the new messages. p_answered_by: another agent, which answers in its place, as itself';

CREATE FUNCTION @extschema@.webhook_count_of(p_object jsonb, p_key text) RETURNS integer
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN CASE WHEN jsonb_typeof(p_object -> p_key) = 'number'
		THEN least(2147483647, greatest(0, trunc((p_object ->> p_key)::numeric)))::integer END;
COMMENT ON FUNCTION @extschema@.webhook_count_of(jsonb, text) IS
	'a member that is a number, as a count; null: there is none';

-- lock_timeout: should another transaction have a row that a look can't tell of, it is an error soon.
CREATE FUNCTION @extschema@.agent_save_turn(
	p_conversation_id uuid, p_lock_id uuid, p_agent_type text, p_messages jsonb,
	p_whatsapp_message_ids text[] DEFAULT NULL, p_usage jsonb DEFAULT NULL, p_summary text DEFAULT NULL,
	p_details jsonb DEFAULT NULL)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms'
	AS $$
DECLARE
	v_max_bytes integer := pg_size_bytes(@extschema@.webhook_setting('agent_memory_size'::text));
	v_failed boolean := coalesce(p_details ->> 'error', '') <> '';
	v_turn jsonb := @extschema@.agent_user_messages(p_messages);
	v_ids text[] := p_whatsapp_message_ids;
	v_new_ids text[];
	v_unnamed integer;
	v_known text[];
	v_agent record;
	v_memory jsonb;
	v_remembered record;
	v_prompt_tokens integer := coalesce(@extschema@.webhook_count_of(p_usage, 'prompt_tokens'::text), @extschema@.webhook_count_of(p_usage, 'input_tokens'::text));
	v_completion_tokens integer := coalesce(@extschema@.webhook_count_of(p_usage, 'completion_tokens'::text), @extschema@.webhook_count_of(p_usage, 'output_tokens'::text));
	v_session uuid;
	v_turn_id uuid;
	v_saved boolean;
	v_tokens integer;
	v_count integer;
BEGIN
	PERFORM @extschema@.webhook_hold_memory(p_conversation_id, p_lock_id, p_agent_type);
	PERFORM @extschema@.webhook_require_agent_type(p_conversation_id, p_agent_type);

	IF v_ids IS NULL THEN
		v_ids := ARRAY(SELECT DISTINCT coalesce(message ->> 'whatsapp_message_id', message ->> 'wamid')
			FROM jsonb_array_elements(CASE jsonb_typeof(p_messages) WHEN 'array' THEN p_messages ELSE jsonb_build_array(p_messages) END) message
			WHERE coalesce(message ->> 'whatsapp_message_id', message ->> 'wamid') <> '');
	ELSE
		v_ids := array_remove(v_ids, NULL);
		-- Messages without an id are those of the ids that no message has, where the numbers agree.
		v_new_ids := ARRAY(SELECT id FROM unnest(v_ids) WITH ORDINALITY i(id, place)
			WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(v_turn) message WHERE message ->> 'wamid' = id) ORDER BY place);
		SELECT count(*) INTO v_unnamed FROM jsonb_array_elements(v_turn) message
			WHERE message ->> 'role' = 'user' AND NOT message ? 'wamid';
		IF v_unnamed > 0 AND v_unnamed = cardinality(v_new_ids) THEN
			SELECT jsonb_agg(CASE WHEN nameless THEN message || jsonb_build_object('wamid', v_new_ids[nth]) ELSE message END ORDER BY place)
				INTO v_turn
				FROM (SELECT message, place, nameless, count(*) FILTER (WHERE nameless) OVER (ORDER BY place) AS nth
					FROM jsonb_array_elements(v_turn) WITH ORDINALITY m(message, place),
						LATERAL (SELECT message ->> 'role' = 'user' AND NOT message ? 'wamid') n(nameless)) numbered;
		END IF;
	END IF;

	IF EXISTS (SELECT FROM unnest(v_ids) id WHERE octet_length(id) > 512) THEN
		RAISE EXCEPTION 'a message id is too long'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'A message id has at most 512 bytes.',
				HINT = 'Pass the ids of the messages as they were delivered.';
	END IF;
	-- Memory forgets, so what was answered is looked up among the turns.
	IF cardinality(v_ids) > 0 THEN
		WITH answered AS MATERIALIZED (
			SELECT conversation_id, agent_type, outcome, whatsapp_message_ids FROM @extschema@.agent_turns
			WHERE whatsapp_message_ids && v_ids)
		SELECT array_agg(id) INTO v_known FROM answered a, unnest(a.whatsapp_message_ids) id
			WHERE a.conversation_id = p_conversation_id AND a.agent_type = p_agent_type AND a.outcome = 'answered'
				AND id = ANY (v_ids);
	END IF;
	v_known := coalesce(v_known, '{}');
	v_saved := cardinality(v_ids) = 0 OR NOT v_ids <@ v_known;

	SELECT a.* INTO v_agent FROM @extschema@.webhook_conversations c,
		@extschema@.webhook_agent_config(p_agent_type, c.user_id, c.id) a WHERE c.id = p_conversation_id;
	-- What the model was told counts, not what has become of the agent while it thought.
	IF p_details ? 'version' AND coalesce(p_details ->> 'answered_by', p_agent_type) = p_agent_type AND EXISTS (
		SELECT FROM @extschema@.webhook_agent_versions WHERE agent_type = p_agent_type
			AND variant = coalesce(p_details ->> 'variant', '')
			AND version = @extschema@.webhook_count_of(p_details, 'version'::text))
	THEN
		v_agent.variant := coalesce(p_details ->> 'variant', '');
		v_agent.version := @extschema@.webhook_count_of(p_details, 'version'::text);
	END IF;
	SELECT context_data INTO v_memory FROM @extschema@.agent_contexts
		WHERE conversation_id = p_conversation_id AND agent_type = p_agent_type;
	SELECT * INTO v_remembered FROM @extschema@.webhook_remember(coalesce(v_memory, '{}'),
		CASE WHEN v_saved AND NOT v_failed THEN v_turn ELSE '[]' END,
		v_known, coalesce(v_agent.max_context_messages, 200), v_max_bytes);
	IF v_saved AND NOT v_failed AND v_remembered.added = 0 AND jsonb_array_length(v_turn) > 0 THEN
		v_saved := false; -- all of it is in memory, although no turn tells of it any more
	END IF;

	IF v_saved AND (v_remembered.added > 0 OR p_summary IS NOT NULL) THEN
		v_memory := v_remembered.memory;
		IF p_summary IS NOT NULL THEN
			v_memory := @extschema@.webhook_with_summary(v_memory, p_summary, v_max_bytes);
		END IF;
		UPDATE @extschema@.agent_contexts SET context_data = v_memory, updated_at = clock_timestamp()
			WHERE conversation_id = p_conversation_id AND agent_type = p_agent_type
			RETURNING token_count, messages_count INTO v_tokens, v_count;
		IF NOT FOUND THEN
			INSERT INTO @extschema@.agent_contexts (conversation_id, agent_type, context_data)
				VALUES (p_conversation_id, p_agent_type, v_memory)
				RETURNING token_count, messages_count INTO v_tokens, v_count;
		END IF;
	ELSE
		SELECT token_count, messages_count INTO v_tokens, v_count FROM @extschema@.agent_contexts
			WHERE conversation_id = p_conversation_id AND agent_type = p_agent_type;
	END IF;

	IF v_saved THEN
		v_session := @extschema@.webhook_open_agent_session(p_conversation_id, p_agent_type, v_agent.variant, v_agent.version);
		PERFORM @extschema@.webhook_count_agent_turn(v_session,
			CASE WHEN v_failed THEN 0 ELSE (SELECT count(*) FROM unnest(v_ids) id WHERE id <> ALL (v_known))::integer END, v_prompt_tokens, v_completion_tokens, v_failed::integer);
		INSERT INTO @extschema@.agent_turns (conversation_id, agent_type, session_id, whatsapp_message_ids, correlation_id,
				variant, version, model, outcome, answered_by, calls, prompt_tokens, completion_tokens, duration_ms, error)
			VALUES (p_conversation_id, p_agent_type, v_session, v_ids, @extschema@.webhook_uuid_or_null(p_details ->> 'correlation_id'),
				v_agent.variant, v_agent.version, coalesce(p_details ->> 'model', v_agent.model),
				CASE WHEN v_failed THEN 'failed' ELSE 'answered' END, coalesce(p_details ->> 'answered_by', p_agent_type),
				coalesce(@extschema@.webhook_count_of(p_details, 'calls'::text), 1), v_prompt_tokens, v_completion_tokens,
				@extschema@.webhook_count_of(p_details, 'duration_ms'::text), left(p_details ->> 'error', 8192))
			RETURNING id INTO v_turn_id;
	END IF;
	RETURN jsonb_build_object('saved', v_saved, 'turn_id', v_turn_id, 'session_id', v_session,
		'added', CASE WHEN v_saved THEN v_remembered.added ELSE 0 END,
		'messages_count', coalesce(v_count, 0), 'token_count', coalesce(v_tokens, 0),
		'forgotten', v_remembered.forgotten);
END
$$;
COMMENT ON FUNCTION @extschema@.agent_save_turn(uuid, uuid, text, jsonb, text[], jsonb, text, jsonb) IS
	'remembers the messages of a turn, each once, and counts it; forgotten: what had to go from memory for it. WH002 when the lock was lost';

CREATE FUNCTION @extschema@.webhook_with_summary(p_memory jsonb, p_summary text, p_max_bytes integer) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE jsonb_typeof(p_memory)
			WHEN 'array' THEN jsonb_build_object('messages', p_memory)
			WHEN 'object' THEN p_memory - '{summary,summary_at}'::text[]
			ELSE '{}' END
		|| CASE WHEN p_summary <> '' THEN jsonb_build_object(
				'summary', left(p_summary, p_max_bytes / 16), 'summary_at', clock_timestamp())
			ELSE '{}' END
	$$;
COMMENT ON FUNCTION @extschema@.webhook_with_summary(jsonb, text, integer) IS
	'what an agent remembers, with another summary of what came before; empty: none';

CREATE FUNCTION @extschema@.webhook_uuid_or_null(p_text text) RETURNS uuid
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN CASE WHEN p_text ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN p_text::uuid END;
COMMENT ON FUNCTION @extschema@.webhook_uuid_or_null(text) IS 'a uuid as it is usually written; null where it is none';

CREATE FUNCTION @extschema@.agent_set_summary(
	p_conversation_id uuid, p_lock_id uuid, p_agent_type text, p_summary text, p_forget integer DEFAULT 0)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms'
	AS $$
DECLARE
	v_memory jsonb;
	v_messages jsonb;
	v_tokens integer;
	v_count integer;
BEGIN
	PERFORM @extschema@.webhook_hold_memory(p_conversation_id, p_lock_id, p_agent_type);
	PERFORM @extschema@.webhook_require_agent_type(p_conversation_id, p_agent_type);
	SELECT context_data INTO v_memory FROM @extschema@.agent_contexts
		WHERE conversation_id = p_conversation_id AND agent_type = p_agent_type;
	v_memory := @extschema@.webhook_with_summary(coalesce(v_memory, '{}'), p_summary,
		pg_size_bytes(@extschema@.webhook_setting('agent_memory_size'::text))::integer);
	v_messages := @extschema@.webhook_memory_array(v_memory);
	IF p_forget > 0 AND v_messages IS NOT NULL THEN
		SELECT v_memory || jsonb_build_object('messages', coalesce(jsonb_agg(message ORDER BY place), '[]')) INTO v_memory
			FROM (SELECT message, place, coalesce(message ->> 'pinned', '') = 'true' AS pinned,
					count(*) FILTER (WHERE coalesce(message ->> 'pinned', '') <> 'true') OVER (ORDER BY place) AS nth
				FROM jsonb_array_elements(v_messages) WITH ORDINALITY m(message, place)) numbered
			WHERE pinned OR nth > p_forget;
	END IF;
	UPDATE @extschema@.agent_contexts SET context_data = v_memory, updated_at = clock_timestamp()
		WHERE conversation_id = p_conversation_id AND agent_type = p_agent_type
		RETURNING token_count, messages_count INTO v_tokens, v_count;
	IF NOT FOUND THEN
		INSERT INTO @extschema@.agent_contexts (conversation_id, agent_type, context_data)
			VALUES (p_conversation_id, p_agent_type, v_memory)
			RETURNING token_count, messages_count INTO v_tokens, v_count;
	END IF;
	RETURN jsonb_build_object('messages_count', v_count, 'token_count', v_tokens);
END
$$;
COMMENT ON FUNCTION @extschema@.agent_set_summary(uuid, uuid, text, text, integer) IS
	'sets the summary of what came before in an agent''s memory, and forgets that many of the oldest messages; WH002 when the lock was lost';
