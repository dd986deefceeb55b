-- Dead letters taken and answered one by one, and in bulk.

CREATE FUNCTION @extschema@.webhook_end_retry_leases() RETURNS void
	AS 'MODULE_PATHNAME', 'wahook_end_retry_leases_sql' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_end_retry_leases() IS
	'internal: takes back the dead letters of retriers that vanished, each a failed retry';

-- The setting is read after the first statement has loaded the library that defines it.
CREATE FUNCTION @extschema@.get_retriable_messages(p_limit integer DEFAULT 50)
	RETURNS SETOF @extschema@.webhook_dlq
	LANGUAGE sql VOLATILE ROWS 50
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT @extschema@.webhook_end_retry_leases();
	WITH due AS (
		SELECT id, next_retry_at FROM @extschema@.webhook_dlq AS d
		WHERE resolution_status = 'pending' AND next_retry_at <= clock_timestamp()
			AND NOT EXISTS (
				SELECT FROM @extschema@.processed_webhook_messages m
				WHERE m.whatsapp_message_id = d.whatsapp_message_id
					AND (m.processed_at > d.updated_at OR EXISTS (
						SELECT FROM @extschema@.webhook_inbox i
						WHERE i.conversation_id = m.conversation_id AND i.message_id = m.id)))
		ORDER BY next_retry_at
		LIMIT coalesce(p_limit, 50)
		FOR NO KEY UPDATE SKIP LOCKED
	), taken AS (
		UPDATE @extschema@.webhook_dlq AS d
		SET resolution_status = 'retrying', next_retry_at = NULL, updated_at = clock_timestamp(),
			retry_lease_until = clock_timestamp() + current_setting('wahook.lock_timeout')::interval
		FROM due WHERE d.id = due.id
		RETURNING d AS entry, due.next_retry_at AS was_due_at
	)
	SELECT (entry).* FROM taken ORDER BY was_due_at
	$$;
COMMENT ON FUNCTION @extschema@.get_retriable_messages(integer) IS
	'takes due dead letters under a retry lease of wahook.lock_timeout, oldest first, but not those whose message waits in its conversation or has been completed since; answer each with mark_message_processed(), or it is due again';

CREATE FUNCTION @extschema@.mark_message_processed(
	p_message_id text, p_success boolean, p_error text DEFAULT NULL)
	RETURNS text
	AS 'MODULE_PATHNAME', 'wahook_mark_message_processed' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.mark_message_processed(text, boolean, text) IS
	'answers for a retried dead letter, by its whatsapp_message_id or its id; returns its new resolution_status';

CREATE FUNCTION @extschema@.retry_dead_letters(
	p_service text DEFAULT NULL, p_error_like text DEFAULT NULL,
	p_since timestamptz DEFAULT NULL, p_limit integer DEFAULT NULL)
	RETURNS integer
	LANGUAGE sql VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
	WITH chosen AS (
		SELECT id FROM @extschema@.webhook_dlq
		WHERE resolution_status IN ('pending', 'failed')
			AND (p_service IS NULL OR service = p_service)
			AND (p_error_like IS NULL OR error LIKE p_error_like)
			AND (p_since IS NULL OR created_at >= p_since)
		ORDER BY created_at
		LIMIT p_limit
		FOR NO KEY UPDATE SKIP LOCKED
	), revived AS (
		UPDATE @extschema@.webhook_dlq AS d
		SET resolution_status = 'pending', retry_count = 0, next_retry_at = clock_timestamp(),
			updated_at = clock_timestamp()
		FROM chosen WHERE d.id = chosen.id
		RETURNING 1
	)
	SELECT count(*)::integer FROM revived
	$$;
COMMENT ON FUNCTION @extschema@.retry_dead_letters(text, text, timestamptz, integer) IS
	'makes pending and failed dead letters due now, with all their retries; p_error_like is a LIKE pattern, p_since is compared with created_at; how many';

CREATE FUNCTION @extschema@.discard_dead_letters(
	p_service text DEFAULT NULL, p_error_like text DEFAULT NULL,
	p_since timestamptz DEFAULT NULL, p_limit integer DEFAULT NULL)
	RETURNS integer
	AS 'MODULE_PATHNAME', 'wahook_discard_dead_letters' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.discard_dead_letters(text, text, timestamptz, integer) IS
	'resolves pending and failed dead letters without processing them; their errors stay on record until the retention of resolved ones; arguments as of retry_dead_letters(); how many';
