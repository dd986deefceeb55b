-- Registering services, and telling for whom something is on.
--
-- Registering is not SECURITY DEFINER: the handler is checked with the rights of whoever registers it.

CREATE FUNCTION @extschema@.webhook_config_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'wahook_config_changed' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION @extschema@.webhook_config_changed() IS
	'trigger: tells all sessions to read services, routes and intake limits anew, once this commits';
CREATE TRIGGER webhook_config_changed
	AFTER INSERT ON @extschema@.webhook_erased_messages
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.webhook_config_changed();
CREATE TRIGGER webhook_config_changed
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.webhook_services
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.webhook_config_changed();
CREATE TRIGGER webhook_config_changed
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.webhook_routes
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.webhook_config_changed();
CREATE TRIGGER webhook_config_changed
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.webhook_rate_limit_buckets
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.webhook_config_changed();

-- What a foreign key would do, without its lock on the service at each message.
CREATE FUNCTION @extschema@.webhook_keep_service() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_reason text;
BEGIN
	-- A seed that is replaced comes back in the same statement.
	IF TG_OP = 'DELETE' AND OLD.from_extension AND pg_trigger_depth() > 1 THEN
		RETURN OLD;
	ELSIF TG_OP = 'UPDATE' AND NEW.name = OLD.name THEN
		RETURN NEW;
	ELSIF OLD.name IN ('default', 'fallback') THEN
		v_reason := 'It is where messages go that are for no other service.';
	ELSIF EXISTS (SELECT FROM @extschema@.webhook_inbox WHERE service = OLD.name) THEN
		v_reason := 'Messages wait for it.';
	ELSIF EXISTS (SELECT FROM @extschema@.webhook_dlq
		WHERE service = OLD.name AND resolution_status IN ('pending', 'retrying')) THEN
		v_reason := 'Dead letters wait for their retry by it.';
	ELSIF TG_OP = 'DELETE' AND EXISTS (SELECT FROM @extschema@.webhook_routes WHERE service = OLD.name) THEN
		v_reason := 'Routes lead to it.';
	END IF;
	IF v_reason IS NOT NULL THEN
		RAISE EXCEPTION 'service "%" can''t be %', OLD.name,
				CASE TG_OP WHEN 'DELETE' THEN 'deleted' ELSE 'renamed' END
			USING ERRCODE = 'object_in_use', DETAIL = v_reason,
				HINT = 'disable_webhook_service() takes it out of use. Delete it when its routes are removed, and what waits for it is processed or discarded.';
	END IF;
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_keep_service() IS
	'trigger: a service stays, under its name, while anything is for it';
CREATE TRIGGER webhook_keep_service
	BEFORE DELETE OR UPDATE OF name ON @extschema@.webhook_services
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_keep_service();

CREATE FUNCTION @extschema@.webhook_require_service(p_name text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM @extschema@.webhook_services WHERE name = p_name) THEN
		RAISE EXCEPTION 'service "%" does not exist', coalesce(p_name, 'null')
			USING ERRCODE = 'undefined_object',
				HINT = 'Register it with register_webhook_service(), or see webhook_services for those there are.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_require_service(text) IS 'an error unless there is such a service';

CREATE FUNCTION @extschema@.register_webhook_service(
	p_name text, p_handler regprocedure DEFAULT NULL, p_url text DEFAULT NULL,
	p_allow_http boolean DEFAULT NULL, p_enabled boolean DEFAULT true, p_timeout interval DEFAULT NULL,
	p_concurrency integer DEFAULT NULL, p_debounce interval DEFAULT NULL,
	p_debounce_max interval DEFAULT NULL, p_strict_order boolean DEFAULT NULL,
	p_max_retries integer DEFAULT NULL, p_retry_base_delay interval DEFAULT NULL,
	p_retry_max_delay interval DEFAULT NULL, p_circuit_threshold integer DEFAULT NULL,
	p_circuit_timeout interval DEFAULT NULL, p_rollout_percent integer DEFAULT NULL,
	p_test_users text[] DEFAULT NULL, p_description text DEFAULT NULL,
	p_agent_type text DEFAULT NULL, p_reply_handler regprocedure DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF coalesce(length(p_name), 0) NOT BETWEEN 1 AND 200 THEN
		RAISE EXCEPTION 'name of a service must have from 1 to 200 characters, not %', coalesce(length(p_name), 0)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass p_name, for example ''mobility''.';
	END IF;
	IF p_handler IS NOT NULL AND p_url IS NOT NULL THEN
		RAISE EXCEPTION 'service "%" has a handler and a URL', p_name
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'Its messages go either to a function in this database or to an endpoint.',
				HINT = 'Pass one of p_handler and p_url, or neither for clients that claim.';
	ELSIF num_nonnulls(p_handler, p_url) > 0 AND num_nonnulls(p_agent_type, p_reply_handler) > 0 THEN
		RAISE EXCEPTION 'service "%" has an agent, and a handler or a URL', p_name
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'Its messages are answered by an agent, or go to a function in this database or to an endpoint.',
				HINT = 'Pass p_agent_type, and p_reply_handler for what it replies; or one of p_handler and p_url.';
	ELSIF p_agent_type IS NOT NULL
		AND NOT EXISTS (SELECT FROM @extschema@.webhook_agents WHERE agent_type = p_agent_type) THEN
		RAISE EXCEPTION 'agent "%" does not exist', p_agent_type
			USING ERRCODE = 'undefined_object', HINT = 'Add it to webhook_agents first.';
	ELSIF p_reply_handler IS NOT NULL AND p_agent_type IS NULL
		AND NOT EXISTS (SELECT FROM @extschema@.webhook_services WHERE name = p_name AND kind = 'agent') THEN
		RAISE EXCEPTION 'service "%" has no agent whose replies could be handled', p_name
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass p_agent_type, too.';
	END IF;
	INSERT INTO @extschema@.webhook_services (name, enabled)
		SELECT p_name, false
		WHERE NOT EXISTS (SELECT FROM @extschema@.webhook_services WHERE name = p_name)
		ON CONFLICT (name) DO NOTHING;
	UPDATE @extschema@.webhook_services SET
		enabled = coalesce(p_enabled, enabled),
		allow_http = coalesce(p_allow_http, allow_http),
		timeout = coalesce(p_timeout, timeout),
		concurrency = coalesce(p_concurrency, concurrency),
		debounce = coalesce(p_debounce, debounce),
		debounce_max = coalesce(p_debounce_max, debounce_max),
		strict_order = coalesce(p_strict_order, strict_order),
		max_retries = coalesce(p_max_retries, max_retries),
		retry_base_delay = coalesce(p_retry_base_delay, retry_base_delay),
		retry_max_delay = coalesce(p_retry_max_delay, retry_max_delay),
		circuit_threshold = coalesce(p_circuit_threshold, circuit_threshold),
		circuit_timeout = coalesce(p_circuit_timeout, circuit_timeout),
		rollout_percent = coalesce(p_rollout_percent, rollout_percent),
		test_users = coalesce(p_test_users, test_users),
		description = coalesce(p_description, description),
		updated_at = clock_timestamp()
		WHERE name = p_name;
	-- Not in one with the above: to name the handler is to answer for it.
	IF p_handler IS NOT NULL THEN
		UPDATE @extschema@.webhook_services
			SET handler = p_handler::text, run_as = NULL, url = NULL, agent_type = NULL, reply_handler = NULL
			WHERE name = p_name;
	ELSIF p_url IS NOT NULL THEN
		UPDATE @extschema@.webhook_services
			SET handler = NULL, run_as = NULL, url = p_url, agent_type = NULL, reply_handler = NULL
			WHERE name = p_name;
	ELSIF p_reply_handler IS NOT NULL THEN
		UPDATE @extschema@.webhook_services
			SET handler = NULL, run_as = NULL, url = NULL,
				agent_type = coalesce(p_agent_type, agent_type), reply_handler = p_reply_handler::text
			WHERE name = p_name;
	ELSIF p_agent_type IS NOT NULL THEN
		UPDATE @extschema@.webhook_services SET agent_type = p_agent_type
			WHERE name = p_name AND kind = 'agent';
		IF NOT FOUND THEN
			UPDATE @extschema@.webhook_services
				SET handler = NULL, run_as = NULL, url = NULL, agent_type = p_agent_type
				WHERE name = p_name;
		END IF;
	END IF;
EXCEPTION WHEN check_violation THEN
	RAISE EXCEPTION 'service "%" can''t be registered like this', p_name
		USING ERRCODE = 'invalid_parameter_value',
			DETAIL = format('%s.', SQLERRM),
			HINT = 'The bounds are in the description of the table webhook_services.';
END
$$;
COMMENT ON FUNCTION @extschema@.register_webhook_service(text, regprocedure, text, boolean, boolean, interval,
	integer, interval, interval, boolean, integer, interval, interval, integer, interval, integer, text[], text,
	text, regprocedure) IS
	'adds a service, or changes what is named of one: its SQL handler, its endpoint or its agent, and how it is to be treated';

CREATE FUNCTION @extschema@.webhook_switch_service(p_name text, p_enabled boolean) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	PERFORM @extschema@.webhook_require_service(p_name);
	UPDATE @extschema@.webhook_services SET enabled = p_enabled, updated_at = clock_timestamp()
		WHERE name = p_name AND enabled <> p_enabled;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_switch_service(text, boolean) IS
	'enables or disables a service; whether that changed anything';

CREATE FUNCTION @extschema@.enable_webhook_service(p_name text) RETURNS boolean
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$ SELECT @extschema@.webhook_switch_service(p_name, true) $$;
COMMENT ON FUNCTION @extschema@.enable_webhook_service(text) IS
	'routes lead to the service from now on, and what waited for it can be claimed; false: it was enabled already';

CREATE FUNCTION @extschema@.disable_webhook_service(p_name text) RETURNS boolean
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$ SELECT @extschema@.webhook_switch_service(p_name, false) $$;
COMMENT ON FUNCTION @extschema@.disable_webhook_service(text) IS
	'no route leads to the service any more, and what waits for it goes on waiting; false: it was disabled already';

CREATE FUNCTION @extschema@.set_webhook_service_secrets(
	p_service text, p_bearer_token text DEFAULT NULL, p_signing_secret text DEFAULT NULL,
	p_previous_signing_secret text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	PERFORM @extschema@.webhook_require_service(p_service);
	-- From now on the service is the user's: a row that is inserted over it must not take these along.
	UPDATE @extschema@.webhook_services SET updated_at = clock_timestamp() WHERE name = p_service;
	INSERT INTO @extschema@.webhook_service_secrets (service) VALUES (p_service)
		ON CONFLICT (service) DO NOTHING;
	UPDATE @extschema@.webhook_service_secrets SET
		bearer_token = nullif(coalesce(p_bearer_token, bearer_token), ''),
		signing_secret = nullif(coalesce(p_signing_secret, signing_secret), ''),
		previous_signing_secret = nullif(coalesce(p_previous_signing_secret,
			CASE WHEN p_signing_secret <> signing_secret THEN signing_secret END,
			previous_signing_secret), ''),
		updated_at = clock_timestamp()
		WHERE service = p_service;
END
$$;
COMMENT ON FUNCTION @extschema@.set_webhook_service_secrets(text, text, text, text) IS
	'sets what deliveries to an endpoint are authorized and signed with; null: as it is, empty: none. A signing secret that is replaced goes on signing as the previous one';

-- The formula is part of the interface: what it tells of a user must stay when versions change.
CREATE FUNCTION @extschema@.webhook_user_hash(p_name text, p_user_id text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'wahook_user_hash' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_user_hash(text, text) IS
	'a number that is always the same for a user and a name, and as good as random; null for a user without a name';

CREATE FUNCTION @extschema@.webhook_user_in_share(
	p_name text, p_user_id text, p_percent integer, p_test_users text[])
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'wahook_user_in_share' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_user_in_share(text, text, integer, text[]) IS
	'whether a user is one of the test users or in the share of users for a name; the share only gains users as it grows';

CREATE FUNCTION @extschema@.webhook_feature_enabled(p_flag text, p_user_id text) RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT coalesce((SELECT CASE state
			WHEN 'on' THEN true
			WHEN 'users' THEN @extschema@.webhook_user_in_share(flag, p_user_id, 0, test_users)
			WHEN 'percentage' THEN @extschema@.webhook_user_in_share(flag, p_user_id, percentage, test_users)
		END FROM @extschema@.webhook_feature_flags WHERE flag = p_flag), false)
	$$;
COMMENT ON FUNCTION @extschema@.webhook_feature_enabled(text, text) IS
	'whether a feature is on for a user; false where there is no such flag';
