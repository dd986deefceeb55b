-- Who may do what, tried: each statement and each function, as a role of each level and as roles that have none. What is
-- expected is what webhook_privileges() says, so a new object is tried as well.
BEGIN;
SELECT no_plan();
-- A grant of what one does not have is a warning, and nothing.
SET LOCAL client_min_messages = error;

CREATE ROLE t_nobody;
CREATE ROLE t_stray;
CREATE ROLE t_service;
CREATE ROLE t_monitor;
CREATE ROLE t_watcher;
CREATE ROLE t_admin;
CREATE ROLE t_member IN ROLE t_service;
CREATE ROLE t_guest NOINHERIT IN ROLE t_service;
CREATE ROLE t_reader IN ROLE pg_read_all_data, pg_write_all_data;
CREATE ROLE t_owner;
SELECT wahook_grant('t_service', 'service'), wahook_grant('t_monitor', 'monitor'), wahook_grant('t_admin', 'admin'),
	wahook_grant('t_watcher', 'monitor'), wahook_grant('t_watcher', 'personal_data');
-- What people do to a schema that an application lives in.
GRANT ALL ON ALL TABLES IN SCHEMA public TO t_stray;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO t_stray;
GRANT USAGE ON SCHEMA public TO t_stray, t_nobody, t_reader;

-- Tries a statement as a role, and undoes it: what came of it, 'done' or the SQLSTATE and message.
CREATE FUNCTION pg_temp.tried(p_role name, p_statement text) RETURNS text
	LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('role', p_role, true);
	EXECUTE p_statement;
	RAISE EXCEPTION USING ERRCODE = 'UNDO0';
EXCEPTION WHEN OTHERS THEN
	RETURN CASE SQLSTATE WHEN 'UNDO0' THEN 'done' ELSE SQLSTATE || ' ' || SQLERRM END;
END
$$;
-- How many rows a role sees; null: not allowed to look.
CREATE FUNCTION pg_temp.seen(p_role name, p_relation text, p_condition text DEFAULT 'true') RETURNS bigint
	LANGUAGE plpgsql AS $$
DECLARE
	v_count bigint;
BEGIN
	PERFORM set_config('role', p_role, true);
	EXECUTE format('SELECT count(*) FROM %I WHERE %s', p_relation, p_condition) INTO v_count;
	PERFORM set_config('role', 'none', true);
	RETURN v_count;
EXCEPTION WHEN insufficient_privilege THEN
	RETURN NULL;
END
$$;

CREATE TEMP TABLE roles (name text, level text);
INSERT INTO roles VALUES ('t_nobody', NULL), ('t_service', 'service'), ('t_monitor', 'monitor'), ('t_watcher', 'monitor'),
	('t_admin', 'admin'), ('t_member', 'service'), ('t_guest', NULL);
CREATE TEMP VIEW allowed AS
	SELECT r.name AS role, p.kind, p.object_name, string_to_array(to_jsonb(p) ->> r.level, ', ') AS privileges
	FROM roles r CROSS JOIN webhook_privileges() p;

-- Tables and views. The permission is checked before the statement does anything, or finds that it can't.
CREATE TEMP VIEW statements AS
	SELECT c.relname AS object_name, s.*
	FROM webhook_privileges() p JOIN pg_class c ON c.oid = format('public.%I', p.object_name)::regclass
		CROSS JOIN LATERAL (SELECT attname FROM pg_attribute
			WHERE attrelid = c.oid AND attnum > 0 AND attgenerated = '' ORDER BY attnum LIMIT 1) a
		CROSS JOIN LATERAL (VALUES
			('SELECT', format('SELECT FROM %I LIMIT 1', relname)),
			('INSERT', format('INSERT INTO %I DEFAULT VALUES', relname)),
			('UPDATE', format('UPDATE %I SET %I = DEFAULT WHERE false', relname, attname)),
			('DELETE', format('DELETE FROM %I WHERE false', relname)),
			('TRUNCATE', format('TRUNCATE %I CASCADE', relname)),
			('TRIGGER', format('CREATE TRIGGER mine BEFORE INSERT ON %I EXECUTE FUNCTION suppress_redundant_updates_trigger()', relname)),
			('RULE', format('CREATE RULE mine AS ON INSERT TO %I DO ALSO SELECT 1', relname)),
			('POLICY', format('CREATE POLICY mine ON %I USING (true)', relname)),
			('ALTER', format('ALTER TABLE %I DISABLE ROW LEVEL SECURITY', relname)),
			('DEFAULT', format('ALTER TABLE %I ALTER %I SET DEFAULT NULL', relname, attname)),
			('INDEX', format('CREATE INDEX ON %I (%I)', relname, attname)),
			('OWNER', format('ALTER TABLE %I OWNER TO t_nobody', relname)),
			('DROP', format('DROP TABLE %I', relname)),
			('GRANT', format('GRANT SELECT ON %I TO t_nobody', relname))) s(privilege, statement)
	WHERE p.kind IN ('table', 'view') AND NOT (p.kind = 'view' AND privilege NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE'));
SELECT is_empty(format($$ SELECT statement, result
		FROM statements JOIN allowed a USING (object_name), pg_temp.tried(a.role, statement) result
		WHERE a.role = %L AND (privilege = ANY (privileges)) IS NOT TRUE
			AND result NOT LIKE '42501 %%' AND result !~ '^55000 cannot .* view' AND NOT (privilege = 'GRANT' AND result = 'done') $$, name),
		name || ' does nothing to tables and views that it may not')
FROM roles;
SELECT is_empty(format($$ SELECT statement, result
		FROM statements JOIN allowed a USING (object_name), pg_temp.tried(a.role, statement) result
		WHERE a.role = %L AND privilege = ANY (privileges)
			AND result LIKE '42501 %%' AND result NOT LIKE '%% violates row-level security policy %%' $$, name),
		name || ' does what it may')
FROM roles;
SELECT is(has_table_privilege('t_nobody', format('public.%I', object_name), 'SELECT'), false, 'nothing was granted of ' || object_name)
FROM webhook_privileges() WHERE kind IN ('table', 'view');

-- Functions, with nulls, which is all the same to whether they may be called; as subqueries, because the call of a strict
-- function with a constant null is planned away.
CREATE TEMP VIEW calls AS
	SELECT p.proname AS object_name, format('SELECT %I(%s)', p.proname, (SELECT string_agg(format('(SELECT NULL::%s)', t::regtype), ', ') FROM unnest(proargtypes) t)) AS call
	FROM webhook_privileges() w JOIN pg_proc p ON p.proname = w.object_name AND p.pronamespace = 'public'::regnamespace
	WHERE w.kind = 'function';
SELECT is_empty(format($$ SELECT call, result
		FROM calls JOIN allowed a USING (object_name), pg_temp.tried(a.role, call) result
		WHERE a.role = %L AND privileges IS NULL AND result <> '42501 permission denied for function ' || object_name $$, name),
		name || ' calls no function that it may not')
FROM roles;
SELECT is_empty(format($$ SELECT call, result
		FROM calls JOIN allowed a USING (object_name), pg_temp.tried(a.role, call) result
		WHERE a.role = %L AND privileges IS NOT NULL AND result ~ '^(42501|XX)' $$, name),
		name || ' calls those that it may, and those that they call')
FROM roles;
SELECT is_empty($$ SELECT r.name, relname, result
	FROM roles r, pg_class c JOIN pg_namespace n ON n.oid = relnamespace, pg_temp.tried(r.name, format('SELECT nextval(%L)', c.oid::regclass)) result
	WHERE relkind = 'S' AND nspname = 'public' AND result NOT LIKE '42501 %' $$, 'no role takes numbers from the sequences');

-- Rows. Every kind of them.
SELECT receive_webhook('{"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"field": "messages", "value": {'
	'"messaging_product": "whatsapp", "metadata": {"display_phone_number": "1", "phone_number_id": "1"},'
	'"statuses": [{"id": "wamid.sent", "status": "read", "timestamp": "1700000000", "recipient_id": "250788000009"}],'
	'"messages": [{"from": "250788000001", "id": "wamid.1", "timestamp": "1700000000", "type": "text", "text": {"body": "hello"}},'
	'{"from": "250788000001", "id": "wamid.2", "timestamp": "1700000000", "type": "text", "text": {"body": "again"}},'
	'{"from": "250788000002", "id": "wamid.3", "timestamp": "1700000000", "type": "text", "text": {"body": "hello"}},'
	'{"from": "250788000003", "id": "wamid.4", "timestamp": "1700000000", "type": "text", "text": {"body": "\u0000"}}]}},'
	'{"field": "account_update", "value": {"event": "VERIFIED_ACCOUNT"}}]}]}');
CREATE TEMP TABLE claimed AS SELECT conversation_id, lock_id FROM claim_conversations();
SELECT fail_webhook_message(conversation_id, lock_id, 'wamid.1', 'no'), complete_webhook_messages(conversation_id, lock_id) FROM claimed;
SELECT transition_conversation(conversation_id, 'processing', 'test'), increment_session_metrics(conversation_id, 'waiter') FROM claimed;
INSERT INTO agent_contexts (conversation_id, agent_type) SELECT conversation_id, 'waiter' FROM claimed;
UPDATE webhook_conversations SET locked_by = gen_random_uuid(), locked_at = now() - interval '1 day';
INSERT INTO user_sessions (phone_number) VALUES ('250788000001');
INSERT INTO wa_workflow_recovery (conversation_id, workflow_type, recovery_action) VALUES ('1', 'order', 'retry');
SELECT check_rate_limit('250788000001', 'default');

CREATE TEMP TABLE counts AS
	SELECT object_name, kind, pg_temp.seen('none', object_name) AS rows FROM webhook_privileges() WHERE kind IN ('table', 'view');
SELECT cmp_ok(count(*), '>=', 19::bigint, 'there is something to see') FROM counts WHERE kind = 'table' AND rows > 0;
SELECT is_empty($$ SELECT object_name, pg_temp.seen('t_stray', object_name) FROM counts
	WHERE kind = 'table' AND pg_temp.seen('t_stray', object_name) <> 0 $$,
	'GRANT ALL ON ALL TABLES IN SCHEMA shows no row of any table');
SELECT is_empty($$ SELECT object_name, pg_temp.seen('t_reader', object_name) FROM counts
	WHERE kind = 'table' AND pg_temp.seen('t_reader', object_name) <> 0 $$,
	'nor does pg_read_all_data');
SELECT is(pg_temp.seen('t_stray', 'wa_dead_letter_queue'), 0::bigint, 'nor a view of a table');
SELECT is_empty($$ SELECT object_name, result FROM webhook_privileges(), pg_temp.tried('t_stray', format('INSERT INTO %I DEFAULT VALUES', object_name)) result
	WHERE kind = 'table' AND result NOT LIKE '42501 %' $$,
	'and it inserts none');
-- Or more: the worker that start_webhook_worker() has started meanwhile writes what its jobs did.
SELECT is_empty($$ SELECT a.role, object_name, rows, pg_temp.seen(a.role, object_name) AS seen
	FROM counts JOIN allowed a USING (object_name) WHERE 'SELECT' = ANY (privileges) AND (pg_temp.seen(a.role, object_name) >= rows) IS NOT TRUE $$,
	'a level sees all rows of what it may see');

-- Personal data in views.
SELECT cmp_ok(pg_temp.seen('t_monitor', view), '>', 0::bigint, 'a monitor sees rows of ' || view)
FROM unnest('{stuck_webhook_conversations,recent_webhook_state_transitions}'::text[]) view;
SELECT is(pg_temp.seen(role, view, 'coalesce(user_id, whatsapp_phone) IS NOT NULL'), CASE WHEN shown THEN pg_temp.seen('none', view) ELSE 0 END,
	format('%s sees %s personal data in %s', role, CASE WHEN shown THEN 'the' ELSE 'no' END, view))
FROM unnest('{stuck_webhook_conversations,recent_webhook_state_transitions}'::text[]) view,
	(VALUES ('t_monitor', false), ('t_watcher', true), ('t_service', true), ('t_admin', true)) r(role, shown);
-- Not by way of a function that is cheap enough to be called before the view's own expressions, either.
CREATE TEMP TABLE overheard (value text);
CREATE FUNCTION pg_temp.overhear(p_value text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
	RAISE EXCEPTION 'overheard "%"', p_value;
END
$$;
SELECT alike(pg_temp.tried('t_monitor', format('SELECT count(*) FROM %I WHERE %I.overhear(whatsapp_phone)', view, pg_my_temp_schema()::regnamespace)),
	'%overheard "<NULL>"', 'nobody overhears it in ' || view)
FROM unnest('{stuck_webhook_conversations,recent_webhook_state_transitions}'::text[]) view;

-- A level goes with its role: renamed, by another name given to somebody else, dropped.
ALTER ROLE t_service RENAME TO t_served;
SELECT is(pg_temp.seen('t_served', 'webhook_dlq'), 1::bigint, 'a renamed role keeps its level');
CREATE ROLE t_service;
SELECT is(pg_temp.seen('t_service', 'webhook_dlq'), NULL, 'a role of its former name does not get it');
SELECT throws_ok('DROP ROLE t_served', '2BP01');
SELECT lives_ok('DROP OWNED BY t_served', 'DROP OWNED takes levels away');
SELECT lives_ok('DROP ROLE t_served', 'then the role can be dropped');
SELECT is(pg_temp.seen('t_member', 'webhook_dlq'), NULL, 'and its members have lost it');

-- A level is not passed on, and only the owner gives one.
SELECT matches(pg_temp.tried('t_admin', format('SELECT %s(%L, %L)', f, 't_admin', level)), '^42501 permission denied for function', format('an admin does not call %s', f))
FROM unnest('{wahook_grant,wahook_revoke}'::text[]) f, unnest('{service,admin}'::text[]) level;
GRANT EXECUTE ON FUNCTION wahook_grant, wahook_revoke, webhook_check_grantor TO t_nobody;
SELECT matches(pg_temp.tried('t_nobody', 'SELECT wahook_grant(''t_nobody'', ''admin'')'), '^42501 must be owner of extension wahook',
	'nor does the right to call the function make anybody a grantor');
SELECT is_empty($$ SELECT webhook_levels_of('t_nobody') $$, 'it has no level');
SET ROLE t_admin;
GRANT ALL ON TYPE webhook_level_admin TO t_nobody;
GRANT EXECUTE ON FUNCTION receive_webhook TO t_nobody;
GRANT SELECT ON webhook_dlq TO t_nobody;
RESET ROLE;
SELECT is(has_function_privilege('t_nobody', 'receive_webhook(text, text, uuid)', 'EXECUTE') OR has_table_privilege('t_nobody', 'webhook_dlq', 'SELECT'),
	false, 'an admin passes nothing on');
SELECT is_empty($$ SELECT webhook_levels_of('t_nobody') $$, 'nor a level');

SELECT * FROM finish();
ROLLBACK;
