-- What the demo keeps for its account. None of these tables has a unique key that could hide a fault.
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
	place integer
);
COMMENT ON TABLE demo.work IS 'what the workers did, written in the transactions that completed it';

-- A client that takes part gets the service level of wahook and these tables, nothing else.
CREATE ROLE demo_client LOGIN;
DO $$ BEGIN PERFORM wahook_grant('demo_client', 'service'); END $$;
GRANT USAGE ON SCHEMA demo TO demo_client;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA demo TO demo_client;
