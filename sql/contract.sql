-- Each statement of CONTRACT.md, "What callers do", as its callers write it.
BEGIN;
SET LOCAL TimeZone = 'UTC';

-- 1. Was this delivery seen before?
SELECT id FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.contract-1';

-- 3. The newest active conversation of a user, else a new one.
SELECT id FROM webhook_conversations
	WHERE user_id = 'contract-user' AND status = 'active'
	ORDER BY created_at DESC LIMIT 1;
INSERT INTO webhook_conversations (user_id, whatsapp_phone, agent_type, status)
	VALUES ('contract-user', '+250788000001', 'job_board', 'active')
	RETURNING id AS conversation_id \gset
SELECT id = :'conversation_id' AS found FROM webhook_conversations
	WHERE user_id = 'contract-user' AND status = 'active'
	ORDER BY created_at DESC LIMIT 1;
SELECT status, retry_count, error_count, locked_by, locked_at, conversation_context,
	last_activity_at = now() AS active_now, created_at = now() AS created_now, updated_at = now() AS updated_now
	FROM webhook_conversations WHERE id = :'conversation_id';

-- The lock round it all.
SELECT acquire_conversation_lock(p_conversation_id => :'conversation_id', p_lock_id => '00000000-0000-4000-8000-000000000001');
SELECT acquire_conversation_lock(:'conversation_id', '00000000-0000-4000-8000-000000000002');

-- 2. What happened, in four tables.
INSERT INTO processed_webhook_messages (whatsapp_message_id, conversation_id, correlation_id, payload, processing_time_ms)
	VALUES ('wamid.contract-1', :'conversation_id', '11111111-1111-4111-8111-111111111111', '{"text": "hi"}', 42);
SELECT id IS NOT NULL AS seen, processed_at = now() AS processed_now
	FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.contract-1';
INSERT INTO conversation_state_transitions (conversation_id, from_state, to_state, transition_reason, correlation_id, metadata)
	VALUES (:'conversation_id', 'active', 'processing', 'contract', '11111111-1111-4111-8111-111111111111', '{"by": "hand"}');
INSERT INTO webhook_dlq (payload, error, error_stack, correlation_id, whatsapp_message_id, retry_count, next_retry_at, resolution_status)
	VALUES ('{"from": "250788000001"}', 'boom', 'at handler', '11111111-1111-4111-8111-111111111111',
		'wamid.contract-2', 0, now() + interval '1 minute', 'pending');
INSERT INTO webhook_dlq (payload, error, whatsapp_message_id, retry_count, resolution_status)
	VALUES ('{"from": "250788000002"}', 'boom again', 'wamid.contract-3', 3, 'failed');
SELECT whatsapp_message_id, error, retry_count, max_retries, next_retry_at - now() AS due_in, resolution_status, processed_at
	FROM webhook_dlq WHERE whatsapp_message_id LIKE 'wamid.contract-%' ORDER BY 1;

-- 4. The status of a conversation.
UPDATE webhook_conversations SET status = 'processing', last_activity_at = now(), updated_at = now()
	WHERE id = :'conversation_id';
UPDATE webhook_conversations SET status = 'active', last_activity_at = now(), updated_at = now()
	WHERE id = :'conversation_id' RETURNING status;
SELECT release_conversation_lock(:'conversation_id', '00000000-0000-4000-8000-000000000002');
SELECT release_conversation_lock(p_conversation_id => :'conversation_id', p_lock_id => '00000000-0000-4000-8000-000000000001');

-- 5. What an agent remembers.
INSERT INTO agent_contexts (conversation_id, agent_type, context_data, token_count, messages_count)
	VALUES (:'conversation_id', 'job_board', '{"messages": [1]}', 10, 1)
	ON CONFLICT (conversation_id, agent_type) DO UPDATE
	SET context_data = excluded.context_data, token_count = excluded.token_count,
		messages_count = excluded.messages_count, updated_at = now();
INSERT INTO agent_contexts (conversation_id, agent_type, context_data, token_count, messages_count)
	VALUES (:'conversation_id', 'job_board', '{"messages": [1, 2]}', 20, 2)
	ON CONFLICT (conversation_id, agent_type) DO UPDATE
	SET context_data = excluded.context_data, token_count = excluded.token_count,
		messages_count = excluded.messages_count, updated_at = now();
-- An agent of the user's own.
INSERT INTO agent_contexts (conversation_id, agent_type) VALUES (:'conversation_id', 'my_agent');
SELECT agent_type, context_data, token_count, messages_count
	FROM agent_contexts WHERE conversation_id = :'conversation_id' ORDER BY 1;

-- 6. The dead letter queue by its other name: one entry a message, added under either.
INSERT INTO wa_dead_letter_queue (message_id, from_number, payload, error_message, error_stack, retry_count, next_retry_at)
	VALUES ('wamid.contract-2', '250788000001', '{"from": "250788000001"}', 'boom 2', 'at router', 1, now())
	ON CONFLICT (message_id) DO UPDATE
	SET error_message = excluded.error_message, error_stack = excluded.error_stack,
		retry_count = excluded.retry_count, next_retry_at = excluded.next_retry_at, updated_at = now();
INSERT INTO wa_dead_letter_queue (message_id, from_number, payload, error_message, next_retry_at, processed)
	VALUES ('wamid.contract-4', '250788000004', '{"from": "250788000004"}', 'first', now() - interval '1 second', false)
	ON CONFLICT (message_id) DO UPDATE SET error_message = excluded.error_message;
SELECT message_id, from_number, error_message, retry_count, processed
	FROM wa_dead_letter_queue
	WHERE processed = false AND retry_count < 3 AND next_retry_at <= now()
	ORDER BY next_retry_at;
SELECT whatsapp_message_id, error, retry_count, resolution_status
	FROM webhook_dlq WHERE whatsapp_message_id LIKE 'wamid.contract-%' ORDER BY 1;
UPDATE wa_dead_letter_queue SET retry_count = 2, next_retry_at = now() + interval '4 minutes', error_message = 'third'
	WHERE message_id = 'wamid.contract-2'
	RETURNING id AS dead_letter_id \gset
UPDATE wa_dead_letter_queue SET processed = true, processed_at = now() - interval '8 days', updated_at = now()
	WHERE id = :'dead_letter_id';
SELECT error, retry_count, resolution_status, processed_at = now() - interval '8 days' AS kept
	FROM webhook_dlq WHERE id = :'dead_letter_id';
DELETE FROM wa_dead_letter_queue WHERE processed = true AND processed_at < now() - interval '7 days'
	RETURNING message_id;

-- 7. Sessions that nobody is in.
INSERT INTO user_sessions (phone_number, active_service, context, last_interaction)
	VALUES ('250788000001', 'wa-webhook-jobs', '{}', now() - interval '25 hours'), ('250788000002', NULL, '{}', now());
DELETE FROM user_sessions WHERE last_interaction < now() - interval '24 hours' RETURNING phone_number;

-- 8. The runbook.
UPDATE webhook_dlq SET next_retry_at = now() WHERE resolution_status = 'pending';
UPDATE webhook_dlq SET next_retry_at = now(), resolution_status = 'pending'
	WHERE resolution_status = 'failed' AND whatsapp_message_id = 'wamid.contract-3';
SELECT whatsapp_message_id, next_retry_at = now() AS due, resolution_status
	FROM webhook_dlq WHERE whatsapp_message_id LIKE 'wamid.contract-%' ORDER BY 1;

-- Steps of a workflow.
INSERT INTO wa_workflow_recovery (conversation_id, workflow_type, recovery_action, details)
	VALUES ('contract', 'payment', 'resume', '{"step": 2}');
UPDATE wa_workflow_recovery SET status = 'completed', completed_at = now()
	WHERE conversation_id = 'contract' RETURNING status;

-- The functions, as rpc calls name their arguments.
SELECT increment_session_metrics(p_conversation_id => :'conversation_id', p_agent_type => 'job_board');
SELECT increment_session_metrics(p_conversation_id => :'conversation_id', p_agent_type => 'job_board');
SELECT agent_type, session_state, total_messages FROM agent_sessions WHERE conversation_id = :'conversation_id';
SELECT pg_typeof(cleanup_stuck_webhook_conversations());
SELECT metric_name, unit FROM get_webhook_performance_stats(lookback_hours => 24);
SELECT count(*) >= 0 AS answered FROM check_webhook_system_health();
SELECT check_rate_limit(p_identifier => '250788000001', p_bucket => 'contract') - 'tokens_remaining';
SELECT cleanup_stale_sessions() ?& '{success,sessions,dlq,durationMs}' AS answered;
SELECT process_dead_letter_queue(50) ?& '{success,processed,successful,failed,abandoned,durationMs}' AS answered;
ROLLBACK;
