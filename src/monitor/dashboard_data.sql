-- What webhook_dashboard() shows: of the last 24 hours, as arrays for its charts. Nothing of it is a phone
-- number, a user, or a text that came from outside: errors are told by their class, which is one of a list.

CREATE TABLE @extschema@.webhook_depth_samples (
	sampled_at timestamptz PRIMARY KEY,
	waiting bigint NOT NULL,
	oldest_seconds double precision NOT NULL,
	dead_letters bigint NOT NULL
);
COMMENT ON TABLE @extschema@.webhook_depth_samples IS
	'how much waited every five minutes, for the time after: nothing else remembers it';
COMMENT ON COLUMN @extschema@.webhook_depth_samples.waiting IS 'messages in the inbox; no further than a million';
COMMENT ON COLUMN @extschema@.webhook_depth_samples.oldest_seconds IS 'since when the first of them had been due';
COMMENT ON COLUMN @extschema@.webhook_depth_samples.dead_letters IS 'pending or retrying; of each no further than 10,000';

CREATE FUNCTION @extschema@.webhook_sample_depth() RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
	AS $$
	INSERT INTO @extschema@.webhook_depth_samples
		SELECT now(),
			(SELECT count(*) FROM (SELECT FROM @extschema@.webhook_inbox LIMIT 1000000) i),
			coalesce((SELECT greatest(0, date_part('epoch', now() - min(w.due_at)))
				FROM @extschema@.webhook_waiting_services(now()) w), 0),
			@extschema@.webhook_count_dead_letters('pending') + @extschema@.webhook_count_dead_letters('retrying')
		-- A little less than five minutes, for the job is never exactly on time.
		WHERE NOT EXISTS (SELECT FROM @extschema@.webhook_depth_samples WHERE sampled_at > now() - interval '4 minutes 30 seconds')
	$$;
COMMENT ON FUNCTION @extschema@.webhook_sample_depth() IS 'samples how much waits, where the last sample is five minutes old';

CREATE FUNCTION @extschema@.webhook_error_class(p_error text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE
		WHEN coalesce(p_error, '') = '' THEN 'no error text'
		WHEN e ~ E'\\mhttp(/[0-9.]+)? ?(status|error|code)?:? ?[1-5][0-9][0-9]\\M'
			THEN 'HTTP ' || substring(e FROM E'\\mhttp(?:/[0-9.]+)? ?(?:status|error|code)?:? ?([1-5][0-9][0-9])\\M')
		WHEN e ~ 'time(d)?[- ]?out|deadline|not processed within' THEN 'timeout'
		WHEN e ~ 'deadlock|could not serialize|lock not available|could not obtain lock' THEN 'conflict between transactions'
		WHEN e ~ 'rate.?limit|too many requests|quota' THEN 'rate limited'
		WHEN e ~ E'\\mcircuit' THEN 'circuit open'
		WHEN e ~ 'resolve|name or service not known|getaddrinfo|enotfound' THEN 'name not resolved'
		WHEN e ~ E'\\m(tls|ssl)\\M|certificate' THEN 'TLS failed'
		WHEN e ~ 'address refused' THEN 'address not allowed'
		WHEN e ~ 'connect|econn|socket|network|unreachable|broken pipe' THEN 'connection failed'
		WHEN e ~ 'violates|duplicate key|constraint' THEN 'constraint violated'
		WHEN e ~ 'permission|denied|unauthori[sz]ed|forbidden|not allowed' THEN 'not permitted'
		WHEN e ~ 'vanished|lease|lock.*lost|lost.*lock' THEN 'holder vanished'
		WHEN e ~ 'out of memory|no space|too large|disk full' THEN 'out of resources'
		WHEN e ~ 'json|parse|syntax|invalid input|unexpected token' THEN 'unreadable data'
		WHEN e ~ 'does not exist|not found|undefined|null value|is null|not a function' THEN 'something missing'
		WHEN e ~ 'cancel|shut.?down|shutting down|terminat|abort' THEN 'cancelled'
		ELSE 'other' END
	FROM (SELECT lower(left(p_error, 1000)) COLLATE "C" AS e) t
	$$;
COMMENT ON FUNCTION @extschema@.webhook_error_class(text) IS
	'what kind of error a text is about, by its words: one of a list, and so nothing of the text itself but an HTTP status';

-- The times of the charts: 96 quarters of an hour up to now.
CREATE FUNCTION @extschema@.webhook_quarters() RETURNS timestamptz[]
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT array_agg(last - n * interval '15 minutes' ORDER BY n DESC)
	FROM (SELECT @extschema@.webhook_period(interval '15 minutes', now()) AS last) t, generate_series(0, 95) n
	$$;
COMMENT ON FUNCTION @extschema@.webhook_quarters() IS 'when each quarter of an hour of the last day began, oldest first';

CREATE FUNCTION @extschema@.webhook_series(p_name text, p_class text, p_values double precision[]) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	RETURN jsonb_build_object('name', p_name, 'class', p_class, 'values', to_jsonb(p_values));
COMMENT ON FUNCTION @extschema@.webhook_series(text, text, double precision[]) IS 'a series of a chart';

CREATE FUNCTION @extschema@.webhook_dashboard_traffic(p_times timestamptz[], OUT throughput jsonb, OUT outcomes jsonb)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_build_array(
			-- A quarter that is not over would look like a breakdown.
			@extschema@.webhook_series('processed', 'good', array_agg(CASE WHEN over THEN processed END ORDER BY t)),
			@extschema@.webhook_series('received', 'plain dashed', array_agg(CASE WHEN over THEN received END ORDER BY t))),
		jsonb_build_array(
			@extschema@.webhook_series('processed', 'good', array_agg(processed ORDER BY t)),
			@extschema@.webhook_series('attempt failed', 'bad', array_agg(failed ORDER BY t)),
			@extschema@.webhook_series('holder vanished', 'odd', array_agg(lost ORDER BY t)),
			@extschema@.webhook_series('dropped at intake', 'plain', array_agg(dropped ORDER BY t)))
	FROM (
		SELECT t, t + interval '15 minutes' <= (SELECT max(counted_until) FROM @extschema@.webhook_rollup_state) AS over,
			coalesce(sum(s.received), 0)::double precision AS received, coalesce(sum(s.processed), 0)::double precision AS processed,
			coalesce(sum(s.failed), 0)::double precision AS failed, coalesce(sum(s.lost), 0)::double precision AS lost,
			coalesce(sum(s.dropped), 0)::double precision AS dropped
		FROM unnest(p_times) AS t
			LEFT JOIN @extschema@.webhook_message_sums s ON s.width = interval '5 minutes'
				AND s.starts_at >= t AND s.starts_at < t + interval '15 minutes'
		GROUP BY t) q
	$$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard_traffic(timestamptz[]) IS
	'messages received and processed, and what became of attempts, as series';

CREATE FUNCTION @extschema@.webhook_dashboard_depth(p_times timestamptz[]) RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_build_array(
		@extschema@.webhook_series('waiting messages', 'good', array_agg(waiting ORDER BY t)),
		@extschema@.webhook_series('dead letters to retry', 'bad dashed', array_agg(dead_letters ORDER BY t)))
	FROM (
		SELECT t, max(s.waiting)::double precision AS waiting, max(s.dead_letters)::double precision AS dead_letters
		FROM unnest(p_times) AS t
			LEFT JOIN @extschema@.webhook_depth_samples s ON s.sampled_at >= t AND s.sampled_at < t + interval '15 minutes'
		GROUP BY t) q
	$$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard_depth(timestamptz[]) IS 'how much waited, as series';

CREATE FUNCTION @extschema@.webhook_dashboard_latency(OUT times timestamptz[], OUT series jsonb, OUT messages bigint, OUT p95 double precision)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	v_hour record;
	v_all integer[] := '{}';
	v_counts bigint[] := '{}';
	v_p50 double precision[];
	v_p95 double precision[];
	v_p99 double precision[];
BEGIN
	messages := 0;
	times := '{}';
	FOR v_hour IN
		SELECT h.at, d.* FROM generate_series(@extschema@.webhook_period(interval '1 hour', now()) - interval '24 hours', now(), '1 hour') AS h (at)
			LEFT JOIN @extschema@.webhook_processed_by_hour((now() - interval '24 hours')::timestamptz) d ON d.hour = h.at
			ORDER BY h.at
	LOOP
		times := times || v_hour.at;
		messages := messages + coalesce(v_hour.messages, 0);
		v_p50 := v_p50 || @extschema@.webhook_percentile(v_hour.times, v_hour.counts, 0.5::double precision);
		v_p95 := v_p95 || @extschema@.webhook_percentile(v_hour.times, v_hour.counts, 0.95::double precision);
		v_p99 := v_p99 || @extschema@.webhook_percentile(v_hour.times, v_hour.counts, 0.99::double precision);
		v_all := v_all || coalesce(v_hour.times, '{}');
		v_counts := v_counts || coalesce(v_hour.counts, '{}');
	END LOOP;
	series := jsonb_build_array(@extschema@.webhook_series('p50', 'good', v_p50),
		@extschema@.webhook_series('p95', 'odd dashed', v_p95), @extschema@.webhook_series('p99', 'bad dotted', v_p99));
	p95 := @extschema@.webhook_percentile(v_all, v_counts, 0.95::double precision);
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard_latency() IS
	'percentiles of the processing time by hour, as series; how many messages there were, and their p95';

-- The newest five thousand: of more, the classes are the same.
CREATE FUNCTION @extschema@.webhook_dashboard_errors() RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
	AS $$
	SELECT jsonb_agg(jsonb_build_array(class, n::text, unresolved::text, services) ORDER BY n DESC, class)
	FROM (
		SELECT class, sum(n) AS n, sum(unresolved) AS unresolved, string_agg(DISTINCT service, ', ' ORDER BY service) AS services
		FROM (
			SELECT @extschema@.webhook_error_class(error) AS class, service, sum(n) AS n, sum(unresolved) AS unresolved
			FROM (
				SELECT error, service, count(*) AS n, count(*) FILTER (WHERE resolution_status <> 'resolved') AS unresolved
				FROM (SELECT error, service, resolution_status FROM @extschema@.webhook_dlq
					WHERE created_at > now() - interval '24 hours' ORDER BY created_at DESC LIMIT 5000) d
				GROUP BY error, service) texts
			GROUP BY 1, 2) classes
		GROUP BY class) t
	$$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard_errors() IS
	'the dead letters of the last 24 hours by class of error: class, how many, those not resolved, services';

CREATE FUNCTION @extschema@.webhook_dashboard_agents() RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
	AS $$
	SELECT jsonb_agg(jsonb_build_array(agent_type, sessions::text, active::text, completed::text, failed::text,
		errors::text, round(messages, 1)::text, round(tokens)::text, round(seconds)::text) ORDER BY sessions DESC, agent_type)
	FROM (
		SELECT agent_type, count(*) AS sessions, sum(error_count) AS errors,
			count(*) FILTER (WHERE session_state = 'active') AS active,
			count(*) FILTER (WHERE session_state = 'completed') AS completed,
			count(*) FILTER (WHERE session_state = 'failed') AS failed,
			avg(total_messages) AS messages, avg(total_tokens_used) AS tokens,
			avg(date_part('epoch', coalesce(ended_at, now()) - started_at)) AS seconds
		FROM @extschema@.agent_sessions
		WHERE started_at > now() - interval '24 hours'
		GROUP BY agent_type) s
	$$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard_agents() IS
	'the agent sessions that began in the last 24 hours, by agent, as rows of a table';
