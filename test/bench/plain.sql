-- The tables of cases a and b.
\ir bodies.sql

-- The limits: what any queue must do at least is to insert the message.
CREATE TABLE messages (id text PRIMARY KEY, payload jsonb NOT NULL);

-- The first implementation, as its documents describe it: tables, indexes, and the two functions for its lock.
CREATE SCHEMA first;
CREATE TABLE first.webhook_conversations (
	id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	user_id text NOT NULL,
	whatsapp_phone text,
	agent_type text,
	status text NOT NULL DEFAULT 'active'
		CHECK (status IN ('active', 'pending', 'processing', 'completed', 'timeout', 'error')),
	last_activity_at timestamptz NOT NULL DEFAULT now(),
	retry_count integer NOT NULL DEFAULT 0,
	error_count integer NOT NULL DEFAULT 0,
	locked_by uuid,
	locked_at timestamptz,
	conversation_context jsonb NOT NULL DEFAULT '{}',
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON first.webhook_conversations (user_id, status, updated_at);
CREATE INDEX ON first.webhook_conversations (last_activity_at) WHERE status IN ('active', 'pending', 'processing');
CREATE INDEX ON first.webhook_conversations (locked_at) WHERE locked_by IS NOT NULL;

CREATE TABLE first.processed_webhook_messages (
	id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	whatsapp_message_id text NOT NULL UNIQUE,
	correlation_id uuid NOT NULL,
	conversation_id uuid REFERENCES first.webhook_conversations (id),
	payload jsonb,
	processed_at timestamptz NOT NULL DEFAULT now(),
	processing_time_ms integer
);
CREATE INDEX ON first.processed_webhook_messages (processed_at);

CREATE TABLE first.webhook_dlq (
	id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	payload jsonb NOT NULL,
	error text,
	correlation_id uuid,
	whatsapp_message_id text,
	retry_count integer NOT NULL DEFAULT 0,
	max_retries integer NOT NULL DEFAULT 3,
	next_retry_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT now(),
	processed_at timestamptz,
	resolution_status text NOT NULL DEFAULT 'pending'
);
CREATE INDEX ON first.webhook_dlq (next_retry_at, resolution_status);

CREATE FUNCTION first.acquire_conversation_lock(p_conversation_id uuid, p_lock_id uuid) RETURNS boolean LANGUAGE plpgsql
	AS $$
BEGIN
	UPDATE first.webhook_conversations SET locked_by = p_lock_id, locked_at = now(), updated_at = now()
		WHERE id = p_conversation_id AND (locked_by IS NULL OR locked_at < now() - interval '2 minutes');
	RETURN FOUND;
END
$$;
CREATE FUNCTION first.release_conversation_lock(p_conversation_id uuid, p_lock_id uuid) RETURNS boolean LANGUAGE plpgsql
	AS $$
BEGIN
	UPDATE first.webhook_conversations SET locked_by = NULL, locked_at = NULL, updated_at = now()
		WHERE id = p_conversation_id AND locked_by = p_lock_id;
	RETURN FOUND;
END
$$;

INSERT INTO first.webhook_conversations (user_id, whatsapp_phone)
	SELECT bench_phone(i), bench_phone(i) FROM generate_series(0, 9999) i;

-- A history of a message for every user: with empty tables sequential scans would be planned.
INSERT INTO first.processed_webhook_messages (whatsapp_message_id, correlation_id, conversation_id, payload, processing_time_ms)
	SELECT bench_wamid(-row_number() OVER (), user_id), gen_random_uuid(), id, bench_delivery(bench_change('history', user_id))::jsonb, 5
	FROM first.webhook_conversations;
INSERT INTO messages SELECT whatsapp_message_id, payload FROM first.processed_webhook_messages;
VACUUM ANALYZE;
