-- Conversations as callers make, record and clean them up.
\pset null -
-- One conversation for a user, by either name, however it is written.
SELECT get_or_create_conversation('cnv.1') AS c1 \gset
SELECT get_or_create_conversation('cnv.1') = :'c1' AS same, get_or_create_conversation('cnv.2') = :'c1' AS same_for_another;
SELECT get_or_create_conversation('cnv.1', '+371 (555) 0-01') = :'c1' AS joined, get_or_create_conversation(NULL, '3715550-01') = :'c1' AS by_number,
	get_or_create_conversation('371 555 001') = :'c1' AS number_as_user_id;
SELECT user_id, whatsapp_phone, agent_type, phone_number_id, status, conversation_context FROM webhook_conversations WHERE id = :'c1';
-- A business number has a conversation of its own, unless the user has one for any.
SELECT get_or_create_conversation('cnv.1', NULL, 'cnv') = :'c1' AS the_one_for_any;
SELECT get_or_create_conversation('cnv.3', NULL, 'cnv') AS c3 \gset
SELECT get_or_create_conversation('cnv.3', NULL, 'cnv') = :'c3' AS same, get_or_create_conversation('cnv.3', NULL, 'cnv_b') = :'c3' AS same_for_another_number;
SELECT phone_number_id, user_id, whatsapp_phone FROM webhook_conversations WHERE user_id = 'cnv.3' ORDER BY 1;
-- An agent type is given once.
SELECT get_or_create_conversation('cnv.3', NULL, 'cnv', 'waiter') = :'c3' AS same;
SELECT get_or_create_conversation('cnv.3', NULL, 'cnv', 'wallet') = :'c3' AS same;
SELECT agent_type FROM webhook_conversations WHERE id = :'c3';
SELECT get_or_create_conversation('cnv.4', '3715550004', NULL, 'of_their_own', gen_random_uuid()) IS NOT NULL AS created;
SELECT user_id, whatsapp_phone, agent_type FROM webhook_conversations WHERE user_id = 'cnv.4';
-- One that was inserted directly, before and after.
INSERT INTO webhook_conversations (user_id, whatsapp_phone) VALUES ('cnv.5', '+371 555 0005') RETURNING id AS c5 \gset
SELECT get_or_create_conversation('cnv.5') = :'c5' AS by_user_id, get_or_create_conversation(NULL, '3715550005') = :'c5' AS by_number;
INSERT INTO webhook_conversations (user_id) VALUES ('cnv.5');
SELECT get_or_create_conversation('cnv.5') = :'c5' AS still_the_first;
-- A message finds it.
SELECT conversation_id = :'c5' AS found FROM receive_webhook('{"entry": [{"changes": [{"field": "messages", "value": {"metadata": {"phone_number_id": "cnv"}, "messages": [{"from": "3715550005", "id": "cnv.m1"}]}}]}]}');
SELECT complete_webhook_messages(conversation_id, lock_id) FROM claim_conversations();
-- Arguments.
SELECT get_or_create_conversation(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT get_or_create_conversation('', '');
SELECT get_or_create_conversation(repeat('x', 257));
\echo :LAST_ERROR_SQLSTATE
SELECT get_or_create_conversation('cnv.6', repeat('1', 300));
SELECT get_or_create_conversation(repeat('x', 256)) IS NOT NULL AS created;
SELECT get_or_create_conversation('cnv.'' OR true; --') <> :'c1' AS another;

-- The idempotent insert.
SELECT record_processed_message('cnv.r1', :'c1', '00000000-0000-4000-8000-00000000c0de', 12, '{"a": 1}'), record_processed_message('cnv.r1', :'c1', NULL);
SELECT conversation_id = :'c1' AS conversation, correlation_id, processing_time_ms, payload, processed_at BETWEEN received_at AND now() AS processed
	FROM processed_webhook_messages WHERE whatsapp_message_id = 'cnv.r1';
SELECT record_processed_message('cnv.r2', NULL, NULL);
SELECT conversation_id, correlation_id IS NOT NULL AS has_correlation_id FROM processed_webhook_messages WHERE whatsapp_message_id = 'cnv.r2';
-- A message that was accepted is recorded already.
SELECT record_processed_message('cnv.m1', :'c5', NULL);
\set VERBOSITY sqlstate
SELECT record_processed_message(NULL, NULL, NULL);
SELECT record_processed_message('', NULL, NULL);
SELECT record_processed_message(repeat('x', 513), NULL, NULL);
SELECT record_processed_message('cnv.r3', NULL, NULL, -1);
\set VERBOSITY default

-- The cleanup gives back the locks whose leases are over, and times out what is stuck.
SELECT cleanup_stuck_webhook_conversations();
UPDATE webhook_conversations SET locked_by = '00000000-0000-4000-8000-00000000000a', locked_at = now() - interval '3 minutes' WHERE id = :'c1';
UPDATE webhook_conversations SET locked_by = '00000000-0000-4000-8000-00000000000b', locked_at = now() - interval '1 minute' WHERE id = :'c3';
SELECT cleanup_stuck_webhook_conversations();
SELECT user_id, right(locked_by::text, 1) AS holder, locked_at IS NULL AS free, lock_expires_at IS NULL AS no_lease, status
	FROM webhook_conversations WHERE id IN (:'c1', :'c3') ORDER BY 1;
SELECT acquire_conversation_lock(:'c1', '00000000-0000-4000-8000-00000000000c'), release_conversation_lock(:'c1', '00000000-0000-4000-8000-00000000000c');
-- Locked long ago and idle since: timed out as well.
UPDATE webhook_conversations SET locked_by = '00000000-0000-4000-8000-00000000000a', locked_at = now() - interval '10 minutes', last_activity_at = now() - interval '10 minutes' WHERE id = :'c1';
SELECT cleanup_stuck_webhook_conversations();
SELECT status, locked_by FROM webhook_conversations WHERE id = :'c1';
-- Pending or processing and idle for wahook.stuck_timeout; neither one that is locked nor one that is only active.
INSERT INTO webhook_conversations (user_id, status, last_activity_at)
	SELECT 'cnv.s.' || s || '.' || i, s, now() - make_interval(mins => i)
	FROM unnest(ARRAY['active', 'pending', 'processing', 'completed', 'error']) AS s CROSS JOIN unnest(ARRAY[4, 6]) AS i;
SELECT acquire_conversation_lock(id, '00000000-0000-4000-8000-00000000000d') FROM webhook_conversations WHERE user_id = 'cnv.s.processing.6';
UPDATE webhook_conversations SET last_activity_at = now() - interval '6 minutes' WHERE user_id = 'cnv.s.processing.6';
SELECT cleanup_stuck_webhook_conversations();
SELECT user_id, status FROM webhook_conversations WHERE user_id ~ '^cnv.s' ORDER BY 1;
SELECT release_conversation_lock(id, '00000000-0000-4000-8000-00000000000d') FROM webhook_conversations WHERE user_id = 'cnv.s.processing.6';
UPDATE webhook_conversations SET last_activity_at = now() - interval '6 minutes' WHERE user_id = 'cnv.s.processing.6';
SET wahook.stuck_timeout = '7min';
SELECT cleanup_stuck_webhook_conversations();
SELECT status FROM webhook_conversations WHERE user_id = 'cnv.s.processing.6';
RESET wahook.stuck_timeout;
SELECT cleanup_stuck_webhook_conversations();
-- Each is in the audit trail, with its reason.
SELECT c.user_id, t.from_state, t.to_state, t.transition_reason
	FROM conversation_state_transitions AS t JOIN webhook_conversations AS c ON c.id = t.conversation_id WHERE c.user_id ~ '^cnv' ORDER BY c.user_id, t.id;
-- A message opens it again.
SELECT outcome FROM receive_webhook('{"entry": [{"changes": [{"field": "messages", "value": {"messages": [{"from": "371555001", "id": "cnv.m2"}]}}]}]}');
SELECT conversation_id = :'c1' AS claimed, complete_webhook_messages(conversation_id, lock_id) FROM claim_conversations();
SELECT status FROM webhook_conversations WHERE id = :'c1';
UPDATE webhook_conversations SET locked_by = NULL, locked_at = NULL WHERE id = :'c3';
