-- The jobs: what has to be done from time to time, by the worker, by pg_cron, or by hand.

CREATE TABLE @extschema@.webhook_job_runs (
	job text PRIMARY KEY,
	last_started_at timestamptz NOT NULL,
	duration_ms bigint NOT NULL,
	succeeded boolean NOT NULL,
	result jsonb,
	error text,
	runs bigint NOT NULL DEFAULT 1,
	failures bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE @extschema@.webhook_job_runs IS
	'the last run of each job, and how many there were; see the view webhook_jobs';

-- Each call has all its arguments, of their very types: an overload that somebody else made could fit
-- better otherwise. by_worker: what the worker does instead. It runs no handlers here, for it has other processes
-- and requests for the messages that are back in their queues.
CREATE FUNCTION @extschema@.webhook_job_list()
	RETURNS TABLE (job text, setting text, command text, by_worker text)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 5 SET search_path = pg_catalog, pg_temp
	AS $$
	VALUES
		('cleanup-stuck-conversations', 'cleanup_interval',
			'SELECT jsonb_build_object(''success'', true, ''released'', @extschema@.cleanup_stuck_webhook_conversations(), '
				'''agentSessionsEnded'', @extschema@.webhook_end_idle_agent_sessions())', NULL),
		('dlq-processor', 'dlq_interval',
			'SELECT @extschema@.process_dead_letter_queue(NULL::integer)', 'SELECT @extschema@.webhook_requeue_dead_letters()'),
		('session-cleanup', 'session_cleanup_interval',
			'SELECT @extschema@.cleanup_stale_sessions(NULL::interval)', NULL),
		('retention', 'retention_interval',
			'SELECT jsonb_build_object(''success'', true, ''deleted'', @extschema@.apply_webhook_retention(NULL::integer),'
				' ''changes'', @extschema@.webhook_settle_changes(1000))', NULL),
		('rollup', 'rollup_interval', 'SELECT @extschema@.webhook_roll_up()', NULL)
	$$;
COMMENT ON FUNCTION @extschema@.webhook_job_list() IS
	'the jobs, the settings of their intervals, and what they run';

-- Not an advisory lock as anybody can take: holding it keeps the job from running.
CREATE FUNCTION @extschema@.webhook_try_job_lock(p_job text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'wahook_try_job_lock' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.webhook_try_job_lock(text) IS
	'whether this transaction has the job to itself from now on until it ends';

CREATE FUNCTION @extschema@.webhook_run_job(p_job text, p_by_worker boolean) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_began timestamptz := clock_timestamp();
	v_command text := (SELECT CASE WHEN p_by_worker THEN coalesce(by_worker, command) ELSE command END
		FROM @extschema@.webhook_job_list() WHERE job = p_job);
	v_result jsonb;
	v_error text;
	v_sqlstate text;
	v_ms bigint;
BEGIN
	IF v_command IS NULL THEN
		RAISE EXCEPTION 'job "%" does not exist', coalesce(left(p_job, 64), 'null')
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'The jobs are: ' || (SELECT string_agg(job, ', ') FROM @extschema@.webhook_job_list()) || '.';
	END IF;
	IF NOT @extschema@.webhook_try_job_lock(p_job) THEN
		RETURN jsonb_build_object('success', false, 'running', true);
	END IF;
	PERFORM @extschema@.webhook_progress_begin(p_job);
	BEGIN
		EXECUTE v_command INTO v_result;
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS v_error = MESSAGE_TEXT, v_sqlstate = RETURNED_SQLSTATE;
		v_result := jsonb_build_object('success', false, 'error', v_error, 'sqlstate', v_sqlstate);
	END;
	PERFORM @extschema@.webhook_progress_end();
	v_ms := round(extract(epoch FROM clock_timestamp() - v_began) * 1000);
	v_result := jsonb_build_object('durationMs', v_ms) || v_result;
	INSERT INTO @extschema@.webhook_job_runs AS r
			(job, last_started_at, duration_ms, succeeded, result, error, failures)
		VALUES (p_job, v_began, v_ms, v_error IS NULL, v_result, v_error, (v_error IS NOT NULL)::integer)
		ON CONFLICT (job) DO UPDATE SET last_started_at = EXCLUDED.last_started_at,
			duration_ms = EXCLUDED.duration_ms, succeeded = EXCLUDED.succeeded,
			result = EXCLUDED.result, error = EXCLUDED.error,
			runs = r.runs + 1, failures = r.failures + EXCLUDED.failures;
	PERFORM @extschema@.webhook_count('job_runs', ARRAY[p_job, CASE WHEN v_error IS NULL THEN 'ok' ELSE 'failed' END]::text[]);
	RETURN v_result;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_run_job(text, boolean) IS
	'runs a job, unless it runs already, and keeps how it went; an error of it is returned, not raised';

CREATE FUNCTION @extschema@.run_webhook_job(p_job text) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_result jsonb := @extschema@.webhook_run_job(p_job, false);
BEGIN
	IF v_result ? 'error' THEN
		RAISE WARNING 'job "%" failed: %', p_job, v_result ->> 'error'
			USING ERRCODE = v_result ->> 'sqlstate',
				HINT = 'What it had done in this run is undone. It is tried again at its next time.';
	END IF;
	RETURN v_result;
END
$$;
COMMENT ON FUNCTION @extschema@.run_webhook_job(text) IS
	'runs a job of webhook_jobs now and returns its answer; where it is running elsewhere: {"success": false, "running": true}';

-- When a dead letter is due exactly is known. Those that were due before the last run and are still
-- there could not be retried then, and are looked at again after the interval.
CREATE VIEW @extschema@.webhook_jobs AS
	SELECT j.job, s.every, r.last_started_at AS last_run_at, r.duration_ms, r.succeeded, r.result,
		r.error,
		CASE
			WHEN s.every = interval '0' THEN NULL
			WHEN r.job IS NULL THEN now()
			-- It ran in the future: the clock has been set back. It is not to wait until that time comes again.
			WHEN r.last_started_at > now() + interval '10 seconds' THEN now()
			WHEN j.job = 'dlq-processor' THEN (SELECT min(due.at) FROM (
				(SELECT next_retry_at FROM @extschema@.webhook_dlq
					WHERE resolution_status = 'pending' AND next_retry_at > r.last_started_at
					ORDER BY next_retry_at LIMIT 1)
				UNION ALL
				(SELECT retry_lease_until FROM @extschema@.webhook_dlq
					WHERE resolution_status = 'retrying' AND retry_lease_until > r.last_started_at
					ORDER BY retry_lease_until LIMIT 1)
				UNION ALL
				SELECT r.last_started_at + s.every
					WHERE EXISTS (SELECT FROM @extschema@.webhook_dlq
							WHERE resolution_status = 'pending' AND next_retry_at <= r.last_started_at)
						OR EXISTS (SELECT FROM @extschema@.webhook_dlq
							WHERE resolution_status = 'retrying' AND retry_lease_until <= r.last_started_at)
				) AS due (at))
			WHEN j.job = 'session-cleanup' AND extract(epoch FROM s.every)::bigint % 86400 = 0
				THEN date_trunc('day', r.last_started_at - interval '2 hours') + s.every + interval '2 hours'
			ELSE r.last_started_at + s.every
		END AS next_run_at,
		coalesce(r.runs, 0) AS runs, coalesce(r.failures, 0) AS failures,
		p.pid AS running_pid, p.started_at AS running_since, p.phase AS running_phase, p.done AS running_done
	FROM @extschema@.webhook_job_list() j
		CROSS JOIN LATERAL (SELECT @extschema@.webhook_setting(j.setting)::interval) AS s (every)
		LEFT JOIN @extschema@.webhook_job_runs r ON r.job = j.job
		LEFT JOIN @extschema@.webhook_job_progress() p ON p.job = j.job;
COMMENT ON VIEW @extschema@.webhook_jobs IS
	'the jobs: how often they run, how the last run went, when the worker runs them next';
