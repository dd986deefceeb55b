-- SQL handlers that misbehave, run by the dead letter job: each fails alone, and says how.
\pset null -
\set SHOW_CONTEXT never
DELETE FROM webhook_dlq;
DELETE FROM webhook_circuits;
CREATE ROLE wahook_h_app SUPERUSER;
CREATE SCHEMA h_app AUTHORIZATION wahook_h_app;
CREATE TABLE h_app.log (id serial, what text, message jsonb);
CREATE TABLE h_app.deferred (id integer UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE PROCEDURE h_app.commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
CREATE FUNCTION h_app.bottomless(n integer) RETURNS integer LANGUAGE plpgsql AS 'BEGIN RETURN h_app.bottomless(n + 1); END';
CREATE FUNCTION h_app.handle(message jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO log (what, message) VALUES (message->>'do', message);
	CASE message->>'do'
		WHEN 'succeed' THEN NULL;
		WHEN 'raise' THEN RAISE EXCEPTION 'no' USING DETAIL = 'Not today.', HINT = 'Ask tomorrow.', ERRCODE = 'ZZ999';
		WHEN 'raise at length' THEN RAISE EXCEPTION '%', repeat('ñ', 100000) USING DETAIL = repeat('ü', 100000), HINT = repeat('x', 100000);
		WHEN 'sleep' THEN PERFORM pg_sleep(60);
		WHEN 'loop' THEN LOOP NULL; END LOOP;
		WHEN 'catch' THEN
			LOOP
				BEGIN
					PERFORM pg_sleep(60);
				EXCEPTION WHEN query_canceled OR OTHERS THEN
				END;
			END LOOP;
		WHEN 'catch deeply' THEN
			LOOP
				BEGIN
					BEGIN
						PERFORM pg_sleep(60);
					EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(60);
					END;
				EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(60);
				END;
			END LOOP;
		WHEN 'catch and return' THEN
			BEGIN
				PERFORM pg_sleep(60);
			EXCEPTION WHEN query_canceled THEN
			END;
		WHEN 'cancel' THEN RAISE query_canceled;
		WHEN 'commit' THEN CALL h_app.commits();
		WHEN 'rollback' THEN ROLLBACK;
		WHEN 'role' THEN SET ROLE pg_monitor;
		WHEN 'drop role' THEN DROP ROLE wahook_h_app;
		WHEN 'rename role' THEN ALTER ROLE wahook_h_app RENAME TO wahook_h_other;
		WHEN 'defer' THEN INSERT INTO deferred VALUES (1), (1);
		WHEN 'listen' THEN LISTEN h_app;
		WHEN 'cursor' THEN EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT 1';
		WHEN 'prepare' THEN EXECUTE 'PREPARE p AS SELECT 1';
		WHEN 'recurse' THEN PERFORM h_app.bottomless(1);
		WHEN 'eat' THEN PERFORM repeat('x', 1024 * 1024 * 1024 - 1);
		WHEN 'job' THEN PERFORM public.process_dead_letter_queue(10); PERFORM pg_sleep(60);
	END CASE;
END
$$;
INSERT INTO webhook_services (name, handler, run_as, timeout, circuit_threshold, max_retries)
	VALUES ('h', 'h_app.handle', 'wahook_h_app', NULL, 1000, 1);
CREATE FUNCTION h_app.run(p_do text) RETURNS TABLE (status text, error text, stack text) LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM public.webhook_dlq;
	INSERT INTO public.webhook_dlq (payload, error, service, next_retry_at) VALUES (jsonb_build_object('do', p_do), 'by hand', 'h', now());
	PERFORM public.process_dead_letter_queue();
	RETURN QUERY SELECT d.resolution_status, d.error, d.error_stack FROM public.webhook_dlq d;
END
$$;

SELECT * FROM h_app.run('succeed');
SELECT * FROM h_app.run('raise');
SELECT status, octet_length(error) AS error, octet_length(stack) BETWEEN 16384 AND 25000 AS bounded FROM h_app.run('raise at length');
-- Too long.
UPDATE webhook_services SET timeout = '100 ms' WHERE name = 'h';
SELECT status, error FROM h_app.run('sleep');
SELECT status, error FROM h_app.run('loop');
SELECT status, error FROM h_app.run('catch');
SELECT status, error FROM h_app.run('catch deeply');
-- It ended in time, in its own way.
SELECT status FROM h_app.run('catch and return');
UPDATE webhook_services SET timeout = '1 h' WHERE name = 'h';
-- In a session, a cancel that was not the timeout's is the user's.
SELECT status, error FROM h_app.run('cancel');
-- Beyond its transaction.
SELECT status, error FROM h_app.run('commit');
SELECT status, error FROM h_app.run('rollback');
SELECT status, error FROM h_app.run('role');
SELECT status, error FROM h_app.run('drop role');
-- It can be renamed, and then nobody answers for the handler until it is set again.
SELECT status FROM h_app.run('rename role');
SELECT status, error FROM h_app.run('succeed');
ALTER ROLE wahook_h_other RENAME TO wahook_h_app;
SELECT status, error FROM h_app.run('defer');
SELECT status, error FROM h_app.run('listen');
SELECT status, error FROM h_app.run('cursor');
SELECT status, error FROM h_app.run('prepare');
-- Beyond its share.
SELECT status, error FROM h_app.run('recurse');
SELECT status FROM h_app.run('eat');
-- A handler that runs the job stays under its own clock.
UPDATE webhook_services SET timeout = '100 ms' WHERE name = 'h';
SELECT status, error FROM h_app.run('job');
SELECT count(*) FROM webhook_delivery_attempts WHERE service = 'h' AND outcome = 'failed' AND duration_ms > 60000;
UPDATE webhook_services SET timeout = NULL WHERE name = 'h';
-- Only what succeeded has left something.
SELECT what FROM h_app.log ORDER BY id;
SELECT current_user = session_user AS myself, count(*) AS prepared FROM pg_prepared_statements WHERE name = 'p';

-- A circuit that opens leaves the others untouched: no retry is spent on them.
UPDATE webhook_services SET circuit_threshold = 2, circuit_timeout = '1 h' WHERE name = 'h';
DELETE FROM webhook_circuits;
DELETE FROM webhook_dlq;
INSERT INTO webhook_dlq (payload, error, service, next_retry_at)
	SELECT '{"do": "raise"}', 'by hand ' || n, 'h', now() - interval '1 s' * n FROM generate_series(1, 5) n;
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT error, retry_count, resolution_status FROM webhook_dlq ORDER BY 1;
SELECT key, state, failures FROM webhook_circuits;
-- A probe that succeeds closes it.
UPDATE webhook_dlq SET payload = '{"do": "succeed"}' WHERE resolution_status = 'pending';
UPDATE webhook_circuits SET probe_at = now();
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT key, state, failures FROM webhook_circuits;

-- A service that is disabled waits.
UPDATE webhook_services SET enabled = false WHERE name = 'h';
INSERT INTO webhook_dlq (payload, error, service, next_retry_at) VALUES ('{"do": "succeed"}', 'disabled', 'h', now());
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
UPDATE webhook_services SET enabled = true WHERE name = 'h';
SELECT process_dead_letter_queue() - 'durationMs' AS answer;

-- A handler that takes bursts gets the conversation, with its messages in it.
CREATE FUNCTION h_app.handle_burst(burst jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO h_app.log (what, message) VALUES ('burst', burst) $$;
UPDATE webhook_services SET handler = 'h_app.handle_burst', run_as = 'wahook_h_app', debounce = '1 s' WHERE name = 'h';
INSERT INTO webhook_conversations (id, user_id, whatsapp_phone, conversation_context)
	VALUES ('00000000-0000-4000-8000-00000000ab01', 'h-1', '1555', '{"step": 2}');
INSERT INTO processed_webhook_messages (whatsapp_message_id, correlation_id, conversation_id, kind, payload, processed_at, received_at, service)
	VALUES ('h.1', '00000000-0000-4000-8000-00000000cc01', '00000000-0000-4000-8000-00000000ab01', 'text', '{"message": {"from": "1555"}}', NULL, '2026-01-01', 'h');
INSERT INTO webhook_dlq (payload, error, whatsapp_message_id, service, next_retry_at) VALUES ('{}', 'by hand', 'h.1', 'h', now());
SELECT process_dead_letter_queue() - 'durationMs' AS answer;
SELECT jsonb_pretty(message) FROM h_app.log WHERE what = 'burst';
SELECT processed_at IS NOT NULL AS processed FROM processed_webhook_messages WHERE whatsapp_message_id = 'h.1';

DELETE FROM webhook_dlq;
DELETE FROM webhook_circuits;
DELETE FROM processed_webhook_messages WHERE whatsapp_message_id = 'h.1';
DELETE FROM webhook_conversations WHERE user_id = 'h-1';
DELETE FROM webhook_services WHERE name = 'h';
\set VERBOSITY terse
DROP SCHEMA h_app CASCADE;
DROP ROLE wahook_h_app;
