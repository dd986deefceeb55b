-- The limit at intake: a token for each message of a user.
\set SHOW_CONTEXT never
\pset null -
CREATE FUNCTION pg_temp.body(p_phone text, VARIADIC p_ids text[]) RETURNS text LANGUAGE sql AS $$
	SELECT format('{"entry": [{"changes": [{"field": "messages", "value": {"metadata": {"phone_number_id": "lim"}, "messages": [%s]}}]}]}',
		string_agg(format('{"from": "%s", "id": "%s", "type": "text"}', p_phone, id), ',' ORDER BY n)) FROM unnest(p_ids) WITH ORDINALITY AS i (id, n)
	$$;
CREATE FUNCTION pg_temp.receive(p_phone text, VARIADIC p_ids text[]) RETURNS TABLE (id text, outcome text) LANGUAGE sql AS
	$$ SELECT whatsapp_message_id, outcome FROM receive_webhook(pg_temp.body(p_phone, VARIADIC p_ids)) $$;
CREATE FUNCTION pg_temp.claim() RETURNS TABLE (user_id text, ids text) LANGUAGE sql AS $$
	SELECT user_id, (SELECT string_agg(m ->> 'whatsapp_message_id', ' ' ORDER BY n) FROM jsonb_array_elements(messages) WITH ORDINALITY AS m (m, n))
	FROM claim_conversations(10, '00000000-0000-4000-8000-0000000000dd') ORDER BY 1
	$$;
CREATE FUNCTION pg_temp.complete(p_user text) RETURNS integer LANGUAGE sql AS
	$$ SELECT complete_webhook_messages(id, '00000000-0000-4000-8000-0000000000dd') FROM webhook_conversations WHERE user_id = p_user $$;
CREATE FUNCTION pg_temp.later(p_by interval) RETURNS void LANGUAGE sql AS $$
	UPDATE webhook_inbox SET enqueued_at = enqueued_at - p_by;
	UPDATE webhook_conversation_queue SET due_at = due_at - p_by;
	UPDATE webhook_rate_limits SET refilled_at = refilled_at - p_by;
	$$;
CREATE TEMP VIEW waits AS SELECT m.whatsapp_message_id AS id, round(extract(epoch FROM i.enqueued_at - m.received_at), -2) AS put_off_by
	FROM webhook_inbox i JOIN processed_webhook_messages m ON m.id = i.message_id WHERE m.whatsapp_message_id LIKE 'lim.%' ORDER BY i.seq;
CREATE TEMP VIEW tokens AS SELECT c.user_id, round(l.tokens::numeric, 1) AS tokens FROM webhook_rate_limits l JOIN webhook_conversations c ON c.id::text = l.identifier
	WHERE l.bucket = 'intake' ORDER BY 1;
SELECT count(*) AS waiting FROM webhook_inbox;
DELETE FROM webhook_conversation_queue;

-- There is none unless it is enabled.
SELECT max_tokens, refill_per_second, action, enabled FROM webhook_rate_limit_buckets WHERE bucket = 'intake';
SELECT count(*), min(outcome) FROM pg_temp.receive('7200000000', VARIADIC ARRAY(SELECT 'lim.0.' || n FROM generate_series(1, 100) n));
SELECT * FROM tokens;
DELETE FROM webhook_inbox;
DELETE FROM webhook_conversation_queue;

-- A message too many waits for its token, and those behind it for theirs. Other users have their own.
UPDATE webhook_rate_limit_buckets SET enabled = true, max_tokens = 2, refill_per_second = 0.001 WHERE bucket = 'intake';
SELECT * FROM pg_temp.receive('7200000001', 'lim.1', 'lim.2', 'lim.3', 'lim.4');
SELECT * FROM pg_temp.receive('7200000002', 'lim.11');
SELECT * FROM waits;
SELECT * FROM tokens;
-- One that is known already costs none.
SELECT * FROM pg_temp.receive('7200000001', 'lim.4', 'lim.3', 'lim.3');
SELECT * FROM tokens;
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('7200000001'), pg_temp.complete('7200000002');
SELECT * FROM pg_temp.claim();
-- Still in debt, a later message comes after the others.
SELECT pg_temp.later('1000 seconds');
SELECT * FROM pg_temp.receive('7200000001', 'lim.5');
SELECT * FROM waits;
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('7200000001');
SELECT pg_temp.later('1000 seconds');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('7200000001');
SELECT pg_temp.later('1000 seconds');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('7200000001');
-- A bucket is full after a while, and holds no more than that.
SELECT pg_temp.later('2 hours');
SELECT * FROM pg_temp.receive('7200000001', 'lim.6', 'lim.7', 'lim.8');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('7200000001');
-- However slow the refill, nothing waits longer than a day.
UPDATE webhook_rate_limit_buckets SET refill_per_second = 1e-9 WHERE bucket = 'intake';
SELECT * FROM pg_temp.receive('7200000003', 'lim.21', 'lim.22', 'lim.23', 'lim.24');
SELECT * FROM waits WHERE id LIKE 'lim.2_';
UPDATE webhook_rate_limit_buckets SET refill_per_second = 'NaN' WHERE bucket = 'intake';
SELECT * FROM pg_temp.receive('7200000004', 'lim.25', 'lim.26', 'lim.27');
SELECT * FROM waits WHERE id IN ('lim.25', 'lim.26', 'lim.27');
-- What is put off is not claimed with the call that receives it.
UPDATE webhook_rate_limit_buckets SET refill_per_second = 0.001 WHERE bucket = 'intake';
SELECT user_id, jsonb_array_length(messages) AS claimed FROM receive_and_claim_webhook(pg_temp.body('7200000005', 'lim.31', 'lim.32', 'lim.33'), NULL, NULL, '00000000-0000-4000-8000-0000000000dd');
SELECT pg_temp.complete('7200000005');
SELECT * FROM waits WHERE id LIKE 'lim.3_';
SELECT user_id FROM receive_and_claim_webhook(pg_temp.body('7200000005', 'lim.34'), NULL, NULL, '00000000-0000-4000-8000-0000000000dd');
-- It is not check_rate_limit()'s to spend, and that function has its own buckets of the same size.
SELECT check_rate_limit('7200000005', 'intake', 2) -> 'allowed' AS allowed;

-- Dropped: recorded, so that it is known when it comes again, and not processed.
UPDATE webhook_rate_limit_buckets SET action = 'drop' WHERE bucket = 'intake';
SELECT * FROM pg_temp.receive('7200000006', 'lim.41', 'lim.42', 'lim.43', 'lim.44');
SELECT * FROM pg_temp.receive('7200000006', 'lim.43', 'lim.45');
SELECT * FROM waits WHERE id LIKE 'lim.4_';
SELECT * FROM tokens WHERE user_id = '7200000006';
SELECT m.whatsapp_message_id, m.processed_at, a.attempt, a.outcome, a.error, a.service, a.finished_at = m.received_at AS at_once
	FROM processed_webhook_messages m LEFT JOIN webhook_delivery_attempts a ON a.message_id = m.id WHERE m.whatsapp_message_id LIKE 'lim.4_' ORDER BY 1;
SELECT count(*) FROM webhook_conversation_queue q JOIN webhook_conversations c ON c.id = q.conversation_id WHERE user_id = '7200000006';
-- Nor does it act otherwise.
SELECT enable_webhook_service('fallback');
INSERT INTO user_sessions (phone_number, active_service) VALUES ('7200000006', 'fallback');
SELECT service, outcome FROM receive_webhook(replace(pg_temp.body('7200000006', 'lim.46'), '"type": "text"', '"type": "text", "text": {"body": "menu"}'));
SELECT active_service FROM user_sessions WHERE phone_number = '7200000006';
DELETE FROM user_sessions;
SELECT disable_webhook_service('fallback');
-- Whole and broken identifiers: as many users as a delivery has, each with a bucket.
SELECT outcome, count(*) FROM receive_webhook((SELECT format('{"entry": [{"changes": [{"field": "messages", "value": {"metadata": {"phone_number_id": "lim"}, "messages": [%s]}}]}]}',
	string_agg(format('{"from": "72100%s", "id": "lim.9.%s", "type": "text"}', lpad((n % 100)::text, 5, '0'), n), ',' ORDER BY n)) FROM generate_series(1, 300) n)) GROUP BY 1 ORDER BY 1;

UPDATE webhook_rate_limit_buckets SET max_tokens = 60, refill_per_second = 1, action = 'delay', enabled = false WHERE bucket = 'intake';
SELECT * FROM pg_temp.receive('7200000006', 'lim.51');
DELETE FROM webhook_rate_limits;
DELETE FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'lim.%';
DELETE FROM webhook_inbox;
DELETE FROM webhook_conversations WHERE user_id LIKE '72%';
DELETE FROM webhook_conversation_queue;
DELETE FROM webhook_leases;
DELETE FROM webhook_attempts;
