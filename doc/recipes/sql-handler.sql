-- A bot in SQL: it takes reservations for a table, and needs no program beside the database.
--   psql -v ON_ERROR_STOP=1 -f sql-handler.sql
-- Run by the owner of the extension. With wahook preloaded, the worker runs the handler for each message as it comes.
BEGIN;

CREATE SCHEMA restaurant;
CREATE TABLE restaurant.reservations (
	message_id text PRIMARY KEY,
	conversation_id uuid NOT NULL,
	guest text NOT NULL,
	seats integer NOT NULL CHECK (seats BETWEEN 1 AND 12),
	made_at timestamptz NOT NULL DEFAULT now()
);
-- What is to be sent, for whatever sends it.
CREATE TABLE restaurant.replies (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	conversation_id uuid NOT NULL,
	body text NOT NULL
);

-- What it writes is committed together with the completion of its message, so it is there once. Its search_path is its own
-- schema; it runs as the role that registers it, for at most the timeout of its service. To fail is to raise an error: then
-- nothing of it is there, and the message comes again in 1, 2 and 4 minutes.
CREATE FUNCTION restaurant.take_reservation(message jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	v_seats integer := substring(message #>> '{message,text,body}' FROM '\d+')::integer;
	v_answer text := 'For how many?';
BEGIN
	IF v_seats IS NOT NULL THEN
		INSERT INTO reservations (message_id, conversation_id, guest, seats)
			VALUES (message ->> 'whatsapp_message_id', (message ->> 'conversation_id')::uuid,
				coalesce(message #>> '{contact,profile,name}', 'guest'), v_seats);
		v_answer := format('A table for %s is yours.', v_seats);
	END IF;
	INSERT INTO replies (conversation_id, body) VALUES ((message ->> 'conversation_id')::uuid, v_answer);
END
$$;

SELECT register_webhook_service('restaurant', p_handler => 'restaurant.take_reservation(jsonb)', p_timeout => '2 seconds',
	p_description => 'reservations');
-- The texts that are for it.
SELECT add_webhook_route('restaurant', 'restaurant', 'regex', '(?i)\m(table|reserv|seats)', p_priority => 20);

COMMIT;
