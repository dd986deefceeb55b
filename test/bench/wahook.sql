-- The tables of cases c, d and f: wahook with 10,000 conversations and a history of a message in each.
\ir receive.sql
CALL bench_receive(-1, 0, 9999, 1);
CALL bench_complete();
VACUUM ANALYZE;
