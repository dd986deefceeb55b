-- Dead letters: the schedule, both generations of callers, fail, redrive, the job.
\set VERBOSITY default
\pset null -
DELETE FROM webhook_dlq;

-- Shorthands of this test.
CREATE TEMP VIEW entries AS
	SELECT whatsapp_message_id AS wamid, error, retry_count AS retries, resolution_status AS status,
		processed, processed_at IS NOT NULL AS has_processed_at,
		round(extract(epoch FROM next_retry_at - clock_timestamp()), -1) AS due_in,
		retry_lease_until > clock_timestamp() AS leased
	FROM webhook_dlq ORDER BY whatsapp_message_id, error;

-- The schedule.
SELECT n, dlq_retry_delay(n) FROM unnest(ARRAY[0, 1, 2, 5, 6, 2147483647, NULL]) AS n;
SELECT dlq_retry_delay(-1);
SET wahook.dlq_max_delay = '3min';
SELECT n, dlq_retry_delay(n) FROM generate_series(0, 3) AS n;
RESET wahook.dlq_max_delay;
SET wahook.dlq_jitter = 0.5;
SELECT count(*) FILTER (WHERE d >= '1min' AND d < '1min 30s') AS in_bounds, count(DISTINCT d) > 1 AS differ
	FROM (SELECT dlq_retry_delay(0) AS d FROM generate_series(1, 100)) AS delays;
RESET wahook.dlq_jitter;

-- First-generation callers insert again on each failure: the entry keeps its id and its age.
INSERT INTO webhook_dlq (payload, error, whatsapp_message_id, retry_count, max_retries, next_retry_at, resolution_status)
	VALUES ('{"from": "15550001"}', 'first', 'dl.1', 0, 3, now() + interval '1 minute', 'pending')
	RETURNING id AS first_id, created_at AS first_created \gset
INSERT INTO webhook_dlq (payload, error, whatsapp_message_id, retry_count, next_retry_at)
	VALUES ('{"from": "15550001"}', 'second', 'dl.1', 1, now() + interval '2 minutes')
	RETURNING id = :'first_id' AS same_id, created_at = :'first_created' AS same_created, from_number;
SELECT * FROM entries;
-- In one statement too; without a wamid every insert is an entry of its own.
INSERT INTO webhook_dlq (payload, error, whatsapp_message_id)
	VALUES ('{}', 'a', 'dl.2'), ('{}', 'b', 'dl.2'), ('{}', 'c', NULL), ('{}', 'd', NULL);
SELECT * FROM entries WHERE wamid IS DISTINCT FROM 'dl.1';
INSERT INTO webhook_dlq (payload, error, whatsapp_message_id, retry_count, resolution_status)
	VALUES ('{}', 'given up', 'dl.3', 3, 'failed');
INSERT INTO webhook_dlq (payload, error, whatsapp_message_id, retry_count) VALUES ('{}', 'no retries left', 'dl.4', 3);
SELECT * FROM entries WHERE status = 'failed';

-- The other generation, and ON CONFLICT as PostgreSQL defines it.
INSERT INTO wa_dead_letter_queue (message_id, from_number, payload, error_message, retry_count, next_retry_at)
	VALUES ('dl.5', '15550005', '{}', 'upsert', 0, now() + interval '1 minute')
	ON CONFLICT (message_id) DO UPDATE SET error_message = 'not now'
	RETURNING id AS view_id \gset
INSERT INTO wa_dead_letter_queue (message_id, from_number, payload, error_message, retry_count, next_retry_at)
	VALUES ('dl.5', '0', '{}', 'upsert', 1, now() + interval '2 minutes')
	ON CONFLICT (message_id) DO UPDATE SET error_message = 'twice: ' || excluded.error_message,
		retry_count = excluded.retry_count, next_retry_at = excluded.next_retry_at
	RETURNING id = :'view_id' AS same_id, from_number, error_message, retry_count;
INSERT INTO webhook_dlq AS d (payload, error, whatsapp_message_id) VALUES ('{}', 'x', 'dl.5')
	ON CONFLICT (whatsapp_message_id) DO UPDATE SET error = d.error || ', ' || excluded.error
	RETURNING id = :'view_id' AS same_id, error, retry_count;
INSERT INTO wa_dead_letter_queue (message_id, from_number, payload, error_message)
	VALUES ('dl.5', '15550005', '{}', 'plain') RETURNING id = :'view_id' AS same_id, error_message, retry_count;
-- Out of retries, as a caller who knows no status says it.
UPDATE wa_dead_letter_queue SET retry_count = retry_count + 3, error_message = 'enough',
	next_retry_at = now() + interval '8 minutes' WHERE message_id = 'dl.5';
SELECT * FROM entries WHERE wamid = 'dl.5';
UPDATE wa_dead_letter_queue SET retry_count = 0, next_retry_at = now() + interval '1 minute' WHERE message_id = 'dl.5';
SELECT * FROM entries WHERE wamid = 'dl.5';
UPDATE wa_dead_letter_queue SET processed = true, processed_at = now(), updated_at = now() WHERE id = :'view_id';
SELECT * FROM entries WHERE wamid = 'dl.5';
UPDATE wa_dead_letter_queue SET processed = false WHERE id = :'view_id';
SELECT * FROM entries WHERE wamid = 'dl.5';
UPDATE webhook_dlq SET resolution_status = 'resolved' WHERE id = :'view_id';
SELECT processed, processed_at IS NOT NULL AS at FROM wa_dead_letter_queue WHERE message_id = 'dl.5';
DELETE FROM wa_dead_letter_queue WHERE processed AND processed_at <= now();
SELECT count(*) FROM webhook_dlq WHERE whatsapp_message_id = 'dl.5';

-- The runbook.
UPDATE webhook_dlq SET next_retry_at = now() WHERE resolution_status = 'pending';
UPDATE webhook_dlq SET next_retry_at = now(), resolution_status = 'pending'
	WHERE resolution_status = 'failed' AND whatsapp_message_id = 'dl.3';
SELECT * FROM entries WHERE status = 'pending';

-- Retriers of the first generation: a lease, an answer.
SELECT whatsapp_message_id, resolution_status, next_retry_at FROM get_retriable_messages(4) ORDER BY 1;
SELECT whatsapp_message_id, retry_lease_until > now() AS leased FROM get_retriable_messages(NULL);
SELECT whatsapp_message_id FROM get_retriable_messages();
SELECT count(*) FROM wa_dead_letter_queue WHERE processed = false AND retry_count < 3 AND next_retry_at <= now();
SELECT mark_message_processed('dl.1', true);
SELECT mark_message_processed(id::text, false, 'still down') FROM webhook_dlq WHERE whatsapp_message_id = 'dl.2';
SELECT mark_message_processed('dl.3', false, n::text) FROM generate_series(1, 4) AS n;
SELECT mark_message_processed('dl.1', false, 'too late'), mark_message_processed('dl.3', true);
SELECT mark_message_processed('dl.none', true);
SELECT mark_message_processed(NULL, true);
SELECT * FROM entries;
-- A retrier that vanished: its entries are due again, with one retry less.
UPDATE webhook_dlq SET retry_lease_until = now() WHERE resolution_status = 'retrying';
SELECT error, retry_count, resolution_status FROM get_retriable_messages() ORDER BY error;

-- In bulk.
SELECT discard_dead_letters(p_error_like => 'still%'), discard_dead_letters(p_service => 'none');
SELECT retry_dead_letters(p_since => now() + interval '1 day'), retry_dead_letters(p_limit => 0);
SELECT retry_dead_letters(p_error_like => 'no retries%');
SELECT * FROM entries WHERE wamid IN ('dl.2', 'dl.4');
SELECT retry_dead_letters(p_limit => -1);

-- By call.
SELECT add_to_dead_letter_queue('{"from": "15550006"}', 'by call', 'at line 1', 'dl.6') AS call_id \gset
SELECT add_to_dead_letter_queue('{"from": "15550006"}', 'by call again', NULL, 'dl.6', NULL, 1) = :'call_id' AS same_id;
SELECT add_to_dead_letter_queue('{}', 'in an hour', p_whatsapp_message_id => 'dl.7', p_delay => '1 hour') IS NOT NULL;
SELECT add_to_dead_letter_queue('{}', 'too often', p_whatsapp_message_id => 'dl.8', p_retry_count => 3) IS NOT NULL;
SELECT * FROM entries WHERE wamid IN ('dl.6', 'dl.7', 'dl.8');
SELECT add_to_dead_letter_queue(NULL, 'nothing');
SELECT add_to_dead_letter_queue('{}', 'before the first', p_retry_count => -1);
SELECT add_to_dead_letter_queue('{}', 'yesterday', p_delay => '-1 day');

-- A message on its way: claimed, failed, retried in its conversation's queue.
DELETE FROM webhook_dlq;
CREATE TEMP TABLE got AS SELECT * FROM receive_webhook('{"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"field": "messages", "value": {
	"messaging_product": "whatsapp", "metadata": {"display_phone_number": "15550000", "phone_number_id": "77001"},
	"contacts": [{"profile": {"name": "D"}, "wa_id": "15550777"}],
	"messages": [
		{"from": "15550777", "id": "dl.msg.1", "timestamp": "1760000001", "type": "text", "text": {"body": "one"}},
		{"from": "15550777", "id": "dl.msg.2", "timestamp": "1760000002", "type": "text", "text": {"body": "two"}},
		{"from": "15550777", "id": "dl.msg.3", "timestamp": "1760000003", "type": "text", "text": {"body": "three"}}]}}]}]}');
SELECT whatsapp_message_id, kind, outcome FROM got;
SELECT conversation_id AS c FROM got LIMIT 1 \gset
\set lock '00000000-0000-4000-8000-000000000001'
SELECT acquire_conversation_lock(:'c', :'lock');
SELECT whatsapp_message_id, error, error_stack, retry_count, max_retries, resolution_status, from_number,
		conversation_id = :'c' AS of_conversation, correlation_id = (SELECT correlation_id FROM got LIMIT 1) AS correlated,
		next_retry_at - updated_at AS delay
	FROM fail_webhook_message(:'c', :'lock', 'dl.msg.1', 'it broke', 'at line 7');
SELECT (fail_webhook_message(:'c', :'lock', 'dl.msg.2', 'hopeless', p_retryable => false)).resolution_status;
SELECT e.next_retry_at - e.updated_at AS delay FROM fail_webhook_message(:'c', :'lock', 'dl.msg.3', 'wait', p_retry_after => '10 s') AS e;
SELECT error_count, retry_count, locked_by FROM webhook_conversations WHERE id = :'c';
-- What can't be failed.
\set VERBOSITY sqlstate
SELECT resolution_status FROM fail_webhook_message(:'c', '00000000-0000-4000-8000-000000000002', 'dl.msg.1', 'not mine');
SELECT resolution_status FROM fail_webhook_message(:'c', :'lock', 'dl.msg.1', 'failed already');
SELECT resolution_status FROM fail_webhook_message(:'c', :'lock', 'dl.none', 'never came');
\set VERBOSITY default
SELECT resolution_status FROM fail_webhook_message('00000000-0000-4000-8000-000000000000', :'lock', 'dl.msg.1', 'where');
SELECT resolution_status FROM fail_webhook_message(NULL, :'lock', 'dl.msg.1', 'where');
SELECT resolution_status FROM fail_webhook_message(:'c', :'lock', 'dl.msg.1', 'when', p_retry_after => '-1 s');
SELECT release_conversation_lock(:'c', :'lock');

-- Nothing is due yet, then two are.
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
UPDATE webhook_dlq SET next_retry_at = now() WHERE resolution_status = 'pending';
SELECT process_dead_letter_queue(NULL) - 'durationMs' AS answer;
SELECT process_dead_letter_queue(-1);
SELECT * FROM entries;
SELECT acquire_conversation_lock(:'c', :'lock');
SELECT retry_count, resolution_status, next_retry_at - updated_at AS delay
	FROM fail_webhook_message(:'c', :'lock', 'dl.msg.1', 'again');
SELECT complete_webhook_messages(:'c', :'lock', ARRAY['dl.msg.3']);
SELECT * FROM entries;
-- Reported as failed, then completed all the same: no retry.
INSERT INTO webhook_dlq (payload, error, whatsapp_message_id, updated_at, next_retry_at)
	VALUES ('{}', 'before it was done', 'dl.msg.3', now() - interval '1 hour', now());
SELECT whatsapp_message_id FROM get_retriable_messages();
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT * FROM entries WHERE wamid = 'dl.msg.3';
-- Resolved by hand: the message is done. Revived: it is not.
UPDATE webhook_dlq SET resolution_status = 'resolved' WHERE whatsapp_message_id = 'dl.msg.1';
SELECT processed_at IS NOT NULL AS done FROM processed_webhook_messages WHERE whatsapp_message_id = 'dl.msg.1';
UPDATE webhook_dlq SET resolution_status = 'pending' WHERE whatsapp_message_id = 'dl.msg.1';
SELECT processed_at IS NOT NULL AS done FROM processed_webhook_messages WHERE whatsapp_message_id = 'dl.msg.1';
-- In its queue, and given up or reported by other means: retried once.
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
UPDATE webhook_dlq SET resolution_status = 'failed' WHERE whatsapp_message_id = 'dl.msg.1';
SELECT acquire_conversation_lock(:'c', :'lock');
\set VERBOSITY sqlstate
SELECT resolution_status FROM fail_webhook_message(:'c', :'lock', 'dl.msg.1', 'not in the queue');
\set VERBOSITY default
SELECT release_conversation_lock(:'c', :'lock');
SELECT attempt, outcome, error FROM webhook_delivery_attempts a
	JOIN processed_webhook_messages m ON m.id = a.message_id
	WHERE whatsapp_message_id LIKE 'dl.msg.%' ORDER BY a.seq;
DELETE FROM webhook_dlq;
