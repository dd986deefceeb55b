-- Case e, skewed: 60,000 waiting messages, 2,000 in each of 30 conversations. Beside them, and there before them, what
-- a claim must not be slowed down by.
\ir receive.sql

-- 10,000 conversations that others have claimed, for longer than the run; in half of them more messages wait.
CALL bench_receive(1, 10000, 19999, 1);
SELECT count(*) FROM generate_series(1, 10) i
	CROSS JOIN LATERAL claim_conversations(1000, ('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid, NULL, '4 hours')
	\g /dev/null
CALL bench_receive(2, 10000, 14999, 1);

-- 10,000 that are not due yet: dead letters with their retry ahead, and conversations that are locked without a message.
INSERT INTO webhook_dlq (payload, error, whatsapp_message_id, next_retry_at)
	SELECT bench_change(bench_wamid(-i, phone), phone)::jsonb, 'failed', bench_wamid(-i, phone), now() + interval '1 day'
	FROM generate_series(1, 5000) i CROSS JOIN LATERAL (SELECT bench_phone(20000 + i) AS phone) user_;
SET wahook.lock_timeout = '4h';
SELECT count(acquire_conversation_lock(get_or_create_conversation(bench_phone(30000 + i), bench_phone(30000 + i),
		'106540352242922'), gen_random_uuid()))
	FROM generate_series(1, 5000) i \g /dev/null

CALL bench_receive(3, 0, 29, 2000);
CREATE TABLE bench_backlog AS SELECT count(*) AS accepted FROM processed_webhook_messages;
VACUUM ANALYZE;
