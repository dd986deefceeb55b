-- Receiving: what becomes of each update, and whose conversation it belongs to.
\pset null -
CREATE FUNCTION pg_temp.delivery(p_value text, p_field text DEFAULT 'messages') RETURNS text LANGUAGE sql AS $$
	SELECT format('{"object": "whatsapp_business_account", "entry": [{"id": "rcv", "time": 1, "changes": [{"field": "%s", "value": %s}]}]}',
		p_field, p_value)
	$$;
CREATE FUNCTION pg_temp.messages(p_messages text, p_contacts text DEFAULT '[]', p_number text DEFAULT 'rcv.1')
	RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.delivery(format('{"messaging_product": "whatsapp", "metadata": {"phone_number_id": "%s"}, "contacts": %s, "messages": [%s]}',
		p_number, p_contacts, p_messages))
	$$;
-- Conversations by a letter, in the order in which they are first seen.
CREATE TEMP TABLE letters (id uuid PRIMARY KEY, letter text DEFAULT '?');
CREATE TEMP SEQUENCE letter START 65;
CREATE FUNCTION pg_temp.letter(p_id uuid) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	v_letter text;
BEGIN
	INSERT INTO pg_temp.letters SELECT p_id, chr(nextval('pg_temp.letter')::integer)
		WHERE p_id IS NOT NULL AND NOT EXISTS (SELECT FROM pg_temp.letters WHERE id = p_id);
	SELECT letter INTO v_letter FROM pg_temp.letters WHERE id = p_id;
	RETURN v_letter;
END
$$;
CREATE FUNCTION pg_temp.rcv(p_body text) RETURNS TABLE (wamid text, kind text, conversation text, service text, outcome text)
	LANGUAGE sql AS $$
	SELECT whatsapp_message_id, kind, pg_temp.letter(conversation_id), service, outcome FROM receive_webhook(p_body)
	$$;

-- Nothing waits from the tests before.
SELECT count(*) FROM claim_conversations(1000);

-- Kinds.
SELECT wamid, kind FROM pg_temp.rcv(pg_temp.messages($$
	{"from": "15550001", "id": "rcv.k1", "type": "text", "text": {"body": "hi"}},
	{"from": "15550001", "id": "rcv.k2", "type": "interactive", "interactive": {"type": "button_reply"}},
	{"from": "15550001", "id": "rcv.k3", "type": "interactive"},
	{"from": "15550001", "id": "rcv.k4", "type": "audio", "audio": {"voice": true}},
	{"from": "15550001", "id": "rcv.k5", "type": "audio", "audio": {"voice": false}},
	{"from": "15550001", "id": "rcv.k6", "type": "reaction", "reaction": {"emoji": ""}},
	{"from": "15550001", "id": "rcv.k7", "type": "reaction", "reaction": {"emoji": "\ud83d\ude00"}},
	{"from": "15550001", "id": "rcv.k8"},
	{"from": "15550001", "id": "rcv.k9", "type": 7},
	{"from": "15550001", "id": "rcv.k10", "type": "what_comes_next_year"},
	{"from": "15550001", "id": 12345678901, "type": "text"}$$));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.delivery('{"event": "APPROVED", "message_template_id": 1689556908129832}', 'message_template_status_update'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.delivery('{"decision": "APPROVED"}', 'account_review_update'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.delivery('{"x": 1}', 'of_tomorrow'));
SELECT kind, wamid, outcome FROM pg_temp.rcv(pg_temp.delivery('{"calls": [{"id": "wacid.1", "event": "connect"}], "message_echoes": [{"id": "rcv.e1", "type": "text"}]}', 'calls'));
-- What stands beside the updates is kept as a notice.
SELECT kind, wamid, outcome FROM pg_temp.rcv(pg_temp.delivery('{"messages": [{"from": "15550001", "id": "rcv.b1", "type": "text"}], "errors": [{"code": 1}]}'));
SELECT payload -> 'value' -> 'errors' AS errors, entry_id FROM webhook_notices WHERE kind = 'messages' AND entry_id = 'rcv';

-- A message is stored as it came, digit for digit.
SELECT whatsapp_message_id, jsonb_pretty(payload) AS payload, processed_at FROM processed_webhook_messages WHERE whatsapp_message_id = 'rcv.k1';
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.messages('{"from": "15550001", "id": "rcv.n1", "type": "text", "n": [1.10, 123456789012345678901234567890, 1e300]}'));
SELECT payload -> 'message' -> 'n' AS n FROM processed_webhook_messages WHERE whatsapp_message_id = 'rcv.n1';

-- Contacts are found by id, wherever they stand.
SELECT wamid, kind FROM pg_temp.rcv(pg_temp.messages(
	'{"from": "15550011", "id": "rcv.c1", "type": "text"}, {"from": "15550012", "id": "rcv.c2", "type": "text"},
	{"from_user_id": "US.13", "id": "rcv.c3", "type": "text"}, {"from": "15550014", "id": "rcv.c4", "type": "text"}',
	'[{"user_id": "US.13", "profile": {"name": "by user id"}}, {"wa_id": "+1 555-0012", "profile": {"name": "second"}}, {"wa_id": "15550011", "user_id": "US.11", "profile": {"name": "first"}},
	{"wa_id": "15550012", "user_id": "US.13", "profile": {"name": "too late"}}]'));
SELECT whatsapp_message_id, payload -> 'contact' -> 'profile' ->> 'name' AS contact
	FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'rcv.c_' ORDER BY 1;
-- A message that does not say whom it is from, and the only one it can be from.
SELECT wamid, kind, outcome FROM pg_temp.rcv(pg_temp.messages('{"id": "rcv.c5", "type": "request_welcome"}', '[{"wa_id": "15550011"}]'));

-- One conversation for a user, under either name, and another one for another business number.
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "+250 788 123 200", "id": "rcv.i1", "type": "text"}'));
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "250788123200", "id": "rcv.i2", "type": "text"}'));
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "250788123200", "id": "rcv.i3", "type": "text"}', '[]', 'rcv.2'));
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "250788123200", "from_user_id": "RW.1", "id": "rcv.i4", "type": "text"}'));
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from_user_id": "RW.1", "id": "rcv.i5", "type": "text"}'));
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "RW.1", "id": "rcv.i6", "type": "text"}'));
-- Known by the id first, by the number later.
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from_user_id": "RW.2", "id": "rcv.i7", "type": "text"}, {"from_user_id": "RW.2", "from": "250788123202", "id": "rcv.i8", "type": "text"}, {"from": "250788123202", "id": "rcv.i9", "type": "text"}'));
-- The number of another user: it moves, the histories stay.
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "250788123200", "from_user_id": "RW.3", "id": "rcv.i10", "type": "text"}'));
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from_user_id": "RW.1", "id": "rcv.i11", "type": "text"}, {"from_user_id": "RW.3", "id": "rcv.i12", "type": "text"}, {"from": "250788123200", "id": "rcv.i13", "type": "text"}'));

-- A change of number takes the conversation along, however often Meta tells of it.
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "15550021", "id": "rcv.m1", "type": "text"}'));
SELECT pg_temp.messages('{"from": "15550021", "id": "rcv.m2", "type": "system", "system": {"type": "user_changed_number", "wa_id": "15550022"}}') AS change \gset
SELECT * FROM pg_temp.rcv(:'change');
SELECT * FROM pg_temp.rcv(:'change');
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "15550022", "id": "rcv.m3", "type": "text"}'));
-- Its former owner's number is somebody else's now, who must not get the conversation back with an old message.
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "15550021", "id": "rcv.m4", "type": "text"}'));
SELECT * FROM pg_temp.rcv(:'change');
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "15550021", "id": "rcv.m1", "type": "text"}'));
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "15550022", "id": "rcv.m5", "type": "text"}, {"from": "15550021", "id": "rcv.m6", "type": "text"}'));
-- Twice in one delivery, with what comes before and after.
SELECT * FROM pg_temp.rcv(pg_temp.messages($$
	{"from": "15550023", "id": "rcv.m7", "type": "text"},
	{"from": "15550023", "id": "rcv.m8", "type": "system", "system": {"type": "user_changed_number", "new_wa_id": "15550024"}},
	{"from": "15550023", "id": "rcv.m8", "type": "system", "system": {"type": "user_changed_number", "new_wa_id": "15550024"}},
	{"from": "15550024", "id": "rcv.m9", "type": "text"},
	{"from": "15550023", "id": "rcv.m10", "type": "text"}$$));
-- A change of id, told by a message and by a notice.
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from_user_id": "US.31", "id": "rcv.u1", "type": "text"}'));
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from_user_id": "US.31", "id": "rcv.u2", "type": "system", "system": {"type": "user_changed_user_id", "user_id": "US.32"}}'));
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from_user_id": "US.32", "id": "rcv.u3", "type": "text"}, {"from_user_id": "US.31", "id": "rcv.u4", "type": "text"}'));
SELECT pg_temp.delivery('{"metadata": {"phone_number_id": "rcv.1"}, "user_id_update": [{"wa_id": "", "user_id": {"previous": "US.32", "current": "US.33"}}]}', 'user_id_update') AS change \gset
SELECT * FROM pg_temp.rcv(:'change');
SELECT * FROM pg_temp.rcv(:'change');
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from_user_id": "US.33", "id": "rcv.u5", "type": "text"}, {"from_user_id": "US.32", "id": "rcv.u6", "type": "text"}'));
-- A change of the identity key is no change of the identity.
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "15550022", "id": "rcv.u7", "type": "system", "system": {"type": "customer_identity_changed", "wa_id": "15550099"}}'));
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "15550022", "id": "rcv.u8", "type": "text"}'));
-- A conversation that was made without a business number takes the user's messages to any.
SELECT pg_temp.letter(get_or_create_conversation('15550041'));
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "15550041", "id": "rcv.w1", "type": "text"}', '[]', 'rcv.2'));

-- What a conversation knows of its user is brought up to date when its messages are claimed.
CREATE TEMP TABLE claimed AS SELECT * FROM claim_conversations(1000);
SELECT pg_temp.letter(conversation_id) AS conversation, user_id, whatsapp_phone, jsonb_array_length(messages) AS messages
	FROM claimed WHERE conversation_id IN (SELECT id FROM letters) ORDER BY pg_temp.letter(conversation_id) COLLATE "C";
SELECT complete_conversations(array_agg(conversation_id), (array_agg(lock_id))[1]) > 0 AS completed FROM claimed;

-- Duplicates: in one delivery, across deliveries, and of a message that was processed.
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "15550051", "id": "rcv.d1", "type": "text"}, {"from": "15550051", "id": "rcv.d2", "type": "text"}, {"from": "15550051", "id": "rcv.d1", "type": "image"}'));
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "15550051", "id": "rcv.d2", "type": "text"}, {"from": "15550051", "id": "rcv.d3", "type": "text"}'));
SELECT conversation_id AS claimed, lock_id AS lock, jsonb_path_query_array(messages, '$[*].whatsapp_message_id') AS messages FROM claim_conversations() \gset
\echo :messages
SELECT complete_webhook_messages(:'claimed', :'lock');
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "15550051", "id": "rcv.d3", "type": "text"}'));
SELECT count(*) FROM claim_conversations();
-- One that was recorded by hand is known too.
SELECT record_processed_message('rcv.d4', NULL, NULL);
SELECT * FROM pg_temp.rcv(pg_temp.messages('{"from": "15550052", "id": "rcv.d4", "type": "text"}'));
SELECT count(*) FROM webhook_conversations WHERE user_id = '15550052';

-- The given correlation id is everywhere; without one, each delivery has its own.
SELECT correlation_id FROM receive_webhook(pg_temp.messages('{"from": "15550051", "id": "rcv.o1", "type": "text"}'), NULL, '00000000-0000-4000-8000-00000000c0de');
SELECT correlation_id FROM processed_webhook_messages WHERE whatsapp_message_id = 'rcv.o1';
SELECT jsonb_path_query_array(messages, '$[*].correlation_id') AS ids, complete_webhook_messages(conversation_id, lock_id) FROM claim_conversations();

-- Statuses never move backwards; each time they tell is kept.
CREATE FUNCTION pg_temp.status(p_id text, p_statuses text[], p_more text DEFAULT '') RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.delivery(format('{"metadata": {"phone_number_id": "rcv.1"}, "statuses": [%s]}',
		string_agg(format('{"id": "%s", "status": "%s"%s%s}', p_id, split_part(s, '@', 1),
			CASE WHEN s ~ '@' THEN format(', "timestamp": "%s"', split_part(s, '@', 2)) END, p_more), ',' ORDER BY n)))
	FROM unnest(p_statuses) WITH ORDINALITY AS s (s, n)
	$$;
CREATE TEMP VIEW statuses AS
	SELECT whatsapp_message_id AS wamid, recipient, type, status, extract(epoch FROM status_at) AS status_at,
		extract(epoch FROM sent_at) AS sent, extract(epoch FROM delivered_at) AS delivered, extract(epoch FROM read_at) AS read,
		extract(epoch FROM failed_at) AS failed, phone_number_id AS number, errors
	FROM webhook_message_statuses WHERE whatsapp_message_id LIKE 'rcv.s%' ORDER BY 1, 2, 3;
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s1', '{read@300}'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s1', '{delivered@200}'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s1', '{sent@100,sent@100}'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s1', '{sent@100,delivered@200,read@300,read@400}'));
SELECT * FROM statuses;
-- All at once, in any order.
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s2', '{read@300,sent@100,delivered@200}'));
-- Failed comes after sent, but what has been delivered has not failed.
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s3', '{sent@100}'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s3', '{failed@200}', ', "errors": [{"code": 131026}]'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s3', '{sent@300}'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s4', '{delivered@100,failed@200}'));
-- A payment has failed, its message has not.
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s5', '{delivered@100}'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s5', '{pending@110,failed@120}', ', "type": "payment"'));
-- A status for each participant of a group.
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s6', '{delivered@100}', ', "recipient_type": "group", "recipient_id": "g", "recipient_participant_id": "15550061"'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s6', '{read@200}', ', "recipient_type": "group", "recipient_id": "g", "participant_recipient_id": "15550062"'));
-- Unknown ones, and times that are none.
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s7', '{in_orbit@100}'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s7', '{in_orbit@200,beyond@150}'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s8', '{read@soon}'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s9', '{read@9999999999999999}'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s91', '{read@1749416383000}'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('', '{read}'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.status('rcv.s92', '{""}'));
SELECT wamid, recipient, type, status, status_at, sent, delivered, read IS NOT NULL AS read, failed, errors FROM statuses WHERE wamid <> 'rcv.s1';

-- Notices are told apart by their content.
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.delivery('{"event": "A", "n": [1, 2]}', 'rcv_notice'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.delivery('{"n": [1,2],   "event": "\u0041"}', 'rcv_notice'));
SELECT kind, outcome FROM pg_temp.rcv(pg_temp.delivery('{"event": "A", "n": [2, 1]}', 'rcv_notice'));
SELECT kind, count(*) FROM webhook_notices WHERE kind LIKE 'rcv_notice%' GROUP BY 1;

-- What can't be read costs nothing beside it.
SELECT wamid, kind, outcome FROM pg_temp.rcv(pg_temp.messages($$
	{"from": "15550071", "id": "rcv.q1", "type": "text"},
	{"from": "15550071", "id": "rcv.q2", "type": "text", "text": {"body": "a\u0000b"}},
	{"from": "15550071", "id": "rcv.q3", "type": "text", "text": {"body": "\ud83d"}},
	{"from": "15550071", "id": "rcv.q4", "n": 1e200000},
	{"from": "15550071", "id": ""},
	{"id": "rcv.q5"}, 7, [{"from": "15550071", "id": "rcv.q6"}], null,
	{"from": "15550071", "id": "rcv.q7", "type": "text"}$$));
SELECT wamid, kind, outcome FROM pg_temp.rcv(replace(replace(pg_temp.messages('{"from": "15550071", "id": "rcv.q8"}'), '"time": 1', '"time": 1e200000'), '"entry": [', '"entry": [7, null, {"id": "\ud800", "changes": [{"value": {}}, 7, {"field": "x"}]},'));
SELECT wamid, kind, outcome FROM pg_temp.rcv(pg_temp.delivery('{"metadata": {"phone_number_id": "\u0000"}, "contacts": {"wa_id": "1"}, "messages": {"id": "rcv.q9"}, "statuses": [{"id": "rcv.q10", "status": "sent"}, {"status": "sent"}, {"id": "rcv.q11"}]}'));

-- Bodies that are no deliveries.
SELECT wamid, kind, outcome FROM pg_temp.rcv('{"object": "page", "entry": [{"id": "1"}]}');
SELECT wamid, kind, outcome FROM pg_temp.rcv('{"object": "whatsapp_business_account"}');
SELECT wamid, kind, outcome FROM pg_temp.rcv('{"object": "whatsapp_business_account", "entry": {}}');
SELECT wamid, kind, outcome FROM pg_temp.rcv('{"object": "whatsapp_business_account", "entry": [], "n": 1}');
SELECT wamid, kind, outcome FROM pg_temp.rcv('[1, 2]');
SELECT * FROM receive_webhook('{"entry": [{"changes": [{"value": {"messages": [[1]{"id": "rcv.x"}]}}]}]}');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM receive_webhook('{"entry": [{"changes": [{"value": {"contacts": [{} {}], "messages": []}}]}]}');
SELECT * FROM receive_webhook('{"entry": [');
SELECT * FROM receive_webhook('{"entry": []} x');
SELECT * FROM receive_webhook('');
SELECT * FROM receive_webhook('hello');
SELECT * FROM receive_webhook(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM receive_and_claim_webhook(NULL);

-- Long names are bounded: an id of 512 bytes is one, a longer one is none.
SELECT length(wamid), kind, outcome FROM pg_temp.rcv(pg_temp.messages(format('{"from": "15550081", "id": "rcv.%s"}, {"from": "15550081", "id": "rcv.%s"}, {"from": "%s", "id": "rcv.l3"}', repeat('x', 508), repeat('x', 509), repeat('7', 257))));
SELECT length(kind) FROM pg_temp.rcv(pg_temp.messages(format('{"from": "15550081", "id": "rcv.l4", "type": "%s"}', repeat('€', 100))));
SELECT wamid, outcome FROM pg_temp.rcv(pg_temp.messages($$ {"from": "15550081'; DROP TABLE x; --", "id": "rcv.l5'); --", "type": "\"\\'"} $$));
-- A delivery of thousands of updates.
SELECT outcome, count(*), count(DISTINCT conversation) AS conversations
	FROM pg_temp.rcv(pg_temp.messages((SELECT string_agg(format('{"from": "%s", "id": "rcv.t%s", "type": "text"}', 15560000 + n % 700, n), ',') FROM generate_series(1, 3000) AS n))) GROUP BY 1;
SELECT kind, outcome, count(*)
	FROM pg_temp.rcv(pg_temp.delivery((SELECT format('{"statuses": [%s]}', string_agg(format('{"id": "rcv.t%s", "status": "sent"}', n), ',')) FROM generate_series(1, 3000) AS n))) GROUP BY 1, 2;
SELECT kind, outcome, count(*)
	FROM pg_temp.rcv((SELECT format('{"entry": [{"changes": [%s]}]}', string_agg(format('{"field": "rcv_many", "value": {"n": %s}}', n), ',')) FROM generate_series(1, 3000) AS n)) GROUP BY 1, 2;

-- Received and claimed at once: what is free, each conversation once.
SELECT user_id, messages_in_order, lock_token, conversation_context, lock_id
FROM receive_and_claim_webhook(pg_temp.messages('{"from": "15550091", "id": "rcv.a1"}, {"from": "15550092", "id": "rcv.a2"}, {"from": "15550091", "id": "rcv.a3"}'),
	NULL, NULL, '00000000-0000-4000-8000-00000000aaaa')
CROSS JOIN LATERAL (SELECT string_agg(m ->> 'whatsapp_message_id', ' ' ORDER BY n) AS messages_in_order FROM jsonb_array_elements(messages) WITH ORDINALITY AS m (m, n)) AS o;
SELECT count(*) FROM receive_and_claim_webhook(pg_temp.messages('{"from": "15550091", "id": "rcv.a4"}'));
SELECT count(*) FROM receive_and_claim_webhook(pg_temp.status('rcv.s1', '{sent}'));
SELECT complete_conversations(array_agg(id), '00000000-0000-4000-8000-00000000aaaa') FROM webhook_conversations WHERE locked_by = '00000000-0000-4000-8000-00000000aaaa';
SELECT user_id, jsonb_path_query_array(messages, '$[*].whatsapp_message_id') AS messages, lock_token FROM receive_and_claim_webhook(pg_temp.messages('{"from": "15550091", "id": "rcv.a5"}'), NULL, NULL, '00000000-0000-4000-8000-00000000aaaa');
SELECT complete_conversations(array_agg(id), '00000000-0000-4000-8000-00000000aaaa') FROM webhook_conversations WHERE locked_by = '00000000-0000-4000-8000-00000000aaaa';

-- The messages of a delivery are written together, each once. Of those that were here before hardly any is written, whether
-- all of them were, or one among others.
CREATE FUNCTION pg_temp.many(p_from integer, p_to integer) RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.messages(string_agg(format('{"from": "15550062", "id": "rcv.many.%s", "type": "text"}', lpad(n::text, 4, '0')), ',')) FROM generate_series(p_from, p_to) n
	$$;
CREATE FUNCTION pg_temp.together(p_from integer, p_to integer, OUT accepted bigint, OUT duplicates bigint, OUT in_vain bigint) LANGUAGE plpgsql AS $$
DECLARE
	v_before bigint := pg_stat_get_xact_tuples_inserted('processed_webhook_messages'::regclass);
BEGIN
	SELECT count(*) FILTER (WHERE outcome = 'accepted'), count(*) FILTER (WHERE outcome = 'duplicate') INTO accepted, duplicates
		FROM receive_webhook(pg_temp.many(p_from, p_to));
	in_vain := pg_stat_get_xact_tuples_inserted('processed_webhook_messages'::regclass) - v_before - accepted;
END
$$;
SELECT accepted, duplicates, in_vain FROM pg_temp.together(1, 1);
SELECT accepted, duplicates, in_vain FROM pg_temp.together(101, 170);
SELECT accepted, duplicates, in_vain FROM pg_temp.together(101, 170);
SELECT accepted, duplicates, in_vain FROM pg_temp.together(101, 170);
SELECT accepted, duplicates, in_vain FROM pg_temp.together(165, 230);
SELECT accepted, duplicates, in_vain FROM pg_temp.together(95, 175);
SELECT accepted, duplicates, in_vain FROM pg_temp.together(300, 301);
-- Twice in one delivery.
SELECT outcome, count(*) FROM receive_webhook(pg_temp.messages((SELECT string_agg(format('{"from": "15550062", "id": "rcv.many.%s", "type": "text"}', 400 + n / 2), ',') FROM generate_series(0, 79) n))) GROUP BY 1 ORDER BY 1;
-- Rolled back to a savepoint, and there again.
BEGIN;
SELECT accepted, duplicates FROM pg_temp.together(501, 540);
SAVEPOINT s;
SELECT accepted, duplicates FROM pg_temp.together(531, 580);
ROLLBACK TO s;
SELECT accepted, duplicates FROM pg_temp.together(531, 580);
COMMIT;
-- So many in one transaction that no subtransactions are spent on the last ones.
SELECT sum(accepted) AS accepted, sum(duplicates) AS duplicates, sum(in_vain) AS in_vain FROM generate_series(1000, 1990, 10) n, pg_temp.together(n, n + 9);
SELECT count(*), count(DISTINCT whatsapp_message_id) AS different FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'rcv.many.%';

-- Leave nothing that waits to the tests that follow.
DO $$
DECLARE
	v_lock uuid := gen_random_uuid();
BEGIN
	LOOP
		PERFORM complete_conversations(array_agg(conversation_id), v_lock) FROM claim_conversations(1000, v_lock) HAVING count(*) > 0;
		EXIT WHEN NOT FOUND;
	END LOOP;
END
$$;
SELECT count(*) AS waiting FROM processed_webhook_messages WHERE processed_at IS NULL;

-- What is stored is what came, whatever its form.
CREATE TEMP TABLE forms AS SELECT n, format('{"from": "15550061", "id": "rcv.f%s", "type": "text", "of": %s}', n, form) AS body FROM unnest(ARRAY[
	'{}', '[]', '""', '0', '-0', '-1', '123456789012345678', '-123456789012345678', '1234567890123456789', '1.50', '1e3', '-2.5E-3', 'true', 'false', 'null',
	'"\u0061\n\"\\\/\ud83d\ude00 é"', '{"\u0061": 1, "a": 2, "b": 3, "": 4, "a": 5}', '[[], {}, [[[1]]], {"a": {"b": [null, {"c": "d"}]}}]', ' [ 1 , "x" , { "y" : 2.0 } ] ',
	(SELECT format('{%s}', string_agg(format('"%s%s": [%s, "%s"]', repeat('k', i % 7), i * 7919 % 1000, i, repeat('v', i)), ',')) FROM generate_series(1, 40) i),
	(SELECT format('{%s}', string_agg(format('"%s": %s', i % 50, i), ',')) FROM generate_series(1, 100) i),
	(SELECT format('[%s]', string_agg(format('"%s", %s, {"n": %s}', repeat('s', i % 5), i, i), ',')) FROM generate_series(1, 100) i)]) WITH ORDINALITY AS f (form, n);
SELECT outcome, count(*) FROM forms, receive_webhook(pg_temp.messages(body)) GROUP BY 1;
SELECT n, payload FROM forms JOIN processed_webhook_messages ON whatsapp_message_id = 'rcv.f' || n
	WHERE payload -> 'message' IS DISTINCT FROM body::jsonb OR (payload -> 'message')::text <> body::jsonb::text
	OR jsonb_send(payload) <> jsonb_send(payload::text::jsonb);
SELECT count(*) AS members, count(*) FILTER (WHERE payload -> 'message' -> 'of' -> key IS DISTINCT FROM value) AS not_found
	FROM forms JOIN processed_webhook_messages ON whatsapp_message_id = 'rcv.f' || n, jsonb_each(body::jsonb -> 'of')
	WHERE jsonb_typeof(body::jsonb -> 'of') = 'object';
SELECT count(*) AS elements, count(*) FILTER (WHERE payload -> 'message' -> 'of' -> (i - 1)::integer IS DISTINCT FROM value) AS not_found
	FROM forms JOIN processed_webhook_messages ON whatsapp_message_id = 'rcv.f' || n, jsonb_array_elements(body::jsonb -> 'of') WITH ORDINALITY AS e (value, i)
	WHERE jsonb_typeof(body::jsonb -> 'of') = 'array';
-- And so it is handed over.
SELECT jsonb_array_length(messages) AS messages, bool_and(message -> 'message' = payload -> 'message') AS same, complete_webhook_messages(c.conversation_id, lock_id) AS completed
	FROM claim_conversations() c, jsonb_array_elements(messages) message JOIN processed_webhook_messages ON whatsapp_message_id = message ->> 'whatsapp_message_id'
	GROUP BY 1, c.conversation_id, lock_id;

-- Where a message would go, and what is on for its sender, is for clients to ask.
SELECT route_webhook_message('{"type": "text", "text": {"body": "menu"}}'), webhook_feature_enabled('enhanced_processing', '15550061');
