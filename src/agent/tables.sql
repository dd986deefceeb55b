-- What agents remember, and the sessions users are in.

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
	metadata jsonb NOT NULL DEFAULT '{}',
	variant text,
	version integer,
	prompt_tokens bigint NOT NULL DEFAULT 0 CHECK (prompt_tokens >= 0),
	completion_tokens bigint NOT NULL DEFAULT 0 CHECK (completion_tokens >= 0),
	last_activity_at timestamptz NOT NULL DEFAULT now(),
	seen_active_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
-- What counting changes has no index, so that it stays on the page. Idle sessions are found by
-- seen_active_at: no session was active last before that, and only the cleanup moves it on.
CREATE INDEX agent_sessions_seen_active_idx
	ON @extschema@.agent_sessions (seen_active_at) WHERE session_state = 'active';
COMMENT ON COLUMN @extschema@.agent_sessions.variant IS
	'of webhook_agent_variants; empty: the agent itself; null where the agent is none of webhook_agents';
COMMENT ON COLUMN @extschema@.agent_sessions.version IS
	'of webhook_agent_versions, which it began with; null where the agent is none of webhook_agents';
COMMENT ON COLUMN @extschema@.agent_sessions.seen_active_at IS
	'last_activity_at as the cleanup saw it last';
CREATE UNIQUE INDEX agent_sessions_active_key
	ON @extschema@.agent_sessions (conversation_id, agent_type) WHERE session_state = 'active';
CREATE INDEX agent_sessions_started_idx ON @extschema@.agent_sessions (started_at);
COMMENT ON TABLE @extschema@.agent_sessions IS
	'an agent''s sessions in a conversation, at most one of them active';

CREATE TABLE @extschema@.agent_turns (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	conversation_id uuid NOT NULL
		REFERENCES @extschema@.webhook_conversations (id) ON DELETE CASCADE,
	agent_type text NOT NULL,
	session_id uuid REFERENCES @extschema@.agent_sessions (id) ON DELETE SET NULL,
	whatsapp_message_ids text[] NOT NULL DEFAULT '{}',
	correlation_id uuid,
	variant text,
	version integer,
	model text,
	outcome text NOT NULL CHECK (outcome IN ('answered', 'failed')),
	answered_by text,
	calls integer NOT NULL DEFAULT 1 CHECK (calls >= 0),
	prompt_tokens integer CHECK (prompt_tokens >= 0),
	completion_tokens integer CHECK (completion_tokens >= 0),
	duration_ms integer CHECK (duration_ms >= 0),
	error text,
	created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX agent_turns_conversation_idx ON @extschema@.agent_turns (conversation_id, created_at);
CREATE INDEX agent_turns_session_idx ON @extschema@.agent_turns (session_id);
COMMENT ON TABLE @extschema@.agent_turns IS
	'each turn of an agent: which messages it answered, what it cost, and how it went';
COMMENT ON COLUMN @extschema@.agent_turns.answered_by IS
	'the agent that answered: the one asked, or its fallback agent';
COMMENT ON COLUMN @extschema@.agent_turns.calls IS 'how often an endpoint was called for it';

-- A reply from when it is there until the service's handler has it: what was paid for outlives a crash.
CREATE TABLE @extschema@.webhook_agent_replies (
	conversation_id uuid NOT NULL
		REFERENCES @extschema@.webhook_conversations (id) ON DELETE CASCADE,
	service text NOT NULL,
	agent_type text NOT NULL,
	lock_id uuid,
	whatsapp_message_ids text[] NOT NULL,
	reply text NOT NULL,
	details jsonb NOT NULL,
	calls integer NOT NULL,
	prompt_tokens integer NOT NULL,
	completion_tokens integer NOT NULL,
	started_at timestamptz NOT NULL,
	answered_at timestamptz NOT NULL DEFAULT now(),
	taken_until timestamptz,
	PRIMARY KEY (conversation_id, service)
);
CREATE INDEX webhook_agent_replies_waiting_idx
	ON @extschema@.webhook_agent_replies (service, answered_at) WHERE lock_id IS NOT NULL AND taken_until IS NULL;
CREATE INDEX webhook_agent_replies_taken_idx
	ON @extschema@.webhook_agent_replies (service, taken_until) WHERE lock_id IS NOT NULL;
CREATE INDEX webhook_agent_replies_answered_idx ON @extschema@.webhook_agent_replies (answered_at);
COMMENT ON TABLE @extschema@.webhook_agent_replies IS
	'what agents have answered and the reply handlers of their services have not taken yet';
COMMENT ON COLUMN @extschema@.webhook_agent_replies.lock_id IS
	'the lock under which the messages were claimed; null: it was lost, and whoever claims just these messages again takes the reply over';
COMMENT ON COLUMN @extschema@.webhook_agent_replies.whatsapp_message_ids IS 'the messages that it answers';
COMMENT ON COLUMN @extschema@.webhook_agent_replies.taken_until IS
	'a process runs the handler with it, until then at the latest; null: it waits';
COMMENT ON COLUMN @extschema@.webhook_agent_replies.details IS
	'who answered: agent, model, variant, version, finish_reason, and whether the tokens are an estimate';

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
