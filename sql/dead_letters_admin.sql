-- Dead letters, what only an administrator can do or look at: SQL handlers and their roles, lost messages, the inbox.
\pset null -
DELETE FROM webhook_dlq;
CREATE SCHEMA dl_app;
CREATE ROLE wahook_dl_app;
CREATE ROLE wahook_dl_other;
GRANT USAGE ON SCHEMA dl_app TO wahook_dl_app;
CREATE TABLE dl_app.handled (id serial, who name, message jsonb);
GRANT INSERT ON dl_app.handled TO wahook_dl_app;
GRANT USAGE ON SEQUENCE dl_app.handled_id_seq TO wahook_dl_app;
CREATE FUNCTION dl_app.handle(message jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO handled (who, message) VALUES (current_user, message);
	IF message->'message'->'text'->>'body' = 'bad' THEN
		RAISE EXCEPTION 'can''t read that' USING DETAIL = 'Not a word.', HINT = 'Write again.';
	END IF;
END
$$;
CREATE FUNCTION dl_app.handle_all(message jsonb) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT message';
CREATE TEMP VIEW entries AS
	SELECT coalesce(whatsapp_message_id, payload::text) AS message, error, retry_count AS retries, resolution_status AS status
	FROM webhook_dlq ORDER BY 1;

-- Setting a handler.
UPDATE webhook_services SET handler = 'dl_app.none' WHERE name = 'default';
UPDATE webhook_services SET handler = 'upper(text)' WHERE name = 'default';
UPDATE webhook_services SET handler = 'dl_app.handle_all' WHERE name = 'default';
UPDATE webhook_services SET handler = 'dl_app.handle', run_as = 'nobody_at_all' WHERE name = 'default';
UPDATE webhook_services SET handler = 'dl_app.handle' WHERE name = 'default';
SELECT name, handler, run_as = current_user AS mine FROM webhook_services WHERE name = 'default';
UPDATE webhook_services SET run_as = 'wahook_dl_app' WHERE name = 'default';
SELECT handler, run_as FROM webhook_services WHERE name = 'default';
-- It answers for its role only while the handler stays the same, and lends nobody another one.
SELECT wahook_grant('wahook_dl_other', 'admin');
SET ROLE wahook_dl_other;
UPDATE webhook_services SET handler = 'dl_app.handle' WHERE name = 'default';
INSERT INTO webhook_services (name, handler, run_as) VALUES ('dl_thief', 'pg_catalog.jsonb_typeof', 'wahook_dl_app');
INSERT INTO webhook_services (name, handler) VALUES ('dl_other', 'jsonb_typeof');
RESET ROLE;
SELECT name, handler, run_as FROM webhook_services WHERE name LIKE 'dl%';
DELETE FROM webhook_services WHERE name = 'dl_other';
UPDATE webhook_services SET handler = 'dl_app.handle', run_as = 'wahook_dl_app' WHERE name = 'default';
SELECT handler, run_as FROM webhook_services WHERE name = 'default';
UPDATE webhook_services SET run_as = 'wahook_dl_app' WHERE name = 'default';
UPDATE webhook_services SET updated_at = now() WHERE name = 'default';
SELECT handler, run_as FROM webhook_services WHERE name = 'default';

-- Two conversations: one in which a message is bad, one that somebody holds.
INSERT INTO webhook_conversations (id, user_id) VALUES
	('00000000-0000-4000-8000-0000000000d1', 'dl-1'), ('00000000-0000-4000-8000-0000000000d2', 'dl-2');
INSERT INTO processed_webhook_messages (whatsapp_message_id, conversation_id, kind, payload, processed_at)
	SELECT 'dla.' || n, c::uuid, 'text', jsonb_build_object('message', jsonb_build_object('from', '1555', 'text', jsonb_build_object('body', body))), NULL
	FROM (VALUES (1, '00000000-0000-4000-8000-0000000000d1', 'good'), (2, '00000000-0000-4000-8000-0000000000d1', 'bad'),
		(3, '00000000-0000-4000-8000-0000000000d2', 'held')) AS m (n, c, body);
INSERT INTO webhook_dlq (payload, error, whatsapp_message_id)
	SELECT payload, 'first failure', whatsapp_message_id FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'dla.%';
INSERT INTO webhook_dlq (payload, error, service) VALUES ('{"hand": "made"}', 'by hand', 'default'), ('{"no": "handler"}', 'by hand', 'dl_none');
SELECT acquire_conversation_lock('00000000-0000-4000-8000-0000000000d2', '00000000-0000-4000-8000-00000000000a');
UPDATE webhook_dlq SET next_retry_at = now();
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT * FROM entries;
-- What a failed handler did is undone.
SELECT who, message - 'correlation_id' - 'received_at' AS message FROM dl_app.handled ORDER BY id;
SELECT error_stack FROM webhook_dlq WHERE whatsapp_message_id = 'dla.2';
SELECT user_id, locked_by, lock_token FROM webhook_conversations WHERE user_id LIKE 'dl-_' ORDER BY user_id;
SELECT m.whatsapp_message_id, i.attempts, i.losses FROM webhook_inbox i JOIN processed_webhook_messages m ON m.id = i.message_id
	WHERE m.whatsapp_message_id LIKE 'dla.%' ORDER BY i.seq;
SELECT m.whatsapp_message_id, a.attempt, a.outcome, a.error, a.lock_token, a.duration_ms >= 0 AS timed
	FROM webhook_delivery_attempts a JOIN processed_webhook_messages m ON m.id = a.message_id
	WHERE m.whatsapp_message_id LIKE 'dla.%' ORDER BY 1, 2;
SELECT current_user = session_user AS myself, current_setting('search_path') LIKE '%public%' AS my_path;

-- A message that waits is not queued a second time.
UPDATE webhook_dlq SET resolution_status = 'pending', next_retry_at = now() WHERE whatsapp_message_id = 'dla.3';
SELECT count(*) FROM webhook_inbox i JOIN processed_webhook_messages m ON m.id = i.message_id WHERE m.whatsapp_message_id = 'dla.3';
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT count(*) FROM webhook_inbox i JOIN processed_webhook_messages m ON m.id = i.message_id WHERE m.whatsapp_message_id = 'dla.3';
SELECT release_conversation_lock('00000000-0000-4000-8000-0000000000d2', '00000000-0000-4000-8000-00000000000a');

-- A holder that claimed it keeps it, whatever happens to its entry.
BEGIN;
SELECT conversation_id, lock_id IS NOT NULL AS claimed FROM claim_conversations(1000, '00000000-0000-4000-8000-00000000000b', 'default')
	WHERE conversation_id = '00000000-0000-4000-8000-0000000000d2';
UPDATE webhook_dlq SET resolution_status = 'failed' WHERE whatsapp_message_id = 'dla.3';
SELECT count(*) FROM webhook_inbox i JOIN processed_webhook_messages m ON m.id = i.message_id WHERE m.whatsapp_message_id = 'dla.3';
SELECT retry_count, resolution_status, error FROM fail_webhook_message('00000000-0000-4000-8000-0000000000d2',
	'00000000-0000-4000-8000-00000000000b', 'dla.3', 'failed at last');
ROLLBACK;

-- Messages whose holders vanished.
INSERT INTO webhook_inbox (conversation_id, message_id, attempts, losses, enqueued_at)
	SELECT conversation_id, id, 1, 3, now() FROM processed_webhook_messages WHERE whatsapp_message_id = 'dla.2'
	RETURNING seq AS lost_seq \gset
SELECT webhook_dead_letter_lost('00000000-0000-4000-8000-0000000000d1', ARRAY[:lost_seq, -1]);
SELECT * FROM entries WHERE message = 'dla.2';

-- Handlers that take too long, change settings, or leave things behind.
CREATE OR REPLACE FUNCTION dl_app.handle(message jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(60);
END
$$;
SELECT retry_dead_letters(p_error_like => 'the holder%');
SET wahook.processing_timeout = '50ms';
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT * FROM entries WHERE message = 'dla.2';
RESET wahook.processing_timeout;
-- A cancelled job is no failed message.
SELECT retry_dead_letters(p_error_like => 'handler ran longer%');
\set VERBOSITY terse
SET statement_timeout = '100ms';
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
RESET statement_timeout;
\set VERBOSITY default
SELECT * FROM entries WHERE message = 'dla.2';
CREATE OR REPLACE FUNCTION dl_app.handle(message jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	SET work_mem = '123kB';
	CREATE TEMP TABLE left_behind (a int);
END
$$;
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT * FROM entries WHERE message = 'dla.2';
CREATE OR REPLACE FUNCTION dl_app.handle(message jsonb) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
	SET work_mem = '123kB';
END
$$;
SELECT retry_dead_letters(p_error_like => 'cannot create temporary%');
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT * FROM entries WHERE message = 'dla.2';
SELECT current_setting('work_mem') <> '123kB' AS mine;
-- A handler that deletes the entry it is run for.
CREATE OR REPLACE FUNCTION dl_app.handle(message jsonb) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
	DELETE FROM webhook_dlq WHERE payload ? 'gone';
END
$$;
INSERT INTO webhook_dlq (payload, error, next_retry_at) VALUES ('{"gone": true}', 'by hand', now());
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT count(*) FROM entries WHERE message LIKE '%gone%';
CREATE OR REPLACE FUNCTION dl_app.handle(message jsonb) RETURNS void LANGUAGE sql AS '';
-- A handler may erase its user, the conversation included.
CREATE OR REPLACE FUNCTION dl_app.handle(message jsonb) RETURNS void LANGUAGE sql SECURITY DEFINER
	AS $$ DELETE FROM public.webhook_conversations WHERE id = (message->>'conversation_id')::uuid $$;
INSERT INTO webhook_conversations (id, user_id) VALUES ('00000000-0000-4000-8000-0000000000d9', 'dl-9');
INSERT INTO processed_webhook_messages (whatsapp_message_id, conversation_id, payload, processed_at)
	VALUES ('dla.9', '00000000-0000-4000-8000-0000000000d9', '{}', NULL);
INSERT INTO webhook_dlq (payload, error, whatsapp_message_id, next_retry_at) VALUES ('{}', 'erase me', 'dla.9', now());
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT d.resolution_status, m.processed_at IS NOT NULL AS processed, c.id
	FROM webhook_dlq d JOIN processed_webhook_messages m USING (whatsapp_message_id) LEFT JOIN webhook_conversations c ON c.id = m.conversation_id
	WHERE whatsapp_message_id = 'dla.9';
CREATE OR REPLACE FUNCTION dl_app.handle(message jsonb) RETURNS void LANGUAGE sql AS '';
-- One that can't be run any more leaves its messages to those who claim.
REVOKE EXECUTE ON FUNCTION dl_app.handle FROM PUBLIC;
INSERT INTO webhook_dlq (payload, error, next_retry_at) VALUES ('{"left": "alone"}', 'by hand', now());
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
DROP FUNCTION dl_app.handle;
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
UPDATE webhook_services SET handler = NULL WHERE name = 'default';
SELECT name, handler, run_as FROM webhook_services WHERE name = 'default';

-- The triggers are nobody's functions but their tables'.
SELECT webhook_dlq_before_change();
CREATE TRIGGER misplaced BEFORE INSERT ON dl_app.handled FOR EACH ROW EXECUTE FUNCTION webhook_dlq_before_change();
INSERT INTO dl_app.handled DEFAULT VALUES;

DELETE FROM webhook_dlq;
DELETE FROM webhook_inbox WHERE conversation_id IN (SELECT id FROM webhook_conversations WHERE user_id LIKE 'dl-_');
DELETE FROM webhook_conversations WHERE user_id LIKE 'dl-_';
DROP OWNED BY wahook_dl_other;
\set VERBOSITY terse
DROP SCHEMA dl_app CASCADE;
DROP ROLE wahook_dl_app;
DROP ROLE wahook_dl_other;
