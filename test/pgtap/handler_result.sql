-- A handler fails by an error alone: what it returns does not matter, null included.
BEGIN;
SELECT plan(3);

CREATE TABLE handled (message text);
CREATE FUNCTION handle(message jsonb) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO handled VALUES (message ->> 'whatsapp_message_id') $$;
INSERT INTO webhook_services (name, handler) VALUES ('handler.result', 'handle');
INSERT INTO webhook_dlq (payload, whatsapp_message_id, service, next_retry_at)
	VALUES ('{}', 'handler.result.1', 'handler.result', now());

SELECT is(process_dead_letter_queue() ->> 'successful', '1', 'a void function in SQL succeeds');
SELECT results_eq('SELECT message FROM handled', ARRAY['handler.result.1'], 'and its work stays');

CREATE OR REPLACE FUNCTION handle(message jsonb) RETURNS void LANGUAGE plpgsql AS
	$$ BEGIN RAISE 'not today'; END $$;
INSERT INTO webhook_dlq (payload, whatsapp_message_id, service, next_retry_at)
	VALUES ('{}', 'handler.result.2', 'handler.result', now());
SELECT is(process_dead_letter_queue() ->> 'failed', '1', 'one that raises an error fails');

SELECT * FROM finish();
ROLLBACK;
