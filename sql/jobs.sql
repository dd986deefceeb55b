-- The jobs by hand.
SELECT job, every, last_run_at, next_run_at <= clock_timestamp() AS due, runs, failures FROM webhook_jobs ORDER BY job;
SELECT job, run_webhook_job(job) - 'durationMs' - 'deleted' - 'sessions' - 'dlq' AS answer FROM webhook_jobs ORDER BY job;
SELECT jsonb_typeof(run_webhook_job('retention') -> 'deleted' -> 'webhook_notices');
SELECT job, last_run_at <= clock_timestamp() AS ran, duration_ms >= 0 AS timed, succeeded, result ->> 'success' AS success, error, runs, failures
	FROM webhook_jobs ORDER BY job;
SELECT job, next_run_at - last_run_at FROM webhook_jobs WHERE job IN ('cleanup-stuck-conversations', 'retention') ORDER BY job;
SELECT extract(hour FROM next_run_at AT TIME ZONE current_setting('timezone')) AS hour FROM webhook_jobs WHERE job = 'session-cleanup';
SELECT next_run_at FROM webhook_jobs WHERE job = 'dlq-processor';

-- When a dead letter is due next.
INSERT INTO webhook_dlq (payload, whatsapp_message_id, next_retry_at) VALUES ('{}', 'jobs-1', '2100-01-02'), ('{}', 'jobs-2', '2100-01-01');
SELECT next_run_at = '2100-01-01' AS then FROM webhook_jobs WHERE job = 'dlq-processor';
-- One that can't be retried is looked at again after the interval.
UPDATE webhook_dlq SET next_retry_at = '2000-01-01' WHERE whatsapp_message_id = 'jobs-1';
SELECT run_webhook_job('dlq-processor') ->> 'processed' AS processed;
SELECT next_run_at - last_run_at AS later FROM webhook_jobs WHERE job = 'dlq-processor';
SELECT count(*) FROM (SELECT (get_retriable_messages()).*) taken;
SELECT next_run_at > last_run_at AS lease_ends FROM webhook_jobs WHERE job = 'dlq-processor';
DELETE FROM webhook_dlq WHERE whatsapp_message_id LIKE 'jobs-%';

-- One that is off.
SET wahook.retention_interval = 0;
SELECT every, next_run_at FROM webhook_jobs WHERE job = 'retention';
RESET wahook.retention_interval;
\set VERBOSITY sqlstate
SET wahook.retention_interval = -1;
\set VERBOSITY default
SET wahook.session_cleanup_interval = '90 min';
SELECT every, next_run_at - last_run_at AS after FROM webhook_jobs WHERE job = 'session-cleanup';
RESET wahook.session_cleanup_interval;
SET wahook.databases = 'a';

-- What is none.
SELECT run_webhook_job('no such job');
SELECT run_webhook_job(NULL);
SELECT run_webhook_job(repeat('x', 100000)) IS NULL;

-- One that fails is undone, and remembered.
CREATE FUNCTION jobs_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'P4711'; END $$;
CREATE TRIGGER refuse BEFORE DELETE ON user_sessions FOR EACH ROW EXECUTE FUNCTION jobs_refuse();
INSERT INTO user_sessions (phone_number, last_interaction) VALUES ('jobs', now() - interval '2 days');
SELECT run_webhook_job('session-cleanup') - 'durationMs' AS answer;
SELECT succeeded, error, result ->> 'sqlstate' AS sqlstate, runs, failures FROM webhook_jobs WHERE job = 'session-cleanup';
DROP TRIGGER refuse ON user_sessions;
DROP FUNCTION jobs_refuse();
SELECT run_webhook_job('session-cleanup') -> 'sessions' -> 'deleted' AS deleted;
SELECT succeeded, error, runs, failures FROM webhook_jobs WHERE job = 'session-cleanup';

-- Who may.
CREATE ROLE jobs_reader;
SELECT wahook_grant('jobs_reader', 'monitor');
SET ROLE jobs_reader;
SELECT count(*) FROM webhook_jobs;
SELECT run_webhook_job('retention');
SELECT start_webhook_worker();
SELECT * FROM webhook_job_runs;
RESET ROLE;
SELECT wahook_revoke('jobs_reader', 'monitor');
DROP OWNED BY jobs_reader;
DROP ROLE jobs_reader;
