-- What retention deletes, and what it must not. Only the owner runs it by hand.
\set SHOW_CONTEXT never
BEGIN;
DELETE FROM webhook_conversations;
DELETE FROM webhook_identities;
DELETE FROM processed_webhook_messages;
DELETE FROM webhook_dlq;
DELETE FROM conversation_state_transitions;
DELETE FROM webhook_attempts;
DELETE FROM webhook_message_statuses;
DELETE FROM webhook_notices;
DELETE FROM webhook_quarantine;
DELETE FROM wa_workflow_recovery;
DELETE FROM webhook_rate_limits;
SELECT sum(value::bigint) FROM jsonb_each_text(apply_webhook_retention());

-- Messages. Their ids tell when they came; one has an id of its own making.
CREATE FUNCTION pg_temp.old_id(p_n integer) RETURNS uuid LANGUAGE sql
	AS $$ SELECT (overlay(webhook_uuid_floor(now() - interval '31 days')::text PLACING lpad(p_n::text, 12, '0') FROM 25))::uuid $$;
INSERT INTO webhook_conversations (user_id) VALUES ('retention') RETURNING id AS conversation_id \gset
INSERT INTO processed_webhook_messages (id, whatsapp_message_id, received_at, processed_at, conversation_id)
	VALUES
		(pg_temp.old_id(1), 'processed', now() - interval '31 days', now() - interval '31 days', NULL),
		('ffffffff-0000-4000-8000-000000000001', 'own id', now() - interval '31 days', now() - interval '31 days', NULL),
		(pg_temp.old_id(2), 'waiting', now() - interval '31 days', NULL, :'conversation_id'),
		(pg_temp.old_id(3), 'dead letter pending', now() - interval '31 days', NULL, :'conversation_id'),
		(pg_temp.old_id(4), 'dead letter retrying', now() - interval '31 days', NULL, :'conversation_id'),
		(pg_temp.old_id(5), 'dead letter failed', now() - interval '31 days', NULL, :'conversation_id'),
		(pg_temp.old_id(6), 'dead letter resolved', now() - interval '31 days', now(), :'conversation_id'),
		(pg_temp.old_id(7), 'received since', now() - interval '29 days', now(), NULL),
		(webhook_uuid(), 'new', now(), now(), NULL);
INSERT INTO webhook_inbox (conversation_id, message_id, enqueued_at)
	VALUES (:'conversation_id', pg_temp.old_id(2), now() - interval '31 days');
INSERT INTO webhook_dlq (payload, whatsapp_message_id, resolution_status, retry_lease_until, processed_at, next_retry_at, processed)
	VALUES ('{}', 'dead letter pending', 'pending', NULL, NULL, now() + interval '1 day', false),
		('{}', 'dead letter retrying', 'retrying', now() + interval '1 day', NULL, NULL, false),
		('{}', 'dead letter failed', 'failed', NULL, NULL, NULL, false),
		('{}', 'dead letter resolved', 'resolved', NULL, now(), NULL, true);
SELECT apply_webhook_retention() -> 'processed_webhook_messages' AS deleted;
SELECT whatsapp_message_id FROM processed_webhook_messages ORDER BY id;

-- In batches, oldest first.
INSERT INTO processed_webhook_messages (id, whatsapp_message_id, received_at)
	SELECT pg_temp.old_id(100 + n), 'batch ' || n, now() - interval '31 days' FROM generate_series(1, 5) n;
SELECT apply_webhook_retention(2) -> 'processed_webhook_messages' AS deleted;
SELECT string_agg(whatsapp_message_id, ', ' ORDER BY id) FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'batch%';
SET LOCAL wahook.retention_batch_size = 2;
SELECT apply_webhook_retention() -> 'processed_webhook_messages' AS deleted;
RESET wahook.retention_batch_size;
-- By its setting, which can't be less than Meta's 7 days.
SET LOCAL wahook.message_retention = '40 d';
SELECT apply_webhook_retention() -> 'processed_webhook_messages' AS deleted;
RESET wahook.message_retention;
SELECT apply_webhook_retention() -> 'processed_webhook_messages' AS deleted;

-- Dead letters: given up long ago. What waits for its retry stays, however old.
INSERT INTO webhook_dlq (payload, whatsapp_message_id, resolution_status, created_at, updated_at, next_retry_at)
	VALUES ('{}', 'failed long ago', 'failed', now() - interval '91 days', now() - interval '91 days', NULL),
		('{}', 'failed since', 'failed', now() - interval '91 days', now() - interval '89 days', NULL),
		('{}', 'pending long ago', 'pending', now() - interval '200 days', now() - interval '200 days', now() + interval '1 day');
SELECT apply_webhook_retention() -> 'webhook_dlq' AS deleted;
SELECT whatsapp_message_id FROM webhook_dlq WHERE whatsapp_message_id !~ 'dead letter' ORDER BY 1;

-- The records that only time deletes.
INSERT INTO webhook_attempts (message_id, attempt, outcome, finished_at)
	VALUES (pg_temp.old_id(1), 1, 'succeeded', now() - interval '31 days'),
		('ffffffff-0000-4000-8000-000000000001', 1, 'lost', now() - interval '31 days'),
		(pg_temp.old_id(1), 2, 'failed', now() - interval '29 days');
INSERT INTO webhook_message_statuses (whatsapp_message_id, status, payload, correlation_id, created_at)
	VALUES ('s1', 'read', '{}', gen_random_uuid(), now() - interval '31 days'),
		('s2', 'read', '{}', gen_random_uuid(), now() - interval '29 days');
INSERT INTO webhook_notices (content_hash, kind, payload, correlation_id, received_at)
	VALUES ('1', 'template', '{}', gen_random_uuid(), now() - interval '31 days'),
		('2', 'template', '{}', gen_random_uuid(), now() - interval '29 days');
INSERT INTO webhook_quarantine (content_hash, reason, body, correlation_id, received_at, last_seen_at)
	VALUES ('1', 'x', '', gen_random_uuid(), now() - interval '91 days', now() - interval '91 days'),
		('2', 'x', '', gen_random_uuid(), now() - interval '91 days', now() - interval '1 day');
INSERT INTO conversation_state_transitions (to_state, created_at)
	VALUES ('active', now() - interval '91 days'), ('active', now() - interval '89 days');
INSERT INTO agent_sessions (conversation_id, agent_type, session_state, started_at, ended_at)
	VALUES (:'conversation_id', 'waiter', 'completed', now() - interval '91 days', now() - interval '91 days'),
		(:'conversation_id', 'waiter', 'completed', now() - interval '91 days', now() - interval '89 days'),
		(:'conversation_id', 'waiter', 'active', now() - interval '91 days', NULL);
INSERT INTO wa_workflow_recovery (conversation_id, workflow_type, recovery_action, status, created_at, completed_at)
	VALUES ('x', 'x', 'x', 'completed', now() - interval '31 days', now() - interval '31 days'),
		('x', 'x', 'x', 'failed', now() - interval '31 days', NULL),
		('x', 'x', 'x', 'pending', now() - interval '31 days', NULL);
SELECT * FROM jsonb_each(apply_webhook_retention()) WHERE value <> '0' ORDER BY 1;
SELECT sum(value::bigint) FROM jsonb_each_text(apply_webhook_retention());

-- Rate limits that are full again.
INSERT INTO webhook_rate_limits (identifier, bucket, tokens, refilled_at)
	VALUES ('full', 'x', 0, now() - interval '61 s'), ('refilling', 'x', 0, now() - interval '10 s');
SELECT apply_webhook_retention() -> 'webhook_rate_limits' AS deleted;
SELECT identifier FROM webhook_rate_limits;

-- Conversations, with what leads to them and what agents remember of them.
INSERT INTO webhook_conversations (user_id, last_activity_at, locked_by)
	SELECT user_id, now() - interval '366 days', locked_by
	FROM (VALUES ('idle', NULL), ('idle, waiting', NULL), ('idle, locked', gen_random_uuid())) v (user_id, locked_by);
INSERT INTO webhook_inbox (conversation_id, message_id, enqueued_at)
	SELECT id, webhook_uuid(), now() FROM webhook_conversations WHERE user_id = 'idle, waiting';
INSERT INTO agent_contexts (conversation_id, agent_type) SELECT id, 'waiter' FROM webhook_conversations;
SELECT identity FROM webhook_identities ORDER BY 1;
SELECT apply_webhook_retention() -> 'webhook_conversations' AS deleted;
SELECT user_id FROM webhook_conversations ORDER BY 1;
SELECT identity FROM webhook_identities ORDER BY 1;
SELECT count(*) FROM agent_contexts;
SELECT apply_webhook_retention() -> 'webhook_conversations' AS deleted;
ROLLBACK;

-- Errors.
SELECT apply_webhook_retention(0);
SELECT apply_webhook_retention(-5);
-- Only the error's code, because the words depend on the version.
\set VERBOSITY sqlstate
SET wahook.message_retention = '6 d';
\set VERBOSITY default
SELECT min_val, max_val, unit FROM pg_settings WHERE name = 'wahook.message_retention';

-- Looking reads an index, not the history.
CREATE FUNCTION pg_temp.plan_of(p_table text, p_old_rows text, p_order_by text) RETURNS SETOF text
	LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
	v_line text;
BEGIN
	FOR v_line IN EXECUTE format('EXPLAIN (COSTS off) SELECT ctid FROM %I WHERE %s ORDER BY %s LIMIT 10 FOR UPDATE SKIP LOCKED',
		p_table, replace(replace(replace(p_old_rows, '$1', 'now()'), '$2', quote_literal(webhook_uuid_floor('2020-01-01')) || '::uuid'),
			'$3', quote_literal(webhook_uuid_floor('2120-01-01')) || '::uuid'), p_order_by)
	LOOP
		IF v_line ~ 'Scan|Sort' THEN
			RETURN NEXT trim(v_line, ' ->');
		END IF;
	END LOOP;
END
$$;
SELECT plan FROM webhook_retention_rules() r, pg_temp.plan_of(r.table_name, r.old_rows, r.order_by) plan;
