-- truncate_context and count_context_tokens, by example. test/pgtap/truncate.sql has what holds for any conversation.

-- What messages cost: 4 each, their content, and whatever else the model is sent.
SELECT count_context_tokens('[]') AS none,
	count_context_tokens('[{"role": "user", "content": ""}]') AS empty,
	count_context_tokens('[{}]') AS nothing,
	count_context_tokens('[{"role": "user", "content": "12345678"}]') AS text,
	count_context_tokens('[{"role": "user", "content": "12345678", "wamid": "wamid.A", "pinned": true, "at": "2026-01-01"}]') AS ours_is_free,
	count_context_tokens('[{"role": "user", "content": "12345678", "name": "Anna"}]') AS name,
	count_context_tokens('[{"role": "user", "content": [{"type": "text", "text": "12345678"}, {"type": "text", "text": "1234"}]}]') AS parts,
	count_context_tokens(NULL) AS null_is;
SELECT count_context_tokens('[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.jpg"}}]}]') AS picture,
	count_context_tokens('[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:", "detail": "low"}}]}]') AS small,
	count_context_tokens('[{"role": "user", "content": [{"type": "file", "file": {"file_id": "1234"}}]}]') AS other,
	count_context_tokens('[{"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function"}]}]') AS call,
	count_context_tokens('[{"role": "user", "content": 1234}, {"role": "user", "content": {"a": "bcd"}}, {"role": "user", "content": true}]') AS odd;

-- A conversation in letters: each message has a wamid, so the answer can be told shortly.
CREATE TEMP TABLE talk AS SELECT '[
	{"role": "system", "wamid": "s", "content": "Be kind to the guests."},
	{"role": "user", "wamid": "a", "content": "Is there a table for two?"},
	{"role": "assistant", "wamid": "b", "content": "There is, at eight."},
	{"role": "user", "wamid": "c", "content": "We can not eat nuts.", "pinned": true},
	{"role": "assistant", "wamid": "d", "content": "I have noted that, thank you."},
	{"role": "user", "wamid": "e", "content": "What is for dessert?"}]'::jsonb AS messages;
CREATE FUNCTION pg_temp.kept(p_messages jsonb) RETURNS text LANGUAGE sql
	AS $$ SELECT string_agg(coalesce(m ->> 'wamid', '?'), '' ORDER BY n) FROM jsonb_array_elements(p_messages) WITH ORDINALITY e (m, n) $$;
SELECT budget, kept, string_agg(DISTINCT CASE WHEN cost <= budget THEN 'fits' ELSE 'EXCEEDED' END, ' ') AS fits,
		bool_or(truncated = messages) AS untouched
	FROM (SELECT budget, messages, truncated, pg_temp.kept(truncated) AS kept, count_context_tokens(truncated) AS cost
		FROM talk, unnest('{0,3,10,20,30,40,41,50,60,70,80,1000}'::integer[]) budget, truncate_context(messages, budget) truncated) t
	GROUP BY budget, kept ORDER BY budget;
SELECT pg_temp.kept(truncate_context(messages, 1000, n)) FROM talk, generate_series(0, 5) n;
SELECT jsonb_pretty(truncate_context(messages, 30)) FROM talk;
SELECT truncate_context(messages, 1000)::text = messages::text AS same, truncate_context('[]', 0) AS empty FROM talk;

-- A call of tools and its results are one: parallel calls, several results of one call, an id used again.
CREATE TEMP TABLE calls AS SELECT '[
	{"role": "user", "wamid": "a", "content": "The weather in two towns, please: Kigali and Butare."},
	{"role": "assistant", "wamid": "b", "content": null, "tool_calls": [{"id": "1", "function": {"name": "w", "arguments": "{}"}}, {"id": "2", "function": {"name": "w", "arguments": "{}"}}]},
	{"role": "tool", "wamid": "c", "tool_call_id": "2", "content": "sun"},
	{"role": "tool", "wamid": "d", "tool_call_id": "1", "content": "rain"},
	{"role": "tool", "wamid": "e", "tool_call_id": "1", "content": "and more rain"},
	{"role": "assistant", "wamid": "f", "content": "Sun and rain."},
	{"role": "assistant", "wamid": "g", "tool_calls": [{"id": "1", "function": {"name": "w", "arguments": "{}"}}]},
	{"role": "tool", "wamid": "h", "tool_call_id": "1", "content": "snow"},
	{"role": "user", "wamid": "i", "content": "Thanks"}]'::jsonb AS messages;
SELECT pg_temp.kept(truncated) AS kept, min(budget) AS from_budget
	FROM calls, generate_series(0, 200) budget, truncate_context(messages, budget) truncated GROUP BY 1 ORDER BY 2;
-- The number of messages does not part them either; a unit that is the newest is more than the number allows.
SELECT pg_temp.kept(truncate_context(messages, 1000, n)) FROM calls, generate_series(1, 9) n;
SELECT pg_temp.kept(truncate_context(messages - 8, 1000, 1)) FROM calls;

-- What can't be sent is left out: results without calls, calls without results. At the end they may be still to come.
SELECT pg_temp.kept(truncate_context('[
	{"role": "tool", "wamid": "a", "tool_call_id": "1", "content": "before its call"},
	{"role": "assistant", "wamid": "b", "content": "hm", "tool_calls": [{"id": "1"}, {"id": "2"}]},
	{"role": "tool", "wamid": "c", "tool_call_id": "1", "content": "the other is lacking"},
	{"role": "tool", "wamid": "d", "content": "of nothing", "pinned": true},
	{"role": "user", "wamid": "e", "content": "hello"},
	{"role": "assistant", "wamid": "f", "tool_calls": []},
	{"role": "assistant", "wamid": "g", "tool_calls": [{"id": "1"}, {"id": "2"}]},
	{"role": "tool", "wamid": "h", "tool_call_id": "2", "content": "the other comes later"}]', 1000));
-- One that is pinned brings the others.
SELECT pg_temp.kept(truncate_context(jsonb_set(messages, '{3,pinned}', 'true'), 100, 1)) FROM calls;

-- One message that is larger than the budget: shortened, at the border of a word or of what is read as one character.
SELECT budget, m ->> 'content' AS content
	FROM unnest('{7,9,14}'::integer[]) budget, unnest(ARRAY['The quick brown fox jumps over the lazy dog', repeat('x', 99),
			'ሰላም! ነገ ማታ ለአራት ሰዎች ጠረጴዛ', '你好！我想预订明天晚上四个人的桌子', repeat('e' || U&'\0301', 9), repeat('👩🏽‍🚀', 5), repeat('🇷🇼', 6), repeat('क्षि', 8)]) WITH ORDINALITY texts (t, n),
		jsonb_array_elements(truncate_context(jsonb_build_array(jsonb_build_object('role', 'user', 'content', t)), budget)) m
	ORDER BY n, budget;
-- Of parts, texts before pictures; what was left out leaves the mark.
SELECT budget, truncate_context('[{"role": "user", "content": [
	{"type": "image_url", "image_url": {"url": "https://example.com/a.jpg"}},
	{"type": "text", "text": "What is in this picture, and what is it made of?"},
	{"type": "image_url", "image_url": {"url": "https://example.com/b.jpg", "detail": "low"}}]}]', budget) -> 0 -> 'content' AS content
	FROM unnest('{5,6,15,30,110,1150,1300}'::integer[]) budget;
-- Arguments of a call are JSON and can't be shortened: it is left out with its result, and older ones can stay.
SELECT pg_temp.kept(truncate_context(jsonb_set(messages - 8, '{6,tool_calls,0,function,arguments}', to_jsonb(repeat('x', 999))), 100)) FROM calls;
-- In the midst, a message that could not be whole anyway is shortened rather than the end.
SELECT pg_temp.kept(t), t -> 0 ->> 'content' FROM talk, truncate_context(jsonb_set(messages - 0 - 2, '{2,content}', to_jsonb(repeat('a word ', 1000))), 60) t;

-- System prompts and pinned messages that leave nothing to the newest are shortened, pinned ones first.
SELECT name, budget, array_agg(m ->> 'role' || ' ' || length(m ->> 'content') ORDER BY n) AS kept
	FROM (VALUES ('a long system prompt', 4000, 40), ('a long pinned message', 40, 4000), ('both long', 4000, 4000)) c (name, s, p),
		unnest('{10,50,200,1500}'::integer[]) budget,
		jsonb_array_elements(truncate_context(jsonb_build_array(
			jsonb_build_object('role', 'system', 'content', repeat('s', s)), jsonb_build_object('role', 'user', 'content', repeat('o', 50)),
			jsonb_build_object('role', 'user', 'content', repeat('p', p), 'pinned', true), jsonb_build_object('role', 'user', 'content', repeat('n', 300))), budget))
			WITH ORDINALITY AS k (m, n)
	GROUP BY c, name, budget ORDER BY c, budget;
-- So many that not even their beginnings fit: the first system prompt is the last to go.
SELECT pg_temp.kept(truncate_context(jsonb_build_array('{"role": "system", "wamid": "1", "content": "first"}'::jsonb) || jsonb_agg(
		jsonb_build_object('role', CASE WHEN i % 2 = 0 THEN 'developer' ELSE 'user' END, 'pinned', i % 2 = 1, 'content', 'x', 'wamid', i)), budget))
	FROM generate_series(2, 9) i, unnest('{4,6,12,30}'::integer[]) budget GROUP BY budget ORDER BY budget;

-- Hostile input.
SELECT truncate_context('{}', 100);
SELECT truncate_context('1', 100);
SELECT truncate_context('null', 100);
SELECT truncate_context('"[]"', 100);
SELECT truncate_context('[1]', 100);
SELECT truncate_context('[{}, null]', 100);
SELECT truncate_context('[[]]', 100);
SELECT count_context_tokens('[{}, 5]');
SELECT truncate_context(NULL, 1);
SELECT truncate_context('[]', NULL);
SELECT truncate_context('[]', -1);
SELECT truncate_context('[]', 1, -1);
SELECT truncate_context('[{"role": "user", "content": {"deep": ["x"]}}, {"role": {"a": 1}, "tool_calls": "x"}, {"content": [1, null, "t", []], "tool_calls": [1, null]}]', 2147483647) AS odd;
SELECT truncate_context('[{"role": ["tool"], "content": "a"}, {"role": "tool", "tool_call_id": {"a": 1}}, {"pinned": "yes", "content": "x"}]', 100) AS odd;
SELECT jsonb_array_length(truncate_context(m, 20000)), count_context_tokens(truncate_context(m, 20000)) <= 20000 AS fits, pg_column_size(m) > 10000000 AS is_large
	FROM (SELECT jsonb_agg(jsonb_build_object('role', 'user', 'content', repeat('ሰላም 你好 hello ', 500))) AS m FROM generate_series(1, 1000)) large;
SELECT length(truncate_context(jsonb_build_array(jsonb_build_object('role', 'user', 'content', repeat('ab ', 4000000))), 1000) -> 0 ->> 'content') AS one_of_12_mb;
