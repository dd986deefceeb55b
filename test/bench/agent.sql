-- A thousand conversations that are held, with 200 messages in an agent's memory of each, and the same rows as a plain table.
CREATE EXTENSION wahook;
SET wahook.lock_timeout = '1d';
INSERT INTO webhook_conversations (id, user_id)
	SELECT md5('conversation' || n)::uuid, (250788000000 + n)::text FROM generate_series(1, 1000) n;
SELECT acquire_conversation_lock(id, id) FROM webhook_conversations \g /dev/null
CREATE TABLE bench_context AS
	SELECT jsonb_build_object('messages', jsonb_agg(CASE WHEN n % 2 = 1
		THEN jsonb_build_object('role', 'user', 'content', format('Could you tell me please, %s, whether number %s is still free on %s?', md5(n::text), n, n * 7),
			'wamid', 'wamid.HBgM' || upper(md5('a' || n)) || 'A', 'at', '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 minute')
		ELSE jsonb_build_object('role', 'assistant', 'content', format('Yes, number %s is free then. Shall I book it for you? %s', n, md5('b' || n))) END ORDER BY n)) AS data
	FROM generate_series(1, 200) n;
INSERT INTO agent_contexts (conversation_id, agent_type, context_data) SELECT id, 'waiter', data FROM webhook_conversations, bench_context;
-- As agent_contexts is, without what the extension adds to it.
CREATE TABLE bench_plain (id uuid PRIMARY KEY, conversation_id uuid NOT NULL, agent_type text NOT NULL, context_data jsonb NOT NULL,
	token_count integer NOT NULL, messages_count integer NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, UNIQUE (conversation_id, agent_type));
INSERT INTO bench_plain SELECT * FROM agent_contexts;
VACUUM ANALYZE;
