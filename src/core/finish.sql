-- The end of the install script: nothing is open to anybody but the owner, and what users fill is
-- dumped. Done for whatever the extension now has, so that nothing can be forgotten.
--
-- The end of an upgrade script as well. There, only what the script has created is closed: a GRANT or
-- REVOKE in a script makes all privileges on its object those of the extension, and no dump has what
-- users were granted before.

-- The seeds' foreign keys are deferred, and a table with checks outstanding can't be altered.
SET CONSTRAINTS ALL IMMEDIATE;

DO $$
DECLARE
	v_relation record;
	v_policy name;
	v_grant record;
BEGIN
	FOR v_relation IN
		SELECT c.oid::regclass AS name, c.relkind AS kind, c.relpersistence AS persistence,
			EXISTS (SELECT FROM pg_attribute
				WHERE attrelid = c.oid AND attname = 'from_extension') AS has_seeds,
			(SELECT string_agg(format('has_type_privilege(%L::regtype, ''USAGE'')', '@extschema@.webhook_level_' || level), ' OR ')
				FROM @extschema@.webhook_privileges() p, unnest('{service,monitor,admin}'::text[]) level
				WHERE p.kind = 'table' AND p.object_name = c.relname AND to_jsonb(p) ->> level IS NOT NULL) AS levels
		FROM pg_extension e
			JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
			JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
		WHERE e.extname = 'wahook' AND d.deptype = 'e' AND c.relkind IN ('r', 'S')
	LOOP
		-- A privilege that somebody gave with GRANT ... ON ALL TABLES shows no row: a level has to be
		-- there. The policies come with the extension, so no dump has to keep them.
		IF v_relation.kind = 'r' THEN
			EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', v_relation.name);
			FOR v_policy IN SELECT polname FROM pg_policy WHERE polrelid = v_relation.name AND polname LIKE 'wahook%' LOOP
				EXECUTE format('DROP POLICY %I ON %s', v_policy, v_relation.name);
			END LOOP;
			IF v_relation.levels <> '' THEN
				EXECUTE format('CREATE POLICY wahook ON %s USING ((SELECT %2$s)) WITH CHECK ((SELECT %2$s))',
					v_relation.name, v_relation.levels);
			END IF;
		END IF;
		-- Unlogged tables are cheap to lose.
		IF v_relation.persistence = 'p' THEN
			PERFORM pg_extension_config_dump(v_relation.name,
				CASE WHEN v_relation.has_seeds THEN 'WHERE NOT from_extension' ELSE '' END);
		END IF;
	END LOOP;

	-- Not only PUBLIC: the default privileges of a schema may have given roles their share.
	FOR v_grant IN
		SELECT o.kind, o.name, string_agg(DISTINCT
			CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, ', ') AS grantees
		FROM (
			SELECT d.refobjid AS extension, age(d.xmin) <= age(pg_current_xact_id()::xid) AS is_new,
				CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
				c.oid::regclass::text AS name, c.relowner AS owner,
				coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) AS acl
			FROM pg_depend d JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
			WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
				AND c.relkind IN ('r', 'v', 'S')
			UNION ALL
			SELECT d.refobjid, age(d.xmin) <= age(pg_current_xact_id()::xid), 'TYPE', t.oid::regtype::text, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner))
			FROM pg_depend d JOIN pg_type t ON d.classid = 'pg_type'::regclass AND d.objid = t.oid
			WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND t.typtype = 'd'
			UNION ALL
			SELECT d.refobjid, age(d.xmin) <= age(pg_current_xact_id()::xid), 'FUNCTION', p.oid::regprocedure::text, p.proowner,
				coalesce(p.proacl, acldefault('f', p.proowner))
			FROM pg_depend d JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
			WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e') o
			JOIN pg_extension e ON e.oid = o.extension AND e.extname = 'wahook'
			CROSS JOIN aclexplode(o.acl) a
		WHERE a.grantee <> o.owner AND o.is_new
		GROUP BY o.kind, o.name
	LOOP
		EXECUTE format('REVOKE ALL ON %s %s FROM %s', v_grant.kind, v_grant.name, v_grant.grantees);
	END LOOP;
END
$$;
