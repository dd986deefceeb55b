-- What truncate_context promises, over random conversations: several scripts, calls of tools with several results or none,
-- parts, pinned messages, odd shapes. The same ones each time, by a seed that is told.
BEGIN;
SELECT plan(14);
CREATE TEMP TABLE settings AS SELECT 0.42 AS seed, 1000 AS conversations;
SELECT diag(format('seed %s, %s conversations', seed, conversations)) FROM settings;
SELECT setseed(seed) FROM settings;

CREATE FUNCTION pg_temp.below(n integer) RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT floor(random() * n)::integer';
CREATE FUNCTION pg_temp.text() RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT repeat((ARRAY['Where is my order? ', 'ሰላም ለሁሉም ሰው ', 'مرحبا بكم ', '你好世界', '👩🏽‍🚀🎉🇷🇼', 'नमस्ते क्षत्रिय ', 'Здравствуйте ', '안녕하세요 ',
		repeat('e' || U&'\0301', 7), 'wamid.HBgMMjUwNzg4MTIzMjAwFQIAEhgg', '{"a":[1,2,"x"]}', E'\n\t ', 'สวัสดีครับ', '"\ %s [...] ', ''])[1 + pg_temp.below(15)],
		CASE WHEN pg_temp.below(12) = 0 THEN pg_temp.below(400) ELSE pg_temp.below(6) END)
	$$;
CREATE FUNCTION pg_temp.content() RETURNS jsonb LANGUAGE sql VOLATILE AS $$
	SELECT CASE pg_temp.below(12)
		WHEN 0 THEN (SELECT jsonb_agg(CASE pg_temp.below(5)
				WHEN 0 THEN '{"type": "image_url", "image_url": {"url": "https://example.com/a.jpg"}}'
				WHEN 1 THEN '{"type": "image_url", "image_url": {"url": "https://example.com/a.jpg", "detail": "low"}}'
				WHEN 2 THEN jsonb_build_object('type', 'file', 'file', jsonb_build_object('file_data', pg_temp.text()))
				ELSE jsonb_build_object('type', 'text', 'text', pg_temp.text()) END)
			FROM generate_series(0, pg_temp.below(4)))
		WHEN 1 THEN (ARRAY['null', '[]', '{"a": 1}', '12.5', 'true', '[1, "x", null]']::jsonb[])[1 + pg_temp.below(6)]
		ELSE to_jsonb(pg_temp.text()) END
	$$;
-- Each message's wamid, which costs nothing, says where it belongs: its place, its unit, and whether that lacks something:
-- whole, open (a call that nothing answers) or orphan (a result of nothing).
CREATE FUNCTION pg_temp.add(p_messages jsonb[], p_message jsonb, p_unit integer, p_kind text) RETURNS jsonb[] LANGUAGE sql VOLATILE AS $$
	SELECT p_messages || (p_message || jsonb_build_object('wamid', format('%s %s %s', coalesce(array_length(p_messages, 1), 0), p_unit, p_kind))
		|| CASE WHEN pg_temp.below(12) = 0 THEN '{"pinned": true}'::jsonb ELSE '{}' END)
	$$;
CREATE FUNCTION pg_temp.conversation() RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	v_messages jsonb[] := '{}';
	v_results integer[];
	v_kind text;
BEGIN
	IF pg_temp.below(4) > 0 THEN
		v_messages := pg_temp.add(v_messages, jsonb_build_object('role', 'system', 'content', pg_temp.text()), 0, 'whole');
	END IF;
	FOR unit IN 1 .. pg_temp.below(14) LOOP
		IF pg_temp.below(4) > 0 THEN
			v_messages := pg_temp.add(v_messages, jsonb_build_object('content', pg_temp.content(),
				'role', (ARRAY['user', 'assistant', 'developer', 'narrator'])[1 + pg_temp.below(CASE WHEN pg_temp.below(8) = 0 THEN 4 ELSE 2 END)]), unit, 'whole');
			CONTINUE;
		END IF;
		IF pg_temp.below(8) = 0 THEN
			v_messages := pg_temp.add(v_messages, jsonb_build_object('role', 'tool', 'content', pg_temp.content()), unit, 'orphan');
			CONTINUE;
		END IF;
		-- How many results each call has: one, mostly.
		v_results := ARRAY(SELECT CASE pg_temp.below(15) WHEN 0 THEN 0 WHEN 1 THEN 2 ELSE 1 END FROM generate_series(1, 1 + pg_temp.below(3)));
		v_kind := CASE WHEN 0 = ANY (v_results) THEN 'open' ELSE 'whole' END;
		v_messages := pg_temp.add(v_messages, jsonb_build_object('role', 'assistant', 'content', pg_temp.content(), 'tool_calls',
			(SELECT jsonb_agg(jsonb_build_object('id', 'call' || call, 'function', jsonb_build_object('name', 'f', 'arguments', pg_temp.text())))
				FROM generate_series(1, array_length(v_results, 1)) call)), unit, v_kind);
		FOR v_call IN 1 .. array_length(v_results, 1) LOOP
			FOR result IN 1 .. v_results[v_call] LOOP
				v_messages := pg_temp.add(v_messages, jsonb_build_object('role', 'tool', 'tool_call_id', 'call' || v_call, 'content', pg_temp.content()), unit, v_kind);
			END LOOP;
		END LOOP;
	END LOOP;
	RETURN to_jsonb(v_messages);
END
$$;

CREATE TEMP TABLE runs AS
	SELECT n, budget, given, truncate_context(given, budget) AS answer, count_context_tokens(given) AS cost
	FROM (SELECT n, pg_temp.conversation() AS given,
			CASE pg_temp.below(4) WHEN 0 THEN pg_temp.below(40) WHEN 1 THEN 100 + pg_temp.below(300) WHEN 2 THEN pg_temp.below(4000) ELSE 20000 END AS budget
		FROM settings, generate_series(1, conversations) n OFFSET 0) c;

-- A row a message that was given, with what became of it; null: left out.
CREATE TEMP TABLE messages AS
	SELECT n, budget, i::integer, split_part(g.m ->> 'wamid', ' ', 2)::integer AS unit, split_part(g.m ->> 'wamid', ' ', 3) AS kind, g.m ->> 'role' AS role, g.m AS was, a.m AS becomes,
		g.m ->> 'role' IN ('system', 'developer') OR g.m -> 'pinned' IS NOT NULL AS fixed
	FROM runs, jsonb_array_elements(given) WITH ORDINALITY g (m, i)
		LEFT JOIN LATERAL (SELECT r.m FROM jsonb_array_elements(answer) r (m) WHERE r.m ->> 'wamid' = g.m ->> 'wamid') a ON true;
CREATE INDEX ON runs (n);
CREATE INDEX ON messages (n);
ANALYZE runs, messages;
CREATE TEMP TABLE units AS
	SELECT *, kind = 'orphan' OR (kind = 'open' AND last_i < last_other) AS unsendable
	FROM (SELECT n, unit, budget, kind, count(becomes) AS kept, count(*) AS members, bool_or(fixed) AS fixed, max(i) AS last_i, bool_or(becomes <> was) AS shortened,
			count_context_tokens(jsonb_agg(was)) AS cost,
			(SELECT max(i) FROM messages o WHERE o.n = m.n AND o.role <> 'tool') AS last_other
		FROM messages m GROUP BY n, unit, budget, kind) u;
CREATE INDEX ON units (n);
ANALYZE units;
SELECT is((SELECT count(*) FROM units WHERE last_i < last_other AND kind = 'open') > 100 AND (SELECT count(*) FROM units WHERE shortened) > 100
		AND (SELECT count(*) FROM units WHERE members > 2 AND kept = members AND kind = 'whole') > 100 AND (SELECT count(*) FROM runs WHERE cost <= budget) > 100, true,
	'the conversations have all that is to be tested');

SELECT is_empty('SELECT n FROM runs WHERE count_context_tokens(answer) > budget', 'the budget is never exceeded');
SELECT is_empty($$ SELECT n FROM runs WHERE answer <> coalesce((SELECT jsonb_agg(becomes ORDER BY i) FROM messages m WHERE m.n = runs.n AND becomes IS NOT NULL), '[]') $$,
	'nothing is added, doubled or put in another order');
SELECT is_empty($$ SELECT n FROM messages WHERE becomes <> was AND (becomes - 'content' <> was - 'content' OR position('[...]' IN becomes ->> 'content') = 0) $$,
	'what is not as it was has a shorter content with the mark');
SELECT is_empty($$ SELECT n FROM messages, jsonb_typeof(was -> 'content') t
		WHERE becomes <> was AND t = 'string' AND NOT starts_with(was ->> 'content', regexp_replace(becomes ->> 'content', ' ?\[\.\.\.\]$', '')) $$,
	'a text that was shortened is the beginning of what it was');
SELECT is_empty('SELECT n, unit FROM units WHERE kept NOT IN (0, members)', 'calls and results are never parted');
SELECT is_empty('SELECT n, unit FROM units WHERE kept > 0 AND unsendable', 'what can not be sent is left out');
SELECT is_empty('SELECT n FROM runs WHERE cost <= budget AND answer <> given AND NOT EXISTS (SELECT FROM units u WHERE u.n = runs.n AND unsendable)',
	'what fits is not touched');
SELECT is_empty($$ SELECT n, unit FROM units WHERE kept = 0 AND NOT unsendable AND cost <= budget / 4 AND fixed = false
		AND last_i = (SELECT max(last_i) FROM units o WHERE o.n = units.n AND NOT o.unsendable AND NOT o.fixed) $$,
	'the newest is kept, where it needs no more than a quarter');
SELECT is_empty($$ SELECT n, unit FROM units WHERE (kept = 0 OR shortened) AND fixed AND NOT unsendable
		AND (SELECT sum(cost) FROM units o WHERE o.n = units.n AND o.fixed AND NOT o.unsendable) <= budget / 2 $$,
	'fixed messages are kept whole, where they leave half of the budget');
SELECT is_empty($$ SELECT o.n FROM units o JOIN units d ON d.n = o.n AND d.last_i > o.last_i
		WHERE o.kept > 0 AND NOT o.fixed AND d.kept = 0 AND NOT d.fixed AND NOT d.unsendable
			AND EXISTS (SELECT FROM units k WHERE k.n = d.n AND k.last_i > d.last_i AND k.kept > 0 AND NOT k.fixed) $$,
	'from the newest that is kept there is no gap');
SELECT is_empty($$ SELECT n FROM runs WHERE truncate_context(answer, budget) <> answer AND NOT EXISTS (SELECT FROM units u WHERE u.n = runs.n AND kind <> 'whole') $$,
	'what was truncated is not truncated again');
SELECT is_empty($$ SELECT n FROM runs, truncate_context(given, budget, 3) t
		WHERE count_context_tokens(t) > budget OR (SELECT count(*) FROM messages m JOIN units u USING (n, unit) WHERE m.n = runs.n AND NOT u.fixed
			AND EXISTS (SELECT FROM jsonb_array_elements(t) e WHERE e ->> 'wamid' = m.was ->> 'wamid')) > 7 $$,
	'nor is the number of messages exceeded, but by what belongs to the newest');

-- Whatever counts: this one is neither monotonous nor fair.
CREATE FUNCTION public.count_oddly(p_text text) RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT length(p_text) / 2 + abs(hashtext(p_text) % 50) $$;
SET LOCAL wahook.token_counter = 'public.count_oddly';
SELECT is_empty('SELECT n FROM runs WHERE n <= 500 AND count_context_tokens(truncate_context(given, budget)) > budget', 'nor is it by a counter of the user''s');

SELECT * FROM finish();
ROLLBACK;
