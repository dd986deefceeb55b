-- What the worker needs to ask a model, and to hand over what it answers.

CREATE FUNCTION @extschema@.webhook_agent_is_asked(p_messages jsonb) RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT EXISTS (
		SELECT FROM jsonb_array_elements(@extschema@.agent_user_messages(p_messages)) u
			JOIN jsonb_array_elements(p_messages) m ON m ->> 'whatsapp_message_id' = u ->> 'wamid'
		WHERE u -> 'revoked' IS NULL
			AND coalesce(m ->> 'kind', '') NOT IN ('reaction', 'edit', 'revoke', 'system'))
	$$;
COMMENT ON FUNCTION @extschema@.webhook_agent_is_asked(jsonb) IS
	'whether there is anything to answer among the messages of a claim: more than reactions, edits, and what was revoked';

-- An edit of what is remembered has changed that already.
CREATE FUNCTION @extschema@.webhook_agent_messages(p_conversation_id uuid, p_agent_type text, p_messages jsonb)
	RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT coalesce(jsonb_agg(u.message ORDER BY u.place), '[]')
	FROM jsonb_array_elements(@extschema@.agent_user_messages(p_messages)) WITH ORDINALITY u (message, place)
	WHERE NOT u.message ? 'edits' OR NOT EXISTS (
		SELECT FROM @extschema@.agent_contexts c,
			jsonb_array_elements(@extschema@.webhook_memory_messages(c.context_data)) m (message)
		WHERE c.conversation_id = p_conversation_id AND c.agent_type = p_agent_type
			AND m.message ->> 'wamid' = u.message ->> 'edits')
	$$;
COMMENT ON FUNCTION @extschema@.webhook_agent_messages(uuid, text, jsonb) IS
	'the messages of a claim as an agent is told them: chat messages, without edits of what it remembers';

-- The request is made anew for each call, so that it is what the agent is told now.
CREATE FUNCTION @extschema@.webhook_agent_call(
	p_conversation_id uuid, p_agent_type text, p_answered_by text, p_user_id text, p_messages jsonb)
	RETURNS TABLE (problem text, retry_at timestamptz, url text, allow_http boolean, timeout_ms integer,
		api_key_from text, api_key text, body text, prompt_tokens integer, details jsonb,
		circuit_threshold integer, circuit_timeout interval)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_config record;
	v_body jsonb;
	v_leave jsonb;
BEGIN
	SELECT * INTO v_config FROM @extschema@.webhook_agent_config(p_answered_by, p_user_id, p_conversation_id);
	IF NOT FOUND THEN
		problem := 'it does not exist any more';
	ELSIF coalesce(v_config.endpoint, '') = '' THEN
		problem := 'it has no endpoint';
	ELSIF coalesce(v_config.model, '') = '' THEN
		problem := 'it has no model';
	ELSE
		v_body := @extschema@.agent_prompt(p_conversation_id, p_agent_type,
			@extschema@.webhook_agent_messages(p_conversation_id, p_agent_type, p_messages),
			NULL::jsonb, NULL::integer, p_answered_by);
		prompt_tokens := @extschema@.count_context_tokens(v_body -> 'messages');
		v_leave := @extschema@.webhook_agent_may_spend(p_answered_by, p_user_id,
			prompt_tokens + coalesce(v_config.max_output_tokens, 0));
		IF v_leave ->> 'allowed' = 'false' THEN
			problem := format('its budget of tokens is used up (%s)', coalesce(v_leave ->> 'reason', 'unknown'));
			retry_at := v_leave ->> 'retry_at';
		END IF;
	END IF;
	url := v_config.endpoint;
	allow_http := v_config.allow_http;
	timeout_ms := v_config.timeout_ms;
	circuit_threshold := v_config.circuit_threshold;
	circuit_timeout := v_config.circuit_timeout;
	body := v_body::text;
	details := jsonb_build_object('answered_by', p_answered_by, 'variant', v_config.variant,
		'version', v_config.version, 'model', v_config.model);
	SELECT a.api_key_from, s.api_key INTO api_key_from, api_key
		FROM @extschema@.webhook_agents a
			LEFT JOIN @extschema@.webhook_agent_secrets s ON s.agent_type = a.agent_type AND a.api_key_from = 'secret'
		WHERE a.agent_type = p_answered_by AND a.endpoint = v_config.endpoint;
	-- A key that was set meanwhile is for the endpoint that was set with it.
	IF NOT FOUND AND problem IS NULL THEN
		problem := 'its endpoint has just been changed';
	END IF;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_agent_call(uuid, text, text, text, jsonb) IS
	'a call of an agent''s endpoint for the messages of a claim, or why there can be none; p_answered_by: who is asked, the agent itself or one in its place';

CREATE FUNCTION @extschema@.webhook_agent_save(
	p_conversation_id uuid, p_lock_id uuid, p_agent_type text, p_messages jsonb, p_whatsapp_message_ids text[],
	p_reply text, p_details jsonb, p_calls integer, p_prompt_tokens integer, p_completion_tokens integer,
	p_duration_ms integer)
	RETURNS jsonb
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT @extschema@.agent_save_turn(p_conversation_id, p_lock_id, p_agent_type,
		@extschema@.webhook_agent_messages(p_conversation_id, p_agent_type, p_messages) || CASE WHEN p_reply IS NULL THEN '[]' ELSE jsonb_build_array(jsonb_build_object(
			'role', 'assistant', 'content', p_reply, 'at', clock_timestamp())) END,
		p_whatsapp_message_ids,
		jsonb_build_object('prompt_tokens', p_prompt_tokens, 'completion_tokens', p_completion_tokens),
		NULL::text,
		p_details || jsonb_build_object('calls', p_calls, 'duration_ms', p_duration_ms,
			'correlation_id', p_messages -> 0 -> 'correlation_id'))
	$$;
COMMENT ON FUNCTION @extschema@.webhook_agent_save(uuid, uuid, text, jsonb, text[], text, jsonb, integer, integer, integer, integer) IS
	'saves the turn of an agent that the worker asked; a null reply: there was nothing to answer';

CREATE FUNCTION @extschema@.webhook_agent_failed(
	p_conversation_id uuid, p_lock_id uuid, p_agent_type text, p_messages jsonb, p_whatsapp_message_ids text[],
	p_error text, p_details jsonb, p_calls integer, p_prompt_tokens integer, p_completion_tokens integer,
	p_duration_ms integer)
	RETURNS jsonb
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT @extschema@.webhook_agent_save(p_conversation_id, p_lock_id, p_agent_type, p_messages, p_whatsapp_message_ids,
		NULL::text, p_details || jsonb_build_object('error', p_error), p_calls, p_prompt_tokens,
		p_completion_tokens, p_duration_ms)
	$$;
COMMENT ON FUNCTION @extschema@.webhook_agent_failed(uuid, uuid, text, jsonb, text[], text, jsonb, integer, integer, integer, integer) IS
	'records the turn of an agent that failed';
