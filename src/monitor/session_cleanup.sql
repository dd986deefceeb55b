-- The daily job: sessions that nobody is in any more, and dead letters that are done with.

CREATE FUNCTION @extschema@.cleanup_stale_sessions(p_ttl interval DEFAULT NULL) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	c_longest constant interval := '100 years';
	v_began timestamptz := clock_timestamp();
	v_ttl interval := coalesce(p_ttl, @extschema@.webhook_setting('session_ttl')::interval);
	v_ttl_hours numeric := trim_scale(extract(epoch FROM v_ttl) / 3600);
	v_batch_size bigint := @extschema@.webhook_setting('retention_batch_size')::bigint;
	v_rule record;
	v_age interval;
	v_batch bigint;
	v_deleted jsonb := '{"user_sessions": 0, "webhook_dlq": 0}';
	v_answer jsonb;
BEGIN
	IF v_ttl <= interval '0' OR v_ttl > c_longest THEN
		RAISE EXCEPTION 'time to live must be above 0 and up to %, not %', c_longest, v_ttl
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Leave it out to take wahook.session_ttl.';
	END IF;
	PERFORM @extschema@.webhook_log_event('SESSION_CLEANUP_STARTED',
		jsonb_build_object('ttlHours', v_ttl_hours));

	-- It runs once a day, so it takes batches until there is none.
	FOR v_rule IN SELECT * FROM @extschema@.webhook_retention_rules() WHERE daily LOOP
		v_age := CASE v_rule.setting WHEN 'session_ttl' THEN v_ttl
			ELSE @extschema@.webhook_setting(v_rule.setting)::interval END;
		LOOP
			v_batch := @extschema@.webhook_delete_old(v_rule.table_name, v_rule.old_rows,
				v_rule.order_by, now() - v_age, v_batch_size);
			PERFORM @extschema@.webhook_progress(v_rule.table_name, v_batch);
			v_deleted := jsonb_set(v_deleted, ARRAY[v_rule.table_name],
				to_jsonb((v_deleted ->> v_rule.table_name)::bigint + v_batch));
			EXIT WHEN v_batch < v_batch_size;
		END LOOP;
	END LOOP;

	-- The cleanup does so too, more often; here for those who call nothing but the contract's functions.
	PERFORM @extschema@.webhook_end_idle_agent_sessions();

	v_answer := jsonb_build_object(
		'success', true,
		'sessions', jsonb_build_object(
			'deleted', (v_deleted ->> 'user_sessions')::bigint,
			'ttlHours', v_ttl_hours,
			'cutoffTime', to_char((now() - v_ttl) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')),
		'dlq', jsonb_build_object(
			'deleted', (v_deleted ->> 'webhook_dlq')::bigint,
			'retentionDays', trim_scale(extract(epoch FROM
				@extschema@.webhook_setting('dlq_resolved_retention')::interval) / 86400)),
		'durationMs', round(extract(epoch FROM clock_timestamp() - v_began) * 1000));
	PERFORM @extschema@.webhook_log_event('SESSION_CLEANUP_COMPLETED', v_answer);
	RETURN v_answer;
END
$$;
COMMENT ON FUNCTION @extschema@.cleanup_stale_sessions(interval) IS
	'deletes user sessions idle for wahook.session_ttl and dead letters resolved for wahook.dlq_resolved_retention, ends idle agent sessions';
