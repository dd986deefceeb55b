-- Sessions of agents.

CREATE FUNCTION @extschema@.increment_session_metrics(p_conversation_id uuid, p_agent_type text)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF coalesce(p_agent_type, '') = '' THEN
		RAISE EXCEPTION 'agent type must not be empty'
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = format('It was for conversation %s.', coalesce(p_conversation_id::text, 'null')),
				HINT = 'Pass one of webhook_agents, or a name of your own.';
	END IF;

	-- The index is partial, so its predicate is part of what names it.
	INSERT INTO @extschema@.agent_sessions (conversation_id, agent_type, total_messages)
		SELECT id, p_agent_type, 1 FROM @extschema@.webhook_conversations WHERE id = p_conversation_id
		ON CONFLICT (conversation_id, agent_type) WHERE session_state = 'active'
		DO UPDATE SET total_messages = agent_sessions.total_messages + 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'conversation % does not exist', coalesce(p_conversation_id::text, 'null')
			USING ERRCODE = 'WH003',
				HINT = 'Create it with get_or_create_conversation(), or insert it into webhook_conversations.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.increment_session_metrics(uuid, text) IS
	'counts a message on the agent''s active session in the conversation, and starts one where there is none';
