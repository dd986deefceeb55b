-- Takes over what an installation of the first generation, tables in a schema of their own, has
-- gathered, in the caller's transaction.
--
-- That schema is somebody else's. Nothing in it is run: only tables are read, as the caller, whole
-- (row_security = off makes an error of a policy that would hide rows), and only where planning and
-- reading them evaluates no function but PostgreSQL's own.

-- The functions that reading a table could run: those in its indexes, constraints, statistics and
-- partition keys, and in those of its partitions. Constants in them are evaluated when a query is
-- planned.
CREATE FUNCTION @extschema@.webhook_import_dangers(p_table oid) RETURNS SETOF text
	LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
	AS $$
	WITH RECURSIVE tables(id) AS (
		SELECT p_table UNION SELECT inhrelid FROM tables JOIN pg_inherits ON inhparent = id
	), objects(class, id) AS (
		SELECT 'pg_class'::regclass::oid, id FROM tables
		UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM tables JOIN pg_index ON indrelid = id
		UNION ALL SELECT 'pg_constraint'::regclass, c.oid FROM tables t JOIN pg_constraint c ON conrelid = t.id
		UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid FROM tables t JOIN pg_statistic_ext s ON stxrelid = t.id
	)
	-- What is PostgreSQL's own has no entry in pg_depend, or a low oid.
	SELECT pg_describe_object(d.refclassid, d.refobjid, 0)
	FROM objects o JOIN pg_depend d ON d.classid = o.class AND d.objid = o.id
	WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND d.refobjid >= 16384
	UNION ALL
	SELECT pg_describe_object('pg_class'::regclass, id, 0)
	FROM tables JOIN pg_class c ON c.oid = id WHERE relkind NOT IN ('r', 'p')
	$$;
COMMENT ON FUNCTION @extschema@.webhook_import_dangers(oid) IS
	'what keeps wahook_import() from reading a table: functions that could be run on the way, and what is no table';

-- How a column of the source is read as a type of wahook's; null: not at all. Only PostgreSQL's own
-- types and enums can be, because casts of other types may run functions.
CREATE FUNCTION @extschema@.webhook_import_cast(p_from oid, p_to oid) RETURNS text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE
		WHEN from_type = p_to THEN ''
		WHEN p_to = 'text'::regtype AND (from_type IN ('varchar'::regtype, 'bpchar'::regtype, 'name'::regtype)
			OR is_enum AND NOT EXISTS (SELECT FROM pg_cast WHERE castsource = from_type)) THEN '::text'
		WHEN p_to = 'jsonb'::regtype AND from_type = 'json'::regtype THEN '::jsonb'
		WHEN p_to = 'integer'::regtype AND from_type IN ('smallint'::regtype, 'bigint'::regtype) THEN '::integer'
		END
	FROM (SELECT coalesce(nullif(typbasetype, 0), oid) AS from_type, typtype = 'e' AS is_enum
		FROM pg_type WHERE oid = p_from) t
	$$;
COMMENT ON FUNCTION @extschema@.webhook_import_cast(oid, oid) IS
	'how wahook_import() makes one type of another; null: not at all';

-- The columns that there are for a table of wahook's, and a query for them in its types. What is
-- missing or null there has the default here.
CREATE FUNCTION @extschema@.webhook_import_source(
	p_schema name, p_table text, p_leave_out text[], OUT columns text[], OUT query text)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_source oid;
	v_problem text;
	v_column record;
	v_values text[];
BEGIN
	IF NOT EXISTS (SELECT FROM pg_class
		WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = p_schema) AND relname = p_table)
	THEN
		RETURN;
	END IF;
	-- To the end of the transaction no row comes in that is not taken over, and what is checked here
	-- stays as it is.
	EXECUTE format('LOCK TABLE %I.%I IN SHARE MODE', p_schema, p_table);
	v_source := format('%I.%I', p_schema, p_table)::regclass;
	SELECT string_agg(danger, ', ') INTO v_problem FROM @extschema@.webhook_import_dangers(v_source) danger;
	IF v_problem IS NOT NULL THEN
		RAISE EXCEPTION 'can''t import "%.%"', p_schema, p_table
			USING ERRCODE = 'wrong_object_type',
				DETAIL = format('To read it would run or read: %s.', v_problem),
				HINT = 'Only plain tables are imported. Copy it: CREATE TABLE ... AS SELECT ..., in a schema of your own.';
	END IF;

	FOR v_column IN
		SELECT w.attname AS name, w.atttypid AS type, w.attnotnull AND d.adbin IS NULL AS needed,
			pg_get_expr(d.adbin, d.adrelid) AS fallback, s.atttypid AS source_type,
			@extschema@.webhook_import_cast(s.atttypid, w.atttypid) AS conversion
		FROM pg_attribute w
			LEFT JOIN pg_attrdef d ON d.adrelid = w.attrelid AND d.adnum = w.attnum
			LEFT JOIN pg_attribute s ON s.attrelid = v_source AND s.attname = w.attname
				AND s.attnum > 0 AND NOT s.attisdropped
		WHERE w.attrelid = ('@extschema@.' || quote_ident(p_table))::regclass AND w.attnum > 0
			AND NOT w.attisdropped AND w.attgenerated = '' AND w.attname <> ALL (p_leave_out)
		ORDER BY w.attnum
	LOOP
		IF v_column.source_type IS NULL AND v_column.needed THEN
			RAISE EXCEPTION 'can''t import "%.%"', p_schema, p_table
				USING ERRCODE = 'undefined_column', DETAIL = format('It has no column "%s".', v_column.name),
					HINT = 'Add the column, or rename the table to leave it out.';
		ELSIF v_column.source_type IS NOT NULL AND v_column.conversion IS NULL THEN
			RAISE EXCEPTION 'can''t import column "%" of "%.%"', v_column.name, p_schema, p_table
				USING ERRCODE = 'datatype_mismatch',
					DETAIL = format('It is of type %s, not %s.', format_type(v_column.source_type, NULL), format_type(v_column.type, NULL)),
					HINT = format('Convert it first: ALTER TABLE ... ALTER COLUMN %I TYPE %s USING ...', v_column.name, format_type(v_column.type, NULL));
		END IF;
		columns := columns || v_column.name::text;
		v_values := v_values || format('%s AS %I', CASE
			WHEN v_column.source_type IS NULL THEN coalesce(v_column.fallback, format('NULL::%s', format_type(v_column.type, NULL)))
			WHEN v_column.fallback IS NULL THEN format('%I%s', v_column.name, v_column.conversion)
			ELSE format('coalesce(%I%s, %s)', v_column.name, v_column.conversion, v_column.fallback)
			END, v_column.name);
	END LOOP;
	query := format('SELECT %s FROM %I.%I', array_to_string(v_values, ', '), p_schema, p_table);
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_import_source(name, text, text[]) IS
	'locks and checks a table of the first generation, and makes the query by which wahook_import() reads it';

CREATE FUNCTION @extschema@.webhook_import_table(
	p_schema name, p_table text, p_leave_out text[], p_values jsonb, p_where text, p_order_by text,
	OUT source_rows bigint, OUT imported bigint)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_source record;
	v_columns text[];
BEGIN
	v_source := @extschema@.webhook_import_source(p_schema, p_table, p_leave_out);
	IF v_source.query IS NULL THEN
		RETURN;
	END IF;
	-- p_values: what stands instead of, or beside, what the source has.
	v_columns := ARRAY(SELECT unnest(v_source.columns) UNION SELECT jsonb_object_keys(p_values) ORDER BY 1);
	EXECUTE format('SELECT count(*) FROM %I.%I', p_schema, p_table) INTO source_rows;
	EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM (%s) s WHERE %s ORDER BY %s ON CONFLICT DO NOTHING',
		'@extschema@.' || quote_ident(p_table),
		(SELECT string_agg(quote_ident(c), ', ' ORDER BY c) FROM unnest(v_columns) c),
		(SELECT string_agg(coalesce(p_values ->> c, quote_ident(c)), ', ' ORDER BY c) FROM unnest(v_columns) c),
		v_source.query, p_where, p_order_by);
	GET DIAGNOSTICS imported = ROW_COUNT;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_import_table(name, text, text[], jsonb, text, text) IS
	'takes over a table, but for rows whose key is here already; null: there is none';

-- An id like webhook_uuid()'s of an earlier time: retention finds old messages by their ids. Called for
-- each of millions of rows, so it sets no search_path, which would keep it from being inlined.
CREATE FUNCTION @extschema@.webhook_import_id(p_at timestamptz) RETURNS uuid
	LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
	RETURN overlay(overlay(gen_random_uuid()::text PLACING '7' FROM 15 FOR 1)
		PLACING overlay(lpad(to_hex(greatest(0, floor(extract(epoch FROM p_at) * 1000)::bigint)), 12, '0')
			PLACING '-' FROM 9 FOR 0) FROM 1 FOR 13)::uuid;
COMMENT ON FUNCTION @extschema@.webhook_import_id(timestamptz) IS 'an id as webhook_uuid() would have made it then';

-- The first generation keeps with a dead letter the whole delivery, its message, or what wahook keeps.
CREATE FUNCTION @extschema@.webhook_import_payload(p_payload jsonb, p_message_id text) RETURNS jsonb
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE
		WHEN jsonb_typeof(p_payload -> 'message') = 'object' THEN p_payload
		WHEN p_payload ->> 'id' = p_message_id THEN
			jsonb_build_object('message', p_payload, 'contact', NULL, 'metadata', NULL)
		ELSE (SELECT jsonb_build_object('message', message,
				'contact', jsonb_path_query_first(value, '$.contacts[*] ? (@.wa_id == $from)',
					jsonb_build_object('from', message ->> 'from'), true),
				'metadata', value -> 'metadata')
			FROM jsonb_path_query(p_payload, '$.entry[*].changes[*].value', '{}', true) value,
				jsonb_path_query(value, '$.messages[*] ? (@.id == $id)', jsonb_build_object('id', p_message_id), true) message
			LIMIT 1)
		END
	$$;
COMMENT ON FUNCTION @extschema@.webhook_import_payload(jsonb, text) IS
	'the message with this id in the payload of a dead letter, as processed_webhook_messages keeps it; null: it is not there';
