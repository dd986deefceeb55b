-- Configuring agents: who answers a user, and as what.

CREATE FUNCTION @extschema@.webhook_agent_config(
	p_agent_type text, p_user_id text, p_conversation_id uuid DEFAULT NULL)
	RETURNS TABLE (agent_type text, variant text, version integer, system_prompt text, model text,
		temperature double precision, max_output_tokens integer, context_budget integer,
		max_context_messages integer, endpoint text, allow_http boolean, timeout_ms integer,
		fallback_agent text, circuit_threshold integer, circuit_timeout interval)
	LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 1 SET search_path = pg_catalog, pg_temp
	AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY SELECT a.agent_type, coalesce(v.variant, ''), coalesce(v.version, a.version),
		coalesce(v.system_prompt, a.system_prompt), coalesce(v.model, a.model),
		coalesce(v.temperature, a.temperature), coalesce(v.max_output_tokens, a.max_output_tokens),
		a.context_budget, a.max_context_messages, a.endpoint, a.allow_http,
		(extract(epoch FROM a.timeout) * 1000)::integer,
		a.fallback_agent, a.circuit_threshold, a.circuit_timeout
	FROM @extschema@.webhook_agents a
		-- A session goes on with what it began with, whatever has become of the weights.
		LEFT JOIN @extschema@.agent_sessions s ON s.conversation_id = p_conversation_id
			AND s.agent_type = p_agent_type AND s.session_state = 'active' AND s.last_activity_at
				>= now() - (SELECT @extschema@.webhook_setting('agent_session_timeout'::text)::interval)
		-- Each variant draws a time for the user, the earlier the more it weighs, and the first one wins. So
		-- a weight that changes moves users only to or from its own variant.
		LEFT JOIN LATERAL (
			SELECT w.*, -ln((@extschema@.webhook_user_hash(w.agent_type || '/' || w.variant, p_user_id)
				+ 1.0::double precision) / 9223372036854775808.0::double precision) / nullif(w.weight, 0) AS drawn
			FROM @extschema@.webhook_agent_variants w
			WHERE w.agent_type = a.agent_type AND s.variant IS DISTINCT FROM ''
			ORDER BY w.variant = s.variant DESC NULLS LAST, drawn, w.variant
			LIMIT 1) v ON v.drawn IS NOT NULL OR v.variant = s.variant
	WHERE a.agent_type = p_agent_type;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_agent_config(text, text, uuid) IS
	'what an agent is for a user: its own configuration or a variant''s (empty: none), in a conversation the one of its active session; no row where it is none of webhook_agents';
