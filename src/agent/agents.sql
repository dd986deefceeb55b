-- Agents: what each is told, which model answers, where, and how much it remembers. Configuration.
--
-- version: of what an agent is told (prompt, model and their parameters); it grows with each change,
-- and webhook_agent_versions keeps them all. variant: another wording of an agent, for a share of users.

CREATE TABLE @extschema@.webhook_agents (
	agent_type text PRIMARY KEY CHECK (agent_type <> ''),
	system_prompt text,
	model text,
	context_budget integer NOT NULL DEFAULT 4000 CHECK (context_budget > 0),
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	from_extension boolean NOT NULL DEFAULT false,
	temperature double precision CHECK (temperature BETWEEN 0 AND 2),
	max_output_tokens integer CHECK (max_output_tokens > 0),
	max_context_messages integer NOT NULL DEFAULT 200 CHECK (max_context_messages > 0),
	endpoint text,
	allow_http boolean NOT NULL DEFAULT false,
	api_key_from text,
	fallback_agent text REFERENCES @extschema@.webhook_agents (agent_type)
		ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
	timeout interval NOT NULL DEFAULT '60 seconds' CHECK (extract(epoch FROM timeout) BETWEEN 0.001 AND 3600),
	circuit_threshold integer NOT NULL DEFAULT 5 CHECK (circuit_threshold BETWEEN 1 AND 1000000),
	circuit_timeout interval NOT NULL DEFAULT '60 seconds'
		CHECK (extract(epoch FROM circuit_timeout) BETWEEN 0.001 AND 86400),
	version integer NOT NULL DEFAULT 1,
	description text,
	budget text CHECK (budget <> '' AND length(budget) <= 200),
	CHECK (fallback_agent <> agent_type)
);
INSERT INTO @extschema@.webhook_agents (agent_type, from_extension)
	SELECT agent_type, true
	FROM unnest('{waiter,real_estate,job_board,mobility,marketplace,wallet}'::text[]) agent_type;
CREATE TRIGGER keep_changed_seed BEFORE INSERT OR UPDATE ON @extschema@.webhook_agents
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_keep_changed_seed('agent_type');
COMMENT ON TABLE @extschema@.webhook_agents IS 'the agent types; add your own as rows';
COMMENT ON COLUMN @extschema@.webhook_agents.context_budget IS
	'how many tokens the system prompt and what is remembered may take in a request';
COMMENT ON COLUMN @extschema@.webhook_agents.max_context_messages IS
	'how many messages at most are remembered of a conversation, and sent';
COMMENT ON COLUMN @extschema@.webhook_agents.endpoint IS
	'the URL of its chat completions, for example https://api.example.com/v1/chat/completions';
COMMENT ON COLUMN @extschema@.webhook_agents.api_key_from IS
	'where its key is found: secret: set_webhook_agent_key(); env:WAHOOK_...: a variable of the server''s environment; null: it needs none';
COMMENT ON COLUMN @extschema@.webhook_agents.fallback_agent IS
	'who answers when its endpoint does not';
COMMENT ON COLUMN @extschema@.webhook_agents.timeout IS 'how long one call of its endpoint may take';
COMMENT ON COLUMN @extschema@.webhook_agents.budget IS
	'whose daily tokens it spends: those of the buckets agent:NAME and agent-user:NAME; null: its own, by its agent_type';
COMMENT ON COLUMN @extschema@.webhook_agents.version IS
	'of its prompt, model and parameters; see webhook_agent_versions';

CREATE TABLE @extschema@.webhook_agent_secrets (
	agent_type text PRIMARY KEY
		REFERENCES @extschema@.webhook_agents (agent_type) ON UPDATE CASCADE ON DELETE CASCADE,
	api_key text,
	updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE @extschema@.webhook_agent_secrets IS
	'the keys of agents'' endpoints; nobody but the owner reads it';

CREATE TABLE @extschema@.webhook_agent_variants (
	agent_type text NOT NULL REFERENCES @extschema@.webhook_agents (agent_type)
		ON UPDATE CASCADE ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
	variant text NOT NULL CHECK (variant <> '' AND length(variant) <= 200),
	weight integer NOT NULL DEFAULT 1 CHECK (weight BETWEEN 0 AND 1000000),
	system_prompt text,
	model text,
	temperature double precision CHECK (temperature BETWEEN 0 AND 2),
	max_output_tokens integer CHECK (max_output_tokens > 0),
	version integer NOT NULL DEFAULT 1,
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (agent_type, variant)
);
COMMENT ON TABLE @extschema@.webhook_agent_variants IS
	'experiments: other wordings of an agent, each for its share of users; what is null is as the agent has it';

CREATE TABLE @extschema@.webhook_agent_versions (
	agent_type text NOT NULL,
	variant text NOT NULL DEFAULT '',
	version integer NOT NULL,
	system_prompt text,
	model text,
	temperature double precision,
	max_output_tokens integer,
	created_at timestamptz NOT NULL DEFAULT now(),
	replaced_at timestamptz,
	from_extension boolean NOT NULL DEFAULT false,
	PRIMARY KEY (agent_type, variant, version)
);
INSERT INTO @extschema@.webhook_agent_versions (agent_type, version, from_extension)
	SELECT agent_type, version, true FROM @extschema@.webhook_agents WHERE from_extension;
CREATE TRIGGER keep_changed_seed BEFORE INSERT OR UPDATE ON @extschema@.webhook_agent_versions
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_keep_changed_seed('agent_type');
CREATE UNIQUE INDEX webhook_agent_versions_current_key
	ON @extschema@.webhook_agent_versions (agent_type, variant) WHERE replaced_at IS NULL;
CREATE INDEX webhook_agent_versions_replaced_idx
	ON @extschema@.webhook_agent_versions (replaced_at) WHERE replaced_at IS NOT NULL;
COMMENT ON TABLE @extschema@.webhook_agent_versions IS
	'what each agent was told, version by version; of a variant: together with what it has of its agent';
COMMENT ON COLUMN @extschema@.webhook_agent_versions.variant IS 'empty: the agent itself';
COMMENT ON COLUMN @extschema@.webhook_agent_versions.replaced_at IS 'null: it is the one in use';
