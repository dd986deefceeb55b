-- A restaurant: an agent, another one for when its model is down, and what is done with a reply.
CREATE TABLE demo.reply (
	n bigserial,
	user_id text,
	text text,
	answered_by text,
	message_ids text[]
);
CREATE FUNCTION demo.take_reply(p_reply jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO demo.reply (user_id, text, answered_by, message_ids)
	SELECT p_reply ->> 'user_id', p_reply ->> 'reply', p_reply ->> 'answered_by',
		array(SELECT jsonb_path_query(p_reply, '$.messages[*].whatsapp_message_id') #>> '{}')
$$;
INSERT INTO webhook_agents (agent_type, system_prompt, model, endpoint, allow_http) VALUES
	('spare', 'You stand in for the host of a restaurant.', 'small', :'url' || '/small', true),
	('host', 'You are the host of a restaurant.', 'large', :'url' || '/large', true);
UPDATE webhook_agents SET fallback_agent = 'spare', circuit_timeout = '1 s' WHERE agent_type = 'host';
SELECT register_webhook_service('restaurant', p_agent_type => 'host', p_reply_handler => 'demo.take_reply(jsonb)',
	p_debounce => '500 ms', p_concurrency => 20) \g /dev/null
-- Who is with the restaurant stays there, whatever they send.
SELECT add_webhook_route('restaurant', 'restaurant', 'state', 'restaurant', 0) \g /dev/null
INSERT INTO user_sessions (phone_number, active_service) SELECT '4930100' || n, 'restaurant' FROM generate_series(0, 9) n;
