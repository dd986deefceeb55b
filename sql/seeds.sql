-- The SQL of the documents the project began from, as it stands there: the implementation guide
-- first, then core infrastructure. Left out are pg_cron's own tables and what only the owner may do
-- (seeds_admin.sql).
BEGIN;
-- What other tests left would show.
DELETE FROM webhook_conversations;
DELETE FROM webhook_dlq;
DELETE FROM processed_webhook_messages;
DELETE FROM user_sessions;

-- The implementation guide: check system health, view processing metrics, check for stuck
-- conversations, view the state of the dead letter queue.
SELECT * FROM webhook_conversation_health;
SELECT * FROM check_webhook_system_health();
SELECT * FROM get_webhook_performance_stats(24);
SELECT * FROM stuck_webhook_conversations;
SELECT * FROM webhook_dlq_summary;
-- Manual cleanup.
SELECT cleanup_stuck_webhook_conversations();
-- Key metrics.
SELECT * FROM webhook_conversation_health;
SELECT COUNT(*) FROM stuck_webhook_conversations;
SELECT COUNT(*) FROM webhook_dlq WHERE resolution_status = 'pending';
SELECT avg_processing_ms, p95_processing_ms, p99_processing_ms
FROM webhook_message_processing_metrics
ORDER BY hour DESC
LIMIT 1;
-- Troubleshooting.
SELECT * FROM processed_webhook_messages 
WHERE whatsapp_message_id = 'YOUR_MESSAGE_ID';
SELECT * FROM webhook_dlq 
WHERE whatsapp_message_id = 'YOUR_MESSAGE_ID';
SELECT * FROM webhook_conversations 
WHERE locked_at < NOW() - INTERVAL '2 minutes';
SELECT error, COUNT(*) 
FROM webhook_dlq 
GROUP BY error 
ORDER BY COUNT(*) DESC;
-- Update next_retry_at to trigger immediate retry
UPDATE webhook_dlq 
SET next_retry_at = NOW()
WHERE resolution_status = 'pending';

-- Core infrastructure: key metrics.
SELECT COUNT(*) FROM wa_dead_letter_queue WHERE processed = false;
SELECT COUNT(*) FROM user_sessions WHERE active_service IS NOT NULL;
-- View stale sessions
SELECT phone_number, last_interaction, 
       NOW() - last_interaction AS age
FROM user_sessions
WHERE last_interaction < NOW() - INTERVAL '24 hours';
ROLLBACK;
