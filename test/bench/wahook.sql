-- The tables of cases c, d and f: wahook with 10,000 conversations.
\ir bodies.sql
CREATE EXTENSION wahook;
SELECT count(get_or_create_conversation(bench_phone(i), bench_phone(i), '106540352242922'))
	FROM generate_series(0, 9999) i \g /dev/null
VACUUM ANALYZE;
