-- What every service keeps, whoever writes it: its handler, its endpoint, its secrets.

CREATE FUNCTION @extschema@.webhook_check_service() RETURNS trigger
	AS 'MODULE_PATHNAME', 'wahook_check_service' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION @extschema@.webhook_check_service() IS
	'checks the handler of a service, or of its agent''s replies, and ties it to the role that sets it';
CREATE TRIGGER webhook_check_service
	BEFORE INSERT OR UPDATE OF handler, run_as, reply_handler ON @extschema@.webhook_services
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_check_service();

CREATE FUNCTION @extschema@.webhook_check_url(
	p_what text, p_url text, p_allow_http boolean, p_example text, p_secrets_by text)
	RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_port text := substring(p_url FROM E'(?i)^https?://(?:[a-z0-9._-]+|\\[[0-9a-f:.]+\\]):([0-9]+)(?:[/?]|$)');
BEGIN
	IF p_url !~* E'^https?://([a-z0-9._-]+|\\[[0-9a-f:.]+\\])(:[0-9]{1,5})?([/?][!-~]*)?$'
		OR position('#' IN p_url) > 0 OR length(p_url) > 2000 OR v_port::integer NOT BETWEEN 1 AND 65535
	THEN
		RAISE EXCEPTION '% can''t be called', p_what
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'It must be http or https, a host, perhaps a port and a path, in ASCII without spaces, user name or fragment, and of at most 2000 bytes.',
				HINT = format('Write it like %s; what authorizes a request goes to %s.', p_example, p_secrets_by);
	END IF;
	IF p_url ~* '^http:' AND NOT p_allow_http THEN
		RAISE EXCEPTION '% is not https', p_what
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'Messages and what authorizes them would go over the network in the clear.',
				HINT = 'Use https, or set allow_http where the network is your own.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_url(text, text, boolean, text, text) IS
	'an error unless the worker can call this URL; the error says what it is, how to write it, and where secrets go';

CREATE FUNCTION @extschema@.webhook_url_origin(p_url text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$ SELECT lower(substring(p_url FROM '^[^/]*//[^/?]*')) $$;
COMMENT ON FUNCTION @extschema@.webhook_url_origin(text) IS
	'scheme, host and port of a URL: who is sent what is sent there';

CREATE FUNCTION @extschema@.webhook_check_endpoint() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF NEW.url IS NOT NULL AND NEW.handler IS NOT NULL THEN
		RAISE EXCEPTION 'service "%" has a handler and a URL', NEW.name
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'Its messages go either to a function in this database or to an endpoint.',
				HINT = 'Set the other of the two to null.';
	END IF;
	PERFORM @extschema@.webhook_check_url(format('URL of service "%s"', NEW.name), NEW.url, NEW.allow_http,
		'https://bot.example.com/mobility'::text, 'set_webhook_service_secrets()'::text);
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_endpoint() IS 'trigger: checks the endpoint of a service';
CREATE TRIGGER webhook_check_endpoint
	BEFORE INSERT OR UPDATE OF url, allow_http, handler ON @extschema@.webhook_services
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_check_endpoint();

-- The values are never part of the message.
CREATE FUNCTION @extschema@.webhook_check_service_secrets() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_secret text;
BEGIN
	IF NEW.bearer_token !~ '^[!-~]+$' OR length(NEW.bearer_token) > 4096 THEN
		RAISE EXCEPTION 'bearer token of service "%" can''t be sent', NEW.service
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It is sent in a header: up to 4096 characters of ASCII, without spaces.';
	END IF;
	FOREACH v_secret IN ARRAY ARRAY[NEW.signing_secret, NEW.previous_signing_secret] LOOP
		-- In this order: only what is base64 can be decoded.
		CASE
			WHEN v_secret IS NULL THEN
				CONTINUE;
			WHEN v_secret ~ '^whsec_([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$'
				AND octet_length(decode(substr(v_secret, 7), 'base64')) BETWEEN 24 AND 64 THEN
				CONTINUE;
			ELSE
				RAISE EXCEPTION 'signing secret of service "%" is not one of Standard Webhooks', NEW.service
					USING ERRCODE = 'invalid_parameter_value',
						DETAIL = 'It must be "whsec_" and 24 to 64 random bytes in base64.',
						HINT = 'Make one with: openssl rand -base64 32.';
		END CASE;
	END LOOP;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_service_secrets() IS
	'trigger: checks what deliveries to an endpoint are authorized and signed with';
CREATE TRIGGER webhook_check_service_secrets
	BEFORE INSERT OR UPDATE ON @extschema@.webhook_service_secrets
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_check_service_secrets();

-- Who may change a service may not read its token, and so not have it sent to a host of their own.
CREATE FUNCTION @extschema@.webhook_forget_bearer_token() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	UPDATE @extschema@.webhook_service_secrets
		SET bearer_token = NULL, updated_at = clock_timestamp()
		WHERE service = NEW.name AND bearer_token IS NOT NULL;
	IF FOUND THEN
		RAISE WARNING 'bearer token of service "%" is removed', NEW.name
			USING ERRCODE = '01000',
				DETAIL = 'It was for the host that the service''s URL had until now.',
				HINT = 'Set the one for the new host with set_webhook_service_secrets().';
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_forget_bearer_token() IS
	'trigger: the bearer token of a service is not sent to another host than it was set for';
CREATE TRIGGER webhook_forget_bearer_token
	AFTER UPDATE OF url ON @extschema@.webhook_services
	FOR EACH ROW WHEN (OLD.url IS NOT NULL
		AND @extschema@.webhook_url_origin(NEW.url) IS DISTINCT FROM @extschema@.webhook_url_origin(OLD.url))
	EXECUTE FUNCTION @extschema@.webhook_forget_bearer_token();
