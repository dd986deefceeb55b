-- Lines of messages: a quiet moment before they are handed over, strict order after a failure, and retries by service.
\set SHOW_CONTEXT never
\pset null -
CREATE FUNCTION pg_temp.receive(p_phone text, VARIADIC p_ids text[]) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(DISTINCT service || ' ' || outcome, ', ') FROM receive_webhook((SELECT format('{"entry": [{"changes": [{"field": "messages", "value": {"metadata": {"phone_number_id": "ord"}, "messages": [%s]}}]}]}',
		string_agg(format('{"from": "%s", "id": "%s", "type": "text"}', p_phone, id), ',' ORDER BY n)) FROM unnest(p_ids) WITH ORDINALITY AS i (id, n)))
	$$;
CREATE FUNCTION pg_temp.claim(p_service text DEFAULT NULL) RETURNS TABLE (user_id text, ids text, attempts text) LANGUAGE sql AS $$
	SELECT user_id, (SELECT string_agg(m ->> 'whatsapp_message_id', ' ' ORDER BY n) FROM jsonb_array_elements(messages) WITH ORDINALITY AS m (m, n)),
		(SELECT string_agg(m ->> 'attempt', ' ' ORDER BY n) FROM jsonb_array_elements(messages) WITH ORDINALITY AS m (m, n))
	FROM claim_conversations(10, '00000000-0000-4000-8000-0000000000cc', p_service) ORDER BY 1
	$$;
CREATE FUNCTION pg_temp.complete(p_user text, VARIADIC p_ids text[] DEFAULT NULL) RETURNS integer LANGUAGE sql AS
	$$ SELECT complete_webhook_messages(id, '00000000-0000-4000-8000-0000000000cc', p_ids) FROM webhook_conversations WHERE user_id = p_user $$;
CREATE FUNCTION pg_temp.fail(p_user text, p_id text, p_retryable boolean DEFAULT true) RETURNS text LANGUAGE sql AS $$
	SELECT format('%s, %s retries', (f).resolution_status, (f).retry_count) FROM (SELECT fail_webhook_message(id, '00000000-0000-4000-8000-0000000000cc', p_id, 'boom', p_retryable => p_retryable) AS f
		FROM webhook_conversations WHERE user_id = p_user) f
	$$;
-- As if this much time had gone by.
CREATE FUNCTION pg_temp.later(p_by interval) RETURNS void LANGUAGE sql AS $$
	UPDATE webhook_inbox SET enqueued_at = enqueued_at - p_by;
	UPDATE webhook_conversation_queue SET due_at = due_at - p_by;
	$$;
CREATE TEMP VIEW queue AS SELECT service, due_at <= clock_timestamp() AS due, count(*) FROM webhook_conversation_queue GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) AS waiting FROM webhook_inbox;
DELETE FROM webhook_conversation_queue;
SELECT register_webhook_service('ord', p_debounce => '10 minutes', p_debounce_max => '25 minutes'), register_webhook_service('ord-other');
SELECT add_webhook_route('ord', 'ord', 'all', p_priority => 500) IS NOT NULL AS added;

-- A quiet moment: each message starts it again, and all that came is handed over at its end.
SELECT pg_temp.receive('7100000001', 'ord.1');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.later('6 minutes'), pg_temp.receive('7100000001', 'ord.2', 'ord.3');
SELECT pg_temp.later('6 minutes');
SELECT * FROM pg_temp.claim();
SELECT * FROM queue;
SELECT pg_temp.later('4 minutes');
SELECT * FROM pg_temp.claim();
SELECT * FROM queue;
-- What comes meanwhile waits for its own.
SELECT pg_temp.receive('7100000001', 'ord.4');
SELECT pg_temp.complete('7100000001');
SELECT * FROM pg_temp.claim();
SELECT * FROM queue;
-- Never longer than the longest wait, however many come.
SELECT pg_temp.later('9 minutes'), pg_temp.receive('7100000001', 'ord.5');
SELECT pg_temp.later('9 minutes'), pg_temp.receive('7100000001', 'ord.6');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.later('7 minutes'), pg_temp.receive('7100000001', 'ord.7');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('7100000001');
SELECT * FROM queue;
-- A burst that is looked at over and over has one queue row.
SELECT pg_temp.receive('7100000002', 'ord.8'), pg_temp.later('9 minutes'), pg_temp.receive('7100000002', 'ord.9'), pg_temp.later('2 minutes');
SELECT * FROM pg_temp.claim();
SELECT * FROM pg_temp.claim();
SELECT * FROM queue;
-- A retry does not wait for it.
SELECT pg_temp.later('20 minutes');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.fail('7100000002', 'ord.8');
SELECT pg_temp.complete('7100000002');
UPDATE webhook_dlq SET next_retry_at = clock_timestamp() WHERE whatsapp_message_id = 'ord.8';
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('7100000002');
-- Taken away, it keeps nobody any more.
SELECT pg_temp.receive('7100000003', 'ord.10');
SELECT register_webhook_service('ord', p_debounce => '0');
SELECT pg_temp.receive('7100000003', 'ord.11');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('7100000003');
-- Its queue row stays until it is looked at in vain.
SELECT * FROM queue;
DELETE FROM webhook_conversation_queue;

-- Strict order: a message that failed stays at the head of its line.
SELECT register_webhook_service('ord', p_strict_order => true, p_max_retries => 2, p_retry_base_delay => '10 minutes', p_retry_max_delay => '15 minutes');
SELECT pg_temp.receive('7100000004', 'ord.21', 'ord.22', 'ord.23');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.fail('7100000004', 'ord.22');
-- Not twice, and completing the rest does not complete it.
\set VERBOSITY sqlstate
SELECT pg_temp.fail('7100000004', 'ord.22');
\set VERBOSITY default
SELECT pg_temp.complete('7100000004');
SELECT processed_at IS NOT NULL AS processed, whatsapp_message_id FROM processed_webhook_messages WHERE whatsapp_message_id IN ('ord.21', 'ord.22', 'ord.23') ORDER BY 2;
SELECT resolution_status, retry_count, max_retries, next_retry_at - updated_at AS delay FROM webhook_dlq WHERE whatsapp_message_id = 'ord.22';
SELECT pg_temp.receive('7100000004', 'ord.24');
SELECT * FROM pg_temp.claim();
SELECT * FROM queue;
-- Other services of the same conversation, and other conversations of the same service, are not held.
SELECT add_webhook_route('ord', 'ord-other', 'all', p_priority => 500) IS NOT NULL AS added;
SELECT pg_temp.receive('7100000004', 'ord.25');
SELECT add_webhook_route('ord', 'ord', 'all', p_priority => 500) IS NOT NULL AS added;
SELECT pg_temp.receive('7100000005', 'ord.26');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('7100000004'), pg_temp.complete('7100000005');
-- It is retried before those behind it, in one burst with them, with or without the job.
SELECT pg_temp.later('10 minutes');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.fail('7100000004', 'ord.22');
SELECT resolution_status, retry_count, next_retry_at - updated_at AS delay FROM webhook_dlq WHERE whatsapp_message_id = 'ord.22';
-- The holder stops at it and gives back the rest.
SELECT release_conversation_lock(id, '00000000-0000-4000-8000-0000000000cc') FROM webhook_conversations WHERE user_id = '7100000004';
SELECT * FROM pg_temp.claim();
-- The runbook's statement makes it due at once.
UPDATE webhook_dlq SET next_retry_at = now() WHERE resolution_status = 'pending' AND whatsapp_message_id = 'ord.22';
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT resolution_status, retry_count FROM webhook_dlq WHERE whatsapp_message_id = 'ord.22';
SELECT * FROM pg_temp.claim();
-- Given up, it lets the others go.
SELECT pg_temp.fail('7100000004', 'ord.22');
SELECT pg_temp.complete('7100000004', 'ord.24');
SELECT * FROM queue;

-- The end of a hold lets the others go at once: resolved, discarded, deleted, given up by hand.
CREATE FUNCTION pg_temp.held(p_n integer) RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.receive('710000010' || p_n, 'ord.3' || p_n, 'ord.4' || p_n);
	SELECT pg_temp.claim();
	SELECT pg_temp.fail('710000010' || p_n, 'ord.3' || p_n);
	SELECT release_conversation_lock(id, '00000000-0000-4000-8000-0000000000cc') FROM webhook_conversations WHERE user_id = '710000010' || p_n;
	SELECT ids FROM pg_temp.claim();
	$$;
SELECT pg_temp.held(n) FROM generate_series(1, 5) n;
UPDATE webhook_dlq SET resolution_status = 'resolved' WHERE whatsapp_message_id = 'ord.31';
UPDATE webhook_dlq SET error = 'bang' WHERE whatsapp_message_id = 'ord.32';
SELECT discard_dead_letters(p_service => 'ord', p_error_like => 'bang') AS discarded;
DELETE FROM wa_dead_letter_queue WHERE message_id = 'ord.33';
UPDATE webhook_dlq SET resolution_status = 'failed' WHERE whatsapp_message_id = 'ord.34';
SELECT user_id, ids FROM pg_temp.claim();
SELECT pg_temp.complete('710000010' || n) FROM generate_series(1, 4) n;
-- Redriven, it is retried in its place.
SELECT retry_dead_letters(p_service => 'ord', p_error_like => 'boom') AS redriven;
SELECT user_id, ids, attempts FROM pg_temp.claim();
SELECT pg_temp.complete('7100000105');
SELECT whatsapp_message_id, resolution_status FROM webhook_dlq WHERE whatsapp_message_id LIKE 'ord.3_' ORDER BY 1;
-- Put off by hand.
SELECT pg_temp.held(6);
UPDATE webhook_dlq SET next_retry_at = next_retry_at + interval '1 hour' WHERE whatsapp_message_id = 'ord.36';
SELECT pg_temp.later('30 minutes');
SELECT ids FROM pg_temp.claim();
SELECT pg_temp.later('60 minutes');
SELECT ids FROM pg_temp.claim();
SELECT pg_temp.complete('7100000106');
-- A holder that vanishes too often holds the line as well.
SET wahook.max_attempts = 1;
SELECT pg_temp.receive('7100000107', 'ord.37', 'ord.47');
SELECT ids FROM pg_temp.claim();
UPDATE webhook_conversations SET lock_expires_at = clock_timestamp() - interval '1 second' WHERE user_id = '7100000107';
UPDATE webhook_leases SET expires_at = clock_timestamp() - interval '1 second';
SELECT cleanup_stuck_webhook_conversations();
SELECT ids FROM pg_temp.claim();
SELECT i.attempts, i.losses, i.enqueued_at > clock_timestamp() AS put_off, d.resolution_status FROM webhook_inbox i JOIN processed_webhook_messages m ON m.id = i.message_id
	JOIN webhook_dlq d USING (whatsapp_message_id) WHERE whatsapp_message_id IN ('ord.37', 'ord.47') ORDER BY i.seq;
RESET wahook.max_attempts;
DELETE FROM webhook_dlq;
SELECT m.whatsapp_message_id AS still_waiting FROM webhook_inbox i JOIN processed_webhook_messages m ON m.id = i.message_id;

-- Retries by service, where order is not strict.
SELECT register_webhook_service('ord', p_strict_order => false, p_max_retries => 0);
SELECT pg_temp.receive('7100000201', 'ord.51');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.fail('7100000201', 'ord.51');
SELECT release_conversation_lock(id, '00000000-0000-4000-8000-0000000000cc') FROM webhook_conversations WHERE user_id = '7100000201';
SELECT register_webhook_service('ord', p_max_retries => 5);
INSERT INTO webhook_dlq (payload, service, retry_count) VALUES ('{}', 'ord', 0), ('{}', 'ord', 1), ('{}', 'default', 0);
SELECT service, retry_count, date_trunc('minute', next_retry_at - updated_at + interval '1 second') AS delay FROM webhook_dlq WHERE resolution_status = 'pending' ORDER BY 1, 2;
DELETE FROM webhook_dlq WHERE whatsapp_message_id = 'ord.51';
SELECT add_to_dead_letter_queue('{}', 'e', p_whatsapp_message_id => 'ord.51', p_retry_count => 1) IS NOT NULL AS added;
SELECT service, retry_count, max_retries, resolution_status, date_trunc('minute', next_retry_at - updated_at + interval '1 second') AS delay
	FROM webhook_dlq WHERE whatsapp_message_id = 'ord.51';

-- What waits for others in the same conversation is not read: neither by a claim nor by completing or releasing it.
DELETE FROM webhook_routes WHERE name = 'ord';
SELECT pg_temp.receive('7100000301', 'ord.61', 'ord.62');
INSERT INTO webhook_inbox (conversation_id, message_id, service, enqueued_at) SELECT c.id, gen_random_uuid(), s, now() - interval '1 hour'
	FROM webhook_conversations c, unnest('{aaa,ord,zzz}'::text[]) s, generate_series(1, 1000) WHERE c.user_id = '7100000301';
SELECT pg_temp.receive('7100000301', 'ord.63', 'ord.64', 'ord.65');
SET wahook.claim_max_messages = 2;
BEGIN;
CREATE FUNCTION pg_temp.read() RETURNS bigint LANGUAGE sql AS $$ SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'webhook_inbox' $$;
SELECT coalesce(pg_temp.read(), 0) AS before \gset
SELECT * FROM pg_temp.claim('default');
SELECT pg_temp.complete('7100000301');
SELECT * FROM pg_temp.claim('default');
SELECT pg_temp.complete('7100000301');
SELECT * FROM pg_temp.claim('default');
SELECT release_conversation_lock(id, '00000000-0000-4000-8000-0000000000cc') FROM webhook_conversations WHERE user_id = '7100000301';
SELECT * FROM pg_temp.claim('ord') \gset
SELECT pg_temp.complete('7100000301');
SELECT pg_temp.read() - :before < 100 AS few_read;
ROLLBACK;
RESET wahook.claim_max_messages;
DELETE FROM webhook_inbox;

-- The messages of a delivery are numbered in order, from as few values of the sequence as hold them; what comes later has later ones.
CREATE FUNCTION pg_temp.many(p_from integer, p_to integer) RETURNS text LANGUAGE sql
	AS $$ SELECT pg_temp.receive('7100000401', VARIADIC ARRAY(SELECT 'ord.many.' || n FROM generate_series(p_from, p_to) n)) $$;
SELECT pg_temp.many(2000, 3099), pg_temp.many(3100, 3102);
INSERT INTO webhook_inbox (conversation_id, message_id, enqueued_at)
	SELECT conversation_id, gen_random_uuid(), now() FROM processed_webhook_messages WHERE whatsapp_message_id = 'ord.many.2000';
SELECT pg_temp.many(3103, 3104);
SELECT count(*), bool_and(seq > lag) AS in_order, max(seq) - min(seq) < 5 * 1024 + 2 AS close FROM (
	SELECT seq, lag(seq) OVER (ORDER BY coalesce(right(whatsapp_message_id, 4)::numeric, 3102.5))
	FROM webhook_inbox i LEFT JOIN processed_webhook_messages m ON m.id = i.message_id) i;
-- Also where the sequence goes in other steps, as before an upgrade.
DELETE FROM webhook_inbox;
ALTER SEQUENCE webhook_inbox_seq INCREMENT BY 1;
SELECT pg_temp.many(3105, 3107);
ALTER SEQUENCE webhook_inbox_seq INCREMENT BY 1024;
SELECT pg_temp.many(3108, 3109);
SELECT count(*), bool_and(seq > lag) AS in_order FROM (
	SELECT seq, lag(seq) OVER (ORDER BY right(whatsapp_message_id, 4)) FROM webhook_inbox i JOIN processed_webhook_messages m ON m.id = i.message_id) i;
DELETE FROM webhook_inbox;

DELETE FROM webhook_dlq;
DELETE FROM webhook_services WHERE name LIKE 'ord%';
DELETE FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'ord.%';
DELETE FROM webhook_conversations WHERE user_id LIKE '7100000%';
DELETE FROM webhook_conversation_queue;
DELETE FROM webhook_leases;
