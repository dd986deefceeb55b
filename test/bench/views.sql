-- Case v: a history of :messages processed messages over :days days, and :conversations conversations, as they
-- would be after that time: a message a conversation at random, processed within a second or so, one in a hundred
-- hours later or after failures; one session a conversation; some conversations locked, some stuck.
--
-- The indexes that are written all over are built afterwards, and nothing of it is logged: wal_level is minimal, and
-- what a transaction writes to a table that it has truncated is not in the WAL then.
SET client_min_messages = warning;
CREATE EXTENSION wahook;
SET maintenance_work_mem = '512MB';
SET max_parallel_maintenance_workers = 1;
SET TimeZone = 'UTC';

-- An id as the server would have made it then.
CREATE FUNCTION bench_id(p_at timestamptz) RETURNS uuid LANGUAGE sql VOLATILE AS $$
	SELECT (lpad(to_hex((date_part('epoch', p_at) * 1000)::bigint), 12, '0') || '7' || substr(md5(random()::text), 1, 19))::uuid
$$;
CREATE TABLE bench_conversations (n integer, id uuid);

BEGIN;
TRUNCATE webhook_conversations CASCADE;
DROP INDEX webhook_conversations_user_idx;
-- Not of interest here, and a row each would be.
ALTER TABLE webhook_conversations DISABLE TRIGGER webhook_conversations_identities;
INSERT INTO webhook_conversations (id, user_id, whatsapp_phone, status, last_activity_at, retry_count, error_count,
		created_at, updated_at, phone_number_id, lock_token)
	SELECT bench_id(now() - :days * interval '1 day' * c.age), 'u-' || c.n, '2507' || c.n,
		CASE WHEN c.n % 50 = 0 THEN 'completed' WHEN c.n % 200 = 1 THEN 'timeout' WHEN c.n % 1000 = 2 THEN 'error'
			WHEN c.n % 1000 = 3 THEN 'processing' ELSE 'active' END,
		-- The last of as many messages as a conversation has, at random times.
		CASE WHEN c.n % 1000 = 3 AND c.n % 10000 <> 3 THEN now() + interval '1 day'
			ELSE now() - :days * interval '1 day' * (1 - power(random(), :conversations::float8 / :messages)) END,
		(c.n % 100 = 5)::integer, (c.n % 100 = 5)::integer * 2,
		now() - :days * interval '1 day', now() - :days * interval '1 day', '15550001', 10
	FROM (SELECT n, random() AS age FROM generate_series(1, :conversations) n) c;
CREATE INDEX webhook_conversations_user_idx ON webhook_conversations (user_id, status, created_at);
ALTER TABLE webhook_conversations ENABLE TRIGGER webhook_conversations_identities;
INSERT INTO bench_conversations SELECT row_number() OVER (), id FROM webhook_conversations;
COMMIT;

BEGIN;
TRUNCATE processed_webhook_messages, webhook_attempts;
ALTER TABLE processed_webhook_messages DROP CONSTRAINT processed_webhook_messages_whatsapp_message_id_key;
DROP INDEX processed_webhook_messages_received_idx, webhook_attempts_finished_idx;
-- Those that were completed soon, as nearly all are, tell of their attempt themselves.
INSERT INTO processed_webhook_messages (id, whatsapp_message_id, conversation_id, received_at, kind, payload, processed_at, processing_time_ms,
		claimed_at, claim_token, claimed_by)
	SELECT (lpad(to_hex((date_part('epoch', at) * 1000)::bigint), 12, '0') || '7' || left(hash, 19))::uuid, 'wamid.' || hash,
		overlay(uuid_nil placing lpad(to_hex((random() * :conversations)::integer), 12, '0') from 25)::uuid,
		at, 'text', payload, at + CASE WHEN n % 100 = 0 THEN random() * interval '4 hours' ELSE ms * interval '1 ms' END, ms,
		CASE WHEN n % 100 <> 0 THEN at END, CASE WHEN n % 100 <> 0 THEN 1 END, CASE WHEN n % 100 <> 0 THEN hash::uuid END
	FROM (SELECT n, md5(n::text) AS hash, now() - :days * interval '1 day' * (1 - n::float8 / :messages) AS at,
			(50 * exp(random() * 5))::integer AS ms FROM generate_series(1, :messages) n OFFSET 0) m,
		(SELECT '00000000-0000-7000-8000-000000000000' AS uuid_nil, jsonb_build_object(
			'message', jsonb_build_object('id', repeat('x', 60), 'from', '250700000000', 'type', 'text', 'text', jsonb_build_object('body', repeat('Lorem ipsum ', 20))),
			'contact', jsonb_build_object('wa_id', '250700000000', 'profile', jsonb_build_object('name', 'A Name')),
			'metadata', jsonb_build_object('phone_number_id', '15550001', 'display_phone_number', '15550001')) AS payload OFFSET 0) constants;
-- What was late and would be processed in the future waits.
UPDATE processed_webhook_messages SET processed_at = NULL, processing_time_ms = NULL
	WHERE processed_at > now() AND received_at > now() - interval '5 hours';
INSERT INTO webhook_attempts (message_id, attempt, outcome, conversation_id, lock_token, started_at, finished_at, duration_ms)
	SELECT id, 1, CASE WHEN processed_at IS NULL THEN 'failed' ELSE 'succeeded' END, conversation_id, 1,
		received_at, coalesce(processed_at, received_at), processing_time_ms
	FROM processed_webhook_messages WHERE claimed_by IS NULL;
INSERT INTO webhook_attempts (message_id, attempt, outcome, conversation_id, lock_token, started_at, finished_at, duration_ms, error)
	SELECT id, 1, 'failed', conversation_id, 1, received_at, received_at + interval '1 s', 1000, 'connection refused'
	FROM processed_webhook_messages TABLESAMPLE SYSTEM (1);
ALTER TABLE processed_webhook_messages ADD CONSTRAINT processed_webhook_messages_whatsapp_message_id_key UNIQUE (whatsapp_message_id);
CREATE INDEX processed_webhook_messages_received_idx ON processed_webhook_messages USING brin (received_at) WITH (pages_per_range = 32);
CREATE INDEX webhook_attempts_finished_idx ON webhook_attempts USING brin (finished_at) WITH (pages_per_range = 32);
COMMIT;

BEGIN;
TRUNCATE webhook_dlq, conversation_state_transitions, agent_sessions CASCADE;
INSERT INTO webhook_dlq (payload, error, whatsapp_message_id, retry_count, created_at, processed_at, resolution_status, processed, next_retry_at)
	SELECT '{}', 'connection to https://example.com/hook refused', 'wamid.DLQ' || n, n % 4, now() - :days * interval '1 day' * n / (:messages / 100.0), NULL,
		CASE n % 10 WHEN 0 THEN 'pending' WHEN 1 THEN 'failed' ELSE 'resolved' END, n % 10 > 1, CASE n % 10 WHEN 0 THEN now() + interval '1 hour' END
	FROM generate_series(1, :messages / 100) n;
INSERT INTO conversation_state_transitions (conversation_id, from_state, to_state, transition_reason, created_at)
	SELECT id, 'active', 'completed', 'benchmark', now() - :days * interval '1 day' * random() FROM bench_conversations;
ALTER TABLE agent_sessions DISABLE TRIGGER ALL; -- the foreign key
INSERT INTO agent_sessions (conversation_id, agent_type, session_state, started_at, ended_at, total_messages, total_tokens_used, error_count)
	SELECT id, (ARRAY['waiter', 'wallet', 'mobility'])[n % 3 + 1], CASE WHEN n % 20 = 0 THEN 'active' WHEN n % 20 = 1 THEN 'failed' ELSE 'completed' END,
		now() - :days * interval '1 day' * n / :conversations, now() - :days * interval '1 day' * n / :conversations, n % 20, n % 4000, n % 3
	FROM bench_conversations;
ALTER TABLE agent_sessions ENABLE TRIGGER ALL;
-- Of those that are held now, one in twenty by nobody any more. The others are to stay so while this runs.
UPDATE webhook_conversations SET locked_by = gen_random_uuid(), locked_at = now() + CASE WHEN n % 10000 = 0 THEN interval '-3 minutes' ELSE interval '1 day' END
	FROM bench_conversations b WHERE b.id = webhook_conversations.id AND b.n % 500 = 0;
COMMIT;
VACUUM ANALYZE;
