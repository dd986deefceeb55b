-- Sums of what happened, so that no view has to read the history: how many messages were received and
-- processed and how long that took, by hour and by five minutes, and how many conversations there are,
-- by status and last activity. The job `rollup` keeps them.
--
-- Messages. A message is counted once, by the run that first may know of it: at the later of received_at
-- and processed_at. Up to webhook_rollup_state.counted_until all is in the sums, what came after is read
-- from the tables each time, so the views are exact whenever the job ran last. The processing times are
-- kept as a distribution (each time once, and how often it occurred): that gives exact percentiles, and
-- two of them put together are the distribution of both.
--
-- Conversations. Their last activity has no index, since each claim changes it. A small table is counted
-- when somebody asks. A large one is counted by the job, and the views lag behind by up to a run of it.

CREATE TABLE @extschema@.webhook_message_sums (
	width interval NOT NULL CHECK (width IN ('5 minutes', '1 hour')),
	starts_at timestamptz NOT NULL,
	received bigint NOT NULL DEFAULT 0,
	processed bigint NOT NULL DEFAULT 0,
	failed bigint NOT NULL DEFAULT 0,
	lost bigint NOT NULL DEFAULT 0,
	dropped bigint NOT NULL DEFAULT 0,
	timed bigint NOT NULL DEFAULT 0,
	total_ms bigint NOT NULL DEFAULT 0,
	times integer[] NOT NULL DEFAULT '{}',
	counts bigint[] NOT NULL DEFAULT '{}',
	PRIMARY KEY (width, starts_at)
);
COMMENT ON TABLE @extschema@.webhook_message_sums IS
	'what happened to messages in each hour, and in each five minutes of the last day, up to webhook_rollup_state.counted_until';
COMMENT ON COLUMN @extschema@.webhook_message_sums.failed IS 'attempts that were reported as failed';
COMMENT ON COLUMN @extschema@.webhook_message_sums.lost IS 'attempts whose holder vanished';
COMMENT ON COLUMN @extschema@.webhook_message_sums.timed IS 'those of the processed whose processing time is known';
COMMENT ON COLUMN @extschema@.webhook_message_sums.times IS
	'the processing times that occurred, in milliseconds, ascending, each once';
COMMENT ON COLUMN @extschema@.webhook_message_sums.counts IS 'how often each of them occurred';

CREATE TABLE @extschema@.webhook_conversation_sums (
	status text PRIMARY KEY,
	counted_at timestamptz NOT NULL,
	since timestamptz[] NOT NULL,
	conversations bigint[] NOT NULL,
	seconds double precision[] NOT NULL,
	max_retries integer[] NOT NULL,
	errors bigint[] NOT NULL,
	locked bigint[] NOT NULL
);
COMMENT ON TABLE @extschema@.webhook_conversation_sums IS
	'the conversations by status and by the time of their last activity, where there are too many to count at each look';
COMMENT ON COLUMN @extschema@.webhook_conversation_sums.since IS
	'where each period of last activities begins: quarters of an hour of the last day, hours of the last week, days before';
COMMENT ON COLUMN @extschema@.webhook_conversation_sums.seconds IS
	'the sum of the seconds from the beginning of the period to the last activity';

CREATE TABLE @extschema@.webhook_rollup_state (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	counted_until timestamptz,
	next_until timestamptz,
	next_xid text,
	history_until timestamptz,
	history_next uuid,
	messages_summarized bigint NOT NULL DEFAULT 0,
	attempts_summarized bigint NOT NULL DEFAULT 0,
	conversations_written bigint,
	conversations_next_at timestamptz
);
COMMENT ON TABLE @extschema@.webhook_rollup_state IS 'how far the job rollup has come';
COMMENT ON COLUMN @extschema@.webhook_rollup_state.counted_until IS
	'what was known before this is in webhook_message_sums; null: the job has not counted yet';
COMMENT ON COLUMN @extschema@.webhook_rollup_state.next_until IS
	'how far to count next, once the transactions before next_xid have ended';
COMMENT ON COLUMN @extschema@.webhook_rollup_state.history_until IS
	'messages from before the job''s first run, up to here, are still being counted; null: all are';
COMMENT ON COLUMN @extschema@.webhook_rollup_state.history_next IS
	'processed_webhook_messages.id that counting them has come to';
COMMENT ON COLUMN @extschema@.webhook_rollup_state.messages_summarized IS
	'pages of processed_webhook_messages that its BRIN index has summaries of';
COMMENT ON COLUMN @extschema@.webhook_rollup_state.conversations_written IS
	'row versions of webhook_conversations ever written, at their last count';

CREATE FUNCTION @extschema@.webhook_percentile(p_values integer[], p_counts bigint[], p_fraction double precision)
	RETURNS double precision
	AS 'MODULE_PATHNAME', 'wahook_percentile' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_percentile(integer[], bigint[], double precision) IS
	'percentile_cont() of a distribution: values, and how often each occurs; null where there are none';

-- Messages that were processed, known at a time from p_from on and before p_until. Most were received in
-- that time, which has a BRIN index, or soon before it. Those received earlier have an attempt that ended in
-- that time, or a dead letter that was resolved; the seconds around are for statements that take the time more
-- than once. Soon (c_soon) is SOON_US in conversation/record.c: what was completed within that time of its
-- arrival may have no row in webhook_attempts. By as much may the clock of a caller be ahead of the server's that
-- records messages itself.
CREATE FUNCTION @extschema@.webhook_messages_known(p_from timestamptz, p_until timestamptz)
	RETURNS TABLE (processed_at timestamptz, processing_time_ms integer)
	LANGUAGE plpgsql STABLE ROWS 10000
	SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off
	SET enable_hashjoin = off
	SET enable_mergejoin = off
	SET jit = off
	AS $$
#variable_conflict use_column
DECLARE
	v_slack constant interval := '10 seconds';
	c_soon constant interval := '1 minute';
	v_id_before uuid := @extschema@.webhook_uuid_floor(p_from + v_slack);
	v_id_foreign uuid := @extschema@.webhook_uuid_floor(now() + interval '1 day');
BEGIN
	RETURN QUERY
	SELECT m.processed_at, m.processing_time_ms
		FROM @extschema@.processed_webhook_messages m
		WHERE m.received_at >= p_from AND m.received_at < p_until AND m.processed_at < p_until
	UNION ALL
	SELECT m.processed_at, m.processing_time_ms
		FROM (
			SELECT a.message_id AS id FROM @extschema@.webhook_attempts a
				WHERE a.finished_at >= p_from - v_slack AND a.outcome = 'succeeded'
					AND (a.message_id < v_id_before OR a.message_id > v_id_foreign)
			UNION
			SELECT d_m.id FROM @extschema@.webhook_dlq d
				JOIN @extschema@.processed_webhook_messages d_m USING (whatsapp_message_id)
				WHERE d.resolution_status = 'resolved' AND d.processed_at >= p_from - v_slack
			UNION
			SELECT a_m.id FROM @extschema@.processed_webhook_messages a_m
				WHERE a_m.received_at >= p_from - c_soon AND a_m.received_at < p_from AND a_m.processed_at >= p_from) c
			JOIN @extschema@.processed_webhook_messages m ON m.id = c.id
		WHERE m.received_at < p_from AND m.processed_at >= p_from AND m.processed_at < p_until;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_messages_known(timestamptz, timestamptz) IS
	'the messages that were processed, received and processed before the second time, and not both before the first';

-- Times are cut in UTC, whatever the session's time zone, for the sums are everybody's.
CREATE FUNCTION @extschema@.webhook_period(p_width interval, p_at timestamptz) RETURNS timestamptz
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN date_bin(p_width, p_at, timestamptz '2000-01-01 00:00:00+00');
COMMENT ON FUNCTION @extschema@.webhook_period(interval, timestamptz) IS
	'when the period of this width that a time is in began';

-- In parallel arrays: so many (n) of a kind (what: a column of webhook_message_sums) at a time.
CREATE FUNCTION @extschema@.webhook_add_message_sums(
	p_at timestamptz[], p_what text[], p_ms integer[], p_n bigint[]) RETURNS void
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off
	AS $$
	WITH frequency AS (
		SELECT w.width, @extschema@.webhook_period(w.width, e.at) AS starts_at, e.what COLLATE "C" AS what, e.ms,
			sum(e.n)::bigint AS n
		FROM unnest(p_at, p_what, p_ms, p_n) AS e (at, what, ms, n),
			(VALUES (interval '5 minutes'), (interval '1 hour')) AS w (width)
		GROUP BY 1, 2, 3, 4)
	INSERT INTO @extschema@.webhook_message_sums AS s
			(width, starts_at, received, processed, failed, lost, dropped, timed, total_ms, times, counts)
		SELECT width, starts_at,
			coalesce(sum(n) FILTER (WHERE what = 'received'), 0),
			coalesce(sum(n) FILTER (WHERE what = 'processed'), 0),
			coalesce(sum(n) FILTER (WHERE what = 'failed'), 0),
			coalesce(sum(n) FILTER (WHERE what = 'lost'), 0),
			coalesce(sum(n) FILTER (WHERE what = 'dropped'), 0),
			coalesce(sum(n) FILTER (WHERE ms IS NOT NULL), 0), coalesce(sum(ms * n), 0),
			coalesce(array_agg(ms ORDER BY ms) FILTER (WHERE ms IS NOT NULL), '{}'),
			coalesce(array_agg(n ORDER BY ms) FILTER (WHERE ms IS NOT NULL), '{}')
		FROM frequency
		GROUP BY width, starts_at
		ON CONFLICT (width, starts_at) DO UPDATE SET
			received = s.received + excluded.received,
			processed = s.processed + excluded.processed,
			failed = s.failed + excluded.failed,
			lost = s.lost + excluded.lost,
			dropped = s.dropped + excluded.dropped,
			timed = s.timed + excluded.timed,
			total_ms = s.total_ms + excluded.total_ms,
			(times, counts) = (
				SELECT coalesce(array_agg(ms ORDER BY ms), '{}'), coalesce(array_agg(n ORDER BY ms), '{}')
				FROM (SELECT ms, sum(n)::bigint AS n
					FROM (SELECT * FROM unnest(s.times, s.counts) AS t (ms, n)
						UNION ALL SELECT * FROM unnest(excluded.times, excluded.counts)) entries
					GROUP BY ms) merged)
	$$;
COMMENT ON FUNCTION @extschema@.webhook_add_message_sums(timestamptz[], text[], integer[], bigint[]) IS
	'adds to the sums of each period how many messages were received, processed in how many ms, failed...';

CREATE FUNCTION @extschema@.webhook_count_messages(p_from timestamptz, p_until timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
	AS $$
DECLARE
	c_width constant interval := '5 minutes';
	v_sums record;
BEGIN
	SELECT array_agg(at) AS at, array_agg(what) AS what, array_agg(ms) AS ms, array_agg(n) AS n, coalesce(sum(n), 0) AS total
		INTO v_sums
		FROM (
			SELECT @extschema@.webhook_period(c_width, processed_at) AS at, 'processed' AS what,
					processing_time_ms AS ms, count(*) AS n
				FROM @extschema@.webhook_messages_known(p_from, p_until)
				GROUP BY 1, 3
			UNION ALL
			SELECT @extschema@.webhook_period(c_width, received_at), 'received', NULL, count(*)
				FROM @extschema@.processed_webhook_messages
				WHERE received_at >= p_from AND received_at < p_until
				GROUP BY 1
			UNION ALL
			SELECT @extschema@.webhook_period(c_width, finished_at), outcome, NULL, count(*)
				FROM @extschema@.webhook_attempts
				WHERE finished_at >= p_from AND finished_at < p_until AND outcome <> 'succeeded'
				GROUP BY 1, 2) e;
	PERFORM @extschema@.webhook_add_message_sums(v_sums.at, v_sums.what, v_sums.ms, v_sums.n);
	RETURN v_sums.total;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_count_messages(timestamptz, timestamptz) IS
	'adds to the sums what happened to messages between two times; how much it was';

-- What there was before the first run, in the order of ids: a message that was known before
-- history_until was not counted by any run, and none after it will be by this.
CREATE FUNCTION @extschema@.webhook_count_history(p_limit integer) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
	AS $$
DECLARE
	c_width constant interval := '5 minutes';
	c_first constant uuid := '00000000-0000-0000-0000-000000000000';
	c_last constant uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
	v_until timestamptz;
	v_after uuid;
	v_last uuid;
	v_ends boolean;
	v_sums record;
BEGIN
	SELECT history_until, coalesce(history_next, c_first) INTO v_until, v_after
		FROM @extschema@.webhook_rollup_state WHERE history_until IS NOT NULL;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	v_last := (SELECT id FROM @extschema@.processed_webhook_messages
		WHERE id > v_after ORDER BY id OFFSET p_limit - 1 LIMIT 1);
	v_ends := v_last IS NULL;
	v_last := coalesce(v_last, c_last);

	SELECT array_agg(at) AS at, array_agg(what) AS what, array_agg(ms) AS ms, array_agg(n) AS n INTO v_sums
		FROM (
			SELECT @extschema@.webhook_period(c_width, processed_at) AS at, 'processed' AS what,
					processing_time_ms AS ms, count(*) AS n
				FROM @extschema@.processed_webhook_messages
				WHERE id > v_after AND id <= v_last AND received_at < v_until AND processed_at < v_until
				GROUP BY 1, 3
			UNION ALL
			SELECT @extschema@.webhook_period(c_width, received_at), 'received', NULL, count(*)
				FROM @extschema@.processed_webhook_messages
				WHERE id > v_after AND id <= v_last AND received_at < v_until
				GROUP BY 1
			UNION ALL
			SELECT @extschema@.webhook_period(c_width, finished_at), outcome, NULL, count(*)
				FROM @extschema@.webhook_attempts
				WHERE message_id > v_after AND message_id <= v_last AND finished_at < v_until AND outcome <> 'succeeded'
				GROUP BY 1, 2) e;
	PERFORM @extschema@.webhook_add_message_sums(v_sums.at, v_sums.what, v_sums.ms, v_sums.n);
	UPDATE @extschema@.webhook_rollup_state
		SET history_next = CASE WHEN NOT v_ends THEN v_last END,
			history_until = CASE WHEN NOT v_ends THEN history_until END;
	RETURN NOT v_ends;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_count_history(integer) IS
	'adds the next messages from before the job''s first run to the sums; whether there are more';

-- Vacuum adds these summaries too, but of a large table it comes by once in days, and until then a look at
-- the last minutes would read all that came since. Only full ranges: the last one still grows, and a
-- summary would have to be changed with each row.
CREATE FUNCTION @extschema@.webhook_summarize(p_table text, p_index text, p_pages bigint) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	c_range constant bigint := 32;
	c_most constant bigint := 5000;
	v_table regclass := '@extschema@.' || quote_ident(p_table);
	v_index regclass := '@extschema@.' || quote_ident(p_index);
	v_full bigint := pg_relation_size(v_table) / current_setting('block_size')::bigint / c_range * c_range;
	v_from bigint := least(p_pages, v_full);
	v_until bigint := least(v_full, v_from + c_most * c_range);
BEGIN
	IF v_from = v_until THEN
		RETURN v_from;
	END IF;
	BEGIN
		EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE NOWAIT', v_table);
	EXCEPTION WHEN lock_not_available THEN
		RETURN v_from; -- a vacuum, which does it as well
	END;
	PERFORM brin_summarize_range(v_index, page) FROM generate_series(v_from, v_until - 1, c_range) page;
	RETURN v_until;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_summarize(text, text, bigint) IS
	'brings a BRIN index up to date from a page on; up to which page it is';

-- Not in the sum of the hours: the distribution of conversations over their last activities.
CREATE FUNCTION @extschema@.webhook_count_conversations(p_written bigint, p_next_at timestamptz, p_small bigint)
	RETURNS TABLE (written bigint, next_at timestamptz)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off
	AS $$
DECLARE
	c_share constant double precision := 0.01;
	c_table constant regclass := '@extschema@.webhook_conversations';
	v_began timestamptz := clock_timestamp();
BEGIN
	written := pg_stat_get_tuples_inserted(c_table) + pg_stat_get_tuples_updated(c_table) + pg_stat_get_tuples_deleted(c_table);
	next_at := p_next_at;
	IF pg_relation_size(c_table) <= p_small THEN
		DELETE FROM @extschema@.webhook_conversation_sums;
		RETURN NEXT;
		RETURN;
	END IF;
	IF EXISTS (SELECT FROM @extschema@.webhook_conversation_sums) AND (written = p_written OR v_began < p_next_at) THEN
		written := p_written;
		RETURN NEXT;
		RETURN;
	END IF;

	DELETE FROM @extschema@.webhook_conversation_sums;
	INSERT INTO @extschema@.webhook_conversation_sums
		SELECT status, v_began, array_agg(since ORDER BY since), array_agg(conversations ORDER BY since),
			array_agg(seconds ORDER BY since), array_agg(max_retries ORDER BY since),
			array_agg(errors ORDER BY since), array_agg(locked ORDER BY since)
		FROM (
			SELECT status, since, count(*) AS conversations,
				sum(date_part('epoch', last_activity_at - since)) AS seconds,
				max(retry_count) AS max_retries, sum(error_count) AS errors, count(locked_by) AS locked
			FROM (SELECT *, date_bin(
					CASE WHEN last_activity_at > v_began - interval '26 hours' THEN interval '15 minutes'
						WHEN last_activity_at > v_began - interval '8 days' THEN interval '1 hour'
						ELSE interval '1 day' END,
					last_activity_at, timestamptz '2000-01-01 00:00:00+00') AS since
				FROM @extschema@.webhook_conversations) c
			GROUP BY status, since) s
		GROUP BY status;
	-- Never more than this share of the time.
	next_at := clock_timestamp() + (clock_timestamp() - v_began) / c_share;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_count_conversations(bigint, timestamptz, bigint) IS
	'counts the conversations anew where their table is not small, something was written, and the time has come';

-- A transaction that began before the job, and commits after it, may bring messages of times that the job
-- has counted. So a run only notes how far it could count, and counts when a later one sees that all
-- transactions from before have ended. It does not wait for ever for one that has forgotten to.
CREATE FUNCTION @extschema@.webhook_roll_up() RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	c_slack constant interval := '10 seconds';
	c_patience constant interval := '15 minutes';
	c_history_batch constant integer := 100000;
	c_small constant bigint := 32 * 1024 * 1024;
	v_state @extschema@.webhook_rollup_state;
	v_counted bigint := 0;
	v_more boolean;
	v_conversations record;
BEGIN
	INSERT INTO @extschema@.webhook_rollup_state DEFAULT VALUES ON CONFLICT (one) DO NOTHING;
	SELECT * INTO v_state FROM @extschema@.webhook_rollup_state FOR UPDATE;

	-- The clock was set back: what comes now comes before what was counted, so the hour begins anew.
	IF v_state.counted_until > now() THEN
		v_state.counted_until := @extschema@.webhook_period(interval '1 hour', now());
		v_state.history_until := CASE WHEN v_state.history_until IS NOT NULL THEN least(v_state.history_until, v_state.counted_until) END;
		v_state.next_until := NULL;
		DELETE FROM @extschema@.webhook_message_sums WHERE starts_at >= v_state.counted_until;
	END IF;
	IF v_state.next_until > v_state.counted_until OR v_state.counted_until IS NULL THEN
		IF pg_snapshot_xmin(pg_current_snapshot()) >= v_state.next_xid::xid8
			OR v_state.next_until < now() - c_patience
		THEN
			IF v_state.counted_until IS NULL THEN
				v_state.history_until := v_state.next_until;
			ELSE
				v_counted := @extschema@.webhook_count_messages(v_state.counted_until, v_state.next_until);
			END IF;
			v_state.counted_until := v_state.next_until;
			v_state.next_until := NULL;
		END IF;
	END IF;
	IF v_state.next_until IS NULL OR v_state.next_until <= v_state.counted_until THEN
		v_state.next_until := now() - c_slack;
		v_state.next_xid := pg_current_xact_id()::text;
	END IF;

	SELECT * INTO v_conversations FROM @extschema@.webhook_count_conversations(
		v_state.conversations_written, v_state.conversations_next_at, c_small);
	UPDATE @extschema@.webhook_rollup_state SET counted_until = v_state.counted_until,
		next_until = v_state.next_until, next_xid = v_state.next_xid, history_until = v_state.history_until,
		conversations_written = v_conversations.written, conversations_next_at = v_conversations.next_at;
	v_more := @extschema@.webhook_count_history(c_history_batch);
	DELETE FROM @extschema@.webhook_message_sums
		WHERE width = interval '5 minutes' AND starts_at < now() - interval '26 hours';
	PERFORM @extschema@.webhook_sample_depth();
	-- Last, for it locks out vacuum until the transaction ends.
	UPDATE @extschema@.webhook_rollup_state SET
		messages_summarized = @extschema@.webhook_summarize('processed_webhook_messages'::text,
			'processed_webhook_messages_received_idx'::text, messages_summarized),
		attempts_summarized = @extschema@.webhook_summarize('webhook_attempts'::text,
			'webhook_attempts_finished_idx'::text, attempts_summarized);
	-- more: the worker runs the job again at once.
	RETURN jsonb_build_object('success', true, 'counted', v_counted, 'more', v_more);
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_roll_up() IS
	'the job rollup: brings the sums up to date';

-- What the views read.

CREATE FUNCTION @extschema@.webhook_processed_by_hour(p_since timestamptz)
	RETURNS TABLE (hour timestamptz, messages bigint, timed bigint, total_ms bigint, times integer[], counts bigint[])
	LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 25 SET search_path = pg_catalog, pg_temp SET jit = off
	AS $$
#variable_conflict use_column
DECLARE
	c_hour constant interval := '1 hour';
	v_counted timestamptz := (SELECT counted_until FROM @extschema@.webhook_rollup_state WHERE history_until IS NULL);
	v_whole timestamptz := @extschema@.webhook_period(c_hour, p_since);
	v_part record;
BEGIN
	IF v_counted IS NULL THEN
		-- processed_at has no index. A message is processed within days of its arrival or not at all, and
		-- received_at has one, so bounding both keeps the rest of the history unread.
		RETURN QUERY
		SELECT h, sum(n)::bigint, coalesce(sum(n) FILTER (WHERE ms IS NOT NULL), 0)::bigint, coalesce(sum(ms * n), 0)::bigint,
				array_agg(ms) FILTER (WHERE ms IS NOT NULL), array_agg(n) FILTER (WHERE ms IS NOT NULL)
			FROM (SELECT @extschema@.webhook_period(c_hour, processed_at) AS h, processing_time_ms AS ms, count(*) AS n
				FROM @extschema@.processed_webhook_messages
				WHERE processed_at > p_since AND received_at > p_since - interval '8 days'
				GROUP BY 1, 2) f
			GROUP BY h;
		RETURN;
	END IF;
	-- The hour that the time is in counts from that time on, in steps of five minutes while there are any.
	IF v_whole < p_since AND p_since > now() - interval '25 hours' THEN
		v_whole := v_whole + c_hour;
	END IF;

	-- An hour may be in parts, of which at most one is long: they are strung together.
	FOR v_part IN
		SELECT @extschema@.webhook_period(c_hour, s.starts_at) AS h, s.processed, s.timed, s.total_ms, s.times, s.counts
			FROM @extschema@.webhook_message_sums s
			WHERE s.processed > 0 AND (s.width = c_hour AND s.starts_at >= v_whole
				OR s.width = interval '5 minutes' AND s.starts_at >= p_since AND s.starts_at < v_whole)
		UNION ALL
		SELECT h, sum(n)::bigint, coalesce(sum(n) FILTER (WHERE ms IS NOT NULL), 0)::bigint, coalesce(sum(ms * n), 0)::bigint,
				coalesce(array_agg(ms) FILTER (WHERE ms IS NOT NULL), '{}'), coalesce(array_agg(n) FILTER (WHERE ms IS NOT NULL), '{}')
			FROM (SELECT @extschema@.webhook_period(c_hour, k.processed_at) AS h, k.processing_time_ms AS ms, count(*) AS n
				FROM @extschema@.webhook_messages_known(v_counted, 'infinity'::timestamptz) k
				WHERE k.processed_at > p_since
				GROUP BY 1, 2) live
			GROUP BY h
		ORDER BY h DESC
	LOOP
		IF v_part.h = hour THEN
			messages := messages + v_part.processed;
			timed := timed + v_part.timed;
			total_ms := total_ms + v_part.total_ms;
			times := times || v_part.times;
			counts := counts || v_part.counts;
		ELSE
			IF hour IS NOT NULL THEN
				RETURN NEXT;
			END IF;
			hour := v_part.h;
			messages := v_part.processed;
			timed := v_part.timed;
			total_ms := v_part.total_ms;
			times := v_part.times;
			counts := v_part.counts;
		END IF;
	END LOOP;
	IF hour IS NOT NULL THEN
		RETURN NEXT;
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_processed_by_hour(timestamptz) IS
	'the messages processed since then, by hour, with the distribution of their processing times';

CREATE FUNCTION @extschema@.webhook_conversations_by_status(p_since timestamptz)
	RETURNS TABLE (status text, count bigint, avg_idle_seconds numeric, max_retries integer, total_errors bigint, locked_count bigint)
	LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 6 SET search_path = pg_catalog, pg_temp SET jit = off
	AS $$
#variable_conflict use_column
DECLARE
	c_table constant regclass := '@extschema@.webhook_conversations';
	c_alive constant interval := '15 minutes';
BEGIN
	-- Sums that the job has stopped to keep up are worth nothing.
	IF EXISTS (SELECT FROM @extschema@.webhook_conversation_sums) AND EXISTS (
		SELECT FROM @extschema@.webhook_job_runs
		WHERE job = 'rollup' AND succeeded AND last_started_at > now() - greatest(c_alive,
			3 * @extschema@.webhook_setting('rollup_interval')::interval))
	THEN
		RETURN QUERY
		SELECT s.status, sum(u.n)::bigint,
				round((date_part('epoch', now()) - sum(date_part('epoch', u.since) * u.n + u.seconds) / sum(u.n))::numeric, 6),
				max(u.max_retries), sum(u.errors)::bigint, sum(u.locked)::bigint
			FROM @extschema@.webhook_conversation_sums s,
				unnest(s.since, s.conversations, s.seconds, s.max_retries, s.errors, s.locked) AS u (since, n, seconds, max_retries, errors, locked)
			WHERE u.since >= p_since
			GROUP BY s.status;
		RETURN;
	END IF;
	RETURN QUERY
	-- Not avg() of numeric, which alone takes as long as all the rest.
	SELECT c.status, count(*), round(avg(date_part('epoch', now() - c.last_activity_at))::numeric, 6), max(c.retry_count),
			sum(c.error_count), count(c.locked_by)
		FROM @extschema@.webhook_conversations c
		WHERE c.last_activity_at > p_since
		GROUP BY c.status;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_conversations_by_status(timestamptz) IS
	'the conversations that were active since then, by status';
