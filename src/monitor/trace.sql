-- Following one message: every step from its delivery to its outcome, each with its time.
--
-- step: something that happened to a message, or is so now (waiting, claimed, retry_due...). Nothing is written
-- for it: a step is read from the tables that hold it anyway, by their keys, so a look costs the same on ten
-- million messages as on ten. No payload is shown; errors and the message's own id, which holds the phone
-- number of its sender, to those who see personal data.

-- Statistics that are out of date must not make a look at one message a scan of all: hence the settings of the
-- functions. The steps of a message are looked up in a lateral, so that asking for one message asks each table once.
CREATE VIEW @extschema@.webhook_message_trace AS
	SELECT m.id AS message_id,
		CASE WHEN (SELECT has_type_privilege('@extschema@.webhook_personal_data'::regtype, 'USAGE')) THEN m.whatsapp_message_id END AS whatsapp_message_id,
		m.correlation_id, s.at, s.place, s.step, s.attempt, m.conversation_id, coalesce(s.service, m.service) AS service,
		s.done_by, s.duration_ms,
		CASE WHEN (SELECT has_type_privilege('@extschema@.webhook_personal_data'::regtype, 'USAGE')) THEN s.error END AS error,
		jsonb_strip_nulls(s.detail) AS detail
	FROM (SELECT id, whatsapp_message_id, correlation_id, conversation_id, received_at, kind, service, payload,
				processed_at, processing_time_ms, claimed_at, claim_token, claimed_by, true AS accepted
			FROM @extschema@.processed_webhook_messages
			UNION ALL
			-- A dead letter of no message that is here stands for itself.
			SELECT id, whatsapp_message_id, correlation_id, conversation_id, created_at, NULL, service, NULL,
				NULL, NULL, NULL, NULL, NULL, false
			FROM @extschema@.webhook_dlq d
			WHERE NOT EXISTS (SELECT FROM @extschema@.processed_webhook_messages o
				WHERE o.whatsapp_message_id = d.whatsapp_message_id)) m
		LEFT JOIN LATERAL (SELECT * FROM @extschema@.webhook_dlq l WHERE l.id = coalesce(
			(SELECT k.id FROM @extschema@.webhook_dlq k WHERE k.whatsapp_message_id = m.whatsapp_message_id), m.id) LIMIT 1) d ON true
		-- From when to when it was under way: what happened to its conversation meanwhile.
		CROSS JOIN LATERAL (SELECT m.received_at AS since,
			coalesce(m.processed_at, CASE WHEN d.resolution_status IN ('resolved', 'failed') THEN d.updated_at END,
				now()) AS until) w
		CROSS JOIN LATERAL (
			SELECT m.received_at AS at, 0 AS place, 'received' AS step, NULL::integer AS attempt, NULL::text AS service,
				NULL::text AS done_by, NULL::bigint AS duration_ms, NULL::text AS error,
				jsonb_build_object('kind', m.kind, 'correlation_id', m.correlation_id,
					'sent_at', CASE WHEN m.payload #>> '{message,timestamp}' ~ '^[0-9]{1,10}$'
						THEN to_timestamp((m.payload #>> '{message,timestamp}')::bigint) END) AS detail
				WHERE m.accepted
			UNION ALL
			SELECT a.started_at, 2, 'claimed', a.attempt, a.service, a.lock_id::text, NULL, NULL,
				jsonb_build_object('lock_token', a.lock_token)
				FROM @extschema@.webhook_attempts a WHERE a.message_id = m.id AND a.started_at IS NOT NULL
			UNION ALL
			SELECT a.finished_at, CASE a.outcome WHEN 'lost' THEN 1 ELSE 5 END, a.outcome, a.attempt, a.service, a.lock_id::text, a.duration_ms, a.error,
				jsonb_build_object('lock_token', a.lock_token)
				FROM @extschema@.webhook_attempts a WHERE a.message_id = m.id
			UNION ALL
			-- What the message tells of its attempt. Not by the view: it asks whoever looks for rights to what it shows.
			SELECT v.at, v.place, v.step, 1, NULL, m.claimed_by::text, v.duration_ms, NULL,
				jsonb_build_object('lock_token', m.claim_token)
				FROM (VALUES (m.claimed_at, 2, 'claimed', NULL),
					(m.processed_at, 5, 'succeeded', m.processing_time_ms)) v (at, place, step, duration_ms)
				WHERE m.claimed_by IS NOT NULL AND v.at IS NOT NULL
			UNION ALL
			SELECT t.created_at, 3, 'agent_' || t.outcome, NULL, NULL, t.agent_type, t.duration_ms, t.error,
				jsonb_build_object('answered_by', t.answered_by, 'variant', nullif(t.variant, ''), 'version', t.version,
					'model', t.model, 'calls', t.calls, 'prompt_tokens', t.prompt_tokens,
					'completion_tokens', t.completion_tokens, 'session_id', t.session_id)
				FROM @extschema@.agent_turns t
				WHERE t.conversation_id = m.conversation_id
					AND t.created_at BETWEEN w.since AND w.until + interval '1 minute'
					AND m.whatsapp_message_id = ANY (t.whatsapp_message_ids)
			UNION ALL
			SELECT r.answered_at, 3, 'reply_waiting', NULL, r.service, r.agent_type,
				(extract(epoch FROM r.answered_at - r.started_at) * 1000)::bigint, NULL,
				jsonb_build_object('calls', r.calls, 'prompt_tokens', r.prompt_tokens,
					'completion_tokens', r.completion_tokens, 'taken_until', r.taken_until)
				FROM @extschema@.webhook_agent_replies r
				WHERE r.conversation_id = m.conversation_id AND m.whatsapp_message_id = ANY (r.whatsapp_message_ids)
			UNION ALL
			SELECT c.created_at, 4, 'status_changed', NULL, NULL, NULL, NULL, NULL,
				jsonb_build_object('from', c.from_state, 'to', c.to_state, 'reason', c.transition_reason,
					'correlation_id', c.correlation_id)
				FROM (SELECT * FROM @extschema@.conversation_state_transitions
					WHERE conversation_id = m.conversation_id AND created_at BETWEEN w.since AND w.until
					ORDER BY created_at LIMIT 1000) c
			UNION ALL
			SELECT v.at, v.place, v.step, NULL, d.service, NULL, NULL, v.error, v.detail
				FROM (VALUES
						(d.created_at, 6, 'dead_lettered', NULL, jsonb_build_object('dead_letter_id', d.id)),
						(CASE d.resolution_status WHEN 'pending' THEN d.next_retry_at WHEN 'resolved' THEN d.processed_at
								ELSE d.updated_at END, 8,
							CASE d.resolution_status WHEN 'pending' THEN 'retry_due' WHEN 'failed' THEN 'given_up'
								ELSE d.resolution_status END,
							CASE WHEN d.resolution_status = 'failed' THEN d.error END,
							jsonb_build_object('dead_letter_id', d.id, 'retry_count', d.retry_count,
								'max_retries', d.max_retries, 'retry_lease_until', d.retry_lease_until)))
						v (at, place, step, error, detail)
				WHERE d.id IS NOT NULL
			UNION ALL
			SELECT i.enqueued_at, 1, CASE WHEN i.enqueued_at > now() THEN 'put_off' ELSE 'waiting' END, NULL, i.service,
				NULL, NULL, NULL, jsonb_build_object('failed_attempts', i.attempts, 'lost_claims', i.losses)
				FROM @extschema@.webhook_inbox i
				WHERE i.conversation_id = m.conversation_id AND i.message_id = m.id
			UNION ALL
			SELECT c.locked_at, 7, 'claimed', i.attempts + i.losses + 1, i.service, c.locked_by::text, NULL, NULL,
				jsonb_build_object('lock_token', c.lock_token, 'lock_expires_at', c.lock_expires_at)
				FROM @extschema@.webhook_inbox i JOIN @extschema@.webhook_conversations c ON c.id = i.conversation_id
				WHERE i.conversation_id = m.conversation_id AND i.message_id = m.id AND c.locked_by IS NOT NULL
					AND i.seq = ANY (c.claimed_messages)
			UNION ALL
			SELECT m.processed_at, 9, 'processed', NULL, NULL, NULL, m.processing_time_ms, NULL, NULL
				WHERE m.processed_at IS NOT NULL) s;
COMMENT ON VIEW @extschema@.webhook_message_trace IS
	'every step of every message; ask for one message_id at a time, as trace_webhook_message() does';

CREATE FUNCTION @extschema@.webhook_message_id(p_whatsapp_message_id text) RETURNS uuid
	LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT coalesce(
		(SELECT id FROM @extschema@.processed_webhook_messages WHERE whatsapp_message_id = p_whatsapp_message_id),
		(SELECT id FROM @extschema@.webhook_dlq WHERE whatsapp_message_id = p_whatsapp_message_id),
		CASE WHEN p_whatsapp_message_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN p_whatsapp_message_id::uuid END)
	$$;
COMMENT ON FUNCTION @extschema@.webhook_message_id(text) IS
	'the id of a message, or of a dead letter of none, in the tables of wahook';

CREATE FUNCTION @extschema@.webhook_trace_sent(p_whatsapp_message_id text)
	RETURNS TABLE (at timestamptz, step text, correlation_id uuid, detail jsonb)
	LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 5 SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT v.at, v.step, s.correlation_id,
		jsonb_strip_nulls(jsonb_build_object('type', nullif(s.type, ''), 'error_codes', CASE v.step WHEN 'sent_failed' THEN
			jsonb_path_query_array(s.errors, '$[*].code') END))
	FROM @extschema@.webhook_message_statuses s
		CROSS JOIN LATERAL (VALUES (s.sent_at, 'sent'), (s.delivered_at, 'delivered'), (s.read_at, 'read'),
			(s.played_at, 'played'), (s.failed_at, 'sent_failed')) v (at, step)
	WHERE s.whatsapp_message_id = p_whatsapp_message_id AND v.at IS NOT NULL
	$$;
COMMENT ON FUNCTION @extschema@.webhook_trace_sent(text) IS
	'what became of a message that you sent, by its statuses';

CREATE FUNCTION @extschema@.trace_webhook_message(p_whatsapp_message_id text)
	RETURNS TABLE (at timestamptz, elapsed interval, step text, attempt integer, conversation_id uuid, service text,
		done_by text, duration_ms bigint, error text, detail jsonb)
	LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 10 SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
	AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY SELECT t.at, t.at - min(t.at) OVER (), t.step, t.attempt, t.conversation_id, t.service,
			t.done_by, t.duration_ms, t.error, t.detail
		FROM (SELECT at, place, step, attempt, conversation_id, service, done_by, duration_ms, error, detail
				FROM @extschema@.webhook_message_trace
				WHERE message_id = @extschema@.webhook_message_id(p_whatsapp_message_id)
			UNION ALL
			SELECT at, 0, step, NULL, NULL, NULL, NULL, NULL, NULL,
					detail || jsonb_build_object('correlation_id', correlation_id)
				FROM @extschema@.webhook_trace_sent(p_whatsapp_message_id)) t
		ORDER BY t.at, t.place, t.attempt;
END
$$;
COMMENT ON FUNCTION @extschema@.trace_webhook_message(text) IS
	'every step of a message with its time, from its delivery to its outcome; of one that you sent, its statuses';

-- Ids of version 7 hold the time at which they were made, in milliseconds.
CREATE FUNCTION @extschema@.webhook_uuid_time(p_id uuid) RETURNS timestamptz
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT to_timestamp(('x' || substr(replace(p_id::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0)
	WHERE substr(p_id::text, 15, 1) = '7'
	$$;
COMMENT ON FUNCTION @extschema@.webhook_uuid_time(uuid) IS 'when a UUID of version 7 was made; null for others';

-- No index has the correlation ids: it would be written for each message, and read hardly ever. What a delivery
-- brought was written within moments, under ids that are made of the time; so a time leads to it.
CREATE FUNCTION @extschema@.webhook_find_correlation(p_correlation_id uuid, p_since timestamptz, p_until timestamptz)
	RETURNS TABLE (kind text, id uuid, at timestamptz, detail jsonb)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
	AS $$
#variable_conflict use_column
BEGIN
	-- Infinity has no id.
	p_since := least(greatest(p_since, 'epoch'), now() + interval '1 day');
	p_until := least(greatest(p_until, 'epoch'), now() + interval '1 day');
	RETURN QUERY
		SELECT 'message', id, received_at, NULL::jsonb FROM @extschema@.processed_webhook_messages
			WHERE id >= @extschema@.webhook_uuid_floor(p_since) AND id < @extschema@.webhook_uuid_floor(p_until)
				AND correlation_id = p_correlation_id
		UNION ALL
		SELECT 'message', id, created_at, NULL FROM @extschema@.webhook_dlq d
			WHERE created_at BETWEEN p_since AND p_until AND correlation_id = p_correlation_id
				AND NOT EXISTS (SELECT FROM @extschema@.processed_webhook_messages m
					WHERE m.whatsapp_message_id = d.whatsapp_message_id);
	RETURN QUERY
		SELECT CASE kind WHEN 'n' THEN 'notice' WHEN 'q' THEN 'quarantined' WHEN 's' THEN 'status'
				ELSE 'status_changed' END, id, at, detail
		FROM (
			SELECT 'n' AS kind, id, received_at AS at, jsonb_build_object('kind', kind) AS detail
				FROM @extschema@.webhook_notices
				WHERE received_at BETWEEN p_since AND p_until AND correlation_id = p_correlation_id
			UNION ALL
			SELECT 'q', id, received_at, jsonb_build_object('reason', reason) FROM @extschema@.webhook_quarantine
				WHERE received_at BETWEEN p_since AND p_until AND correlation_id = p_correlation_id
			UNION ALL
			SELECT 's', NULL, created_at, jsonb_build_object('status', status, 'type', nullif(type, ''))
				FROM @extschema@.webhook_message_statuses
				WHERE created_at BETWEEN p_since AND p_until AND correlation_id = p_correlation_id
			UNION ALL
			SELECT 't', conversation_id, created_at, jsonb_build_object('from', from_state, 'to', to_state,
					'reason', transition_reason)
				FROM @extschema@.conversation_state_transitions
				WHERE created_at BETWEEN p_since AND p_until AND correlation_id = p_correlation_id) e;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_find_correlation(uuid, timestamptz, timestamptz) IS
	'what was written under a correlation id from one time to another';

CREATE FUNCTION @extschema@.trace_webhook_correlation(
	p_correlation_id uuid, p_since timestamptz DEFAULT NULL, p_until timestamptz DEFAULT NULL)
	RETURNS TABLE (at timestamptz, elapsed interval, step text, message_id uuid, whatsapp_message_id text,
		attempt integer, conversation_id uuid, service text, done_by text, duration_ms bigint, error text, detail jsonb)
	LANGUAGE plpgsql STABLE ROWS 20 SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
	AS $$
#variable_conflict use_column
DECLARE
	-- An id made up by another host may be off by what its clock is off.
	c_early constant interval := '5 seconds';
	c_late constant interval := '30 seconds';
	c_recent constant interval := '1 hour';
	v_made_at timestamptz := @extschema@.webhook_uuid_time(p_correlation_id);
	v_until timestamptz := coalesce(p_until, CASE WHEN p_since IS NULL THEN v_made_at + c_late END, p_since + c_recent,
		-- What this transaction has written is younger than its beginning.
		clock_timestamp() + interval '1 minute');
	v_since timestamptz := coalesce(p_since, CASE WHEN p_until IS NULL THEN v_made_at - c_early END, v_until - c_recent);
BEGIN
	RETURN QUERY SELECT t.at, t.at - min(t.at) OVER (), t.step, t.message_id, t.whatsapp_message_id, t.attempt,
			t.conversation_id, t.service, t.done_by, t.duration_ms, t.error, t.detail
		FROM (WITH found AS MATERIALIZED (
				SELECT kind, id, at, detail FROM @extschema@.webhook_find_correlation(p_correlation_id, v_since, v_until)),
			-- One by one: a join would have all dead letters compared with all messages first.
			steps AS MATERIALIZED (
				SELECT m.* FROM found f CROSS JOIN LATERAL (SELECT * FROM @extschema@.webhook_message_trace t
					WHERE t.message_id = f.id OFFSET 0) m
				WHERE f.kind = 'message')
			SELECT m.at, m.place, m.step, m.message_id, m.whatsapp_message_id, m.attempt, m.conversation_id, m.service,
					m.done_by, m.duration_ms, m.error, m.detail
				FROM steps m WHERE m.step <> 'status_changed'
			UNION ALL
			-- Of the conversations that its messages are in, once each.
			SELECT DISTINCT m.at, m.place, m.step, NULL::uuid, NULL, NULL::integer, m.conversation_id, NULL, NULL,
					NULL::bigint, NULL, m.detail
				FROM steps m WHERE m.step = 'status_changed'
			UNION
			SELECT f.at, CASE f.kind WHEN 'status_changed' THEN 4 ELSE 0 END, f.kind, NULL, NULL, NULL,
					CASE f.kind WHEN 'status_changed' THEN f.id END, NULL, NULL, NULL, NULL,
					jsonb_strip_nulls(f.detail || CASE f.kind WHEN 'status_changed'
						THEN jsonb_build_object('correlation_id', p_correlation_id) ELSE '{}' END)
				FROM found f WHERE f.kind <> 'message') t
		ORDER BY t.at, t.message_id, t.place, t.attempt, t.detail;
END
$$;
COMMENT ON FUNCTION @extschema@.trace_webhook_correlation(uuid, timestamptz, timestamptz) IS
	'every step of all that a delivery brought; it is looked for where the time in its id says, else from p_since to p_until, else in the last hour';
