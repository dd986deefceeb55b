-- Routes: adding and removing them, and asking where they lead.

CREATE FUNCTION @extschema@.webhook_check_route() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	PERFORM @extschema@.webhook_require_service(NEW.service);
	IF NEW.match = 'regex' THEN
		PERFORM '' ~ NEW.pattern;
	ELSIF NEW.pattern !~ '[^, ]' THEN
		RAISE EXCEPTION 'pattern of route "%" is empty', NEW.name
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Pass one or more words separated by commas, for example ''menu, home''.';
	END IF;
	RETURN NEW;
EXCEPTION WHEN invalid_regular_expression THEN
	RAISE EXCEPTION 'pattern of route "%" is not a regular expression', NEW.name
		USING ERRCODE = 'invalid_regular_expression', DETAIL = format('%s.', SQLERRM),
			HINT = 'Try it first: SELECT ''text of a message'' ~ ''pattern''.';
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_route() IS 'trigger: checks the service and the pattern of a route';
CREATE TRIGGER webhook_check_route
	BEFORE INSERT OR UPDATE OF name, match, pattern, service ON @extschema@.webhook_routes
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_check_route();

CREATE FUNCTION @extschema@.add_webhook_route(
	p_name text, p_service text, p_match text, p_pattern text DEFAULT NULL,
	p_priority integer DEFAULT 100, p_clears_state boolean DEFAULT false,
	p_enabled boolean DEFAULT true, p_description text DEFAULT NULL)
	RETURNS uuid
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_id uuid;
BEGIN
	IF coalesce(length(p_name), 0) NOT BETWEEN 1 AND 200 THEN
		RAISE EXCEPTION 'name of a route must have from 1 to 200 characters, not %', coalesce(length(p_name), 0)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass p_name, for example ''menu''.';
	END IF;
	PERFORM @extschema@.webhook_require_service(p_service);
	UPDATE @extschema@.webhook_routes SET service = p_service, match = p_match, pattern = p_pattern,
			priority = coalesce(p_priority, 100), clears_state = coalesce(p_clears_state, false),
			enabled = coalesce(p_enabled, true), description = p_description,
			updated_at = clock_timestamp()
		WHERE name = p_name RETURNING id INTO v_id;
	IF NOT FOUND THEN
		INSERT INTO @extschema@.webhook_routes
				(name, service, match, pattern, priority, clears_state, enabled, description)
			VALUES (p_name, p_service, p_match, p_pattern, coalesce(p_priority, 100),
				coalesce(p_clears_state, false), coalesce(p_enabled, true), p_description)
			RETURNING id INTO v_id;
	END IF;
	RETURN v_id;
EXCEPTION WHEN check_violation OR not_null_violation THEN
	RAISE EXCEPTION 'route "%" can''t be added like this', p_name
		USING ERRCODE = 'invalid_parameter_value', DETAIL = format('%s.', SQLERRM),
			HINT = 'p_match is keyword, state, type, regex or all; all but the last need p_pattern, of up to 2000 characters.';
END
$$;
COMMENT ON FUNCTION @extschema@.add_webhook_route(text, text, text, text, integer, boolean, boolean, text) IS
	'adds a route, or replaces the one of this name; its id';

CREATE FUNCTION @extschema@.webhook_require_route(p_name text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM @extschema@.webhook_routes WHERE name = p_name) THEN
		RAISE EXCEPTION 'route "%" does not exist', coalesce(p_name, 'null')
			USING ERRCODE = 'undefined_object',
				HINT = 'Add it with add_webhook_route(), or see webhook_routes for those there are.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_require_route(text) IS 'an error unless there is such a route';

CREATE FUNCTION @extschema@.remove_webhook_route(p_name text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	PERFORM @extschema@.webhook_require_route(p_name);
	DELETE FROM @extschema@.webhook_routes WHERE name = p_name;
END
$$;
COMMENT ON FUNCTION @extschema@.remove_webhook_route(text) IS
	'removes a route; what it has led somewhere stays there';

CREATE FUNCTION @extschema@.webhook_switch_route(p_name text, p_enabled boolean) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	PERFORM @extschema@.webhook_require_route(p_name);
	UPDATE @extschema@.webhook_routes SET enabled = p_enabled, updated_at = clock_timestamp()
		WHERE name = p_name AND enabled <> p_enabled;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_switch_route(text, boolean) IS
	'enables or disables a route; whether that changed anything';

CREATE FUNCTION @extschema@.enable_webhook_route(p_name text) RETURNS boolean
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$ SELECT @extschema@.webhook_switch_route(p_name, true) $$;
COMMENT ON FUNCTION @extschema@.enable_webhook_route(text) IS
	'messages that arrive from now on are compared with the route; false: it was enabled already';

CREATE FUNCTION @extschema@.disable_webhook_route(p_name text) RETURNS boolean
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$ SELECT @extschema@.webhook_switch_route(p_name, false) $$;
COMMENT ON FUNCTION @extschema@.disable_webhook_route(text) IS
	'messages that arrive from now on are not compared with the route; false: it was disabled already';

CREATE FUNCTION @extschema@.route_webhook_message(p_message jsonb, p_conversation_id uuid DEFAULT NULL)
	RETURNS text
	AS 'MODULE_PATHNAME', 'wahook_route_webhook_message' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.route_webhook_message(jsonb, uuid) IS
	'the service that a message, as Meta delivers it, would be routed to now; changes nothing';
