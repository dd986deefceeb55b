-- The lock of a conversation: acquire, renew, release, run out, be taken over.
\pset null -
SELECT get_or_create_conversation('lck.1') AS c \gset
\set a '00000000-0000-4000-8000-00000000000a'
\set b '00000000-0000-4000-8000-00000000000b'
\set nobody '00000000-0000-4000-8000-000000000000'
CREATE TEMP VIEW lck AS
	SELECT right(locked_by::text, 1) AS holder, lock_token AS token, round(extract(epoch FROM lock_expires_at - locked_at)) AS lease,
		locked_at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS locked_now, claimed_messages, status
	FROM webhook_conversations WHERE user_id = 'lck.1';
SELECT * FROM lck;

-- One holder, whoever asks; not even itself again.
SELECT acquire_conversation_lock(:'c', :'a');
SELECT acquire_conversation_lock(:'c', :'b'), acquire_conversation_lock(:'c', :'a');
SELECT * FROM lck;
SELECT release_conversation_lock(:'c', :'b'), release_conversation_lock(:'c', :'a'), release_conversation_lock(:'c', :'a');
SELECT * FROM lck;
-- The token grows with each acquisition, also in one transaction, and is not given back by a rollback that gives the lock back.
BEGIN;
SELECT acquire_conversation_lock(:'c', :'a'), release_conversation_lock(:'c', :'a'), acquire_conversation_lock(:'c', :'b');
SELECT release_conversation_lock(:'c', :'b');
SAVEPOINT s;
SELECT acquire_conversation_lock(:'c', :'a');
ROLLBACK TO s;
SELECT * FROM lck;
COMMIT;

-- The lease is the wall clock's, not the transaction's.
BEGIN;
SELECT now() AS begun, pg_sleep(0.01) \gset
SELECT acquire_conversation_lock(:'c', :'a');
SELECT locked_at > :'begun' AS later_than_the_transaction FROM webhook_conversations WHERE id = :'c';
COMMIT;
SELECT renew_conversation_lock(:'c', :'a', '10 minutes') AS renewed \gset
SELECT lock_expires_at = :'renewed' AS renewed FROM webhook_conversations WHERE id = :'c';
SELECT round(extract(epoch FROM renew_conversation_lock(:'c', :'a', '10 minutes') - clock_timestamp()));
SELECT round(extract(epoch FROM renew_conversation_lock(:'c', :'a') - clock_timestamp()));
SELECT renew_conversation_lock(:'c', :'b'), renew_conversation_lock(:'nobody', :'a'), renew_conversation_lock(NULL, :'a'), renew_conversation_lock(:'c', NULL);
SET wahook.lock_timeout = '30s';
SELECT round(extract(epoch FROM renew_conversation_lock(:'c', :'a') - clock_timestamp()));
RESET wahook.lock_timeout;
-- A lease has bounds.
SELECT renew_conversation_lock(:'c', :'a', '0.5 seconds');
\echo :LAST_ERROR_SQLSTATE
SELECT renew_conversation_lock(:'c', :'a', '1 day 1 second');
SELECT renew_conversation_lock(:'c', :'a', '-1 month');
SELECT renew_conversation_lock(:'c', :'a', interval '178000000 years');
-- 2^64 microseconds and ten seconds
SELECT renew_conversation_lock(:'c', :'a', '213503982 days 8 hours 2 min');
SELECT round(extract(epoch FROM renew_conversation_lock(:'c', :'a', '1 second') - clock_timestamp()));
SELECT release_conversation_lock(:'c', :'a');

-- A lease that ran out is still its holder's until somebody takes it over.
SELECT acquire_conversation_lock(:'c', :'a');
UPDATE webhook_conversations SET lock_expires_at = clock_timestamp() - interval '1 second' WHERE id = :'c';
SELECT complete_webhook_messages(:'c', :'a', '{}', NULL, false);
SELECT renew_conversation_lock(:'c', :'a') IS NOT NULL AS renewed;
UPDATE webhook_conversations SET lock_expires_at = clock_timestamp() - interval '1 second' WHERE id = :'c';
SELECT token AS token_before FROM lck \gset
SELECT acquire_conversation_lock(:'c', :'b');
SELECT holder, token - :token_before AS grown, lease FROM lck;
-- From then on nothing of the first holder goes through.
SELECT release_conversation_lock(:'c', :'a'), renew_conversation_lock(:'c', :'a');
\set VERBOSITY sqlstate
SELECT complete_webhook_messages(:'c', :'a');
\echo :LAST_ERROR_SQLSTATE
SELECT complete_conversations(ARRAY[:'c']::uuid[], :'a');
\echo :LAST_ERROR_SQLSTATE
SELECT release_conversation_lock(:'c', :'b');
SELECT complete_webhook_messages(:'c', :'b');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
-- What there is not.
SELECT acquire_conversation_lock(:'nobody', :'a'), release_conversation_lock(:'nobody', :'a'), acquire_conversation_lock(NULL, :'a'), acquire_conversation_lock(:'c', NULL);
SELECT complete_webhook_messages(:'nobody', :'a');
\echo :LAST_ERROR_SQLSTATE
SELECT complete_conversations(ARRAY[:'nobody']::uuid[], :'a');
\echo :LAST_ERROR_SQLSTATE
SELECT complete_webhook_messages(NULL, :'a');
\echo :LAST_ERROR_SQLSTATE
SELECT complete_webhook_messages(:'c', NULL);
SELECT complete_conversations(NULL, :'a');
SELECT complete_conversations(ARRAY[:'c', NULL]::uuid[], :'a');
SELECT complete_conversations('{}', :'a');
SELECT complete_webhook_messages(:'c', :'a', NULL, -1);
\echo :LAST_ERROR_SQLSTATE

-- A lock that is written directly has a lease and a token too, also in a session that has called nothing yet.
\c -
\pset null -
SELECT id AS c, lock_token AS token FROM webhook_conversations WHERE user_id = 'lck.1' \gset
UPDATE webhook_conversations SET locked_by = '00000000-0000-4000-8000-00000000000a', locked_at = now() WHERE id = :'c';
SELECT lock_token - :token AS grown, lock_expires_at - locked_at AS lease FROM webhook_conversations WHERE id = :'c';
SELECT acquire_conversation_lock(:'c', '00000000-0000-4000-8000-00000000000b');
UPDATE webhook_conversations SET locked_at = now() - interval '3 minutes' WHERE id = :'c';
SELECT acquire_conversation_lock(:'c', '00000000-0000-4000-8000-00000000000b');
-- Cleared directly, it is free.
UPDATE webhook_conversations SET locked_by = NULL, locked_at = NULL WHERE id = :'c';
SELECT acquire_conversation_lock(:'c', '00000000-0000-4000-8000-00000000000b');
SELECT release_conversation_lock(:'c', '00000000-0000-4000-8000-00000000000b');
SELECT locked_by, locked_at, lock_expires_at FROM webhook_conversations WHERE id = :'c';
