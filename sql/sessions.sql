-- Agent sessions: counting, and the one that is active.
\set SHOW_CONTEXT never
BEGIN;
\set conversation_id '00000000-0000-4000-8000-00000000a001'
INSERT INTO webhook_conversations (id, user_id) VALUES (:'conversation_id', 'sessions');

SELECT increment_session_metrics(:'conversation_id', 'waiter');
SELECT increment_session_metrics(:'conversation_id', 'waiter');
SELECT increment_session_metrics(:'conversation_id', 'an agent of my own');
SELECT agent_type, session_state, total_messages, total_tokens_used, ended_at, started_at = now() AS started_now
	FROM agent_sessions WHERE conversation_id = :'conversation_id' ORDER BY 1;

-- Where it has ended, a new one begins.
UPDATE agent_sessions SET session_state = 'completed', ended_at = now()
	WHERE conversation_id = :'conversation_id' AND agent_type = 'waiter';
SELECT increment_session_metrics(:'conversation_id', 'waiter');
SELECT session_state, total_messages FROM agent_sessions
	WHERE conversation_id = :'conversation_id' AND agent_type = 'waiter' ORDER BY 1;

-- One active session. Row security keeps the key from whoever is not the owner.
\set VERBOSITY terse
SAVEPOINT one_active;
INSERT INTO agent_sessions (conversation_id, agent_type) VALUES (:'conversation_id', 'waiter');
ROLLBACK TO one_active;
\set VERBOSITY default

-- One that is idle for as long as the setting says ends at that time, whoever finds out: a job...
UPDATE agent_sessions SET last_activity_at = now() - interval '25 hours', seen_active_at = now() - interval '26 hours'
	WHERE conversation_id = :'conversation_id' AND session_state = 'active' AND agent_type <> 'waiter';
UPDATE agent_sessions SET seen_active_at = now() - interval '26 hours'
	WHERE conversation_id = :'conversation_id' AND session_state = 'active' AND agent_type = 'waiter';
SELECT cleanup_stale_sessions() ->> 'success' AS success;
SELECT agent_type, session_state, ended_at = now() - interval '1 hour' AS ended_then, seen_active_at = last_activity_at AS seen
	FROM agent_sessions WHERE conversation_id = :'conversation_id' ORDER BY 1, 2;
-- ... or the next message, which begins a new one.
SAVEPOINT idle;
SET LOCAL wahook.agent_session_timeout = '10 min';
UPDATE agent_sessions SET last_activity_at = now() - interval '11 minutes'
	WHERE conversation_id = :'conversation_id' AND session_state = 'active';
SELECT increment_session_metrics(:'conversation_id', 'waiter');
SELECT session_state, total_messages, ended_at = now() - interval '1 minute' AS ended_then
	FROM agent_sessions WHERE conversation_id = :'conversation_id' AND agent_type = 'waiter' ORDER BY 1;
ROLLBACK TO idle;

-- Those who write sessions themselves need not know the newer columns.
UPDATE agent_sessions SET last_activity_at = now() - interval '1 hour' WHERE conversation_id = :'conversation_id' AND session_state = 'active';
UPDATE agent_sessions SET total_messages = total_messages + 1, total_tokens_used = 10 WHERE conversation_id = :'conversation_id' AND session_state = 'active';
SELECT last_activity_at >= now() AS active_now FROM agent_sessions WHERE conversation_id = :'conversation_id' AND session_state = 'active';
UPDATE agent_sessions SET session_state = 'failed' WHERE conversation_id = :'conversation_id' AND session_state = 'active';
SELECT ended_at >= now() AS ended_now FROM agent_sessions WHERE conversation_id = :'conversation_id' AND session_state = 'failed';
UPDATE agent_sessions SET session_state = 'active' WHERE conversation_id = :'conversation_id' AND session_state = 'failed';
SELECT ended_at FROM agent_sessions WHERE conversation_id = :'conversation_id' AND session_state = 'active';

INSERT INTO agent_sessions (conversation_id, agent_type, session_state) VALUES (:'conversation_id', 'mobility', 'completed') RETURNING ended_at >= now() AS ended_now;

-- By a call, or with the conversation.
SELECT end_agent_session(:'conversation_id', 'waiter', 'failed') AS ended, end_agent_session(:'conversation_id', 'waiter') AS again;
SELECT increment_session_metrics(:'conversation_id', 'waiter'), increment_session_metrics(:'conversation_id', 'wallet');
SELECT transition_conversation(:'conversation_id', 'processing', 'test'), transition_conversation(:'conversation_id', 'error', 'test');
SELECT count(*) AS active FROM agent_sessions WHERE conversation_id = :'conversation_id' AND session_state = 'active';
SELECT transition_conversation(:'conversation_id', 'active', 'test'), transition_conversation(:'conversation_id', 'completed', 'test');
SELECT agent_type, session_state, ended_at >= now() AS ended_now, version FROM agent_sessions WHERE conversation_id = :'conversation_id' ORDER BY 1, 2;

-- They go with their conversation.
DELETE FROM webhook_conversations WHERE id = :'conversation_id';
SELECT count(*) FROM agent_sessions WHERE conversation_id = :'conversation_id';
ROLLBACK;

-- Errors.
SELECT increment_session_metrics('00000000-0000-4000-8000-000000000009', 'waiter');
\echo :LAST_ERROR_SQLSTATE
SELECT increment_session_metrics(NULL, 'waiter');
\echo :LAST_ERROR_SQLSTATE
SELECT increment_session_metrics('00000000-0000-4000-8000-000000000009', '');
\echo :LAST_ERROR_SQLSTATE
SELECT end_agent_session('00000000-0000-4000-8000-000000000009', 'waiter'), end_agent_session(NULL, 'waiter'), end_agent_session('00000000-0000-4000-8000-000000000009', NULL);
SELECT end_agent_session('00000000-0000-4000-8000-000000000009', 'waiter', 'active');
SELECT end_agent_session('00000000-0000-4000-8000-000000000009', 'waiter', NULL);

-- User sessions and done dead letters, in the daily job.
BEGIN;
DELETE FROM user_sessions;
DELETE FROM webhook_dlq;
INSERT INTO user_sessions (phone_number, last_interaction)
	VALUES ('1', now() - interval '25 hours'), ('2', now() - interval '23 hours'), ('3', now() - interval '49 hours');
INSERT INTO wa_dead_letter_queue (message_id, from_number, payload, processed, processed_at)
	VALUES ('wamid.sessions-1', '1', '{}', true, now() - interval '8 days'),
		('wamid.sessions-2', '1', '{}', true, now() - interval '6 days');
INSERT INTO webhook_dlq (payload, whatsapp_message_id, next_retry_at, created_at)
	VALUES ('{}', 'wamid.sessions-3', now() + interval '1 day', now() - interval '100 days');
SELECT answer - 'durationMs' #- '{sessions,cutoffTime}' AS answer,
		jsonb_typeof(answer -> 'durationMs') AS duration_is,
		answer #>> '{sessions,cutoffTime}' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$' AS iso,
		now() - (answer #>> '{sessions,cutoffTime}')::timestamptz < interval '48 h 1 ms' AS cutoff
	FROM cleanup_stale_sessions('48 h') answer;
SET LOCAL wahook.retention_batch_size = 1;
SELECT cleanup_stale_sessions() - 'durationMs' #- '{sessions,cutoffTime}' AS answer;
SELECT phone_number FROM user_sessions;
SELECT whatsapp_message_id FROM webhook_dlq ORDER BY 1;
SET LOCAL wahook.session_ttl = '90 min';
SET LOCAL wahook.dlq_resolved_retention = '12 h';
SELECT cleanup_stale_sessions() - 'durationMs' #- '{sessions,cutoffTime}' AS answer;
ROLLBACK;
SELECT cleanup_stale_sessions('0');
SELECT cleanup_stale_sessions('-1 s');
SELECT cleanup_stale_sessions('100000 years');
