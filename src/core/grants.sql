-- Who may do what. Nothing of the extension is open to PUBLIC; wahook_grant() opens to a role what
-- its level needs: privileges, and a row security policy on each table of user data it may touch.
--
-- pg_dump keeps the privileges but not the policies: after a restore, grant again.
--
-- What a level gets is data: webhook_privileges() names every table, view and function of the
-- extension. A test compares it with the catalog.

CREATE FUNCTION @extschema@.webhook_privileges()
	RETURNS TABLE (kind text, object_name text, service text)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	-- service: what the service level gets; null: left to the owner.
	VALUES
		('table', 'webhook_conversations', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'conversation_state_transitions', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'processed_webhook_messages', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'webhook_dlq', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'agent_contexts', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'agent_sessions', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'wa_workflow_recovery', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'user_sessions', 'SELECT, INSERT, UPDATE, DELETE'),
		('table', 'webhook_message_statuses', 'SELECT'),
		('table', 'webhook_notices', 'SELECT'),
		('table', 'webhook_delivery_attempts', 'SELECT'),
		('table', 'webhook_agents', 'SELECT'),
		('table', 'webhook_services', 'SELECT'),
		('table', 'webhook_rate_limit_buckets', 'SELECT'),
		('table', 'webhook_quarantine', NULL),
		('table', 'webhook_identities', NULL),
		('table', 'webhook_inbox', NULL),
		('table', 'webhook_conversation_queue', NULL),
		('table', 'webhook_rate_limits', NULL),

		('view', 'wa_dead_letter_queue', 'SELECT, INSERT, UPDATE, DELETE'),
		('view', 'webhook_conversation_health', 'SELECT'),
		('view', 'stuck_webhook_conversations', 'SELECT'),
		('view', 'webhook_agent_performance', 'SELECT'),
		('view', 'webhook_message_processing_metrics', 'SELECT'),
		('view', 'webhook_dlq_summary', 'SELECT'),
		('view', 'recent_webhook_state_transitions', 'SELECT'),

		('function', 'verify_webhook_subscription', 'EXECUTE'),
		('function', 'verify_webhook_signature', 'EXECUTE'),
		('function', 'verify_webhook_signature_bytea', 'EXECUTE'),
		('function', 'receive_webhook', 'EXECUTE'),
		('function', 'receive_and_claim_webhook', 'EXECUTE'),
		('function', 'check_rate_limit', 'EXECUTE'),
		('function', 'claim_conversations', 'EXECUTE'),
		('function', 'acquire_conversation_lock', 'EXECUTE'),
		('function', 'renew_conversation_lock', 'EXECUTE'),
		('function', 'release_conversation_lock', 'EXECUTE'),
		('function', 'complete_webhook_messages', 'EXECUTE'),
		('function', 'complete_conversations', 'EXECUTE'),
		('function', 'fail_webhook_message', 'EXECUTE'),
		('function', 'record_processed_message', 'EXECUTE'),
		('function', 'get_or_create_conversation', 'EXECUTE'),
		('function', 'transition_conversation', 'EXECUTE'),
		('function', 'add_to_dead_letter_queue', 'EXECUTE'),
		('function', 'dlq_retry_delay', 'EXECUTE'),
		('function', 'get_retriable_messages', 'EXECUTE'),
		('function', 'mark_message_processed', 'EXECUTE'),
		('function', 'retry_dead_letters', 'EXECUTE'),
		('function', 'discard_dead_letters', 'EXECUTE'),
		('function', 'process_dead_letter_queue', 'EXECUTE'),
		('function', 'cleanup_stuck_webhook_conversations', 'EXECUTE'),
		('function', 'cleanup_stale_sessions', 'EXECUTE'),
		('function', 'increment_session_metrics', 'EXECUTE'),
		('function', 'check_webhook_system_health', 'EXECUTE'),
		('function', 'get_webhook_performance_stats', 'EXECUTE'),
		-- A default and a view call these as whoever uses the table or the view.
		('function', 'webhook_uuid', 'EXECUTE'),
		('function', 'webhook_setting', 'EXECUTE'),

		('function', 'wahook_grant', NULL),
		('function', 'wahook_revoke', NULL),
		('function', 'schedule_webhook_jobs', NULL),
		('function', 'unschedule_webhook_jobs', NULL),
		('function', 'apply_webhook_retention', NULL),
		('function', 'webhook_audit_status', NULL),
		('function', 'webhook_check_grantor', NULL),
		('function', 'webhook_check_service', NULL),
		('function', 'webhook_dead_letter_lost', NULL),
		('function', 'webhook_delete_full_buckets', NULL),
		('function', 'webhook_delete_idle_conversations', NULL),
		('function', 'webhook_delete_old', NULL),
		('function', 'webhook_dlq_after_change', NULL),
		('function', 'webhook_dlq_before_change', NULL),
		('function', 'webhook_dlq_note_statement', NULL),
		('function', 'webhook_end_retry_leases', NULL),
		('function', 'webhook_jobs', NULL),
		('function', 'webhook_keep_changed_seed', NULL),
		('function', 'webhook_lock_directly', NULL),
		('function', 'webhook_log_event', NULL),
		('function', 'webhook_message_is_needed', NULL),
		('function', 'webhook_message_json', NULL),
		('function', 'webhook_privileges', NULL),
		('function', 'webhook_register_identities', NULL),
		('function', 'webhook_require_cron', NULL),
		('function', 'webhook_retention_rules', NULL),
		('function', 'webhook_status_advances', NULL),
		('function', 'webhook_status_rank', NULL),
		('function', 'webhook_sweep', NULL),
		('function', 'webhook_uuid_floor', NULL)
	$$;
COMMENT ON FUNCTION @extschema@.webhook_privileges() IS
	'what each level may do with each table, view and function of the extension';

CREATE FUNCTION @extschema@.webhook_check_grantor(p_role regrole, p_level text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_owner regrole := (SELECT extowner FROM pg_extension WHERE extname = 'wahook');
BEGIN
	IF NOT pg_has_role(current_user, v_owner, 'USAGE') THEN
		RAISE EXCEPTION 'must be owner of extension wahook to grant or revoke its levels'
			USING ERRCODE = 'insufficient_privilege', HINT = format('Ask %s, or a superuser.', v_owner);
	END IF;
	IF p_level IS DISTINCT FROM 'service' THEN
		RAISE EXCEPTION 'level "%" does not exist', coalesce(p_level, 'null')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'The levels are: service.';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_roles WHERE oid = p_role) THEN
		RAISE EXCEPTION 'role "%" does not exist', coalesce(p_role::text, 'null')
			USING ERRCODE = 'undefined_object',
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
	EXECUTE format('GRANT USAGE ON SCHEMA @extschema@ TO %s', p_role);
	FOR v_object IN
		SELECT p.kind, p.service AS privileges, format('@extschema@.%I', p.object_name) AS name
		FROM @extschema@.webhook_privileges() p WHERE p.service IS NOT NULL
	LOOP
		EXECUTE format('GRANT %s ON %s %s TO %s', v_object.privileges,
			CASE v_object.kind WHEN 'function' THEN 'FUNCTION' ELSE 'TABLE' END, v_object.name, p_role);
		-- Without a policy the privileges on a table show no row. A second grant finds it there,
		-- by the role: its name is random, for no name made of a role's stays unique when roles are
		-- renamed.
		IF v_object.kind = 'table'
			AND (SELECT relrowsecurity FROM pg_class WHERE oid = v_object.name::regclass)
			AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = v_object.name::regclass
				AND polroles = ARRAY[p_role::oid] AND polname LIKE 'wahook\_service\_%')
		THEN
			EXECUTE format('CREATE POLICY %I ON %s TO %s USING (true) WITH CHECK (true)',
				'wahook_service_' || gen_random_uuid(), v_object.name, p_role);
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.wahook_grant(regrole, text) IS
	'gives a role a level: ''service'' receives, claims, completes and retries messages and reads the monitoring views. To be repeated after a restore from a dump';

CREATE FUNCTION @extschema@.wahook_revoke(p_role regrole, p_level text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_object record;
BEGIN
	PERFORM @extschema@.webhook_check_grantor(p_role, p_level);
	FOR v_object IN
		SELECT p.kind, format('@extschema@.%I', p.object_name) AS name
		FROM @extschema@.webhook_privileges() p WHERE p.service IS NOT NULL
	LOOP
		EXECUTE format('REVOKE ALL ON %s %s FROM %s',
			CASE v_object.kind WHEN 'function' THEN 'FUNCTION' ELSE 'TABLE' END, v_object.name, p_role);
	END LOOP;
	FOR v_object IN
		SELECT polname, polrelid::regclass AS name
		FROM pg_policy JOIN @extschema@.webhook_privileges() p
			ON p.kind = 'table' AND polrelid = format('@extschema@.%I', p.object_name)::regclass
		WHERE polroles = ARRAY[p_role::oid] AND polname LIKE 'wahook\_service\_%'
	LOOP
		EXECUTE format('DROP POLICY %I ON %s', v_object.polname, v_object.name);
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.wahook_revoke(regrole, text) IS
	'takes a level back; USAGE on the schema stays, for other things may live there';
