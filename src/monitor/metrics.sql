-- Metrics, for Prometheus and for people: the counters in shared memory, and gauges, which are looked
-- up in the tables when they are asked for.
--
-- A look must not cost more as history grows, or as the backlog does. What has an index is counted, no
-- further than 10,000; for tables that may hold more, the server's own count of live rows takes over.

CREATE INDEX webhook_dlq_failed_idx
	ON @extschema@.webhook_dlq (created_at) WHERE resolution_status = 'failed';

CREATE FUNCTION @extschema@.webhook_counter_samples()
	RETURNS TABLE (ordinal integer, metric text, name text, labels jsonb, kind text,
		value double precision, unit text, help text)
	AS 'MODULE_PATHNAME', 'wahook_counter_samples' LANGUAGE C VOLATILE ROWS 200;
COMMENT ON FUNCTION @extschema@.webhook_counter_samples() IS
	'internal: the counters of this database in shared memory; no rows where wahook is not preloaded';

-- A query gives the labels and the value of each sample. A standby has nothing in its unlogged tables.
CREATE FUNCTION @extschema@.webhook_gauges()
	RETURNS TABLE (ordinal integer, metric text, kind text, unit text, query text, help text)
	LANGUAGE sql STABLE ROWS 20 SET search_path = pg_catalog, pg_temp
	AS $$
	VALUES
	(1, 'info', 'gauge', '', $q$
		SELECT jsonb_build_object('version', extversion, 'postgresql', current_setting('server_version')), 1
		FROM pg_extension WHERE extname = 'wahook' $q$,
		'The versions of wahook and of PostgreSQL'),
	(2, 'worker_up', 'gauge', '', $q$
		SELECT '{}', (s.pid IS NOT NULL)::integer FROM @extschema@.webhook_worker_state() s
		WHERE s.expected OR s.pid IS NOT NULL $q$,
		'Whether the background worker of the database runs; absent where none is to run'),
	(3, 'worker_heartbeat_age_seconds', 'gauge', 'seconds', $q$
		SELECT '{}', s.heartbeat_age_seconds FROM @extschema@.webhook_worker_state() s
		WHERE s.heartbeat_age_seconds IS NOT NULL $q$,
		'Time since the worker last took a turn; it sleeps while there is nothing to do'),
	(4, 'inbox_messages', 'gauge', 'messages', $q$
		SELECT '{}', @extschema@.webhook_count_rows('webhook_inbox') $q$,
		'Messages that wait or are claimed; above 10000, estimated by the statistics of the table'),
	(5, 'inbox_oldest_seconds', 'gauge', 'seconds', $q$
		SELECT '{}', coalesce(max(greatest(0, extract(epoch FROM clock_timestamp() - w.due_at))), 0)
		FROM @extschema@.webhook_waiting_services(clock_timestamp()) w $q$,
		'How long the message that has waited longest for its claim has been due'),
	(6, 'conversations_locked', 'gauge', 'conversations', $q$
		SELECT '{}', count(*) FROM (
			SELECT FROM (SELECT DISTINCT id FROM (SELECT id FROM @extschema@.webhook_leases l
					CROSS JOIN LATERAL unnest(l.conversation_id || coalesce(l.others, '{}')) AS id
					WHERE l.expires_at > now() LIMIT 10000) first) leased
				CROSS JOIN LATERAL (SELECT FROM @extschema@.webhook_conversations c WHERE c.id = leased.id
					AND c.locked_by IS NOT NULL AND c.lock_expires_at > now() OFFSET 0) locked) l $q$,
		'Conversations with a holder whose lease goes on; at most 10000 are looked at'),
	(7, 'conversations_stuck', 'gauge', 'conversations', $q$
		SELECT '{}', cardinality(@extschema@.webhook_stuck_conversations(@extschema@.webhook_stale_locks())) $q$,
		'Conversations that are idle though pending or processing, or locked beyond their lease'),
	(8, 'circuits_open', 'gauge', 'circuits', $q$
		SELECT '{}', count(*) FROM (SELECT FROM @extschema@.webhook_circuits WHERE state <> 'closed' LIMIT 10000) c $q$,
		'Circuits that are open or half open'),
	(9, 'dead_letters', 'gauge', 'dead letters', $q$
		SELECT jsonb_build_object('state', state), @extschema@.webhook_count_dead_letters(state)
		FROM unnest('{pending,retrying,failed}'::text[]) AS state $q$,
		'Dead letters that are not resolved, by state; counted up to 10000 each'),
	(10, 'quarantine_messages', 'gauge', 'updates', $q$
		SELECT '{}', @extschema@.webhook_count_rows('webhook_quarantine') $q$,
		'Updates in the quarantine; above 10000, estimated by the statistics of the table'),
	(11, 'agent_sessions_active', 'gauge', 'sessions', $q$
		SELECT '{}', count(*) FROM (SELECT FROM @extschema@.agent_sessions WHERE session_state = 'active' LIMIT 10000) s $q$,
		'Active sessions of agents; counted up to 10000'),
	(12, 'job_last_run_timestamp_seconds', 'gauge', 'seconds', $q$
		SELECT jsonb_build_object('job', job), extract(epoch FROM last_started_at) FROM @extschema@.webhook_job_runs $q$,
		'When each job began its last run, in seconds since 1970'),
	(13, 'job_last_run_succeeded', 'gauge', '', $q$
		SELECT jsonb_build_object('job', job), succeeded::integer FROM @extschema@.webhook_job_runs $q$,
		'Whether the last run of each job succeeded'),
	(14, 'alerts_active', 'gauge', 'alerts', $q$
		SELECT jsonb_build_object('alert_type', alert_type), count(*) FROM @extschema@.webhook_alerts
		WHERE state = 'firing' GROUP BY alert_type $q$,
		'Alerts that are firing, by their type; absent where there is none'),
	-- Without preload, the runs of the jobs are all that is counted.
	(15, 'job_runs_total', 'counter', 'runs', $q$
		SELECT jsonb_build_object('job', r.job, 'result', l.result), l.value
		FROM @extschema@.webhook_job_runs r
			CROSS JOIN LATERAL (VALUES (1, 'ok', r.runs - r.failures), (2, 'failed', r.failures)) AS l (place, result, value)
		WHERE NOT (SELECT s.preloaded FROM @extschema@.webhook_worker_state() s) ORDER BY r.job, l.place $q$,
		'Runs of the jobs that ended')
	$$;
COMMENT ON FUNCTION @extschema@.webhook_gauges() IS
	'internal: the gauges, and the queries that look them up';

CREATE FUNCTION @extschema@.webhook_count_rows(p_table text) RETURNS bigint
	LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_count bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM (SELECT FROM @extschema@.%I LIMIT 10000) t', p_table) INTO v_count;
	IF v_count < 10000 THEN
		RETURN v_count;
	END IF;
	RETURN greatest(v_count, pg_stat_get_live_tuples(format('@extschema@.%I', p_table)::regclass));
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_count_rows(text) IS
	'internal: how many rows a table of the extension has; above 10,000, as its statistics have it';

-- A gauge that can't be looked up, because somebody has locked its table for instance, must not hide
-- the others. A sequential scan must not look cheap because statistics are old.
CREATE FUNCTION @extschema@.webhook_gauge_samples(p_metrics text[])
	RETURNS TABLE (ordinal integer, metric text, labels jsonb, kind text, value double precision, unit text, help text)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off
	SET enable_bitmapscan = off
	SET jit = off
	SET lock_timeout = '250ms'
	AS $$
DECLARE
	v_gauge record;
	v_failed text[] := '{}';
BEGIN
	FOR v_gauge IN SELECT g.*, 'wahook_' || g.metric AS full_name FROM @extschema@.webhook_gauges() g ORDER BY g.ordinal LOOP
		CONTINUE WHEN v_gauge.metric = 'circuits_open' AND pg_is_in_recovery();
		CONTINUE WHEN v_gauge.full_name <> ALL (p_metrics) AND 'wahook_gauges_failed' <> ALL (p_metrics);
		BEGIN
			RETURN QUERY EXECUTE format('SELECT $1, $2, s.labels::jsonb, $3, s.value::double precision, $4, $5 FROM (%s) AS s (labels, value)', v_gauge.query)
				USING v_gauge.ordinal, v_gauge.full_name, v_gauge.kind, v_gauge.unit, v_gauge.help;
		EXCEPTION WHEN OTHERS THEN
			v_failed := v_failed || v_gauge.metric;
		END;
	END LOOP;
	RETURN QUERY SELECT 1000, 'wahook_gauges_failed', '{}'::jsonb, 'gauge', cardinality(v_failed)::double precision, 'gauges',
		'Gauges that could not be looked up this time, and are missing';
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_gauge_samples(text[]) IS
	'internal: the gauges as they are now, those of these names or all; one that can''t be looked up is left out';

CREATE FUNCTION @extschema@.webhook_metric_samples(p_metrics text[])
	RETURNS TABLE (ordinal integer, metric text, name text, labels jsonb, kind text, value double precision, unit text, help text, source text)
	LANGUAGE sql VOLATILE ROWS 250 SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT c.ordinal, c.metric, c.name, c.labels, c.kind, c.value, c.unit, c.help, 'shared memory'
	FROM @extschema@.webhook_counter_samples() c
	UNION ALL
	SELECT 10000 + row_number() OVER (ORDER BY g.ordinal)::integer, g.metric, g.metric, g.labels, g.kind, g.value, g.unit, g.help, 'tables'
	FROM @extschema@.webhook_gauge_samples(p_metrics) g
	$$;
COMMENT ON FUNCTION @extschema@.webhook_metric_samples(text[]) IS
	'internal: the samples of these metrics or all, in an order in which those of a metric are together';

CREATE FUNCTION @extschema@.webhook_metrics(p_metrics text[] DEFAULT NULL)
	RETURNS TABLE (name text, labels jsonb, kind text, value double precision, unit text, help text, source text)
	LANGUAGE sql VOLATILE ROWS 250 SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT s.name, s.labels, s.kind, s.value, s.unit, s.help, s.source
	FROM @extschema@.webhook_metric_samples(array_remove(p_metrics, NULL)) s
	WHERE p_metrics IS NULL OR s.metric = ANY (p_metrics)
	ORDER BY s.ordinal
	$$;
COMMENT ON FUNCTION @extschema@.webhook_metrics(text[]) IS
	'all metrics or those of these names, a row a sample; source: shared memory, or tables';

-- The text format 0.0.4. In a label's value a backslash, a quote and the end of a line are escaped.
CREATE FUNCTION @extschema@.webhook_metrics_prometheus() RETURNS text
	LANGUAGE sql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	SET extra_float_digits = 1
	AS $$
	SELECT string_agg(CASE WHEN first THEN
			format(E'# HELP %s %s\n# TYPE %1$s %3$s\n', metric, replace(replace(help, E'\\', E'\\\\'), E'\n', E'\\n'), kind)
			|| CASE WHEN unit = 'seconds' THEN format(E'# UNIT %s seconds\n', metric) ELSE '' END
		ELSE '' END || name || labels || ' ' || value || E'\n', '' ORDER BY ordinal)
	FROM (SELECT s.ordinal, s.metric, s.name, s.kind, s.unit, s.help,
			row_number() OVER (PARTITION BY s.metric ORDER BY s.ordinal) = 1 AS first,
			CASE s.value WHEN 'Infinity' THEN '+Inf' WHEN '-Infinity' THEN '-Inf' ELSE s.value::text END AS value,
			coalesce('{' || (SELECT string_agg(format('%s="%s"', l.key,
					replace(replace(replace(l.value, E'\\', E'\\\\'), '"', E'\\"'), E'\n', E'\\n')), ',' ORDER BY l.key)
				FROM jsonb_each_text(s.labels) AS l (key, value)) || '}', '') AS labels
		FROM @extschema@.webhook_metric_samples(NULL::text[]) s) s
	$$;
COMMENT ON FUNCTION @extschema@.webhook_metrics_prometheus() IS
	'all metrics as text for Prometheus, in the exposition format 0.0.4';

CREATE FUNCTION @extschema@.webhook_metrics_reset() RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'wahook_reset_counters' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_metrics_reset() IS
	'sets the counters of this database to zero, at once and whatever becomes of the transaction; since when they count';
