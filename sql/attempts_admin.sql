-- Every attempt is on record, whichever table tells of it.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT string_agg(attname || ' ' || atttypid::regtype, ', ' ORDER BY attnum) AS columns
	FROM pg_attribute WHERE attrelid = 'webhook_delivery_attempts'::regclass AND attnum > 0;

CREATE FUNCTION pg_temp.receive(p_phone text, VARIADIC p_ids text[]) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM receive_webhook((SELECT format('{"entry": [{"changes": [{"field": "messages", "value": {"metadata": {"phone_number_id": "att"}, "messages": [%s]}}]}]}',
		string_agg(format('{"from": "%s", "id": "%s", "type": "text"}', p_phone, id), ',' ORDER BY n)) FROM unnest(p_ids) WITH ORDINALITY AS i (id, n)))
	WHERE outcome = 'accepted'
	$$;
CREATE FUNCTION pg_temp.complete() RETURNS bigint LANGUAGE sql AS $$
	SELECT sum(complete_webhook_messages(conversation_id, lock_id, p_processing_time_ms => 7)) FROM claim_conversations(10)
	$$;
-- All that is known of the attempts at a message, and which of them have a row.
CREATE FUNCTION pg_temp.attempts(p_id text) RETURNS TABLE (attempt integer, outcome text, service text, token bigint, ms integer, lock_id boolean, in_order boolean,
		finished boolean, error text, has_row boolean)
	LANGUAGE sql AS $$
	SELECT a.attempt, a.outcome, a.service, a.lock_token, a.duration_ms, a.lock_id IS NOT NULL, a.started_at BETWEEN m.received_at AND a.finished_at,
		a.finished_at <= clock_timestamp(), a.error, r.seq IS NOT NULL
	FROM processed_webhook_messages m JOIN webhook_delivery_attempts a ON a.message_id = m.id AND a.conversation_id = m.conversation_id
		LEFT JOIN webhook_attempts r ON r.message_id = a.message_id AND r.seq = a.seq
	WHERE m.whatsapp_message_id = p_id ORDER BY a.seq
	$$;

-- Of the first that succeeds the message tells.
SELECT pg_temp.receive('471', 'att.1');
SELECT * FROM pg_temp.attempts('att.1');
SELECT pg_temp.complete();
SELECT * FROM pg_temp.attempts('att.1');
SELECT a.finished_at = m.processed_at AS finished, a.duration_ms = m.processing_time_ms AS timed, a.started_at = m.claimed_at AS started, a.lock_id = m.claimed_by AS held
	FROM processed_webhook_messages m JOIN webhook_delivery_attempts a ON a.message_id = m.id WHERE whatsapp_message_id = 'att.1';
-- In place, however many there are in one transaction and however small.
BEGIN;
CREATE TEMP VIEW updated AS SELECT pg_stat_get_xact_tuples_updated(c) AS updated, pg_stat_get_xact_tuples_hot_updated(c) AS in_place,
	pg_stat_get_xact_tuples_inserted('webhook_attempts'::regclass) AS rows FROM (SELECT 'processed_webhook_messages'::regclass AS c) c;
CREATE TEMP TABLE former AS TABLE updated;
SELECT pg_temp.receive('473', VARIADIC array_agg('att.hot.' || n)) FROM generate_series(1, 100) n;
SELECT pg_temp.complete();
SELECT u.updated - f.updated AS updated, u.in_place - f.in_place AS in_place, u.rows - f.rows AS rows FROM updated u, former f;
COMMIT;
-- Of one that came later than soon, a row does. Likewise where its service was gone meanwhile.
SELECT pg_temp.receive('471', 'att.2', 'att.3', 'att.4');
UPDATE processed_webhook_messages SET received_at = received_at - interval '61 seconds' WHERE whatsapp_message_id = 'att.2';
UPDATE processed_webhook_messages SET service = 'gone' WHERE whatsapp_message_id = 'att.3';
-- A clock that was set back makes it early.
UPDATE processed_webhook_messages SET received_at = received_at + interval '1 hour' WHERE whatsapp_message_id = 'att.4';
SELECT pg_temp.complete();
SELECT id, attempt, outcome, service, has_row FROM unnest('{att.2,att.3,att.4}'::text[]) id, pg_temp.attempts(id);
-- And of all where one failed or was lost.
SELECT pg_temp.receive('471', 'att.5', 'att.6');
SELECT conversation_id AS c, lock_id AS l FROM claim_conversations() \gset
SELECT (fail_webhook_message(:'c', :'l', 'att.5', 'no')).resolution_status;
UPDATE webhook_conversations SET lock_expires_at = clock_timestamp() WHERE id = :'c';
UPDATE webhook_leases SET expires_at = clock_timestamp() WHERE conversation_id = :'c';
UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id = 'att.5';
SELECT process_dead_letter_queue() -> 'requeued' AS requeued;
SELECT pg_temp.complete();
SELECT id, attempt, outcome, error, has_row FROM unnest('{att.5,att.6}'::text[]) id, pg_temp.attempts(id);

-- What was completed is done once more: no attempt is lost, and none told twice. By its dead letter, which is revived.
SELECT add_to_dead_letter_queue('{}', 'too early', NULL, 'att.1') IS NOT NULL AS added;
UPDATE webhook_dlq SET resolution_status = 'resolved' WHERE whatsapp_message_id = 'att.1';
UPDATE webhook_dlq SET resolution_status = 'pending', next_retry_at = now() WHERE whatsapp_message_id = 'att.1';
SELECT process_dead_letter_queue() -> 'requeued' AS requeued;
SELECT * FROM pg_temp.attempts('att.1');
SELECT pg_temp.complete();
SELECT * FROM pg_temp.attempts('att.1');
-- By hand, within the first minute: as if it had just come, and it fails that time.
INSERT INTO webhook_inbox (conversation_id, message_id, enqueued_at) SELECT conversation_id, id, now() FROM processed_webhook_messages WHERE whatsapp_message_id IN ('att.hot.1', 'att.hot.2');
INSERT INTO webhook_conversation_queue (conversation_id, due_at) SELECT conversation_id, now() FROM processed_webhook_messages WHERE whatsapp_message_id = 'att.hot.1';
SELECT conversation_id AS c, lock_id AS l FROM claim_conversations() \gset
SELECT (fail_webhook_message(:'c', :'l', 'att.hot.2', 'no')).resolution_status, complete_webhook_messages(:'c', :'l', p_processing_time_ms => 8);
SELECT whatsapp_message_id, attempt, outcome, CASE outcome WHEN 'succeeded' THEN ms END AS ms, has_row, processed_at IS NOT NULL AS processed FROM processed_webhook_messages m, pg_temp.attempts(whatsapp_message_id) a
	WHERE whatsapp_message_id IN ('att.hot.1', 'att.hot.2') ORDER BY 1;
-- A caller sets when it was processed; what it wrote already is no change.
UPDATE processed_webhook_messages SET processed_at = processed_at, payload = payload || '{"x": 1}' WHERE whatsapp_message_id = 'att.hot.3';
SELECT outcome, finished, has_row FROM pg_temp.attempts('att.hot.3');
UPDATE processed_webhook_messages SET processed_at = NULL WHERE whatsapp_message_id = 'att.hot.3';
UPDATE processed_webhook_messages SET processed_at = '2100-01-01' WHERE whatsapp_message_id = 'att.hot.3';
SELECT outcome, finished, has_row FROM pg_temp.attempts('att.hot.3');
-- With the message goes what it tells.
DELETE FROM processed_webhook_messages WHERE whatsapp_message_id = 'att.4';
SELECT count(*) FROM pg_temp.attempts('att.4');

-- Who may select from it sees what there is; who was given the right in another way sees nothing, and nobody writes to it.
CREATE ROLE att_service;
CREATE ROLE att_admin;
CREATE ROLE att_monitor;
CREATE ROLE att_other;
SELECT wahook_grant('att_service', 'service'), wahook_grant('att_admin', 'admin'), wahook_grant('att_monitor', 'monitor');
SELECT count(*) AS attempts FROM webhook_delivery_attempts \gset
SET ROLE att_service;
SELECT count(*) = :attempts AS service FROM webhook_delivery_attempts;
DELETE FROM webhook_delivery_attempts;
DELETE FROM webhook_attempts;
-- The rights that the trigger needs are its owner's.
UPDATE processed_webhook_messages SET processed_at = now() WHERE whatsapp_message_id = 'att.hot.4';
SET ROLE att_admin;
SELECT count(*) = :attempts AS admin FROM webhook_delivery_attempts;
SET ROLE att_monitor;
SELECT count(*) FROM webhook_delivery_attempts;
SELECT id, step, attempt FROM unnest('{att.hot.3,att.hot.5}'::text[]) id, trace_webhook_message(id) WHERE attempt IS NOT NULL;
RESET ROLE;
GRANT USAGE ON SCHEMA public TO att_other;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO att_other;
SET ROLE att_other;
SELECT count(*) FROM webhook_delivery_attempts;
RESET ROLE;

-- A look at one message's asks two indexes, also where row security is in between. What failed is looked for in its own table only.
CREATE FUNCTION plan_of(p_query text) RETURNS SETOF text LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
	v_line text;
	v_never boolean := false;
BEGIN
	FOR v_line IN EXECUTE 'EXPLAIN (COSTS off) ' || p_query LOOP
		-- What is below such a filter is not even begun; since PostgreSQL 17 it is not shown either.
		IF v_line ~ 'One-Time Filter: false' THEN
			v_never := true;
		ELSIF v_never AND v_line ~ ' Scan ' THEN
			v_never := false;
		ELSIF v_line ~ 'Index.*Scan|Index Cond|Seq Scan|Time Filter' THEN
			RETURN NEXT regexp_replace(v_line, '^ *(-> *)?| = .*|(?<= on \w+) \w+$', '', 'g');
		END IF;
	END LOOP;
END
$$;
SELECT plan_of('SELECT * FROM webhook_delivery_attempts WHERE message_id = ''00000000-0000-7000-8000-000000000000''');
SET ROLE att_service;
SELECT plan_of('SELECT * FROM webhook_delivery_attempts WHERE message_id = ''00000000-0000-7000-8000-000000000000''');
SELECT plan_of('SELECT * FROM webhook_delivery_attempts WHERE message_id = (SELECT id FROM processed_webhook_messages WHERE whatsapp_message_id = ''att.1'')');
SELECT plan_of('SELECT * FROM processed_webhook_messages m CROSS JOIN LATERAL (SELECT * FROM webhook_delivery_attempts WHERE message_id = m.id OFFSET 0) a WHERE whatsapp_message_id = ''att.1''');
SELECT plan_of('SELECT * FROM webhook_delivery_attempts WHERE outcome = ''failed'' AND finished_at > now() - interval ''1 hour''');
RESET ROLE;
SELECT plan_of('SELECT * FROM webhook_delivery_attempts WHERE outcome = ''failed'' AND finished_at > now() - interval ''1 hour''');

DROP FUNCTION plan_of;
DROP OWNED BY att_service, att_admin, att_monitor, att_other;
DROP ROLE att_service, att_admin, att_monitor, att_other;
DELETE FROM webhook_dlq WHERE whatsapp_message_id LIKE 'att.%';
DELETE FROM webhook_attempts WHERE message_id IN (SELECT id FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'att.%');
DELETE FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'att.%';
DELETE FROM webhook_conversations WHERE phone_number_id = 'att';
