-- What is an alert, decided here and nowhere else; and the numbers for health checks.
--
-- A look must not cost more as history grows: each check reads by an index what is wrong now, or was
-- within wahook.health_window, and counts no further than 10,000.

-- Written only when something goes wrong. None covers a column that locking changes.
CREATE INDEX conversation_state_transitions_trouble_idx
	ON @extschema@.conversation_state_transitions (to_state, created_at, conversation_id)
	WHERE to_state IN ('error', 'timeout');
CREATE INDEX webhook_conversations_trouble_idx
	ON @extschema@.webhook_conversations (status, created_at) WHERE status IN ('error', 'timeout');
CREATE INDEX webhook_attempts_failed_idx
	ON @extschema@.webhook_attempts (finished_at) WHERE outcome = 'failed';
CREATE INDEX webhook_circuits_open_idx
	ON @extschema@.webhook_circuits (opened_at) WHERE state <> 'closed';

CREATE FUNCTION @extschema@.webhook_threshold(p_name text) RETURNS bigint
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE WHEN s ~ '^-?[0-9]+$' THEN s::bigint ELSE extract(epoch FROM s::interval)::bigint END
	FROM @extschema@.webhook_setting('health_' || p_name) s
	$$;
COMMENT ON FUNCTION @extschema@.webhook_threshold(text) IS
	'a setting wahook.health_*, times in seconds; -1: no alert';

CREATE FUNCTION @extschema@.webhook_ago(p_seconds double precision) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE WHEN round(p_seconds) < 120 THEN round(p_seconds) || ' s'
		WHEN round(p_seconds / 60) < 120 THEN round(p_seconds / 60) || ' min'
		WHEN round(p_seconds / 3600) < 48 THEN round(p_seconds / 3600) || ' h'
		ELSE round(p_seconds / 86400) || ' days' END
	$$;
COMMENT ON FUNCTION @extschema@.webhook_ago(double precision) IS 'a time for people to read';

-- The ids of stuck conversations as the view tells them, oldest first. Locks are found by their ends.
CREATE FUNCTION @extschema@.webhook_stale_locks() RETURNS uuid[]
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT coalesce(array_agg(c.id ORDER BY c.locked_at), '{}')
	FROM (SELECT DISTINCT unnest(e.conversation_id || coalesce(e.others, '{}')) AS id
			FROM (SELECT conversation_id, others FROM @extschema@.webhook_leases
				WHERE expires_at < now() ORDER BY expires_at LIMIT 5000) e) l
		CROSS JOIN LATERAL (SELECT v.id, v.locked_at FROM @extschema@.webhook_conversations v
			WHERE v.id = l.id AND v.locked_by IS NOT NULL AND coalesce(v.lock_expires_at, v.locked_at
				+ (SELECT @extschema@.webhook_setting('lock_timeout')::interval)) < now()
			OFFSET 0) c
	$$;
COMMENT ON FUNCTION @extschema@.webhook_stale_locks() IS
	'the conversations that are locked beyond their lease, by the 5,000 oldest leases that have ended';

CREATE FUNCTION @extschema@.webhook_stuck_conversations(p_stale uuid[]) RETURNS uuid[]
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT coalesce(array_agg(id ORDER BY last_activity_at), '{}') FROM (
		(SELECT id, last_activity_at FROM @extschema@.webhook_conversations
			WHERE status IN ('pending', 'processing')
				AND last_activity_at < now() - (SELECT @extschema@.webhook_setting('stuck_timeout')::interval)
			LIMIT 10000)
		UNION
		SELECT id, last_activity_at FROM @extschema@.webhook_conversations WHERE id = ANY (p_stale)) stuck
	$$;
COMMENT ON FUNCTION @extschema@.webhook_stuck_conversations(uuid[]) IS
	'those that are idle though pending or processing, and these';

CREATE FUNCTION @extschema@.webhook_check_conversations()
	RETURNS TABLE (alert_type text, severity text, message text, details jsonb)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_stale uuid[] := @extschema@.webhook_stale_locks();
	v_stuck uuid[] := @extschema@.webhook_stuck_conversations(v_stale);
	v_most_stuck bigint := @extschema@.webhook_threshold('stuck');
	v_most_stale bigint := @extschema@.webhook_threshold('stale_locks');
BEGIN
	IF v_most_stuck >= 0 AND cardinality(v_stuck) > v_most_stuck THEN
		RETURN QUERY VALUES ('STUCK_CONVERSATIONS', 'HIGH',
			format('%s conversations are stuck', cardinality(v_stuck)),
			jsonb_build_object('count', cardinality(v_stuck), 'oldest', v_stuck[1:10]));
	END IF;
	IF v_most_stale >= 0 AND cardinality(v_stale) > v_most_stale THEN
		RETURN QUERY VALUES ('STALE_LOCKS', 'MEDIUM',
			format('%s locks are held beyond their lease', cardinality(v_stale)),
			jsonb_build_object('count', cardinality(v_stale), 'oldest', v_stale[1:10]));
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_conversations() IS
	'the alerts STUCK_CONVERSATIONS and STALE_LOCKS';

-- Those that came to it since, as the audit trail has it, whatever has become of them; and those that
-- were inserted so.
CREATE FUNCTION @extschema@.webhook_conversations_that_became(p_status text, p_since timestamptz) RETURNS bigint
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT count(*) FROM (
		(SELECT conversation_id FROM @extschema@.conversation_state_transitions
			WHERE to_state = p_status AND to_state IN ('error', 'timeout') AND created_at > p_since
			LIMIT 10000)
		UNION
		(SELECT id FROM @extschema@.webhook_conversations
			WHERE status = p_status AND status IN ('error', 'timeout')
				AND created_at > p_since AND updated_at > p_since
			LIMIT 10000)) became
	$$;
COMMENT ON FUNCTION @extschema@.webhook_conversations_that_became(text, timestamptz) IS
	'how many conversations went to the status error or timeout since';

CREATE FUNCTION @extschema@.webhook_check_errors()
	RETURNS TABLE (alert_type text, severity text, message text, details jsonb)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_window double precision := @extschema@.webhook_threshold('window');
	v_since timestamptz := now() - make_interval(secs => v_window);
	v_in text := CASE v_window WHEN 3600 THEN 'hour' ELSE @extschema@.webhook_ago(v_window) END;
	v_most_errors bigint := @extschema@.webhook_threshold('errors');
	v_most_timeouts bigint := @extschema@.webhook_threshold('timeouts');
	v_count bigint;
	v_attempts bigint;
BEGIN
	-- One failure may both fail an attempt and turn its conversation to error: the larger number
	-- counts, not the sum.
	v_count := @extschema@.webhook_conversations_that_became('error', v_since);
	v_attempts := (SELECT count(*) FROM (SELECT FROM @extschema@.webhook_attempts
		WHERE outcome = 'failed' AND finished_at > v_since LIMIT 10000) failed);
	IF v_most_errors >= 0 AND greatest(v_count, v_attempts) > v_most_errors THEN
		RETURN QUERY VALUES ('HIGH_ERROR_RATE', 'CRITICAL',
			format('%s errors in the last %s', greatest(v_count, v_attempts), v_in),
			jsonb_build_object('count', greatest(v_count, v_attempts),
				'conversations', v_count, 'failed_attempts', v_attempts));
	END IF;
	v_count := @extschema@.webhook_conversations_that_became('timeout', v_since);
	IF v_most_timeouts >= 0 AND v_count > v_most_timeouts THEN
		RETURN QUERY VALUES ('PROCESSING_TIMEOUTS', 'MEDIUM',
			format('%s conversations timed out in the last %s', v_count, v_in),
			jsonb_build_object('count', v_count));
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_errors() IS
	'the alerts HIGH_ERROR_RATE and PROCESSING_TIMEOUTS';

-- The services are found one by one, for the queue may be long. A row of the queue says when to look;
-- whether a message is there that has waited since then, the inbox says.
CREATE FUNCTION @extschema@.webhook_waiting_services(p_before timestamptz)
	RETURNS TABLE (service text, due_at timestamptz, conversations bigint)
	LANGUAGE sql STABLE PARALLEL SAFE ROWS 10 SET search_path = pg_catalog, pg_temp
	AS $$
	WITH RECURSIVE queued AS (
		(SELECT q.service FROM @extschema@.webhook_conversation_queue q ORDER BY q.service LIMIT 1)
		UNION ALL
		SELECT (SELECT q.service FROM @extschema@.webhook_conversation_queue q
			WHERE q.service > queued.service ORDER BY q.service LIMIT 1)
		FROM queued WHERE queued.service IS NOT NULL)
	SELECT queued.service, oldest.due_at,
		(SELECT sum(1 + coalesce(cardinality(due.others), 0)) FROM (SELECT q.others FROM @extschema@.webhook_conversation_queue q
			WHERE q.service = queued.service AND q.due_at <= p_before LIMIT 10000) due)
	FROM queued CROSS JOIN LATERAL (
		SELECT first.due_at FROM (
			SELECT q.due_at, q.conversation_id || q.others AS ids FROM @extschema@.webhook_conversation_queue q
			WHERE q.service = queued.service AND q.due_at <= p_before ORDER BY q.due_at LIMIT 100) first
		WHERE EXISTS (SELECT FROM @extschema@.webhook_inbox i
			WHERE i.conversation_id = ANY (first.ids) AND i.service = queued.service AND i.enqueued_at <= first.due_at)
		ORDER BY first.due_at LIMIT 1) oldest
	$$;
COMMENT ON FUNCTION @extschema@.webhook_waiting_services(timestamptz) IS
	'the services for which something has waited since before then: since when, and in about how many conversations';

CREATE FUNCTION @extschema@.webhook_count_dead_letters(p_status text) RETURNS bigint
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE p_status
		WHEN 'pending' THEN (SELECT count(*) FROM (SELECT FROM @extschema@.webhook_dlq
			WHERE resolution_status = 'pending' LIMIT 10000) d)
		WHEN 'retrying' THEN (SELECT count(*) FROM (SELECT FROM @extschema@.webhook_dlq
			WHERE resolution_status = 'retrying' LIMIT 10000) d)
		WHEN 'failed' THEN (SELECT count(*) FROM (SELECT FROM @extschema@.webhook_dlq
			WHERE resolution_status = 'failed' LIMIT 10000) d)
		END
	$$;
COMMENT ON FUNCTION @extschema@.webhook_count_dead_letters(text) IS
	'how many dead letters are pending, retrying or failed, at most 10,000';

CREATE FUNCTION @extschema@.webhook_check_queues()
	RETURNS TABLE (alert_type text, severity text, message text, details jsonb)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_window double precision := @extschema@.webhook_threshold('window');
	v_most_letters bigint := @extschema@.webhook_threshold('dead_letters');
	v_most_quarantined bigint := @extschema@.webhook_threshold('quarantine');
	v_age double precision := @extschema@.webhook_threshold('inbox_age');
	v_pending bigint := @extschema@.webhook_count_dead_letters('pending');
	v_retrying bigint := @extschema@.webhook_count_dead_letters('retrying');
	v_count bigint;
BEGIN
	IF v_most_letters >= 0 AND v_pending + v_retrying > v_most_letters THEN
		RETURN QUERY VALUES ('DLQ_BUILDUP', 'HIGH',
			format('%s dead letters wait for a retry', v_pending + v_retrying),
			jsonb_build_object('count', v_pending + v_retrying,
				'pending', v_pending, 'retrying', v_retrying));
	END IF;
	IF v_age >= 0 THEN
		RETURN QUERY SELECT 'INBOX_AGEING', 'HIGH',
			format('messages for service "%s" have waited for %s', w.service,
				@extschema@.webhook_ago(extract(epoch FROM now() - w.due_at)::double precision)),
			jsonb_build_object('subject', w.service, 'count', w.conversations,
				'oldest_seconds', round(extract(epoch FROM now() - w.due_at)))
		FROM @extschema@.webhook_waiting_services(now() - make_interval(secs => v_age)) w
		ORDER BY w.due_at LIMIT 20;
	END IF;
	v_count := (SELECT count(*) FROM (SELECT FROM @extschema@.webhook_quarantine
		WHERE received_at > now() - make_interval(secs => v_window) LIMIT 10000) q);
	IF v_most_quarantined >= 0 AND v_count > v_most_quarantined THEN
		RETURN QUERY VALUES ('QUARANTINE_GROWING', 'MEDIUM',
			format('%s updates went to the quarantine in the last %s', v_count,
				CASE v_window WHEN 3600 THEN 'hour' ELSE @extschema@.webhook_ago(v_window) END),
			jsonb_build_object('count', v_count));
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_queues() IS
	'the alerts DLQ_BUILDUP, INBOX_AGEING and QUARANTINE_GROWING';

-- One alert a circuit. The keys of clients may hold anything, phone numbers too: those are one alert
-- together, without a name.
CREATE FUNCTION @extschema@.webhook_check_circuits()
	RETURNS TABLE (alert_type text, severity text, message text, details jsonb)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_most bigint := @extschema@.webhook_threshold('circuits');
BEGIN
	-- A standby has nothing in its unlogged tables.
	IF v_most < 0 OR pg_is_in_recovery() THEN
		RETURN;
	END IF;
	RETURN QUERY
		WITH open AS (
			SELECT c.opened_at, c.failures,
				CASE WHEN c.key ~ '^(service|agent):' THEN c.key END AS subject
			FROM @extschema@.webhook_circuits c WHERE c.state <> 'closed' ORDER BY c.opened_at LIMIT 1000)
		SELECT 'CIRCUIT_OPEN', 'HIGH',
			CASE WHEN o.subject IS NOT NULL THEN format('the circuit of %s has been open for %s', o.subject, o.ago)
				ELSE format('%s circuits of clients are open', o.count) END,
			jsonb_build_object('subject', coalesce(o.subject, 'clients'), 'count', o.count,
				'failures', o.failures, 'opened_at', o.opened_at)
		FROM (SELECT subject, count(*), max(failures) AS failures, min(opened_at) AS opened_at,
				@extschema@.webhook_ago(greatest(0, extract(epoch FROM now() - min(opened_at)))::double precision) AS ago
			FROM open GROUP BY subject) o
		WHERE (SELECT count(*) FROM open) > v_most
		ORDER BY o.opened_at LIMIT 20;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_circuits() IS 'the alert CIRCUIT_OPEN';

-- Where no worker is expected somebody else runs the jobs, once they have been run at all.
CREATE FUNCTION @extschema@.webhook_check_worker()
	RETURNS TABLE (alert_type text, severity text, message text, details jsonb)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_state record;
	v_timeout double precision := @extschema@.webhook_threshold('worker_timeout');
	v_jump double precision := @extschema@.webhook_threshold('clock_jump');
	v_last_job timestamptz := (SELECT max(last_started_at) FROM @extschema@.webhook_job_runs);
	v_jobs_late double precision := 3 * greatest(300, extract(epoch FROM
		@extschema@.webhook_setting('cleanup_interval')::interval)::double precision);
BEGIN
	SELECT * INTO v_state FROM @extschema@.webhook_worker_state();
	IF v_timeout >= 0 AND v_state.expected AND v_state.state <> 'asleep' AND v_state.silent_seconds > v_timeout THEN
		RETURN QUERY VALUES ('WORKER_NOT_RUNNING', 'CRITICAL',
			format(CASE v_state.state
				WHEN 'busy' THEN 'the worker has been busy with one turn for %s'
				WHEN 'late' THEN 'the worker should have woken %s ago'
				WHEN 'no room' THEN 'the worker has not run for %s: there is no room for another database'
				ELSE 'the worker has not run for %s' END, @extschema@.webhook_ago(v_state.silent_seconds)),
			jsonb_build_object('state', v_state.state, 'pid', v_state.pid,
				'silent_seconds', round(v_state.silent_seconds)));
	ELSIF v_timeout >= 0 AND NOT v_state.expected AND NOT pg_is_in_recovery()
			AND v_last_job < now() - make_interval(secs => v_jobs_late) THEN
		RETURN QUERY VALUES ('WORKER_NOT_RUNNING', 'CRITICAL',
			format('no worker, and no job has been run for %s',
				@extschema@.webhook_ago(extract(epoch FROM now() - v_last_job)::double precision)),
			jsonb_build_object('state', v_state.state, 'last_job_at', v_last_job));
	END IF;
	IF v_jump >= 0 AND v_state.clock_jumped_at > now() - make_interval(secs => @extschema@.webhook_threshold('window')) THEN
		RETURN QUERY VALUES ('CLOCK_JUMP', 'HIGH',
			format('the clock was set %s by %s',
				CASE WHEN v_state.clock_jump_seconds > 0 THEN 'forward' ELSE 'back' END,
				@extschema@.webhook_ago(abs(v_state.clock_jump_seconds))),
			jsonb_build_object('at', v_state.clock_jumped_at, 'seconds', round(v_state.clock_jump_seconds)));
	ELSIF v_jump >= 0 AND v_last_job > now() + make_interval(secs => v_jump) THEN
		RETURN QUERY VALUES ('CLOCK_JUMP', 'HIGH',
			format('the clock was set back: a job ran %s from now',
				@extschema@.webhook_ago(extract(epoch FROM v_last_job - now())::double precision)),
			jsonb_build_object('last_job_at', v_last_job));
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_worker() IS
	'the alerts WORKER_NOT_RUNNING and CLOCK_JUMP';

-- By the rules of retention, with more time for each. What a rule keeps although it is old stands in
-- it behind AND NOT: the first thousand old rows are looked at, not more.
CREATE FUNCTION @extschema@.webhook_check_retention()
	RETURNS TABLE (alert_type text, severity text, message text, details jsonb)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_lag double precision := @extschema@.webhook_threshold('retention_lag');
	v_rule record;
	v_before timestamptz;
	v_behind boolean;
	v_tables text[] := '{}';
BEGIN
	IF v_lag < 0 OR pg_is_in_recovery() THEN
		RETURN;
	END IF;
	FOR v_rule IN SELECT r.*, @extschema@.webhook_setting(r.setting)::interval AS kept,
			@extschema@.webhook_setting(CASE WHEN r.daily THEN 'session_cleanup_interval' ELSE 'retention_interval' END)::interval AS every
		FROM @extschema@.webhook_retention_rules() r
	LOOP
		v_before := now() - v_rule.kept - v_rule.every - make_interval(secs => v_lag);
		EXECUTE format('SELECT EXISTS (SELECT FROM (SELECT * FROM %1$s WHERE %2$s ORDER BY %3$s LIMIT 1000) old WHERE %4$s)',
			'@extschema@.' || quote_ident(v_rule.table_name), split_part(v_rule.old_rows, ' AND NOT ', 1),
			v_rule.order_by, v_rule.old_rows)
			INTO v_behind
			USING v_before, @extschema@.webhook_uuid_floor(v_before),
				@extschema@.webhook_uuid_floor(now() + interval '1 day');
		IF v_behind AND v_rule.table_name <> ALL (v_tables) THEN
			v_tables := v_tables || v_rule.table_name;
		END IF;
	END LOOP;
	IF v_tables <> '{}' THEN
		RETURN QUERY VALUES ('RETENTION_BEHIND', 'MEDIUM',
			format('rows that should be gone are still in %s', array_to_string(v_tables, ', ')),
			jsonb_build_object('count', cardinality(v_tables), 'tables', v_tables));
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_retention() IS 'the alert RETENTION_BEHIND';

-- One check that fails, or whose table somebody has locked, must not hide the others. A sequential
-- scan must not look cheap because statistics are old.
CREATE FUNCTION @extschema@.check_webhook_system_health()
	RETURNS TABLE (alert_type text, severity text, message text, details jsonb)
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off
	SET enable_bitmapscan = off
	SET jit = off
	SET lock_timeout = '250ms'
	AS $$
DECLARE
	v_check text;
BEGIN
	FOREACH v_check IN ARRAY '{worker,conversations,errors,queues,circuits,retention}'::text[] LOOP
		BEGIN
			RETURN QUERY EXECUTE 'SELECT * FROM @extschema@.webhook_check_' || v_check || '()';
		EXCEPTION WHEN OTHERS THEN
			RETURN QUERY VALUES ('HEALTH_CHECK_FAILED', 'HIGH',
				format('the check of %s failed with SQLSTATE %s', v_check, SQLSTATE),
				jsonb_build_object('subject', v_check, 'sqlstate', SQLSTATE));
		END;
	END LOOP;
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
	v_hour record;
	v_messages bigint := 0;
	v_timed bigint := 0;
	v_total_ms numeric := 0;
	v_times integer[] := '{}';
	v_counts bigint[] := '{}';
BEGIN
	IF lookback_hours IS NULL OR lookback_hours NOT BETWEEN 1 AND 87600 THEN
		RAISE EXCEPTION 'lookback_hours must be from 1 to 87600, not %', coalesce(lookback_hours::text, 'null')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'A day is 24, ten years are 87600.';
	END IF;
	v_since := now() - make_interval(hours => lookback_hours);

	FOR v_hour IN SELECT * FROM @extschema@.webhook_processed_by_hour(v_since) LOOP
		v_messages := v_messages + v_hour.messages;
		v_timed := v_timed + v_hour.timed;
		v_total_ms := v_total_ms + v_hour.total_ms;
		v_times := v_times || v_hour.times;
		v_counts := v_counts || v_hour.counts;
	END LOOP;

	RETURN QUERY VALUES
		('total_conversations', (SELECT coalesce(sum(count), 0)
			FROM @extschema@.webhook_conversations_by_status(v_since)), 'count'),
		('total_messages_processed', v_messages::numeric, 'count'),
		('avg_processing_time_ms', round(coalesce(v_total_ms / nullif(v_timed, 0), 0), 2), 'ms'),
		('p95_processing_time_ms', round(coalesce(@extschema@.webhook_percentile(v_times, v_counts, 0.95::double precision), 0)::numeric, 2), 'ms'),
		('dlq_messages', (SELECT count(*) FROM @extschema@.webhook_dlq
			WHERE created_at > v_since)::numeric, 'count'),
		('stuck_conversations', (SELECT count(*) FROM @extschema@.stuck_webhook_conversations)::numeric, 'count'),
		('active_sessions', (SELECT count(*) FROM @extschema@.agent_sessions
			WHERE session_state = 'active')::numeric, 'count');
END
$$;
COMMENT ON FUNCTION @extschema@.get_webhook_performance_stats(integer) IS
	'seven numbers: conversations active, messages processed and dead letters added in the last hours, and what is stuck or active now; times are 0 where nothing was processed';
