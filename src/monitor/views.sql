-- The views that dashboards read. All look at the last 24 hours or at what is going on now.
--
-- Settings and privileges are read in scalar subqueries: those run once, a call in the condition once
-- a row. A view reads with the rights of its owner, but has_type_privilege() asks for those of whoever
-- uses it: phone numbers and user ids are null to a monitor.

CREATE VIEW @extschema@.webhook_conversation_health AS
	SELECT status,
		count(*) AS count,
		avg(extract(epoch FROM now() - last_activity_at)) AS avg_idle_seconds,
		max(retry_count) AS max_retries,
		sum(error_count) AS total_errors,
		count(locked_by) AS locked_count
	FROM @extschema@.webhook_conversations
	WHERE last_activity_at > now() - interval '24 hours'
	GROUP BY status;
COMMENT ON VIEW @extschema@.webhook_conversation_health IS
	'the conversations that were active in the last 24 hours, by status';

-- This reads every conversation: an index on the lock would cost more at each claim than this
-- costs at each look.
CREATE VIEW @extschema@.stuck_webhook_conversations AS
	SELECT id,
		CASE WHEN (SELECT has_type_privilege('@extschema@.webhook_personal_data'::regtype, 'USAGE')) THEN user_id END AS user_id,
		CASE WHEN (SELECT has_type_privilege('@extschema@.webhook_personal_data'::regtype, 'USAGE')) THEN whatsapp_phone END AS whatsapp_phone,
		agent_type, status, last_activity_at, retry_count,
		error_count, locked_by, locked_at,
		extract(epoch FROM now() - last_activity_at) AS idle_seconds
	FROM @extschema@.webhook_conversations
	WHERE (status IN ('processing', 'pending')
			AND last_activity_at < now() - (SELECT @extschema@.webhook_setting('stuck_timeout')::interval))
		OR (locked_by IS NOT NULL AND coalesce(lock_expires_at, locked_at
			+ (SELECT @extschema@.webhook_setting('lock_timeout')::interval)) < now())
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
		avg(extract(epoch FROM coalesce(ended_at, now()) - started_at)) AS avg_duration_seconds
	FROM @extschema@.agent_sessions
	WHERE started_at > now() - interval '24 hours'
	GROUP BY agent_type;
COMMENT ON VIEW @extschema@.webhook_agent_performance IS
	'the agent sessions that began in the last 24 hours, by agent type';

-- processed_at has no index. A message is processed within days of its arrival or not at all, and
-- received_at has one, so bounding both keeps the rest of the history unread.
CREATE VIEW @extschema@.webhook_message_processing_metrics AS
	SELECT date_trunc('hour', processed_at) AS hour,
		count(*) AS messages_processed,
		avg(processing_time_ms) AS avg_processing_ms,
		percentile_cont(0.95) WITHIN GROUP (ORDER BY processing_time_ms) AS p95_processing_ms,
		percentile_cont(0.99) WITHIN GROUP (ORDER BY processing_time_ms) AS p99_processing_ms,
		max(processing_time_ms) AS max_processing_ms,
		min(processing_time_ms) AS min_processing_ms
	FROM @extschema@.processed_webhook_messages
	WHERE processed_at > now() - interval '24 hours'
		AND received_at > now() - interval '8 days'
	GROUP BY 1
	ORDER BY 1 DESC;
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
