-- Who handles messages, and how a message finds its service. Configuration: read often, written rarely.

CREATE TABLE @extschema@.webhook_services (
	name text PRIMARY KEY CHECK (name <> '' AND length(name) <= 200),
	handler text,
	run_as name,
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	from_extension boolean NOT NULL DEFAULT false,
	url text,
	allow_http boolean NOT NULL DEFAULT false,
	agent_type text REFERENCES @extschema@.webhook_agents (agent_type)
		ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
	reply_handler text,
	kind text NOT NULL GENERATED ALWAYS AS (
		CASE WHEN handler IS NOT NULL THEN 'sql' WHEN url IS NOT NULL THEN 'http'
			WHEN agent_type IS NOT NULL THEN 'agent' ELSE 'pull' END) STORED,
	enabled boolean NOT NULL DEFAULT true,
	timeout interval CHECK (extract(epoch FROM timeout) BETWEEN 0.001 AND 3600),
	concurrency integer NOT NULL DEFAULT 10 CHECK (concurrency BETWEEN 1 AND 1000),
	debounce interval NOT NULL DEFAULT '0' CHECK (extract(epoch FROM debounce) BETWEEN 0 AND 3600),
	debounce_max interval CHECK (extract(epoch FROM debounce_max) BETWEEN 0 AND 86400),
	strict_order boolean NOT NULL DEFAULT false,
	max_retries integer CHECK (max_retries BETWEEN 0 AND 1000),
	retry_base_delay interval CHECK (extract(epoch FROM retry_base_delay) BETWEEN 0.001 AND 86400),
	retry_max_delay interval CHECK (extract(epoch FROM retry_max_delay) BETWEEN 0.001 AND 2592000),
	circuit_threshold integer NOT NULL DEFAULT 5 CHECK (circuit_threshold BETWEEN 1 AND 1000000),
	circuit_timeout interval NOT NULL DEFAULT '60 seconds'
		CHECK (extract(epoch FROM circuit_timeout) BETWEEN 0.001 AND 86400),
	rollout_percent integer NOT NULL DEFAULT 100 CHECK (rollout_percent BETWEEN 0 AND 100),
	test_users text[] NOT NULL DEFAULT '{}',
	description text,
	CHECK ((coalesce(handler, reply_handler) IS NULL) = (run_as IS NULL)),
	CHECK (num_nonnulls(handler, url, agent_type) <= 1),
	CHECK (reply_handler IS NULL OR agent_type IS NOT NULL),
	CHECK (debounce_max >= debounce)
);
COMMENT ON TABLE @extschema@.webhook_services IS 'who handles messages';
COMMENT ON COLUMN @extschema@.webhook_services.handler IS
	'a SQL function that takes one jsonb and raises an error to fail';
COMMENT ON COLUMN @extschema@.webhook_services.run_as IS
	'the role that set the handler, and as which it runs';
COMMENT ON COLUMN @extschema@.webhook_services.url IS 'the endpoint that messages are POSTed to';
COMMENT ON COLUMN @extschema@.webhook_services.kind IS
	'sql: its handler is run; http: its endpoint is called; agent: the worker asks a model; pull: clients claim its messages';
COMMENT ON COLUMN @extschema@.webhook_services.agent_type IS 'the agent that answers its messages';
COMMENT ON COLUMN @extschema@.webhook_services.reply_handler IS
	'a SQL function that takes one jsonb, the agent''s reply, and raises an error to fail';
COMMENT ON COLUMN @extschema@.webhook_services.enabled IS
	'false: nothing is routed to it, and what waits for it goes on waiting';
COMMENT ON COLUMN @extschema@.webhook_services.timeout IS
	'how long one delivery may take; null: wahook.processing_timeout';
COMMENT ON COLUMN @extschema@.webhook_services.concurrency IS
	'how many of its conversations the worker handles at once';
COMMENT ON COLUMN @extschema@.webhook_services.debounce IS
	'how long a conversation must have been quiet before its messages are handed over, all together';
COMMENT ON COLUMN @extschema@.webhook_services.debounce_max IS
	'the longest that the first of them waits for that; null: ten times debounce';
COMMENT ON COLUMN @extschema@.webhook_services.strict_order IS
	'a failed message holds back the later ones of its conversation until it is resolved or given up';
COMMENT ON COLUMN @extschema@.webhook_services.max_retries IS 'null: wahook.dlq_max_retries';
COMMENT ON COLUMN @extschema@.webhook_services.retry_base_delay IS 'null: wahook.dlq_base_delay';
COMMENT ON COLUMN @extschema@.webhook_services.retry_max_delay IS 'null: wahook.dlq_max_delay';
COMMENT ON COLUMN @extschema@.webhook_services.circuit_threshold IS
	'after how many failures in a row its circuit opens';
COMMENT ON COLUMN @extschema@.webhook_services.circuit_timeout IS
	'how long its circuit stays open before a delivery is tried again';
COMMENT ON COLUMN @extschema@.webhook_services.rollout_percent IS
	'the share of users that routes lead to it; the same users each time';
COMMENT ON COLUMN @extschema@.webhook_services.test_users IS
	'phone numbers and user ids that routes lead to it whatever rollout_percent says';

-- The six services of the first implementation, and what answers when none of them is meant.
INSERT INTO @extschema@.webhook_services (name, enabled, from_extension, description) VALUES
	('default', true, true, 'messages that no route leads elsewhere'),
	('mobility', false, true, 'example: rides'),
	('jobs', false, true, 'example: job board'),
	('property', false, true, 'example: real estate'),
	('marketplace', false, true, 'example: buying and selling'),
	('wallet', false, true, 'example: balance and transfers'),
	('ai_agents', false, true, 'example: free text to an agent'),
	('fallback', false, true, 'example: the menu, and whatever nothing else is for');
CREATE TRIGGER keep_changed_seed BEFORE INSERT OR UPDATE ON @extschema@.webhook_services
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_keep_changed_seed('name');

-- No CHECK: its error would show the row, secrets and all. A trigger checks instead.
CREATE TABLE @extschema@.webhook_service_secrets (
	service text PRIMARY KEY
		REFERENCES @extschema@.webhook_services (name) ON UPDATE CASCADE ON DELETE CASCADE,
	bearer_token text,
	signing_secret text,
	previous_signing_secret text,
	updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE @extschema@.webhook_service_secrets IS
	'what deliveries to endpoints are authorized and signed with; nobody but the owner reads it';
COMMENT ON COLUMN @extschema@.webhook_service_secrets.signing_secret IS
	'as in Standard Webhooks: whsec_ and the key in base64';
COMMENT ON COLUMN @extschema@.webhook_service_secrets.previous_signing_secret IS
	'signs as well, while the secret is being rotated';

-- Deferred, so that a service that replaces its untouched seed finds the routes still there.
CREATE TABLE @extschema@.webhook_routes (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	name text NOT NULL UNIQUE CHECK (name <> '' AND length(name) <= 200),
	priority integer NOT NULL DEFAULT 100,
	match text NOT NULL CHECK (match IN ('keyword', 'state', 'type', 'regex', 'all')),
	pattern text CHECK (pattern <> '' AND length(pattern) <= 2000),
	service text NOT NULL REFERENCES @extschema@.webhook_services (name)
		ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
	clears_state boolean NOT NULL DEFAULT false,
	enabled boolean NOT NULL DEFAULT true,
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	from_extension boolean NOT NULL DEFAULT false,
	description text,
	CHECK ((pattern IS NULL) = (match = 'all'))
);
COMMENT ON TABLE @extschema@.webhook_routes IS
	'how a message finds its service: the first route that matches, by priority';
COMMENT ON COLUMN @extschema@.webhook_routes.priority IS 'lower ones are tried first';
COMMENT ON COLUMN @extschema@.webhook_routes.match IS
	'what pattern is compared with: keyword: the whole text; state: user_sessions.active_service; type: the kind of the message; regex: its text; all: nothing';
COMMENT ON COLUMN @extschema@.webhook_routes.pattern IS
	'one or more, separated by commas, of what is compared; for regex, one regular expression';
COMMENT ON COLUMN @extschema@.webhook_routes.clears_state IS
	'a message that matches takes the user out of the service they are with';

-- With ids of their own, so that they are the same rows in every database.
INSERT INTO @extschema@.webhook_routes
		(id, name, priority, match, pattern, service, clears_state, from_extension)
	VALUES
	('00000000-0000-7000-8000-000000000001', 'menu', 10, 'keyword', 'menu, home', 'fallback', true, true),
	('00000000-0000-7000-8000-000000000002', 'mobility-keyword', 100, 'keyword', 'mobility, rides, ride, taxi', 'mobility', false, true),
	('00000000-0000-7000-8000-000000000003', 'jobs-keyword', 100, 'keyword', 'jobs, job', 'jobs', false, true),
	('00000000-0000-7000-8000-000000000004', 'property-keyword', 100, 'keyword', 'property, rent, real estate', 'property', false, true),
	('00000000-0000-7000-8000-000000000005', 'marketplace-keyword', 100, 'keyword', 'marketplace, market, buy, sell', 'marketplace', false, true),
	('00000000-0000-7000-8000-000000000006', 'wallet-keyword', 100, 'keyword', 'wallet, balance, pay', 'wallet', false, true),
	('00000000-0000-7000-8000-000000000007', 'ai_agents-keyword', 100, 'keyword', 'agent, assistant', 'ai_agents', false, true),
	('00000000-0000-7000-8000-000000000008', 'mobility-state', 200, 'state', 'mobility', 'mobility', false, true),
	('00000000-0000-7000-8000-000000000009', 'jobs-state', 200, 'state', 'jobs', 'jobs', false, true),
	('00000000-0000-7000-8000-000000000010', 'property-state', 200, 'state', 'property', 'property', false, true),
	('00000000-0000-7000-8000-000000000011', 'marketplace-state', 200, 'state', 'marketplace', 'marketplace', false, true),
	('00000000-0000-7000-8000-000000000012', 'wallet-state', 200, 'state', 'wallet', 'wallet', false, true),
	('00000000-0000-7000-8000-000000000013', 'ai_agents-state', 200, 'state', 'ai_agents', 'ai_agents', false, true),
	('00000000-0000-7000-8000-000000000014', 'fallback', 1000, 'all', NULL, 'fallback', false, true);
CREATE TRIGGER keep_changed_seed BEFORE INSERT OR UPDATE ON @extschema@.webhook_routes
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_keep_changed_seed('name');
-- A seed that was renamed is known by its id.
CREATE TRIGGER keep_renamed_seed BEFORE INSERT ON @extschema@.webhook_routes
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_keep_changed_seed('id');

CREATE TABLE @extschema@.webhook_feature_flags (
	flag text PRIMARY KEY CHECK (flag <> '' AND length(flag) <= 200),
	state text NOT NULL DEFAULT 'off' CHECK (state IN ('off', 'users', 'percentage', 'on')),
	percentage integer NOT NULL DEFAULT 0 CHECK (percentage BETWEEN 0 AND 100),
	test_users text[] NOT NULL DEFAULT '{}',
	description text,
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	from_extension boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE @extschema@.webhook_feature_flags IS 'what is on for whom';
COMMENT ON COLUMN @extschema@.webhook_feature_flags.state IS
	'off: for nobody; users: for test_users; percentage: for test_users and a share of all users; on: for everybody';
INSERT INTO @extschema@.webhook_feature_flags (flag, from_extension, description) VALUES
	('enhanced_processing', true, 'the enhanced message processing of the first implementation');
CREATE TRIGGER keep_changed_seed BEFORE INSERT OR UPDATE ON @extschema@.webhook_feature_flags
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_keep_changed_seed('flag');
