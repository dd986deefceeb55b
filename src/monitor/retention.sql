-- Retention: every table has a time after which its rows go, in batches, oldest first.
--
-- Looking must not cost more as history grows. Where a table has an index on its time, or an id that
-- is made of it (UUIDv7), a run reads what it deletes and stops there. Where it has neither, a run
-- sweeps: it looks at one batch of rows, from a page drawn at random on, round the end of the table.

CREATE INDEX webhook_dlq_resolved_idx
	ON @extschema@.webhook_dlq (processed_at) WHERE resolution_status = 'resolved';

CREATE FUNCTION @extschema@.webhook_uuid_floor(p_at timestamptz) RETURNS uuid
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT (lpad(to_hex(greatest(0, floor(extract(epoch FROM p_at) * 1000))::bigint), 12, '0')
		|| repeat('0', 20))::uuid
	$$;
COMMENT ON FUNCTION @extschema@.webhook_uuid_floor(timestamptz) IS
	'above all ids that webhook_uuid() made before this millisecond, below those it makes from then on';

-- In a condition $1 is the time before which rows are old, $2 an id just above those of that time,
-- $3 an id above those of now. Ids that callers made up themselves may be anywhere: the second rule
-- of a table that is read by id finds what is above $3, and has nothing to read where nobody did so.
-- The daily rules are cleanup_stale_sessions()'s, the others apply_webhook_retention()'s.
CREATE FUNCTION @extschema@.webhook_retention_rules()
	RETURNS TABLE (table_name text, setting text, old_rows text, order_by text, daily boolean)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	VALUES
		('processed_webhook_messages', 'message_retention',
			'id < $2 AND received_at < $1 AND NOT @extschema@.webhook_message_is_needed(id, conversation_id, whatsapp_message_id)', 'id', false),
		('processed_webhook_messages', 'message_retention',
			'id > $3 AND received_at < $1 AND NOT @extschema@.webhook_message_is_needed(id, conversation_id, whatsapp_message_id)', 'id', false),
		('webhook_attempts', 'attempt_retention',
			'message_id < $2 AND finished_at < $1', 'message_id, seq', false),
		('webhook_attempts', 'attempt_retention',
			'message_id > $3 AND finished_at < $1', 'message_id, seq', false),
		('webhook_erased_messages', 'message_retention', 'erased_at < $1', 'erased_at', false),
		('webhook_message_changes', 'message_retention', 'received_at < $1', 'received_at', false),
		('webhook_message_statuses', 'status_retention', 'created_at < $1', 'created_at', false),
		('webhook_notices', 'notice_retention', 'received_at < $1', 'received_at', false),
		('webhook_quarantine', 'quarantine_retention',
			'received_at < $1 AND last_seen_at < $1', 'received_at', false),
		('conversation_state_transitions', 'transition_retention', 'created_at < $1', 'created_at', false),
		('webhook_dlq', 'dlq_resolved_retention',
			'resolution_status = ''resolved'' AND processed_at < $1', 'processed_at', true),
		('webhook_dlq', 'dlq_failed_retention',
			'resolution_status = ''failed'' AND created_at < $1 AND updated_at < $1', 'created_at', false),
		('agent_sessions', 'agent_session_retention',
			'session_state <> ''active'' AND started_at < $1 AND ended_at < $1', 'started_at', false),
		('agent_turns', 'agent_session_retention', 'id < $2 AND created_at < $1', 'id', false),
		('agent_turns', 'agent_session_retention', 'id > $3 AND created_at < $1', 'id', false),
		('webhook_agent_replies', 'session_ttl', 'answered_at < $1', 'answered_at', false),
		('webhook_agent_versions', 'agent_version_retention', 'replaced_at < $1', 'replaced_at', false),
		('webhook_alerts', 'alert_retention',
			'state = ''resolved'' AND started_at < $1 AND resolved_at < $1', 'started_at', false),
		('webhook_depth_samples', 'rollup_retention', 'sampled_at < $1', 'sampled_at', false),
		('webhook_message_sums', 'rollup_retention', 'width = interval ''1 hour'' AND starts_at < $1', 'starts_at', false),
		('wa_workflow_recovery', 'workflow_retention',
			'status IN (''completed'', ''failed'') AND created_at < $1 AND coalesce(completed_at, created_at) < $1',
			'created_at', false),
		('user_sessions', 'session_ttl', 'last_interaction < $1', 'last_interaction', true)
	$$;
COMMENT ON FUNCTION @extschema@.webhook_retention_rules() IS
	'the tables that are cleared of old rows by an index: by which setting, of which rows, in which order, and by which job';

-- A dead letter that was given up may be revived, and then needs its message.
CREATE FUNCTION @extschema@.webhook_message_is_needed(
	p_id uuid, p_conversation_id uuid, p_whatsapp_message_id text)
	RETURNS boolean LANGUAGE sql STABLE
	RETURN EXISTS (SELECT FROM @extschema@.webhook_inbox
			WHERE conversation_id = p_conversation_id AND message_id = p_id)
		OR EXISTS (SELECT FROM @extschema@.webhook_dlq
			WHERE whatsapp_message_id = p_whatsapp_message_id AND resolution_status <> 'resolved');
COMMENT ON FUNCTION @extschema@.webhook_message_is_needed(uuid, uuid, text) IS
	'whether a message still waits, or is in the dead letter queue unresolved';

-- By ctid: a row that another transaction moves meanwhile is left alone, and the plan is the same
-- for every table. With stale statistics a sequential scan or a hash join would look cheap to the
-- planner and read the whole history.
CREATE FUNCTION @extschema@.webhook_delete_old(
	p_table text, p_old_rows text, p_order_by text, p_before timestamptz, p_limit bigint)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off
	SET enable_bitmapscan = off
	SET jit = off
	AS $$
DECLARE
	v_deleted bigint;
BEGIN
	EXECUTE format('DELETE FROM %1$s WHERE ctid = ANY (ARRAY('
			'SELECT ctid FROM %1$s WHERE %2$s ORDER BY %3$s LIMIT $4 FOR UPDATE SKIP LOCKED))',
			'@extschema@.' || quote_ident(p_table), p_old_rows, p_order_by)
		USING p_before, @extschema@.webhook_uuid_floor(p_before),
			@extschema@.webhook_uuid_floor(now() + interval '1 day'), p_limit;
	GET DIAGNOSTICS v_deleted = ROW_COUNT;
	RETURN v_deleted;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_delete_old(text, text, text, timestamptz, bigint) IS
	'deletes the oldest rows that a rule of webhook_retention_rules() finds, up to a limit, and skips locked ones';

CREATE FUNCTION @extschema@.webhook_sweep(p_table text, p_rows integer) RETURNS tid[]
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off
	SET jit = off
	AS $$
DECLARE
	v_table text := '@extschema@.' || quote_ident(p_table);
	v_pages bigint := pg_relation_size(v_table::regclass) / current_setting('block_size')::integer;
	v_start tid := format('(%s,0)', floor(random() * v_pages))::tid;
	v_rows tid[];
BEGIN
	EXECUTE format('SELECT ARRAY('
			'(SELECT ctid FROM %1$s WHERE ctid >= $1 LIMIT $2) UNION ALL '
			'(SELECT ctid FROM %1$s WHERE ctid < $1 LIMIT $2) LIMIT $2)', v_table)
		INTO v_rows USING v_start, p_rows;
	RETURN v_rows;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_sweep(text, integer) IS
	'some rows of a table, from a random page on and round its end; all of them when it has no more';

-- A bucket that is full again is as good as none; so is an arrear of a budget, see src/agent/budget.sql.
CREATE FUNCTION @extschema@.webhook_delete_full_buckets(p_batch_size integer) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
	AS $$
DECLARE
	v_swept tid[] := @extschema@.webhook_sweep('webhook_rate_limits', p_batch_size);
	v_deleted bigint;
BEGIN
	DELETE FROM @extschema@.webhook_rate_limits WHERE ctid = ANY (ARRAY(
		SELECT l.ctid
		FROM @extschema@.webhook_rate_limits l
			CROSS JOIN LATERAL (SELECT bucket = left(l.bucket, -37) AS is_arrear, max_tokens, refill_per_second
				FROM @extschema@.webhook_rate_limit_buckets
				WHERE bucket IN (l.bucket, left(l.bucket, -37), 'default')
				ORDER BY bucket <> l.bucket, bucket = 'default' LIMIT 1) b
		WHERE l.ctid = ANY (v_swept)
			AND l.tokens + b.refill_per_second
				* extract(epoch FROM now() - l.refilled_at)::double precision
				>= CASE WHEN b.is_arrear THEN 0 ELSE b.max_tokens END
		FOR UPDATE OF l SKIP LOCKED));
	GET DIAGNOSTICS v_deleted = ROW_COUNT;
	RETURN v_deleted;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_delete_full_buckets(integer) IS
	'deletes the rate limits of identifiers whose bucket is full again';

-- A closed circuit is as good as none; an open one that nobody has asked for in so long is one, too.
CREATE FUNCTION @extschema@.webhook_delete_idle_circuits(p_before timestamptz, p_batch_size integer)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
	AS $$
DECLARE
	v_swept tid[] := @extschema@.webhook_sweep('webhook_circuits', p_batch_size);
	v_deleted bigint;
BEGIN
	DELETE FROM @extschema@.webhook_circuits WHERE ctid = ANY (ARRAY(
		SELECT c.ctid FROM @extschema@.webhook_circuits c
		WHERE c.ctid = ANY (v_swept) AND c.updated_at < p_before
			AND (c.probe_at IS NULL OR c.probe_at < p_before)
		FOR UPDATE OF c SKIP LOCKED));
	GET DIAGNOSTICS v_deleted = ROW_COUNT;
	RETURN v_deleted;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_delete_idle_circuits(timestamptz, integer) IS
	'deletes circuits that have not been used since';

-- A delivery that found a conversation just before it goes may still leave a message in it: the
-- claim of that message makes the conversation anew, as it does when its creation was rolled back.
CREATE FUNCTION @extschema@.webhook_delete_idle_conversations(
	p_before timestamptz, p_batch_size integer)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
	AS $$
DECLARE
	v_swept tid[] := @extschema@.webhook_sweep('webhook_conversations', p_batch_size);
	v_idle uuid[];
	v_deleted bigint;
BEGIN
	v_idle := ARRAY(
		SELECT c.id FROM @extschema@.webhook_conversations c
		WHERE c.ctid = ANY (v_swept) AND c.last_activity_at < p_before AND c.locked_by IS NULL
			AND NOT EXISTS (SELECT FROM @extschema@.webhook_inbox i WHERE i.conversation_id = c.id)
		FOR UPDATE OF c SKIP LOCKED);
	DELETE FROM @extschema@.webhook_identities WHERE ctid = ANY (ARRAY(
		SELECT ctid FROM @extschema@.webhook_identities
		WHERE conversation_id = ANY (v_idle) FOR UPDATE SKIP LOCKED));
	-- An identity that somebody is changing keeps its conversation until the next run.
	DELETE FROM @extschema@.webhook_conversations c WHERE c.id = ANY (v_idle)
		AND NOT EXISTS (SELECT FROM @extschema@.webhook_identities i WHERE i.conversation_id = c.id);
	GET DIAGNOSTICS v_deleted = ROW_COUNT;
	RETURN v_deleted;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_delete_idle_conversations(timestamptz, integer) IS
	'deletes conversations with nothing waiting and no activity since, with their identities and what agents remember';

CREATE FUNCTION @extschema@.apply_webhook_retention(p_batch_size integer DEFAULT NULL) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_batch_size integer :=
		coalesce(p_batch_size, @extschema@.webhook_setting('retention_batch_size')::integer);
	v_rule record;
	v_done bigint;
	v_deleted jsonb := '{}';
BEGIN
	IF v_batch_size < 1 THEN
		RAISE EXCEPTION 'batch size must be positive, not %', v_batch_size
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Leave it out to take wahook.retention_batch_size.';
	END IF;

	FOR v_rule IN SELECT * FROM @extschema@.webhook_retention_rules() WHERE NOT daily LOOP
		v_done := coalesce((v_deleted ->> v_rule.table_name)::bigint, 0);
		v_done := v_done + @extschema@.webhook_delete_old(v_rule.table_name, v_rule.old_rows,
			v_rule.order_by, now() - @extschema@.webhook_setting(v_rule.setting)::interval,
			v_batch_size - v_done);
		PERFORM @extschema@.webhook_progress(v_rule.table_name, v_done);
		v_deleted := v_deleted || jsonb_build_object(v_rule.table_name, v_done);
	END LOOP;
	RETURN v_deleted || jsonb_build_object(
		'webhook_rate_limits', @extschema@.webhook_delete_full_buckets(v_batch_size),
		'webhook_circuits', @extschema@.webhook_delete_idle_circuits(
			now() - @extschema@.webhook_setting('circuit_retention')::interval, v_batch_size),
		'webhook_conversations', @extschema@.webhook_delete_idle_conversations(
			now() - @extschema@.webhook_setting('conversation_retention')::interval, v_batch_size));
END
$$;
COMMENT ON FUNCTION @extschema@.apply_webhook_retention(integer) IS
	'deletes what is older than its table''s retention, up to a batch a table; how many rows of each. Where it is the whole batch, there may be more';
