-- wahook.token_counter: a superuser names a function that counts instead of the built-in estimate.
LOAD 'wahook';
CREATE SCHEMA counters;
CREATE FUNCTION counters.words(p_text text) RETURNS integer LANGUAGE sql AS $$ SELECT count(*)::integer FROM regexp_split_to_table(p_text, '\s+') w WHERE w <> '' $$;
SET wahook.token_counter = 'counters.words';
SELECT estimate_tokens('one two three'), estimate_tokens(''), count_context_tokens('[{"role": "user", "content": "one two"}]');
SELECT truncate_context('[{"role": "user", "content": "one two three four five six seven eight nine ten"}]', 10);
SET wahook.token_counter = '"counters"."words"(text)';
SELECT estimate_tokens('one two three');

-- It may build on the estimate, which is itself while it runs.
CREATE FUNCTION counters.twice(p_text text) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RETURN 2 * estimate_tokens(p_text); END $$;
SET wahook.token_counter = 'counters.twice';
SELECT estimate_tokens('12345678'), estimate_tokens('12345678');

-- It is asked about what may be kept, not about all that there is: 10,000 messages of 5 tokens, of which 20 fit.
CREATE TEMP SEQUENCE asked;
CREATE FUNCTION counters.counting(p_text text) RETURNS integer LANGUAGE sql AS $$ SELECT (nextval('pg_temp.asked') * 0 + 1)::integer $$;
SET wahook.token_counter = 'counters.counting';
SELECT jsonb_array_length(truncate_context(jsonb_agg(jsonb_build_object('role', 'user', 'content', 'hello')), 100)) FROM generate_series(1, 10000);
SELECT last_value < 30 AS few FROM asked;

-- What can't be used.
CREATE FUNCTION counters.bigint(p_text text) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
CREATE FUNCTION counters.set(p_text text) RETURNS SETOF integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION counters.of_integer(p_number integer) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION counters.state(integer, text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE counters.aggregate(text) (SFUNC = counters.state, STYPE = integer);
CREATE PROCEDURE counters.procedure(p_text text) LANGUAGE sql AS '';
\set SHOW_CONTEXT never
SET wahook.token_counter = 'words';
SELECT estimate_tokens('a');
SET wahook.token_counter = 'counters.missing';
SELECT estimate_tokens('a');
SET wahook.token_counter = 'nowhere.words';
SELECT estimate_tokens('a');
SET wahook.token_counter = 'counters.bigint';
SELECT estimate_tokens('a');
SET wahook.token_counter = 'counters.set';
SELECT estimate_tokens('a');
SET wahook.token_counter = 'counters.of_integer';
SELECT estimate_tokens('a');
SET wahook.token_counter = 'counters.aggregate';
SELECT estimate_tokens('a');
SET wahook.token_counter = 'counters.procedure';
SELECT estimate_tokens('a');
SET wahook.token_counter = 'a.b.c';
SELECT estimate_tokens('a');
SET wahook.token_counter = '"; DROP';
SELECT truncate_context('[]', 1);
SET wahook.token_counter = '.';
SELECT count_context_tokens('[]');

-- What it returns or raises.
CREATE FUNCTION counters.odd(p_text text) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN
	IF p_text = 'raise' THEN RAISE EXCEPTION 'no' USING ERRCODE = 'ZZ001'; END IF;
	RETURN CASE p_text WHEN 'null' THEN NULL WHEN 'negative' THEN -1 WHEN 'huge' THEN 2147483647 ELSE 1 END;
END $$;
SET wahook.token_counter = 'counters.odd';
SELECT estimate_tokens('null');
SELECT estimate_tokens('negative');
SELECT count_context_tokens('[{"content": "huge"}, {"content": "huge"}]');
SELECT truncate_context('[{"content": "huge"}, {"content": "x"}]', 2147483647);
\set SHOW_CONTEXT errors
SELECT estimate_tokens('raise');
-- After an error it is asked again.
SELECT estimate_tokens('fine');

-- Nobody but a superuser names it, and it has no rights that its owner has not.
CREATE ROLE counting_user;
CREATE ROLE counting_owner;
GRANT USAGE, CREATE ON SCHEMA counters TO counting_owner;
SELECT wahook_grant('counting_user', 'service');
SET wahook.token_counter = '';
SET ROLE counting_user;
SET wahook.token_counter = 'counters.words';
SELECT estimate_tokens('one two three');
RESET ROLE;
CREATE FUNCTION counters.who(p_text text) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'as %', current_user; RETURN 1; END $$;
SET wahook.token_counter = 'counters.who';
SET ROLE counting_user;
SELECT estimate_tokens('a');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION counters.who(text) FROM PUBLIC;
SET ROLE counting_user;
SELECT estimate_tokens('a');
RESET ROLE;
GRANT EXECUTE ON FUNCTION counters.who(text) TO PUBLIC;
ALTER FUNCTION counters.who(text) OWNER TO counting_owner;
SELECT estimate_tokens('a');
SET ROLE counting_user;
SELECT estimate_tokens('a');
RESET ROLE;
GRANT counting_user TO counting_owner;
SET ROLE counting_user;
SELECT estimate_tokens('a');
RESET ROLE;

RESET wahook.token_counter;
SELECT wahook_revoke('counting_user', 'service');
SET client_min_messages = warning;
DROP SCHEMA counters CASCADE;
DROP OWNED BY counting_user;
DROP ROLE counting_user, counting_owner;
