-- The dead letter job.

CREATE FUNCTION @extschema@.webhook_requeue_dead_letters() RETURNS jsonb
	AS 'MODULE_PATHNAME', 'wahook_requeue_dead_letters' LANGUAGE C VOLATILE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.webhook_requeue_dead_letters() IS
	'internal: puts due dead letters back in their conversations'' queues, up to wahook.dlq_batch_size, and runs none';

CREATE FUNCTION @extschema@.process_dead_letter_queue(p_limit integer DEFAULT 50) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'wahook_process_dead_letter_queue' LANGUAGE C VOLATILE
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.process_dead_letter_queue(integer) IS
	'puts due dead letters back in their conversations'' queues, and runs those whose service has a SQL handler; null: wahook.dlq_batch_size of them; counts what became of them';
