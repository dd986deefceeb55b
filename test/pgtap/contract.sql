-- The shape of what existing callers use, as CONTRACT.md lists it: columns, types, nulls, defaults,
-- constraints, views, signatures. What the calls do is in sql/contract.sql.
BEGIN;
SELECT no_plan();

-- Tables: "?" behind a type marks a nullable column. processed_at of processed_webhook_messages is
-- nullable since a row is there from acceptance on; a caller's own insert still fills it.
CREATE TEMP TABLE expected_columns AS
	SELECT relation, split_part(c, ' ', 1) AS name,
		rtrim(split_part(c, ' ', 2), '?') AS type, c LIKE '%?' AS nullable
	FROM (VALUES
		('webhook_conversations', 'id uuid, user_id text, whatsapp_phone text?, agent_type text?, status text, last_activity_at timestamptz, retry_count int4, error_count int4, locked_by uuid?, locked_at timestamptz?, conversation_context jsonb, created_at timestamptz, updated_at timestamptz'),
		('conversation_state_transitions', 'id uuid, conversation_id uuid?, from_state text?, to_state text, transition_reason text?, correlation_id uuid?, metadata jsonb, created_at timestamptz'),
		('processed_webhook_messages', 'id uuid, whatsapp_message_id text, correlation_id uuid, conversation_id uuid?, payload jsonb?, processed_at timestamptz?, processing_time_ms int4?'),
		('webhook_dlq', 'id uuid, payload jsonb, error text?, error_stack text?, correlation_id uuid?, whatsapp_message_id text?, retry_count int4, max_retries int4, next_retry_at timestamptz?, created_at timestamptz, processed_at timestamptz?, resolution_status text'),
		('agent_contexts', 'id uuid, conversation_id uuid, agent_type text, context_data jsonb, token_count int4, messages_count int4, created_at timestamptz, updated_at timestamptz'),
		('agent_sessions', 'id uuid, conversation_id uuid, agent_type text, session_state text, started_at timestamptz, ended_at timestamptz?, total_messages int4, total_tokens_used int4, error_count int4, metadata jsonb'),
		('wa_workflow_recovery', 'id uuid, conversation_id text, workflow_type text, recovery_action text, status text, details jsonb, created_at timestamptz, completed_at timestamptz?'),
		('user_sessions', 'id uuid, phone_number text, active_service text?, context jsonb, last_interaction timestamptz, created_at timestamptz, updated_at timestamptz')
	) t (relation, columns), unnest(string_to_array(columns, ', ')) c;

SELECT has_table(relation::name) FROM (SELECT DISTINCT relation FROM expected_columns) t ORDER BY 1;
SELECT is(format_type(a.atttypid, a.atttypmod),
		format_type(e.type::regtype, NULL), format('type of %s.%s', e.relation, e.name))
	FROM expected_columns e LEFT JOIN pg_attribute a
		ON a.attrelid = e.relation::regclass AND a.attname = e.name;
SELECT is(NOT a.attnotnull, e.nullable, format('nullability of %s.%s', e.relation, e.name))
	FROM expected_columns e LEFT JOIN pg_attribute a
		ON a.attrelid = e.relation::regclass AND a.attname = e.name;

-- A caller gives only what it knows: all else that is not null has a default.
SELECT col_has_default(relation::name, name::name)
	FROM expected_columns
	WHERE NOT nullable AND (relation, name) NOT IN (
		('webhook_conversations', 'user_id'), ('conversation_state_transitions', 'to_state'),
		('processed_webhook_messages', 'whatsapp_message_id'), ('webhook_dlq', 'payload'),
		('agent_contexts', 'conversation_id'), ('agent_contexts', 'agent_type'),
		('agent_sessions', 'conversation_id'), ('agent_sessions', 'agent_type'),
		('wa_workflow_recovery', 'conversation_id'), ('wa_workflow_recovery', 'workflow_type'),
		('wa_workflow_recovery', 'recovery_action'), ('user_sessions', 'phone_number'));
SELECT col_is_pk(relation::name, 'id'::name) FROM (SELECT DISTINCT relation FROM expected_columns) t;
SELECT col_default_is('webhook_conversations', 'status', 'active'::text, 'a conversation begins active');
SELECT col_default_is('webhook_dlq', 'max_retries', 3, 'a dead letter is retried 3 times');
SELECT col_default_is('webhook_dlq', 'resolution_status', 'pending'::text, 'a dead letter begins pending');
SELECT col_default_is('agent_sessions', 'session_state', 'active'::text, 'a session begins active');
SELECT col_default_is('wa_workflow_recovery', 'status', 'pending'::text, 'a recovery step begins pending');
SELECT col_has_default('processed_webhook_messages', 'processed_at');

SELECT col_is_unique('processed_webhook_messages', 'whatsapp_message_id');
SELECT col_is_unique('agent_contexts', ARRAY['conversation_id', 'agent_type']::name[]);
SELECT col_is_unique('user_sessions', 'phone_number');
SELECT is(
	(SELECT pg_get_expr(indpred, indrelid) FROM pg_index
		WHERE indrelid = 'agent_sessions'::regclass AND indisunique AND indpred IS NOT NULL),
	'(session_state = ''active''::text)', 'one active session a conversation and agent');

-- Each value that callers know is accepted, and no other.
SELECT is(
	(SELECT string_agg(m[1], ' ' ORDER BY m[1]) FROM pg_constraint,
		regexp_matches(pg_get_constraintdef(oid), '''([a-z_]+)''', 'g') m
		WHERE conrelid = t.relation::regclass AND contype = 'c'
			AND pg_get_constraintdef(oid) LIKE format('CHECK ((%s = ANY%%', t.name)),
	t.allowed, format('what %s.%s may be', t.relation, t.name))
	FROM (VALUES
		('webhook_conversations', 'status', 'active completed error pending processing timeout'),
		('webhook_dlq', 'resolution_status', 'failed pending resolved retrying'),
		('agent_sessions', 'session_state', 'active completed failed timeout'),
		('wa_workflow_recovery', 'status', 'completed failed in_progress pending')
	) t (relation, name, allowed);
SELECT is_empty($$
	SELECT conrelid::regclass FROM pg_constraint
	WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace
		AND conrelid IN ('webhook_conversations'::regclass, 'agent_contexts'::regclass, 'agent_sessions'::regclass, 'agent_turns'::regclass)
		AND pg_get_constraintdef(oid) ~ 'agent_type (=|~)|REFERENCES webhook_agents' $$,
	'no constraint limits agent types');
SELECT results_eq('SELECT agent_type FROM webhook_agents ORDER BY 1',
	$$ VALUES ('job_board'), ('marketplace'), ('mobility'), ('real_estate'), ('waiter'), ('wallet') $$,
	'the agent types that callers know are there');

-- Views.
CREATE TEMP TABLE expected_view_columns AS
	SELECT relation, split_part(c, ' ', 1) AS name, split_part(c, ' ', 2) AS type, place
	FROM (VALUES
		('wa_dead_letter_queue', 'id uuid, message_id text, from_number text, payload jsonb, error_message text, error_stack text, retry_count int4, max_retries int4, next_retry_at timestamptz, processed bool, processed_at timestamptz, created_at timestamptz, updated_at timestamptz'),
		('webhook_conversation_health', 'status text, count int8, avg_idle_seconds numeric, max_retries int4, total_errors int8, locked_count int8'),
		('stuck_webhook_conversations', 'id uuid, user_id text, whatsapp_phone text, agent_type text, status text, last_activity_at timestamptz, retry_count int4, error_count int4, locked_by uuid, locked_at timestamptz, idle_seconds numeric'),
		('webhook_agent_performance', 'agent_type text, unique_conversations int8, avg_messages_per_session numeric, avg_tokens_used numeric, total_errors int8, completed_sessions int8, failed_sessions int8, active_sessions int8, avg_duration_seconds numeric'),
		('webhook_message_processing_metrics', 'hour timestamptz, messages_processed int8, avg_processing_ms numeric, p95_processing_ms float8, p99_processing_ms float8, max_processing_ms int4, min_processing_ms int4'),
		('webhook_dlq_summary', 'resolution_status text, count int8, max_retries_reached int4, avg_retry_count numeric, oldest_message timestamptz, newest_message timestamptz'),
		('recent_webhook_state_transitions', 'id uuid, conversation_id uuid, user_id text, whatsapp_phone text, agent_type text, from_state text, to_state text, transition_reason text, correlation_id uuid, created_at timestamptz')
	) t (relation, columns), unnest(string_to_array(columns, ', ')) WITH ORDINALITY u (c, place);
SELECT has_view(relation::name) FROM (SELECT DISTINCT relation FROM expected_view_columns) t ORDER BY 1;
SELECT is(
	(SELECT string_agg(a.attname || ' ' || a.atttypid::regtype, ', ' ORDER BY a.attnum)
		FROM pg_attribute a WHERE a.attrelid = e.relation::regclass AND a.attnum > 0),
	string_agg(e.name || ' ' || e.type::regtype, ', ' ORDER BY e.place),
	format('columns of %s', e.relation))
	FROM expected_view_columns e GROUP BY e.relation;

-- Functions, by name of argument too: a REST layer calls them so.
SELECT is(format('(%s) -> %s', pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)),
		format('(%s) -> %s', e.arguments, e.result), format('signature of %s', e.name))
	FROM (VALUES
		('acquire_conversation_lock', 'p_conversation_id uuid, p_lock_id uuid', 'boolean'),
		('release_conversation_lock', 'p_conversation_id uuid, p_lock_id uuid', 'boolean'),
		('increment_session_metrics', 'p_conversation_id uuid, p_agent_type text', 'void'),
		('cleanup_stuck_webhook_conversations', '', 'integer'),
		('check_webhook_system_health', '', 'TABLE(alert_type text, severity text, message text, details jsonb)'),
		('get_webhook_performance_stats', 'lookback_hours integer DEFAULT 24', 'TABLE(metric_name text, value numeric, unit text)'),
		('check_rate_limit', 'p_identifier text, p_bucket text, p_tokens_requested integer DEFAULT 1', 'jsonb'),
		('process_dead_letter_queue', 'p_limit integer DEFAULT 50', 'jsonb'),
		('cleanup_stale_sessions', 'p_ttl interval DEFAULT NULL::interval', 'jsonb')
	) e (name, arguments, result)
	LEFT JOIN pg_proc p ON p.proname = e.name AND p.pronamespace = 'public'::regnamespace;

SELECT * FROM finish();
ROLLBACK;
