-- What is known of this database's worker.

CREATE FUNCTION @extschema@.webhook_worker_state(
	OUT preloaded boolean, OUT expected boolean, OUT state text, OUT pid integer,
	OUT silent_seconds double precision, OUT heartbeat_age_seconds double precision,
	OUT started_at timestamptz, OUT wakes_at timestamptz,
	OUT clock_jumped_at timestamptz, OUT clock_jump_seconds double precision,
	OUT library_version text, OUT worker_version text)
	AS 'MODULE_PATHNAME', 'wahook_webhook_worker_state' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_worker_state() IS
	'what shared memory tells of this database''s worker: whether there should be one, what it does (asleep, busy, late, gone, no room, not expected), and for how long it has not turned though it should have';
