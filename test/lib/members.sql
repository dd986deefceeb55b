-- All that the catalog says of the extension's objects and what hangs on them, a line each; for test/check-upgrade.
CREATE TEMP VIEW members AS
	SELECT classid, objid FROM pg_depend d JOIN pg_extension e
		ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
	WHERE e.extname = 'wahook' AND d.deptype = 'e';
CREATE TEMP VIEW relations AS
	SELECT c.*, c.oid::regclass::text AS name FROM pg_class c JOIN members ON classid = 'pg_class'::regclass AND objid = c.oid;

SELECT line FROM (
	SELECT 'member ' || pg_describe_object(classid, objid, 0) FROM members
	UNION ALL
	SELECT format('%s %s: %s %s rowsecurity %s %s acl %s comment %s',
		relkind, name, relpersistence, reloptions, relrowsecurity, relforcerowsecurity, relacl, obj_description(oid, 'pg_class')) FROM relations
	UNION ALL
	SELECT format('column %s.%s (%s): %s%s default %s%s %s storage %s statistics %s acl %s comment %s',
		name, attname, row_number() OVER (PARTITION BY attrelid ORDER BY attnum), format_type(atttypid, atttypmod),
		CASE WHEN attnotnull THEN ' not null' END, pg_get_expr(adbin, adrelid), attgenerated, attidentity, attstorage, attstattarget,
		attacl, col_description(attrelid, attnum))
		FROM relations r JOIN pg_attribute a ON attrelid = r.oid AND attnum > 0 AND NOT attisdropped
			LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum WHERE relkind IN ('r', 'v')
	UNION ALL
	SELECT format('constraint %s %s: %s %s comment %s', name, conname, pg_get_constraintdef(c.oid), convalidated, obj_description(c.oid, 'pg_constraint'))
		FROM relations r JOIN pg_constraint c ON conrelid = r.oid
	UNION ALL
	SELECT format('index %s valid %s comment %s', pg_get_indexdef(indexrelid), indisvalid, obj_description(indexrelid, 'pg_class'))
		FROM relations r JOIN pg_index ON indrelid = r.oid
	UNION ALL
	SELECT format('trigger %s enabled %s', pg_get_triggerdef(t.oid), tgenabled) FROM relations r JOIN pg_trigger t ON tgrelid = r.oid AND NOT tgisinternal
	UNION ALL
	SELECT format('view %s: %s', name, pg_get_viewdef(oid)) FROM relations WHERE relkind = 'v'
	UNION ALL
	SELECT format('policy %s %s %s %s for %s to %s: %s, %s', name, polname, polpermissive, obj_description(p.oid, 'pg_policy'), polcmd, polroles::regrole[],
		pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) FROM relations r JOIN pg_policy p ON polrelid = r.oid
	UNION ALL
	SELECT format('sequence %s: %s', name, to_jsonb(s) - 'seqrelid') FROM relations r JOIN pg_sequence s ON seqrelid = r.oid
	UNION ALL
	SELECT format('%s owned by %s', name, pg_describe_object(refclassid, refobjid, refobjsubid))
		FROM relations r JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype = 'a' WHERE relkind = 'S'
	UNION ALL
	SELECT format('function %s acl %s comment %s', pg_get_functiondef(p.oid), proacl, obj_description(p.oid, 'pg_proc'))
		FROM pg_proc p JOIN members ON classid = 'pg_proc'::regclass AND objid = p.oid
	UNION ALL
	SELECT format('type %s acl %s comment %s default %s', oid::regtype, typacl, obj_description(oid, 'pg_type'), typdefault)
		FROM pg_type JOIN members ON classid = 'pg_type'::regclass AND objid = oid
	UNION ALL
	SELECT format('event trigger %s: %s %s %s %s', evtname, evtevent, evtfoid::regproc, evtenabled, evttags)
		FROM pg_event_trigger t JOIN members ON classid = 'pg_event_trigger'::regclass AND objid = t.oid
	UNION ALL
	SELECT format('initial privileges of %s: %s', pg_describe_object(i.classoid, i.objoid, i.objsubid), initprivs)
		FROM pg_init_privs i JOIN members m ON m.classid = i.classoid AND m.objid = i.objoid
	UNION ALL
	SELECT format('dumped %s %s', config::regclass, condition) FROM pg_extension, unnest(extconfig, extcondition) AS u (config, condition) WHERE extname = 'wahook'
	UNION ALL
	SELECT format('extension %s in %s of %s', extversion, extnamespace::regnamespace, extowner::regrole) FROM pg_extension WHERE extname = 'wahook'
) l (line)
ORDER BY line COLLATE "C";
