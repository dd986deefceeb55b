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
