-- Following one message through its life.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE FUNCTION pg_temp.delivery(VARIADIC p_ids text[]) RETURNS text LANGUAGE sql AS $$
	SELECT jsonb_build_object('object', 'whatsapp_business_account', 'entry', jsonb_build_array(jsonb_build_object('id', '1', 'changes',
		jsonb_build_array(jsonb_build_object('field', 'messages', 'value', jsonb_build_object('messaging_product', 'whatsapp',
			'metadata', '{"display_phone_number": "1", "phone_number_id": "tr"}'::jsonb, 'messages',
			(SELECT jsonb_agg(jsonb_build_object('from', '250788000077', 'id', id, 'timestamp', '1700000000', 'type', 'text', 'text', '{"body": "private"}'::jsonb))
				FROM unnest(p_ids) id)))))))::text $$;
-- Steps without what is another each time; who has it: a letter for each lock id.
CREATE FUNCTION pg_temp.steps(p_id text) RETURNS TABLE (step text, attempt integer, service text, done_by text, timed boolean, error text, detail jsonb)
	LANGUAGE sql AS $$
	WITH steps AS (SELECT *, min(n) OVER (PARTITION BY done_by) AS first
		FROM trace_webhook_message(p_id) WITH ORDINALITY t (at, elapsed, step, attempt, conversation_id, service, done_by, duration_ms, error, detail, n))
	SELECT step, attempt, service, CASE WHEN done_by LIKE '________-%'
			THEN 'lock ' || chr(64 + (dense_rank() OVER (ORDER BY done_by LIKE '________-%' DESC NULLS LAST, first))::integer) ELSE done_by END,
		duration_ms IS NOT NULL, error, detail - '{correlation_id,dead_letter_id,lock_expires_at,session_id}'::text[]
	FROM steps ORDER BY n $$;
-- A holder that vanished, without waiting for its lease to end.
CREATE FUNCTION pg_temp.let_lease_end() RETURNS void LANGUAGE sql AS $$
	UPDATE webhook_conversations SET lock_expires_at = clock_timestamp() WHERE user_id = '250788000077';
	UPDATE webhook_leases SET expires_at = clock_timestamp() WHERE conversation_id = (SELECT id FROM webhook_conversations WHERE user_id = '250788000077') $$;

-- It waits, and is claimed.
SELECT correlation_id FROM receive_webhook(pg_temp.delivery('wamid.tr-1', 'wamid.tr-2')) LIMIT 1 \gset
SELECT * FROM pg_temp.steps('wamid.tr-1');
SELECT conversation_id, lock_id FROM claim_conversations() \gset
SELECT * FROM pg_temp.steps('wamid.tr-1');
SELECT done_by = :'lock_id' AS by_its_lock_id, conversation_id = :'conversation_id' AS there, detail ? 'lock_expires_at' AS until
	FROM trace_webhook_message('wamid.tr-1') WHERE step = 'claimed';
-- Its holder vanishes, and another takes over: fails the one, completes the other.
SELECT pg_temp.let_lease_end();
SELECT conversation_id, lock_id FROM claim_conversations() \gset
SELECT transition_conversation(:'conversation_id', 'processing', 'thinking');
SELECT resolution_status FROM fail_webhook_message(:'conversation_id', :'lock_id', 'wamid.tr-1', 'private 250788000077', p_retry_after => '1 hour');
SELECT complete_webhook_messages(:'conversation_id', :'lock_id');
SELECT * FROM pg_temp.steps('wamid.tr-1');
-- The retry: an agent answers.
UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id = 'wamid.tr-1';
SELECT process_dead_letter_queue() - 'durationMs';
SELECT conversation_id, lock_id FROM claim_conversations() \gset
INSERT INTO agent_turns (conversation_id, agent_type, whatsapp_message_ids, variant, version, model, outcome, answered_by, calls, prompt_tokens, completion_tokens, duration_ms, error, created_at)
	VALUES (:'conversation_id', 'waiter', '{wamid.tr-1}', 'V', 2, 'm', 'failed', 'waiter', 3, NULL, NULL, 7000, 'private', clock_timestamp()),
		(:'conversation_id', 'waiter', '{wamid.tr-1}', '', 2, 'm', 'answered', 'wallet', 1, 100, 20, 900, NULL, clock_timestamp() + interval '1 microsecond'),
		(:'conversation_id', 'waiter', '{wamid.tr-other}', '', 2, 'm', 'answered', 'wallet', 1, 100, 20, 900, NULL, clock_timestamp());
INSERT INTO webhook_agent_replies (conversation_id, service, agent_type, lock_id, whatsapp_message_ids, reply, details, calls, prompt_tokens, completion_tokens, started_at, answered_at)
	VALUES (:'conversation_id', 'default', 'waiter', :'lock_id', '{wamid.tr-1}', 'private', '{}', 2, 100, 20, now() - interval '2 seconds', now());
SELECT step, service, done_by, duration_ms, error, detail FROM trace_webhook_message('wamid.tr-1') WHERE step = 'reply_waiting';
DELETE FROM webhook_agent_replies WHERE conversation_id = :'conversation_id';
SELECT complete_webhook_messages(:'conversation_id', :'lock_id', p_processing_time_ms => 1234);
SELECT * FROM pg_temp.steps('wamid.tr-1');
SELECT bool_and(elapsed >= '0' AND elapsed < '1 hour'), max(duration_ms) FROM trace_webhook_message('wamid.tr-1');
-- What happened to the conversation after that is not its life.
SELECT transition_conversation(:'conversation_id', 'completed', 'later');
SELECT count(*) FROM pg_temp.steps('wamid.tr-1') WHERE detail ->> 'reason' = 'later';

-- Given up.
SELECT outcome FROM receive_webhook(pg_temp.delivery('wamid.tr-3'));
SELECT conversation_id, lock_id FROM claim_conversations() \gset
SELECT resolution_status FROM fail_webhook_message(:'conversation_id', :'lock_id', 'wamid.tr-3', 'no', p_retryable => false);
SELECT release_conversation_lock(:'conversation_id', :'lock_id');
SELECT step, attempt, error, detail - '{correlation_id,dead_letter_id,lock_token,sent_at}'::text[] AS detail FROM trace_webhook_message('wamid.tr-3') WHERE step <> 'status_changed';
-- Dropped by the limit of its user.
BEGIN;
UPDATE webhook_rate_limit_buckets SET enabled = true, max_tokens = 1, refill_per_second = 0.0001, action = 'drop' WHERE bucket = 'intake';
SELECT outcome FROM receive_webhook(pg_temp.delivery('wamid.tr-4', 'wamid.tr-5'));
SELECT step, attempt, error FROM trace_webhook_message('wamid.tr-5');
ROLLBACK;
-- One of the first generation, with no message; a dead letter of no message at all, by its id.
INSERT INTO webhook_dlq (payload, whatsapp_message_id, error) VALUES ('{}', 'wamid.tr-6', 'old');
SELECT step, service FROM trace_webhook_message('wamid.tr-6');
SELECT add_to_dead_letter_queue('{}', 'by hand', p_correlation_id => '00000000-0000-4000-8000-0000000000c1') AS entry \gset
SELECT step FROM trace_webhook_message(:'entry');
SELECT mark_message_processed(:'entry', true);
SELECT step, attempt, duration_ms IS NOT NULL AS timed FROM trace_webhook_message(:'entry');
-- One that was sent: its statuses.
SELECT correlation_id AS status_correlation_id FROM receive_webhook('{"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"field": "messages", "value": {
	"messaging_product": "whatsapp", "metadata": {"display_phone_number": "1", "phone_number_id": "tr"}, "statuses": [
	{"id": "wamid.tr-sent", "status": "sent", "timestamp": "1700000000", "recipient_id": "250788000077"},
	{"id": "wamid.tr-sent", "status": "delivered", "timestamp": "1700000005", "recipient_id": "250788000077"},
	{"id": "wamid.tr-fails", "status": "failed", "timestamp": "1700000009", "recipient_id": "250788000077", "errors": [{"code": 131047, "title": "Re-engagement message"}]}]}}]}]}') LIMIT 1 \gset
SELECT at AT TIME ZONE 'UTC' AS at, elapsed, step, detail - 'correlation_id' AS detail FROM trace_webhook_message('wamid.tr-sent');
SELECT at AT TIME ZONE 'UTC' AS at, elapsed, step, detail - 'correlation_id' AS detail FROM trace_webhook_message('wamid.tr-fails');

-- By the delivery: all that it brought. The time in its id leads there.
SELECT whatsapp_message_id, step, attempt FROM trace_webhook_correlation(:'correlation_id') WHERE step <> 'status_changed' ORDER BY 1, at, 3, 2;
SELECT count(*) AS once_each FROM trace_webhook_correlation(:'correlation_id') WHERE step = 'status_changed';
SELECT step, detail FROM trace_webhook_correlation(:'status_correlation_id');
-- An id that has none: in the last hour, or where one says.
SELECT outcome FROM receive_webhook(pg_temp.delivery('wamid.tr-7'), p_correlation_id => '00000000-0000-4000-8000-0000000000c2');
SELECT transition_conversation(:'conversation_id', 'pending', 'mine', '00000000-0000-4000-8000-0000000000c2');
SELECT step, whatsapp_message_id FROM trace_webhook_correlation('00000000-0000-4000-8000-0000000000c2');
SELECT step FROM trace_webhook_correlation('00000000-0000-4000-8000-0000000000c1');
UPDATE processed_webhook_messages SET id = webhook_uuid_floor(now() - interval '2 days'), received_at = now() - interval '2 days' WHERE whatsapp_message_id = 'wamid.tr-7';
SELECT count(*) FROM trace_webhook_correlation('00000000-0000-4000-8000-0000000000c2') WHERE step = 'received';
SELECT count(*) FROM trace_webhook_correlation('00000000-0000-4000-8000-0000000000c2', now() - interval '3 days', now()) WHERE step = 'received';
SELECT count(*) FROM trace_webhook_correlation('00000000-0000-4000-8000-0000000000c2', now() - interval '48 hours 1 minute') WHERE step = 'received';
SELECT count(*) FROM trace_webhook_correlation('00000000-0000-4000-8000-0000000000c2', p_until => now() - interval '47 hours 30 minutes') WHERE step = 'received';
SELECT count(*) FROM trace_webhook_correlation('00000000-0000-4000-8000-0000000000c2', '-infinity', 'infinity') WHERE step = 'received';
SELECT count(*) FROM trace_webhook_correlation('00000000-0000-4000-8000-0000000000c2', 'infinity', '-infinity') WHERE step = 'received';

-- Nothing, and nonsense.
SELECT count(*) FROM trace_webhook_message(NULL);
SELECT count(*) FROM trace_webhook_message('');
SELECT count(*) FROM trace_webhook_message('wamid.nobody');
SELECT count(*) FROM trace_webhook_message(repeat('x', 1000000));
SELECT count(*) FROM trace_webhook_message('00000000-0000-0000-0000-000000000000');
SELECT count(*) FROM trace_webhook_correlation(NULL);
SELECT count(*) FROM trace_webhook_correlation('ffffffff-ffff-7fff-bfff-ffffffffffff');
SELECT count(*) FROM trace_webhook_correlation('00000000-0000-7000-8000-000000000000');
-- A message with a time that is none.
INSERT INTO processed_webhook_messages (whatsapp_message_id, payload) VALUES ('wamid.tr-8', '{"message": {"timestamp": "99999999999999999999"}}'), ('wamid.tr-9', '{"message": {"timestamp": {}}}'), ('wamid.tr-10', NULL);
SELECT count(*) FROM unnest('{wamid.tr-8,wamid.tr-9,wamid.tr-10}'::text[]) id, trace_webhook_message(id);

-- No payload to anybody, and to a monitor neither errors nor the id of the message, which holds a phone number.
CREATE ROLE tr_monitor;
SELECT wahook_grant('tr_monitor', 'monitor');
SET ROLE tr_monitor;
SELECT count(*) > 10 AS steps, count(error) AS errors, count(*) FILTER (WHERE t::text LIKE '%250788000077%' OR t::text LIKE '%private%') AS private FROM trace_webhook_message('wamid.tr-1') t;
SELECT count(*) > 10 AS steps, count(error) AS errors, count(whatsapp_message_id) AS ids, count(DISTINCT message_id) AS messages FROM trace_webhook_correlation(:'correlation_id') t;
SELECT count(*) FROM webhook_message_trace WHERE error IS NOT NULL OR whatsapp_message_id IS NOT NULL;
RESET ROLE;
SELECT wahook_grant('tr_monitor', 'personal_data');
SET ROLE tr_monitor;
SELECT count(error) AS errors FROM trace_webhook_message('wamid.tr-1') t;
RESET ROLE;
SELECT wahook_revoke('tr_monitor', 'personal_data'), wahook_revoke('tr_monitor', 'monitor');
DROP OWNED BY tr_monitor;
DROP ROLE tr_monitor;

-- Each table is asked by an index, also where nobody has told the planner of its size (autovacuum may have).
DELETE FROM pg_statistic USING pg_class c WHERE starelid = c.oid AND c.relnamespace = 'public'::regnamespace;
UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i');
SET enable_seqscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_bitmapscan = off;
CREATE FUNCTION pg_temp.scans() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	v_line text;
BEGIN
	FOR v_line IN EXECUTE 'EXPLAIN (COSTS off) SELECT * FROM webhook_message_trace WHERE message_id = ''00000000-0000-7000-8000-000000000000''' LOOP
		IF v_line ~ 'Scan.* (on|using) (webhook_|processed_|agent_|conversation_)' THEN
			RETURN NEXT regexp_replace(v_line, '^.*-> *| [a-z]_?\d*$', '', 'g');
		END IF;
	END LOOP;
END
$$;
SELECT DISTINCT * FROM pg_temp.scans() ORDER BY 1;
-- So it is for several messages: none reads the dead letters of others.
CREATE FUNCTION pg_temp.pages_read(p_query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	v_plan jsonb;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT json) ' || p_query INTO v_plan;
	RETURN (v_plan #>> '{0,Plan,Shared Hit Blocks}')::bigint + (v_plan #>> '{0,Plan,Shared Read Blocks}')::bigint;
END
$$;
INSERT INTO webhook_dlq (payload, whatsapp_message_id) SELECT '{}', 'wamid.tr-many-' || n FROM generate_series(1, 1000) n;
SELECT count(*) FROM trace_webhook_correlation(:'correlation_id') WHERE step = 'received';
SELECT pg_temp.pages_read(format('SELECT * FROM trace_webhook_correlation(%L)', :'correlation_id')) < 500 AS few;

DELETE FROM agent_turns WHERE conversation_id = :'conversation_id';
DELETE FROM webhook_dlq WHERE whatsapp_message_id LIKE 'wamid.tr-%' OR id = :'entry';
DELETE FROM webhook_conversation_queue WHERE conversation_id = :'conversation_id';
DELETE FROM webhook_inbox WHERE conversation_id = :'conversation_id';
DELETE FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'wamid.tr-%';
DELETE FROM webhook_message_statuses WHERE whatsapp_message_id LIKE 'wamid.tr-%';
