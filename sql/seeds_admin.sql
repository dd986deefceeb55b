-- What only the owner may do of the SQL in the documents the project began from.

-- The tables that core infrastructure shows come with the extension, with every column it lists.
-- Its CREATE TABLE statements stand here for their shape, in a schema of their own.
CREATE SCHEMA seeds;
SET search_path = seeds, public;
CREATE TABLE wa_dead_letter_queue (
  id UUID PRIMARY KEY,
  message_id TEXT,
  from_number TEXT NOT NULL,
  payload JSONB NOT NULL,
  error_message TEXT,
  error_stack TEXT,
  retry_count INTEGER DEFAULT 0,
  next_retry_at TIMESTAMPTZ,
  processed BOOLEAN DEFAULT FALSE,
  processed_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ DEFAULT now(),
  updated_at TIMESTAMPTZ DEFAULT now()
);
CREATE TABLE user_sessions (
  id UUID PRIMARY KEY,
  phone_number TEXT UNIQUE NOT NULL,
  active_service TEXT,
  context JSONB,
  last_interaction TIMESTAMPTZ DEFAULT now(),
  created_at TIMESTAMPTZ DEFAULT now(),
  updated_at TIMESTAMPTZ DEFAULT now()
);
RESET search_path;
SELECT s.attrelid::regclass::text AS "table", s.attname AS missing_or_different
	FROM pg_attribute s LEFT JOIN pg_attribute w
		ON w.attrelid = format('public.%I', (SELECT relname FROM pg_class WHERE oid = s.attrelid))::regclass
		AND w.attname = s.attname AND w.atttypid = s.atttypid
	WHERE s.attrelid IN ('seeds.wa_dead_letter_queue'::regclass, 'seeds.user_sessions'::regclass)
		AND s.attnum > 0 AND w.attname IS NULL;
SET client_min_messages = warning;
DROP SCHEMA seeds CASCADE;

-- The rollback of the implementation guide. The tables are the extension's, so PostgreSQL drops none
-- of them alone: the rollback is DROP EXTENSION, and what the guide drops is gone then.
\set VERBOSITY terse
DROP TABLE IF EXISTS conversation_state_transitions CASCADE;
BEGIN;
DROP EXTENSION wahook CASCADE;
DROP TABLE IF EXISTS conversation_state_transitions CASCADE;
DROP TABLE IF EXISTS agent_sessions CASCADE;
DROP TABLE IF EXISTS agent_contexts CASCADE;
DROP TABLE IF EXISTS processed_webhook_messages CASCADE;
DROP TABLE IF EXISTS webhook_dlq CASCADE;
DROP TABLE IF EXISTS webhook_conversations CASCADE;
DROP VIEW IF EXISTS webhook_conversation_health;
DROP VIEW IF EXISTS stuck_webhook_conversations;
DROP VIEW IF EXISTS webhook_agent_performance;
DROP VIEW IF EXISTS webhook_message_processing_metrics;
DROP VIEW IF EXISTS webhook_dlq_summary;
ROLLBACK;
