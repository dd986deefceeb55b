-- Sessions of agents: opened by the first turn, counted, and ended by a call, by idleness, or with their
-- conversation.

CREATE FUNCTION @extschema@.webhook_open_agent_session(
	p_conversation_id uuid, p_agent_type text, p_variant text, p_version integer)
	RETURNS uuid
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_timeout interval := @extschema@.webhook_setting('agent_session_timeout'::text)::interval;
	v_session @extschema@.agent_sessions;
BEGIN
	LOOP
		SELECT * INTO v_session FROM @extschema@.agent_sessions
			WHERE conversation_id = p_conversation_id AND agent_type = p_agent_type
				AND session_state = 'active';
		IF v_session.last_activity_at < now() - v_timeout THEN
			UPDATE @extschema@.agent_sessions
				SET session_state = 'timeout', ended_at = last_activity_at + v_timeout
				WHERE id = v_session.id AND session_state = 'active'
					AND last_activity_at < now() - v_timeout;
		ELSIF v_session.variant <> p_variant THEN
			-- The variant that it began with is gone.
			UPDATE @extschema@.agent_sessions SET session_state = 'completed', ended_at = now()
				WHERE id = v_session.id AND session_state = 'active';
		ELSIF v_session.id IS NOT NULL THEN
			RETURN v_session.id;
		END IF;

		-- The index is partial, so its predicate is part of what names it.
		INSERT INTO @extschema@.agent_sessions (conversation_id, agent_type, variant, version)
			SELECT c.id, p_agent_type, coalesce(p_variant, a.variant),
					CASE WHEN p_variant IS NULL THEN a.version ELSE p_version END
				FROM @extschema@.webhook_conversations c
					LEFT JOIN LATERAL @extschema@.webhook_agent_config(p_agent_type, c.user_id, NULL::uuid) a
						ON p_variant IS NULL
				WHERE c.id = p_conversation_id
			ON CONFLICT (conversation_id, agent_type) WHERE session_state = 'active' DO NOTHING
			RETURNING id INTO v_session.id;
		IF FOUND THEN
			RETURN v_session.id;
		ELSIF NOT EXISTS (SELECT FROM @extschema@.webhook_conversations WHERE id = p_conversation_id) THEN
			RAISE EXCEPTION 'conversation % does not exist', coalesce(p_conversation_id::text, 'null')
				USING ERRCODE = 'WH003',
					HINT = 'Create it with get_or_create_conversation(), or insert it into webhook_conversations.';
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_open_agent_session(uuid, text, text, integer) IS
	'the agent''s active session in the conversation; where there is none, or it has been idle for too long, a new one. A null variant: as webhook_agent_config() says';

CREATE FUNCTION @extschema@.webhook_count_agent_turn(
	p_session_id uuid, p_messages integer, p_prompt_tokens integer, p_completion_tokens integer, p_errors integer)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	UPDATE @extschema@.agent_sessions SET
		total_messages = total_messages + coalesce(p_messages, 0),
		-- The contract's columns are integers.
		total_tokens_used = least(2147483647, total_tokens_used::bigint
			+ coalesce(p_prompt_tokens, 0) + coalesce(p_completion_tokens, 0))::integer,
		prompt_tokens = prompt_tokens + coalesce(p_prompt_tokens, 0),
		completion_tokens = completion_tokens + coalesce(p_completion_tokens, 0),
		error_count = error_count + coalesce(p_errors, 0),
		last_activity_at = greatest(last_activity_at, clock_timestamp())
		WHERE id = p_session_id;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_count_agent_turn(uuid, integer, integer, integer, integer) IS
	'counts a turn on a session: messages, tokens, errors';

CREATE FUNCTION @extschema@.increment_session_metrics(p_conversation_id uuid, p_agent_type text)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF coalesce(p_agent_type, '') = '' THEN
		RAISE EXCEPTION 'agent type must not be empty'
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = format('It was for conversation %s.', coalesce(p_conversation_id::text, 'null')),
				HINT = 'Pass one of webhook_agents, or a name of your own.';
	END IF;
	PERFORM @extschema@.webhook_count_agent_turn(@extschema@.webhook_open_agent_session(
		p_conversation_id, p_agent_type, NULL::text, NULL::integer), 1, 0, 0, 0);
END
$$;
COMMENT ON FUNCTION @extschema@.increment_session_metrics(uuid, text) IS
	'counts a message on the agent''s active session in the conversation, and starts one where there is none';

CREATE FUNCTION @extschema@.end_agent_session(
	p_conversation_id uuid, p_agent_type text, p_state text DEFAULT 'completed')
	RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF p_state IS NULL OR p_state NOT IN ('completed', 'failed', 'timeout') THEN
		RAISE EXCEPTION 'session does not end as "%"', coalesce(left(p_state, 64), 'null')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass completed, failed or timeout.';
	END IF;
	UPDATE @extschema@.agent_sessions SET session_state = p_state, ended_at = clock_timestamp()
		WHERE conversation_id = p_conversation_id AND agent_type = p_agent_type AND session_state = 'active';
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION @extschema@.end_agent_session(uuid, text, text) IS
	'ends the agent''s active session in the conversation as completed, failed or timeout; false: there was none';

-- A session whose time has run out ended at that time, whoever finds out: this, or the next turn.
CREATE FUNCTION @extschema@.webhook_end_idle_agent_sessions() RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
	AS $$
DECLARE
	v_timeout interval := @extschema@.webhook_setting('agent_session_timeout'::text)::interval;
	v_batch_size bigint := @extschema@.webhook_setting('retention_batch_size'::text)::bigint;
	v_looked_at bigint;
	v_ended bigint;
	v_all bigint := 0;
BEGIN
	-- What is left after that is for the next run.
	FOR v_round IN 1 .. 10 LOOP
		WITH looked_at AS (
			SELECT id FROM @extschema@.agent_sessions
			WHERE session_state = 'active' AND seen_active_at < now() - v_timeout
			ORDER BY seen_active_at LIMIT v_batch_size FOR UPDATE SKIP LOCKED),
		seen AS (
			UPDATE @extschema@.agent_sessions s SET
				seen_active_at = greatest(s.last_activity_at, s.seen_active_at),
				session_state = CASE WHEN s.last_activity_at < now() - v_timeout THEN 'timeout' ELSE 'active' END,
				ended_at = CASE WHEN s.last_activity_at < now() - v_timeout THEN s.last_activity_at + v_timeout END
				FROM looked_at l WHERE s.id = l.id
				RETURNING s.session_state)
		SELECT count(*), count(*) FILTER (WHERE session_state = 'timeout') INTO v_looked_at, v_ended FROM seen;
		v_all := v_all + v_ended;
		EXIT WHEN v_looked_at < v_batch_size;
	END LOOP;
	RETURN v_all;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_end_idle_agent_sessions() IS
	'ends the agent sessions that have been idle for wahook.agent_session_timeout; how many';

-- With the conversation, as the state machine has it: what is said after that begins anew.
CREATE FUNCTION @extschema@.webhook_complete_agent_sessions() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	UPDATE @extschema@.agent_sessions SET session_state = 'completed', ended_at = clock_timestamp()
		WHERE conversation_id = NEW.id AND session_state = 'active';
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_complete_agent_sessions() IS
	'trigger: the sessions of agents end with their conversation';
CREATE TRIGGER webhook_complete_agent_sessions
	AFTER UPDATE OF status ON @extschema@.webhook_conversations
	FOR EACH ROW WHEN (NEW.status = 'completed' AND OLD.status <> 'completed')
	EXECUTE FUNCTION @extschema@.webhook_complete_agent_sessions();

-- Those who write sessions themselves know nothing of these columns.
CREATE FUNCTION @extschema@.webhook_keep_agent_session() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF NEW.session_state = 'active' THEN
		NEW.ended_at := NULL;
		NEW.last_activity_at := greatest(NEW.last_activity_at, clock_timestamp());
	ELSE
		NEW.ended_at := coalesce(NEW.ended_at, clock_timestamp());
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_keep_agent_session() IS
	'trigger: a session that is counted is active then, and one that is over has an end';
CREATE TRIGGER webhook_keep_new_agent_session
	BEFORE INSERT ON @extschema@.agent_sessions
	FOR EACH ROW WHEN (NEW.session_state <> 'active' AND NEW.ended_at IS NULL)
	EXECUTE FUNCTION @extschema@.webhook_keep_agent_session();
CREATE TRIGGER webhook_keep_agent_session
	BEFORE UPDATE ON @extschema@.agent_sessions
	FOR EACH ROW WHEN (NEW.session_state <> 'active' AND NEW.ended_at IS NULL
		OR NEW.session_state = 'active' AND OLD.session_state <> 'active'
		OR NEW.session_state = 'active' AND NEW.last_activity_at = OLD.last_activity_at
			AND (NEW.total_messages, NEW.total_tokens_used, NEW.error_count)
				IS DISTINCT FROM (OLD.total_messages, OLD.total_tokens_used, OLD.error_count))
	EXECUTE FUNCTION @extschema@.webhook_keep_agent_session();
