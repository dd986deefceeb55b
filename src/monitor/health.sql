-- Alerts and numbers for health checks.

CREATE FUNCTION @extschema@.check_webhook_system_health()
	RETURNS TABLE (alert_type text, severity text, message text, details jsonb)
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_since timestamptz := now() - interval '1 hour';
	v_stuck uuid[];
	v_errors uuid[];
	v_timeouts uuid[];
	v_stale uuid[];
	v_count bigint;
	v_other bigint;
BEGIN
	v_stuck := ARRAY(SELECT id FROM @extschema@.stuck_webhook_conversations ORDER BY last_activity_at);
	IF v_stuck <> '{}' THEN
		RETURN QUERY VALUES ('STUCK_CONVERSATIONS', 'HIGH',
			format('%s conversations are stuck', cardinality(v_stuck)),
			jsonb_build_object('count', cardinality(v_stuck), 'oldest', v_stuck[1:10]));
	END IF;

	-- One pass over the conversations for the three alerts that need one.
	SELECT array_agg(id) FILTER (WHERE status = 'error' AND updated_at > v_since),
			array_agg(id) FILTER (WHERE status = 'timeout' AND updated_at > v_since),
			array_agg(id ORDER BY locked_at) FILTER (WHERE lease_is_over)
		INTO v_errors, v_timeouts, v_stale
		FROM (SELECT id, status, updated_at, locked_at,
				locked_by IS NOT NULL AND coalesce(lock_expires_at, locked_at
					+ (SELECT @extschema@.webhook_setting('lock_timeout')::interval)) < now() AS lease_is_over
			FROM @extschema@.webhook_conversations) c
		WHERE status IN ('error', 'timeout') AND updated_at > v_since OR lease_is_over;

	-- Conversations count as they stand, and those that the audit trail shows to have recovered
	-- since. One failure may both fail an attempt and turn its conversation to error: the larger
	-- number counts, not the sum.
	SELECT count(*) INTO v_count FROM (
		SELECT conversation_id FROM @extschema@.conversation_state_transitions
			WHERE to_state = 'error' AND created_at > v_since
		UNION SELECT unnest(v_errors)) e;
	SELECT count(*) INTO v_other FROM @extschema@.webhook_delivery_attempts
		WHERE finished_at > v_since AND outcome = 'failed';
	IF greatest(v_count, v_other) > 10 THEN
		RETURN QUERY VALUES ('HIGH_ERROR_RATE', 'CRITICAL',
			format('%s errors in the last hour', greatest(v_count, v_other)),
			jsonb_build_object('count', greatest(v_count, v_other),
				'conversations', v_count, 'failed_attempts', v_other));
	END IF;

	-- Two conditions that each have an index; one over both statuses would have none.
	v_count := (SELECT count(*) FROM @extschema@.webhook_dlq WHERE resolution_status = 'pending');
	v_other := (SELECT count(*) FROM @extschema@.webhook_dlq WHERE resolution_status = 'retrying');
	IF v_count + v_other > 5 THEN
		RETURN QUERY VALUES ('DLQ_BUILDUP', 'HIGH',
			format('%s dead letters wait for a retry', v_count + v_other),
			jsonb_build_object('count', v_count + v_other,
				'pending', v_count, 'retrying', v_other));
	END IF;

	SELECT count(*) INTO v_count FROM (
		SELECT conversation_id FROM @extschema@.conversation_state_transitions
			WHERE to_state = 'timeout' AND created_at > v_since
		UNION SELECT unnest(v_timeouts)) e;
	IF v_count > 5 THEN
		RETURN QUERY VALUES ('PROCESSING_TIMEOUTS', 'MEDIUM',
			format('%s conversations timed out in the last hour', v_count),
			jsonb_build_object('count', v_count));
	END IF;

	IF v_stale <> '{}' THEN
		RETURN QUERY VALUES ('STALE_LOCKS', 'MEDIUM',
			format('%s locks are held beyond their lease', cardinality(v_stale)),
			jsonb_build_object('count', cardinality(v_stale), 'oldest', v_stale[1:10]));
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.check_webhook_system_health() IS
	'one row an alert, none when all is well';

CREATE FUNCTION @extschema@.get_webhook_performance_stats(lookback_hours integer DEFAULT 24)
	RETURNS TABLE (metric_name text, value numeric, unit text)
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_since timestamptz;
	v_processed record;
BEGIN
	IF lookback_hours IS NULL OR lookback_hours NOT BETWEEN 1 AND 87600 THEN
		RAISE EXCEPTION 'lookback_hours must be from 1 to 87600, not %', coalesce(lookback_hours::text, 'null')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'A day is 24, ten years are 87600.';
	END IF;
	v_since := now() - make_interval(hours => lookback_hours);

	-- received_at: see webhook_message_processing_metrics.
	SELECT count(*) AS messages,
		coalesce(avg(processing_time_ms), 0) AS average,
		coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY processing_time_ms), 0) AS p95
		INTO v_processed
		FROM @extschema@.processed_webhook_messages
		WHERE processed_at > v_since AND received_at > v_since - interval '8 days';

	RETURN QUERY VALUES
		('total_conversations', (SELECT count(*) FROM @extschema@.webhook_conversations
			WHERE last_activity_at > v_since)::numeric, 'count'),
		('total_messages_processed', v_processed.messages::numeric, 'count'),
		('avg_processing_time_ms', round(v_processed.average, 2), 'ms'),
		('p95_processing_time_ms', round(v_processed.p95::numeric, 2), 'ms'),
		('dlq_messages', (SELECT count(*) FROM @extschema@.webhook_dlq
			WHERE created_at > v_since)::numeric, 'count'),
		('stuck_conversations', (SELECT count(*) FROM @extschema@.stuck_webhook_conversations)::numeric, 'count'),
		('active_sessions', (SELECT count(*) FROM @extschema@.agent_sessions
			WHERE session_state = 'active')::numeric, 'count');
END
$$;
COMMENT ON FUNCTION @extschema@.get_webhook_performance_stats(integer) IS
	'seven numbers: conversations active, messages processed and dead letters added in the last hours, and what is stuck or active now; times are 0 where nothing was processed';
