\echo Use "CREATE EXTENSION wahook" to load this file. \quit

-- src/core/install.sql
-- The head of the install script: what must hold before anything is created.
SET LOCAL search_path TO pg_catalog, pg_temp;

-- A webhook body is UTF-8, and its signature covers its bytes.
DO $$
BEGIN
	IF current_setting('server_encoding') <> 'UTF8' THEN
		RAISE EXCEPTION 'wahook needs a database with encoding UTF8, this one has %',
			current_setting('server_encoding')
			USING ERRCODE = 'feature_not_supported',
				HINT = 'Create the database with ENCODING ''UTF8''.';
	END IF;
END
$$;

-- Time-ordered ids keep primary key inserts at the right edge of their index.
CREATE FUNCTION @extschema@.webhook_uuid() RETURNS uuid
	AS 'MODULE_PATHNAME', 'wahook_uuid' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_uuid() IS
	'a new UUID version 7 (RFC 9562): 48 bits of wall clock in milliseconds, then random bits; the default of every id';

-- src/core/setting.sql
-- Settings as SQL sees them.

CREATE FUNCTION @extschema@.webhook_setting(p_name text) RETURNS text
	AS 'MODULE_PATHNAME', 'wahook_setting' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_setting(text) IS
	'a wahook.* setting with its unit, by the name behind the dot';

-- src/core/event.sql
-- Events from SQL.

CREATE FUNCTION @extschema@.webhook_log_event(p_event text, p_details jsonb) RETURNS void
	AS 'MODULE_PATHNAME', 'wahook_log_event' LANGUAGE C VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_log_event(text, jsonb) IS
	'writes an event to the server log, where wahook.log_events is ''all''';

-- src/core/seed.sql
-- Seeds: rows that come with the extension, and that users may change.
--
-- A dump holds the rows that users changed or added; restoring it creates the extension, with its
-- seeds, and then inserts the user's version of some of them. That must replace the seed, not fail.

CREATE FUNCTION @extschema@.webhook_keep_changed_seed() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF TG_OP = 'UPDATE' THEN
		NEW.from_extension := false;
	ELSE
		EXECUTE format('DELETE FROM %I.%I WHERE %I = $1 AND from_extension',
			TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[0])
			USING to_jsonb(NEW) ->> TG_ARGV[0];
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_keep_changed_seed() IS
	'trigger: an inserted row replaces the untouched seed of its key, and a changed seed is the user''s';

-- src/conversation/tables.sql
-- Conversations, who is in them, what waits in them, and how their status changed.

CREATE TABLE @extschema@.webhook_conversations (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
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
	updated_at timestamptz NOT NULL DEFAULT now(),
	phone_number_id text,
	lock_token bigint NOT NULL DEFAULT 0,
	lock_expires_at timestamptz,
	claimed_messages bigint[]
) WITH (fillfactor = 50);
-- Each CHECK is read and evaluated at every lock and release: there is one, the contract's.
-- No index may cover a column that locking changes (locked_*, lock_*, claimed_messages,
-- last_activity_at, updated_at): those updates must stay HOT.
CREATE INDEX webhook_conversations_user_idx
	ON @extschema@.webhook_conversations (user_id, status, created_at);
CREATE INDEX webhook_conversations_busy_idx
	ON @extschema@.webhook_conversations (status) WHERE status IN ('pending', 'processing');
COMMENT ON TABLE @extschema@.webhook_conversations IS
	'the thread between one business number and one user, with its lock';
COMMENT ON COLUMN @extschema@.webhook_conversations.phone_number_id IS
	'the business number; null: any';
COMMENT ON COLUMN @extschema@.webhook_conversations.locked_by IS
	'the lock id of the holder, made up by it for this one acquisition';
COMMENT ON COLUMN @extschema@.webhook_conversations.lock_token IS
	'fencing token: grows with every acquisition, never shrinks';
COMMENT ON COLUMN @extschema@.webhook_conversations.lock_expires_at IS
	'when the lease ends; from then on anyone may take it over';
COMMENT ON COLUMN @extschema@.webhook_conversations.claimed_messages IS
	'webhook_inbox.seq of the messages the holder claimed';

CREATE TABLE @extschema@.webhook_identities (
	phone_number_id text NOT NULL,
	identity text NOT NULL,
	kind text NOT NULL CHECK (kind IN ('phone', 'user_id')),
	conversation_id uuid NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (phone_number_id, identity)
);
CREATE INDEX webhook_identities_conversation_idx
	ON @extschema@.webhook_identities (conversation_id);
COMMENT ON TABLE @extschema@.webhook_identities IS
	'which conversation a phone number or business-scoped user id leads to, for each business number (empty: any)';

-- Not cached: the order of its values is the order of arrival.
CREATE SEQUENCE @extschema@.webhook_inbox_seq;
CREATE TABLE @extschema@.webhook_inbox (
	conversation_id uuid NOT NULL,
	seq bigint NOT NULL DEFAULT nextval('@extschema@.webhook_inbox_seq'),
	message_id uuid NOT NULL,
	service text NOT NULL DEFAULT 'default',
	attempts integer NOT NULL DEFAULT 0,
	losses integer NOT NULL DEFAULT 0,
	enqueued_at timestamptz NOT NULL,
	user_id text,
	whatsapp_phone text,
	PRIMARY KEY (conversation_id, seq)
);
ALTER SEQUENCE @extschema@.webhook_inbox_seq OWNED BY @extschema@.webhook_inbox.seq;
COMMENT ON TABLE @extschema@.webhook_inbox IS
	'one small row a message that waits or is claimed, in order of arrival within its conversation';
COMMENT ON COLUMN @extschema@.webhook_inbox.message_id IS 'processed_webhook_messages.id';
COMMENT ON COLUMN @extschema@.webhook_inbox.attempts IS 'attempts that ended in failure before this one';
COMMENT ON COLUMN @extschema@.webhook_inbox.losses IS 'claims whose holder vanished';
COMMENT ON COLUMN @extschema@.webhook_inbox.user_id IS
	'set when this message changed what is known of the sender; the claim writes it to the conversation';

-- Its order means nothing, but for queue rows of the same time.
CREATE SEQUENCE @extschema@.webhook_conversation_queue_seq CACHE 32;
CREATE TABLE @extschema@.webhook_conversation_queue (
	conversation_id uuid NOT NULL,
	seq bigint NOT NULL DEFAULT nextval('@extschema@.webhook_conversation_queue_seq'),
	service text NOT NULL DEFAULT 'default',
	due_at timestamptz NOT NULL,
	PRIMARY KEY (conversation_id, seq)
);
ALTER SEQUENCE @extschema@.webhook_conversation_queue_seq
	OWNED BY @extschema@.webhook_conversation_queue.seq;
CREATE INDEX webhook_conversation_queue_due_idx
	ON @extschema@.webhook_conversation_queue (service, due_at, seq);
COMMENT ON TABLE @extschema@.webhook_conversation_queue IS
	'when to look at a conversation next: a conversation with waiting messages since they came, a locked one when its lease ends';

CREATE TABLE @extschema@.conversation_state_transitions (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	conversation_id uuid,
	from_state text,
	to_state text NOT NULL,
	transition_reason text,
	correlation_id uuid,
	metadata jsonb NOT NULL DEFAULT '{}',
	created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX conversation_state_transitions_conversation_idx
	ON @extschema@.conversation_state_transitions (conversation_id, created_at);
CREATE INDEX conversation_state_transitions_created_idx
	ON @extschema@.conversation_state_transitions (created_at);
COMMENT ON TABLE @extschema@.conversation_state_transitions IS
	'every change of a conversation''s status: from, to, why, and under which correlation id';

-- src/ingest/tables.sql
-- What deliveries leave behind: messages, statuses of what was sent, notices, and what could not be read.

CREATE TABLE @extschema@.webhook_services (
	name text PRIMARY KEY CHECK (name <> '' AND length(name) <= 200),
	handler text,
	run_as name,
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	from_extension boolean NOT NULL DEFAULT false,
	CHECK ((handler IS NULL) = (run_as IS NULL))
);
INSERT INTO @extschema@.webhook_services (name, from_extension) VALUES ('default', true);
CREATE TRIGGER keep_changed_seed BEFORE INSERT OR UPDATE ON @extschema@.webhook_services
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_keep_changed_seed('name');
COMMENT ON TABLE @extschema@.webhook_services IS 'who handles messages';
COMMENT ON COLUMN @extschema@.webhook_services.handler IS
	'a SQL function that takes one jsonb and raises an error to fail; null: clients claim the messages';
COMMENT ON COLUMN @extschema@.webhook_services.run_as IS
	'the role that set the handler, and as which it runs';

CREATE TABLE @extschema@.processed_webhook_messages (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	whatsapp_message_id text NOT NULL,
	correlation_id uuid NOT NULL DEFAULT gen_random_uuid(),
	conversation_id uuid,
	received_at timestamptz NOT NULL DEFAULT now(),
	kind text,
	service text NOT NULL DEFAULT 'default',
	payload jsonb,
	processed_at timestamptz DEFAULT now(),
	processing_time_ms integer
) WITH (fillfactor = 50);
-- Each row is updated once, when it is processed. With room for that in its page the update is HOT:
-- it touches no index, and its WAL record leaves out the payload.
ALTER TABLE @extschema@.processed_webhook_messages
	ADD CONSTRAINT processed_webhook_messages_whatsapp_message_id_key UNIQUE (whatsapp_message_id);
CREATE INDEX processed_webhook_messages_received_idx
	ON @extschema@.processed_webhook_messages USING brin (received_at) WITH (pages_per_range = 32);
COMMENT ON TABLE @extschema@.processed_webhook_messages IS
	'every message accepted within the retention: the idempotency record, from acceptance on';
COMMENT ON COLUMN @extschema@.processed_webhook_messages.processed_at IS
	'when its processing was completed; null: accepted, not processed yet';
COMMENT ON COLUMN @extschema@.processed_webhook_messages.payload IS
	'message, contact and metadata as they were delivered';

CREATE TABLE @extschema@.webhook_message_statuses (
	whatsapp_message_id text NOT NULL,
	recipient text NOT NULL DEFAULT '',
	type text NOT NULL DEFAULT '',
	status text NOT NULL,
	status_at timestamptz,
	sent_at timestamptz,
	delivered_at timestamptz,
	read_at timestamptz,
	played_at timestamptz,
	failed_at timestamptz,
	phone_number_id text,
	errors jsonb,
	payload jsonb NOT NULL,
	correlation_id uuid NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (whatsapp_message_id, recipient, type)
);
-- Not BRIN: retention asks for the oldest, and the minimum of a range of pages does not rise when
-- its rows are deleted and new ones take their place.
CREATE INDEX webhook_message_statuses_created_idx
	ON @extschema@.webhook_message_statuses (created_at);
COMMENT ON TABLE @extschema@.webhook_message_statuses IS
	'the furthest status of each message we sent, a row a recipient; it never moves backwards';
COMMENT ON COLUMN @extschema@.webhook_message_statuses.recipient IS
	'the participant where the message went to a group, else empty';
COMMENT ON COLUMN @extschema@.webhook_message_statuses.type IS
	'empty for messages; payment, call: statuses with a meaning of their own';

CREATE TABLE @extschema@.webhook_notices (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	content_hash bytea NOT NULL UNIQUE,
	kind text NOT NULL,
	entry_id text,
	phone_number_id text,
	payload jsonb NOT NULL,
	correlation_id uuid NOT NULL,
	received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_notices_received_idx ON @extschema@.webhook_notices (received_at);
COMMENT ON TABLE @extschema@.webhook_notices IS
	'account, template, call, history... updates, once each by content';

CREATE TABLE @extschema@.webhook_quarantine (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	content_hash bytea NOT NULL UNIQUE,
	reason text NOT NULL,
	body text NOT NULL,
	entry_id text,
	correlation_id uuid NOT NULL,
	seen_count integer NOT NULL DEFAULT 1,
	received_at timestamptz NOT NULL DEFAULT now(),
	last_seen_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_quarantine_received_idx ON @extschema@.webhook_quarantine (received_at);
COMMENT ON TABLE @extschema@.webhook_quarantine IS
	'signed input that could not be read or stored as jsonb, whole and as it came';
COMMENT ON COLUMN @extschema@.webhook_quarantine.body IS
	'the raw text of the update, or of the whole delivery where no update could be told apart';

CREATE TABLE @extschema@.webhook_rate_limit_buckets (
	bucket text PRIMARY KEY,
	max_tokens integer NOT NULL CHECK (max_tokens > 0),
	refill_per_second double precision NOT NULL CHECK (refill_per_second > 0),
	from_extension boolean NOT NULL DEFAULT false
);
INSERT INTO @extschema@.webhook_rate_limit_buckets VALUES ('default', 60, 1, true);
CREATE TRIGGER keep_changed_seed BEFORE INSERT OR UPDATE ON @extschema@.webhook_rate_limit_buckets
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_keep_changed_seed('bucket');
COMMENT ON TABLE @extschema@.webhook_rate_limit_buckets IS
	'token buckets; a bucket that is not listed here has the limits of ''default''';
CREATE UNLOGGED TABLE @extschema@.webhook_rate_limits (
	identifier text NOT NULL,
	bucket text NOT NULL,
	tokens double precision NOT NULL,
	refilled_at timestamptz NOT NULL,
	PRIMARY KEY (identifier, bucket)
) WITH (fillfactor = 50);
COMMENT ON TABLE @extschema@.webhook_rate_limits IS
	'how many tokens each identifier has left in each bucket; unlogged, for it is cheap to lose';

-- src/retry/tables.sql
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

-- An updatable view, so that ON CONFLICT (message_id) finds the unique index below it.
CREATE VIEW @extschema@.wa_dead_letter_queue AS
	SELECT id, whatsapp_message_id AS message_id, from_number, payload,
		error AS error_message, error_stack, retry_count, max_retries, next_retry_at,
		processed, processed_at, created_at, updated_at
	FROM @extschema@.webhook_dlq;
COMMENT ON VIEW @extschema@.wa_dead_letter_queue IS
	'webhook_dlq under the name and columns of its other generation of callers';

CREATE SEQUENCE @extschema@.webhook_delivery_attempts_seq CACHE 32;
CREATE TABLE @extschema@.webhook_delivery_attempts (
	message_id uuid NOT NULL,
	seq bigint NOT NULL DEFAULT nextval('@extschema@.webhook_delivery_attempts_seq'),
	attempt integer NOT NULL,
	outcome text NOT NULL,
	conversation_id uuid,
	lock_token bigint,
	service text NOT NULL DEFAULT 'default',
	started_at timestamptz,
	finished_at timestamptz NOT NULL,
	duration_ms integer,
	error text,
	PRIMARY KEY (message_id, seq)
);
ALTER SEQUENCE @extschema@.webhook_delivery_attempts_seq
	OWNED BY @extschema@.webhook_delivery_attempts.seq;
CREATE INDEX webhook_delivery_attempts_finished_idx
	ON @extschema@.webhook_delivery_attempts USING brin (finished_at) WITH (pages_per_range = 32);
COMMENT ON TABLE @extschema@.webhook_delivery_attempts IS
	'every attempt at a message: when, how long, how it ended';
COMMENT ON COLUMN @extschema@.webhook_delivery_attempts.message_id IS
	'processed_webhook_messages.id, or webhook_dlq.id of a dead letter that was added by hand';
COMMENT ON COLUMN @extschema@.webhook_delivery_attempts.outcome IS
	'succeeded; failed: reported as failed; lost: its holder vanished and the lease ran out';

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

-- src/agent/tables.sql
-- What agents remember, and the sessions users are in.

CREATE TABLE @extschema@.webhook_agents (
	agent_type text PRIMARY KEY CHECK (agent_type <> ''),
	system_prompt text,
	model text,
	max_tokens integer NOT NULL DEFAULT 4000 CHECK (max_tokens > 0),
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	from_extension boolean NOT NULL DEFAULT false
);
INSERT INTO @extschema@.webhook_agents (agent_type, from_extension)
	SELECT agent_type, true
	FROM unnest('{waiter,real_estate,job_board,mobility,marketplace,wallet}'::text[]) agent_type;
CREATE TRIGGER keep_changed_seed BEFORE INSERT OR UPDATE ON @extschema@.webhook_agents
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_keep_changed_seed('agent_type');
COMMENT ON TABLE @extschema@.webhook_agents IS 'the agent types; add your own as rows';

CREATE TABLE @extschema@.agent_contexts (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	conversation_id uuid NOT NULL
		REFERENCES @extschema@.webhook_conversations (id) ON DELETE CASCADE,
	agent_type text NOT NULL,
	context_data jsonb NOT NULL DEFAULT '{}',
	token_count integer NOT NULL DEFAULT 0 CHECK (token_count >= 0),
	messages_count integer NOT NULL DEFAULT 0 CHECK (messages_count >= 0),
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	UNIQUE (conversation_id, agent_type)
);
COMMENT ON TABLE @extschema@.agent_contexts IS 'an agent''s memory of a conversation';

CREATE TABLE @extschema@.agent_sessions (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	conversation_id uuid NOT NULL
		REFERENCES @extschema@.webhook_conversations (id) ON DELETE CASCADE,
	agent_type text NOT NULL,
	session_state text NOT NULL DEFAULT 'active'
		CHECK (session_state IN ('active', 'completed', 'failed', 'timeout')),
	started_at timestamptz NOT NULL DEFAULT now(),
	ended_at timestamptz,
	total_messages integer NOT NULL DEFAULT 0 CHECK (total_messages >= 0),
	total_tokens_used integer NOT NULL DEFAULT 0 CHECK (total_tokens_used >= 0),
	error_count integer NOT NULL DEFAULT 0 CHECK (error_count >= 0),
	metadata jsonb NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX agent_sessions_active_key
	ON @extschema@.agent_sessions (conversation_id, agent_type) WHERE session_state = 'active';
CREATE INDEX agent_sessions_started_idx ON @extschema@.agent_sessions (started_at);
COMMENT ON TABLE @extschema@.agent_sessions IS
	'an agent''s sessions in a conversation, at most one of them active';

CREATE TABLE @extschema@.user_sessions (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	phone_number text NOT NULL UNIQUE,
	active_service text,
	context jsonb NOT NULL DEFAULT '{}',
	last_interaction timestamptz NOT NULL DEFAULT now(),
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX user_sessions_last_interaction_idx ON @extschema@.user_sessions (last_interaction);
COMMENT ON TABLE @extschema@.user_sessions IS 'which service a user is with';

-- src/conversation/state.sql
-- The status of a conversation: the state machine and the audit trail.

CREATE FUNCTION @extschema@.transition_conversation(
	p_conversation_id uuid, p_to_state text, p_reason text,
	p_correlation_id uuid DEFAULT NULL, p_metadata jsonb DEFAULT '{}')
	RETURNS text
	AS 'MODULE_PATHNAME', 'wahook_transition_conversation' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.transition_conversation(uuid, text, text, uuid, jsonb) IS
	'changes the status of a conversation where the state machine allows it, with an audit row; returns the former status; repeating a transition changes nothing; never waits';

CREATE FUNCTION @extschema@.webhook_audit_status() RETURNS trigger
	AS 'MODULE_PATHNAME', 'wahook_audit_status' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_audit_status() IS
	'writes the audit row of a change of status, whoever made it';
CREATE TRIGGER webhook_audit_status
	AFTER UPDATE OF status ON @extschema@.webhook_conversations
	FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
	EXECUTE FUNCTION @extschema@.webhook_audit_status();

-- src/conversation/functions.sql
-- Locking, claiming, completing.

CREATE FUNCTION @extschema@.acquire_conversation_lock(p_conversation_id uuid, p_lock_id uuid)
	RETURNS boolean AS 'MODULE_PATHNAME', 'wahook_acquire_conversation_lock'
	LANGUAGE C VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.acquire_conversation_lock(uuid, uuid) IS
	'true when this call took the lock, for wahook.lock_timeout; never waits';

CREATE FUNCTION @extschema@.release_conversation_lock(p_conversation_id uuid, p_lock_id uuid)
	RETURNS boolean AS 'MODULE_PATHNAME', 'wahook_release_conversation_lock'
	LANGUAGE C VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.release_conversation_lock(uuid, uuid) IS
	'true when this lock id held it; what it had claimed and not completed waits again';

CREATE FUNCTION @extschema@.renew_conversation_lock(
	p_conversation_id uuid, p_lock_id uuid, p_lease interval DEFAULT NULL)
	RETURNS timestamptz AS 'MODULE_PATHNAME', 'wahook_renew_conversation_lock'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.renew_conversation_lock(uuid, uuid, interval) IS
	'the lock''s new expiry, p_lease (default wahook.lock_timeout) from now; null when it was lost';

CREATE FUNCTION @extschema@.claim_conversations(
	p_limit integer DEFAULT 1, p_lock_id uuid DEFAULT NULL, p_service text DEFAULT NULL,
	p_lease interval DEFAULT NULL)
	RETURNS TABLE (conversation_id uuid, lock_id uuid, lock_token bigint,
		lock_expires_at timestamptz, user_id text, whatsapp_phone text, agent_type text,
		service text, conversation_context jsonb, messages jsonb)
	AS 'MODULE_PATHNAME', 'wahook_claim_conversations'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.claim_conversations(integer, uuid, text, interval) IS
	'locks the longest-waiting free conversations, all under one lock id, and hands over their messages in order; never waits';

CREATE FUNCTION @extschema@.receive_and_claim_webhook(
	p_body text, p_signature text DEFAULT NULL, p_correlation_id uuid DEFAULT NULL,
	p_lock_id uuid DEFAULT NULL)
	RETURNS TABLE (conversation_id uuid, lock_id uuid, lock_token bigint,
		lock_expires_at timestamptz, user_id text, whatsapp_phone text, agent_type text,
		service text, conversation_context jsonb, messages jsonb)
	AS 'MODULE_PATHNAME', 'wahook_receive_and_claim_webhook'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.receive_and_claim_webhook(text, text, uuid, uuid) IS
	'takes in a delivery and at once claims the conversations of its messages, where they are free';

CREATE FUNCTION @extschema@.complete_webhook_messages(
	p_conversation_id uuid, p_lock_id uuid, p_whatsapp_message_ids text[] DEFAULT NULL,
	p_processing_time_ms integer DEFAULT NULL, p_release boolean DEFAULT true)
	RETURNS integer AS 'MODULE_PATHNAME', 'wahook_complete_webhook_messages'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.complete_webhook_messages(uuid, uuid, text[], integer, boolean) IS
	'how many messages it completed: those named, or all that were claimed; WH002 when the lock was lost';

CREATE FUNCTION @extschema@.complete_conversations(
	p_conversation_ids uuid[], p_lock_id uuid, p_processing_time_ms integer DEFAULT NULL)
	RETURNS integer AS 'MODULE_PATHNAME', 'wahook_complete_conversations'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.complete_conversations(uuid[], uuid, integer) IS
	'completes all that was claimed in these conversations and releases them, or nothing: WH002 names those that were lost';

CREATE FUNCTION @extschema@.cleanup_stuck_webhook_conversations()
	RETURNS integer AS 'MODULE_PATHNAME', 'wahook_cleanup_stuck_conversations'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.cleanup_stuck_webhook_conversations() IS
	'releases locks whose lease has run out and times out conversations that are stuck; how many locks it released';

CREATE FUNCTION @extschema@.webhook_message_json(
	p_message @extschema@.processed_webhook_messages, p_attempt integer)
	RETURNS jsonb AS 'MODULE_PATHNAME', 'wahook_message_json'
	LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_message_json(@extschema@.processed_webhook_messages, integer) IS
	'a message as claims and SQL handlers get it; p_attempt counts from 1';

-- src/conversation/triggers.sql
-- Conversations that are written to directly, as the first generation of callers does.

CREATE FUNCTION @extschema@.webhook_register_identities()
	RETURNS trigger AS 'MODULE_PATHNAME', 'wahook_register_identities'
	LANGUAGE C SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_register_identities() IS
	'trigger: a conversation that is inserted directly is found by the names in its row';
-- Not while a dump is restored, which turns that setting off: it brings the identities itself.
CREATE TRIGGER webhook_conversations_identities
	AFTER INSERT ON @extschema@.webhook_conversations
	FOR EACH ROW WHEN (current_setting('check_function_bodies') = 'on')
	EXECUTE FUNCTION @extschema@.webhook_register_identities();

CREATE FUNCTION @extschema@.webhook_lock_directly()
	RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	lease_end timestamptz := coalesce(NEW.locked_at, clock_timestamp())
		+ @extschema@.webhook_setting('lock_timeout')::interval;
BEGIN
	UPDATE @extschema@.webhook_conversations
		SET locked_at = coalesce(locked_at, clock_timestamp()), lock_expires_at = lease_end,
			lock_token = lock_token + 1,
			-- What the former holder had claimed is not the new one's to complete.
			claimed_messages = CASE WHEN locked_by = OLD.locked_by THEN claimed_messages END
		WHERE id = NEW.id;
	INSERT INTO @extschema@.webhook_conversation_queue (conversation_id, due_at)
		VALUES (NEW.id, lease_end);
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_lock_directly() IS
	'trigger: a lock that is written directly has a lease, a token and an end like any other';
-- The trigger's own update raises the token, and so does not fire it again.
CREATE TRIGGER webhook_conversations_lock
	AFTER UPDATE OF locked_by, locked_at ON @extschema@.webhook_conversations
	FOR EACH ROW
	WHEN (NEW.locked_by IS NOT NULL AND NEW.lock_token = OLD.lock_token
		AND (NEW.locked_by, NEW.locked_at) IS DISTINCT FROM (OLD.locked_by, OLD.locked_at))
	EXECUTE FUNCTION @extschema@.webhook_lock_directly();

-- src/ingest/functions.sql
-- Receiving deliveries.

CREATE FUNCTION @extschema@.verify_webhook_subscription(
	p_mode text, p_token text, p_challenge text)
	RETURNS text AS 'MODULE_PATHNAME', 'wahook_verify_webhook_subscription'
	LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.verify_webhook_subscription(text, text, text) IS
	'the GET handshake: returns the challenge, or raises WH001 (wrong token), 22023 (wrong mode), WH006 (no token configured)';

CREATE FUNCTION @extschema@.verify_webhook_signature(
	p_body text, p_signature text, p_secret text DEFAULT NULL)
	RETURNS boolean AS 'MODULE_PATHNAME', 'wahook_verify_webhook_signature'
	LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.verify_webhook_signature(text, text, text) IS
	'whether X-Hub-Signature-256 matches the raw body; null secret: wahook.app_secret (WH006 when that is not set)';

CREATE FUNCTION @extschema@.verify_webhook_signature_bytea(
	p_body bytea, p_signature text, p_secret text DEFAULT NULL)
	RETURNS boolean AS 'MODULE_PATHNAME', 'wahook_verify_webhook_signature'
	LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.verify_webhook_signature_bytea(bytea, text, text) IS
	'verify_webhook_signature() for a body that is not text';

CREATE FUNCTION @extschema@.webhook_status_rank(p_status text)
	RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	AS $$
	SELECT CASE p_status
		WHEN 'pending' THEN 1 WHEN 'RINGING' THEN 1
		WHEN 'sent' THEN 2 WHEN 'ACCEPTED' THEN 2 WHEN 'REJECTED' THEN 2
		WHEN 'failed' THEN 3
		WHEN 'delivered' THEN 4 WHEN 'captured' THEN 4
		WHEN 'read' THEN 5
		WHEN 'played' THEN 6
		WHEN 'deleted' THEN 7
		ELSE 0 END
	$$;
COMMENT ON FUNCTION @extschema@.webhook_status_rank(text) IS
	'how far a status is; unknown ones are 0';

CREATE FUNCTION @extschema@.webhook_status_advances(
	p_from text, p_from_at timestamptz, p_to text, p_to_at timestamptz)
	RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
	AS $$
	SELECT @extschema@.webhook_status_rank(p_to)
			OPERATOR(pg_catalog.>) @extschema@.webhook_status_rank(p_from)
		OR (@extschema@.webhook_status_rank(p_to)
				OPERATOR(pg_catalog.=) @extschema@.webhook_status_rank(p_from)
			AND p_to OPERATOR(pg_catalog.<>) p_from
			AND coalesce(p_to_at OPERATOR(pg_catalog.>) p_from_at, p_to_at IS NOT NULL))
	$$;
COMMENT ON FUNCTION @extschema@.webhook_status_advances(text, timestamptz, text, timestamptz) IS
	'whether a status comes after another; between equals of rank the later one';

CREATE FUNCTION @extschema@.receive_webhook(
	p_body text, p_signature text DEFAULT NULL, p_correlation_id uuid DEFAULT NULL)
	RETURNS TABLE (whatsapp_message_id text, kind text, conversation_id uuid, service text,
		outcome text, correlation_id uuid)
	AS 'MODULE_PATHNAME', 'wahook_receive_webhook'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.receive_webhook(text, text, uuid) IS
	'takes in a delivery; a row an update, its outcome accepted, duplicate, recorded or quarantined; WH001 bad signature, WH007 not JSON, WH008 too large';

CREATE FUNCTION @extschema@.get_or_create_conversation(
	p_user_id text, p_whatsapp_phone text DEFAULT NULL, p_phone_number_id text DEFAULT NULL,
	p_agent_type text DEFAULT NULL, p_correlation_id uuid DEFAULT NULL)
	RETURNS uuid AS 'MODULE_PATHNAME', 'wahook_get_or_create_conversation'
	LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.get_or_create_conversation(text, text, text, text, uuid) IS
	'the conversation of a user, by business-scoped user id or phone number; one, however many ask at once';

CREATE FUNCTION @extschema@.record_processed_message(
	p_whatsapp_message_id text, p_conversation_id uuid, p_correlation_id uuid,
	p_processing_time_ms integer DEFAULT NULL, p_payload jsonb DEFAULT NULL)
	RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	-- The bounds are those of a message that is received: ingest/envelope.h.
	IF coalesce(octet_length(p_whatsapp_message_id), 0) NOT BETWEEN 1 AND 512 THEN
		RAISE EXCEPTION 'p_whatsapp_message_id is null, empty or too long'
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'A message id has between 1 and 512 bytes.',
				HINT = 'Pass the id of the message as it was delivered.';
	END IF;
	IF p_processing_time_ms < 0 THEN
		RAISE EXCEPTION 'p_processing_time_ms is negative'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Leave it null where it is not known.';
	END IF;
	INSERT INTO @extschema@.processed_webhook_messages (whatsapp_message_id, conversation_id,
			correlation_id, processing_time_ms, payload, processed_at)
		VALUES (p_whatsapp_message_id, p_conversation_id,
			coalesce(p_correlation_id, gen_random_uuid()), p_processing_time_ms, p_payload,
			clock_timestamp())
		ON CONFLICT (whatsapp_message_id) DO NOTHING;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION @extschema@.record_processed_message(text, uuid, uuid, integer, jsonb) IS
	'the idempotent insert for callers that process without a claim: true when this call recorded the message';

-- src/retry/backoff.sql
-- When a dead letter is retried.

CREATE FUNCTION @extschema@.dlq_retry_delay(p_retry_count integer) RETURNS interval
	AS 'MODULE_PATHNAME', 'wahook_dlq_retry_delay' LANGUAGE C VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.dlq_retry_delay(integer) IS
	'how long a dead letter waits after so many failed retries: wahook.dlq_base_delay, doubled each time, at most wahook.dlq_max_delay, and jitter';

-- src/retry/entry.sql
-- What keeps an entry of the dead letter queue in order, whoever writes it, under either name.

CREATE FUNCTION @extschema@.webhook_dlq_note_statement() RETURNS trigger
	AS 'MODULE_PATHNAME', 'wahook_dlq_note_statement' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION @extschema@.webhook_dlq_note_statement() IS
	'tells INSERT ... ON CONFLICT DO UPDATE from a plain insert, for the row triggers';
CREATE TRIGGER webhook_dlq_note_insert
	BEFORE INSERT ON @extschema@.webhook_dlq
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.webhook_dlq_note_statement();
CREATE TRIGGER webhook_dlq_note_update
	BEFORE UPDATE ON @extschema@.webhook_dlq
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.webhook_dlq_note_statement();

CREATE FUNCTION @extschema@.webhook_dlq_before_change() RETURNS trigger
	AS 'MODULE_PATHNAME', 'wahook_dlq_before_change' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_dlq_before_change() IS
	'keeps the columns of both generations of callers in step, and one entry a message';
CREATE TRIGGER webhook_dlq_before_change
	BEFORE INSERT OR UPDATE ON @extschema@.webhook_dlq
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_dlq_before_change();

CREATE FUNCTION @extschema@.webhook_dlq_after_change() RETURNS trigger
	AS 'MODULE_PATHNAME', 'wahook_dlq_after_change' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_dlq_after_change() IS
	'marks the message of a resolved entry as processed, and takes it out of its conversation''s queue where the entry decides on its retry';
CREATE TRIGGER webhook_dlq_after_insert
	AFTER INSERT ON @extschema@.webhook_dlq
	FOR EACH ROW WHEN (NEW.resolution_status IN ('pending', 'failed'))
	EXECUTE FUNCTION @extschema@.webhook_dlq_after_change();
CREATE TRIGGER webhook_dlq_after_update
	AFTER UPDATE ON @extschema@.webhook_dlq
	FOR EACH ROW WHEN (OLD.resolution_status IS DISTINCT FROM NEW.resolution_status)
	EXECUTE FUNCTION @extschema@.webhook_dlq_after_change();
CREATE TRIGGER webhook_dlq_after_delete
	AFTER DELETE ON @extschema@.webhook_dlq
	FOR EACH ROW WHEN (OLD.resolution_status = 'retrying')
	EXECUTE FUNCTION @extschema@.webhook_dlq_after_change();

-- src/retry/dead_letter.sql
-- Messages that failed.

CREATE FUNCTION @extschema@.fail_webhook_message(
	p_conversation_id uuid, p_lock_id uuid, p_whatsapp_message_id text, p_error text,
	p_error_stack text DEFAULT NULL, p_retry_after interval DEFAULT NULL,
	p_retryable boolean DEFAULT true)
	RETURNS @extschema@.webhook_dlq
	AS 'MODULE_PATHNAME', 'wahook_fail_webhook_message' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.fail_webhook_message(uuid, uuid, text, text, text, interval, boolean) IS
	'reports that processing a claimed message failed: it goes to the dead letter queue, and its entry is returned; the lock stays with its holder; never waits';

CREATE FUNCTION @extschema@.add_to_dead_letter_queue(
	p_payload jsonb, p_error text, p_error_stack text DEFAULT NULL,
	p_whatsapp_message_id text DEFAULT NULL, p_correlation_id uuid DEFAULT NULL,
	p_retry_count integer DEFAULT 0, p_delay interval DEFAULT NULL)
	RETURNS uuid
	AS 'MODULE_PATHNAME', 'wahook_add_to_dead_letter_queue' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.add_to_dead_letter_queue(jsonb, text, text, text, uuid, integer, interval) IS
	'adds a dead letter, or renews the one that the message has, and returns its id; given up at once where the retries are used up';

CREATE FUNCTION @extschema@.webhook_dead_letter_lost(p_conversation_id uuid, p_seqs bigint[])
	RETURNS integer
	AS 'MODULE_PATHNAME', 'wahook_dead_letter_lost' LANGUAGE C VOLATILE STRICT
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_dead_letter_lost(uuid, bigint[]) IS
	'internal: dead-letters waiting messages whose holders vanished too often; how many';

-- src/retry/retriable.sql
-- Dead letters taken and answered one by one, and in bulk.

CREATE FUNCTION @extschema@.webhook_end_retry_leases() RETURNS void
	AS 'MODULE_PATHNAME', 'wahook_end_retry_leases_sql' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_end_retry_leases() IS
	'internal: takes back the dead letters of retriers that vanished, each a failed retry';

-- The setting is read after the first statement has loaded the library that defines it.
CREATE FUNCTION @extschema@.get_retriable_messages(p_limit integer DEFAULT 50)
	RETURNS SETOF @extschema@.webhook_dlq
	LANGUAGE sql VOLATILE ROWS 50
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT @extschema@.webhook_end_retry_leases();
	WITH due AS (
		SELECT id, next_retry_at FROM @extschema@.webhook_dlq AS d
		WHERE resolution_status = 'pending' AND next_retry_at <= clock_timestamp()
			AND NOT EXISTS (
				SELECT FROM @extschema@.processed_webhook_messages m
				WHERE m.whatsapp_message_id = d.whatsapp_message_id
					AND (m.processed_at > d.updated_at OR EXISTS (
						SELECT FROM @extschema@.webhook_inbox i
						WHERE i.conversation_id = m.conversation_id AND i.message_id = m.id)))
		ORDER BY next_retry_at
		LIMIT coalesce(p_limit, 50)
		FOR NO KEY UPDATE SKIP LOCKED
	), taken AS (
		UPDATE @extschema@.webhook_dlq AS d
		SET resolution_status = 'retrying', next_retry_at = NULL, updated_at = clock_timestamp(),
			retry_lease_until = clock_timestamp() + current_setting('wahook.lock_timeout')::interval
		FROM due WHERE d.id = due.id
		RETURNING d AS entry, due.next_retry_at AS was_due_at
	)
	SELECT (entry).* FROM taken ORDER BY was_due_at
	$$;
COMMENT ON FUNCTION @extschema@.get_retriable_messages(integer) IS
	'takes due dead letters under a retry lease of wahook.lock_timeout, oldest first, but not those whose message waits in its conversation or has been completed since; answer each with mark_message_processed(), or it is due again';

CREATE FUNCTION @extschema@.mark_message_processed(
	p_message_id text, p_success boolean, p_error text DEFAULT NULL)
	RETURNS text
	AS 'MODULE_PATHNAME', 'wahook_mark_message_processed' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.mark_message_processed(text, boolean, text) IS
	'answers for a retried dead letter, by its whatsapp_message_id or its id; returns its new resolution_status';

CREATE FUNCTION @extschema@.retry_dead_letters(
	p_service text DEFAULT NULL, p_error_like text DEFAULT NULL,
	p_since timestamptz DEFAULT NULL, p_limit integer DEFAULT NULL)
	RETURNS integer
	LANGUAGE sql VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
	WITH chosen AS (
		SELECT id FROM @extschema@.webhook_dlq
		WHERE resolution_status IN ('pending', 'failed')
			AND (p_service IS NULL OR service = p_service)
			AND (p_error_like IS NULL OR error LIKE p_error_like)
			AND (p_since IS NULL OR created_at >= p_since)
		ORDER BY created_at
		LIMIT p_limit
		FOR NO KEY UPDATE SKIP LOCKED
	), revived AS (
		UPDATE @extschema@.webhook_dlq AS d
		SET resolution_status = 'pending', retry_count = 0, next_retry_at = clock_timestamp(),
			updated_at = clock_timestamp()
		FROM chosen WHERE d.id = chosen.id
		RETURNING 1
	)
	SELECT count(*)::integer FROM revived
	$$;
COMMENT ON FUNCTION @extschema@.retry_dead_letters(text, text, timestamptz, integer) IS
	'makes pending and failed dead letters due now, with all their retries; p_error_like is a LIKE pattern, p_since is compared with created_at; how many';

CREATE FUNCTION @extschema@.discard_dead_letters(
	p_service text DEFAULT NULL, p_error_like text DEFAULT NULL,
	p_since timestamptz DEFAULT NULL, p_limit integer DEFAULT NULL)
	RETURNS integer
	LANGUAGE sql VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
	WITH chosen AS (
		SELECT id FROM @extschema@.webhook_dlq
		WHERE resolution_status IN ('pending', 'failed')
			AND (p_service IS NULL OR service = p_service)
			AND (p_error_like IS NULL OR error LIKE p_error_like)
			AND (p_since IS NULL OR created_at >= p_since)
		ORDER BY created_at
		LIMIT p_limit
		FOR NO KEY UPDATE SKIP LOCKED
	), discarded AS (
		UPDATE @extschema@.webhook_dlq AS d
		SET resolution_status = 'resolved', processed_at = clock_timestamp(),
			updated_at = clock_timestamp()
		FROM chosen WHERE d.id = chosen.id
		RETURNING 1
	)
	SELECT count(*)::integer FROM discarded
	$$;
COMMENT ON FUNCTION @extschema@.discard_dead_letters(text, text, timestamptz, integer) IS
	'resolves pending and failed dead letters without processing them; their errors stay on record until the retention of resolved ones; arguments as of retry_dead_letters(); how many';

-- src/retry/service.sql
-- SQL handlers of services.

CREATE FUNCTION @extschema@.webhook_check_service() RETURNS trigger
	AS 'MODULE_PATHNAME', 'wahook_check_service' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION @extschema@.webhook_check_service() IS
	'checks the handler of a service, and ties it to the role that sets it';
CREATE TRIGGER webhook_check_service
	BEFORE INSERT OR UPDATE OF handler, run_as ON @extschema@.webhook_services
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_check_service();

-- src/retry/processor.sql
-- The dead letter job.

CREATE FUNCTION @extschema@.process_dead_letter_queue(p_limit integer DEFAULT 50) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'wahook_process_dead_letter_queue' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.process_dead_letter_queue(integer) IS
	'puts due dead letters back in their conversations'' queues, and runs those whose service has a SQL handler; null: wahook.dlq_batch_size of them; counts what became of them';

-- src/ingest/rate_limit.sql
-- Token buckets: each identifier has one in each bucket's size, full at first, refilled by the clock.

CREATE FUNCTION @extschema@.check_rate_limit(
	p_identifier text, p_bucket text, p_tokens_requested integer DEFAULT 1)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	-- btree takes keys of up to 2,700 bytes, and a name that long is a mistake anyway.
	c_max_length constant integer := 1000;
	-- Keeps the time of refill a timestamp, however slow the refill.
	c_longest_wait constant double precision := 100 * 366 * 86400.0;
	v_now timestamptz := clock_timestamp();
	v_bucket @extschema@.webhook_rate_limit_buckets;
	v_tokens double precision;
	v_refilled_at timestamptz;
BEGIN
	IF coalesce(p_identifier, '') = '' OR octet_length(p_identifier) > c_max_length THEN
		RAISE EXCEPTION 'rate limit identifier must have from 1 to % bytes', c_max_length
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Pass what is limited, for example a phone number.';
	END IF;
	IF coalesce(p_bucket, '') = '' OR octet_length(p_bucket) > c_max_length THEN
		RAISE EXCEPTION 'rate limit bucket must have from 1 to % bytes', c_max_length
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Pass ''default'', or one of webhook_rate_limit_buckets.';
	END IF;

	SELECT * INTO v_bucket FROM @extschema@.webhook_rate_limit_buckets
		WHERE bucket IN (p_bucket, 'default')
		ORDER BY bucket <> p_bucket
		LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'rate limit bucket "%" is not configured', p_bucket
			USING ERRCODE = 'WH006',
				HINT = 'Insert it, or one named ''default'', into webhook_rate_limit_buckets.';
	END IF;
	IF p_tokens_requested IS NULL OR p_tokens_requested NOT BETWEEN 1 AND v_bucket.max_tokens THEN
		RAISE EXCEPTION 'tokens requested must be from 1 to %, not %',
			v_bucket.max_tokens, coalesce(p_tokens_requested::text, 'null')
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = format('Bucket "%s" never holds more than %s.', p_bucket, v_bucket.max_tokens),
				HINT = 'Ask for less, or raise max_tokens in webhook_rate_limit_buckets.';
	END IF;

	-- The row's lock makes concurrent callers take turns, so none spends what another has. A caller
	-- that waited may be earlier than the last refill: then nothing has been refilled since. A
	-- refused call leaves the row as it is, so a flood of them leaves no dead rows.
	INSERT INTO @extschema@.webhook_rate_limits AS l
		VALUES (p_identifier, p_bucket, v_bucket.max_tokens - p_tokens_requested, v_now)
		ON CONFLICT (identifier, bucket) DO UPDATE
		SET tokens = least(v_bucket.max_tokens, l.tokens + v_bucket.refill_per_second
				* greatest(0, extract(epoch FROM v_now - l.refilled_at)::double precision))
				- p_tokens_requested,
			refilled_at = greatest(v_now, l.refilled_at)
		WHERE least(v_bucket.max_tokens, l.tokens + v_bucket.refill_per_second
				* greatest(0, extract(epoch FROM v_now - l.refilled_at)::double precision))
				>= p_tokens_requested
		RETURNING l.tokens INTO v_tokens;
	IF FOUND THEN
		RETURN jsonb_build_object('allowed', true, 'max_tokens', v_bucket.max_tokens,
			'tokens_remaining', floor(v_tokens), 'blocked_until', NULL);
	END IF;

	SELECT tokens, refilled_at INTO v_tokens, v_refilled_at FROM @extschema@.webhook_rate_limits
		WHERE identifier = p_identifier AND bucket = p_bucket;
	RETURN jsonb_build_object('allowed', false, 'max_tokens', v_bucket.max_tokens,
		'tokens_remaining', floor(v_tokens + v_bucket.refill_per_second
			* greatest(0, extract(epoch FROM v_now - v_refilled_at)::double precision)),
		'blocked_until', v_refilled_at + make_interval(secs =>
			least((p_tokens_requested - v_tokens) / v_bucket.refill_per_second, c_longest_wait)));
END
$$;
COMMENT ON FUNCTION @extschema@.check_rate_limit(text, text, integer) IS
	'takes tokens from an identifier''s bucket: {allowed, max_tokens, tokens_remaining, blocked_until}; blocked_until is null when allowed, else when there will be enough. More than the bucket ever holds is an error';

-- src/agent/sessions.sql
-- Sessions of agents.

CREATE FUNCTION @extschema@.increment_session_metrics(p_conversation_id uuid, p_agent_type text)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF coalesce(p_agent_type, '') = '' THEN
		RAISE EXCEPTION 'agent type must not be empty'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Pass one of webhook_agents, or a name of your own.';
	END IF;

	-- The index is partial, so its predicate is part of what names it.
	INSERT INTO @extschema@.agent_sessions (conversation_id, agent_type, total_messages)
		SELECT id, p_agent_type, 1 FROM @extschema@.webhook_conversations WHERE id = p_conversation_id
		ON CONFLICT (conversation_id, agent_type) WHERE session_state = 'active'
		DO UPDATE SET total_messages = agent_sessions.total_messages + 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'conversation % does not exist', coalesce(p_conversation_id::text, 'null')
			USING ERRCODE = 'WH003',
				HINT = 'Create it with get_or_create_conversation(), or insert it into webhook_conversations.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.increment_session_metrics(uuid, text) IS
	'counts a message on the agent''s active session in the conversation, and starts one where there is none';

-- src/monitor/views.sql
-- The views that dashboards read. All look at the last 24 hours or at what is going on now.
--
-- Settings are read in scalar subqueries: those run once, a call in the condition once a row.

CREATE VIEW @extschema@.webhook_conversation_health AS
	SELECT status,
		count(*) AS count,
		avg(extract(epoch FROM now() - last_activity_at)) AS avg_idle_seconds,
		max(retry_count) AS max_retries,
		sum(error_count) AS total_errors,
		count(locked_by) AS locked_count
	FROM @extschema@.webhook_conversations
	WHERE last_activity_at > now() - interval '24 hours'
	GROUP BY status;
COMMENT ON VIEW @extschema@.webhook_conversation_health IS
	'the conversations that were active in the last 24 hours, by status';

-- This reads every conversation: an index on the lock would cost more at each claim than this
-- costs at each look.
CREATE VIEW @extschema@.stuck_webhook_conversations AS
	SELECT id, user_id, whatsapp_phone, agent_type, status, last_activity_at, retry_count,
		error_count, locked_by, locked_at,
		extract(epoch FROM now() - last_activity_at) AS idle_seconds
	FROM @extschema@.webhook_conversations
	WHERE (status IN ('processing', 'pending')
			AND last_activity_at < now() - (SELECT @extschema@.webhook_setting('stuck_timeout')::interval))
		OR (locked_by IS NOT NULL AND coalesce(lock_expires_at, locked_at
			+ (SELECT @extschema@.webhook_setting('lock_timeout')::interval)) < now())
	ORDER BY last_activity_at;
COMMENT ON VIEW @extschema@.stuck_webhook_conversations IS
	'conversations idle for wahook.stuck_timeout while pending or processing, or locked beyond their lease (wahook.lock_timeout, where the holder asked for no other), oldest first';

CREATE VIEW @extschema@.webhook_agent_performance AS
	SELECT agent_type,
		count(DISTINCT conversation_id) AS unique_conversations,
		avg(total_messages) AS avg_messages_per_session,
		avg(total_tokens_used) AS avg_tokens_used,
		sum(error_count) AS total_errors,
		count(*) FILTER (WHERE session_state = 'completed') AS completed_sessions,
		count(*) FILTER (WHERE session_state = 'failed') AS failed_sessions,
		count(*) FILTER (WHERE session_state = 'active') AS active_sessions,
		avg(extract(epoch FROM coalesce(ended_at, now()) - started_at)) AS avg_duration_seconds
	FROM @extschema@.agent_sessions
	WHERE started_at > now() - interval '24 hours'
	GROUP BY agent_type;
COMMENT ON VIEW @extschema@.webhook_agent_performance IS
	'the agent sessions that began in the last 24 hours, by agent type';

-- processed_at has no index. A message is processed within days of its arrival or not at all, and
-- received_at has one, so bounding both keeps the rest of the history unread.
CREATE VIEW @extschema@.webhook_message_processing_metrics AS
	SELECT date_trunc('hour', processed_at) AS hour,
		count(*) AS messages_processed,
		avg(processing_time_ms) AS avg_processing_ms,
		percentile_cont(0.95) WITHIN GROUP (ORDER BY processing_time_ms) AS p95_processing_ms,
		percentile_cont(0.99) WITHIN GROUP (ORDER BY processing_time_ms) AS p99_processing_ms,
		max(processing_time_ms) AS max_processing_ms,
		min(processing_time_ms) AS min_processing_ms
	FROM @extschema@.processed_webhook_messages
	WHERE processed_at > now() - interval '24 hours'
		AND received_at > now() - interval '8 days'
	GROUP BY 1
	ORDER BY 1 DESC;
COMMENT ON VIEW @extschema@.webhook_message_processing_metrics IS
	'the messages processed in the last 24 hours, by hour, newest first';

CREATE VIEW @extschema@.webhook_dlq_summary AS
	SELECT resolution_status,
		count(*) AS count,
		max(retry_count) AS max_retries_reached,
		avg(retry_count) AS avg_retry_count,
		min(created_at) AS oldest_message,
		max(created_at) AS newest_message
	FROM @extschema@.webhook_dlq
	WHERE created_at > now() - interval '24 hours'
	GROUP BY resolution_status;
COMMENT ON VIEW @extschema@.webhook_dlq_summary IS
	'the dead letters of the last 24 hours, by resolution status';

CREATE VIEW @extschema@.recent_webhook_state_transitions AS
	SELECT t.id, t.conversation_id, c.user_id, c.whatsapp_phone, c.agent_type,
		t.from_state, t.to_state, t.transition_reason, t.correlation_id, t.created_at
	FROM @extschema@.conversation_state_transitions t
		LEFT JOIN @extschema@.webhook_conversations c ON c.id = t.conversation_id
	ORDER BY t.created_at DESC
	LIMIT 100;
COMMENT ON VIEW @extschema@.recent_webhook_state_transitions IS
	'the last 100 changes of a conversation''s status, newest first';

-- src/monitor/health.sql
-- Alerts and numbers for health checks.

CREATE FUNCTION @extschema@.check_webhook_system_health()
	RETURNS TABLE (alert_type text, severity text, message text, details jsonb)
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_since timestamptz := now() - interval '1 hour';
	v_stuck uuid[];
	v_errors uuid[];
	v_timeouts uuid[];
	v_stale uuid[];
	v_count bigint;
	v_other bigint;
BEGIN
	v_stuck := ARRAY(SELECT id FROM @extschema@.stuck_webhook_conversations ORDER BY last_activity_at);
	IF v_stuck <> '{}' THEN
		RETURN QUERY VALUES ('STUCK_CONVERSATIONS', 'HIGH',
			format('%s conversations are stuck', cardinality(v_stuck)),
			jsonb_build_object('count', cardinality(v_stuck), 'oldest', v_stuck[1:10]));
	END IF;

	-- One pass over the conversations for the three alerts that need one.
	SELECT array_agg(id) FILTER (WHERE status = 'error' AND updated_at > v_since),
			array_agg(id) FILTER (WHERE status = 'timeout' AND updated_at > v_since),
			array_agg(id ORDER BY locked_at) FILTER (WHERE lease_is_over)
		INTO v_errors, v_timeouts, v_stale
		FROM (SELECT id, status, updated_at, locked_at,
				locked_by IS NOT NULL AND coalesce(lock_expires_at, locked_at
					+ (SELECT @extschema@.webhook_setting('lock_timeout')::interval)) < now() AS lease_is_over
			FROM @extschema@.webhook_conversations) c
		WHERE status IN ('error', 'timeout') AND updated_at > v_since OR lease_is_over;

	-- Conversations count as they stand, and those that the audit trail shows to have recovered
	-- since. One failure may both fail an attempt and turn its conversation to error: the larger
	-- number counts, not the sum.
	SELECT count(*) INTO v_count FROM (
		SELECT conversation_id FROM @extschema@.conversation_state_transitions
			WHERE to_state = 'error' AND created_at > v_since
		UNION SELECT unnest(v_errors)) e;
	SELECT count(*) INTO v_other FROM @extschema@.webhook_delivery_attempts
		WHERE finished_at > v_since AND outcome = 'failed';
	IF greatest(v_count, v_other) > 10 THEN
		RETURN QUERY VALUES ('HIGH_ERROR_RATE', 'CRITICAL',
			format('%s errors in the last hour', greatest(v_count, v_other)),
			jsonb_build_object('count', greatest(v_count, v_other),
				'conversations', v_count, 'failed_attempts', v_other));
	END IF;

	-- Two conditions that each have an index; one over both statuses would have none.
	v_count := (SELECT count(*) FROM @extschema@.webhook_dlq WHERE resolution_status = 'pending');
	v_other := (SELECT count(*) FROM @extschema@.webhook_dlq WHERE resolution_status = 'retrying');
	IF v_count + v_other > 5 THEN
		RETURN QUERY VALUES ('DLQ_BUILDUP', 'HIGH',
			format('%s dead letters wait for a retry', v_count + v_other),
			jsonb_build_object('count', v_count + v_other,
				'pending', v_count, 'retrying', v_other));
	END IF;

	SELECT count(*) INTO v_count FROM (
		SELECT conversation_id FROM @extschema@.conversation_state_transitions
			WHERE to_state = 'timeout' AND created_at > v_since
		UNION SELECT unnest(v_timeouts)) e;
	IF v_count > 5 THEN
		RETURN QUERY VALUES ('PROCESSING_TIMEOUTS', 'MEDIUM',
			format('%s conversations timed out in the last hour', v_count),
			jsonb_build_object('count', v_count));
	END IF;

	IF v_stale <> '{}' THEN
		RETURN QUERY VALUES ('STALE_LOCKS', 'MEDIUM',
			format('%s locks are held beyond their lease', cardinality(v_stale)),
			jsonb_build_object('count', cardinality(v_stale), 'oldest', v_stale[1:10]));
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.check_webhook_system_health() IS
	'one row an alert, none when all is well';

CREATE FUNCTION @extschema@.get_webhook_performance_stats(lookback_hours integer DEFAULT 24)
	RETURNS TABLE (metric_name text, value numeric, unit text)
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_since timestamptz;
	v_processed record;
BEGIN
	IF lookback_hours IS NULL OR lookback_hours NOT BETWEEN 1 AND 87600 THEN
		RAISE EXCEPTION 'lookback_hours must be from 1 to 87600, not %', coalesce(lookback_hours::text, 'null')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'A day is 24, ten years are 87600.';
	END IF;
	v_since := now() - make_interval(hours => lookback_hours);

	-- received_at: see webhook_message_processing_metrics.
	SELECT count(*) AS messages,
		coalesce(avg(processing_time_ms), 0) AS average,
		coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY processing_time_ms), 0) AS p95
		INTO v_processed
		FROM @extschema@.processed_webhook_messages
		WHERE processed_at > v_since AND received_at > v_since - interval '8 days';

	RETURN QUERY VALUES
		('total_conversations', (SELECT count(*) FROM @extschema@.webhook_conversations
			WHERE last_activity_at > v_since)::numeric, 'count'),
		('total_messages_processed', v_processed.messages::numeric, 'count'),
		('avg_processing_time_ms', round(v_processed.average, 2), 'ms'),
		('p95_processing_time_ms', round(v_processed.p95::numeric, 2), 'ms'),
		('dlq_messages', (SELECT count(*) FROM @extschema@.webhook_dlq
			WHERE created_at > v_since)::numeric, 'count'),
		('stuck_conversations', (SELECT count(*) FROM @extschema@.stuck_webhook_conversations)::numeric, 'count'),
		('active_sessions', (SELECT count(*) FROM @extschema@.agent_sessions
			WHERE session_state = 'active')::numeric, 'count');
END
$$;
COMMENT ON FUNCTION @extschema@.get_webhook_performance_stats(integer) IS
	'seven numbers: conversations active, messages processed and dead letters added in the last hours, and what is stuck or active now; times are 0 where nothing was processed';

-- src/monitor/retention.sql
-- Retention: every table has a time after which its rows go, in batches, oldest first.
--
-- Looking must not cost more as history grows. Where a table has an index on its time, or an id that
-- is made of it (UUIDv7), a run reads what it deletes and stops there. Where it has neither, a run
-- sweeps: it looks at one batch of rows, from a page drawn at random on, round the end of the table.

CREATE INDEX webhook_dlq_resolved_idx
	ON @extschema@.webhook_dlq (processed_at) WHERE resolution_status = 'resolved';

CREATE FUNCTION @extschema@.webhook_uuid_floor(p_at timestamptz) RETURNS uuid
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT (lpad(to_hex(greatest(0, floor(extract(epoch FROM p_at) * 1000))::bigint), 12, '0')
		|| repeat('0', 20))::uuid
	$$;
COMMENT ON FUNCTION @extschema@.webhook_uuid_floor(timestamptz) IS
	'above all ids that webhook_uuid() made before this millisecond, below those it makes from then on';

-- In a condition $1 is the time before which rows are old, $2 an id just above those of that time,
-- $3 an id above those of now. Ids that callers made up themselves may be anywhere: the second rule
-- of a table that is read by id finds what is above $3, and has nothing to read where nobody did so.
-- The daily rules are cleanup_stale_sessions()'s, the others apply_webhook_retention()'s.
CREATE FUNCTION @extschema@.webhook_retention_rules()
	RETURNS TABLE (table_name text, setting text, old_rows text, order_by text, daily boolean)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	VALUES
		('processed_webhook_messages', 'message_retention',
			'id < $2 AND received_at < $1 AND NOT @extschema@.webhook_message_is_needed(id, conversation_id, whatsapp_message_id)', 'id', false),
		('processed_webhook_messages', 'message_retention',
			'id > $3 AND received_at < $1 AND NOT @extschema@.webhook_message_is_needed(id, conversation_id, whatsapp_message_id)', 'id', false),
		('webhook_delivery_attempts', 'attempt_retention',
			'message_id < $2 AND finished_at < $1', 'message_id, seq', false),
		('webhook_delivery_attempts', 'attempt_retention',
			'message_id > $3 AND finished_at < $1', 'message_id, seq', false),
		('webhook_message_statuses', 'status_retention', 'created_at < $1', 'created_at', false),
		('webhook_notices', 'notice_retention', 'received_at < $1', 'received_at', false),
		('webhook_quarantine', 'quarantine_retention',
			'received_at < $1 AND last_seen_at < $1', 'received_at', false),
		('conversation_state_transitions', 'transition_retention', 'created_at < $1', 'created_at', false),
		('webhook_dlq', 'dlq_resolved_retention',
			'resolution_status = ''resolved'' AND processed_at < $1', 'processed_at', true),
		('webhook_dlq', 'dlq_failed_retention',
			'resolution_status = ''failed'' AND created_at < $1 AND updated_at < $1', 'created_at', false),
		('agent_sessions', 'agent_session_retention',
			'session_state <> ''active'' AND started_at < $1 AND ended_at < $1', 'started_at', false),
		('wa_workflow_recovery', 'workflow_retention',
			'status IN (''completed'', ''failed'') AND created_at < $1 AND coalesce(completed_at, created_at) < $1',
			'created_at', false),
		('user_sessions', 'session_ttl', 'last_interaction < $1', 'last_interaction', true)
	$$;
COMMENT ON FUNCTION @extschema@.webhook_retention_rules() IS
	'the tables that are cleared of old rows by an index: by which setting, of which rows, in which order, and by which job';

-- A dead letter that was given up may be revived, and then needs its message.
CREATE FUNCTION @extschema@.webhook_message_is_needed(
	p_id uuid, p_conversation_id uuid, p_whatsapp_message_id text)
	RETURNS boolean LANGUAGE sql STABLE
	AS $$
	SELECT EXISTS (SELECT FROM @extschema@.webhook_inbox
			WHERE conversation_id OPERATOR(pg_catalog.=) p_conversation_id
				AND message_id OPERATOR(pg_catalog.=) p_id)
		OR EXISTS (SELECT FROM @extschema@.webhook_dlq
			WHERE whatsapp_message_id OPERATOR(pg_catalog.=) p_whatsapp_message_id
				AND resolution_status OPERATOR(pg_catalog.<>) 'resolved')
	$$;
COMMENT ON FUNCTION @extschema@.webhook_message_is_needed(uuid, uuid, text) IS
	'whether a message still waits, or is in the dead letter queue unresolved';

-- By ctid: a row that another transaction moves meanwhile is left alone, and the plan is the same
-- for every table. With stale statistics a sequential scan or a hash join would look cheap to the
-- planner and read the whole history.
CREATE FUNCTION @extschema@.webhook_delete_old(
	p_table text, p_old_rows text, p_order_by text, p_before timestamptz, p_limit bigint)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off
	SET enable_bitmapscan = off
	SET jit = off
	AS $$
DECLARE
	v_deleted bigint;
BEGIN
	EXECUTE format('DELETE FROM @extschema@.%1$I WHERE ctid = ANY (ARRAY('
			'SELECT ctid FROM @extschema@.%1$I WHERE %2$s ORDER BY %3$s LIMIT $4 FOR UPDATE SKIP LOCKED))',
			p_table, p_old_rows, p_order_by)
		USING p_before, @extschema@.webhook_uuid_floor(p_before),
			@extschema@.webhook_uuid_floor(now() + interval '1 day'), p_limit;
	GET DIAGNOSTICS v_deleted = ROW_COUNT;
	RETURN v_deleted;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_delete_old(text, text, text, timestamptz, bigint) IS
	'deletes the oldest rows that a rule of webhook_retention_rules() finds, up to a limit, and skips locked ones';

CREATE FUNCTION @extschema@.webhook_sweep(p_table text, p_rows integer) RETURNS tid[]
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off
	SET jit = off
	AS $$
DECLARE
	v_pages bigint := pg_relation_size(format('@extschema@.%I', p_table)::regclass)
		/ current_setting('block_size')::integer;
	v_start tid := format('(%s,0)', floor(random() * v_pages))::tid;
	v_rows tid[];
BEGIN
	EXECUTE format('SELECT ARRAY('
			'(SELECT ctid FROM @extschema@.%1$I WHERE ctid >= $1 LIMIT $2) UNION ALL '
			'(SELECT ctid FROM @extschema@.%1$I WHERE ctid < $1 LIMIT $2) LIMIT $2)', p_table)
		INTO v_rows USING v_start, p_rows;
	RETURN v_rows;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_sweep(text, integer) IS
	'some rows of a table, from a random page on and round its end; all of them when it has no more';

-- A bucket that is full again is as good as none.
CREATE FUNCTION @extschema@.webhook_delete_full_buckets(p_batch_size integer) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
	AS $$
DECLARE
	v_swept tid[] := @extschema@.webhook_sweep('webhook_rate_limits', p_batch_size);
	v_deleted bigint;
BEGIN
	DELETE FROM @extschema@.webhook_rate_limits WHERE ctid = ANY (ARRAY(
		SELECT l.ctid
		FROM @extschema@.webhook_rate_limits l
			CROSS JOIN LATERAL (SELECT max_tokens, refill_per_second
				FROM @extschema@.webhook_rate_limit_buckets
				WHERE bucket IN (l.bucket, 'default')
				ORDER BY bucket <> l.bucket LIMIT 1) b
		WHERE l.ctid = ANY (v_swept)
			AND l.tokens + b.refill_per_second
				* extract(epoch FROM now() - l.refilled_at)::double precision >= b.max_tokens
		FOR UPDATE OF l SKIP LOCKED));
	GET DIAGNOSTICS v_deleted = ROW_COUNT;
	RETURN v_deleted;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_delete_full_buckets(integer) IS
	'deletes the rate limits of identifiers whose bucket is full again';

-- A delivery that found a conversation just before it goes may still leave a message in it: the
-- claim of that message makes the conversation anew, as it does when its creation was rolled back.
CREATE FUNCTION @extschema@.webhook_delete_idle_conversations(
	p_before timestamptz, p_batch_size integer)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
	AS $$
DECLARE
	v_swept tid[] := @extschema@.webhook_sweep('webhook_conversations', p_batch_size);
	v_idle uuid[];
	v_deleted bigint;
BEGIN
	v_idle := ARRAY(
		SELECT c.id FROM @extschema@.webhook_conversations c
		WHERE c.ctid = ANY (v_swept) AND c.last_activity_at < p_before AND c.locked_by IS NULL
			AND NOT EXISTS (SELECT FROM @extschema@.webhook_inbox i WHERE i.conversation_id = c.id)
		FOR UPDATE OF c SKIP LOCKED);
	DELETE FROM @extschema@.webhook_identities WHERE ctid = ANY (ARRAY(
		SELECT ctid FROM @extschema@.webhook_identities
		WHERE conversation_id = ANY (v_idle) FOR UPDATE SKIP LOCKED));
	-- An identity that somebody is changing keeps its conversation until the next run.
	DELETE FROM @extschema@.webhook_conversations c WHERE c.id = ANY (v_idle)
		AND NOT EXISTS (SELECT FROM @extschema@.webhook_identities i WHERE i.conversation_id = c.id);
	GET DIAGNOSTICS v_deleted = ROW_COUNT;
	RETURN v_deleted;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_delete_idle_conversations(timestamptz, integer) IS
	'deletes conversations with nothing waiting and no activity since, with their identities and what agents remember';

CREATE FUNCTION @extschema@.apply_webhook_retention(p_batch_size integer DEFAULT NULL) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_batch_size integer :=
		coalesce(p_batch_size, @extschema@.webhook_setting('retention_batch_size')::integer);
	v_rule record;
	v_done bigint;
	v_deleted jsonb := '{}';
BEGIN
	IF v_batch_size < 1 THEN
		RAISE EXCEPTION 'batch size must be positive, not %', v_batch_size
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Leave it out to take wahook.retention_batch_size.';
	END IF;

	FOR v_rule IN SELECT * FROM @extschema@.webhook_retention_rules() WHERE NOT daily LOOP
		v_done := coalesce((v_deleted ->> v_rule.table_name)::bigint, 0);
		v_done := v_done + @extschema@.webhook_delete_old(v_rule.table_name, v_rule.old_rows,
			v_rule.order_by, now() - @extschema@.webhook_setting(v_rule.setting)::interval,
			v_batch_size - v_done);
		v_deleted := v_deleted || jsonb_build_object(v_rule.table_name, v_done);
	END LOOP;
	RETURN v_deleted || jsonb_build_object(
		'webhook_rate_limits', @extschema@.webhook_delete_full_buckets(v_batch_size),
		'webhook_conversations', @extschema@.webhook_delete_idle_conversations(
			now() - @extschema@.webhook_setting('conversation_retention')::interval, v_batch_size));
END
$$;
COMMENT ON FUNCTION @extschema@.apply_webhook_retention(integer) IS
	'deletes what is older than its table''s retention, up to a batch a table; how many rows of each. Where it is the whole batch, there may be more';

-- src/monitor/session_cleanup.sql
-- The daily job: sessions that nobody is in any more, and dead letters that are done with.

CREATE FUNCTION @extschema@.cleanup_stale_sessions(p_ttl interval DEFAULT NULL) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	c_longest constant interval := '100 years';
	v_began timestamptz := clock_timestamp();
	v_ttl interval := coalesce(p_ttl, @extschema@.webhook_setting('session_ttl')::interval);
	v_ttl_hours numeric := trim_scale(extract(epoch FROM v_ttl) / 3600);
	v_batch_size integer := @extschema@.webhook_setting('retention_batch_size')::integer;
	v_rule record;
	v_age interval;
	v_batch bigint;
	v_deleted jsonb := '{"user_sessions": 0, "webhook_dlq": 0}';
	v_answer jsonb;
BEGIN
	IF v_ttl <= interval '0' OR v_ttl > c_longest THEN
		RAISE EXCEPTION 'time to live must be above 0 and up to %, not %', c_longest, v_ttl
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Leave it out to take wahook.session_ttl.';
	END IF;
	PERFORM @extschema@.webhook_log_event('SESSION_CLEANUP_STARTED',
		jsonb_build_object('ttlHours', v_ttl_hours));

	-- It runs once a day, so it takes batches until there is none.
	FOR v_rule IN SELECT * FROM @extschema@.webhook_retention_rules() WHERE daily LOOP
		v_age := CASE v_rule.setting WHEN 'session_ttl' THEN v_ttl
			ELSE @extschema@.webhook_setting(v_rule.setting)::interval END;
		LOOP
			v_batch := @extschema@.webhook_delete_old(v_rule.table_name, v_rule.old_rows,
				v_rule.order_by, now() - v_age, v_batch_size);
			v_deleted := jsonb_set(v_deleted, ARRAY[v_rule.table_name],
				to_jsonb((v_deleted ->> v_rule.table_name)::bigint + v_batch));
			EXIT WHEN v_batch < v_batch_size;
		END LOOP;
	END LOOP;

	-- An agent's session ends with the user's: nobody else ends one that was merely abandoned.
	UPDATE @extschema@.agent_sessions s SET session_state = 'timeout', ended_at = now()
		FROM @extschema@.webhook_conversations c
		WHERE s.session_state = 'active' AND s.started_at < now() - v_ttl
			AND c.id = s.conversation_id AND c.last_activity_at < now() - v_ttl;

	v_answer := jsonb_build_object(
		'success', true,
		'sessions', jsonb_build_object(
			'deleted', (v_deleted ->> 'user_sessions')::bigint,
			'ttlHours', v_ttl_hours,
			'cutoffTime', to_char((now() - v_ttl) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')),
		'dlq', jsonb_build_object(
			'deleted', (v_deleted ->> 'webhook_dlq')::bigint,
			'retentionDays', trim_scale(extract(epoch FROM
				@extschema@.webhook_setting('dlq_resolved_retention')::interval) / 86400)),
		'durationMs', round(extract(epoch FROM clock_timestamp() - v_began) * 1000));
	PERFORM @extschema@.webhook_log_event('SESSION_CLEANUP_COMPLETED', v_answer);
	RETURN v_answer;
END
$$;
COMMENT ON FUNCTION @extschema@.cleanup_stale_sessions(interval) IS
	'deletes user sessions idle for wahook.session_ttl and dead letters resolved for wahook.dlq_resolved_retention, ends idle agent sessions';

-- src/monitor/jobs.sql
-- The jobs, for servers that do not preload wahook: pg_cron runs them. It is looked for when it is
-- needed; wahook does not depend on it.

CREATE FUNCTION @extschema@.webhook_jobs()
	RETURNS TABLE (job_name text, schedule text, command text)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	VALUES
		('cleanup-stuck-conversations', '*/5 * * * *',
			'SELECT @extschema@.cleanup_stuck_webhook_conversations(); SELECT @extschema@.apply_webhook_retention()'),
		('dlq-processor', '*/5 * * * *', 'SELECT @extschema@.process_dead_letter_queue(50)'),
		('session-cleanup', '0 2 * * *', 'SELECT @extschema@.cleanup_stale_sessions()')
	$$;
COMMENT ON FUNCTION @extschema@.webhook_jobs() IS 'what has to run when, as pg_cron takes it';

CREATE FUNCTION @extschema@.webhook_require_cron() RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_cron_database text := current_setting('cron.database_name', true);
BEGIN
	IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') THEN
		RETURN;
	END IF;
	RAISE EXCEPTION 'pg_cron is not installed in database "%"', current_database()
		USING ERRCODE = 'WH006',
			DETAIL = CASE
				WHEN v_cron_database IS NULL THEN 'This server has not loaded pg_cron.'
				ELSE format('pg_cron keeps its jobs in database "%s".', v_cron_database)
			END,
			HINT = CASE
				WHEN v_cron_database IS NULL THEN 'Add pg_cron to shared_preload_libraries, restart, and CREATE EXTENSION pg_cron.'
				WHEN v_cron_database = current_database() THEN 'CREATE EXTENSION pg_cron.'
				ELSE format('There, call cron.schedule_in_database(job_name, schedule, command, %L) for each row of webhook_jobs() here.',
					current_database())
			END;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_require_cron() IS
	'an error that says how to get pg_cron, where it is missing';

CREATE FUNCTION @extschema@.unschedule_webhook_jobs() RETURNS integer
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_removed integer;
BEGIN
	PERFORM @extschema@.webhook_require_cron();
	-- By id, for by name pg_cron only finds the caller's own. A superuser sees everybody's.
	EXECUTE 'SELECT count(cron.unschedule(jobid))::integer FROM cron.job'
		' WHERE database = current_database() AND jobname IN (SELECT job_name FROM @extschema@.webhook_jobs())'
		INTO v_removed;
	RETURN v_removed;
END
$$;
COMMENT ON FUNCTION @extschema@.unschedule_webhook_jobs() IS
	'takes wahook''s jobs out of pg_cron; how many there were';

CREATE FUNCTION @extschema@.schedule_webhook_jobs()
	RETURNS TABLE (job_name text, schedule text, command text)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	-- Whoever scheduled them before: twice would run them twice.
	PERFORM @extschema@.unschedule_webhook_jobs();
	EXECUTE 'SELECT cron.schedule(j.job_name, j.schedule, j.command) FROM @extschema@.webhook_jobs() j';
	RETURN QUERY SELECT * FROM @extschema@.webhook_jobs();
END
$$;
COMMENT ON FUNCTION @extschema@.schedule_webhook_jobs() IS
	'puts wahook''s three jobs into pg_cron, to run as the caller; again if they are there already';

-- src/core/grants.sql
-- Who may do what. Nothing of the extension is open to PUBLIC; wahook_grant() opens to a role what
-- its level needs: privileges, and a row security policy on each table of user data it may touch.
--
-- pg_dump keeps the privileges but not the policies: after a restore, grant again.
--
-- What a level gets is data: webhook_privileges() names every table, view and function of the
-- extension. A test compares it with the catalog.

CREATE FUNCTION @extschema@.webhook_privileges()
	RETURNS TABLE (kind text, object_name text, service text)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	-- service: what the service level gets; null: left to the owner.
	VALUES
		('table', 'webhook_conversations', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'conversation_state_transitions', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'processed_webhook_messages', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'webhook_dlq', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'agent_contexts', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'agent_sessions', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'wa_workflow_recovery', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'user_sessions', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'webhook_message_statuses', 'SELECT'),
		('table', 'webhook_notices', 'SELECT'),
		('table', 'webhook_delivery_attempts', 'SELECT'),
		('table', 'webhook_agents', 'SELECT'),
		('table', 'webhook_services', 'SELECT'),
		('table', 'webhook_rate_limit_buckets', 'SELECT'),
		('table', 'webhook_quarantine', NULL),
		('table', 'webhook_identities', NULL),
		('table', 'webhook_inbox', NULL),
		('table', 'webhook_conversation_queue', NULL),
		('table', 'webhook_rate_limits', NULL),

		('view', 'wa_dead_letter_queue', 'SELECT, INSERT, UPDATE, DELETE'),
		('view', 'webhook_conversation_health', 'SELECT'),
		('view', 'stuck_webhook_conversations', 'SELECT'),
		('view', 'webhook_agent_performance', 'SELECT'),
		('view', 'webhook_message_processing_metrics', 'SELECT'),
		('view', 'webhook_dlq_summary', 'SELECT'),
		('view', 'recent_webhook_state_transitions', 'SELECT'),

		('function', 'verify_webhook_subscription', 'EXECUTE'),
		('function', 'verify_webhook_signature', 'EXECUTE'),
		('function', 'verify_webhook_signature_bytea', 'EXECUTE'),
		('function', 'receive_webhook', 'EXECUTE'),
		('function', 'receive_and_claim_webhook', 'EXECUTE'),
		('function', 'check_rate_limit', 'EXECUTE'),
		('function', 'claim_conversations', 'EXECUTE'),
		('function', 'acquire_conversation_lock', 'EXECUTE'),
		('function', 'renew_conversation_lock', 'EXECUTE'),
		('function', 'release_conversation_lock', 'EXECUTE'),
		('function', 'complete_webhook_messages', 'EXECUTE'),
		('function', 'complete_conversations', 'EXECUTE'),
		('function', 'fail_webhook_message', 'EXECUTE'),
		('function', 'record_processed_message', 'EXECUTE'),
		('function', 'get_or_create_conversation', 'EXECUTE'),
		('function', 'transition_conversation', 'EXECUTE'),
		('function', 'add_to_dead_letter_queue', 'EXECUTE'),
		('function', 'dlq_retry_delay', 'EXECUTE'),
		('function', 'get_retriable_messages', 'EXECUTE'),
		('function', 'mark_message_processed', 'EXECUTE'),
		('function', 'retry_dead_letters', 'EXECUTE'),
		('function', 'discard_dead_letters', 'EXECUTE'),
		('function', 'process_dead_letter_queue', 'EXECUTE'),
		('function', 'cleanup_stuck_webhook_conversations', 'EXECUTE'),
		('function', 'cleanup_stale_sessions', 'EXECUTE'),
		('function', 'increment_session_metrics', 'EXECUTE'),
		('function', 'check_webhook_system_health', 'EXECUTE'),
		('function', 'get_webhook_performance_stats', 'EXECUTE'),
		-- A default and a view call these as whoever uses the table or the view.
		('function', 'webhook_uuid', 'EXECUTE'),
		('function', 'webhook_setting', 'EXECUTE'),

		('function', 'wahook_grant', NULL),
		('function', 'wahook_revoke', NULL),
		('function', 'schedule_webhook_jobs', NULL),
		('function', 'unschedule_webhook_jobs', NULL),
		('function', 'apply_webhook_retention', NULL),
		('function', 'webhook_audit_status', NULL),
		('function', 'webhook_check_grantor', NULL),
		('function', 'webhook_check_service', NULL),
		('function', 'webhook_dead_letter_lost', NULL),
		('function', 'webhook_delete_full_buckets', NULL),
		('function', 'webhook_delete_idle_conversations', NULL),
		('function', 'webhook_delete_old', NULL),
		('function', 'webhook_dlq_after_change', NULL),
		('function', 'webhook_dlq_before_change', NULL),
		('function', 'webhook_dlq_note_statement', NULL),
		('function', 'webhook_end_retry_leases', NULL),
		('function', 'webhook_jobs', NULL),
		('function', 'webhook_keep_changed_seed', NULL),
		('function', 'webhook_lock_directly', NULL),
		('function', 'webhook_log_event', NULL),
		('function', 'webhook_message_is_needed', NULL),
		('function', 'webhook_message_json', NULL),
		('function', 'webhook_privileges', NULL),
		('function', 'webhook_register_identities', NULL),
		('function', 'webhook_require_cron', NULL),
		('function', 'webhook_retention_rules', NULL),
		('function', 'webhook_status_advances', NULL),
		('function', 'webhook_status_rank', NULL),
		('function', 'webhook_sweep', NULL),
		('function', 'webhook_uuid_floor', NULL)
	$$;
COMMENT ON FUNCTION @extschema@.webhook_privileges() IS
	'what each level may do with each table, view and function of the extension';

CREATE FUNCTION @extschema@.webhook_check_grantor(p_role regrole, p_level text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_owner regrole := (SELECT extowner FROM pg_extension WHERE extname = 'wahook');
BEGIN
	IF NOT pg_has_role(current_user, v_owner, 'USAGE') THEN
		RAISE EXCEPTION 'must be owner of extension wahook to grant or revoke its levels'
			USING ERRCODE = 'insufficient_privilege', HINT = format('Ask %s, or a superuser.', v_owner);
	END IF;
	IF p_level IS DISTINCT FROM 'service' THEN
		RAISE EXCEPTION 'level "%" does not exist', coalesce(p_level, 'null')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'The levels are: service.';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_roles WHERE oid = p_role) THEN
		RAISE EXCEPTION 'role "%" does not exist', coalesce(p_role::text, 'null')
			USING ERRCODE = 'undefined_object',
				HINT = 'A level is granted to one role; there is none for PUBLIC.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_grantor(regrole, text) IS
	'an error unless the caller owns the extension and the role and level exist';

CREATE FUNCTION @extschema@.wahook_grant(p_role regrole, p_level text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_object record;
BEGIN
	PERFORM @extschema@.webhook_check_grantor(p_role, p_level);
	EXECUTE format('GRANT USAGE ON SCHEMA @extschema@ TO %s', p_role);
	FOR v_object IN
		SELECT p.kind, p.service AS privileges, format('@extschema@.%I', p.object_name) AS name
		FROM @extschema@.webhook_privileges() p WHERE p.service IS NOT NULL
	LOOP
		EXECUTE format('GRANT %s ON %s %s TO %s', v_object.privileges,
			CASE v_object.kind WHEN 'function' THEN 'FUNCTION' ELSE 'TABLE' END, v_object.name, p_role);
		-- Without a policy the privileges on a table show no row. A second grant finds it there,
		-- by the role: its name is random, for no name made of a role's stays unique when roles are
		-- renamed.
		IF v_object.kind = 'table'
			AND (SELECT relrowsecurity FROM pg_class WHERE oid = v_object.name::regclass)
			AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = v_object.name::regclass
				AND polroles = ARRAY[p_role::oid] AND polname LIKE 'wahook\_service\_%')
		THEN
			EXECUTE format('CREATE POLICY %I ON %s TO %s USING (true) WITH CHECK (true)',
				'wahook_service_' || gen_random_uuid(), v_object.name, p_role);
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.wahook_grant(regrole, text) IS
	'gives a role a level: ''service'' receives, claims, completes and retries messages and reads the monitoring views. To be repeated after a restore from a dump';

CREATE FUNCTION @extschema@.wahook_revoke(p_role regrole, p_level text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_object record;
BEGIN
	PERFORM @extschema@.webhook_check_grantor(p_role, p_level);
	FOR v_object IN
		SELECT p.kind, format('@extschema@.%I', p.object_name) AS name
		FROM @extschema@.webhook_privileges() p WHERE p.service IS NOT NULL
	LOOP
		EXECUTE format('REVOKE ALL ON %s %s FROM %s',
			CASE v_object.kind WHEN 'function' THEN 'FUNCTION' ELSE 'TABLE' END, v_object.name, p_role);
	END LOOP;
	FOR v_object IN
		SELECT polname, polrelid::regclass AS name
		FROM pg_policy JOIN @extschema@.webhook_privileges() p
			ON p.kind = 'table' AND polrelid = format('@extschema@.%I', p.object_name)::regclass
		WHERE polroles = ARRAY[p_role::oid] AND polname LIKE 'wahook\_service\_%'
	LOOP
		EXECUTE format('DROP POLICY %I ON %s', v_object.polname, v_object.name);
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.wahook_revoke(regrole, text) IS
	'takes a level back; USAGE on the schema stays, for other things may live there';

-- src/core/finish.sql
-- The end of the install script: nothing is open to anybody but the owner, and what users fill is
-- dumped. Done for whatever the extension now has, so that nothing can be forgotten.

DO $$
DECLARE
	v_relation record;
	v_grant record;
BEGIN
	FOR v_relation IN
		SELECT c.oid::regclass AS name, c.relkind AS kind, c.relpersistence AS persistence,
			EXISTS (SELECT FROM pg_attribute
				WHERE attrelid = c.oid AND attname = 'from_extension') AS has_seeds
		FROM pg_extension e
			JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
			JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
		WHERE e.extname = 'wahook' AND d.deptype = 'e' AND c.relkind IN ('r', 'S')
	LOOP
		-- What has seeds is configuration, not user data: there the privileges say it all.
		IF v_relation.kind = 'r' AND NOT v_relation.has_seeds THEN
			EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', v_relation.name);
		END IF;
		-- Unlogged tables are cheap to lose.
		IF v_relation.persistence = 'p' THEN
			PERFORM pg_extension_config_dump(v_relation.name,
				CASE WHEN v_relation.has_seeds THEN 'WHERE NOT from_extension' ELSE '' END);
		END IF;
	END LOOP;

	-- Not only PUBLIC: the default privileges of a schema may have given roles their share.
	FOR v_grant IN
		SELECT o.kind, o.name, string_agg(DISTINCT
			CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, ', ') AS grantees
		FROM (
			SELECT d.refobjid AS extension,
				CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
				c.oid::regclass::text AS name, c.relowner AS owner,
				coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) AS acl
			FROM pg_depend d JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
			WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
				AND c.relkind IN ('r', 'v', 'S')
			UNION ALL
			SELECT d.refobjid, 'FUNCTION', p.oid::regprocedure::text, p.proowner,
				coalesce(p.proacl, acldefault('f', p.proowner))
			FROM pg_depend d JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
			WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e') o
			JOIN pg_extension e ON e.oid = o.extension AND e.extname = 'wahook'
			CROSS JOIN aclexplode(o.acl) a
		WHERE a.grantee <> o.owner
		GROUP BY o.kind, o.name
	LOOP
		EXECUTE format('REVOKE ALL ON %s %s FROM %s', v_grant.kind, v_grant.name, v_grant.grantees);
	END LOOP;
END
$$;
