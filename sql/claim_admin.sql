-- Claims whose holders vanish, and rows that somebody changed by hand. It changes what only the owner may.
\pset null -
CREATE FUNCTION pg_temp.receive(p_phone text, VARIADIC p_ids text[]) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM receive_webhook((SELECT format('{"entry": [{"changes": [{"field": "messages", "value": {"metadata": {"phone_number_id": "cla"}, "messages": [%s]}}]}]}',
		string_agg(format('{"from": "%s", "id": "%s", "type": "text"}', p_phone, id), ',' ORDER BY n)) FROM unnest(p_ids) WITH ORDINALITY AS i (id, n)))
	WHERE outcome = 'accepted'
	$$;
-- The leases of all that is locked end now; the first one ended a while ago.
CREATE FUNCTION pg_temp.expire(p_ago interval DEFAULT '1 second') RETURNS void LANGUAGE sql AS $$
	UPDATE webhook_conversations SET lock_expires_at = clock_timestamp() - p_ago, locked_at = clock_timestamp() - p_ago - interval '2 minutes'
		WHERE locked_by IS NOT NULL AND lock_token IS NOT NULL;
	UPDATE webhook_leases SET expires_at = clock_timestamp() - p_ago;
	$$;
ALTER TABLE webhook_conversations DISABLE TRIGGER webhook_conversations_lock;
CREATE TEMP VIEW queue AS
	SELECT 'waits' AS what, service, due_at <= clock_timestamp() AS due, count(*) FROM webhook_conversation_queue GROUP BY 1, 2, 3
	UNION ALL SELECT 'leased', service, expires_at <= clock_timestamp(), sum(1 + coalesce(cardinality(others), 0)) FROM webhook_leases GROUP BY 1, 2, 3
	ORDER BY 1 DESC, 2, 3;
CREATE TEMP VIEW attempts AS
	SELECT whatsapp_message_id AS wamid, attempt, outcome, lock_token AS token, duration_ms > 0 AS lasted
	FROM webhook_delivery_attempts AS a JOIN processed_webhook_messages AS p ON p.id = a.message_id
	WHERE whatsapp_message_id ~ '^cla' ORDER BY 1, 2;
CREATE FUNCTION pg_temp.claim(p_limit integer DEFAULT 1, p_service text DEFAULT NULL) RETURNS TABLE (user_id text, ids text, attempts text, token bigint) LANGUAGE sql AS $$
	SELECT user_id, (SELECT string_agg(m ->> 'whatsapp_message_id', ' ' ORDER BY n) FROM jsonb_array_elements(messages) WITH ORDINALITY AS m (m, n)),
		(SELECT string_agg(m ->> 'attempt', ' ' ORDER BY n) FROM jsonb_array_elements(messages) WITH ORDINALITY AS m (m, n)), lock_token
	FROM claim_conversations(p_limit, '00000000-0000-4000-8000-00000000000a', p_service)
	$$;
CREATE FUNCTION pg_temp.complete(p_user text) RETURNS integer LANGUAGE sql AS
	$$ SELECT complete_webhook_messages(id, '00000000-0000-4000-8000-00000000000a') FROM webhook_conversations WHERE user_id = p_user $$;
SELECT count(*) FROM webhook_inbox;
DELETE FROM webhook_conversation_queue;
DELETE FROM webhook_leases;

-- A conversation with waiting messages is in the queue, a claimed one among the leases, an idle one nowhere.
SELECT pg_temp.receive('271', 'cla.1', 'cla.2');
SELECT * FROM queue;
SELECT * FROM pg_temp.claim();
SELECT * FROM queue;
SELECT pg_temp.receive('271', 'cla.3');
SELECT * FROM pg_temp.claim();
-- The claim that came in vain took it out of the queue; the release puts it in again.
SELECT * FROM queue;
SELECT l.expires_at = c.lock_expires_at AS told, l.lock_id = c.locked_by AS by_holder FROM webhook_leases AS l JOIN webhook_conversations AS c ON c.id = l.conversation_id;
SELECT pg_temp.complete('271');
SELECT * FROM queue;
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('271');
SELECT * FROM queue;

-- The holder vanishes: the next claim has the messages, and each counts the attempt that was lost.
SELECT pg_temp.receive('271', 'cla.4');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.expire();
SELECT pg_temp.receive('271', 'cla.5');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.expire();
SELECT * FROM pg_temp.claim();
SELECT * FROM attempts WHERE outcome = 'lost';
-- The third time is one too many for the first, the other has one more.
SELECT pg_temp.expire();
SELECT * FROM pg_temp.claim();
SELECT whatsapp_message_id, error, retry_count, resolution_status, conversation_id = (SELECT id FROM webhook_conversations WHERE user_id = '271') AS same FROM webhook_dlq WHERE whatsapp_message_id ~ '^cla';
SELECT pg_temp.expire();
-- Nothing is left to hand over: the expired lock goes, and the queue is empty.
SELECT * FROM pg_temp.claim();
SELECT locked_by, claimed_messages, error_count FROM webhook_conversations WHERE user_id = '271';
SELECT * FROM queue;
SELECT whatsapp_message_id, error FROM webhook_dlq WHERE whatsapp_message_id ~ '^cla' ORDER BY 1;
SELECT * FROM attempts WHERE wamid IN ('cla.4', 'cla.5');
-- The same by acquire and by the cleanup.
SET wahook.max_attempts = 1;
SELECT pg_temp.receive('272', 'cla.6'), pg_temp.receive('273', 'cla.7');
SELECT * FROM pg_temp.claim(2);
SELECT pg_temp.expire('10 minutes');
SELECT acquire_conversation_lock(id, '00000000-0000-4000-8000-00000000000b') FROM webhook_conversations WHERE user_id = '272';
SELECT cleanup_stuck_webhook_conversations();
SELECT release_conversation_lock(id, '00000000-0000-4000-8000-00000000000b') FROM webhook_conversations WHERE user_id = '272';
SELECT user_id, locked_by, claimed_messages, error_count FROM webhook_conversations WHERE user_id IN ('272', '273') ORDER BY 1;
SELECT whatsapp_message_id, error FROM webhook_dlq WHERE whatsapp_message_id IN ('cla.6', 'cla.7') ORDER BY 1;
RESET wahook.max_attempts;
-- However long ago it vanished.
SELECT pg_temp.receive('274', 'cla.8');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.expire('60 years');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('274');
SELECT duration_ms FROM webhook_delivery_attempts WHERE outcome = 'lost' ORDER BY duration_ms DESC LIMIT 1;
DELETE FROM webhook_dlq WHERE whatsapp_message_id ~ '^cla';

-- Messages of two services in one conversation: each has a line of its own, under the one lock.
INSERT INTO webhook_services (name) VALUES ('cla_other');
SELECT pg_temp.receive('275', 'cla.11', 'cla.12', 'cla.13');
UPDATE webhook_inbox SET service = 'cla_other' WHERE message_id = (SELECT id FROM processed_webhook_messages WHERE whatsapp_message_id = 'cla.12');
INSERT INTO webhook_conversation_queue (conversation_id, service, due_at) SELECT id, 'cla_other', now() FROM webhook_conversations WHERE user_id = '275';
SELECT * FROM pg_temp.claim(1, 'cla_other');
SELECT * FROM pg_temp.claim(1, 'default');
SELECT * FROM queue;
SELECT pg_temp.complete('275');
SELECT * FROM queue;
SELECT * FROM pg_temp.claim(1, 'cla_other');
-- Its holder vanishes; a claim for the other service finds nothing for itself, and does not count the loss twice.
SELECT * FROM pg_temp.claim(1, 'default');
SELECT pg_temp.expire();
INSERT INTO webhook_conversation_queue (conversation_id, service, due_at) SELECT id, 'cla_other', now() - interval '1 hour' FROM webhook_conversations WHERE user_id = '275';
SELECT * FROM pg_temp.claim(1, 'cla_other');
SELECT * FROM pg_temp.claim(1, 'cla_other');
SELECT locked_by FROM webhook_conversations WHERE user_id = '275';
SELECT * FROM queue;
-- Without a service a claim takes what is oldest, of any that clients pull, a service at a time.
UPDATE webhook_inbox SET service = 'cla_other' WHERE message_id = (SELECT id FROM processed_webhook_messages WHERE whatsapp_message_id = 'cla.13');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('275');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('275');
SELECT * FROM queue;
-- A message that was given another service by hand is found by the next look at its conversation.
SELECT pg_temp.receive('275', 'cla.14');
UPDATE webhook_inbox SET service = 'cla_other' WHERE message_id = (SELECT id FROM processed_webhook_messages WHERE whatsapp_message_id = 'cla.14');
SELECT * FROM pg_temp.claim(1, 'default');
SELECT * FROM pg_temp.claim(1, 'cla_other');
-- What waits for a disabled service, or one that clients don't pull, goes on waiting.
SELECT pg_temp.receive('275', 'cla.15');
UPDATE webhook_inbox SET service = 'cla_other' WHERE message_id = (SELECT id FROM processed_webhook_messages WHERE whatsapp_message_id = 'cla.15');
SELECT pg_temp.complete('275');
UPDATE webhook_services SET enabled = false WHERE name = 'cla_other';
SELECT * FROM pg_temp.claim(1);
SELECT * FROM pg_temp.claim(1, 'cla_other');
UPDATE webhook_services SET enabled = true, url = 'https://bot.example.com/' WHERE name = 'cla_other';
SELECT * FROM pg_temp.claim(1);
SELECT * FROM pg_temp.claim(1, 'cla_other');
-- Disabled while it is claimed, it can be completed. When its holder vanishes, its messages wait again.
UPDATE webhook_services SET enabled = false WHERE name = 'cla_other';
SELECT pg_temp.expire();
SELECT * FROM pg_temp.claim(1);
SELECT * FROM pg_temp.claim(1, 'cla_other');
SELECT cleanup_stuck_webhook_conversations();
SELECT * FROM queue;
UPDATE webhook_services SET enabled = true WHERE name = 'cla_other';
SELECT * FROM pg_temp.claim(1, 'cla_other');
SELECT pg_temp.complete('275');
DELETE FROM webhook_services WHERE name = 'cla_other';

-- A message that was deleted by hand is completed away.
SELECT pg_temp.receive('276', 'cla.21', 'cla.22');
DELETE FROM processed_webhook_messages WHERE whatsapp_message_id = 'cla.21';
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('276');
SELECT pg_temp.receive('276', 'cla.23');
DELETE FROM processed_webhook_messages WHERE whatsapp_message_id = 'cla.23';
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('276');
SELECT count(*) FROM webhook_inbox;

-- A conversation that was deleted by hand comes back with its next message, or with those that waited.
SELECT pg_temp.receive('277', 'cla.31');
DELETE FROM webhook_conversations WHERE user_id = '277';
SELECT * FROM pg_temp.claim();
SELECT pg_temp.receive('277', 'cla.32');
SELECT c.user_id, c.whatsapp_phone, c.phone_number_id, p.whatsapp_message_id FROM webhook_conversations AS c
	JOIN processed_webhook_messages AS p ON p.conversation_id = c.id WHERE whatsapp_message_id LIKE 'cla.3_' ORDER BY 4;
SELECT complete_webhook_messages(id, '00000000-0000-4000-8000-00000000000a') FROM webhook_conversations WHERE locked_by = '00000000-0000-4000-8000-00000000000a';
SELECT * FROM pg_temp.claim(2);
SELECT complete_webhook_messages(id, '00000000-0000-4000-8000-00000000000a') FROM webhook_conversations WHERE locked_by = '00000000-0000-4000-8000-00000000000a';

-- Two of which not even a name is left are still two.
SELECT pg_temp.receive('278', 'cla.33'), pg_temp.receive('279', 'cla.34');
UPDATE webhook_inbox SET user_id = NULL, whatsapp_phone = NULL;
DELETE FROM webhook_identities WHERE identity IN ('278', '279');
DELETE FROM webhook_conversations WHERE user_id IN ('278', '279');
SELECT * FROM pg_temp.claim(3);
SELECT sum(complete_webhook_messages(id, '00000000-0000-4000-8000-00000000000a')) FROM webhook_conversations WHERE locked_by = '00000000-0000-4000-8000-00000000000a';

-- A queue row without a message is taken away, also one of a conversation that never was.
INSERT INTO webhook_conversation_queue (conversation_id, due_at) SELECT id, now() - interval '1 hour' FROM webhook_conversations WHERE user_id = '271';
INSERT INTO webhook_conversation_queue (conversation_id, due_at) VALUES ('00000000-0000-4000-8000-000000000000', now() - interval '1 hour');
SELECT * FROM pg_temp.claim(10);
SELECT count(*) FROM webhook_conversation_queue;
ALTER TABLE webhook_conversations ENABLE TRIGGER webhook_conversations_lock;

-- Many that can't be claimed stand before one that can.
SELECT count(pg_temp.receive((28000 + n)::text, 'cla.4' || n)) FROM generate_series(1, 200) AS n;
UPDATE webhook_conversations SET locked_by = '00000000-0000-4000-8000-00000000000c', locked_at = now() WHERE user_id BETWEEN '28001' AND '28199';
UPDATE webhook_conversation_queue SET due_at = now() - interval '1 hour' WHERE conversation_id IN (SELECT id FROM webhook_conversations WHERE user_id BETWEEN '28001' AND '28199');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('28200');
SELECT count(*) AS queue FROM webhook_conversation_queue;
-- They are unlocked directly, which puts them nowhere: the end of their leases brings them back, to a claim or by the cleanup.
UPDATE webhook_conversations SET locked_by = NULL, locked_at = NULL WHERE user_id BETWEEN '28001' AND '28199';
UPDATE webhook_leases SET expires_at = now() - interval '1 hour' WHERE conversation_id IN (SELECT id FROM webhook_conversations WHERE user_id < '28100');
SELECT cleanup_stuck_webhook_conversations();
SELECT count(*) AS queue FROM webhook_conversation_queue;
UPDATE webhook_leases SET expires_at = now() - interval '1 hour';
SELECT count(*) FROM pg_temp.claim(1000);
SELECT complete_conversations(array_agg(id), '00000000-0000-4000-8000-00000000000a') FROM webhook_conversations WHERE locked_by = '00000000-0000-4000-8000-00000000000a';
SELECT count(*) AS inbox FROM webhook_inbox;
SELECT count(*) AS queue FROM webhook_conversation_queue;
SELECT * FROM queue;

-- One row tells of all that a claim locked; it goes with the last of them, or when its time has come.
SELECT sum(pg_temp.receive((28000 + n)::text, 'cla.5' || n)) FROM generate_series(1, 250) AS n;
SELECT count(*) FROM pg_temp.claim(250);
SELECT 1 + coalesce(cardinality(others), 0) AS conversations FROM webhook_leases ORDER BY 1 DESC;
SELECT complete_conversations((SELECT array_agg(id) FROM (SELECT id FROM webhook_conversations WHERE locked_by IS NOT NULL LIMIT 249) held), '00000000-0000-4000-8000-00000000000a');
SELECT count(*) FROM webhook_leases;
SELECT complete_conversations((SELECT array_agg(id) FROM webhook_conversations WHERE locked_by IS NOT NULL), '00000000-0000-4000-8000-00000000000a');
SELECT count(*) FROM webhook_leases;
SELECT pg_temp.expire();
SELECT * FROM pg_temp.claim();
SELECT * FROM queue;
-- A lease that was renewed is looked at again when it has ended, by the same row or another.
SELECT pg_temp.receive('282', 'cla.61'), pg_temp.receive('283', 'cla.62');
SELECT * FROM pg_temp.claim(2);
SELECT renew_conversation_lock(id, locked_by, '10 minutes') > now() AS renewed FROM webhook_conversations WHERE user_id = '282';
UPDATE webhook_leases SET expires_at = now();
SELECT * FROM pg_temp.claim(2);
SELECT * FROM queue;
UPDATE webhook_conversations SET lock_expires_at = now() - interval '1 second' WHERE user_id = '283';
UPDATE webhook_leases SET expires_at = now() - interval '1 second';
SELECT * FROM pg_temp.claim(2, 'no such service');
SELECT * FROM pg_temp.claim(2);
SELECT * FROM queue;
SELECT pg_temp.complete('283');
SELECT l.expires_at = c.lock_expires_at AS told FROM webhook_leases AS l JOIN webhook_conversations AS c ON c.id = l.conversation_id;
SELECT pg_temp.complete('282');
SELECT count(*) FROM webhook_leases;
-- Nulls that somebody wrote by hand are nobody.
INSERT INTO webhook_leases VALUES (now() - interval '1 second', '00000000-0000-4000-8000-000000000000', '00000000-0000-4000-8000-000000000000', 'default', '{NULL,NULL}');
SELECT * FROM pg_temp.claim();
SELECT count(*) FROM webhook_leases;

-- At most 16 MB, and the message that goes beyond: what a claim can't return it must not try for ever.
DO $$
BEGIN
	FOR n IN 1 .. 7 LOOP
		PERFORM receive_webhook(format('{"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"field": "messages", "value":'
			' {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "1"},'
			' "messages": [{"from": "284", "id": "cla.7%s", "type": "text", "text": {"body": "%s"}}]}}]}]}', n, repeat('x', 2900000)));
	END LOOP;
END
$$;
SELECT jsonb_array_length(messages) AS messages, messages -> -1 ->> 'whatsapp_message_id' AS last,
	complete_webhook_messages(conversation_id, lock_id) AS completed FROM claim_conversations();
SELECT jsonb_array_length(messages) AS messages, messages -> -1 ->> 'whatsapp_message_id' AS last,
	complete_webhook_messages(conversation_id, lock_id) AS completed FROM claim_conversations();
