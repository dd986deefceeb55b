-- Routes: where a message leads, and what receiving makes of it.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE FUNCTION pg_temp.body(VARIADIC p_messages text[]) RETURNS text LANGUAGE sql AS $$
	SELECT '{"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"field": "messages", "value":
		{"messaging_product": "whatsapp", "metadata": {"phone_number_id": "991"}, "messages": [' || array_to_string(p_messages, ',') || ']}}]}]}'
	$$;
CREATE FUNCTION pg_temp.text(p_id text, p_from text, p_text text) RETURNS text LANGUAGE sql AS $$
	SELECT json_build_object('id', p_id, 'from', p_from, 'type', 'text', 'text', json_build_object('body', p_text))::text $$;
CREATE FUNCTION pg_temp.to(p_message text) RETURNS text LANGUAGE sql AS $$ SELECT route_webhook_message(p_message::jsonb) $$;
CREATE FUNCTION pg_temp.say(p_text text, p_from text DEFAULT '7000000001') RETURNS text LANGUAGE sql AS
	$$ SELECT pg_temp.to(pg_temp.text('x', p_from, p_text)) $$;

-- Nothing is enabled: everything is for 'default'.
SELECT pg_temp.say('menu'), pg_temp.say('rides'), pg_temp.to('{}'), pg_temp.to('[]'), pg_temp.to('1'), pg_temp.to('null');
SELECT route_webhook_message(NULL);
SELECT route_webhook_message('{}', '00000000-0000-4000-8000-000000000000');

-- The routes that come with the extension, once their services are enabled.
BEGIN;
SELECT name, enable_webhook_service(name) FROM webhook_services WHERE from_extension AND NOT enabled ORDER BY name;
SELECT enable_webhook_service('jobs') AS again;
SELECT said, pg_temp.say(said) FROM unnest(ARRAY['menu', 'Rides', 'TAXI', 'real   estate', E' \t jobs\n', 'job offers', 'hello', '']) AS said;
-- What is chosen from buttons and lists counts like what is written, by its id and by its title.
SELECT pg_temp.to('{"type": "button", "button": {"payload": "WALLET", "text": "My money"}}') AS payload,
	pg_temp.to('{"type": "button", "button": {"payload": "x", "text": "Wallet"}}') AS text,
	pg_temp.to('{"type": "interactive", "interactive": {"type": "button_reply", "button_reply": {"id": "jobs", "title": "Find work"}}}') AS button_id,
	pg_temp.to('{"type": "interactive", "interactive": {"type": "list_reply", "list_reply": {"id": "row-7", "title": "Jobs"}}}') AS list_title,
	pg_temp.to('{"type": "image", "image": {"caption": "rent"}}') AS caption,
	pg_temp.to('{"type": "text", "text": "rent"}') AS not_an_object,
	pg_temp.to('{"type": "text", "text": {"body": 5}}') AS not_a_text,
	pg_temp.to('{"type": "text", "text": {"body": {"body": "rent"}}}') AS too_deep;

-- The state, with and without a plus sign; keywords go first, and the menu clears it.
INSERT INTO user_sessions (phone_number, active_service) VALUES ('7000000001', 'wallet'), ('+7000000002', 'property'), ('7000000003', 'nowhere');
SELECT phone, pg_temp.say('hello', phone), pg_temp.say('Jobs', phone) FROM unnest(ARRAY['7000000001', '+7000000001', '7000000002', '7000000003', '7000000004']) AS phone;
SELECT pg_temp.say('menu'), active_service FROM user_sessions WHERE phone_number = '7000000001';
SELECT whatsapp_message_id, service, outcome FROM receive_webhook(pg_temp.body(
	pg_temp.text('rt.1', '7000000001', 'hello'), pg_temp.text('rt.2', '7000000001', 'Menu'), pg_temp.text('rt.3', '7000000001', 'hello'),
	pg_temp.text('rt.4', '7000000002', 'hello'), pg_temp.text('rt.5', '7000000001', 'taxi')));
SELECT phone_number, active_service FROM user_sessions ORDER BY 1;
-- The service is recorded, and is where the message waits: a line for each, under one lock.
SELECT m.whatsapp_message_id, m.service, i.service AS waits_for FROM processed_webhook_messages m JOIN webhook_inbox i ON i.message_id = m.id
	WHERE m.whatsapp_message_id LIKE 'rt.%' ORDER BY 1;
SELECT user_id, q.service, count(*) FROM webhook_conversation_queue q JOIN webhook_conversations c ON c.id = q.conversation_id
	WHERE c.user_id LIKE '70000000__' GROUP BY 1, 2 ORDER BY 1, 2;
-- A message that comes again clears no state.
UPDATE user_sessions SET active_service = 'wallet' WHERE phone_number = '7000000001';
SELECT service, outcome FROM receive_webhook(pg_temp.body(pg_temp.text('rt.2', '7000000001', 'Menu')));
SELECT active_service FROM user_sessions WHERE phone_number = '7000000001';
-- With the conversation, the sender is its user.
SELECT route_webhook_message('{"type": "text", "text": {"body": "hello"}}', id) FROM webhook_conversations WHERE user_id = '7000000002';
-- Claims by service; without one, what clients pull in turn.
SELECT service, jsonb_array_length(messages) AS messages FROM claim_conversations(5, NULL, 'mobility');
SELECT service, jsonb_array_length(messages) AS messages FROM claim_conversations(5, NULL, 'wallet');
SELECT complete_webhook_messages(id, locked_by) FROM webhook_conversations WHERE user_id = '7000000001';
SELECT service, jsonb_array_length(messages) AS messages FROM claim_conversations(5, NULL, 'wallet');
SELECT complete_webhook_messages(id, locked_by) FROM webhook_conversations WHERE user_id = '7000000001';
SELECT service, jsonb_array_length(messages) AS messages FROM claim_conversations(5) ORDER BY 1;
ROLLBACK;

-- Priorities, kinds, regular expressions, and everything.
BEGIN;
SELECT register_webhook_service('rt-a'), register_webhook_service('rt-b'), register_webhook_service('rt-c');
SELECT add_webhook_route('rt-all', 'rt-a', 'all', p_priority => 1000) IS NOT NULL AS added;
SELECT add_webhook_route('rt-type', 'rt-b', 'type', 'image, interactive') IS NOT NULL AS added;
SELECT add_webhook_route('rt-regex', 'rt-c', 'regex', '^order \d+$', 50) IS NOT NULL AS added;
SELECT pg_temp.say('order 12'), pg_temp.say('my order 12'), pg_temp.to('{"type": "image", "image": {}}') AS image,
	pg_temp.to('{"type": "interactive", "interactive": {"type": "nfm_reply"}}') AS reply, pg_temp.to('{"type": "images"}') AS images,
	pg_temp.to('{"type": "image", "image": {"caption": "order 7"}}') AS caption;
-- Adding again replaces.
SELECT add_webhook_route('rt-regex', 'rt-c', 'regex', '(?i)ORDER') = id AS same FROM webhook_routes WHERE name = 'rt-regex';
SELECT pg_temp.say('my order 12');
SELECT disable_webhook_route('rt-regex') AS changed, disable_webhook_route('rt-regex') AS again, pg_temp.say('my order 12');
SELECT enable_webhook_route('rt-regex'), pg_temp.say('my order 12');
-- Equal priorities: by name.
SELECT add_webhook_route('rt-0', 'rt-b', 'keyword', 'my order 12') IS NOT NULL, pg_temp.say('my order 12');
-- A service that is disabled is passed by, and a route that is removed is gone.
SELECT disable_webhook_service('rt-b'), pg_temp.say('my order 12'), pg_temp.to('{"type": "image", "image": {}}') AS image;
SELECT remove_webhook_route('rt-all'), pg_temp.to('{"type": "image", "image": {}}') AS image;
ROLLBACK;
-- Rolled back, and so forgotten.
SELECT pg_temp.say('my order 12');

-- Rollout: a share of users, always the same, and test users besides.
BEGIN;
SELECT register_webhook_service('rt-r', p_rollout_percent => 0, p_test_users => '{+7 000-000-009, user.9}');
SELECT add_webhook_route('rt-r', 'rt-r', 'all') IS NOT NULL AS added;
SELECT pg_temp.say('x', '7000000009') AS test_user, pg_temp.say('x', '7000000001') AS other,
	pg_temp.to('{"type": "text", "from": "7000000008", "from_user_id": "user.9"}') AS by_id,
	pg_temp.to('{"type": "text", "from": "7000000009", "from_user_id": "user.8"}') AS by_phone;
CREATE TEMP TABLE led (percent integer, phone text);
CREATE FUNCTION pg_temp.try(p_percent integer) RETURNS void LANGUAGE sql AS $$
	SELECT register_webhook_service('rt-r', p_rollout_percent => p_percent, p_test_users => '{}');
	INSERT INTO led SELECT p_percent, phone FROM (SELECT '70000010' || to_char(n, 'FM00') AS phone FROM generate_series(0, 99) n) p
		WHERE pg_temp.say('x', phone) = 'rt-r'
	$$;
SELECT pg_temp.try(p) FROM unnest(ARRAY[0, 10, 50, 90, 100]) AS p;
SELECT percent, count(*) FROM led GROUP BY 1 ORDER BY 1;
SELECT count(*) AS users_lost FROM led a WHERE percent < 100 AND NOT EXISTS
	(SELECT FROM led b WHERE b.phone = a.phone AND b.percent = (SELECT min(percent) FROM led WHERE percent > a.percent));
-- The documented formula.
SELECT count(*) AS differences FROM (SELECT '70000010' || to_char(n, 'FM00') AS phone FROM generate_series(0, 99) n) p
	WHERE ((hashtextextended(phone, hashtextextended('rt-r', 0)) & 9223372036854775807) % 100 < 50)
		IS DISTINCT FROM EXISTS (SELECT FROM led WHERE led.phone = p.phone AND percent = 50);
ROLLBACK;

-- What is wrong with a route is said when it is added.
SELECT add_webhook_route('rt', 'default', 'regex', '(');
SELECT add_webhook_route('rt', 'default', 'regex');
SELECT add_webhook_route('rt', 'default', 'magic', 'x');
SELECT add_webhook_route('rt', 'default', 'all', 'x');
SELECT add_webhook_route('rt', 'default', 'keyword', ' , ,');
SELECT add_webhook_route('rt', 'default', 'keyword', repeat('x', 2001));
SELECT add_webhook_route('rt', 'nobody', 'all');
SELECT add_webhook_route('rt', NULL, 'all');
SELECT add_webhook_route('rt', 'default', NULL, 'x');
SELECT add_webhook_route(NULL, 'default', 'all');
SELECT add_webhook_route('', 'default', 'all');
SELECT remove_webhook_route('rt'), enable_webhook_route('rt');
SELECT disable_webhook_route(NULL);
SELECT enable_webhook_service('nobody');
SELECT disable_webhook_service(NULL);

-- What got in without being asked, or is slow, never keeps a message out: it is passed by.
RESET client_min_messages;
BEGIN;
ALTER TABLE webhook_routes DISABLE TRIGGER webhook_check_route;
INSERT INTO webhook_routes (name, priority, match, pattern, service) VALUES
	('rt-bad', 1, 'regex', '(', 'default'), ('rt-empty', 2, 'keyword', ',', 'default'), ('rt-slow', 3, 'regex', '(.+)(.+)(.+)(.+)\4\3\2\1$', 'default');
UPDATE webhook_services SET enabled = true WHERE name = 'jobs';
\set VERBOSITY terse
SELECT whatsapp_message_id, service, outcome FROM receive_webhook(pg_temp.body(
	pg_temp.text('rt.11', '7000000011', repeat('ab', 2000)), pg_temp.text('rt.12', '7000000011', 'jobs'), pg_temp.text('rt.13', '7000000011', repeat('ab', 2000))));
SELECT pg_temp.say('jobs');
ROLLBACK;
-- A cancel in the middle of it is one of the statement.
BEGIN;
SELECT add_webhook_route('rt-slow', 'default', 'regex', '(.+)(.+)(.+)(.+)\4\3\2\1$', 1) IS NOT NULL AS added;
SET LOCAL statement_timeout = '50 ms';
SELECT pg_temp.say(repeat('ab', 2000));
ROLLBACK;
\set VERBOSITY default
SET client_min_messages = warning;

-- Hostile and huge.
BEGIN;
SELECT enable_webhook_service('jobs'), enable_webhook_service('fallback');
SELECT add_webhook_route('rt-all', 'jobs', 'regex', 'needle') IS NOT NULL AS added;
SELECT pg_temp.say(repeat('x', 1000000) || 'needle') AS far, pg_temp.say(repeat('é', 5000) || 'needle') AS near, pg_temp.say(E'\U0001F600 needle') AS beside,
	pg_temp.say(repeat(' ', 1000000) || 'jobs') AS padded;
ROLLBACK;
