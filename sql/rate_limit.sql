-- Token buckets. What is refilled while the test runs is kept too small to show.
\set SHOW_CONTEXT never
BEGIN;

-- A bucket that is not listed has the limits of 'default': 60 tokens, one a second.
SELECT check_rate_limit('rl-1', 'rl', 1);
SELECT check_rate_limit('rl-1', 'rl', 59);
SELECT answer - 'blocked_until' - 'tokens_remaining' AS answer,
		(answer ->> 'blocked_until')::timestamptz - clock_timestamp() BETWEEN interval '25 s' AND interval '30 s' AS in_time
	FROM check_rate_limit('rl-1', 'rl', 30) answer;
-- By identifier, and by bucket.
SELECT check_rate_limit('rl-2', 'rl') -> 'allowed' AS other_identifier,
	check_rate_limit('rl-1', 'rl-other') -> 'allowed' AS other_bucket;
-- All at once, then nothing.
SELECT check_rate_limit('rl-3', 'rl', 60);
SELECT check_rate_limit('rl-3', 'rl', 60) -> 'allowed' AS allowed;
ROLLBACK;

-- Errors.
SELECT check_rate_limit('', 'rl');
\echo :LAST_ERROR_SQLSTATE
SELECT check_rate_limit(NULL, 'rl');
SELECT check_rate_limit(repeat('x', 5000), 'rl');
SELECT check_rate_limit('rl-1', '');
SELECT check_rate_limit('rl-1', NULL);
SELECT check_rate_limit('rl-1', 'rl', 0);
SELECT check_rate_limit('rl-1', 'rl', -1);
SELECT check_rate_limit('rl-1', 'rl', NULL);
SELECT check_rate_limit('rl-1', 'rl', 61);
\echo :LAST_ERROR_SQLSTATE
