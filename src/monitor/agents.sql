-- How agents do, by what they were told: by version and variant, and experiments. What a session counts is
-- under the version that it began with; a turn is under the one that it used.

CREATE VIEW @extschema@.webhook_agent_performance_by_version AS
	WITH sessions AS (
		SELECT agent_type, coalesce(variant, '') AS variant, coalesce(version, 0) AS version,
			count(DISTINCT conversation_id) AS unique_conversations,
			avg(total_messages) AS avg_messages_per_session,
			avg(total_tokens_used) AS avg_tokens_used,
			sum(error_count) AS total_errors,
			count(*) FILTER (WHERE session_state = 'completed') AS completed_sessions,
			count(*) FILTER (WHERE session_state = 'failed') AS failed_sessions,
			count(*) FILTER (WHERE session_state = 'active') AS active_sessions,
			avg(extract(epoch FROM coalesce(ended_at, now()) - started_at)) AS avg_duration_seconds
		FROM @extschema@.agent_sessions
		WHERE started_at > now() - interval '24 hours'
		GROUP BY 1, 2, 3),
	turns AS (
		SELECT agent_type, coalesce(variant, '') AS variant, coalesce(version, 0) AS version,
			count(*) AS turns,
			count(*) FILTER (WHERE outcome = 'failed') AS failed_turns,
			sum(prompt_tokens) AS prompt_tokens,
			sum(completion_tokens) AS completion_tokens,
			avg(duration_ms) AS avg_turn_ms,
			percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_turn_ms
		FROM @extschema@.agent_turns
		WHERE id >= (SELECT @extschema@.webhook_uuid_floor(now() - interval '24 hours'))
			AND created_at > now() - interval '24 hours'
		GROUP BY 1, 2, 3)
	SELECT agent_type, variant, nullif(version, 0) AS version, v.model,
		coalesce(s.unique_conversations, 0) AS unique_conversations, s.avg_messages_per_session, s.avg_tokens_used,
		coalesce(s.total_errors, 0) AS total_errors, coalesce(s.completed_sessions, 0) AS completed_sessions,
		coalesce(s.failed_sessions, 0) AS failed_sessions, coalesce(s.active_sessions, 0) AS active_sessions,
		s.avg_duration_seconds,
		coalesce(t.turns, 0) AS turns, coalesce(t.failed_turns, 0) AS failed_turns,
		coalesce(t.prompt_tokens, 0) AS prompt_tokens, coalesce(t.completion_tokens, 0) AS completion_tokens,
		t.avg_turn_ms, t.p95_turn_ms
	FROM sessions s FULL JOIN turns t USING (agent_type, variant, version)
		LEFT JOIN @extschema@.webhook_agent_versions v USING (agent_type, variant, version);
COMMENT ON VIEW @extschema@.webhook_agent_performance_by_version IS
	'the agent sessions that began and the turns that were taken in the last 24 hours, by agent type, variant and version';

CREATE VIEW @extschema@.webhook_agent_experiments AS
	WITH experiments AS (
		SELECT agent_type, min(created_at) AS since FROM @extschema@.webhook_agent_variants GROUP BY agent_type),
	variants AS (
		SELECT agent_type, variant, version, weight FROM @extschema@.webhook_agent_variants
		UNION ALL
		SELECT agent_type, '', version, NULL FROM @extschema@.webhook_agents JOIN experiments USING (agent_type)),
	sessions AS (
		SELECT s.agent_type, coalesce(s.variant, '') AS variant,
			count(*) AS sessions,
			count(DISTINCT s.conversation_id) AS unique_conversations,
			count(*) FILTER (WHERE s.session_state = 'completed') AS completed_sessions,
			count(*) FILTER (WHERE s.session_state = 'failed') AS failed_sessions,
			avg(s.total_messages) AS avg_messages_per_session
		FROM @extschema@.agent_sessions s JOIN experiments e USING (agent_type)
		WHERE s.started_at >= e.since AND s.started_at >= (SELECT min(since) FROM experiments)
		GROUP BY 1, 2),
	turns AS (
		SELECT t.agent_type, coalesce(t.variant, '') AS variant,
			count(*) AS turns,
			count(*) FILTER (WHERE t.outcome = 'failed') AS failed_turns,
			sum(t.prompt_tokens) AS prompt_tokens,
			sum(t.completion_tokens) AS completion_tokens,
			avg(t.duration_ms) AS avg_turn_ms,
			percentile_cont(0.5) WITHIN GROUP (ORDER BY t.duration_ms) AS p50_turn_ms,
			percentile_cont(0.95) WITHIN GROUP (ORDER BY t.duration_ms) AS p95_turn_ms
		FROM @extschema@.agent_turns t JOIN experiments e USING (agent_type)
		WHERE t.id >= (SELECT @extschema@.webhook_uuid_floor(min(since)) FROM experiments)
			AND t.created_at >= e.since
		GROUP BY 1, 2)
	SELECT agent_type, variant, v.version, v.weight,
		coalesce(s.unique_conversations, 0) AS unique_conversations, coalesce(s.sessions, 0) AS sessions,
		coalesce(s.completed_sessions, 0) AS completed_sessions, coalesce(s.failed_sessions, 0) AS failed_sessions,
		s.avg_messages_per_session,
		coalesce(t.turns, 0) AS turns, coalesce(t.failed_turns, 0) AS failed_turns,
		t.failed_turns::numeric / t.turns AS error_rate,
		coalesce(t.prompt_tokens, 0) AS prompt_tokens, coalesce(t.completion_tokens, 0) AS completion_tokens,
		(coalesce(t.prompt_tokens, 0) + coalesce(t.completion_tokens, 0))::numeric / t.turns AS avg_tokens_per_turn,
		t.avg_turn_ms, t.p50_turn_ms, t.p95_turn_ms
	FROM variants v FULL JOIN sessions s USING (agent_type, variant) FULL JOIN turns t USING (agent_type, variant)
	ORDER BY agent_type, variant;
COMMENT ON VIEW @extschema@.webhook_agent_experiments IS
	'the variants of each agent that has any, and the agent itself (empty), since the first of them was made: sessions, turns, errors, tokens, time';
