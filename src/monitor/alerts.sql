-- Alerts over time: what fires, since when, who has been told. What is an alert is decided by
-- check_webhook_system_health(); here are only its changes.
--
-- firing: an alert is there, or was within wahook.alert_hold_time. One that comes and goes is held back
-- by that: it is told of once, counted in times, and resolved when it has stayed away for so long.

CREATE TABLE @extschema@.webhook_alerts (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	alert_type text NOT NULL,
	subject text NOT NULL DEFAULT '',
	severity text NOT NULL,
	message text NOT NULL,
	details jsonb NOT NULL DEFAULT '{}',
	state text NOT NULL DEFAULT 'firing' CHECK (state IN ('firing', 'resolved')),
	times integer NOT NULL DEFAULT 1,
	started_at timestamptz NOT NULL DEFAULT now(),
	last_seen_at timestamptz NOT NULL DEFAULT now(),
	cleared_at timestamptz,
	resolved_at timestamptz,
	tell boolean NOT NULL DEFAULT true,
	firing_told_at timestamptz,
	resolved_told_at timestamptz,
	tell_failures integer NOT NULL DEFAULT 0,
	tell_error text
);
CREATE UNIQUE INDEX webhook_alerts_firing_idx
	ON @extschema@.webhook_alerts (alert_type, subject) WHERE state = 'firing';
CREATE INDEX webhook_alerts_untold_idx
	ON @extschema@.webhook_alerts (started_at) WHERE tell AND resolved_told_at IS NULL;
CREATE INDEX webhook_alerts_started_idx ON @extschema@.webhook_alerts (started_at);
COMMENT ON TABLE @extschema@.webhook_alerts IS
	'the alerts that fire or fired, a row from the start to the end of each; written when something changes';
COMMENT ON COLUMN @extschema@.webhook_alerts.subject IS
	'what tells apart those of a type: the service, the circuit; empty where there is one at most';
COMMENT ON COLUMN @extschema@.webhook_alerts.times IS
	'how often it came: more than once where it went and came back within wahook.alert_hold_time';
COMMENT ON COLUMN @extschema@.webhook_alerts.cleared_at IS
	'since when it has not been seen; null: it was there at the last look';
COMMENT ON COLUMN @extschema@.webhook_alerts.tell IS
	'whether wahook.alert_url is to hear of it; false: there was none until it was resolved';
COMMENT ON COLUMN @extschema@.webhook_alerts.firing_told_at IS
	'when wahook.alert_url took the news that it fires';
COMMENT ON COLUMN @extschema@.webhook_alerts.tell_failures IS
	'requests to wahook.alert_url that failed in a row';

CREATE FUNCTION @extschema@.webhook_log_problem(p_event text, p_details jsonb) RETURNS void
	AS 'MODULE_PATHNAME', 'wahook_log_problem' LANGUAGE C VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_log_problem(text, jsonb) IS
	'writes an event to the server log, where wahook.log_events is not ''none''';

-- What leaves the database: no ids of conversations.
CREATE FUNCTION @extschema@.webhook_alert_json(p_alert @extschema@.webhook_alerts, p_state text) RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object('alert_id', (p_alert).id, 'alert_type', (p_alert).alert_type,
		'subject', nullif((p_alert).subject, ''), 'severity', (p_alert).severity, 'state', p_state,
		'message', (p_alert).message, 'details', (p_alert).details - 'oldest' - 'subject', 'times', (p_alert).times,
		'database', current_database(), 'started_at', (p_alert).started_at,
		'resolved_at', CASE p_state WHEN 'resolved' THEN (p_alert).resolved_at END))
	$$;
COMMENT ON FUNCTION @extschema@.webhook_alert_json(@extschema@.webhook_alerts, text) IS
	'an alert as the channel, the log and wahook.alert_url are told of it';

CREATE FUNCTION @extschema@.webhook_announce_alert(p_alert @extschema@.webhook_alerts) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_json jsonb := @extschema@.webhook_alert_json(p_alert, (p_alert).state);
BEGIN
	IF (p_alert).state = 'firing' THEN
		PERFORM @extschema@.webhook_log_problem('ALERT_FIRING'::text, v_json);
	ELSE
		PERFORM @extschema@.webhook_log_problem('ALERT_RESOLVED'::text, v_json);
	END IF;
	-- A notification has room for 7,999 bytes.
	PERFORM pg_notify('wahook_alerts', CASE WHEN octet_length(v_json::text) < 7900 THEN v_json ELSE v_json - 'details' END::text);
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_announce_alert(@extschema@.webhook_alerts) IS
	'tells the log and the channel wahook_alerts that an alert fires or is resolved';

-- The former worker could not tell that it was gone. When it was last there is known to shared memory,
-- unless that is gone too; then the jobs that it ran tell, as exactly as their intervals.
CREATE FUNCTION @extschema@.webhook_note_absence(p_alive_until timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_limit double precision := @extschema@.webhook_threshold('worker_timeout');
	v_job_at timestamptz := (SELECT max(last_started_at + duration_ms * interval '1 ms') FROM @extschema@.webhook_job_runs);
	v_every double precision := (SELECT min(extract(epoch FROM i.every))
		FROM (VALUES (@extschema@.webhook_setting('cleanup_interval')::interval),
			(@extschema@.webhook_setting('retention_interval')::interval)) i (every) WHERE i.every > interval '0');
	v_since timestamptz := greatest(p_alive_until, v_job_at);
	v_alert @extschema@.webhook_alerts;
BEGIN
	IF v_limit < 0 OR v_since IS NULL OR (v_since IS DISTINCT FROM p_alive_until AND v_every IS NULL)
			OR v_since > now() - make_interval(secs => v_limit
				+ CASE WHEN v_since = p_alive_until THEN 0 ELSE v_every END) THEN
		RETURN;
	END IF;
	-- Somebody else has noticed.
	IF EXISTS (SELECT FROM @extschema@.webhook_alerts
			WHERE alert_type = 'WORKER_NOT_RUNNING' AND started_at >= v_since) THEN
		RETURN;
	END IF;
	INSERT INTO @extschema@.webhook_alerts (alert_type, severity, message, details, started_at, cleared_at)
		VALUES ('WORKER_NOT_RUNNING', 'CRITICAL',
			format('the worker is back; it was away for %s', @extschema@.webhook_ago(extract(epoch FROM now() - v_since)::double precision)),
			jsonb_build_object('away_since', v_since), v_since, now())
		ON CONFLICT (alert_type, subject) WHERE state = 'firing' DO NOTHING RETURNING * INTO v_alert;
	IF FOUND THEN
		PERFORM @extschema@.webhook_announce_alert(v_alert);
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_note_absence(timestamptz) IS
	'records that there has been no worker, where it was for longer than wahook.health_worker_timeout';

CREATE FUNCTION @extschema@.webhook_note_alert(
	p_type text, p_severity text, p_message text, p_details jsonb) RETURNS uuid
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_alert @extschema@.webhook_alerts;
	v_subject text := coalesce(p_details ->> 'subject', '');
BEGIN
	SELECT * INTO v_alert FROM @extschema@.webhook_alerts
		WHERE state = 'firing' AND alert_type = p_type AND subject = v_subject;
	IF NOT FOUND THEN
		INSERT INTO @extschema@.webhook_alerts (alert_type, subject, severity, message, details)
			VALUES (p_type, v_subject, p_severity, p_message, p_details) RETURNING * INTO v_alert;
		PERFORM @extschema@.webhook_announce_alert(v_alert);
	-- Its numbers, once a minute while they change; it is told of once.
	ELSIF v_alert.cleared_at IS NOT NULL
			OR (v_alert.last_seen_at < now() - interval '1 minute'
				AND (v_alert.message, v_alert.details) IS DISTINCT FROM (p_message, p_details)) THEN
		UPDATE @extschema@.webhook_alerts SET last_seen_at = now(), cleared_at = NULL,
				times = times + (cleared_at IS NOT NULL)::integer,
				severity = p_severity, message = p_message, details = p_details
			WHERE id = v_alert.id;
	END IF;
	RETURN v_alert.id;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_note_alert(text, text, text, jsonb) IS
	'an alert that is there now: a new row and the news of it, or the row it has; the id';

-- What a check that failed would have found is not known: nothing is taken for over then.
CREATE FUNCTION @extschema@.webhook_note_alerts(p_has_url boolean) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_found record;
	v_alert @extschema@.webhook_alerts;
	v_ids uuid[] := '{}';
	v_failed boolean := false;
BEGIN
	FOR v_found IN SELECT * FROM @extschema@.check_webhook_system_health() LOOP
		v_ids := v_ids || @extschema@.webhook_note_alert(v_found.alert_type, v_found.severity, v_found.message, v_found.details);
		v_failed := v_failed OR v_found.alert_type = 'HEALTH_CHECK_FAILED';
	END LOOP;
	IF NOT v_failed THEN
		UPDATE @extschema@.webhook_alerts SET cleared_at = now()
			WHERE state = 'firing' AND cleared_at IS NULL AND id <> ALL (v_ids);
	END IF;
	FOR v_alert IN
		UPDATE @extschema@.webhook_alerts
			SET state = 'resolved', resolved_at = now(), tell = tell AND (p_has_url OR firing_told_at IS NOT NULL)
			WHERE state = 'firing' AND id <> ALL (v_ids)
				AND cleared_at <= now() - (SELECT @extschema@.webhook_setting('alert_hold_time')::interval)
			RETURNING *
	LOOP
		PERFORM @extschema@.webhook_announce_alert(v_alert);
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_note_alerts(boolean) IS
	'compares the alerts that there are now with those that fire, and tells the log and the channel what has changed';

CREATE FUNCTION @extschema@.evaluate_webhook_alerts() RETURNS integer
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF @extschema@.webhook_try_job_lock('alerts'::text) THEN
		PERFORM @extschema@.webhook_note_alerts(true);
	END IF;
	RETURN (SELECT count(*) FROM @extschema@.webhook_alerts WHERE state = 'firing');
END
$$;
COMMENT ON FUNCTION @extschema@.evaluate_webhook_alerts() IS
	'looks for changes of the alerts now, as the worker does every wahook.alert_interval; how many fire. For where there is no worker';

-- For the worker: whether wahook.alert_url is to be told of something.
CREATE FUNCTION @extschema@.webhook_evaluate_alerts(p_has_url boolean, p_is_first boolean, p_alive_until timestamptz) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF @extschema@.webhook_try_job_lock('alerts'::text) THEN
		IF p_is_first THEN
			PERFORM @extschema@.webhook_note_absence(p_alive_until);
		END IF;
		PERFORM @extschema@.webhook_note_alerts(p_has_url);
	END IF;
	RETURN p_has_url AND EXISTS (SELECT FROM @extschema@.webhook_alerts WHERE tell AND resolved_told_at IS NULL
		AND (firing_told_at IS NULL OR state = 'resolved'));
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_evaluate_alerts(boolean, boolean, timestamptz) IS
	'what the worker does every wahook.alert_interval; whether there is something to tell wahook.alert_url';

-- In the order in which things happened; of each alert first that it fires, then that it is resolved.
-- What was resolved a day ago is news to nobody.
CREATE FUNCTION @extschema@.webhook_next_alert_to_tell(OUT id uuid, OUT state text, OUT body text)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_alert @extschema@.webhook_alerts;
	v_json jsonb;
BEGIN
	UPDATE @extschema@.webhook_alerts a SET tell = false
		WHERE a.tell AND a.resolved_told_at IS NULL AND a.state = 'resolved' AND a.resolved_at < now() - interval '1 day';
	SELECT * INTO v_alert FROM @extschema@.webhook_alerts a
		WHERE a.tell AND a.resolved_told_at IS NULL AND (a.firing_told_at IS NULL OR a.state = 'resolved')
		ORDER BY CASE WHEN a.firing_told_at IS NULL THEN a.started_at ELSE a.resolved_at END, a.id LIMIT 1;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	id := v_alert.id;
	state := CASE WHEN v_alert.firing_told_at IS NULL THEN 'firing' ELSE 'resolved' END;
	v_json := @extschema@.webhook_alert_json(v_alert, state);
	body := jsonb_build_object('type', 'alert.' || state,
		'timestamp', CASE state WHEN 'firing' THEN v_alert.started_at ELSE v_alert.resolved_at END,
		'text', format('[%s] %s %s: %s (database %s)', state, v_alert.severity, v_alert.alert_type, v_alert.message, current_database()),
		'data', v_json)::text;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_next_alert_to_tell() IS
	'the next news for wahook.alert_url; null where there is none';

CREATE FUNCTION @extschema@.webhook_note_told(p_id uuid, p_state text, p_error text) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
	UPDATE @extschema@.webhook_alerts SET
		firing_told_at = CASE WHEN p_error IS NULL AND p_state = 'firing' THEN now() ELSE firing_told_at END,
		resolved_told_at = CASE WHEN p_error IS NULL AND p_state = 'resolved' THEN now() ELSE resolved_told_at END,
		tell_failures = CASE WHEN p_error IS NULL THEN 0 ELSE tell_failures + 1 END,
		tell_error = p_error
	WHERE id = p_id
	$$;
COMMENT ON FUNCTION @extschema@.webhook_note_told(uuid, text, text) IS
	'records that wahook.alert_url took a piece of news, or why it did not';
