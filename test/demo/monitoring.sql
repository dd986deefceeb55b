-- What dashboards and health checks read, a little shortened.
\pset footer off
\pset border 1
\pset numericlocale on
\echo 'webhook_conversation_health'
SELECT status, count, round(avg_idle_seconds, 1) AS avg_idle_seconds, max_retries, total_errors, locked_count
	FROM webhook_conversation_health;
\echo 'webhook_message_processing_metrics'
SELECT to_char(hour, 'YYYY-MM-DD HH24:MI') AS hour, messages_processed, round(avg_processing_ms, 1) AS avg_processing_ms,
		p95_processing_ms, p99_processing_ms, max_processing_ms
	FROM webhook_message_processing_metrics;
\echo 'webhook_dlq_summary'
SELECT resolution_status, count, max_retries_reached, round(avg_retry_count, 1) AS avg_retry_count
	FROM webhook_dlq_summary;
\echo 'webhook_circuits'
SELECT key, state, failures, timeout_ms FROM webhook_circuits;
\echo 'check_webhook_system_health(), which is right: many messages were made to fail'
SELECT alert_type, severity, message FROM check_webhook_system_health();
\echo 'get_webhook_performance_stats()'
SELECT * FROM get_webhook_performance_stats();
