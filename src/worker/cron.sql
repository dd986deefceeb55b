-- The jobs, for servers that do not preload wahook: pg_cron runs them. It is looked for when it is
-- needed; wahook does not depend on it.

CREATE FUNCTION @extschema@.webhook_cron_jobs()
	RETURNS TABLE (job_name text, schedule text, command text)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	VALUES
		('cleanup-stuck-conversations', '*/5 * * * *',
			'SELECT @extschema@.run_webhook_job(''cleanup-stuck-conversations''); SELECT @extschema@.run_webhook_job(''retention''); SELECT @extschema@.run_webhook_job(''rollup''); SELECT @extschema@.evaluate_webhook_alerts()'),
		('dlq-processor', '*/5 * * * *', 'SELECT @extschema@.run_webhook_job(''dlq-processor'')'),
		('session-cleanup', '0 2 * * *', 'SELECT @extschema@.run_webhook_job(''session-cleanup'')')
	$$;
COMMENT ON FUNCTION @extschema@.webhook_cron_jobs() IS 'what has to run when, as pg_cron takes it';

CREATE FUNCTION @extschema@.webhook_require_cron() RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_cron_database text := current_setting('cron.database_name', true);
BEGIN
	IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') THEN
		RETURN;
	END IF;
	RAISE EXCEPTION 'pg_cron is not installed in database "%"', current_database()
		USING ERRCODE = 'WH006',
			DETAIL = CASE
				WHEN v_cron_database IS NULL THEN 'This server has not loaded pg_cron.'
				ELSE format('pg_cron keeps its jobs in database "%s".', v_cron_database)
			END,
			HINT = CASE
				WHEN v_cron_database IS NULL THEN 'Add pg_cron to shared_preload_libraries, restart, and CREATE EXTENSION pg_cron.'
				WHEN v_cron_database = current_database() THEN 'CREATE EXTENSION pg_cron.'
				ELSE format('There, call cron.schedule_in_database(job_name, schedule, command, %L) for each row of webhook_cron_jobs() here.',
					current_database())
			END;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_require_cron() IS
	'an error that says how to get pg_cron, where it is missing';

CREATE FUNCTION @extschema@.unschedule_webhook_jobs() RETURNS integer
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_removed integer;
BEGIN
	PERFORM @extschema@.webhook_require_cron();
	-- By id, for by name pg_cron only finds the caller's own. A superuser sees everybody's.
	EXECUTE 'SELECT count(cron.unschedule(jobid))::integer FROM cron.job'
		' WHERE database = current_database() AND jobname IN (SELECT job_name FROM @extschema@.webhook_cron_jobs())'
		INTO v_removed;
	RETURN v_removed;
END
$$;
COMMENT ON FUNCTION @extschema@.unschedule_webhook_jobs() IS
	'takes wahook''s jobs out of pg_cron; how many there were';

CREATE FUNCTION @extschema@.schedule_webhook_jobs()
	RETURNS TABLE (job_name text, schedule text, command text)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	-- Whoever scheduled them before: twice would run them twice.
	PERFORM @extschema@.unschedule_webhook_jobs();
	EXECUTE 'SELECT cron.schedule(j.job_name, j.schedule, j.command) FROM @extschema@.webhook_cron_jobs() j';
	RETURN QUERY SELECT * FROM @extschema@.webhook_cron_jobs();
END
$$;
COMMENT ON FUNCTION @extschema@.schedule_webhook_jobs() IS
	'puts wahook''s three jobs into pg_cron, to run as the caller; again if they are there already';
