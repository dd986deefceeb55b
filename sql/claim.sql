-- Claiming: which conversations, which messages, in which order; completing them.
\pset null -
CREATE FUNCTION pg_temp.receive(p_phone text, VARIADIC p_ids text[]) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM receive_webhook((SELECT format('{"entry": [{"changes": [{"field": "messages", "value": {"metadata": {"phone_number_id": "clm"}, "messages": [%s]}}]}]}',
		string_agg(format('{"from": "%s", "id": "%s", "type": "text"}', p_phone, id), ',' ORDER BY n)) FROM unnest(p_ids) WITH ORDINALITY AS i (id, n)))
	WHERE outcome = 'accepted'
	$$;
CREATE TEMP TABLE claims (n serial, c uuid, l uuid, token bigint, expires_at timestamptz, user_id text, ids text, attempts text, service text);
CREATE FUNCTION pg_temp.claim(p_limit integer DEFAULT 1, p_service text DEFAULT NULL, p_lock uuid DEFAULT NULL, p_lease interval DEFAULT NULL)
	RETURNS TABLE (user_id text, ids text, attempts text, token bigint, lease numeric) LANGUAGE sql AS $$
	WITH claimed AS (
		INSERT INTO pg_temp.claims (c, l, token, expires_at, user_id, ids, attempts, service)
		SELECT conversation_id, lock_id, lock_token, lock_expires_at, user_id,
			(SELECT string_agg(m ->> 'whatsapp_message_id', ' ' ORDER BY n) FROM jsonb_array_elements(messages) WITH ORDINALITY AS m (m, n)),
			(SELECT string_agg(m ->> 'attempt', ' ' ORDER BY n) FROM jsonb_array_elements(messages) WITH ORDINALITY AS m (m, n)), service
		FROM claim_conversations(p_limit, p_lock, p_service, p_lease)
		RETURNING *)
	SELECT user_id, ids, attempts, token, round(extract(epoch FROM expires_at - clock_timestamp())) FROM claimed ORDER BY n
	$$;
-- The last claim of a user.
CREATE FUNCTION pg_temp.c(p_user text) RETURNS uuid LANGUAGE sql AS 'SELECT c FROM pg_temp.claims WHERE user_id = p_user ORDER BY n DESC LIMIT 1';
CREATE FUNCTION pg_temp.l(p_user text) RETURNS uuid LANGUAGE sql AS 'SELECT l FROM pg_temp.claims WHERE user_id = p_user ORDER BY n DESC LIMIT 1';
CREATE FUNCTION pg_temp.complete(p_user text) RETURNS integer LANGUAGE sql AS 'SELECT complete_webhook_messages(pg_temp.c(p_user), pg_temp.l(p_user))';

-- Nothing waits.
SELECT * FROM pg_temp.claim(1000);

-- The longest-waiting first, its messages in order, then the next.
SELECT pg_temp.receive('171', 'clm.1', 'clm.2'), pg_temp.receive('172', 'clm.3'), pg_temp.receive('171', 'clm.4'), pg_temp.receive('173', 'clm.5');
SELECT * FROM pg_temp.claim();
SELECT * FROM pg_temp.claim(10);
SELECT * FROM pg_temp.claim(10);
-- All of one call are under one lock id, two calls are under two.
SELECT count(DISTINCT l) FROM claims;
-- What arrives meanwhile waits, and is not completed with the rest.
SELECT pg_temp.receive('171', 'clm.6');
SELECT * FROM pg_temp.claim(10);
SELECT pg_temp.complete('171');
SELECT whatsapp_message_id, processed_at IS NOT NULL AS processed, processing_time_ms >= 0 AS timed FROM processed_webhook_messages WHERE whatsapp_message_id ~ '^clm\.' ORDER BY 1;
SELECT * FROM pg_temp.claim(10);
-- Each attempt is recorded.
SELECT p.whatsapp_message_id, a.attempt, a.outcome, a.lock_token, a.service, a.duration_ms = p.processing_time_ms AS same_time, a.started_at <= a.finished_at AS in_order
	FROM webhook_delivery_attempts AS a JOIN processed_webhook_messages AS p ON p.id = a.message_id
	WHERE p.whatsapp_message_id ~ '^clm\.' ORDER BY 1;
SELECT complete_webhook_messages(pg_temp.c('171'), pg_temp.l('171'), NULL, 1234);
SELECT processing_time_ms FROM processed_webhook_messages WHERE whatsapp_message_id = 'clm.6';

-- By name: one, one that does not wait, none at all.
SELECT complete_webhook_messages(pg_temp.c('172'), pg_temp.l('172'), ARRAY['clm.5', 'clm.none', NULL, ''], NULL, false);
SELECT complete_webhook_messages(pg_temp.c('172'), pg_temp.l('172'), '{}');
SELECT * FROM pg_temp.claim();
SELECT complete_webhook_messages(pg_temp.c('172'), pg_temp.l('172'), ARRAY['clm.3', 'clm.3'], NULL, false);
-- Done twice it is done once, for as long as the lock is held.
SELECT complete_webhook_messages(pg_temp.c('172'), pg_temp.l('172'), ARRAY['clm.3'], NULL, false), complete_webhook_messages(pg_temp.c('172'), pg_temp.l('172'));
SELECT pg_temp.complete('173');
SELECT * FROM pg_temp.claim(10);

-- A lock without a claim completes nothing but what it names.
SELECT pg_temp.receive('174', 'clm.11', 'clm.12');
SELECT id AS c FROM webhook_conversations WHERE user_id = '174' \gset
\set a '00000000-0000-4000-8000-00000000000a'
SELECT acquire_conversation_lock(:'c', :'a');
SELECT * FROM pg_temp.claim(10);
SELECT complete_webhook_messages(:'c', :'a', NULL, NULL, false), complete_webhook_messages(:'c', :'a', ARRAY['clm.12'], NULL, false);
SELECT release_conversation_lock(:'c', :'a');
SELECT * FROM pg_temp.claim(10, NULL, :'a', '30 seconds');
-- Released without being completed, they wait again; that is no attempt.
SELECT release_conversation_lock(:'c', :'a');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('174');

-- At most wahook.claim_max_messages of a conversation; the rest when those are done.
SET wahook.claim_max_messages = 2;
SELECT pg_temp.receive('175', 'clm.21', 'clm.22', 'clm.23'), pg_temp.receive('176', 'clm.24');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('175');
SELECT * FROM pg_temp.claim(2);
RESET wahook.claim_max_messages;
SELECT complete_conversations(array_agg(c), pg_temp.l('176'), 55) FROM claims WHERE l = pg_temp.l('176');
SELECT count(*) FROM processed_webhook_messages WHERE whatsapp_message_id IN ('clm.23', 'clm.24') AND processing_time_ms = 55;

-- A whole claim at once, or nothing of it, with the names of what was lost.
SELECT pg_temp.receive('177', 'clm.31'), pg_temp.receive('178', 'clm.32'), pg_temp.receive('179', 'clm.33');
SELECT * FROM pg_temp.claim(3, NULL, :'a');
SELECT release_conversation_lock(pg_temp.c('178'), :'a');
DO $$
BEGIN
	PERFORM complete_conversations(array_agg(c ORDER BY n), '00000000-0000-4000-8000-00000000000a') FROM pg_temp.claims WHERE user_id IN ('177', '178', '179');
EXCEPTION WHEN SQLSTATE 'WH002' THEN
	DECLARE
		v_detail text;
		v_hint text;
	BEGIN
		GET STACKED DIAGNOSTICS v_detail = PG_EXCEPTION_DETAIL, v_hint = PG_EXCEPTION_HINT;
		RAISE NOTICE '%', sqlerrm;
		RAISE NOTICE '%', replace(v_detail, pg_temp.c('178')::text, '(that of 178)');
		RAISE NOTICE '%', v_hint;
	END;
END
$$;
SELECT user_id, locked_by IS NOT NULL AS locked FROM webhook_conversations WHERE user_id IN ('177', '178', '179') ORDER BY 1;
SELECT complete_conversations(ARRAY[pg_temp.c('177'), pg_temp.c('179'), pg_temp.c('177')], :'a');
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('178');

-- What the transaction undoes is undone.
SELECT pg_temp.receive('180', 'clm.41');
BEGIN;
SELECT * FROM pg_temp.claim();
SELECT pg_temp.complete('180');
ROLLBACK;
BEGIN;
SELECT * FROM pg_temp.claim();
COMMIT;
BEGIN;
SELECT pg_temp.complete('180');
ROLLBACK;
SELECT pg_temp.complete('180');

-- A claim in the same transaction as the receive, and twice.
BEGIN;
SELECT pg_temp.receive('181', 'clm.51');
SELECT * FROM pg_temp.claim(2);
SELECT pg_temp.receive('181', 'clm.52');
SELECT * FROM pg_temp.claim(2);
SELECT pg_temp.complete('181');
SELECT * FROM pg_temp.claim(2);
SELECT pg_temp.complete('181');
COMMIT;

-- A conversation that is over is open again when it is claimed, with an audit row.
SELECT transition_conversation(id, 'completed', 'done') FROM webhook_conversations WHERE user_id = '181';
SELECT pg_temp.receive('181', 'clm.53');
SELECT status FROM webhook_conversations WHERE user_id = '181';
SELECT * FROM pg_temp.claim();
SELECT status FROM webhook_conversations WHERE user_id = '181';
SELECT from_state, to_state, transition_reason FROM conversation_state_transitions WHERE conversation_id = pg_temp.c('181') ORDER BY id;
SELECT pg_temp.complete('181');

-- Arguments.
SELECT count(*) FROM claim_conversations(NULL, NULL, NULL, NULL);
SELECT count(*) FROM claim_conversations(0);
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM claim_conversations(-1);
SELECT count(*) FROM claim_conversations(1001);
SELECT count(*) FROM claim_conversations(1, NULL, NULL, '0 seconds');
\echo :LAST_ERROR_SQLSTATE
SELECT pg_temp.receive('182', 'clm.61');
SELECT * FROM pg_temp.claim(1, 'no_such_service');
SELECT * FROM pg_temp.claim(1, '');
SELECT * FROM pg_temp.claim(1, 'default', NULL, '1 hour');
SELECT pg_temp.complete('182');

-- A message as its handler gets it.
SELECT count(*) FROM receive_webhook('{"entry": [{"changes": [{"field": "messages", "value": {"metadata": {"phone_number_id": "clm"}, "contacts": [{"wa_id": "183", "profile": {"name": "Zoë"}}], "messages": [{"from": "183", "id": "clm.71", "type": "text", "text": {"body": "\ud83d\ude00"}}]}}]}]}',
	NULL, '00000000-0000-4000-8000-00000000c0de');
SELECT user_id, whatsapp_phone, agent_type, service, conversation_context, lock_token,
	jsonb_pretty(messages #- '{0,received_at}') AS messages,
	(messages -> 0 ->> 'received_at')::timestamptz = (SELECT received_at FROM processed_webhook_messages WHERE whatsapp_message_id = 'clm.71') AS received_at,
	complete_webhook_messages(conversation_id, lock_id)
FROM claim_conversations();
SELECT * FROM pg_temp.claim(1000);
