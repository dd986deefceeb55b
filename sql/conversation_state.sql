-- The status of a conversation: what is allowed, what is refused, and the audit row of each change.
\pset null -
\set c '00000000-0000-4000-8000-00000000005a'
INSERT INTO webhook_conversations (id, user_id) VALUES (:'c', 'state-test');
CREATE TEMP VIEW trail AS
	SELECT from_state, to_state, transition_reason, correlation_id, metadata FROM conversation_state_transitions
	WHERE conversation_id = '00000000-0000-4000-8000-00000000005a' ORDER BY created_at, id;

SELECT transition_conversation(:'c', 'processing', 'message came', '00000000-0000-4000-8000-000000000001', '{"by": "test"}');
SELECT transition_conversation(:'c', 'completed', 'answered', NULL, NULL);
-- Again: it is that already.
SELECT transition_conversation(:'c', 'completed', 'answered');
SELECT transition_conversation(:'c', 'active', 'reopened');
SELECT * FROM trail;

-- A transition is refused for its state; the hint says what is allowed.
SELECT transition_conversation(:'c', 'completed', 'answered');
SELECT transition_conversation(:'c', 'error', 'broken');
\set VERBOSITY sqlstate
SELECT transition_conversation(:'c', 'timeout', 'late');
\set VERBOSITY default
SELECT transition_conversation(:'c', 'asleep', 'tired');
SELECT transition_conversation(:'c', 'Active', 'case matters');
SELECT transition_conversation('00000000-0000-4000-8000-000000000000', 'active', 'nobody');
SELECT transition_conversation(:'c', 'active', NULL);

-- Callers of the first generation set any status; that is recorded, not refused.
UPDATE webhook_conversations SET status = 'timeout', last_activity_at = now(), updated_at = now() WHERE id = :'c';
UPDATE webhook_conversations SET status = 'timeout', agent_type = 'waiter' WHERE id = :'c';
SELECT * FROM trail OFFSET 4;
-- An error in between leaves no reason behind for the next update.
SELECT transition_conversation(:'c', 'processing', 'bad', NULL, jsonb_build_object('n', 1));
BEGIN;
SAVEPOINT before;
SELECT transition_conversation(:'c', 'timeout', 'to be undone');
ROLLBACK TO before;
UPDATE webhook_conversations SET status = 'error' WHERE id = :'c';
COMMIT;
SELECT * FROM trail OFFSET 5;
-- From every state, as far as it goes.
UPDATE webhook_conversations SET status = 'active' WHERE id = :'c';
SELECT transition_conversation(:'c', s, 'tour') AS former, s AS now
	FROM unnest(ARRAY['pending', 'active', 'error', 'processing', 'timeout', 'completed', 'active']) AS s;
DELETE FROM webhook_conversations WHERE id = :'c';
