-- Dead letters of the first generation, under either of their names.

-- One entry a message: the newest of those in both tables, resolved if any of them is. A retrier that
-- was at it is gone, and what was pending stays due when it was due.
CREATE FUNCTION @extschema@.webhook_import_entries(
	p_schema name, OUT source_rows bigint, OUT entries uuid[])
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_source record;
	v_queries text[];
BEGIN
	v_source := @extschema@.webhook_import_source(p_schema, 'webhook_dlq',
		'{conversation_id,service,retry_lease_until,processed}');
	IF v_source.query IS NOT NULL THEN
		v_queries := v_queries || format('SELECT id, whatsapp_message_id, from_number, payload, error, error_stack,'
			' correlation_id, retry_count, max_retries, next_retry_at, created_at, processed_at, resolution_status FROM (%s) d', v_source.query);
	END IF;
	v_source := @extschema@.webhook_import_source(p_schema, 'wa_dead_letter_queue', '{}');
	IF v_source.query IS NOT NULL THEN
		v_queries := v_queries || format('SELECT id, message_id AS whatsapp_message_id, coalesce(from_number, '''') AS from_number, payload,'
			' error_message AS error, error_stack, NULL::uuid AS correlation_id, coalesce(retry_count, 0) AS retry_count,'
			' coalesce(max_retries, 3) AS max_retries, next_retry_at, coalesce(created_at, now()) AS created_at, processed_at,'
			' CASE WHEN processed THEN ''resolved'' ELSE ''pending'' END AS resolution_status FROM (%s) w', v_source.query);
	END IF;
	IF v_queries IS NULL THEN
		RETURN;
	END IF;
	EXECUTE format('SELECT count(*) FROM (%s) q', array_to_string(v_queries, ' UNION ALL ')) INTO source_rows;
	EXECUTE format($query$
		WITH sources AS (
			SELECT coalesce(id, @extschema@.webhook_uuid()) AS id, nullif(whatsapp_message_id, '') AS message_id,
				from_number, coalesce(payload, '{}') AS payload, error, error_stack, correlation_id,
				greatest(retry_count, 0) AS retry_count, greatest(max_retries, 0) AS max_retries,
				next_retry_at, created_at, processed_at, resolution_status AS status
			FROM (%s) q
		), merged AS (
			SELECT DISTINCT ON (coalesce(message_id, id::text)) id, message_id,
				max(from_number) OVER same AS from_number, payload, error, error_stack, correlation_id,
				max(retry_count) OVER same AS retry_count, max_retries, min(next_retry_at) OVER same AS next_retry_at,
				min(created_at) OVER same AS created_at, max(processed_at) OVER same AS processed_at,
				CASE WHEN bool_or(status = 'resolved') OVER same THEN 'resolved'
					WHEN status = 'failed' OR max(retry_count) OVER same >= max_retries THEN 'failed'
					ELSE 'pending' END AS status
			FROM sources
			WINDOW same AS (PARTITION BY coalesce(message_id, id::text))
			-- Qualified: the bare name would be the result's.
			ORDER BY coalesce(message_id, id::text), sources.created_at DESC, sources.id DESC
		), added AS (
			INSERT INTO @extschema@.webhook_dlq (id, whatsapp_message_id, from_number, payload, error, error_stack,
				correlation_id, retry_count, max_retries, next_retry_at, created_at, processed_at, processed, resolution_status)
			SELECT id, message_id, from_number, payload, error, error_stack, correlation_id, retry_count, max_retries,
				CASE WHEN status = 'pending' THEN coalesce(next_retry_at, now()) END, created_at,
				CASE WHEN status = 'resolved' THEN coalesce(processed_at, now()) END, status = 'resolved', status
			FROM (
				-- What has been processed here already is not to be done again.
				SELECT d.id, message_id, from_number, d.payload, error, error_stack, d.correlation_id, retry_count, max_retries,
					next_retry_at, created_at, coalesce(m.processed_at, d.processed_at) AS processed_at,
					CASE WHEN m.processed_at IS NOT NULL THEN 'resolved' ELSE status END AS status
				FROM merged d LEFT JOIN @extschema@.processed_webhook_messages m ON m.whatsapp_message_id = d.message_id) d
			ORDER BY created_at
			ON CONFLICT DO NOTHING RETURNING id)
		SELECT array_agg(id) FROM added $query$, array_to_string(v_queries, ' UNION ALL '))
		INTO entries;
	entries := coalesce(entries, '{}');
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_import_entries(name) IS
	'takes over the dead letters of both tables, one entry a message; null: there is neither table';

-- An entry whose message can be read gets it: then Meta's repetition of it is known for what it is, and
-- the retry goes through the queue of its conversation. Other entries are left to callers of
-- get_retriable_messages(), who know what they wrote.
CREATE FUNCTION @extschema@.webhook_import_messages(p_entries uuid[], OUT conversations bigint, OUT messages bigint)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET check_function_bodies = on
	AS $$
BEGIN
	-- Its sender may have no conversation yet; the trigger registers its names.
	INSERT INTO @extschema@.webhook_conversations (user_id, whatsapp_phone, created_at)
		SELECT sender, sender, min(created_at) FROM (
			SELECT regexp_replace(coalesce(nullif(from_number, ''), payload #>> '{message,from}'), '[-+ ()]', '', 'g') AS sender, created_at
			FROM (SELECT from_number, @extschema@.webhook_import_payload(payload, whatsapp_message_id) AS payload, created_at
				FROM @extschema@.webhook_dlq d WHERE id = ANY (p_entries) AND resolution_status <> 'resolved'
					AND NOT EXISTS (SELECT FROM @extschema@.processed_webhook_messages m
						WHERE m.whatsapp_message_id = d.whatsapp_message_id)) d
			WHERE payload IS NOT NULL) s
		WHERE sender ~ '^[0-9]+$' AND NOT EXISTS (SELECT FROM @extschema@.webhook_identities WHERE identity = sender)
		GROUP BY sender;
	GET DIAGNOSTICS conversations = ROW_COUNT;

	INSERT INTO @extschema@.processed_webhook_messages
			(id, whatsapp_message_id, correlation_id, conversation_id, received_at, kind, payload, processed_at)
		SELECT @extschema@.webhook_import_id(d.created_at), d.whatsapp_message_id, coalesce(d.correlation_id, gen_random_uuid()),
			(SELECT i.conversation_id FROM @extschema@.webhook_identities i
				WHERE i.identity = regexp_replace(coalesce(nullif(d.from_number, ''), p.payload #>> '{message,from}'), '[-+ ()]', '', 'g')
					AND i.phone_number_id IN ('', p.payload #>> '{metadata,phone_number_id}')
				ORDER BY i.phone_number_id DESC LIMIT 1),
			d.created_at, coalesce(p.payload #>> '{message,type}', 'message'), p.payload, d.processed_at
		FROM @extschema@.webhook_dlq d,
			LATERAL (SELECT @extschema@.webhook_import_payload(d.payload, d.whatsapp_message_id) AS payload) p
		WHERE d.id = ANY (p_entries) AND p.payload IS NOT NULL
		ORDER BY d.created_at
		ON CONFLICT DO NOTHING;
	GET DIAGNOSTICS messages = ROW_COUNT;

	UPDATE @extschema@.webhook_dlq d
		SET conversation_id = m.conversation_id, correlation_id = coalesce(d.correlation_id, m.correlation_id),
			from_number = coalesce(nullif(d.from_number, ''), m.payload #>> '{message,from}', '')
		FROM @extschema@.processed_webhook_messages m
		WHERE d.id = ANY (p_entries) AND m.whatsapp_message_id = d.whatsapp_message_id;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_import_messages(uuid[]) IS
	'gives imported dead letters their messages and conversations, where these can be read from them';

CREATE FUNCTION @extschema@.webhook_import_dead_letters(
	p_schema name, OUT source_rows bigint, OUT imported bigint, OUT conversations bigint, OUT messages bigint)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_entries uuid[];
BEGIN
	-- The triggers look at one entry at a time, and keep a lock for each: too many for many entries. What
	-- they would do is done here for all of them.
	ALTER TABLE @extschema@.webhook_dlq
		DISABLE TRIGGER webhook_dlq_before_change, DISABLE TRIGGER webhook_dlq_after_insert,
		DISABLE TRIGGER webhook_dlq_note_insert, DISABLE TRIGGER webhook_dlq_note_update;
	SELECT e.source_rows, e.entries INTO source_rows, v_entries FROM @extschema@.webhook_import_entries(p_schema) e;
	imported := cardinality(v_entries);
	SELECT m.conversations, m.messages INTO conversations, messages FROM @extschema@.webhook_import_messages(v_entries) m;
	ALTER TABLE @extschema@.webhook_dlq
		ENABLE TRIGGER webhook_dlq_before_change, ENABLE TRIGGER webhook_dlq_after_insert,
		ENABLE TRIGGER webhook_dlq_note_insert, ENABLE TRIGGER webhook_dlq_note_update;
	-- One change with triggers lets the worker know when the first is due.
	UPDATE @extschema@.webhook_dlq SET updated_at = now()
		WHERE id = (SELECT id FROM @extschema@.webhook_dlq
			WHERE id = ANY (v_entries) AND resolution_status = 'pending' ORDER BY next_retry_at LIMIT 1);
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_import_dead_letters(name) IS
	'takes over the dead letters of both generations'' tables, with their messages';

CREATE FUNCTION @extschema@.wahook_import(p_schema name)
	RETURNS TABLE (table_name text, rows_before bigint, imported bigint, skipped bigint, rows_after bigint)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET row_security = off SET check_function_bodies = on
	AS $$
DECLARE
	v_owner regrole := (SELECT extowner FROM pg_extension WHERE extname = 'wahook');
	v_known_conversation constant text := 'EXISTS (SELECT FROM @extschema@.webhook_conversations c WHERE c.id = s.conversation_id)';
	v_first_active constant text := 'row_number() OVER (PARTITION BY conversation_id, agent_type, session_state ORDER BY started_at DESC) = 1'
		' AND NOT EXISTS (SELECT FROM @extschema@.agent_sessions a WHERE a.conversation_id = s.conversation_id'
		' AND a.agent_type = s.agent_type AND a.session_state = ''active'' AND a.id <> s.id)';
	v_table record;
	v_done record;
	v_letters record;
	v_brought jsonb := '{}';
	v_found boolean := false;
	v_results jsonb := '{}';
BEGIN
	IF NOT pg_has_role(current_user, v_owner, 'USAGE') THEN
		RAISE EXCEPTION 'must be owner of extension wahook to import into it'
			USING ERRCODE = 'insufficient_privilege', DETAIL = format('It belongs to role %s.', v_owner),
				HINT = format('Ask %s, or a superuser.', v_owner);
	ELSIF p_schema IS NULL OR NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = p_schema) THEN
		RAISE EXCEPTION 'schema "%" does not exist', coalesce(p_schema, 'null')
			USING ERRCODE = 'invalid_schema_name', HINT = 'Name the schema that has the tables of the first generation.';
	ELSIF quote_ident(p_schema) = '@extschema@' THEN
		RAISE EXCEPTION 'schema "%" is wahook''s own', p_schema
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Name the schema that has the tables of the first generation.';
	END IF;

	-- In the order of what refers to what. The newest active conversation of a user is the one to be
	-- found by its names, so it comes first. Its lock is its holder's, and stays behind. Dead letters
	-- come before the record of messages: a message of theirs has not been processed, whoever recorded it.
	FOR v_table IN
		SELECT * FROM (VALUES
			('webhook_conversations', '{phone_number_id,locked_by,locked_at,lock_token,lock_expires_at,claimed_messages}'::text[],
				'{}'::jsonb, 'true', '(status = ''active'') DESC, created_at DESC'),
			('webhook_dlq', NULL, NULL, NULL, NULL),
			('processed_webhook_messages', '{id,received_at,kind,service}', jsonb_build_object('received_at', 'processed_at',
				'id', '@extschema@.webhook_import_id(processed_at)'), 'whatsapp_message_id <> ''''', 'processed_at'),
			('conversation_state_transitions', '{}', '{}', 'true', 'created_at'),
			('agent_contexts', '{}', '{}', v_known_conversation, 'created_at'),
			('agent_sessions', '{}', jsonb_build_object(
				'session_state', format('CASE WHEN session_state <> ''active'' OR %s THEN session_state ELSE ''timeout'' END', v_first_active),
				'ended_at', format('CASE WHEN session_state <> ''active'' OR %s THEN ended_at ELSE coalesce(ended_at, started_at) END', v_first_active)),
				v_known_conversation, 'started_at'),
			('wa_workflow_recovery', '{}', '{}', 'true', 'created_at'),
			('user_sessions', '{}', '{}', 'true', 'last_interaction DESC')) t (name, leave_out, expressions, taken, sequence)
	LOOP
		EXECUTE format('SELECT count(*) FROM %s', '@extschema@.' || quote_ident(v_table.name)) INTO rows_before;
		IF v_table.name = 'webhook_dlq' THEN
			v_letters := @extschema@.webhook_import_dead_letters(p_schema);
			v_done := v_letters;
			v_brought := jsonb_build_object('webhook_conversations', v_letters.conversations,
				'processed_webhook_messages', v_letters.messages);
		ELSE
			v_done := @extschema@.webhook_import_table(p_schema, v_table.name, v_table.leave_out, v_table.expressions,
				v_table.taken, v_table.sequence);
		END IF;
		v_found := v_found OR v_done.source_rows IS NOT NULL;
		v_results := v_results || jsonb_build_object(v_table.name, jsonb_build_array(
			rows_before - coalesce((v_brought ->> v_table.name)::bigint, 0),
			coalesce(v_done.imported, 0), coalesce(v_done.source_rows - v_done.imported, 0)));
	END LOOP;
	IF NOT v_found THEN
		RAISE EXCEPTION 'schema "%" has no table of the first generation', p_schema
			USING ERRCODE = 'undefined_table', HINT = 'Name the schema that has webhook_conversations and the others.';
	END IF;

	-- The sums of the monitoring views know nothing of messages from the past: they are counted anew.
	IF (v_results -> 'processed_webhook_messages' ->> 1)::bigint > 0 OR (v_brought ->> 'processed_webhook_messages')::bigint > 0 THEN
		PERFORM @extschema@.webhook_try_job_lock('rollup'::text); -- it is not to wait for this transaction
		DELETE FROM @extschema@.webhook_rollup_state;
		DELETE FROM @extschema@.webhook_message_sums;
	END IF;

	-- What dead letters brought with them counts where it went.
	FOR table_name, rows_before, imported, skipped IN
		SELECT key, (value ->> 0)::bigint, (value ->> 1)::bigint + coalesce((v_brought ->> key)::bigint, 0),
			(value ->> 2)::bigint
		FROM jsonb_each(v_results) ORDER BY key
	LOOP
		EXECUTE format('SELECT count(*) FROM %s', '@extschema@.' || quote_ident(table_name)) INTO rows_after;
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.wahook_import(name) IS
	'takes over the tables of a first-generation installation in another schema: rows before, imported, skipped because they are here already or belong to none that is, and after';
