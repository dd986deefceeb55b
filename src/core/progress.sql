-- How far the jobs are that run at this moment.

CREATE FUNCTION @extschema@.webhook_progress_begin(p_job text) RETURNS void
	AS 'MODULE_PATHNAME', 'wahook_progress_begin_sql' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION @extschema@.webhook_progress_begin(text) IS
	'internal: from now on, until the transaction ends at the latest, this session runs a job';

CREATE FUNCTION @extschema@.webhook_progress(p_phase text, p_more bigint) RETURNS void
	AS 'MODULE_PATHNAME', 'wahook_progress_sql' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION @extschema@.webhook_progress(text, bigint) IS
	'internal: the job of this session has done more, in this phase or a new one';

CREATE FUNCTION @extschema@.webhook_progress_end() RETURNS void
	AS 'MODULE_PATHNAME', 'wahook_progress_end_sql' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION @extschema@.webhook_progress_end() IS 'internal: the job of this session is over';

CREATE FUNCTION @extschema@.webhook_job_progress()
	RETURNS TABLE (job text, pid integer, started_at timestamptz, phase text, done bigint, changed_at timestamptz)
	AS 'MODULE_PATHNAME', 'wahook_job_progress' LANGUAGE C VOLATILE ROWS 2;
COMMENT ON FUNCTION @extschema@.webhook_job_progress() IS
	'the jobs that run at this moment in this database, and how far they are; none where wahook is not preloaded';
