-- Takes over an installation of the first generation: its tables as its own scripts made them.
\set SHOW_CONTEXT never
CREATE SCHEMA gen1;
SET search_path = gen1;
CREATE TYPE conversation_status AS ENUM ('active', 'pending', 'processing', 'completed', 'timeout', 'error');
CREATE TABLE webhook_conversations (
	id UUID PRIMARY KEY DEFAULT gen_random_uuid(), user_id TEXT NOT NULL, whatsapp_phone VARCHAR(32), agent_type TEXT,
	status conversation_status DEFAULT 'active', last_activity_at TIMESTAMPTZ DEFAULT now(), retry_count INTEGER DEFAULT 0,
	error_count BIGINT, locked_by UUID, locked_at TIMESTAMPTZ, conversation_context JSON, created_at TIMESTAMPTZ DEFAULT now(),
	updated_at TIMESTAMPTZ DEFAULT now(), tenant TEXT);
CREATE TABLE conversation_state_transitions (
	id UUID PRIMARY KEY DEFAULT gen_random_uuid(), conversation_id UUID REFERENCES webhook_conversations, from_state TEXT,
	to_state TEXT NOT NULL, transition_reason TEXT, correlation_id UUID, metadata JSONB, created_at TIMESTAMPTZ DEFAULT now());
CREATE TABLE processed_webhook_messages (
	id UUID PRIMARY KEY DEFAULT gen_random_uuid(), whatsapp_message_id TEXT UNIQUE NOT NULL, correlation_id UUID NOT NULL,
	conversation_id UUID, payload JSONB, processed_at TIMESTAMPTZ DEFAULT now(), processing_time_ms INTEGER);
CREATE TABLE webhook_dlq (
	id UUID PRIMARY KEY DEFAULT gen_random_uuid(), payload JSONB NOT NULL, error TEXT, error_stack TEXT, correlation_id UUID,
	whatsapp_message_id TEXT, retry_count INTEGER DEFAULT 0, max_retries INTEGER DEFAULT 3, next_retry_at TIMESTAMPTZ,
	created_at TIMESTAMPTZ DEFAULT now(), processed_at TIMESTAMPTZ, resolution_status TEXT DEFAULT 'pending');
CREATE TABLE agent_contexts (
	id UUID PRIMARY KEY DEFAULT gen_random_uuid(), conversation_id UUID, agent_type TEXT NOT NULL, context_data JSONB,
	token_count INTEGER, messages_count INTEGER, created_at TIMESTAMPTZ DEFAULT now(), updated_at TIMESTAMPTZ DEFAULT now());
CREATE TABLE agent_sessions (
	id UUID PRIMARY KEY DEFAULT gen_random_uuid(), conversation_id UUID, agent_type TEXT NOT NULL, session_state TEXT DEFAULT 'active',
	started_at TIMESTAMPTZ DEFAULT now(), ended_at TIMESTAMPTZ, total_messages INTEGER DEFAULT 0, total_tokens_used INTEGER DEFAULT 0,
	error_count INTEGER DEFAULT 0, metadata JSONB);
-- As documented, without error_stack, the times, or a default of the id.
CREATE TABLE wa_dead_letter_queue (
	id UUID PRIMARY KEY, message_id TEXT UNIQUE NOT NULL, from_number TEXT NOT NULL, payload JSONB NOT NULL, error_message TEXT,
	retry_count INT DEFAULT 0, max_retries INT DEFAULT 3, next_retry_at TIMESTAMPTZ, processed BOOLEAN DEFAULT FALSE);
CREATE TABLE wa_workflow_recovery (
	id UUID PRIMARY KEY, conversation_id TEXT NOT NULL, workflow_type TEXT NOT NULL, recovery_action TEXT NOT NULL,
	status TEXT CHECK (status IN ('pending', 'in_progress', 'completed', 'failed')), details JSONB);
CREATE TABLE user_sessions (
	id UUID PRIMARY KEY, phone_number TEXT UNIQUE NOT NULL, active_service TEXT, context JSONB,
	last_interaction TIMESTAMPTZ DEFAULT now(), created_at TIMESTAMPTZ DEFAULT now(), updated_at TIMESTAMPTZ DEFAULT now());
-- What is of the first generation and not for us: triggers, functions, policies.
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'must not run'; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON webhook_conversations FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE webhook_dlq ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON webhook_dlq USING (true);

-- A user with an old conversation, a newer active one, and one that was completed since.
INSERT INTO webhook_conversations (id, user_id, whatsapp_phone, status, created_at, locked_by, locked_at) VALUES
	('00000000-0000-4000-8000-000000000001', '250788100001', '+250 788 100 001', 'active', now() - interval '3 days', NULL, NULL),
	('00000000-0000-4000-8000-000000000002', '250788100001', '+250 788 100 001', 'active', now() - interval '2 days', NULL, NULL),
	('00000000-0000-4000-8000-000000000003', '250788100001', NULL, 'completed', now() - interval '1 day', NULL, NULL),
	('00000000-0000-4000-8000-000000000004', 'RW.100002', '250788100002', 'processing', now() - interval '1 day', gen_random_uuid(), now());
INSERT INTO conversation_state_transitions (conversation_id, from_state, to_state) VALUES
	('00000000-0000-4000-8000-000000000001', NULL, 'active'), ('00000000-0000-4000-8000-000000000004', 'active', 'processing');
INSERT INTO processed_webhook_messages (whatsapp_message_id, correlation_id, conversation_id, processed_at) VALUES
	('gen1.done', gen_random_uuid(), '00000000-0000-4000-8000-000000000002', now() - interval '1 day'),
	('gen1.retried', gen_random_uuid(), '00000000-0000-4000-8000-000000000002', now() - interval '1 day'),
	('gen1.here', gen_random_uuid(), NULL, now() - interval '1 day');
-- Failed three times, with an entry each; then one in the other table too.
INSERT INTO webhook_dlq (whatsapp_message_id, payload, error, retry_count, next_retry_at, resolution_status, created_at)
	SELECT 'gen1.retried', '{"id": "gen1.retried", "from": "250788100001", "type": "text"}', 'error ' || n, n,
		now() + interval '1 hour', CASE n WHEN 1 THEN 'retrying' ELSE 'pending' END, now() - interval '1 day' + n * interval '1 minute'
	FROM generate_series(0, 2) n;
INSERT INTO wa_dead_letter_queue (id, message_id, from_number, payload, error_message, retry_count, next_retry_at, processed)
	SELECT gen_random_uuid(), id, '250788100003', format('{"object": "whatsapp_business_account", "entry": [{"changes": [{"field": "messages", "value":
		{"metadata": {"phone_number_id": "1001"}, "contacts": [{"wa_id": "250788100003", "profile": {"name": "C"}}],
		"messages": [{"id": "other"}, {"id": "%s", "from": "250788100003", "type": "text"}]}}]}]}', id)::jsonb, 'boom', retries, now() - interval '1 hour', done
	FROM (VALUES ('gen1.due', 1, false), ('gen1.exhausted', 3, false), ('gen1.resolved', 2, true), ('gen1.retried', 0, false)) m (id, retries, done);
INSERT INTO webhook_dlq (whatsapp_message_id, payload, error) VALUES
	(NULL, '{"what": "?"}', 'no id'), (NULL, '{"what": "?"}', 'no id'), ('gen1.odd', '["?"]', 'not a message'), ('gen1.here', '{"id": "gen1.here", "from": "250788100004"}', 'boom');
INSERT INTO webhook_dlq (whatsapp_message_id, payload, error, created_at) VALUES ('gen1.resolved', '{}', 'before', now() - interval '1 day');
INSERT INTO agent_contexts (conversation_id, agent_type, context_data) VALUES
	('00000000-0000-4000-8000-000000000001', 'waiter', '{"k": 1}'), ('00000000-0000-4000-8000-000000000001', 'mine', NULL),
	('00000000-0000-4000-8000-0000000000ff', 'waiter', '{}');
INSERT INTO agent_sessions (conversation_id, agent_type, session_state, started_at) VALUES
	('00000000-0000-4000-8000-000000000001', 'waiter', 'active', now() - interval '2 hours'),
	('00000000-0000-4000-8000-000000000001', 'waiter', 'active', now() - interval '1 hour'),
	('00000000-0000-4000-8000-000000000001', 'waiter', 'completed', now() - interval '3 hours');
INSERT INTO wa_workflow_recovery VALUES (gen_random_uuid(), 'c', 'w', 'a', NULL, NULL);
INSERT INTO user_sessions (id, phone_number, context) VALUES
	(gen_random_uuid(), '250788100001', '{"from": "gen1"}'), (gen_random_uuid(), '250788100005', NULL);
RESET search_path;

-- What is here already: a message that was processed, a session.
SELECT record_processed_message('gen1.here', NULL, '00000000-0000-4000-8000-000000000000');
INSERT INTO user_sessions (phone_number, context) VALUES ('250788100001', '{"from": "here"}');

CREATE VIEW imported_rows AS
	SELECT table_name, imported, skipped, rows_after - rows_before = imported AS adds_up FROM wahook_import('gen1') ORDER BY 1;
INSERT INTO webhook_rollup_state (counted_until) VALUES (now()) ON CONFLICT DO NOTHING;
SELECT * FROM imported_rows;
-- The sums have to be made anew.
SELECT count(*) FROM webhook_rollup_state;

-- The newest active conversation is found; no lock came along.
SELECT identity, kind, substring(conversation_id::text FROM '^0{8}.*(....)$') FROM webhook_identities WHERE identity ~ '788100|RW.1000' ORDER BY 1;
SELECT right(id::text, 4) AS id, status, whatsapp_phone, locked_by, error_count, conversation_context FROM webhook_conversations
	WHERE id::text LIKE '00000000-0000-4000-8000-00000000000_' ORDER BY 1;
SELECT right(get_or_create_conversation('250788100001', '250788100001', '1001')::text, 4);

-- One entry a message.
SELECT whatsapp_message_id, resolution_status, retry_count, error, from_number,
		date_trunc('hour', next_retry_at - now() + interval '1 second') AS due, created_at < now() - interval '1 hour' AS old, conversation_id IS NOT NULL AS known
	FROM webhook_dlq WHERE whatsapp_message_id LIKE 'gen1%' OR payload = '{"what": "?"}' ORDER BY 1, 2;
-- Retried through the queue, as messages.
SELECT process_dead_letter_queue() ->> 'success';
SELECT m ->> 'whatsapp_message_id' AS id, m ->> 'attempt' AS attempt, m -> 'message' AS message, m -> 'contact' AS contact, m -> 'metadata' AS metadata
	FROM claim_conversations(10, '00000000-0000-4000-8000-0000000000aa'), jsonb_array_elements(messages) m ORDER BY 1;
SELECT complete_conversations(array_agg(id), '00000000-0000-4000-8000-0000000000aa') FROM webhook_conversations
	WHERE locked_by = '00000000-0000-4000-8000-0000000000aa';

-- What Meta repeats is known.
SELECT whatsapp_message_id, outcome FROM receive_webhook('{"object": "whatsapp_business_account", "entry": [{"changes": [{"field": "messages", "value":
	{"metadata": {"phone_number_id": "1001"}, "messages": [{"id": "gen1.done", "from": "250788100001", "type": "text"},
	{"id": "gen1.due", "from": "250788100003", "type": "text"}, {"id": "gen1.here", "from": "250788100004", "type": "text"},
	{"id": "gen1.new", "from": "250788100001", "type": "text"}]}}]}]}') ORDER BY 1;
SELECT right(conversation_id::text, 4) FROM processed_webhook_messages WHERE whatsapp_message_id = 'gen1.new';
SELECT m.processed_at < now() - interval '1 hour' AND m.id < webhook_uuid_floor(now() - interval '1 hour') AS old FROM processed_webhook_messages m
	WHERE whatsapp_message_id = 'gen1.done';

SELECT session_state, ended_at IS NULL AS open, total_messages FROM agent_sessions
	WHERE conversation_id = '00000000-0000-4000-8000-000000000001' ORDER BY started_at;
SELECT phone_number, context FROM user_sessions WHERE phone_number LIKE '2507881000%' ORDER BY 1;

-- Again: nothing is left to do. What came meanwhile is taken over.
INSERT INTO gen1.user_sessions (id, phone_number) VALUES (gen_random_uuid(), '250788100006');
SELECT * FROM imported_rows WHERE imported > 0;

-- Refused: what is not there, wahook's own, what is no table, or could run something; and the caller.
SELECT * FROM wahook_import('no such schema');
SELECT * FROM wahook_import(NULL);
SELECT * FROM wahook_import('public');
CREATE SCHEMA empty;
SELECT * FROM wahook_import('empty');
CREATE FUNCTION gen1.evil(x anyelement) RETURNS anyelement LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE WARNING 'evil'; RETURN x; END $$;
CREATE VIEW empty.user_sessions AS SELECT id, gen1.evil(phone_number) AS phone_number FROM gen1.user_sessions;
SELECT * FROM wahook_import('empty');
DROP VIEW empty.user_sessions;
SET client_min_messages = error;
CREATE TABLE empty.user_sessions (id uuid, phone_number text, CHECK (gen1.evil(id) IS NOT NULL));
CREATE INDEX ON empty.user_sessions (phone_number) WHERE gen1.evil(true);
RESET client_min_messages;
SELECT * FROM wahook_import('empty');
DROP TABLE empty.user_sessions;
CREATE TABLE empty.user_sessions (id text, context jsonb);
SELECT * FROM wahook_import('empty');
ALTER TABLE empty.user_sessions ALTER id TYPE uuid USING id::uuid;
SELECT * FROM wahook_import('empty');
CREATE DOMAIN gen1.phone AS text;
ALTER TABLE empty.user_sessions ADD phone_number gen1.phone;
INSERT INTO empty.user_sessions (phone_number) VALUES ('250788100007');
SELECT * FROM wahook_import('empty') WHERE imported > 0;
CREATE ROLE regress_import;
GRANT EXECUTE ON FUNCTION wahook_import TO regress_import;
GRANT USAGE ON SCHEMA gen1 TO regress_import;
SET ROLE regress_import;
\set VERBOSITY terse
SELECT * FROM wahook_import('gen1');
\set VERBOSITY default
RESET ROLE;

SET client_min_messages = warning;
REVOKE ALL ON FUNCTION wahook_import FROM regress_import;
DROP VIEW imported_rows;
DROP SCHEMA gen1, empty CASCADE;
DROP ROLE regress_import;
DELETE FROM webhook_dlq;
DELETE FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'gen1.%';
DELETE FROM webhook_inbox;
DELETE FROM webhook_conversations WHERE user_id ~ '2507881000|RW.1000';
DELETE FROM user_sessions WHERE phone_number LIKE '2507881000%';
DELETE FROM wa_workflow_recovery;
DELETE FROM webhook_identities WHERE identity ~ '788100|RW.1000';
