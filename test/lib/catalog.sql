-- What the extension in this database has, a line each, in the words of doc/reference; for test/check-docs.
CREATE TEMP VIEW members AS
	SELECT classid, objid FROM pg_depend d JOIN pg_extension e
		ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
	WHERE e.extname = 'wahook' AND d.deptype = 'e';

SELECT 'function', proname, replace(replace(
		proname || '(' || replace(regexp_replace(regexp_replace(pg_get_function_arguments(p.oid),
			' DEFAULT NULL::[^,]+', ' = null', 'g'), ' DEFAULT ([^:,]+)(::\w+)?', ' = \1', 'g'), ' DEFAULT ', ' = ')
		|| ') → ' || replace(replace(pg_get_function_result(p.oid), 'TABLE(', 'table ('), 'SETOF', 'setof'),
		'timestamp with time zone', 'timestamptz'), 'public.', ''),
	CASE provolatile WHEN 'i' THEN 'Immutable' WHEN 's' THEN 'Stable' ELSE 'Volatile' END
		|| CASE WHEN proisstrict THEN ', null on null input' ELSE '' END
		|| '. Service level: ' || CASE WHEN w.service IS NULL THEN 'no' ELSE 'yes' END || '.'
FROM pg_proc p JOIN members ON classid = 'pg_proc'::regclass AND objid = p.oid
	LEFT JOIN webhook_privileges() w ON w.kind = 'function' AND w.object_name = p.proname
ORDER BY proname;

SELECT CASE relkind WHEN 'r' THEN 'table' ELSE 'view' END, relname, attname,
	replace(format_type(atttypid, atttypmod), 'timestamp with time zone', 'timestamptz'),
	CASE WHEN attnotnull THEN 'no' ELSE 'yes' END,
	coalesce(CASE WHEN attgenerated <> '' THEN 'generated'
		WHEN pg_get_expr(adbin, adrelid) ~ '^nextval' THEN 'sequence'
		ELSE regexp_replace(pg_get_expr(adbin, adrelid), '::\w+(\[\])?$', '') END, '')
FROM pg_class c JOIN members ON classid = 'pg_class'::regclass AND objid = c.oid
	JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE relkind IN ('r', 'v')
ORDER BY relname, attnum;

LOAD 'wahook';
SELECT 'setting', name, vartype, coalesce(unit, ''), boot_val, coalesce(min_val, ''), coalesce(max_val, ''), context
FROM pg_settings WHERE name LIKE 'wahook.%' ORDER BY name;

-- Secrets are not in pg_settings; that they exist is all there is to see.
SELECT 'secret', name FROM unnest(ARRAY['wahook.app_secret', 'wahook.verify_token', 'wahook.alert_url', 'wahook.alert_secret']) AS name
WHERE current_setting(name) = '';

-- Every member, what the levels may do with it, and with whose rights it runs; for doc/security.md.
SELECT 'object', kind, name,
	coalesce(replace(string_agg(word, ', ' ORDER BY n) FILTER (WHERE level = 'monitor'), 'read, insert, update, delete', 'write'), ''),
	coalesce(replace(string_agg(word, ', ' ORDER BY n) FILTER (WHERE level = 'service'), 'read, insert, update, delete', 'write'), ''),
	coalesce(replace(string_agg(word, ', ' ORDER BY n) FILTER (WHERE level = 'admin'), 'read, insert, update, delete', 'write'), ''),
	rights
FROM (
	SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' ELSE 'relation' END AS kind, c.relname AS name,
		CASE WHEN c.relkind <> 'v' THEN '' WHEN c.reloptions @> '{security_invoker=true}' THEN 'caller' ELSE 'owner' END AS rights
	FROM members JOIN pg_class c ON classid = 'pg_class'::regclass AND objid = c.oid
	UNION ALL SELECT 'function', p.proname, CASE WHEN p.prosecdef THEN 'owner' ELSE 'caller' END
	FROM members JOIN pg_proc p ON classid = 'pg_proc'::regclass AND objid = p.oid
	UNION ALL SELECT 'type', t.typname, '' FROM members JOIN pg_type t ON classid = 'pg_type'::regclass AND objid = t.oid
	UNION ALL SELECT 'other', pg_describe_object(classid, objid, 0), '' FROM members
	WHERE classid NOT IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass)) o
	LEFT JOIN LATERAL (
		SELECT level, n, CASE privilege WHEN 'SELECT' THEN 'read' WHEN 'EXECUTE' THEN 'call' ELSE lower(privilege) END AS word
		FROM webhook_privileges() w, unnest('{monitor,service,admin}'::text[]) level,
			unnest(string_to_array(to_jsonb(w) ->> level, ', ')) WITH ORDINALITY p (privilege, n)
		WHERE w.kind = o.kind AND w.object_name = o.name) p ON true
GROUP BY kind, name, rights
ORDER BY kind, name;
