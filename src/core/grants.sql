-- Who may do what. Nothing of the extension is open to PUBLIC; wahook_grant() opens to a role what
-- its level needs.
--
-- What a level gets is data: webhook_privileges() names every table, view and function of the
-- extension. A test compares it with the catalog. To add an object, add its row; a level that gets a
-- privilege on a table passes its row security policy too (finish.sql).

CREATE FUNCTION @extschema@.webhook_privileges()
	RETURNS TABLE (kind text, object_name text, service text, monitor text, admin text)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 100 SET search_path = pg_catalog, pg_temp
	AS $$
	-- kind, object_name, service, monitor, admin: what each level gets; null: nothing.
	-- service: the pipeline. monitor: numbers, no payload, no phone number. admin: all that an
	-- operator needs, which includes service and monitor.
	VALUES
		('table', 'webhook_conversations', 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'conversation_state_transitions', 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'processed_webhook_messages', 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'webhook_dlq', 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'agent_contexts', 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'agent_sessions', 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'wa_workflow_recovery', 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'user_sessions', 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'webhook_message_statuses', 'SELECT', NULL, 'SELECT'),
		('table', 'webhook_notices', 'SELECT', NULL, 'SELECT'),
		('table', 'webhook_attempts', 'SELECT', NULL, 'SELECT'),
		('table', 'webhook_agents', 'SELECT', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'webhook_agent_secrets', NULL, NULL, NULL),
		('table', 'webhook_agent_variants', 'SELECT', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'webhook_agent_versions', 'SELECT', NULL, 'SELECT'),
		('table', 'agent_turns', 'SELECT', NULL, 'SELECT'),
		('table', 'webhook_agent_replies', NULL, NULL, 'SELECT'),
		('table', 'webhook_message_changes', 'SELECT', NULL, 'SELECT'),
		('table', 'webhook_erased_messages', NULL, NULL, 'SELECT'),
		('table', 'webhook_services', 'SELECT', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'webhook_service_secrets', NULL, NULL, NULL),
		('table', 'webhook_routes', 'SELECT', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'webhook_feature_flags', 'SELECT', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'webhook_rate_limit_buckets', 'SELECT', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'webhook_circuits', 'SELECT', NULL, 'SELECT, UPDATE, DELETE'),
		('table', 'webhook_job_runs', NULL, NULL, 'SELECT'),
		('table', 'webhook_alerts', 'SELECT', 'SELECT', 'SELECT'),
		('table', 'webhook_quarantine', NULL, NULL, 'SELECT, DELETE'),
		('table', 'webhook_identities', NULL, NULL, 'SELECT'),
		('table', 'webhook_inbox', NULL, NULL, 'SELECT'),
		('table', 'webhook_conversation_queue', NULL, NULL, 'SELECT'),
		('table', 'webhook_leases', NULL, NULL, 'SELECT'),
		('table', 'webhook_rate_limits', NULL, NULL, 'SELECT, DELETE'),
		('table', 'webhook_message_sums', NULL, NULL, 'SELECT'),
		('table', 'webhook_conversation_sums', NULL, NULL, 'SELECT'),
		('table', 'webhook_rollup_state', NULL, NULL, 'SELECT'),
		('table', 'webhook_depth_samples', NULL, NULL, 'SELECT'),

		('view', 'wa_dead_letter_queue', 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT, INSERT, UPDATE, DELETE'),
		('view', 'webhook_delivery_attempts', 'SELECT', NULL, 'SELECT'),
		('view', 'webhook_conversation_health', 'SELECT', 'SELECT', 'SELECT'),
		('view', 'stuck_webhook_conversations', 'SELECT', 'SELECT', 'SELECT'),
		('view', 'webhook_agent_performance', 'SELECT', 'SELECT', 'SELECT'),
		('view', 'webhook_agent_performance_by_version', 'SELECT', 'SELECT', 'SELECT'),
		('view', 'webhook_agent_experiments', 'SELECT', 'SELECT', 'SELECT'),
		('view', 'webhook_message_trace', 'SELECT', 'SELECT', 'SELECT'),
		('view', 'webhook_message_processing_metrics', 'SELECT', 'SELECT', 'SELECT'),
		('view', 'webhook_dlq_summary', 'SELECT', 'SELECT', 'SELECT'),
		('view', 'recent_webhook_state_transitions', 'SELECT', 'SELECT', 'SELECT'),
		('view', 'webhook_jobs', 'SELECT', 'SELECT', 'SELECT'),

		('function', 'verify_webhook_subscription', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'verify_webhook_signature', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'verify_webhook_signature_bytea', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'receive_webhook', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'receive_and_claim_webhook', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'check_rate_limit', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'is_circuit_open', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'require_circuit_closed', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'record_circuit_failure', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'record_circuit_success', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'reset_circuit', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'claim_conversations', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'acquire_conversation_lock', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'renew_conversation_lock', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'release_conversation_lock', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'complete_webhook_messages', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'complete_conversations', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'fail_webhook_message', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'record_processed_message', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'get_or_create_conversation', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'transition_conversation', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'add_to_dead_letter_queue', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'dlq_retry_delay', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'get_retriable_messages', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'mark_message_processed', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'retry_dead_letters', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'discard_dead_letters', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'process_dead_letter_queue', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'cleanup_stuck_webhook_conversations', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'cleanup_stale_sessions', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'increment_session_metrics', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'end_agent_session', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'agent_load_context', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'agent_prompt', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'agent_save_turn', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'agent_set_summary', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'agent_user_messages', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'estimate_tokens', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'count_context_tokens', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'truncate_context', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'webhook_agent_may_spend', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'webhook_agent_spend', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'check_webhook_system_health', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'get_webhook_performance_stats', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'trace_webhook_message', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'trace_webhook_correlation', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		-- Those two call these as whoever calls them.
		('function', 'webhook_message_id', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_trace_sent', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_uuid_time', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_find_correlation', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_metrics', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_metrics_prometheus', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_metrics_reset', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_health', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_worker_state', NULL, NULL, 'EXECUTE'),
		('function', 'evaluate_webhook_alerts', NULL, NULL, 'EXECUTE'),
		('function', 'route_webhook_message', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'webhook_feature_enabled', 'EXECUTE', NULL, 'EXECUTE'),
		-- A default and a view call these as whoever uses the table or the view.
		('function', 'webhook_uuid', 'EXECUTE', NULL, 'EXECUTE'),
		('function', 'webhook_setting', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_conversations_by_status', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_dashboard', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_stuck_ids', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_processed_by_hour', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_percentile', 'EXECUTE', 'EXECUTE', 'EXECUTE'),

		('function', 'wahook_grant', NULL, NULL, NULL),
		('function', 'wahook_revoke', NULL, NULL, NULL),
		('function', 'wahook_import', NULL, NULL, NULL),
		('function', 'run_webhook_job', NULL, NULL, 'EXECUTE'),
		('function', 'start_webhook_worker', NULL, NULL, 'EXECUTE'),
		('function', 'schedule_webhook_jobs', NULL, NULL, 'EXECUTE'),
		('function', 'unschedule_webhook_jobs', NULL, NULL, 'EXECUTE'),
		('function', 'apply_webhook_retention', NULL, NULL, 'EXECUTE'),
		('function', 'erase_webhook_user', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_address_allowed', NULL, NULL, 'EXECUTE'),
		('function', 'register_webhook_service', NULL, NULL, 'EXECUTE'),
		('function', 'enable_webhook_service', NULL, NULL, 'EXECUTE'),
		('function', 'disable_webhook_service', NULL, NULL, 'EXECUTE'),
		('function', 'set_webhook_service_secrets', NULL, NULL, 'EXECUTE'),
		('function', 'register_webhook_agent', NULL, NULL, 'EXECUTE'),
		('function', 'register_webhook_agent_variant', NULL, NULL, 'EXECUTE'),
		('function', 'set_webhook_agent_key', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_require_agent', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_set_daily_tokens', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_check_url', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_url_origin', NULL, NULL, 'EXECUTE'),
		('function', 'add_webhook_route', NULL, NULL, 'EXECUTE'),
		('function', 'remove_webhook_route', NULL, NULL, 'EXECUTE'),
		('function', 'enable_webhook_route', NULL, NULL, 'EXECUTE'),
		('function', 'disable_webhook_route', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_require_service', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_require_route', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_switch_service', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_switch_route', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_agent_call', NULL, NULL, NULL),
		('function', 'webhook_agent_config', NULL, NULL, NULL),
		('function', 'webhook_agent_failed', NULL, NULL, NULL),
		('function', 'webhook_agent_is_asked', NULL, NULL, NULL),
		('function', 'webhook_open_agent_session', NULL, NULL, NULL),
		('function', 'webhook_count_agent_turn', NULL, NULL, NULL),
		('function', 'webhook_agent_buckets', NULL, NULL, NULL),
		('function', 'webhook_budget_left', NULL, NULL, NULL),
		('function', 'webhook_check_agent', NULL, NULL, NULL),
		('function', 'webhook_check_agent_secret', NULL, NULL, NULL),
		('function', 'webhook_check_fallback', NULL, NULL, NULL),
		('function', 'webhook_complete_agent_sessions', NULL, NULL, NULL),
		('function', 'webhook_end_idle_agent_sessions', NULL, NULL, NULL),
		('function', 'webhook_forget_agent_key', NULL, NULL, NULL),
		('function', 'webhook_keep_agent_budget', NULL, NULL, NULL),
		('function', 'webhook_keep_agent_session', NULL, NULL, NULL),
		('function', 'webhook_keep_agent_version', NULL, NULL, NULL),
		('function', 'webhook_next_agent_version', NULL, NULL, NULL),
		('function', 'webhook_record_agent_version', NULL, NULL, NULL),
		('function', 'webhook_record_variant_version', NULL, NULL, NULL),
		('function', 'webhook_set_agent_version', NULL, NULL, NULL),
		('function', 'webhook_spend_budget', NULL, NULL, NULL),
		('function', 'webhook_try_budget_lock', NULL, NULL, NULL),
		('function', 'webhook_audit_status', NULL, NULL, NULL),
		('function', 'webhook_agent_memory', NULL, NULL, NULL),
		('function', 'webhook_agent_messages', NULL, NULL, NULL),
		('function', 'webhook_agent_save', NULL, NULL, NULL),
		('function', 'webhook_apply_changes', NULL, NULL, NULL),
		('function', 'webhook_fit', NULL, NULL, NULL),
		('function', 'webhook_with_member', NULL, NULL, NULL),
		('function', 'webhook_mentions', NULL, NULL, NULL),
		('function', 'webhook_name_pattern', NULL, NULL, NULL),
		('function', 'webhook_names_of_user', NULL, NULL, NULL),
		('function', 'webhook_remove_revoked', NULL, NULL, NULL),
		('function', 'webhook_revoked_payload', NULL, NULL, NULL),
		('function', 'webhook_sent_by', NULL, NULL, NULL),
		('function', 'webhook_settle_changes', NULL, NULL, NULL),
		('function', 'webhook_without_names', NULL, NULL, NULL),
		('function', 'webhook_changed_message', NULL, NULL, NULL),
		('function', 'webhook_count_of', NULL, NULL, NULL),
		('function', 'webhook_current_memory', NULL, NULL, NULL),
		('function', 'webhook_hold_memory', NULL, NULL, NULL),
		('function', 'webhook_measure_memory', NULL, NULL, NULL),
		('function', 'webhook_memory_array', NULL, NULL, NULL),
		('function', 'webhook_memory_messages', NULL, NULL, NULL),
		('function', 'webhook_message_text', NULL, NULL, NULL),
		('function', 'webhook_remember', NULL, NULL, NULL),
		('function', 'webhook_require_agent_type', NULL, NULL, NULL),
		('function', 'webhook_sendable_messages', NULL, NULL, NULL),
		('function', 'webhook_shortened_text', NULL, NULL, NULL),
		('function', 'webhook_time', NULL, NULL, NULL),
		('function', 'webhook_uuid_or_null', NULL, NULL, NULL),
		('function', 'webhook_with_summary', NULL, NULL, NULL),
		('function', 'webhook_check_grantor', NULL, NULL, NULL),
		('function', 'webhook_check_endpoint', NULL, NULL, NULL),
		('function', 'webhook_check_route', NULL, NULL, NULL),
		('function', 'webhook_check_service', NULL, NULL, NULL),
		('function', 'webhook_check_service_secrets', NULL, NULL, NULL),
		('function', 'webhook_forget_bearer_token', NULL, NULL, NULL),
		('function', 'webhook_cron_jobs', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_config_changed', NULL, NULL, NULL),
		('function', 'webhook_count', NULL, NULL, NULL),
		('function', 'webhook_counter_samples', NULL, NULL, NULL),
		('function', 'webhook_count_rows', NULL, NULL, NULL),
		('function', 'webhook_gauges', NULL, NULL, NULL),
		('function', 'webhook_gauge_samples', NULL, NULL, NULL),
		('function', 'webhook_metric_samples', NULL, NULL, NULL),
		('function', 'webhook_dead_letter_lost', NULL, NULL, NULL),
		('function', 'webhook_ago', NULL, NULL, NULL),
		('function', 'webhook_alert_hint', NULL, NULL, NULL),
		('function', 'webhook_alert_json', NULL, NULL, NULL),
		('function', 'webhook_announce_alert', NULL, NULL, NULL),
		('function', 'webhook_evaluate_alerts', NULL, NULL, NULL),
		('function', 'webhook_log_problem', NULL, NULL, NULL),
		('function', 'webhook_next_alert_to_tell', NULL, NULL, NULL),
		('function', 'webhook_note_absence', NULL, NULL, NULL),
		('function', 'webhook_note_alert', NULL, NULL, NULL),
		('function', 'webhook_note_alerts', NULL, NULL, NULL),
		('function', 'webhook_note_told', NULL, NULL, NULL),
		('function', 'webhook_check_circuits', NULL, NULL, NULL),
		('function', 'webhook_check_conversations', NULL, NULL, NULL),
		('function', 'webhook_check_errors', NULL, NULL, NULL),
		('function', 'webhook_check_queues', NULL, NULL, NULL),
		('function', 'webhook_check_retention', NULL, NULL, NULL),
		('function', 'webhook_check_worker', NULL, NULL, NULL),
		('function', 'webhook_conversations_that_became', NULL, NULL, NULL),
		('function', 'webhook_count_dead_letters', NULL, NULL, NULL),
		('function', 'webhook_health_of_circuits', NULL, NULL, NULL),
		('function', 'webhook_health_of_dead_letters', NULL, NULL, NULL),
		('function', 'webhook_health_of_queue', NULL, NULL, NULL),
		('function', 'webhook_health_of_worker', NULL, NULL, NULL),
		('function', 'webhook_health_reasons', NULL, NULL, NULL),
		('function', 'webhook_lease_directly', NULL, NULL, NULL),
		('function', 'webhook_stale_locks', NULL, NULL, NULL),
		('function', 'webhook_stuck_conversations', NULL, NULL, NULL),
		('function', 'webhook_threshold', NULL, NULL, NULL),
		('function', 'webhook_version', NULL, NULL, NULL),
		('function', 'webhook_waiting_services', NULL, NULL, NULL),
		('function', 'webhook_add_message_sums', NULL, NULL, NULL),
		('function', 'webhook_count_conversations', NULL, NULL, NULL),
		('function', 'webhook_count_history', NULL, NULL, NULL),
		('function', 'webhook_count_messages', NULL, NULL, NULL),
		('function', 'webhook_messages_known', NULL, NULL, NULL),
		('function', 'webhook_period', NULL, NULL, NULL),
		('function', 'webhook_roll_up', NULL, NULL, NULL),
		('function', 'webhook_html', NULL, NULL, NULL),
		('function', 'webhook_short_number', NULL, NULL, NULL),
		('function', 'webhook_axis_step', NULL, NULL, NULL),
		('function', 'webhook_html_table', NULL, NULL, NULL),
		('function', 'webhook_series_table', NULL, NULL, NULL),
		('function', 'webhook_legend', NULL, NULL, NULL),
		('function', 'webhook_svg', NULL, NULL, NULL),
		('function', 'webhook_svg_lines', NULL, NULL, NULL),
		('function', 'webhook_svg_columns', NULL, NULL, NULL),
		('function', 'webhook_time_chart', NULL, NULL, NULL),
		('function', 'webhook_bar_chart', NULL, NULL, NULL),
		('function', 'webhook_sample_depth', NULL, NULL, NULL),
		('function', 'webhook_error_class', NULL, NULL, NULL),
		('function', 'webhook_quarters', NULL, NULL, NULL),
		('function', 'webhook_series', NULL, NULL, NULL),
		('function', 'webhook_dashboard_traffic', NULL, NULL, NULL),
		('function', 'webhook_dashboard_depth', NULL, NULL, NULL),
		('function', 'webhook_dashboard_latency', NULL, NULL, NULL),
		('function', 'webhook_dashboard_errors', NULL, NULL, NULL),
		('function', 'webhook_dashboard_agents', NULL, NULL, NULL),
		('function', 'webhook_dashboard_style', NULL, NULL, NULL),
		('function', 'webhook_dashboard_number', NULL, NULL, NULL),
		('function', 'webhook_dashboard_alerts', NULL, NULL, NULL),
		('function', 'webhook_dashboard_numbers', NULL, NULL, NULL),
		('function', 'webhook_dashboard_error_list', NULL, NULL, NULL),
		('function', 'webhook_dashboard_agent_list', NULL, NULL, NULL),
		('function', 'webhook_dashboard_charts', NULL, NULL, NULL),
		('function', 'webhook_dashboard_failure', NULL, NULL, NULL),
		('function', 'webhook_summarize', NULL, NULL, NULL),
		('function', 'webhook_delete_full_buckets', NULL, NULL, NULL),
		('function', 'webhook_delete_idle_circuits', NULL, NULL, NULL),
		('function', 'webhook_delete_idle_conversations', NULL, NULL, NULL),
		('function', 'webhook_delete_old', NULL, NULL, NULL),
		('function', 'webhook_dlq_after_change', NULL, NULL, NULL),
		('function', 'webhook_dlq_before_change', NULL, NULL, NULL),
		('function', 'webhook_dlq_note_statement', NULL, NULL, NULL),
		('function', 'webhook_end_retry_leases', NULL, NULL, NULL),
		('function', 'webhook_import_cast', NULL, NULL, NULL),
		('function', 'webhook_import_dangers', NULL, NULL, NULL),
		('function', 'webhook_import_dead_letters', NULL, NULL, NULL),
		('function', 'webhook_import_entries', NULL, NULL, NULL),
		('function', 'webhook_import_id', NULL, NULL, NULL),
		('function', 'webhook_import_messages', NULL, NULL, NULL),
		('function', 'webhook_import_payload', NULL, NULL, NULL),
		('function', 'webhook_import_source', NULL, NULL, NULL),
		('function', 'webhook_import_table', NULL, NULL, NULL),
		-- The view webhook_jobs calls it as whoever reads it.
		('function', 'webhook_job_list', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_job_progress', 'EXECUTE', 'EXECUTE', 'EXECUTE'),
		('function', 'webhook_progress', NULL, NULL, NULL),
		('function', 'webhook_progress_begin', NULL, NULL, NULL),
		('function', 'webhook_progress_end', NULL, NULL, NULL),
		('function', 'webhook_keep_changed_seed', NULL, NULL, NULL),
		('function', 'webhook_lock_directly', NULL, NULL, NULL),
		('function', 'webhook_log_event', NULL, NULL, NULL),
		('function', 'webhook_message_is_needed', NULL, NULL, NULL),
		('function', 'webhook_message_json', NULL, NULL, NULL),
		('function', 'webhook_levels_of', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_keep_attempt', NULL, NULL, NULL),
		('function', 'webhook_keep_service', NULL, NULL, NULL),
		('function', 'webhook_level_privileges', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_privileges', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_register_identities', NULL, NULL, NULL),
		('function', 'webhook_requeue_dead_letters', NULL, NULL, NULL),
		('function', 'webhook_require_cron', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_retention_rules', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_run_job', NULL, NULL, NULL),
		('function', 'webhook_signature', NULL, NULL, 'EXECUTE'),
		('function', 'webhook_status_advances', NULL, NULL, NULL),
		('function', 'webhook_status_rank', NULL, NULL, NULL),
		('function', 'webhook_sweep', NULL, NULL, NULL),
		('function', 'webhook_try_job_lock', NULL, NULL, NULL),
		('function', 'webhook_user_hash', NULL, NULL, NULL),
		('function', 'webhook_user_in_share', NULL, NULL, NULL),
		-- Views call it as whoever reads them.
		('function', 'webhook_uuid_floor', 'EXECUTE', 'EXECUTE', 'EXECUTE')
	$$;
COMMENT ON FUNCTION @extschema@.webhook_privileges() IS
	'what each level may do with each table, view and function of the extension';

CREATE FUNCTION @extschema@.webhook_level_privileges(p_level text)
	RETURNS TABLE (kind text, name text, privileges text)
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 100 SET search_path = pg_catalog, pg_temp
	AS $$
	-- What makes the level, and what shows personal data.
	SELECT 'TYPE', '@extschema@.webhook_level_' || p_level, 'USAGE'
		WHERE p_level IN ('service', 'monitor', 'admin', 'personal_data')
	UNION ALL
	SELECT 'TYPE', '@extschema@.webhook_personal_data', 'USAGE'
		WHERE p_level IN ('service', 'admin', 'personal_data')
	UNION ALL
	SELECT CASE p.kind WHEN 'function' THEN 'FUNCTION' ELSE 'TABLE' END,
			'@extschema@.' || quote_ident(p.object_name), l.privileges
		FROM @extschema@.webhook_privileges() p, LATERAL (SELECT CASE p_level
			WHEN 'service' THEN p.service WHEN 'monitor' THEN p.monitor WHEN 'admin' THEN p.admin END) l(privileges)
		WHERE l.privileges IS NOT NULL
	$$;
COMMENT ON FUNCTION @extschema@.webhook_level_privileges(text) IS
	'what a level gets, as GRANT takes it; nothing where there is no such level';

CREATE FUNCTION @extschema@.webhook_levels_of(p_role regrole) RETURNS SETOF text
	LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 2 SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT level FROM unnest('{service,monitor,admin,personal_data}'::text[]) level
	WHERE EXISTS (SELECT FROM pg_type t, aclexplode(t.typacl) a
		WHERE t.typnamespace = '@extschema@'::regnamespace AND t.typname = 'webhook_level_' || level
			AND a.grantee = p_role)
	$$;
COMMENT ON FUNCTION @extschema@.webhook_levels_of(regrole) IS
	'the levels that were granted to the role itself, not those of roles it is a member of';

CREATE FUNCTION @extschema@.webhook_check_grantor(p_role regrole, p_level text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_owner regrole := (SELECT extowner FROM pg_extension WHERE extname = 'wahook');
BEGIN
	IF NOT pg_has_role(current_user, v_owner, 'USAGE') THEN
		RAISE EXCEPTION 'must be owner of extension wahook to grant or revoke its levels'
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = format('It belongs to role %s.', v_owner), HINT = format('Ask %s, or a superuser.', v_owner);
	END IF;
	IF NOT EXISTS (SELECT FROM @extschema@.webhook_level_privileges(p_level)) THEN
		RAISE EXCEPTION 'level "%" does not exist', coalesce(p_level, 'null')
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('It was to be of role %s.', coalesce(p_role::text, 'null')),
				HINT = 'The levels are: service, monitor, admin, personal_data.';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_roles WHERE oid = p_role) THEN
		RAISE EXCEPTION 'role "%" does not exist', coalesce(p_role::text, 'null')
			USING ERRCODE = 'undefined_object', DETAIL = format('The level was to be "%s".', p_level),
				HINT = 'A level is granted to one role; there is none for PUBLIC.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_check_grantor(regrole, text) IS
	'an error unless the caller owns the extension and the role and level exist';

CREATE FUNCTION @extschema@.wahook_grant(p_role regrole, p_level text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_object record;
BEGIN
	PERFORM @extschema@.webhook_check_grantor(p_role, p_level);
	EXECUTE format('GRANT USAGE ON SCHEMA %s TO %s', '@extschema@', p_role);
	FOR v_object IN SELECT * FROM @extschema@.webhook_level_privileges(p_level) LOOP
		EXECUTE format('GRANT %s ON %s %s TO %s', v_object.privileges, v_object.kind, v_object.name, p_role);
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.wahook_grant(regrole, text) IS
	'gives a role a level: service (receives, claims, completes and retries messages), monitor (reads views, health and metrics), admin (operates; includes both), personal_data (for a monitor: sees phone numbers and user ids)';

CREATE FUNCTION @extschema@.wahook_revoke(p_role regrole, p_level text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_object record;
BEGIN
	PERFORM @extschema@.webhook_check_grantor(p_role, p_level);
	FOR v_object IN
		SELECT kind, name, string_agg(privilege, ', ') AS privileges FROM (
			SELECT kind, name, privilege FROM @extschema@.webhook_level_privileges(p_level),
				unnest(string_to_array(privileges, ', ')) privilege
			EXCEPT
			-- What the role has of another level too stays.
			SELECT kind, name, privilege FROM @extschema@.webhook_levels_of(p_role) level,
				@extschema@.webhook_level_privileges(level), unnest(string_to_array(privileges, ', ')) privilege
				WHERE level <> p_level) lost
		GROUP BY kind, name
	LOOP
		EXECUTE format('REVOKE %s ON %s %s FROM %s', v_object.privileges, v_object.kind, v_object.name, p_role);
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.wahook_revoke(regrole, text) IS
	'takes a level back, but what the role has of another one; USAGE on the schema stays, for other things may live there';
