-- From 0.1.0: what src/upgrade/assemble can't derive. Above the line of dashes what comes first.

-- Rows are locked as they are rewritten; better all at once than table by table into a deadlock.
LOCK TABLE @extschema@.webhook_conversations, @extschema@.webhook_identities, @extschema@.webhook_inbox, @extschema@.processed_webhook_messages,
	@extschema@.webhook_conversation_queue, @extschema@.webhook_delivery_attempts, @extschema@.webhook_services,
	@extschema@.webhook_agents, @extschema@.agent_contexts, @extschema@.agent_sessions,
	@extschema@.webhook_rate_limit_buckets;

-- The level of a role was a policy of its own on each table; the end of the script drops those. What takes
-- their place can't be granted here: a GRANT in a script is the extension's, and in no dump.
DO $$
DECLARE
	v_roles text := (SELECT string_agg(DISTINCT polroles[1]::regrole::text, ', ')
		FROM pg_policy JOIN pg_depend ON classid = 'pg_class'::regclass AND objid = polrelid AND deptype = 'e'
			JOIN pg_extension e ON refclassid = 'pg_extension'::regclass AND refobjid = e.oid AND extname = 'wahook'
		WHERE polname LIKE 'wahook\_service\_%');
BEGIN
	IF v_roles IS NOT NULL THEN
		RAISE WARNING 'levels have to be granted again'
			USING ERRCODE = '01000', DETAIL = format('These roles had the level service: %s.', v_roles),
				HINT = 'Call wahook_grant() for each, best in the transaction of the upgrade: without it they see no rows.';
	END IF;
END
$$;

-- A result with more columns, and a function whose name a view has now.
DROP FUNCTION @extschema@.webhook_privileges();
DROP FUNCTION @extschema@.webhook_jobs();

-- It is faster, but no reason to fail: a view of the user's on the table forbids it.
DO $$
BEGIN
	ALTER TABLE @extschema@.webhook_identities
		ALTER phone_number_id TYPE text COLLATE "C", ALTER identity TYPE text COLLATE "C";
EXCEPTION WHEN feature_not_supported THEN
	RAISE NOTICE 'the columns of webhook_identities keep their collation';
END
$$;
ALTER TABLE @extschema@.webhook_identities
	DROP CONSTRAINT webhook_identities_pkey, ADD PRIMARY KEY (identity, phone_number_id);
ALTER TABLE @extschema@.webhook_inbox
	DROP CONSTRAINT webhook_inbox_pkey, ADD PRIMARY KEY (conversation_id, service, seq);
ALTER SEQUENCE @extschema@.webhook_inbox_seq INCREMENT BY 1024;
DROP INDEX @extschema@.webhook_conversation_queue_due_idx;
ALTER TABLE @extschema@.webhook_conversation_queue
	ADD others uuid[],
	DROP CONSTRAINT webhook_conversation_queue_pkey, ADD PRIMARY KEY (service, due_at, seq);
-- That is the name of a view now, which shows what messages tell of their attempts as well.
ALTER TABLE @extschema@.webhook_delivery_attempts RENAME TO webhook_attempts;
ALTER SEQUENCE @extschema@.webhook_delivery_attempts_seq RENAME TO webhook_attempts_seq;
ALTER INDEX @extschema@.webhook_delivery_attempts_pkey RENAME TO webhook_attempts_pkey;
ALTER INDEX @extschema@.webhook_delivery_attempts_finished_idx RENAME TO webhook_attempts_finished_idx;
ALTER TABLE @extschema@.webhook_attempts ADD error_stack text, ADD lock_id uuid;
ALTER TABLE @extschema@.processed_webhook_messages ADD claimed_at timestamptz, ADD claim_token bigint, ADD claimed_by uuid;
ALTER TABLE @extschema@.webhook_services
	ADD url text,
	ADD allow_http boolean NOT NULL DEFAULT false,
	ADD agent_type text REFERENCES @extschema@.webhook_agents (agent_type)
		ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
	ADD reply_handler text,
	ADD kind text NOT NULL GENERATED ALWAYS AS (
		CASE WHEN handler IS NOT NULL THEN 'sql' WHEN url IS NOT NULL THEN 'http'
			WHEN agent_type IS NOT NULL THEN 'agent' ELSE 'pull' END) STORED,
	ADD enabled boolean NOT NULL DEFAULT true,
	ADD timeout interval CHECK (extract(epoch FROM timeout) BETWEEN 0.001 AND 3600),
	ADD concurrency integer NOT NULL DEFAULT 10 CHECK (concurrency BETWEEN 1 AND 1000),
	ADD debounce interval NOT NULL DEFAULT '0' CHECK (extract(epoch FROM debounce) BETWEEN 0 AND 3600),
	ADD debounce_max interval CHECK (extract(epoch FROM debounce_max) BETWEEN 0 AND 86400),
	ADD strict_order boolean NOT NULL DEFAULT false,
	ADD max_retries integer CHECK (max_retries BETWEEN 0 AND 1000),
	ADD retry_base_delay interval CHECK (extract(epoch FROM retry_base_delay) BETWEEN 0.001 AND 86400),
	ADD retry_max_delay interval CHECK (extract(epoch FROM retry_max_delay) BETWEEN 0.001 AND 2592000),
	ADD circuit_threshold integer NOT NULL DEFAULT 5 CHECK (circuit_threshold BETWEEN 1 AND 1000000),
	ADD circuit_timeout interval NOT NULL DEFAULT '60 seconds'
		CHECK (extract(epoch FROM circuit_timeout) BETWEEN 0.001 AND 86400),
	ADD rollout_percent integer NOT NULL DEFAULT 100 CHECK (rollout_percent BETWEEN 0 AND 100),
	ADD test_users text[] NOT NULL DEFAULT '{}',
	ADD description text;
ALTER TABLE @extschema@.webhook_services DROP CONSTRAINT webhook_services_check;
ALTER TABLE @extschema@.webhook_services ADD CHECK ((coalesce(handler, reply_handler) IS NULL) = (run_as IS NULL));
ALTER TABLE @extschema@.webhook_services ADD CHECK (num_nonnulls(handler, url, agent_type) <= 1);
ALTER TABLE @extschema@.webhook_services ADD CHECK (reply_handler IS NULL OR agent_type IS NOT NULL);
ALTER TABLE @extschema@.webhook_services ADD CHECK (debounce_max >= debounce);
ALTER TABLE @extschema@.webhook_rate_limit_buckets
	ADD action text NOT NULL DEFAULT 'delay' CHECK (action IN ('delay', 'drop')),
	ADD enabled boolean NOT NULL DEFAULT true;

ALTER TABLE @extschema@.webhook_agents RENAME max_tokens TO context_budget;
ALTER TABLE @extschema@.webhook_agents RENAME CONSTRAINT webhook_agents_max_tokens_check TO webhook_agents_context_budget_check;
ALTER TABLE @extschema@.webhook_agents
	ADD temperature double precision CHECK (temperature BETWEEN 0 AND 2),
	ADD max_output_tokens integer CHECK (max_output_tokens > 0),
	ADD max_context_messages integer NOT NULL DEFAULT 200 CHECK (max_context_messages > 0),
	ADD endpoint text,
	ADD allow_http boolean NOT NULL DEFAULT false,
	ADD api_key_from text,
	ADD fallback_agent text REFERENCES @extschema@.webhook_agents (agent_type)
		ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
	ADD timeout interval NOT NULL DEFAULT '60 seconds' CHECK (extract(epoch FROM timeout) BETWEEN 0.001 AND 3600),
	ADD circuit_threshold integer NOT NULL DEFAULT 5 CHECK (circuit_threshold BETWEEN 1 AND 1000000),
	ADD circuit_timeout interval NOT NULL DEFAULT '60 seconds'
		CHECK (extract(epoch FROM circuit_timeout) BETWEEN 0.001 AND 86400),
	ADD version integer NOT NULL DEFAULT 1,
	ADD description text,
	ADD budget text CHECK (budget <> '' AND length(budget) <= 200);
ALTER TABLE @extschema@.webhook_agents ADD CHECK (fallback_agent <> agent_type);
ALTER TABLE @extschema@.agent_sessions
	ADD variant text,
	ADD version integer,
	ADD prompt_tokens bigint NOT NULL DEFAULT 0 CHECK (prompt_tokens >= 0),
	ADD completion_tokens bigint NOT NULL DEFAULT 0 CHECK (completion_tokens >= 0),
	ADD last_activity_at timestamptz NOT NULL DEFAULT now(),
	ADD seen_active_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE @extschema@.agent_sessions SET (fillfactor = 70);
UPDATE @extschema@.agent_sessions SET last_activity_at = coalesce(ended_at, started_at), seen_active_at = started_at;

-- How often each is analyzed.
ALTER TABLE @extschema@.processed_webhook_messages SET (fillfactor = 45, autovacuum_analyze_threshold = 100000);
ALTER TABLE @extschema@.processed_webhook_messages
	ALTER id SET STATISTICS 30,
	ALTER whatsapp_message_id SET STATISTICS 30,
	ALTER correlation_id SET STATISTICS 0,
	ALTER conversation_id SET STATISTICS 30,
	ALTER received_at SET STATISTICS 30,
	ALTER kind SET STATISTICS 30,
	ALTER service SET STATISTICS 30,
	ALTER payload SET STATISTICS 0,
	ALTER processed_at SET STATISTICS 30,
	ALTER processing_time_ms SET STATISTICS 0,
	ALTER claimed_at SET STATISTICS 0,
	ALTER claim_token SET STATISTICS 0,
	ALTER claimed_by SET STATISTICS 0;
ALTER TABLE @extschema@.webhook_attempts SET (autovacuum_analyze_threshold = 100000);
ALTER TABLE @extschema@.webhook_conversations SET (autovacuum_analyze_threshold = 10000, autovacuum_analyze_scale_factor = 10);
ALTER TABLE @extschema@.webhook_inbox SET (autovacuum_analyze_threshold = 1000000, autovacuum_analyze_scale_factor = 10);
ALTER TABLE @extschema@.webhook_conversation_queue SET (autovacuum_analyze_threshold = 1000000, autovacuum_analyze_scale_factor = 10);

-- The trigger takes out the untouched row of the same name; what users have stays.
INSERT INTO @extschema@.webhook_services (name, enabled, from_extension, description) VALUES
	('default', true, true, 'messages that no route leads elsewhere'),
	('mobility', false, true, 'example: rides'),
	('jobs', false, true, 'example: job board'),
	('property', false, true, 'example: real estate'),
	('marketplace', false, true, 'example: buying and selling'),
	('wallet', false, true, 'example: balance and transfers'),
	('ai_agents', false, true, 'example: free text to an agent'),
	('fallback', false, true, 'example: the menu, and whatever nothing else is for')
	ON CONFLICT DO NOTHING;
INSERT INTO @extschema@.webhook_rate_limit_buckets VALUES
	('default', 60, 1, true, 'delay', true), ('intake', 60, 1, true, 'delay', false)
	ON CONFLICT DO NOTHING;

-------- What comes last.

-- Leases had rows in the queue; those are looked at once more, and go then.
INSERT INTO @extschema@.webhook_leases (expires_at, conversation_id, lock_id)
	SELECT coalesce(lock_expires_at, locked_at, now()), id, locked_by FROM @extschema@.webhook_conversations
	WHERE locked_by IS NOT NULL;

-- Whose system prompts and models were there before; those that come with the extension have theirs.
INSERT INTO @extschema@.webhook_agent_versions (agent_type, version, system_prompt, model)
	SELECT agent_type, version, system_prompt, model FROM @extschema@.webhook_agents WHERE NOT from_extension;

-- A service of the user's has the name of an example: no example leads messages to it.
UPDATE @extschema@.webhook_routes SET enabled = false
	WHERE from_extension AND service IN (SELECT name FROM @extschema@.webhook_services WHERE NOT from_extension AND name <> 'default');
-- The trigger sets size and count to those of the data.
UPDATE @extschema@.agent_contexts SET updated_at = updated_at;
SET CONSTRAINTS ALL IMMEDIATE;
