-- Configuring agents: who answers a user, and as what.
--
-- What an agent is told has versions: a change of prompt, model or parameters makes a new one. So it is for a
-- variant, whose version is of all that it says, its own and what it has of its agent. The triggers that keep
-- them stand aside while a dump is restored or the extension created, which turn check_function_bodies off:
-- versions come with those.

CREATE FUNCTION @extschema@.webhook_next_agent_version(
	p_agent_type text, p_variant text, p_system_prompt text, p_model text,
	p_temperature double precision, p_max_output_tokens integer)
	RETURNS integer
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_current @extschema@.webhook_agent_versions;
BEGIN
	SELECT * INTO v_current FROM @extschema@.webhook_agent_versions
		WHERE agent_type = p_agent_type AND variant = p_variant AND replaced_at IS NULL;
	IF FOUND AND (v_current.system_prompt, v_current.model, v_current.temperature, v_current.max_output_tokens)
		IS NOT DISTINCT FROM (p_system_prompt, p_model, p_temperature, p_max_output_tokens)
	THEN
		RETURN v_current.version;
	END IF;
	RETURN coalesce((SELECT max(version) FROM @extschema@.webhook_agent_versions
		WHERE agent_type = p_agent_type AND variant = p_variant), 0) + 1;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_next_agent_version(text, text, text, text, double precision, integer) IS
	'the version that this is of an agent or variant: the current one, or the one after the last';

CREATE FUNCTION @extschema@.webhook_keep_agent_version(
	p_agent_type text, p_variant text, p_version integer, p_system_prompt text, p_model text,
	p_temperature double precision, p_max_output_tokens integer)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_now timestamptz := clock_timestamp();
BEGIN
	UPDATE @extschema@.webhook_agent_versions SET replaced_at = v_now
		WHERE agent_type = p_agent_type AND variant = p_variant AND replaced_at IS NULL
			AND version IS DISTINCT FROM p_version;
	INSERT INTO @extschema@.webhook_agent_versions
			(agent_type, variant, version, system_prompt, model, temperature, max_output_tokens, created_at)
		SELECT p_agent_type, p_variant, p_version, p_system_prompt, p_model, p_temperature, p_max_output_tokens, v_now
		WHERE p_version IS NOT NULL AND NOT EXISTS (SELECT FROM @extschema@.webhook_agent_versions
			WHERE agent_type = p_agent_type AND variant = p_variant AND version = p_version);
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_keep_agent_version(text, text, integer, text, text, double precision, integer) IS
	'makes a version of an agent or variant the current one; null: it has none any more';

CREATE FUNCTION @extschema@.webhook_set_agent_version() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_agent @extschema@.webhook_agents;
BEGIN
	IF TG_TABLE_NAME = 'webhook_agents' THEN
		NEW.version := @extschema@.webhook_next_agent_version(NEW.agent_type, ''::text, NEW.system_prompt,
			NEW.model, NEW.temperature, NEW.max_output_tokens);
	ELSE
		SELECT * INTO v_agent FROM @extschema@.webhook_agents WHERE agent_type = NEW.agent_type;
		NEW.version := @extschema@.webhook_next_agent_version(NEW.agent_type, NEW.variant,
			coalesce(NEW.system_prompt, v_agent.system_prompt), coalesce(NEW.model, v_agent.model),
			coalesce(NEW.temperature, v_agent.temperature),
			coalesce(NEW.max_output_tokens, v_agent.max_output_tokens));
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_set_agent_version() IS
	'trigger: numbers what an agent or a variant is told';

CREATE FUNCTION @extschema@.webhook_record_agent_version() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND NEW.agent_type <> OLD.agent_type THEN
		PERFORM @extschema@.webhook_keep_agent_version(OLD.agent_type, ''::text, NULL::integer, NULL::text,
			NULL::text, NULL::double precision, NULL::integer);
	END IF;
	IF TG_OP = 'DELETE' THEN
		RETURN NULL;
	END IF;
	IF TG_OP = 'UPDATE' AND OLD.from_extension THEN
		UPDATE @extschema@.webhook_agent_versions SET from_extension = false WHERE agent_type = OLD.agent_type;
	END IF;
	PERFORM @extschema@.webhook_keep_agent_version(NEW.agent_type, ''::text, NEW.version, NEW.system_prompt,
		NEW.model, NEW.temperature, NEW.max_output_tokens);
	-- What a variant has of its agent has changed.
	IF TG_OP = 'UPDATE' AND NEW.version <> OLD.version THEN
		UPDATE @extschema@.webhook_agent_variants SET updated_at = clock_timestamp()
			WHERE agent_type = NEW.agent_type;
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_record_agent_version() IS
	'trigger: keeps each version of an agent, and those of its variants that follow from it';

CREATE FUNCTION @extschema@.webhook_record_variant_version() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_agent @extschema@.webhook_agents;
BEGIN
	IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND (NEW.agent_type, NEW.variant) <> (OLD.agent_type, OLD.variant) THEN
		PERFORM @extschema@.webhook_keep_agent_version(OLD.agent_type, OLD.variant, NULL::integer, NULL::text,
			NULL::text, NULL::double precision, NULL::integer);
	END IF;
	IF TG_OP = 'DELETE' THEN
		RETURN NULL;
	END IF;
	-- From now on the agent is the user's: a row that is inserted over it must not take its variants along.
	UPDATE @extschema@.webhook_agents SET updated_at = clock_timestamp()
		WHERE agent_type = NEW.agent_type AND from_extension;
	SELECT * INTO v_agent FROM @extschema@.webhook_agents WHERE agent_type = NEW.agent_type;
	PERFORM @extschema@.webhook_keep_agent_version(NEW.agent_type, NEW.variant, NEW.version,
		coalesce(NEW.system_prompt, v_agent.system_prompt), coalesce(NEW.model, v_agent.model),
		coalesce(NEW.temperature, v_agent.temperature),
		coalesce(NEW.max_output_tokens, v_agent.max_output_tokens));
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_record_variant_version() IS 'trigger: keeps each version of a variant';

CREATE TRIGGER webhook_set_agent_version BEFORE INSERT OR UPDATE ON @extschema@.webhook_agents
	FOR EACH ROW WHEN (current_setting('check_function_bodies') = 'on')
	EXECUTE FUNCTION @extschema@.webhook_set_agent_version();
CREATE TRIGGER webhook_record_agent_version AFTER INSERT OR UPDATE OR DELETE ON @extschema@.webhook_agents
	FOR EACH ROW WHEN (current_setting('check_function_bodies') = 'on')
	EXECUTE FUNCTION @extschema@.webhook_record_agent_version();
CREATE TRIGGER webhook_set_agent_version BEFORE INSERT OR UPDATE ON @extschema@.webhook_agent_variants
	FOR EACH ROW WHEN (current_setting('check_function_bodies') = 'on')
	EXECUTE FUNCTION @extschema@.webhook_set_agent_version();
CREATE TRIGGER webhook_record_variant_version AFTER INSERT OR UPDATE OR DELETE ON @extschema@.webhook_agent_variants
	FOR EACH ROW WHEN (current_setting('check_function_bodies') = 'on')
	EXECUTE FUNCTION @extschema@.webhook_record_variant_version();

-- Not SECURITY DEFINER: what it asks is who makes the change.
CREATE FUNCTION @extschema@.webhook_check_agent() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_owner regrole := (SELECT extowner FROM pg_extension WHERE extname = 'wahook');
	v_is_owner boolean := pg_has_role(current_user, v_owner, 'USAGE');
	v_moved boolean := TG_OP = 'UPDATE' AND NEW.endpoint IS NOT NULL AND @extschema@.webhook_url_origin(NEW.endpoint)
		IS DISTINCT FROM @extschema@.webhook_url_origin(OLD.endpoint);
BEGIN
	PERFORM @extschema@.webhook_check_url(format('endpoint of agent "%s"', NEW.agent_type), NEW.endpoint,
		NEW.allow_http, 'https://api.example.com/v1/chat/completions'::text, 'set_webhook_agent_key()'::text);
	IF NEW.api_key_from <> 'secret' AND NEW.api_key_from !~ '^env:WAHOOK_[A-Z0-9_]{1,100}$' THEN
		RAISE EXCEPTION 'key of agent "%" can''t be found like this', NEW.agent_type
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'api_key_from must be null, "secret", or "env:" and the name of a variable of the server''s environment that begins with WAHOOK_, in capitals.',
				HINT = 'It is not the key itself: that goes to set_webhook_agent_key().';
	END IF;
	-- Who may change an agent may not read the server's environment, and so not have it sent to a host of their own.
	IF NEW.api_key_from LIKE 'env:%' AND NOT v_is_owner THEN
		IF TG_OP = 'INSERT' OR NEW.api_key_from IS DISTINCT FROM OLD.api_key_from THEN
			RAISE EXCEPTION 'must be owner of extension wahook to take a key from the environment'
				USING ERRCODE = 'insufficient_privilege',
					DETAIL = format('Agent "%s" would get one; the extension belongs to role %s.', NEW.agent_type, v_owner),
					HINT = format('Ask %s, or keep the key with set_webhook_agent_key().', v_owner);
		ELSIF v_moved THEN
			NEW.api_key_from := NULL;
			RAISE WARNING 'key of agent "%" is removed', NEW.agent_type
				USING ERRCODE = '01000', DETAIL = 'It was not set for the host that its endpoint has now.',
					HINT = format('Have %s set api_key_from for this one.', v_owner);
		END IF;
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_agent() IS
	'trigger: checks the endpoint of an agent, and where its key is found';
CREATE TRIGGER webhook_check_agent
	BEFORE INSERT OR UPDATE OF agent_type, endpoint, allow_http, api_key_from ON @extschema@.webhook_agents
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_check_agent();

CREATE FUNCTION @extschema@.webhook_check_fallback() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_chain text[] := ARRAY[NEW.agent_type];
	v_next text := NEW.fallback_agent;
BEGIN
	WHILE v_next IS NOT NULL LOOP
		IF v_next = ANY (v_chain) THEN
			RAISE EXCEPTION 'fallback of agent "%" leads back to "%"', NEW.agent_type, v_next
				USING ERRCODE = 'invalid_parameter_value',
					DETAIL = format('They are: %s.', array_to_string(v_chain || v_next, ', ')),
					HINT = 'Set fallback_agent of one of them to null.';
		END IF;
		v_chain := v_chain || v_next;
		v_next := (SELECT fallback_agent FROM @extschema@.webhook_agents WHERE agent_type = v_next);
	END LOOP;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_fallback() IS 'trigger: who answers when an agent does not is not that agent again';
CREATE TRIGGER webhook_check_fallback
	AFTER INSERT OR UPDATE OF agent_type, fallback_agent ON @extschema@.webhook_agents
	FOR EACH ROW WHEN (NEW.fallback_agent IS NOT NULL)
	EXECUTE FUNCTION @extschema@.webhook_check_fallback();

-- No CHECK: its error would show the row, key and all.
CREATE FUNCTION @extschema@.webhook_check_agent_secret() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF NEW.api_key !~ '^[!-~]+$' OR length(NEW.api_key) > 4096 THEN
		RAISE EXCEPTION 'key of agent "%" can''t be sent', NEW.agent_type
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It is sent in a header: up to 4096 characters of ASCII, without spaces.';
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_agent_secret() IS 'trigger: checks the key of an agent, and never shows it';
CREATE TRIGGER webhook_check_agent_secret
	BEFORE INSERT OR UPDATE ON @extschema@.webhook_agent_secrets
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_check_agent_secret();

-- Who may change an agent may not read its key, and so not have it sent to a host of their own.
CREATE FUNCTION @extschema@.webhook_forget_agent_key() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	UPDATE @extschema@.webhook_agent_secrets SET api_key = NULL, updated_at = clock_timestamp()
		WHERE agent_type = NEW.agent_type AND api_key IS NOT NULL;
	IF FOUND THEN
		RAISE WARNING 'key of agent "%" is removed', NEW.agent_type
			USING ERRCODE = '01000', DETAIL = 'It was for the host that its endpoint had until now.',
				HINT = 'Set the one for the new host with set_webhook_agent_key().';
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_forget_agent_key() IS
	'trigger: the key of an agent is not sent to another host than it was set for';
CREATE TRIGGER webhook_forget_agent_key
	AFTER UPDATE OF endpoint ON @extschema@.webhook_agents
	FOR EACH ROW WHEN (OLD.endpoint IS NOT NULL
		AND @extschema@.webhook_url_origin(NEW.endpoint) IS DISTINCT FROM @extschema@.webhook_url_origin(OLD.endpoint))
	EXECUTE FUNCTION @extschema@.webhook_forget_agent_key();

-- A budget goes with the last agent that spends it, and follows an agent that is renamed.
CREATE FUNCTION @extschema@.webhook_keep_agent_budget() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_old text := coalesce(OLD.budget, OLD.agent_type);
	v_new text;
BEGIN
	-- A seed that is replaced comes back in the same statement.
	IF TG_OP = 'DELETE' AND OLD.from_extension AND pg_trigger_depth() > 1
		OR EXISTS (SELECT FROM @extschema@.webhook_agents WHERE coalesce(budget, agent_type) = v_old)
	THEN
		RETURN NULL;
	END IF;
	IF TG_OP = 'UPDATE' AND NEW.budget IS NOT DISTINCT FROM OLD.budget THEN
		v_new := NEW.agent_type;
	END IF;
	UPDATE @extschema@.webhook_rate_limit_buckets b SET bucket = left(bucket, strpos(bucket, ':')) || v_new
		WHERE bucket IN ('agent:' || v_old, 'agent-user:' || v_old)
			AND NOT EXISTS (SELECT FROM @extschema@.webhook_rate_limit_buckets
				WHERE bucket = left(b.bucket, strpos(b.bucket, ':')) || v_new)
			AND v_new IS NOT NULL;
	DELETE FROM @extschema@.webhook_rate_limit_buckets
		WHERE bucket IN ('agent:' || v_old, 'agent-user:' || v_old);
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_keep_agent_budget() IS
	'trigger: removes a budget that no agent spends any more';
CREATE TRIGGER webhook_keep_agent_budget
	AFTER DELETE OR UPDATE OF agent_type, budget ON @extschema@.webhook_agents
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_keep_agent_budget();

CREATE FUNCTION @extschema@.webhook_require_agent(p_agent_type text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM @extschema@.webhook_agents WHERE agent_type = p_agent_type) THEN
		RAISE EXCEPTION 'agent "%" does not exist', coalesce(left(p_agent_type, 200), 'null')
			USING ERRCODE = 'undefined_object',
				HINT = 'Register it with register_webhook_agent(), or see webhook_agents for those there are.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_require_agent(text) IS 'an error unless there is such an agent';

CREATE FUNCTION @extschema@.webhook_set_daily_tokens(p_bucket text, p_tokens integer) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF p_tokens < 0 THEN
		RAISE EXCEPTION 'daily tokens must be from 0 to 2147483647, not %', p_tokens
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('They were for bucket "%s".', p_bucket),
				HINT = '0 lifts the limit.';
	ELSIF p_tokens = 0 THEN
		DELETE FROM @extschema@.webhook_rate_limit_buckets WHERE bucket = p_bucket;
	ELSIF p_tokens > 0 THEN
		INSERT INTO @extschema@.webhook_rate_limit_buckets (bucket, max_tokens, refill_per_second)
			VALUES (p_bucket, p_tokens, p_tokens / 86400.0::double precision)
			ON CONFLICT (bucket) DO UPDATE
			SET max_tokens = EXCLUDED.max_tokens, refill_per_second = EXCLUDED.refill_per_second;
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_set_daily_tokens(text, integer) IS
	'makes a rate limit bucket one of so many tokens a day; null: as it is, 0: none';

CREATE FUNCTION @extschema@.register_webhook_agent(
	p_agent_type text, p_system_prompt text DEFAULT NULL, p_model text DEFAULT NULL,
	p_endpoint text DEFAULT NULL, p_temperature double precision DEFAULT NULL,
	p_max_output_tokens integer DEFAULT NULL, p_context_budget integer DEFAULT NULL,
	p_max_context_messages integer DEFAULT NULL, p_api_key_from text DEFAULT NULL,
	p_allow_http boolean DEFAULT NULL, p_fallback_agent text DEFAULT NULL, p_timeout interval DEFAULT NULL,
	p_circuit_threshold integer DEFAULT NULL, p_circuit_timeout interval DEFAULT NULL,
	p_daily_tokens integer DEFAULT NULL, p_daily_tokens_per_user integer DEFAULT NULL,
	p_budget text DEFAULT NULL, p_description text DEFAULT NULL)
	RETURNS integer
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_budget text;
	v_version integer;
BEGIN
	IF coalesce(length(p_agent_type), 0) NOT BETWEEN 1 AND 200 THEN
		RAISE EXCEPTION 'agent type must have from 1 to 200 characters, not %', coalesce(length(p_agent_type), 0)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass p_agent_type, for example ''waiter''.';
	END IF;
	IF p_fallback_agent <> '' AND p_fallback_agent <> p_agent_type THEN
		PERFORM @extschema@.webhook_require_agent(p_fallback_agent);
	END IF;
	-- At once what it is told: that is its first version.
	INSERT INTO @extschema@.webhook_agents (agent_type, system_prompt, model, temperature, max_output_tokens)
		SELECT p_agent_type, p_system_prompt, nullif(p_model, ''), p_temperature, p_max_output_tokens
		WHERE NOT EXISTS (SELECT FROM @extschema@.webhook_agents WHERE agent_type = p_agent_type)
		ON CONFLICT (agent_type) DO NOTHING;
	UPDATE @extschema@.webhook_agents SET
		system_prompt = coalesce(p_system_prompt, system_prompt),
		model = nullif(coalesce(p_model, model), ''),
		endpoint = nullif(coalesce(p_endpoint, endpoint), ''),
		temperature = coalesce(p_temperature, temperature),
		max_output_tokens = coalesce(p_max_output_tokens, max_output_tokens),
		context_budget = coalesce(p_context_budget, context_budget),
		max_context_messages = coalesce(p_max_context_messages, max_context_messages),
		api_key_from = nullif(coalesce(p_api_key_from, api_key_from), ''),
		allow_http = coalesce(p_allow_http, allow_http),
		fallback_agent = nullif(coalesce(p_fallback_agent, fallback_agent), ''),
		timeout = coalesce(p_timeout, timeout),
		circuit_threshold = coalesce(p_circuit_threshold, circuit_threshold),
		circuit_timeout = coalesce(p_circuit_timeout, circuit_timeout),
		budget = nullif(coalesce(p_budget, budget), ''),
		description = coalesce(p_description, description),
		updated_at = clock_timestamp()
		WHERE agent_type = p_agent_type
		RETURNING coalesce(budget, agent_type), version INTO v_budget, v_version;
	PERFORM @extschema@.webhook_set_daily_tokens('agent:' || v_budget, p_daily_tokens),
		@extschema@.webhook_set_daily_tokens('agent-user:' || v_budget, p_daily_tokens_per_user);
	RETURN v_version;
EXCEPTION WHEN check_violation THEN
	RAISE EXCEPTION 'agent "%" can''t be registered like this', p_agent_type
		USING ERRCODE = 'invalid_parameter_value',
			DETAIL = format('%s.', SQLERRM),
			HINT = 'The bounds are in the description of the table webhook_agents.';
END
$$;
COMMENT ON FUNCTION @extschema@.register_webhook_agent(text, text, text, text, double precision, integer, integer,
	integer, text, boolean, text, interval, integer, interval, integer, integer, text, text) IS
	'adds an agent, or changes what is named of one: what it is told, which model answers and where, and what it may cost; the version that this is';

CREATE FUNCTION @extschema@.register_webhook_agent_variant(
	p_agent_type text, p_variant text, p_weight integer DEFAULT NULL, p_system_prompt text DEFAULT NULL,
	p_model text DEFAULT NULL, p_temperature double precision DEFAULT NULL,
	p_max_output_tokens integer DEFAULT NULL)
	RETURNS integer
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_version integer;
BEGIN
	PERFORM @extschema@.webhook_require_agent(p_agent_type);
	IF coalesce(length(p_variant), 0) NOT BETWEEN 1 AND 200 THEN
		RAISE EXCEPTION 'name of a variant must have from 1 to 200 characters, not %', coalesce(length(p_variant), 0)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass p_variant, for example ''short answers''.';
	END IF;
	INSERT INTO @extschema@.webhook_agent_variants AS v
			(agent_type, variant, weight, system_prompt, model, temperature, max_output_tokens)
		VALUES (p_agent_type, p_variant, coalesce(p_weight, 1), p_system_prompt, nullif(p_model, ''),
			p_temperature, p_max_output_tokens)
		ON CONFLICT (agent_type, variant) DO UPDATE SET
			weight = coalesce(p_weight, v.weight),
			system_prompt = coalesce(p_system_prompt, v.system_prompt),
			model = nullif(coalesce(p_model, v.model), ''),
			temperature = coalesce(p_temperature, v.temperature),
			max_output_tokens = coalesce(p_max_output_tokens, v.max_output_tokens),
			updated_at = clock_timestamp()
		RETURNING version INTO v_version;
	RETURN v_version;
EXCEPTION WHEN check_violation THEN
	RAISE EXCEPTION 'variant "%" of agent "%" can''t be registered like this', p_variant, p_agent_type
		USING ERRCODE = 'invalid_parameter_value',
			DETAIL = format('%s.', SQLERRM),
			HINT = 'The bounds are in the description of the table webhook_agent_variants.';
END
$$;
COMMENT ON FUNCTION @extschema@.register_webhook_agent_variant(text, text, integer, text, text, double precision, integer) IS
	'adds a variant to an agent, or changes what is named of one; what is null of it is as the agent has it. The version that this is';

CREATE FUNCTION @extschema@.set_webhook_agent_key(p_agent_type text, p_api_key text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	PERFORM @extschema@.webhook_require_agent(p_agent_type);
	-- From now on the agent is the user's: a row that is inserted over it must not take the key along.
	UPDATE @extschema@.webhook_agents SET updated_at = clock_timestamp(),
			api_key_from = CASE WHEN p_api_key <> '' THEN 'secret' WHEN api_key_from <> 'secret' THEN api_key_from END
		WHERE agent_type = p_agent_type;
	INSERT INTO @extschema@.webhook_agent_secrets AS s (agent_type, api_key)
		VALUES (p_agent_type, nullif(p_api_key, ''))
		ON CONFLICT (agent_type) DO UPDATE SET api_key = EXCLUDED.api_key, updated_at = clock_timestamp();
END
$$;
COMMENT ON FUNCTION @extschema@.set_webhook_agent_key(text, text) IS
	'sets the key that calls of an agent''s endpoint are authorized with; null or empty: none';

CREATE FUNCTION @extschema@.webhook_agent_config(
	p_agent_type text, p_user_id text, p_conversation_id uuid DEFAULT NULL)
	RETURNS TABLE (agent_type text, variant text, version integer, system_prompt text, model text,
		temperature double precision, max_output_tokens integer, context_budget integer,
		max_context_messages integer, endpoint text, allow_http boolean, timeout_ms integer,
		fallback_agent text, circuit_threshold integer, circuit_timeout interval)
	LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 1 SET search_path = pg_catalog, pg_temp
	AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY SELECT a.agent_type, coalesce(v.variant, ''), coalesce(v.version, a.version),
		coalesce(v.system_prompt, a.system_prompt), coalesce(v.model, a.model),
		coalesce(v.temperature, a.temperature), coalesce(v.max_output_tokens, a.max_output_tokens),
		a.context_budget, a.max_context_messages, a.endpoint, a.allow_http,
		(extract(epoch FROM a.timeout) * 1000)::integer,
		a.fallback_agent, a.circuit_threshold, a.circuit_timeout
	FROM @extschema@.webhook_agents a
		-- A session goes on with what it began with, whatever has become of the weights.
		LEFT JOIN @extschema@.agent_sessions s ON s.conversation_id = p_conversation_id
			AND s.agent_type = p_agent_type AND s.session_state = 'active' AND s.last_activity_at
				>= now() - (SELECT @extschema@.webhook_setting('agent_session_timeout'::text)::interval)
		-- Each variant draws a time for the user, the earlier the more it weighs, and the first one wins. So
		-- a weight that changes moves users only to or from its own variant.
		LEFT JOIN LATERAL (
			SELECT w.*, -ln((@extschema@.webhook_user_hash(w.agent_type || '/' || w.variant, nullif(p_user_id, ''))
				+ 1.0::double precision) / 9223372036854775808.0::double precision) / nullif(w.weight, 0) AS drawn
			FROM @extschema@.webhook_agent_variants w
			WHERE w.agent_type = a.agent_type AND s.variant IS DISTINCT FROM ''
			ORDER BY w.variant = s.variant DESC NULLS LAST, drawn, w.variant
			LIMIT 1) v ON v.drawn IS NOT NULL OR v.variant = s.variant
	WHERE a.agent_type = p_agent_type;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_agent_config(text, text, uuid) IS
	'what an agent is for a user: its own configuration or a variant''s (empty: none), in a conversation the one of its active session; no row where it is none of webhook_agents';
