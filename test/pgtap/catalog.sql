-- Rules that every object of the extension keeps: found in the catalog, so that a new one can't slip by.
BEGIN;
SELECT no_plan();

CREATE TEMP VIEW members AS
	SELECT d.classid, d.objid
	FROM pg_extension e JOIN pg_depend d
		ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
	WHERE e.extname = 'wahook';
CREATE TEMP VIEW functions AS
	SELECT p.* , p.oid::regprocedure AS signature
	FROM pg_proc p JOIN members ON classid = 'pg_proc'::regclass AND objid = p.oid;
CREATE TEMP VIEW relations AS
	SELECT c.*, c.oid::regclass AS name
	FROM pg_class c JOIN members ON classid = 'pg_class'::regclass AND objid = c.oid;

-- Documented.
SELECT is_empty($$ SELECT signature FROM functions WHERE obj_description(oid, 'pg_proc') IS NULL $$,
	'every function has a comment');
SELECT is_empty($$ SELECT name FROM relations
	WHERE relkind IN ('r', 'v') AND obj_description(oid, 'pg_class') IS NULL $$,
	'every table and view has a comment');

-- Callable by a REST layer.
SELECT is_empty($$ SELECT proname FROM functions GROUP BY proname HAVING count(*) > 1 $$,
	'no function is overloaded');
SELECT is_empty($$ SELECT signature, arg FROM functions,
		unnest(proargnames[1:pronargs]) arg
	WHERE arg IS NULL OR arg !~ '^p_' AND arg <> 'lookback_hours' $$,
	'arguments are named p_...');
SELECT is_empty($$ SELECT signature FROM functions WHERE pronargs > 0 AND proargnames IS NULL $$,
	'every argument has a name');

-- Closed.
SELECT is_empty($$ SELECT signature FROM functions,
		aclexplode(coalesce(proacl, acldefault('f', proowner))) a WHERE a.grantee <> proowner $$,
	'no function is open to anybody');
SELECT is_empty($$ SELECT name FROM relations,
		aclexplode(coalesce(relacl, acldefault('r', relowner))) a WHERE a.grantee <> relowner $$,
	'no table, view or sequence is open to anybody');
SELECT is_empty($$ SELECT name FROM relations WHERE relkind = 'r' AND NOT relrowsecurity $$,
	'every table has row level security');
SELECT is_empty($$ SELECT t.oid::regtype FROM pg_type t JOIN members ON classid = 'pg_type'::regclass AND objid = t.oid,
		aclexplode(coalesce(typacl, acldefault('T', typowner))) a
	WHERE typtype = 'd' AND a.grantee <> typowner $$,
	'nobody has a level before a grant');
SELECT is_empty($$ SELECT signature FROM functions
	WHERE prosecdef AND NOT coalesce(proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false) $$,
	'every SECURITY DEFINER function sets its search_path');
SELECT is_empty($$ SELECT signature FROM functions JOIN pg_language l ON l.oid = prolang
	WHERE lanname IN ('sql', 'plpgsql') AND prosqlbody IS NULL
		AND NOT coalesce(proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false) $$,
	'no function in SQL or PL/pgSQL looks names up in its caller''s search_path');

-- The list of privileges and the catalog name the same things.
SELECT set_eq(
	$$ SELECT kind, object_name FROM webhook_privileges() $$,
	$$ SELECT 'function', proname::text FROM functions
		UNION ALL SELECT CASE relkind WHEN 'r' THEN 'table' ELSE 'view' END, relname::text
			FROM relations WHERE relkind IN ('r', 'v') $$,
	'webhook_privileges() names every table, view and function, and nothing else');
SELECT is_empty($$ SELECT object_name FROM webhook_privileges()
	GROUP BY kind, object_name HAVING count(*) > 1 $$, 'and each once');

-- Bounded.
SELECT is_empty($$ SELECT relname FROM relations WHERE relkind = 'r'
		AND relname NOT IN (SELECT table_name FROM webhook_retention_rules())
		-- swept by apply_webhook_retention()
		AND relname NOT IN ('webhook_conversations', 'webhook_rate_limits', 'webhook_circuits')
		-- go with their conversation
		AND relname NOT IN ('webhook_identities', 'agent_contexts')
		-- emptied by processing
		AND relname NOT IN ('webhook_inbox', 'webhook_conversation_queue', 'webhook_leases')
		-- a row a job
		AND relname NOT IN ('webhook_job_runs')
		-- a row a status, and a row
		AND relname NOT IN ('webhook_conversation_sums', 'webhook_rollup_state')
		-- configuration
		AND relname NOT IN ('webhook_services', 'webhook_service_secrets', 'webhook_routes', 'webhook_feature_flags',
			'webhook_agents', 'webhook_agent_secrets', 'webhook_agent_variants', 'webhook_rate_limit_buckets') $$,
	'every table has a retention or a bound');
SELECT lives_ok(format('SELECT webhook_setting(%L)::interval', setting), format('setting of %s', table_name))
	FROM webhook_retention_rules();

-- Dumped.
SELECT is_empty($$ SELECT name FROM relations
	WHERE relkind IN ('r', 'p', 'm', 'S') AND relpersistence = 'p'
		AND oid <> ALL ((SELECT extconfig FROM pg_extension WHERE extname = 'wahook')::oid[]) $$,
	'every logged table and sequence is dumped');

-- A policy asks for the levels that have a privilege on its table, and for nothing else.
SELECT set_eq(
	$$ SELECT r.relname::text, refobjid::regtype::text
		FROM pg_policy p JOIN relations r ON r.oid = polrelid
			JOIN pg_depend ON classid = 'pg_policy'::regclass AND objid = p.oid AND refclassid = 'pg_type'::regclass $$,
	$$ SELECT object_name, 'webhook_level_' || level
		FROM webhook_privileges() p JOIN relations ON relname = object_name AND relkind = 'r',
			(VALUES ('service'), ('monitor'), ('admin')) l(level)
		WHERE to_jsonb(p) ->> level IS NOT NULL $$,
	'each table that a level may use has a policy that admits it');

-- The levels contain each other, and a monitor gets numbers: views, functions and alerts, no other table.
SELECT is_empty($$ SELECT object_name FROM webhook_privileges()
	WHERE NOT string_to_array(admin, ', ') @> string_to_array(service, ', ') IS TRUE AND service IS NOT NULL $$,
	'an admin may what a service may');
SELECT is_empty($$ SELECT object_name FROM webhook_privileges() WHERE monitor IS NOT NULL AND (service IS NULL OR kind = 'table' AND object_name <> 'webhook_alerts') $$,
	'a service may what a monitor may, who reads no table but the alerts');

-- Granted and taken back, whatever the role is called.
CREATE ROLE "wahook '""; DROP TABLE x; -- a name as long as names can be ----";
CREATE TEMP VIEW the_role AS SELECT oid FROM pg_roles WHERE rolname LIKE 'wahook ''%';
CREATE TEMP VIEW privileges AS
	SELECT 'table' AS kind, relname AS object_name, a.privilege_type AS privilege
		FROM relations, aclexplode(relacl) a WHERE a.grantee = (SELECT oid FROM the_role)
	UNION ALL SELECT 'function', proname, a.privilege_type
		FROM functions, aclexplode(proacl) a WHERE a.grantee = (SELECT oid FROM the_role)
	UNION ALL SELECT 'type', typname, a.privilege_type
		FROM pg_type, aclexplode(typacl) a WHERE a.grantee = (SELECT oid FROM the_role);
CREATE TEMP VIEW expected AS
	SELECT level, CASE kind WHEN 'view' THEN 'table' ELSE kind END AS kind, object_name::name, privilege
	FROM webhook_privileges() p, (VALUES ('service'), ('monitor'), ('admin')) l(level),
		regexp_split_to_table(to_jsonb(p) ->> level, ', ') privilege
	UNION ALL SELECT level, 'type', 'webhook_level_' || level, 'USAGE'
		FROM unnest('{service,monitor,admin,personal_data}'::text[]) level
	UNION ALL SELECT level, 'type', 'webhook_personal_data', 'USAGE' FROM unnest('{service,admin,personal_data}'::text[]) level;

SELECT collect_tap(lives_ok(format('SELECT wahook_grant(oid, %L) FROM the_role', level), 'grant ' || level),
	lives_ok(format('SELECT wahook_grant(oid, %L) FROM the_role', level), 'and again'),
	set_eq('SELECT * FROM privileges', format('SELECT kind, object_name, privilege FROM expected WHERE level = %L', level), 'it has that'),
	set_eq('SELECT webhook_levels_of(oid) FROM the_role', ARRAY[level], 'and this level'),
	lives_ok(format('SELECT wahook_revoke(oid, %L) FROM the_role', level), 'revoke ' || level),
	lives_ok(format('SELECT wahook_revoke(oid, %L) FROM the_role', level), 'and again'),
	is_empty('SELECT * FROM privileges', 'nothing is left'))
FROM unnest('{service,monitor,admin,personal_data}'::text[]) level;

-- Of two levels, one is taken back.
SELECT collect_tap(lives_ok(format('SELECT wahook_grant(oid, %L), wahook_grant(oid, %L) FROM the_role', kept, lost), format('grant %s and %s', kept, lost)),
	set_eq('SELECT webhook_levels_of(oid) FROM the_role', ARRAY[kept, lost], 'it has both'),
	lives_ok(format('SELECT wahook_revoke(oid, %L) FROM the_role', lost), 'revoke ' || lost),
	set_eq('SELECT * FROM privileges', format('SELECT kind, object_name, privilege FROM expected WHERE level = %L', kept), 'it has what is left'),
	lives_ok(format('SELECT wahook_revoke(oid, %L) FROM the_role', kept), 'revoke ' || kept),
	is_empty('SELECT * FROM privileges', 'nothing is left'))
FROM unnest('{service,monitor,admin,personal_data}'::text[]) kept, unnest('{service,monitor,admin,personal_data}'::text[]) lost
WHERE kept <> lost;

-- After an update, everybody is granted again what they have.
SELECT wahook_grant(oid, 'service'), wahook_grant(oid, 'personal_data') FROM the_role;
SELECT format('REVOKE ALL ON FUNCTION receive_webhook FROM %s', oid::regrole),
	format('REVOKE DELETE ON webhook_dlq FROM %s', oid::regrole) FROM the_role \gexec
SELECT lives_ok($$ SELECT wahook_grant(r.oid, level) FROM pg_roles r, webhook_levels_of(r.oid) AS level $$, 'grant again');
SELECT set_eq('SELECT * FROM privileges', $$ SELECT kind, object_name, privilege FROM expected WHERE level IN ('service', 'personal_data') $$,
	'nothing is missing');
SELECT throws_ok($$ SELECT wahook_grant('pg_monitor', 'root') $$, '22023');
SELECT throws_ok($$ SELECT wahook_grant(NULL, 'service') $$, '42704');
SELECT throws_ok($$ SELECT wahook_grant(0::oid, 'service') $$, '42704');

SELECT * FROM finish();
ROLLBACK;
