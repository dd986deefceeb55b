-- What the demo keeps for its account, and who handles messages. None of the tables but one has a unique key that could
-- hide a fault.
CREATE SCHEMA demo;

CREATE TABLE demo.delivery (
	pass integer,
	n integer,
	sent integer NOT NULL DEFAULT 1,
	began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	answered_at timestamptz,
	PRIMARY KEY (pass, n)
);
COMMENT ON TABLE demo.delivery IS 'each delivery, and how often it was sent until it was answered';

CREATE TABLE demo.answer (
	pass integer,
	n integer,
	whatsapp_message_id text,
	kind text,
	conversation_id uuid,
	service text,
	outcome text,
	correlation_id uuid,
	place integer,
	PRIMARY KEY (pass, n, place)
);
COMMENT ON TABLE demo.answer IS 'what receive_webhook() answered, a row an event';

CREATE TABLE demo.work (
	whatsapp_message_id text,
	conversation_id uuid,
	lock_token bigint,
	place integer,
	service text
);
CREATE INDEX ON demo.work (conversation_id, lock_token);
COMMENT ON TABLE demo.work IS 'what was done for messages; by handler and clients in the transactions that completed them';

CREATE TABLE demo.known (whatsapp_message_id text PRIMARY KEY, sent integer NOT NULL DEFAULT 1);
COMMENT ON TABLE demo.known IS 'what the endpoint has done: it is asked again where its answer was lost';

-- A client that takes part gets the service level of wahook and these tables, nothing else.
CREATE ROLE demo_client LOGIN;
DO $$ BEGIN PERFORM wahook_grant('demo_client', 'service'); END $$;
GRANT USAGE ON SCHEMA demo TO demo_client;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA demo TO demo_client;

-- An eighth of all messages fail at their first attempt.
CREATE FUNCTION demo.fails_at_first(p_id text) RETURNS boolean LANGUAGE sql IMMUTABLE
	AS $$ SELECT get_byte(decode(md5(p_id), 'hex'), 0) % 8 = 0 $$;

-- Who handles text: a function in the database.
CREATE FUNCTION demo.answer_text(message jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	v_id text := message->>'whatsapp_message_id';
	v_conversation uuid := message->>'conversation_id';
	v_token bigint := message->>'lock_token';
BEGIN
	INSERT INTO demo.work SELECT v_id, v_conversation, v_token, count(*), 'text' FROM demo.work
		WHERE conversation_id = v_conversation AND lock_token = v_token;
	IF message->>'attempt' = '1' AND demo.fails_at_first(v_id) THEN
		RAISE EXCEPTION 'the shop did not answer';
	END IF;
END
$$;
INSERT INTO webhook_services (name, handler, run_as, circuit_threshold, timeout) VALUES ('text', 'demo.answer_text', 'demo_client', 100, '3 s');

-- Media: an endpoint. Whatever else there is: clients that claim it.
INSERT INTO webhook_services (name, url, allow_http, circuit_timeout, timeout) VALUES ('media', :'url', true, '1 s', '3 s');
DO $$
BEGIN
	PERFORM add_webhook_route(kind, 'text', 'type', kind, 1) FROM unnest('{text,interactive,button}'::text[]) kind;
	PERFORM add_webhook_route(kind, 'media', 'type', kind, 1) FROM unnest('{image,video,audio,sticker,document}'::text[]) kind;
END
$$;
