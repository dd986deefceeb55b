-- Conversations that are written to directly, as the first generation of callers does.

CREATE FUNCTION @extschema@.webhook_register_identities()
	RETURNS trigger AS 'MODULE_PATHNAME', 'wahook_register_identities'
	LANGUAGE C SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_register_identities() IS
	'trigger: a conversation that is inserted directly is found by the names in its row';
-- Not while a dump is restored, which turns that setting off: it brings the identities itself.
CREATE TRIGGER webhook_conversations_identities
	AFTER INSERT ON @extschema@.webhook_conversations
	FOR EACH ROW WHEN (current_setting('check_function_bodies') = 'on')
	EXECUTE FUNCTION @extschema@.webhook_register_identities();

CREATE FUNCTION @extschema@.webhook_lock_directly()
	RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	lease_end timestamptz := coalesce(NEW.locked_at, clock_timestamp())
		+ @extschema@.webhook_setting('lock_timeout')::interval;
BEGIN
	UPDATE @extschema@.webhook_conversations
		SET locked_at = coalesce(locked_at, clock_timestamp()), lock_expires_at = lease_end,
			lock_token = lock_token + 1,
			-- What the former holder had claimed is not the new one's to complete.
			claimed_messages = CASE WHEN locked_by = OLD.locked_by THEN claimed_messages END
		WHERE id = NEW.id;
	INSERT INTO @extschema@.webhook_leases (expires_at, conversation_id, lock_id)
		VALUES (lease_end, NEW.id, NEW.locked_by)
		ON CONFLICT (expires_at, conversation_id) DO UPDATE SET lock_id = excluded.lock_id;
	PERFORM @extschema@.webhook_count('locks', ARRAY[CASE
		WHEN OLD.locked_by IS NULL THEN 'acquired'
		WHEN OLD.locked_by <> NEW.locked_by THEN 'taken_over' END]::text[]);
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_lock_directly() IS
	'trigger: a lock that is written directly has a lease, a token and an end like any other';
-- The trigger's own update raises the token, and so does not fire it again.
CREATE TRIGGER webhook_conversations_lock
	AFTER UPDATE OF locked_by, locked_at ON @extschema@.webhook_conversations
	FOR EACH ROW
	WHEN (NEW.locked_by IS NOT NULL AND NEW.lock_token = OLD.lock_token
		AND (NEW.locked_by, NEW.locked_at) IS DISTINCT FROM (OLD.locked_by, OLD.locked_at))
	EXECUTE FUNCTION @extschema@.webhook_lock_directly();

CREATE FUNCTION @extschema@.webhook_lease_directly()
	RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	INSERT INTO @extschema@.webhook_leases (expires_at, conversation_id, lock_id)
		VALUES (coalesce(NEW.lock_expires_at, NEW.locked_at + @extschema@.webhook_setting('lock_timeout')::interval, clock_timestamp()),
			NEW.id, NEW.locked_by)
		ON CONFLICT (expires_at, conversation_id) DO UPDATE SET lock_id = excluded.lock_id;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_lease_directly() IS
	'trigger: a conversation that is inserted with a lock on it is looked at when that ends';
-- A claim that makes a conversation writes the lease itself, and its lock has an end. A dump has both.
CREATE TRIGGER webhook_conversations_lease
	AFTER INSERT ON @extschema@.webhook_conversations
	FOR EACH ROW WHEN (NEW.locked_by IS NOT NULL AND NEW.lock_expires_at IS NULL
		AND current_setting('check_function_bodies') = 'on')
	EXECUTE FUNCTION @extschema@.webhook_lease_directly();
