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
SELECT set_eq($$ SELECT name::text FROM relations WHERE relkind = 'r' AND NOT relrowsecurity $$,
	ARRAY['webhook_services', 'webhook_agents', 'webhook_rate_limit_buckets'],
	'every table but the configuration has row level security');
SELECT is_empty($$ SELECT polname FROM pg_policy JOIN relations r ON r.oid = polrelid $$,
	'no policy admits anybody before a grant');
SELECT is_empty($$ SELECT signature FROM functions
	WHERE prosecdef AND NOT coalesce(proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false) $$,
	'every SECURITY DEFINER function sets its search_path');
SELECT is_empty($$ SELECT signature FROM functions JOIN pg_language l ON l.oid = prolang
	WHERE lanname = 'plpgsql' AND NOT coalesce(proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false) $$,
	'every PL/pgSQL function sets its search_path');

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
		AND relname NOT IN ('webhook_conversations', 'webhook_rate_limits')
		-- go with their conversation
		AND relname NOT IN ('webhook_identities', 'agent_contexts')
		-- emptied by processing
		AND relname NOT IN ('webhook_inbox', 'webhook_conversation_queue')
		-- configuration
		AND relname NOT IN ('webhook_services', 'webhook_agents', 'webhook_rate_limit_buckets') $$,
	'every table has a retention or a bound');
SELECT lives_ok(format('SELECT webhook_setting(%L)::interval', setting), format('setting of %s', table_name))
	FROM webhook_retention_rules();

-- Dumped.
SELECT is_empty($$ SELECT name FROM relations
	WHERE relkind IN ('r', 'S') AND relpersistence = 'p'
		AND oid <> ALL ((SELECT extconfig FROM pg_extension WHERE extname = 'wahook')::oid[]) $$,
	'every logged table and sequence is dumped');

-- Granted and taken back, whatever the role is called.
CREATE ROLE "wahook '""; DROP TABLE x; -- a name as long as names can be ----";
SELECT lives_ok($$ SELECT wahook_grant(oid, 'service') FROM pg_roles WHERE rolname LIKE 'wahook ''%' $$, 'grant');
SELECT lives_ok($$ SELECT wahook_grant(oid, 'service') FROM pg_roles WHERE rolname LIKE 'wahook ''%' $$, 'grant again');
SELECT is_empty($$ SELECT polrelid::regclass FROM pg_policy GROUP BY polrelid HAVING count(*) > 1 $$,
	'a second grant adds no policy');
SELECT set_eq(
	$$ SELECT polrelid::regclass::text FROM pg_policy $$,
	$$ SELECT object_name FROM webhook_privileges() JOIN relations ON relname = object_name AND relrowsecurity
		WHERE service IS NOT NULL $$,
	'each table of user data that is granted has a policy');
SELECT lives_ok($$ SELECT wahook_revoke(oid, 'service') FROM pg_roles WHERE rolname LIKE 'wahook ''%' $$, 'revoke');
SELECT is_empty($$ SELECT polname FROM pg_policy $$, 'no policy is left');
SELECT is_empty($$ SELECT c.relname FROM pg_class c, aclexplode(relacl) a
		WHERE a.grantee = (SELECT oid FROM pg_roles WHERE rolname LIKE 'wahook ''%')
	UNION ALL SELECT p.proname FROM pg_proc p, aclexplode(proacl) a
		WHERE a.grantee = (SELECT oid FROM pg_roles WHERE rolname LIKE 'wahook ''%') $$,
	'no privilege is left');
SELECT throws_ok($$ SELECT wahook_grant('pg_monitor', 'root') $$, '22023');
SELECT throws_ok($$ SELECT wahook_grant(NULL, 'service') $$, '42704');
SELECT throws_ok($$ SELECT wahook_grant(0::oid, 'service') $$, '42704');

SELECT * FROM finish();
ROLLBACK;
