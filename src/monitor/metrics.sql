-- What Prometheus and people are told: the counters in shared memory.

CREATE FUNCTION @extschema@.webhook_counter_samples()
	RETURNS TABLE (ordinal integer, metric text, name text, labels jsonb, kind text,
		value double precision, unit text, help text)
	AS 'MODULE_PATHNAME', 'wahook_counter_samples' LANGUAGE C VOLATILE ROWS 200;
COMMENT ON FUNCTION @extschema@.webhook_counter_samples() IS
	'internal: the counters of this database in shared memory; no rows where wahook is not preloaded';

CREATE FUNCTION @extschema@.webhook_metrics()
	RETURNS TABLE (name text, labels jsonb, kind text, value double precision, unit text, help text, source text)
	LANGUAGE sql VOLATILE ROWS 250 SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT name, labels, kind, value, unit, help, 'shared memory'
	FROM @extschema@.webhook_counter_samples() ORDER BY ordinal
	$$;
COMMENT ON FUNCTION @extschema@.webhook_metrics() IS
	'all metrics, a row a sample; source: shared memory, or tables';

CREATE FUNCTION @extschema@.webhook_metrics_reset() RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'wahook_reset_counters' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_metrics_reset() IS
	'sets the counters of this database to zero, at once and whatever becomes of the transaction; since when they count';
