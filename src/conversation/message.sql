-- A message as its handler sees it.

CREATE FUNCTION @extschema@.webhook_message_json(
	p_message @extschema@.processed_webhook_messages, p_attempt integer)
	RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE
	AS $$
	SELECT pg_catalog.jsonb_build_object(
		'whatsapp_message_id', p_message.whatsapp_message_id,
		'attempt', p_attempt,
		'received_at', p_message.received_at,
		'kind', p_message.kind,
		'correlation_id', p_message.correlation_id,
		'message', p_message.payload OPERATOR(pg_catalog.->) 'message',
		'contact', p_message.payload OPERATOR(pg_catalog.->) 'contact',
		'metadata', p_message.payload OPERATOR(pg_catalog.->) 'metadata')
	$$;
COMMENT ON FUNCTION @extschema@.webhook_message_json(@extschema@.processed_webhook_messages, integer) IS
	'a message as claims and SQL handlers get it; attempt counts from 1';
