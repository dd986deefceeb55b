-- webhook_health(): all that /health has to tell, in one call.

CREATE FUNCTION @extschema@.webhook_alert_hint(p_alert_type text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE p_alert_type
		WHEN 'STUCK_CONVERSATIONS' THEN 'SELECT id, status, locked_at, idle_seconds FROM @extschema@.stuck_webhook_conversations LIMIT 10; SELECT @extschema@.cleanup_stuck_webhook_conversations()'
		WHEN 'STALE_LOCKS' THEN 'SELECT @extschema@.cleanup_stuck_webhook_conversations()'
		WHEN 'HIGH_ERROR_RATE' THEN 'SELECT service, error, count(*) FROM @extschema@.webhook_delivery_attempts WHERE outcome = ''failed'' AND finished_at > now() - interval ''1 hour'' GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 10'
		WHEN 'DLQ_BUILDUP' THEN 'SELECT service, error, count(*), min(next_retry_at) FROM @extschema@.webhook_dlq WHERE resolution_status IN (''pending'', ''retrying'') GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 10'
		WHEN 'PROCESSING_TIMEOUTS' THEN 'SELECT transition_reason, count(*) FROM @extschema@.conversation_state_transitions WHERE to_state = ''timeout'' AND created_at > now() - interval ''1 hour'' GROUP BY 1'
		WHEN 'WORKER_NOT_RUNNING' THEN 'SELECT pid, backend_type, state, wait_event, query FROM pg_stat_activity WHERE backend_type LIKE ''wahook%''; SELECT job, last_run_at, error FROM @extschema@.webhook_jobs'
		WHEN 'CIRCUIT_OPEN' THEN 'SELECT key, state, failures, opened_at, probe_at FROM @extschema@.webhook_circuits WHERE state <> ''closed'''
		WHEN 'QUARANTINE_GROWING' THEN 'SELECT reason, count(*), max(received_at) FROM @extschema@.webhook_quarantine WHERE received_at > now() - interval ''1 hour'' GROUP BY 1 ORDER BY 2 DESC'
		WHEN 'INBOX_AGEING' THEN 'SELECT s.name, s.kind, s.enabled, q.conversations, q.oldest FROM @extschema@.webhook_services s JOIN (SELECT service, sum(1 + coalesce(cardinality(others), 0)) AS conversations, min(due_at) AS oldest FROM @extschema@.webhook_conversation_queue GROUP BY 1) q ON q.service = s.name ORDER BY q.oldest'
		WHEN 'RETENTION_BEHIND' THEN 'SELECT @extschema@.run_webhook_job(''retention''); SELECT job, last_run_at, succeeded, error FROM @extschema@.webhook_jobs'
		WHEN 'CLOCK_JUMP' THEN 'SELECT clock_timestamp(); SELECT @extschema@.run_webhook_job(job) FROM @extschema@.webhook_jobs'
		WHEN 'HEALTH_CHECK_FAILED' THEN 'SELECT pid, mode, relation::regclass FROM pg_locks WHERE mode = ''AccessExclusiveLock'' AND granted'
		WHEN 'STANDBY' THEN 'SELECT pg_is_in_recovery(), pg_last_xact_replay_timestamp()'
		WHEN 'VERSION_MISMATCH' THEN 'SELECT extversion, (@extschema@.webhook_worker_state()).library_version FROM pg_extension WHERE extname = ''wahook'''
		END
	$$;
COMMENT ON FUNCTION @extschema@.webhook_alert_hint(text) IS
	'the SQL to run next when there is such an alert or reason';

-- After an upgrade the sessions of a preloading server run the old library until its restart.
CREATE FUNCTION @extschema@.webhook_version() RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_build_object('extension', e.extversion, 'library', s.library_version,
		'worker', s.worker_version, 'server', current_setting('server_version'))
	FROM pg_extension e, @extschema@.webhook_worker_state() s WHERE e.extname = 'wahook'
	$$;
COMMENT ON FUNCTION @extschema@.webhook_version() IS
	'the versions of the extension''s objects, of the library here and in the worker, and of the server';

CREATE FUNCTION @extschema@.webhook_health_of_worker() RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_build_object('preloaded', s.preloaded, 'expected', s.expected, 'state', s.state, 'pid', s.pid,
		'heartbeat_age_seconds', round(s.heartbeat_age_seconds::numeric, 3),
		'late_seconds', CASE WHEN s.state <> 'asleep' THEN round(s.silent_seconds::numeric, 3) ELSE 0 END,
		'started_at', s.started_at, 'wakes_at', s.wakes_at,
		'note', CASE
			WHEN pg_is_in_recovery() THEN 'A standby has no worker.'
			WHEN s.expected OR s.pid IS NOT NULL THEN NULL
			WHEN s.preloaded THEN 'wahook.databases leaves this database out: nothing runs the jobs here but pg_cron, or whoever calls run_webhook_job().'
			ELSE 'wahook is not preloaded: nothing runs the jobs here but pg_cron, or whoever calls run_webhook_job(); start_webhook_worker() starts a worker until the next restart.'
			END,
		'last_job_at', (SELECT max(last_started_at) FROM @extschema@.webhook_job_runs))
	FROM @extschema@.webhook_worker_state() s
	$$;
COMMENT ON FUNCTION @extschema@.webhook_health_of_worker() IS 'the part "worker" of webhook_health()';

-- No further than 10,000: how far behind it is, the oldest tells.
CREATE FUNCTION @extschema@.webhook_health_of_queue() RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_build_object('messages', least(m.count, 10000), 'more', m.count > 10000,
		'oldest_seconds', coalesce((SELECT greatest(0, round(extract(epoch FROM now() - min(w.due_at)), 3))
			FROM @extschema@.webhook_waiting_services(now()) w), 0))
	FROM (SELECT count(*) FROM (SELECT FROM @extschema@.webhook_inbox LIMIT 10001) i) m
	$$;
COMMENT ON FUNCTION @extschema@.webhook_health_of_queue() IS 'the part "queue" of webhook_health()';

CREATE FUNCTION @extschema@.webhook_health_of_dead_letters() RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_build_object('pending', @extschema@.webhook_count_dead_letters('pending'),
		'retrying', @extschema@.webhook_count_dead_letters('retrying'),
		'next_retry_at', (SELECT next_retry_at FROM @extschema@.webhook_dlq
			WHERE resolution_status = 'pending' ORDER BY next_retry_at LIMIT 1))
	$$;
COMMENT ON FUNCTION @extschema@.webhook_health_of_dead_letters() IS
	'the part "dead_letters" of webhook_health()';

CREATE FUNCTION @extschema@.webhook_health_of_circuits() RETURNS jsonb
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF pg_is_in_recovery() THEN
		RETURN NULL;
	END IF;
	RETURN (SELECT jsonb_build_object('open', count(*), 'services',
			coalesce(jsonb_agg(DISTINCT key) FILTER (WHERE key ~ '^(service|agent):'), '[]'))
		FROM (SELECT key FROM @extschema@.webhook_circuits WHERE state <> 'closed' LIMIT 1000) c);
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_health_of_circuits() IS 'the part "circuits" of webhook_health()';

CREATE FUNCTION @extschema@.webhook_health_reasons(p_version jsonb)
	RETURNS TABLE (reason text, severity text, message text, details jsonb)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_other text := coalesce(nullif(p_version ->> 'library', p_version ->> 'extension'),
		nullif(p_version ->> 'worker', p_version ->> 'extension'));
BEGIN
	IF pg_is_in_recovery() THEN
		RETURN QUERY VALUES ('STANDBY', 'CRITICAL', 'the server is in recovery: no delivery can be accepted here', '{}'::jsonb);
	END IF;
	IF v_other IS NOT NULL THEN
		RETURN QUERY VALUES ('VERSION_MISMATCH', 'HIGH',
			format('the extension is %s, the library %s: %s', p_version ->> 'extension', v_other,
				CASE WHEN string_to_array(substring(v_other FROM '^[0-9.]+'), '.')::integer[]
						< string_to_array(substring(p_version ->> 'extension' FROM '^[0-9.]+'), '.')::integer[]
					THEN 'restart the server' ELSE 'ALTER EXTENSION wahook UPDATE' END),
			p_version);
	END IF;
	RETURN QUERY SELECT * FROM @extschema@.check_webhook_system_health();
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_health_reasons(jsonb) IS
	'the alerts, and what else there is to say against the health';

CREATE FUNCTION @extschema@.webhook_health() RETURNS jsonb
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off
	SET enable_bitmapscan = off
	SET jit = off
	SET lock_timeout = '250ms'
	AS $$
DECLARE
	v_parts jsonb := '{}';
	v_part text;
	v_value jsonb;
	v_reasons jsonb := '[]';
	v_down boolean;
BEGIN
	FOREACH v_part IN ARRAY '{version,worker,queue,dead_letters,circuits}'::text[] LOOP
		BEGIN
			EXECUTE 'SELECT @extschema@.webhook_' || CASE v_part WHEN 'version' THEN '' ELSE 'health_of_' END || v_part || '()'
				INTO v_value;
		EXCEPTION WHEN OTHERS THEN
			v_value := jsonb_build_object('failed', SQLSTATE);
			v_reasons := v_reasons || jsonb_build_object('reason', 'HEALTH_CHECK_FAILED', 'severity', 'HIGH',
				'message', format('what is known of %s could not be read: SQLSTATE %s', v_part, SQLSTATE),
				'details', jsonb_build_object('subject', v_part, 'sqlstate', SQLSTATE));
		END;
		v_parts := v_parts || jsonb_build_object(v_part, v_value);
	END LOOP;
	BEGIN
		v_reasons := (SELECT coalesce(jsonb_agg(to_jsonb(r)), '[]')
			FROM @extschema@.webhook_health_reasons(v_parts -> 'version') r) || v_reasons;
	EXCEPTION WHEN OTHERS THEN
		v_reasons := v_reasons || jsonb_build_object('reason', 'HEALTH_CHECK_FAILED', 'severity', 'HIGH',
			'message', format('the checks failed with SQLSTATE %s', SQLSTATE), 'details', '{}'::jsonb);
	END;
	v_down := jsonb_path_exists(v_reasons, '$[*] ? (@.reason == "STANDBY" || @.reason == "WORKER_NOT_RUNNING")');
	RETURN jsonb_build_object(
		'status', CASE WHEN v_down THEN 'down' WHEN v_reasons <> '[]' THEN 'degraded' ELSE 'ok' END,
		'checked_at', now(),
		'accepting', NOT pg_is_in_recovery() AND current_setting('default_transaction_read_only') = 'off',
		'reasons', (SELECT coalesce(jsonb_agg(r || jsonb_build_object('next', @extschema@.webhook_alert_hint(r ->> 'reason')) ORDER BY n), '[]')
			FROM jsonb_array_elements(v_reasons) WITH ORDINALITY e (r, n)))
		|| v_parts;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_health() IS
	'for /health: status ok, degraded or down, the reasons each with the SQL to run next, worker, queue, dead letters, circuits, versions; answers in milliseconds, and never with an error because one part fails; no phone numbers, no payloads';
