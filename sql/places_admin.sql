-- A session remembers where the rows are that it met. They move, vanish, and leave their places to others; it must not matter.
\pset null -
SET client_min_messages = warning;
CREATE FUNCTION pg_temp.receive(p_phone text, VARIADIC p_ids text[]) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM receive_webhook((SELECT format('{"entry": [{"changes": [{"field": "messages", "value": {"metadata": {"phone_number_id": "plc"}, "messages": [%s]}}]}]}',
		string_agg(format('{"from": "%s", "id": "%s", "type": "text"}', p_phone, id), ',' ORDER BY n)) FROM unnest(p_ids) WITH ORDINALITY AS i (id, n)))
	WHERE outcome = 'accepted'
	$$;
CREATE FUNCTION pg_temp.claim() RETURNS TABLE (user_id text, ids text) LANGUAGE sql AS $$
	SELECT user_id, (SELECT string_agg(m ->> 'whatsapp_message_id', ' ' ORDER BY n) FROM jsonb_array_elements(messages) WITH ORDINALITY AS m (m, n))
	FROM claim_conversations(10, '00000000-0000-4000-8000-00000000000b') ORDER BY 1
	$$;
CREATE FUNCTION pg_temp.complete(VARIADIC p_users text[]) RETURNS integer LANGUAGE sql AS
	$$ SELECT complete_conversations(array_agg(id), '00000000-0000-4000-8000-00000000000b') FROM webhook_conversations WHERE user_id = ANY (p_users) $$;
CREATE TEMP VIEW messages AS
	SELECT whatsapp_message_id, processed_at IS NOT NULL AS processed, EXISTS (SELECT FROM webhook_inbox i WHERE i.message_id = m.id) AS waits
	FROM processed_webhook_messages m WHERE whatsapp_message_id ~ '^plc' ORDER BY 1;
CREATE TEMP VIEW left_over AS
	SELECT (SELECT count(*) FROM webhook_leases) AS leases, (SELECT count(*) FROM webhook_conversation_queue) AS queued,
		(SELECT count(*) FROM webhook_conversations WHERE locked_by IS NOT NULL) AS locked;
DELETE FROM webhook_inbox;
DELETE FROM webhook_conversation_queue;
DELETE FROM webhook_leases;
DELETE FROM processed_webhook_messages;
DELETE FROM webhook_identities;
DELETE FROM webhook_conversations;
VACUUM webhook_inbox, webhook_leases, processed_webhook_messages, webhook_identities, webhook_conversations;

-- Written anew between claim and completion, between one message and the next.
SELECT pg_temp.receive('981', 'plc.1', 'plc.2'), pg_temp.receive('982', 'plc.3');
SELECT * FROM pg_temp.claim();
VACUUM FULL webhook_inbox, webhook_leases, processed_webhook_messages, webhook_identities, webhook_conversations;
SELECT pg_temp.complete('981', '982');
SELECT * FROM left_over;
SELECT pg_temp.receive('981', 'plc.4');
SELECT count(*) FROM webhook_conversations;
SELECT * FROM pg_temp.claim();

-- Their end cut off.
DELETE FROM processed_webhook_messages;
DELETE FROM webhook_inbox;
DELETE FROM webhook_leases;
DELETE FROM webhook_identities;
VACUUM webhook_inbox, webhook_leases, processed_webhook_messages, webhook_identities;
SELECT pg_temp.complete('981');
SELECT * FROM left_over;

-- What came in the place of a message, in the inbox and among the messages, is another message.
SELECT pg_temp.receive('983', 'plc.5');
SELECT * FROM pg_temp.claim();
DELETE FROM processed_webhook_messages;
DELETE FROM webhook_inbox;
VACUUM webhook_inbox, processed_webhook_messages;
SELECT pg_temp.receive('984', 'plc.6');
SELECT pg_temp.complete('983');
SELECT * FROM messages;
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('984');
SELECT * FROM messages;

-- In the place of a name another name.
DELETE FROM webhook_identities;
VACUUM webhook_identities;
SELECT pg_temp.receive('985', 'plc.7');
SELECT pg_temp.receive('984', 'plc.8');
SELECT * FROM pg_temp.claim();

-- In the place of a conversation another one.
CREATE TEMP TABLE gone AS SELECT id FROM webhook_conversations;
DELETE FROM webhook_conversations;
VACUUM webhook_conversations;
SELECT count(get_or_create_conversation('99' || n)) FROM generate_series(1, 9) n;
SELECT DISTINCT acquire_conversation_lock(id, '00000000-0000-4000-8000-00000000000c') FROM gone;
SELECT count(locked_by) FROM webhook_conversations;

-- Rolled back.
BEGIN;
SELECT pg_temp.receive('987', 'plc.9');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('987');
ROLLBACK;
SELECT pg_temp.receive('987', 'plc.9');
SELECT * FROM pg_temp.claim();
BEGIN;
SELECT pg_temp.complete('987');
ROLLBACK;
SELECT pg_temp.complete('987');
SELECT * FROM messages;
SELECT * FROM left_over;

DELETE FROM webhook_inbox;
DELETE FROM webhook_conversation_queue;
DELETE FROM webhook_leases;
