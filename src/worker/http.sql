-- What helps whoever runs an endpoint: the signature it must find, the addresses it may have.

CREATE FUNCTION @extschema@.webhook_signature(
	p_secret text, p_id text, p_timestamp timestamptz, p_body text)
	RETURNS text
	AS 'MODULE_PATHNAME', 'wahook_webhook_signature' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_signature(text, text, timestamptz, text) IS
	'the header webhook-signature of Standard Webhooks that a request with this id, time and body carries';

CREATE FUNCTION @extschema@.webhook_address_allowed(p_address inet) RETURNS boolean
	AS 'MODULE_PATHNAME', 'wahook_webhook_address_allowed' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_address_allowed(inet) IS
	'whether wahook.http_allowed_networks lets requests go to this address';
