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
) WITH (fillfactor = 50, autovacuum_analyze_threshold = 10000, autovacuum_analyze_scale_factor = 10);
-- What locking changes is nothing that statistics are about; for the tables below, analyzed while
-- they are empty or full, they say nothing.
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
	phone_number_id text COLLATE "C" NOT NULL,
	identity text COLLATE "C" NOT NULL,
	kind text NOT NULL CHECK (kind IN ('phone', 'user_id')),
	conversation_id uuid NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	-- The name first: nearly all rows are of one business number.
	PRIMARY KEY (identity, phone_number_id)
);
CREATE INDEX webhook_identities_conversation_idx
	ON @extschema@.webhook_identities (conversation_id);
COMMENT ON TABLE @extschema@.webhook_identities IS
	'which conversation a phone number or business-scoped user id leads to, for each business number (empty: any)';

-- Not cached: the order of its values is the order of arrival. A delivery numbers up to 1024 messages from
-- one of them.
CREATE SEQUENCE @extschema@.webhook_inbox_seq INCREMENT BY 1024;
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
	PRIMARY KEY (conversation_id, service, seq)
) WITH (autovacuum_analyze_threshold = 1000000, autovacuum_analyze_scale_factor = 10);
ALTER SEQUENCE @extschema@.webhook_inbox_seq OWNED BY @extschema@.webhook_inbox.seq;
COMMENT ON TABLE @extschema@.webhook_inbox IS
	'one small row a message that waits or is claimed, in order of arrival within its conversation and service';
COMMENT ON COLUMN @extschema@.webhook_inbox.message_id IS 'processed_webhook_messages.id';
COMMENT ON COLUMN @extschema@.webhook_inbox.attempts IS 'attempts that ended in failure before this one';
COMMENT ON COLUMN @extschema@.webhook_inbox.losses IS 'claims whose holder vanished';
COMMENT ON COLUMN @extschema@.webhook_inbox.user_id IS
	'set when this message changed what is known of the sender; the claim writes it to the conversation';

-- Its values mean nothing: rows may be due at the same time.
CREATE SEQUENCE @extschema@.webhook_conversation_queue_seq CACHE 32;
CREATE TABLE @extschema@.webhook_conversation_queue (
	conversation_id uuid NOT NULL,
	seq bigint NOT NULL DEFAULT nextval('@extschema@.webhook_conversation_queue_seq'),
	service text NOT NULL DEFAULT 'default',
	due_at timestamptz NOT NULL,
	others uuid[],
	PRIMARY KEY (service, due_at, seq)
) WITH (autovacuum_analyze_threshold = 1000000, autovacuum_analyze_scale_factor = 10);
ALTER SEQUENCE @extschema@.webhook_conversation_queue_seq
	OWNED BY @extschema@.webhook_conversation_queue.seq;
COMMENT ON TABLE @extschema@.webhook_conversation_queue IS
	'since when conversations have had messages for a service that nobody has claimed';
COMMENT ON COLUMN @extschema@.webhook_conversation_queue.others IS
	'further conversations that got messages at the same time';

CREATE TABLE @extschema@.webhook_leases (
	expires_at timestamptz NOT NULL,
	conversation_id uuid NOT NULL,
	lock_id uuid NOT NULL,
	service text NOT NULL DEFAULT 'default',
	others uuid[],
	PRIMARY KEY (expires_at, conversation_id)
) WITH (autovacuum_analyze_threshold = 1000000, autovacuum_analyze_scale_factor = 10);
COMMENT ON TABLE @extschema@.webhook_leases IS
	'when to look at the conversations of a claim again, should nobody have released them';
COMMENT ON COLUMN @extschema@.webhook_leases.others IS
	'further conversations that were locked in the same claim';

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
