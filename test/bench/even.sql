-- Case e, even: 60,000 waiting messages, 6 in each of 10,000 conversations.
\ir receive.sql
CALL bench_receive(1, 0, 9999, 6);
CREATE TABLE bench_backlog AS SELECT count(*) AS accepted FROM processed_webhook_messages;
VACUUM ANALYZE;
