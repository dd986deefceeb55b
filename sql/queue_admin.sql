-- The rows of the queue: which conversations share one, and how their names are taken out.
\set SHOW_CONTEXT never
\pset null -
-- A delivery with a message from each number of a list.
CREATE FUNCTION pg_temp.body(p_to text, p_froms integer[], p_ids text, p_type text DEFAULT 'text') RETURNS text LANGUAGE sql AS $$
	SELECT format('{"entry": [{"changes": [{"field": "messages", "value": {"metadata": {"phone_number_id": "%s"}, "messages": [%s]}}]}]}', p_to,
		string_agg(format('{"from": "%s", "id": "que.%s.%s", "type": "%s"}', 7200000000 + f, p_ids, n, p_type), ',' ORDER BY n))
	FROM unnest(p_froms) WITH ORDINALITY AS u (f, n)
	$$;
CREATE FUNCTION pg_temp.receive(p_to text, p_from integer, p_until integer, p_ids text) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM receive_webhook(pg_temp.body(p_to, ARRAY(SELECT generate_series(p_from, p_until)), p_ids)) WHERE outcome = 'accepted'
	$$;
CREATE FUNCTION pg_temp.claim(p_limit integer, p_lock integer, p_service text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
	SELECT format('%s conversations, %s messages', count(*), coalesce(sum(jsonb_array_length(messages)), 0))
	FROM claim_conversations(p_limit, ('00000000-0000-4000-8000-' || lpad(p_lock::text, 12, '0'))::uuid, p_service)
	$$;
CREATE FUNCTION pg_temp.complete(p_lock integer) RETURNS integer LANGUAGE sql AS $$
	SELECT complete_conversations(array_agg(id), (array_agg(locked_by))[1]) FROM webhook_conversations
	WHERE locked_by = ('00000000-0000-4000-8000-' || lpad(p_lock::text, 12, '0'))::uuid
	$$;
CREATE TEMP VIEW named AS SELECT service, seq, due_at, 1 + coalesce(cardinality(others), 0) AS names FROM webhook_conversation_queue;
-- How many rows there are of how many names.
CREATE TEMP VIEW rows AS SELECT service, names, count(*) FROM named GROUP BY 1, 2 ORDER BY 1, 2;
DELETE FROM webhook_conversation_queue;

SELECT pg_temp.receive('que', 1, 1, 'a');
SELECT * FROM rows;
SELECT pg_temp.claim(1, 1);
SELECT count(*) FROM rows;
SELECT pg_temp.complete(1);
SELECT pg_temp.receive('que', 1, 16, 'b');
SELECT * FROM rows;
SELECT pg_temp.claim(100, 1);
SELECT count(*) FROM rows;
SELECT pg_temp.complete(1);
SELECT pg_temp.receive('que', 1, 17, 'c');
SELECT * FROM rows;
SELECT pg_temp.claim(100, 1);
SELECT count(*) FROM rows;
SELECT pg_temp.complete(1);
SELECT pg_temp.receive('que', 1, 100, 'd');
SELECT * FROM rows;
-- A claim of fewer leaves rows with fewer names, and the rest comes in its turn.
SELECT pg_temp.claim(1, 1);
SELECT * FROM rows;
SELECT pg_temp.claim(20, 2);
SELECT * FROM rows;
SELECT pg_temp.claim(100, 3);
SELECT * FROM rows;
SELECT pg_temp.complete(1), pg_temp.complete(2), pg_temp.complete(3);
-- A conversation with several messages is named once.
SELECT count(*) FROM receive_webhook(pg_temp.body('que', '{1,2,1,1,2}', 'e'));
SELECT * FROM rows;
SELECT pg_temp.claim(100, 1);
SELECT count(*) FROM rows;
SELECT pg_temp.complete(1);

-- A row is of one service, and of one time.
SELECT register_webhook_service('que-1'), register_webhook_service('que-2', p_debounce => '10 minutes');
SELECT count(add_webhook_route('que-' || n, 'que-' || n, 'type', type, p_priority => 500)) FROM (VALUES (1, 'audio'), (2, 'image')) t (n, type);
SELECT count(*) FROM receive_webhook(replace(pg_temp.body('que-1', ARRAY(SELECT generate_series(1, 20)), 'f', 'audio'), '"entry": [',
	'"entry": [' || substring(pg_temp.body('que-2', ARRAY(SELECT generate_series(1, 3)), 'g', 'image') FROM '"entry": \[(.*)\]}$') || ',')) WHERE outcome = 'accepted';
SELECT service, names, due_at > now() AS put_off FROM named ORDER BY 1, 2;
SELECT pg_temp.claim(100, 1);
SELECT * FROM rows;
SELECT pg_temp.complete(1);
UPDATE webhook_inbox SET enqueued_at = enqueued_at - interval '10 minutes' WHERE service = 'que-2';
UPDATE webhook_conversation_queue SET due_at = due_at - interval '10 minutes';
SELECT pg_temp.claim(100, 1);
SELECT count(*) FROM rows;
SELECT pg_temp.complete(1);

-- What came in several deliveries is claimed at once. A row that told of it as well is no reason to claim before its
-- turn what came since.
SELECT pg_temp.receive('que', 1, 2, 'h');
SELECT pg_temp.receive('que', 1, 2, 'i');
SELECT pg_temp.claim(1, 1);
SELECT pg_temp.complete(1);
SELECT names FROM named ORDER BY due_at;
SELECT pg_temp.receive('que', 3, 3, 'j');
SELECT pg_temp.receive('que', 1, 1, 'k');
SELECT whatsapp_message_id FROM claim_conversations(3, '00000000-0000-4000-8000-000000000001') WITH ORDINALITY AS c,
	jsonb_to_recordset(c.messages) AS m (whatsapp_message_id text) ORDER BY c.ordinality, 1;
SELECT count(*) FROM rows;
SELECT pg_temp.complete(1);

-- Clients that never walk the queue leave nothing in it of what was locked when it came.
SELECT count(acquire_conversation_lock(id, '00000000-0000-4000-8000-0000000000aa')) AS locked FROM webhook_conversations WHERE user_id BETWEEN '7200000001' AND '7200000020' AND phone_number_id = 'que';
SELECT count(*) FROM receive_and_claim_webhook(pg_temp.body('que', ARRAY(SELECT generate_series(1, 20)), 'l'));
SELECT * FROM rows;
SELECT count(release_conversation_lock(id, '00000000-0000-4000-8000-0000000000aa')) FROM webhook_conversations WHERE locked_by = '00000000-0000-4000-8000-0000000000aa';
SELECT count(*), sum(jsonb_array_length(messages)) FROM receive_and_claim_webhook(pg_temp.body('que', ARRAY(SELECT generate_series(1, 20)), 'm'), NULL, NULL, '00000000-0000-4000-8000-000000000001');
SELECT count(*) FROM rows;
SELECT pg_temp.complete(1);

-- Health counts conversations; a service that is gone leaves its rows to 'default'.
SELECT count(*) FROM receive_webhook(pg_temp.body('que-1', ARRAY(SELECT generate_series(1, 20)), 'n', 'audio'));
SELECT service, conversations FROM webhook_waiting_services(clock_timestamp());
UPDATE webhook_inbox SET service = 'que-0';
UPDATE webhook_conversation_queue SET service = 'que-0';
SELECT cleanup_stuck_webhook_conversations();
SELECT service, count(*) FROM webhook_inbox GROUP BY 1;
SELECT * FROM rows;
-- A row goes when nothing that it names waits any more.
DELETE FROM webhook_inbox WHERE conversation_id IN (SELECT id FROM webhook_conversations WHERE phone_number_id = 'que-1' AND user_id <> '7200000018');
SELECT cleanup_stuck_webhook_conversations();
SELECT * FROM rows;
DELETE FROM webhook_inbox;
SELECT cleanup_stuck_webhook_conversations();
SELECT count(*) FROM rows;

-- Erasing one user leaves the others their place, in the queue and under their lease.
SELECT pg_temp.receive('que', 101, 103, 'o');
SELECT erase_webhook_user('7200000101') -> 'webhook_conversation_queue' AS erased;
SELECT * FROM rows;
SELECT pg_temp.claim(100, 1);
SELECT count(*) FROM rows;
SELECT erase_webhook_user('7200000102') -> 'webhook_leases' AS erased;
SELECT user_id FROM webhook_leases l JOIN webhook_conversations c ON c.id = ANY (l.conversation_id || l.others);
SELECT pg_temp.complete(1);
SELECT count(*) AS leases FROM webhook_leases WHERE lock_id = '00000000-0000-4000-8000-000000000001';
SELECT pg_temp.receive('que', 104, 104, 'p');
SELECT erase_webhook_user('7200000104') -> 'webhook_conversation_queue' AS erased;
SELECT count(*) FROM rows;
-- More names than wahook writes, and a null among them, by hand.
INSERT INTO webhook_conversation_queue (conversation_id, others, due_at)
	SELECT (array_agg(id))[1], (array_agg(id))[2:] || NULL::uuid, now() FROM webhook_conversations WHERE user_id BETWEEN '7200000001' AND '7200000040' AND phone_number_id = 'que';
SELECT pg_temp.claim(100, 1);
SELECT count(*) FROM rows;

DELETE FROM webhook_inbox;
DELETE FROM webhook_routes WHERE name ~ '^que-';
DELETE FROM webhook_services WHERE name ~ '^que-';
