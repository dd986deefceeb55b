-- The dead letter queue, under both its names, and the record of attempts.

CREATE TABLE @extschema@.webhook_dlq (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	payload jsonb NOT NULL,
	error text,
	error_stack text,
	correlation_id uuid,
	whatsapp_message_id text,
	retry_count integer NOT NULL DEFAULT 0 CHECK (retry_count >= 0),
	max_retries integer NOT NULL DEFAULT 3 CHECK (max_retries >= 0),
	next_retry_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT now(),
	processed_at timestamptz,
	resolution_status text NOT NULL DEFAULT 'pending'
		CHECK (resolution_status IN ('pending', 'retrying', 'resolved', 'failed')),
	from_number text NOT NULL DEFAULT '',
	processed boolean NOT NULL DEFAULT false,
	updated_at timestamptz NOT NULL DEFAULT now(),
	conversation_id uuid,
	service text NOT NULL DEFAULT 'default',
	retry_lease_until timestamptz,
	CHECK (processed = (resolution_status = 'resolved')),
	CONSTRAINT webhook_dlq_whatsapp_message_id_key UNIQUE (whatsapp_message_id)
);
CREATE INDEX webhook_dlq_due_idx
	ON @extschema@.webhook_dlq (next_retry_at) WHERE resolution_status = 'pending';
CREATE INDEX webhook_dlq_leased_idx
	ON @extschema@.webhook_dlq (retry_lease_until) WHERE resolution_status = 'retrying';
CREATE INDEX webhook_dlq_direct_idx ON @extschema@.webhook_dlq (service, next_retry_at)
	WHERE resolution_status = 'pending' AND conversation_id IS NULL;
CREATE INDEX webhook_dlq_created_idx ON @extschema@.webhook_dlq (created_at);
COMMENT ON TABLE @extschema@.webhook_dlq IS
	'the dead letter queue: messages whose processing failed, one entry a message';
COMMENT ON COLUMN @extschema@.webhook_dlq.retry_count IS
	'retries that failed; the first failure is not a retry';
COMMENT ON COLUMN @extschema@.webhook_dlq.resolution_status IS
	'pending: waits for next_retry_at; retrying: back in its conversation''s queue or with a retrier; resolved: processed; failed: given up';
COMMENT ON COLUMN @extschema@.webhook_dlq.retry_lease_until IS
	'set while a caller of get_retriable_messages() has it; from then on it is due again';
COMMENT ON COLUMN @extschema@.webhook_dlq.processed IS
	'the same as resolution_status = ''resolved'', for callers of wa_dead_letter_queue';

-- An updatable view, so that ON CONFLICT (message_id) finds the unique index below it. It shows rows,
-- not numbers, so whoever uses it must pass the row security of the table.
CREATE VIEW @extschema@.wa_dead_letter_queue WITH (security_invoker = true) AS
	SELECT id, whatsapp_message_id AS message_id, from_number, payload,
		error AS error_message, error_stack, retry_count, max_retries, next_retry_at,
		processed, processed_at, created_at, updated_at
	FROM @extschema@.webhook_dlq;
COMMENT ON VIEW @extschema@.wa_dead_letter_queue IS
	'webhook_dlq under the name and columns of its other generation of callers';

CREATE SEQUENCE @extschema@.webhook_attempts_seq CACHE 32;
CREATE TABLE @extschema@.webhook_attempts (
	message_id uuid NOT NULL,
	seq bigint NOT NULL DEFAULT nextval('@extschema@.webhook_attempts_seq'),
	attempt integer NOT NULL,
	outcome text NOT NULL,
	conversation_id uuid,
	lock_token bigint,
	service text NOT NULL DEFAULT 'default',
	started_at timestamptz,
	finished_at timestamptz NOT NULL,
	duration_ms integer,
	error text,
	error_stack text,
	lock_id uuid,
	PRIMARY KEY (message_id, seq)
) WITH (autovacuum_analyze_threshold = 100000);
ALTER SEQUENCE @extschema@.webhook_attempts_seq
	OWNED BY @extschema@.webhook_attempts.seq;
CREATE INDEX webhook_attempts_finished_idx
	ON @extschema@.webhook_attempts USING brin (finished_at) WITH (pages_per_range = 32);
COMMENT ON TABLE @extschema@.webhook_attempts IS
	'the attempts that messages do not tell of themselves; see webhook_delivery_attempts';
COMMENT ON COLUMN @extschema@.webhook_attempts.message_id IS
	'processed_webhook_messages.id, or webhook_dlq.id of a dead letter that was added by hand';
COMMENT ON COLUMN @extschema@.webhook_attempts.lock_id IS 'whose attempt it was: the lock id of the claim';
COMMENT ON COLUMN @extschema@.webhook_attempts.error_stack IS
	'what more is known of a failure: detail and context, or what the endpoint answered';
COMMENT ON COLUMN @extschema@.webhook_attempts.outcome IS
	'succeeded; failed: reported as failed; lost: its holder vanished and the lease ran out; dropped: at intake, by the limit of its user';

-- Nearly every message is completed at the first attempt, moments after it came. It tells of that attempt itself,
-- which is a small part of what a row and its index entry cost; conversation/record.c says when. Of one message
-- both are looked up by its id, and what has another outcome only in the table. (A join's condition does not reach
-- into the second: PostgreSQL would have to flatten it, and then no longer sees that it has but one outcome.) It
-- shows rows, so whoever uses it must pass the row security of both tables.
CREATE VIEW @extschema@.webhook_delivery_attempts WITH (security_invoker = true) AS
	SELECT message_id, seq, attempt, outcome, conversation_id, lock_token, service, started_at, finished_at,
		duration_ms, error, error_stack, lock_id
	FROM @extschema@.webhook_attempts
	UNION ALL
	SELECT id, 0::bigint, 1, 'succeeded'::text, conversation_id, claim_token, service, claimed_at, processed_at,
		processing_time_ms, NULL::text, NULL::text, claimed_by
	FROM @extschema@.processed_webhook_messages WHERE claimed_by IS NOT NULL;
COMMENT ON VIEW @extschema@.webhook_delivery_attempts IS
	'every attempt at a message: when, how long, how it ended';

-- Not for wahook's own completion, which knows.
CREATE FUNCTION @extschema@.webhook_keep_attempt()
	RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	-- Before all others, as it was.
	INSERT INTO @extschema@.webhook_attempts (message_id, seq, attempt, outcome, conversation_id, lock_token, service,
			started_at, finished_at, duration_ms, lock_id)
		VALUES (OLD.id, (SELECT least(0, min(seq) - 1) FROM @extschema@.webhook_attempts WHERE message_id = OLD.id),
			1, 'succeeded', OLD.conversation_id, OLD.claim_token, OLD.service,
			OLD.claimed_at, OLD.processed_at, OLD.processing_time_ms, OLD.claimed_by);
	NEW.claimed_at := NULL;
	NEW.claim_token := NULL;
	NEW.claimed_by := NULL;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_keep_attempt() IS
	'trigger: where what a message tells of its attempt is overwritten, the attempt becomes a row';
CREATE TRIGGER processed_webhook_messages_attempt
	BEFORE UPDATE OF processed_at, processing_time_ms, conversation_id, service ON @extschema@.processed_webhook_messages
	FOR EACH ROW
	WHEN (OLD.claimed_by IS NOT NULL AND (NEW.processed_at, NEW.processing_time_ms, NEW.conversation_id, NEW.service)
		IS DISTINCT FROM (OLD.processed_at, OLD.processing_time_ms, OLD.conversation_id, OLD.service))
	EXECUTE FUNCTION @extschema@.webhook_keep_attempt();

CREATE TABLE @extschema@.wa_workflow_recovery (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	conversation_id text NOT NULL,
	workflow_type text NOT NULL,
	recovery_action text NOT NULL,
	status text NOT NULL DEFAULT 'pending'
		CHECK (status IN ('pending', 'in_progress', 'completed', 'failed')),
	details jsonb NOT NULL DEFAULT '{}',
	created_at timestamptz NOT NULL DEFAULT now(),
	completed_at timestamptz
);
CREATE INDEX wa_workflow_recovery_created_idx ON @extschema@.wa_workflow_recovery (created_at);
COMMENT ON TABLE @extschema@.wa_workflow_recovery IS 'recovery steps of workflows, kept by their callers';

-- Unlogged: what was failing before a crash is found out again soon.
CREATE UNLOGGED TABLE @extschema@.webhook_circuits (
	key text PRIMARY KEY,
	state text NOT NULL CHECK (state IN ('closed', 'open', 'half-open')),
	failures integer NOT NULL,
	timeout_ms bigint NOT NULL,
	probe_at timestamptz,
	opened_at timestamptz,
	updated_at timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE @extschema@.webhook_circuits IS
	'the circuits that have seen a failure, by their key';
COMMENT ON COLUMN @extschema@.webhook_circuits.failures IS 'failures in a row';
COMMENT ON COLUMN @extschema@.webhook_circuits.probe_at IS
	'open: when a probe may go; half-open: when the probe that is out is taken for lost';
COMMENT ON COLUMN @extschema@.webhook_circuits.opened_at IS 'since when it has not been closed';
