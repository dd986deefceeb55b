-- What agents remember: loading, saving, edits and revocations, prompts.
\set lock '11111111-1111-4111-8111-111111111111'
\set other '22222222-2222-4222-8222-222222222222'
SELECT get_or_create_conversation('mem.user', '250788100001', '1001') AS c \gset
SELECT acquire_conversation_lock(:'c', :'lock');
CREATE TEMP VIEW remembered AS
	SELECT agent_type, message ->> 'role' AS role, message ->> 'content' AS content, message ->> 'wamid' AS wamid
	FROM agent_contexts, jsonb_array_elements(context_data -> 'messages') WITH ORDINALITY m(message, place)
	ORDER BY agent_type, place;

-- Nothing yet.
SELECT agent_load_context(:'c', 'waiter') - '{conversation_id}'::text[];

-- A turn, and what happens when it is saved again: the same, a part, and more.
SELECT agent_save_turn(:'c', :'lock', 'waiter', '[{"role": "user", "content": "A table for two", "wamid": "wamid.mem.1"},
	{"role": "assistant", "content": "For when?"}]', NULL, '{"prompt_tokens": 20, "completion_tokens": 5}') - '{turn_id,session_id}'::text[];
SELECT agent_save_turn(:'c', :'lock', 'waiter', '[{"role": "user", "content": "A table for two", "wamid": "wamid.mem.1"},
	{"role": "assistant", "content": "When?"}]') - '{turn_id,session_id}'::text[];
SELECT agent_save_turn(:'c', :'lock', 'waiter', '[{"role": "user", "content": "A table for two", "wamid": "wamid.mem.1"},
	{"role": "user", "content": "tonight", "wamid": "wamid.mem.2"}, {"role": "assistant", "content": "Done"}]') - '{turn_id,session_id}'::text[];
SELECT agent_save_turn(:'c', :'lock', 'waiter', '[{"role": "user", "content": "tonight", "wamid": "wamid.mem.2"},
	{"role": "assistant", "content": "Done!"}]') - '{turn_id,session_id}'::text[];
SELECT role, content, wamid FROM remembered;
SELECT total_messages, total_tokens_used, error_count, prompt_tokens, completion_tokens FROM agent_sessions WHERE conversation_id = :'c';
SELECT whatsapp_message_ids, outcome, answered_by, prompt_tokens, completion_tokens FROM agent_turns WHERE conversation_id = :'c' ORDER BY id;

-- Ids that stand beside the messages, and the claim's messages as they are.
SELECT agent_save_turn(:'c', :'lock', 'beside', '["one", "two", {"role": "assistant", "content": "three"}]', '{wamid.b.1,wamid.b.2}') - '{turn_id,session_id}'::text[];
SELECT agent_save_turn(:'c', :'lock', 'beside', '["two", "four", {"role": "assistant", "content": "five"}]', '{wamid.b.2,wamid.b.3}') - '{turn_id,session_id}'::text[];
SELECT agent_save_turn(:'c', :'lock', 'beside', '[{"whatsapp_message_id": "wamid.b.4", "received_at": "2026-01-01T00:00:00Z", "kind": "image",
	"message": {"type": "image", "from": "250788100001", "image": {"id": "1", "caption": "look"}}}]') - '{turn_id,session_id}'::text[];
SELECT role, content, wamid FROM remembered WHERE agent_type = 'beside';

-- A turn that failed leaves no memory, and may be saved when it succeeds.
SELECT agent_save_turn(:'c', :'lock', 'failing', '[{"role": "user", "content": "hi", "wamid": "wamid.f.1"}]', NULL, NULL, NULL,
	'{"error": "timeout", "calls": 4, "duration_ms": 9000, "model": "m", "correlation_id": "none"}') - '{turn_id,session_id}'::text[];
SELECT agent_save_turn(:'c', :'lock', 'failing', '[{"role": "user", "content": "hi", "wamid": "wamid.f.1"}, {"role": "assistant", "content": "hello"}]') - '{turn_id,session_id}'::text[];
SELECT outcome, error, calls, duration_ms, model FROM agent_turns WHERE conversation_id = :'c' AND agent_type = 'failing' ORDER BY id;
SELECT total_messages, error_count FROM agent_sessions WHERE conversation_id = :'c' AND agent_type = 'failing';

-- A turn, and the session that it opens, has the version that the model was told, not the one that there is by now.
SELECT register_webhook_agent('turning', 'one', 'm'), register_webhook_agent('turning', 'two'), register_webhook_agent('turning', 'three');
SELECT agent_save_turn(:'c', :'lock', 'turning', '["hi"]', NULL, NULL, NULL, '{"variant": "", "version": 2, "answered_by": "turning"}') ->> 'saved',
	agent_save_turn(:'c', :'lock', 'turning', '["hi"]', NULL, NULL, NULL, '{"variant": "", "version": 1, "answered_by": "waiter"}') ->> 'saved',
	agent_save_turn(:'c', :'lock', 'turning', '["hi"]', NULL, NULL, NULL, '{"variant": "none", "version": 1}') ->> 'saved',
	agent_save_turn(:'c', :'lock', 'turning', '["hi"]', NULL, NULL, NULL, '{"version": "1"}') ->> 'saved',
	agent_save_turn(:'c', :'lock', 'turning', '["hi"]', NULL, NULL, NULL, '["version"]') ->> 'saved';
SELECT variant, version, answered_by FROM agent_turns WHERE agent_type = 'turning' ORDER BY id;
SELECT variant, version FROM agent_sessions WHERE agent_type = 'turning';
DELETE FROM webhook_agents WHERE agent_type = 'turning';

-- Fenced.
\set VERBOSITY sqlstate
SELECT agent_save_turn(:'c', :'other', 'waiter', '[]');
SELECT agent_save_turn(:'other', :'lock', 'waiter', '[]');
SELECT agent_save_turn(:'c', NULL, 'waiter', '[]');
SELECT agent_save_turn(NULL, :'lock', 'waiter', '[]');
SELECT agent_save_turn(:'c', :'lock', NULL, '[]');
SELECT agent_save_turn(:'c', :'lock', '', '[]');
SELECT agent_save_turn(:'c', :'lock', 'waiter', '["x"]', ARRAY[repeat('w', 513)]);
SELECT agent_set_summary(:'c', :'other', 'waiter', 'x');
SELECT agent_load_context(:'other', 'waiter');
SELECT agent_load_context(:'c', NULL);
SELECT agent_load_context(:'c', 'waiter', -1);
SELECT agent_prompt(:'c', 'waiter', NULL, '[]');
SELECT agent_prompt(:'c', 'none of them');

\set VERBOSITY default
-- Bounds: the oldest go, pinned ones last, and a result of a tool with its call.
INSERT INTO webhook_agents (agent_type, max_context_messages, system_prompt, model, temperature, max_output_tokens, context_budget)
	VALUES ('small', 4, 'You are small.', 'gpt-4o-mini', 0.5, 100, 200), ('thinker', 4, NULL, 'o3-mini', NULL, 100, 200) ON CONFLICT DO NOTHING;
SELECT agent_save_turn(:'c', :'lock', 'small', '[{"role": "user", "content": "keep me", "wamid": "wamid.s.0", "pinned": true},
	{"role": "user", "content": "old", "wamid": "wamid.s.1"},
	{"role": "assistant", "content": null, "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
	{"role": "tool", "tool_call_id": "t1", "content": "result"}, {"role": "assistant", "content": "answer"}]') - '{turn_id,session_id}'::text[];
SELECT agent_save_turn(:'c', :'lock', 'small', '[{"role": "user", "content": "new", "wamid": "wamid.s.2"}, {"role": "assistant", "content": "newer"}]', NULL, NULL, 'They spoke of old things.') - '{turn_id,session_id}'::text[];
SELECT role, content FROM remembered WHERE agent_type = 'small';
-- Known although it is forgotten.
SELECT agent_save_turn(:'c', :'lock', 'small', '[{"role": "user", "content": "old", "wamid": "wamid.s.1"}, {"role": "assistant", "content": "again"}]') - '{turn_id,session_id}'::text[];
SELECT jsonb_pretty(agent_prompt(:'c', 'small', '[{"whatsapp_message_id": "wamid.s.9", "message": {"type": "text", "text": {"body": "what now?"}}},
	{"whatsapp_message_id": "wamid.s.2", "message": {"type": "text", "text": {"body": "new"}}}]', '{"tools": [], "temperature": null}'));
SELECT agent_prompt(:'c', 'thinker', '["x"]');
SELECT agent_prompt(:'c', 'thinker', '["x"]', '{"max_tokens": 5, "tools": [{"default": null}], "messages": 1, "model": null}');
SELECT agent_load_context(:'c', 'small', 24, true) - '{conversation_id,updated_at}'::text[];
SELECT agent_set_summary(:'c', :'lock', 'small', 'Shorter.', 1);
SELECT role, content FROM remembered WHERE agent_type = 'small';
SELECT agent_set_summary(:'c', :'lock', 'small', '') IS NOT NULL AS done;
SELECT context_data ? 'summary' AS has_summary FROM agent_contexts WHERE agent_type = 'small';

-- Edits and revocations: of what is remembered, by every agent; before it is; in the same claim; by somebody else.
CREATE TEMP TABLE bodies AS SELECT '{"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"field": "messages", "value": {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "1001"}, "messages": [%s]}}]}]}'::text AS body;
SELECT outcome FROM bodies, receive_webhook(format(body,
	'{"from": "250788100001", "id": "wamid.e.1", "timestamp": "1700000100", "type": "edit", "edit": {"original_message_id": "wamid.mem.1", "message": {"type": "text", "text": {"body": "A table for three"}}}},'
	'{"from": "250788100001", "id": "wamid.e.0", "timestamp": "1700000050", "type": "edit", "edit": {"original_message_id": "wamid.mem.1", "message": {"type": "text", "text": {"body": "A table for nobody"}}}},'
	'{"from": "250788100001", "id": "wamid.e.2", "timestamp": "1700000200", "type": "revoke", "revoke": {"original_message_id": "wamid.b.1"}},'
	'{"from": "250788100001", "id": "wamid.e.3", "timestamp": "1700000200", "type": "revoke", "revoke": {"original_message_id": "wamid.later"}},'
	'{"from": "250788100002", "id": "wamid.e.4", "timestamp": "1700000200", "type": "revoke", "revoke": {"original_message_id": "wamid.mem.2"}},'
	'{"from": "250788100001", "id": "wamid.e.5", "timestamp": "1700000200", "type": "revoke", "revoke": {}}'));
SELECT message ->> 'content' AS content, message - '{role,content}'::text[] AS rest
	FROM jsonb_array_elements(agent_load_context(:'c', 'waiter') -> 'messages') message;
SELECT content FROM remembered WHERE agent_type = 'waiter';
SELECT webhook_settle_changes(10) >= 0 AS done;
SELECT agent_type, content FROM remembered WHERE agent_type IN ('waiter', 'beside');
-- Its holder was left alone. Afterwards what is stored is changed, and done with when nobody can still bring back what was.
SELECT release_conversation_lock(:'c', :'lock');
SELECT webhook_settle_changes(10) >= 0 AS done;
SELECT webhook_settle_changes(10) >= 0 AS done;
SELECT agent_type, content FROM remembered WHERE agent_type IN ('waiter', 'beside');
SELECT webhook_settle_changes(10) >= 0 AS done;
SELECT acquire_conversation_lock(:'c', :'lock');
SELECT agent_save_turn(:'c', :'lock', 'late', '[{"role": "user", "content": "secret", "wamid": "wamid.later"}, {"role": "assistant", "content": "what?"}]') ->> 'added' AS added;
SELECT role, content, wamid FROM remembered WHERE agent_type = 'late';
SELECT message ->> 'content' AS content FROM jsonb_array_elements(agent_prompt(:'c', 'thinker', '[{"whatsapp_message_id": "wamid.later", "message": {"type": "text", "text": {"body": "secret"}}}]') -> 'messages') message;
-- Whoever writes it.
INSERT INTO agent_contexts (conversation_id, agent_type, context_data, token_count, messages_count)
	VALUES (:'c', 'direct', '{"messages": [{"role": "user", "content": "secret", "wamid": "wamid.later"}, {"role": "assistant", "content": "secret", "wamid": "wamid.later"}], "mine": 1}', 7, 7)
	ON CONFLICT (conversation_id, agent_type) DO UPDATE SET context_data = EXCLUDED.context_data
	RETURNING context_data, token_count, messages_count;
UPDATE agent_contexts SET token_count = 5, messages_count = 5 WHERE agent_type = 'direct' RETURNING token_count, messages_count;
-- A summary that may tell what was revoked goes.
SELECT agent_save_turn(:'c', :'lock', 'summing', '[{"role": "user", "content": "my secret", "wamid": "wamid.sum.1"}]', NULL, NULL, 'They told a secret.') ->> 'added' AS added;
SELECT agent_set_summary(:'c', :'lock', 'summing', 'They told a secret.', 1);
SELECT outcome FROM bodies, receive_webhook(format(body, '{"from": "250788100001", "id": "wamid.e.6", "type": "revoke", "revoke": {"original_message_id": "wamid.sum.1"}}'));
SELECT agent_load_context(:'c', 'summing') -> 'summary' AS summary;
-- What a message said goes from what is stored of it, when it has been processed; so do its edits.
SELECT count(*) FROM bodies, receive_webhook(format(body,
	'{"from": "250788100001", "id": "wamid.p.1", "timestamp": "1700000300", "type": "text", "text": {"body": "regretted"}},'
	'{"from": "250788100001", "id": "wamid.p.2", "timestamp": "1700000301", "type": "edit", "edit": {"original_message_id": "wamid.p.1", "message": {"type": "text", "text": {"body": "regretted too"}}}},'
	'{"from": "250788100001", "id": "wamid.p.3", "timestamp": "1700000302", "type": "revoke", "revoke": {"original_message_id": "wamid.p.1"}}'));
SELECT webhook_settle_changes(10) + webhook_settle_changes(10) >= 0 AS done;
SELECT count(*) FROM processed_webhook_messages WHERE payload::text LIKE '%regretted%';
SELECT release_conversation_lock(:'c', :'lock');
SELECT lock_id AS claim FROM claim_conversations(1000) WHERE conversation_id = :'c' \gset
SELECT complete_webhook_messages(:'c', :'claim');
SELECT webhook_settle_changes(20) + webhook_settle_changes(20) >= 0 AS done;
SELECT whatsapp_message_id, payload -> 'message' AS message FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'wamid.p.%' ORDER BY 1;
SELECT count(*) FROM webhook_message_changes WHERE applied_in IS NULL;
SELECT acquire_conversation_lock(:'c', :'lock');
-- The sender had an edit and a revocation in one burst.
SELECT message FROM jsonb_array_elements(agent_user_messages('[
	{"whatsapp_message_id": "w1", "message": {"from": "1", "type": "text", "text": {"body": "first"}}},
	{"whatsapp_message_id": "w2", "message": {"from": "1", "type": "text", "text": {"body": "second"}}},
	{"whatsapp_message_id": "w3", "message": {"from": "1", "type": "edit", "edit": {"original_message_id": "w1", "message": {"type": "text", "text": {"body": "first, edited"}}}}},
	{"whatsapp_message_id": "w4", "message": {"from": "1", "type": "revoke", "revoke": {"original_message_id": "w2"}}},
	{"whatsapp_message_id": "w5", "message": {"from": "2", "type": "revoke", "revoke": {"original_message_id": "w1"}}},
	{"whatsapp_message_id": "w6", "message": {"from": "1", "type": "revoke", "revoke": {"original_message_id": "w0"}}},
	{"whatsapp_message_id": "w7", "message": {"from": "1", "type": "edit", "edit": {"original_message_id": "w0", "message": {"type": "text", "text": {"body": "new"}}}}}]')) message;

-- Each kind has a text.
SELECT kind, message ->> 'content' AS text FROM (VALUES
	('text', '{"type": "text", "text": {"body": "hello"}}'::jsonb),
	('caption', '{"type": "document", "document": {"filename": "a.pdf", "caption": "mine"}}'),
	('voice', '{"type": "audio", "audio": {"voice": true}}'), ('sticker', '{"type": "sticker", "sticker": {}}'),
	('button', '{"type": "button", "button": {"text": "Yes", "payload": "yes"}}'),
	('button reply', '{"type": "interactive", "interactive": {"type": "button_reply", "button_reply": {"id": 1, "title": "Yes"}}}'),
	('list reply', '{"type": "interactive", "interactive": {"type": "list_reply", "list_reply": {"id": "1", "title": "Pizza", "description": "large"}}}'),
	('form', '{"type": "interactive", "interactive": {"type": "nfm_reply", "nfm_reply": {"name": "flow", "response_json": "{\"a\": 1}"}}}'),
	('call', '{"type": "interactive", "interactive": {"type": "call_permission_reply", "call_permission_reply": {"response": "accept"}}}'),
	('location', '{"type": "location", "location": {"latitude": -1.9, "longitude": "30.06", "name": "Kigali"}}'),
	('contacts', '{"type": "contacts", "contacts": [{"name": {"formatted_name": "Ann"}, "phones": [{"phone": "+1"}, {"phone": "+2"}]}, {"name": {"formatted_name": "Bob"}}]}'),
	('order', '{"type": "order", "order": {"text": "please", "product_items": [{"product_retailer_id": "p1", "quantity": 2, "item_price": "3.5", "currency": "USD"}]}}'),
	('reaction', '{"type": "reaction", "reaction": {"message_id": "w", "emoji": "👍"}}'), ('removed', '{"type": "reaction", "reaction": {"message_id": "w"}}'),
	('system', '{"type": "system", "system": {"body": "Ann changed her number"}}'), ('unsupported', '{"type": "unsupported", "errors": []}'),
	('welcome', '{"type": "request_welcome"}'), ('unheard of', '{"type": "hologram", "hologram": {"caption": "wow"}}'), ('none', '{"text": {"body": "hi"}}'),
	('wrong', '{"type": "text", "text": "hello"}'), ('ad', '{"type": "text", "text": {"body": "hi"}, "referral": {"headline": "Sale"}}')) kinds(kind, given),
	jsonb_array_elements(agent_user_messages(given)) message;
SELECT agent_user_messages('[{"whatsapp_message_id": "g", "role": "system", "contact": {"profile": {"name": "Ann"}}, "message": {"type": "text", "text": {"body": "hi"}, "group_id": "G1"}}]');
SELECT agent_user_messages(v) FROM unnest('{null,"[]",1,"\"x\"","[[1],null,true,2]","{}"}'::jsonb[]) v;

-- Any shape.
INSERT INTO agent_contexts (conversation_id, agent_type, context_data)
	SELECT :'c', format('shape %s', to_char(n, 'FM00')), v
	FROM unnest(ARRAY['{}', '[]', 'null', '"text"', '7', '{"messages": {}}', '{"messages": ["hi", 1, null, [2]]}', '[{"role": "user", "content": "hi"}]',
		'{"summary": "short", "messages": []}', '{"summary": {"a": 1}}', '{"history": "something else"}']::jsonb[]) WITH ORDINALITY s(v, n);
SELECT context_data, token_count, messages_count,
		jsonb_path_query_array(agent_load_context(:'c', agent_type), '$.messages[*].content') AS loaded, agent_load_context(:'c', agent_type) ->> 'summary' AS summary
	FROM agent_contexts WHERE agent_type LIKE 'shape%' ORDER BY agent_type;
-- A turn on top of it keeps what is the caller's.
SELECT agent_save_turn(:'c', :'lock', agent_type, '[{"role": "user", "content": "new", "wamid": "wamid.shape"}]') ->> 'added' AS added
	FROM agent_contexts WHERE agent_type LIKE 'shape%' ORDER BY agent_type;
SELECT agent_type, context_data FROM agent_contexts WHERE agent_type LIKE 'shape%' ORDER BY agent_type;
SELECT jsonb_path_query_array(agent_prompt(:'c', 'thinker', v) -> 'messages', '$[*]') FROM unnest(ARRAY[
	'[{"role": "human", "content": {"a": 1}, "timestamp": 5}, {"role": "assistant"}, {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": null}]']::jsonb[]) v;

DELETE FROM webhook_agents WHERE agent_type IN ('small', 'thinker');
