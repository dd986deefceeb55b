-- Erasing a user: what the law lets a user ask for.
--
-- name: a phone number or user id by which the user is known. What is of the user goes as a whole: the
-- conversations, and all that belongs to them. What is of others and only mentions the user stays, with
-- the name made unreadable. Of the messages a hash of their id stays, so that a delivery of Meta's that
-- is repeated is still known; the id itself has the phone number in it.

-- Whether the user sent one of the messages in a payload: of wahook's own, a message, or a whole delivery.
CREATE FUNCTION @extschema@.webhook_sent_by(p_payload jsonb, p_names text[]) RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT EXISTS (SELECT FROM (
			SELECT p_payload UNION ALL SELECT p_payload -> 'message'
			UNION ALL SELECT jsonb_path_query(p_payload, 'lax $.entry[*].changes[*].value.messages[*]')) messages(message),
		LATERAL (VALUES (message ->> 'from'), (message ->> 'from_user_id'), (message ->> 'user_id'), (message ->> 'phone')) senders(sender)
		WHERE sender = ANY (p_names) OR regexp_replace(sender, '[^0-9]', '', 'g') = ANY (p_names))
	$$;
COMMENT ON FUNCTION @extschema@.webhook_sent_by(jsonb, text[]) IS
	'whether one of these names sent a message in a payload';

-- A name inside of a longer one is another one. A short one has to be a whole value.
CREATE FUNCTION @extschema@.webhook_name_pattern(p_name text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE
		WHEN length(p_name) < 5 THEN '(?<=^|")' || quoted || '(?=$|")'
		WHEN p_name ~ '^[0-9]+$' THEN '(?<![0-9])' || quoted || '(?![0-9])'
		ELSE '(?<![A-Za-z0-9.])' || quoted || '(?![A-Za-z0-9])' END
	FROM regexp_replace(p_name, '([^[:alnum:]])', E'\\\\\\1', 'g') quoted
	$$;
COMMENT ON FUNCTION @extschema@.webhook_name_pattern(text) IS
	'the regular expression that finds a name of a user in a text';

-- In JSON a number must stay one.
CREATE FUNCTION @extschema@.webhook_without_names(p_text text, p_names text[]) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_text text := p_text;
	v_name text;
BEGIN
	FOREACH v_name IN ARRAY p_names LOOP
		v_text := regexp_replace(v_text, @extschema@.webhook_name_pattern(v_name),
			CASE WHEN v_name ~ '^[0-9]+$' THEN rpad('1', length(v_name), '0') ELSE 'erased' END, 'g');
	END LOOP;
	RETURN v_text;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_without_names(text, text[]) IS
	'a text in which the names of a user can''t be read any more';

CREATE FUNCTION @extschema@.webhook_mentions(p_text text, p_names text[]) RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT EXISTS (SELECT FROM unnest(p_names) name
		WHERE position(name IN p_text) > 0 AND p_text ~ @extschema@.webhook_name_pattern(name))
	$$;
COMMENT ON FUNCTION @extschema@.webhook_mentions(text, text[]) IS
	'whether a name of a user is in a text';

CREATE FUNCTION @extschema@.webhook_names_of_user(p_user_id text, OUT names text[], OUT conversations uuid[])
	RETURNS record
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_found text[];
BEGIN
	names := ARRAY(SELECT DISTINCT name FROM unnest(ARRAY[p_user_id,
			CASE WHEN p_user_id ~ '^[-+() 0-9]*[0-9][-+() 0-9]*$' THEN regexp_replace(p_user_id, '[^0-9]', '', 'g') END]) name
		WHERE name <> '');
	LOOP
		-- Numbers are given to other people: the number in a conversation's row is the user's only where it
		-- does not lead to the conversation of somebody else by now.
		conversations := ARRAY(
			SELECT i.conversation_id FROM @extschema@.webhook_identities i WHERE i.identity = ANY (names)
			UNION SELECT c.id FROM @extschema@.webhook_conversations c
				WHERE c.user_id = ANY (names) OR regexp_replace(c.user_id, '^[+]', '') = ANY (names)
			UNION SELECT c.id FROM @extschema@.webhook_conversations c
				WHERE regexp_replace(c.whatsapp_phone, '[^0-9]', '', 'g') = ANY (names)
					AND NOT EXISTS (SELECT FROM @extschema@.webhook_identities i
						JOIN @extschema@.webhook_conversations d ON d.id = i.conversation_id
						WHERE i.identity = regexp_replace(c.whatsapp_phone, '[^0-9]', '', 'g') AND d.user_id <> c.user_id));
		v_found := ARRAY(
			SELECT name FROM (
				SELECT i.identity FROM @extschema@.webhook_identities i WHERE i.conversation_id = ANY (conversations)
				UNION SELECT c.user_id FROM @extschema@.webhook_conversations c WHERE c.id = ANY (conversations)
				UNION SELECT n.name FROM @extschema@.webhook_inbox i, LATERAL (VALUES (i.user_id), (i.whatsapp_phone)) n(name)
					WHERE i.conversation_id = ANY (conversations)
				UNION SELECT n.name FROM @extschema@.webhook_conversations c,
						LATERAL (VALUES (c.whatsapp_phone), (regexp_replace(c.whatsapp_phone, '[^0-9]', '', 'g'))) n(name)
					WHERE c.id = ANY (conversations) AND NOT EXISTS (
						SELECT FROM @extschema@.webhook_identities i
						WHERE i.identity = regexp_replace(c.whatsapp_phone, '[^0-9]', '', 'g') AND i.conversation_id <> ALL (conversations))
			) n(name) WHERE name <> '' AND name <> ALL (names));
		EXIT WHEN v_found = '{}';
		names := names || v_found;
	END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_names_of_user(text) IS
	'all names that lead to the same user as one of them, and the conversations that they lead to';

-- A holder of one of the conversations finds it gone: its complete is an error, and rolls back. Whoever has
-- a row locked is waited for, but not for long.
CREATE FUNCTION @extschema@.erase_webhook_user(p_user_id text) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s'
	AS $$
DECLARE
	v_names text[];
	v_patterns text[]; -- of LIKE: whatever may mention one of them, found fast
	v_conversations uuid[];
	v_messages uuid[];
	v_wamids text[];
	v_entries uuid[];
	v_counts jsonb := '{}';
	v_table record;
	v_rows bigint;
BEGIN
	IF coalesce(btrim(p_user_id), '') = '' THEN
		RAISE EXCEPTION 'p_user_id must not be null or empty'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It names nobody.',
				HINT = 'Pass a phone number or a user id.';
	END IF;
	SELECT n.names, n.conversations INTO v_names, v_conversations FROM @extschema@.webhook_names_of_user(btrim(p_user_id)) n;

	v_patterns := ARRAY(SELECT '%' || regexp_replace(name, E'([\\\\%_])', E'\\\\\\1', 'g') || '%' FROM unnest(v_names) name);

	-- First what all calls lock first. The agents' tables follow by their foreign keys, so they are counted here.
	PERFORM FROM @extschema@.webhook_conversations WHERE id = ANY (v_conversations) ORDER BY id FOR UPDATE;
	-- The names before the messages: of one that arrives in between, the name must stay. Rows that name others too stay
	-- theirs; those that somebody is changing keep the name, which then leads to nothing, rather than be waited for.
	FOR v_table IN SELECT unnest('{webhook_conversation_queue,webhook_leases}'::text[]) AS name LOOP
		EXECUTE format('UPDATE @extschema@.%1$I SET (conversation_id, others) = (SELECT ids[1], nullif(ids[2:], ''{}'')'
			' FROM (SELECT array_agg(id ORDER BY n) FROM unnest(conversation_id || others) WITH ORDINALITY named (id, n) WHERE id <> ALL ($1)) rest (ids))'
			' WHERE ctid = ANY (ARRAY(SELECT ctid FROM @extschema@.%1$I WHERE conversation_id || others && $1'
			' AND NOT conversation_id || others <@ $1 FOR UPDATE SKIP LOCKED))', v_table.name) USING v_conversations;
		GET DIAGNOSTICS v_rows = ROW_COUNT;
		v_counts := v_counts || jsonb_build_object(v_table.name, v_rows);
		EXECUTE format('DELETE FROM @extschema@.%1$I WHERE ctid = ANY (ARRAY('
			'SELECT ctid FROM @extschema@.%1$I WHERE conversation_id || others <@ $1 FOR UPDATE SKIP LOCKED))', v_table.name) USING v_conversations;
		GET DIAGNOSTICS v_rows = ROW_COUNT;
		v_counts := jsonb_set(v_counts, ARRAY[v_table.name], to_jsonb((v_counts ->> v_table.name)::bigint + v_rows));
	END LOOP;
	FOR v_table IN SELECT unnest('{webhook_agent_replies,agent_turns,agent_contexts,agent_sessions,webhook_message_changes,conversation_state_transitions,webhook_inbox,webhook_identities}'::text[]) AS name LOOP
		EXECUTE format('DELETE FROM @extschema@.%I WHERE conversation_id = ANY ($1)', v_table.name) USING v_conversations;
		GET DIAGNOSTICS v_rows = ROW_COUNT;
		v_counts := v_counts || jsonb_build_object(v_table.name, v_rows);
	END LOOP;
	DELETE FROM @extschema@.webhook_conversations WHERE id = ANY (v_conversations);
	GET DIAGNOSTICS v_rows = ROW_COUNT;
	v_counts := v_counts || jsonb_build_object('webhook_conversations', v_rows);

	-- With what has come to an inbox since: neither is ever without the other.
	WITH gone AS (
		DELETE FROM @extschema@.processed_webhook_messages p
		WHERE p.conversation_id = ANY (v_conversations)
			OR (p.payload::text LIKE ANY (v_patterns) AND @extschema@.webhook_sent_by(p.payload, v_names))
		RETURNING p.id, p.whatsapp_message_id, p.conversation_id),
	waiting AS (
		DELETE FROM @extschema@.webhook_inbox i USING gone WHERE i.conversation_id = gone.conversation_id AND i.message_id = gone.id)
	SELECT coalesce(array_agg(id), '{}'), coalesce(array_agg(whatsapp_message_id), '{}') INTO v_messages, v_wamids FROM gone;
	v_counts := v_counts || jsonb_build_object('processed_webhook_messages', cardinality(v_messages));
	WITH gone AS (
		DELETE FROM @extschema@.webhook_dlq d
		WHERE d.conversation_id = ANY (v_conversations) OR d.whatsapp_message_id = ANY (v_wamids)
			OR regexp_replace(d.from_number, '[^0-9]', '', 'g') = ANY (v_names) OR d.from_number = ANY (v_names)
			OR (d.payload::text LIKE ANY (v_patterns) AND @extschema@.webhook_sent_by(d.payload, v_names))
		RETURNING d.id, d.whatsapp_message_id)
	SELECT coalesce(array_agg(id), '{}'), v_wamids || coalesce(array_agg(whatsapp_message_id) FILTER (WHERE whatsapp_message_id IS NOT NULL), '{}')
		INTO v_entries, v_wamids FROM gone;
	v_counts := v_counts || jsonb_build_object('webhook_dlq', cardinality(v_entries));
	INSERT INTO @extschema@.webhook_erased_messages (id_hash)
		SELECT DISTINCT sha256(convert_to(id, 'UTF8')) FROM unnest(v_wamids) id
		ON CONFLICT DO NOTHING;
	DELETE FROM @extschema@.webhook_attempts WHERE message_id = ANY (v_messages || v_entries) OR conversation_id = ANY (v_conversations);
	GET DIAGNOSTICS v_rows = ROW_COUNT;
	v_counts := v_counts || jsonb_build_object('webhook_attempts', v_rows);

	DELETE FROM @extschema@.webhook_message_statuses s
		WHERE s.recipient = ANY (v_names) OR (s.payload::text LIKE ANY (v_patterns) AND @extschema@.webhook_mentions(s.payload::text, v_names));
	GET DIAGNOSTICS v_rows = ROW_COUNT;
	v_counts := v_counts || jsonb_build_object('webhook_message_statuses', v_rows);
	DELETE FROM @extschema@.webhook_identities WHERE identity = ANY (v_names);
	DELETE FROM @extschema@.user_sessions
		WHERE phone_number = ANY (v_names) OR regexp_replace(phone_number, '[^0-9]', '', 'g') = ANY (v_names);
	GET DIAGNOSTICS v_rows = ROW_COUNT;
	v_counts := v_counts || jsonb_build_object('user_sessions', v_rows);
	DELETE FROM @extschema@.wa_workflow_recovery
		WHERE conversation_id = ANY (v_conversations::text[]) OR conversation_id = ANY (v_names)
			OR regexp_replace(conversation_id, '^[+]', '') = ANY (v_names);
	GET DIAGNOSTICS v_rows = ROW_COUNT;
	v_counts := v_counts || jsonb_build_object('wa_workflow_recovery', v_rows);
	DELETE FROM @extschema@.webhook_rate_limits WHERE @extschema@.webhook_mentions(identifier, v_names);
	GET DIAGNOSTICS v_rows = ROW_COUNT;
	v_counts := v_counts || jsonb_build_object('webhook_rate_limits', v_rows);
	DELETE FROM @extschema@.webhook_circuits WHERE @extschema@.webhook_mentions(key, v_names);

	-- These are known again by their hash, and need no content for that.
	UPDATE @extschema@.webhook_notices SET payload = '{"erased": true}'
		WHERE payload::text LIKE ANY (v_patterns) AND @extschema@.webhook_mentions(payload::text, v_names);
	GET DIAGNOSTICS v_rows = ROW_COUNT;
	v_counts := v_counts || jsonb_build_object('webhook_notices', v_rows);
	UPDATE @extschema@.webhook_quarantine SET body = ''
		WHERE body LIKE ANY (v_patterns) AND @extschema@.webhook_mentions(body, v_names);
	GET DIAGNOSTICS v_rows = ROW_COUNT;
	v_counts := v_counts || jsonb_build_object('webhook_quarantine', v_rows);

	FOR v_table IN SELECT unnest('{webhook_services,webhook_feature_flags}'::text[]) AS name LOOP
		EXECUTE format('UPDATE @extschema@.%I SET test_users = ARRAY(SELECT name FROM unnest(test_users) name'
			' WHERE name <> ALL ($1) AND regexp_replace(name, ''^[+]'', '''') <> ALL ($1))'
			' WHERE EXISTS (SELECT FROM unnest(test_users) name WHERE name = ANY ($1) OR regexp_replace(name, ''^[+]'', '''') = ANY ($1))', v_table.name)
			USING v_names;
		GET DIAGNOSTICS v_rows = ROW_COUNT;
		v_counts := v_counts || jsonb_build_object(v_table.name, v_rows);
	END LOOP;

	-- What is left are mentions, wherever there is a text: of all tables, so that none can be forgotten.
	FOR v_table IN
		SELECT c.relname AS name,
			string_agg(format('%1$I = @extschema@.webhook_without_names(%1$I::text, $1)::%2$s', a.attname, a.atttypid::regtype), ', ') AS changes,
			string_agg(format('(%1$I::text LIKE ANY ($2) AND @extschema@.webhook_mentions(%1$I::text, $1))', a.attname), ' OR ') AS mentions
		FROM pg_extension e
			JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
			JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
			JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE e.extname = 'wahook' AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
			AND a.atttypid IN ('text'::regtype, 'jsonb'::regtype)
			AND c.relname NOT IN ('webhook_services', 'webhook_service_secrets', 'webhook_routes', 'webhook_feature_flags', 'webhook_agents',
				'webhook_agent_secrets', 'webhook_agent_variants', 'webhook_agent_versions', 'webhook_rate_limit_buckets', 'webhook_rate_limits', 'webhook_circuits')
			-- Keys, and words of a list.
			AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'c') AND a.attnum = ANY (k.conkey))
			AND a.attname NOT IN ('whatsapp_message_id', 'phone_number_id', 'entry_id', 'kind', 'service', 'agent_type')
		GROUP BY c.relname
	LOOP
		EXECUTE format('UPDATE @extschema@.%I SET %s WHERE %s', v_table.name, v_table.changes, v_table.mentions) USING v_names, v_patterns;
		GET DIAGNOSTICS v_rows = ROW_COUNT;
		IF v_rows > 0 THEN
			v_counts := v_counts || jsonb_build_object('mentions', coalesce((v_counts ->> 'mentions')::bigint, 0) + v_rows);
		END IF;
	END LOOP;
	v_counts := jsonb_build_object('mentions', 0) || v_counts;
	PERFORM @extschema@.webhook_log_event('WEBHOOK_USER_ERASED', v_counts);
	RETURN v_counts;
END
$$;
COMMENT ON FUNCTION @extschema@.erase_webhook_user(text) IS
	'erases all that is known of a user, by phone number or user id, and makes mentions elsewhere unreadable; how many rows of each table';
