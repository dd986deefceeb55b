-- The views that dashboards read. All look at the last 24 hours or at what is going on now.
--
-- Settings and privileges are read in scalar subqueries: those run once, a call in the condition once
-- a row. A view reads with the rights of its owner, but has_type_privilege() asks for those of whoever
-- uses it: phone numbers and user ids are null to a monitor.

CREATE VIEW @extschema@.webhook_conversation_health AS
	SELECT status, count, avg_idle_seconds, max_retries, total_errors, locked_count
	FROM @extschema@.webhook_conversations_by_status((now() - interval '24 hours')::timestamptz);
COMMENT ON VIEW @extschema@.webhook_conversation_health IS
	'the conversations that were active in the last 24 hours, by status';

-- Neither a lock nor the last activity has an index, since each claim changes them. But each lock has a row
-- in webhook_leases, at its end or before, and few conversations are pending or processing. The planner must
-- not take these few for many, and read all conversations.
CREATE FUNCTION @extschema@.webhook_stuck_ids() RETURNS SETOF uuid
	LANGUAGE sql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
	AS $$
	SELECT c.id FROM (
			SELECT conversation_id AS id FROM @extschema@.webhook_leases WHERE expires_at < now()
			UNION SELECT unnest(others) FROM @extschema@.webhook_leases WHERE expires_at < now()) l
		JOIN @extschema@.webhook_conversations c ON c.id = l.id
		WHERE c.locked_by IS NOT NULL AND coalesce(c.lock_expires_at, c.locked_at
			+ (SELECT @extschema@.webhook_setting('lock_timeout')::interval)) < now()
	UNION
	SELECT id FROM @extschema@.webhook_conversations
		WHERE status IN ('processing', 'pending')
			AND last_activity_at < now() - (SELECT @extschema@.webhook_setting('stuck_timeout')::interval)
	$$;
COMMENT ON FUNCTION @extschema@.webhook_stuck_ids() IS
	'the conversations that are idle though pending or processing, or locked beyond their lease';

CREATE VIEW @extschema@.stuck_webhook_conversations AS
	SELECT c.id,
		CASE WHEN (SELECT has_type_privilege('@extschema@.webhook_personal_data'::regtype, 'USAGE')) THEN user_id END AS user_id,
		CASE WHEN (SELECT has_type_privilege('@extschema@.webhook_personal_data'::regtype, 'USAGE')) THEN whatsapp_phone END AS whatsapp_phone,
		agent_type, status, last_activity_at, retry_count,
		error_count, locked_by, locked_at,
		extract(epoch FROM now() - last_activity_at) AS idle_seconds
	FROM @extschema@.webhook_stuck_ids() AS stuck (id)
		JOIN @extschema@.webhook_conversations c ON c.id = stuck.id
	ORDER BY last_activity_at;
COMMENT ON VIEW @extschema@.stuck_webhook_conversations IS
	'conversations idle for wahook.stuck_timeout while pending or processing, or locked beyond their lease (wahook.lock_timeout, where the holder asked for no other), oldest first';

CREATE VIEW @extschema@.webhook_agent_performance AS
	SELECT agent_type,
		count(DISTINCT conversation_id) AS unique_conversations,
		avg(total_messages) AS avg_messages_per_session,
		avg(total_tokens_used) AS avg_tokens_used,
		sum(error_count) AS total_errors,
		count(*) FILTER (WHERE session_state = 'completed') AS completed_sessions,
		count(*) FILTER (WHERE session_state = 'failed') AS failed_sessions,
		count(*) FILTER (WHERE session_state = 'active') AS active_sessions,
		-- Not avg() of numeric, which alone takes as long as all the rest.
		avg(date_part('epoch', coalesce(ended_at, now()) - started_at))::numeric AS avg_duration_seconds
	FROM @extschema@.agent_sessions
	WHERE started_at > now() - interval '24 hours'
	GROUP BY agent_type;
COMMENT ON VIEW @extschema@.webhook_agent_performance IS
	'the agent sessions that began in the last 24 hours, by agent type';

CREATE VIEW @extschema@.webhook_message_processing_metrics AS
	SELECT hour, messages AS messages_processed,
		total_ms::numeric / nullif(timed, 0) AS avg_processing_ms,
		@extschema@.webhook_percentile(times, counts, 0.95::double precision) AS p95_processing_ms,
		@extschema@.webhook_percentile(times, counts, 0.99::double precision) AS p99_processing_ms,
		@extschema@.webhook_percentile(times, counts, 1::double precision)::integer AS max_processing_ms,
		@extschema@.webhook_percentile(times, counts, 0::double precision)::integer AS min_processing_ms
	FROM @extschema@.webhook_processed_by_hour((now() - interval '24 hours')::timestamptz)
	ORDER BY hour DESC;
COMMENT ON VIEW @extschema@.webhook_message_processing_metrics IS
	'the messages processed in the last 24 hours, by hour, newest first';

CREATE VIEW @extschema@.webhook_dlq_summary AS
	SELECT resolution_status,
		count(*) AS count,
		max(retry_count) AS max_retries_reached,
		avg(retry_count) AS avg_retry_count,
		min(created_at) AS oldest_message,
		max(created_at) AS newest_message
	FROM @extschema@.webhook_dlq
	WHERE created_at > now() - interval '24 hours'
	GROUP BY resolution_status;
COMMENT ON VIEW @extschema@.webhook_dlq_summary IS
	'the dead letters of the last 24 hours, by resolution status';

CREATE VIEW @extschema@.recent_webhook_state_transitions AS
	SELECT t.id, t.conversation_id,
		CASE WHEN (SELECT has_type_privilege('@extschema@.webhook_personal_data'::regtype, 'USAGE')) THEN c.user_id END AS user_id,
		CASE WHEN (SELECT has_type_privilege('@extschema@.webhook_personal_data'::regtype, 'USAGE')) THEN c.whatsapp_phone END AS whatsapp_phone,
		c.agent_type,
		t.from_state, t.to_state, t.transition_reason, t.correlation_id, t.created_at
	FROM @extschema@.conversation_state_transitions t
		LEFT JOIN @extschema@.webhook_conversations c ON c.id = t.conversation_id
	ORDER BY t.created_at DESC
	LIMIT 100;
COMMENT ON VIEW @extschema@.recent_webhook_state_transitions IS
	'the last 100 changes of a conversation''s status, newest first';
