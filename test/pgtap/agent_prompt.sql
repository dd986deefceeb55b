-- Whatever the conversation, a prompt is within its budget and in the shape of chat completions; ten megabytes are remembered
-- in bounds; what is hostile is a text.
BEGIN;
SELECT no_plan();
SELECT setseed(0.42);

-- A text of up to so many characters, in one of many scripts or of all.
CREATE FUNCTION pg_temp.words(p_max integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	c_scripts constant text[] := ARRAY['the quick brown fox ', 'ሰላም ነገ ማታ ', 'مرحبا كيف الحال ', '你好我想订一张桌子', 'नमस्ते आप कैसे हैं ', '👩‍👩‍👧‍👦🇷🇼👍🏽 ', E'"\\{}[]\n\t<|im_start|>system ', '0123456789abcdef', 'e' || U&'\0301\0302', U&'\200B\202E'];
	v_script text := c_scripts[1 + floor(random() * 10)::integer];
	v_length integer := floor(random() * random() * p_max);
BEGIN
	RETURN left(repeat(v_script, v_length / length(v_script) + 1), v_length);
END
$$;
CREATE FUNCTION pg_temp.message() RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	v_id text := 'call' || floor(random() * 5);
BEGIN
	RETURN CASE floor(random() * 12)
		WHEN 0 THEN jsonb_build_object('role', 'assistant', 'content', NULL, 'tool_calls', jsonb_build_array(
			jsonb_build_object('id', v_id, 'type', 'function', 'function', jsonb_build_object('name', 'f', 'arguments', pg_temp.words(200)))))
		WHEN 1 THEN jsonb_build_object('role', 'tool', 'tool_call_id', v_id, 'content', pg_temp.words(500))
		WHEN 2 THEN jsonb_build_object('role', 'user', 'content', jsonb_build_array(jsonb_build_object('type', 'text', 'text', pg_temp.words(300)),
			jsonb_build_object('type', 'image_url', 'image_url', jsonb_build_object('url', 'https://example.com/' || pg_temp.words(50)))))
		WHEN 3 THEN jsonb_build_object('role', 'user', 'content', pg_temp.words(300), 'pinned', true)
		WHEN 4 THEN to_jsonb(pg_temp.words(100))
		WHEN 5 THEN '{"role": "wizard", "content": {"x": [1, 2]}, "timestamp": 5}'
		WHEN 6 THEN jsonb_build_object('role', 'system', 'content', pg_temp.words(200))
		WHEN 7 THEN (ARRAY['null', '[]', '{}', '12', '{"role": null}', '{"content": 5}'])[1 + floor(random() * 6)::integer]::jsonb
		ELSE jsonb_build_object('role', CASE WHEN random() < 0.5 THEN 'user' ELSE 'assistant' END, 'content', pg_temp.words(2000), 'wamid', 'w' || random()) END;
END
$$;

CREATE TEMP TABLE conversation AS SELECT get_or_create_conversation('prompt.user', '250788200001') AS id;
SELECT acquire_conversation_lock(id, id) FROM conversation;
INSERT INTO webhook_agents (agent_type, system_prompt, model, context_budget) VALUES ('tester', NULL, 'm', 4000);
CREATE TEMP TABLE tried (n integer, budget integer, tokens integer, body jsonb, loaded jsonb);
DO $$
DECLARE
	v_id uuid := (SELECT id FROM conversation);
	v_budget integer;
	v_body jsonb;
BEGIN
	FOR n IN 1 .. 300 LOOP
		v_budget := floor(exp(random() * 9));
		UPDATE webhook_agents SET system_prompt = nullif(pg_temp.words(1000), ''), context_budget = v_budget WHERE agent_type = 'tester';
		INSERT INTO agent_contexts (conversation_id, agent_type, context_data) VALUES (v_id, 'tester', jsonb_strip_nulls(jsonb_build_object(
				'messages', (SELECT coalesce(jsonb_agg(pg_temp.message()), '[]') FROM generate_series(1, floor(random() * 30)::integer)),
				'summary', CASE WHEN random() < 0.4 THEN pg_temp.words(3000) END)))
			ON CONFLICT (conversation_id, agent_type) DO UPDATE SET context_data = EXCLUDED.context_data;
		v_body := agent_prompt(v_id, 'tester', (SELECT jsonb_agg(pg_temp.message()) FROM generate_series(1, floor(random() * 4)::integer)));
		INSERT INTO tried VALUES (n, v_budget, count_context_tokens(v_body -> 'messages'), v_body, agent_load_context(v_id, 'tester', v_budget));
	END LOOP;
END
$$;
SELECT is_empty('SELECT n, budget, tokens FROM tried WHERE tokens > budget', 'no prompt is over its budget');
SELECT cmp_ok((SELECT count(*) FROM tried WHERE tokens > budget / 2), '>', 30::bigint, 'many make use of it');
SELECT is_empty($$ SELECT n FROM tried WHERE (loaded ->> 'token_count')::integer > budget
		OR (loaded ->> 'token_count')::integer <> count_context_tokens(loaded -> 'messages') + coalesce(estimate_tokens(loaded ->> 'summary'), 0) $$,
	'what is loaded is within it, too, and its count is true');
SELECT is_empty($$ SELECT n, message FROM tried, jsonb_array_elements(body -> 'messages') message
	WHERE jsonb_typeof(message) <> 'object' OR message ->> 'role' NOT IN ('system', 'developer', 'user', 'assistant', 'tool')
		OR NOT message ? 'content' OR jsonb_typeof(message -> 'content') NOT IN ('string', 'array', 'null')
		OR (jsonb_typeof(message -> 'content') = 'null' AND NOT message ? 'tool_calls')
		OR message - '{role,content,name,tool_calls,tool_call_id,refusal}'::text[] <> '{}' $$, 'messages have what chat completions know');
SELECT is_empty($$ SELECT n FROM tried, jsonb_array_elements(body -> 'messages') WITH ORDINALITY m(message, place)
	WHERE message ->> 'role' = 'tool' AND NOT EXISTS (SELECT FROM jsonb_array_elements(body -> 'messages') WITH ORDINALITY c(call, earlier)
		WHERE earlier < place AND call @? '$.tool_calls[*].id' AND call #> '{tool_calls}' @> jsonb_build_array(jsonb_build_object('id', message -> 'tool_call_id'))) $$,
	'no result of a tool is without its call');

-- Ten megabytes, in one message and in a hundred thousand.
SELECT is(jsonb_array_length(agent_load_context(id, 'huge') -> 'messages'), 0, 'nothing at first') FROM conversation;
INSERT INTO agent_contexts (conversation_id, agent_type, context_data) SELECT id, 'huge',
	jsonb_build_object('messages', (SELECT jsonb_agg(jsonb_build_object('role', 'user', 'content', repeat('many words ', 8), 'wamid', 'huge' || n)) FROM generate_series(1, 100000) n)) FROM conversation;
SELECT is(messages_count, 100000, 'they are counted') FROM agent_contexts WHERE agent_type = 'huge';
SELECT cmp_ok((agent_load_context(id, 'huge') ->> 'token_count')::integer, '<=', 4000, 'within the budget') FROM conversation;
SELECT is(result ->> 'added', '2', 'a turn is added') FROM conversation, agent_save_turn(id, id, 'huge', '[{"role": "user", "content": "hi", "wamid": "huge100001"}, {"role": "assistant", "content": "hello"}]') result;
SELECT cmp_ok(messages_count, '<=', 200, 'and the rest comes into bounds') FROM agent_contexts WHERE agent_type = 'huge';
SELECT is(result ->> 'added', '2', 'of one that is huge itself') FROM conversation, agent_save_turn(id, id, 'wide', jsonb_build_array(
	jsonb_build_object('role', 'user', 'content', repeat('wide ', 2000000), 'wamid', 'wide1'), jsonb_build_object('role', 'assistant', 'content', 'short'))) result;
SELECT cmp_ok(length(context_data::text), '<', 1024 * 1024, 'a part is remembered') FROM agent_contexts WHERE agent_type = 'wide';
SELECT is(jsonb_path_query_array(agent_load_context(id, 'wide') -> 'messages', '$[*].role'), '["user", "assistant"]'::jsonb, 'of both messages') FROM conversation;
SELECT cmp_ok(count_context_tokens(agent_prompt(id, 'waiter', jsonb_build_array(jsonb_build_object('type', 'text', 'text', jsonb_build_object('body', repeat('wide ', 2000000))))) -> 'messages'),
	'<=', 4000, 'a new message of ten megabytes is shortened') FROM conversation;
SELECT is(result ->> 'added', '1', 'many small ones are in bounds by their size as well') FROM conversation, agent_save_turn(id, id, 'many', (
	SELECT jsonb_agg(jsonb_build_object('role', 'user', 'content', repeat('x', 20000), 'wamid', 'many1')) FROM generate_series(1, 150) n)) result;

-- Two agents know nothing of each other's memory, nor does another conversation.
SELECT agent_save_turn(id, id, 'first', '["for the first"]', '{both1}'), agent_save_turn(id, id, 'second', '["for the second"]', '{both1}') FROM conversation;
SELECT results_eq($$ SELECT agent_type, context_data #>> '{messages,0,content}' FROM agent_contexts WHERE agent_type IN ('first', 'second') ORDER BY 1 $$,
	$$ VALUES ('first', 'for the first'), ('second', 'for the second') $$, 'each agent has its own');
SELECT is(agent_load_context(get_or_create_conversation('prompt.other', '250788200002'), 'first') -> 'messages', '[]'::jsonb, 'of each conversation');

SELECT finish();
ROLLBACK;
