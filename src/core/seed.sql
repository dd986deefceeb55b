-- Seeds: rows that come with the extension, and that users may change.
--
-- A dump holds the rows that users changed or added; restoring it creates the extension, with its
-- seeds, and then inserts the user's version of some of them. That must replace the seed, not fail.

CREATE FUNCTION @extschema@.webhook_keep_changed_seed() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF TG_OP = 'UPDATE' THEN
		NEW.from_extension := false;
	ELSE
		EXECUTE format('DELETE FROM %I.%I WHERE %I::text = $1 AND from_extension',
			TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[0])
			USING to_jsonb(NEW) ->> TG_ARGV[0];
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_keep_changed_seed() IS
	'trigger: an inserted row replaces the untouched seed of its key, and a changed seed is the user''s';
