-- Every line of the fixtures: what Meta sends is taken in, and what breaks parsers ends in a row or a documented error.
\getenv abs_srcdir PG_ABS_SRCDIR
\cd :abs_srcdir
CREATE TEMP TABLE payloads (n serial, line json);
\copy payloads (line) from 'test/fixtures/payloads.jsonl' csv quote e'\x01' delimiter e'\x02'
CREATE TEMP TABLE hostile (n serial, line json);
\copy hostile (line) from 'test/fixtures/hostile.jsonl' csv quote e'\x01' delimiter e'\x02'
SELECT (SELECT count(*) FROM payloads) AS payloads, (SELECT count(*) FROM hostile) AS hostile;

CREATE TEMP TABLE received AS
	SELECT n, line ->> 'kind' AS label, r.*
	FROM payloads CROSS JOIN LATERAL receive_webhook(coalesce(line ->> 'raw', line ->> 'payload')) WITH ORDINALITY
		AS r (whatsapp_message_id, kind, conversation_id, service, outcome, correlation_id, place);
SELECT count(DISTINCT n) AS lines, outcome IN ('accepted', 'duplicate', 'recorded') AS expected_outcome FROM received GROUP BY 2;
-- A conversation and a service for messages and nothing else; one correlation id a delivery.
SELECT count(*) FROM received WHERE (conversation_id IS NULL) <> (service IS NULL)
	OR (conversation_id IS NOT NULL AND whatsapp_message_id IS NULL) OR correlation_id IS NULL;
SELECT n FROM received GROUP BY n HAVING count(DISTINCT correlation_id) <> 1;
SELECT count(*) FROM received WHERE outcome = 'accepted' AND NOT EXISTS (SELECT FROM processed_webhook_messages AS p
	WHERE p.whatsapp_message_id = received.whatsapp_message_id AND p.kind = received.kind
		AND p.conversation_id = received.conversation_id AND p.processed_at IS NULL);

-- The labels of the fixtures, translated to our kinds: a notice is named after its field; details that stand deeper in
-- it are not part of the name, for it may hold several.
CREATE FUNCTION pg_temp.our_kind(p_label text) RETURNS text LANGUAGE sql AS $$
	SELECT CASE
		WHEN p_label = 'envelope.no_entry' THEN 'empty'
		WHEN p_label = 'interactive.None' THEN 'interactive'
		WHEN p_label = 'None' THEN 'unknown'
		WHEN p_label ~ '^field\.smb_message_echoes\.' THEN replace(p_label, 'field.smb_message_echoes', 'echo')
		WHEN p_label ~ '^field\.calls\.status\.' THEN replace(p_label, 'field.calls.status', 'status.call')
		WHEN p_label = 'field.automatic_events.some_future_event' THEN 'automatic_events.some_future_event'
		WHEN p_label = 'field.history.threads' THEN 'history'
		WHEN p_label ~ '^field\.(account_alerts|automatic_events|group_\w+|smb_app_state_sync|user_preferences)\.'
			THEN split_part(p_label, '.', 2)
		WHEN p_label ~ '^field\.' THEN regexp_replace(p_label, '^field\.|\.empty$', '', 'g')
		ELSE p_label END
	$$;
CREATE FUNCTION pg_temp.our_kinds(p_label text) RETURNS text[] LANGUAGE sql AS $$
	SELECT array_agg(pg_temp.our_kind(regexp_replace(part, 'x\d+$', '')) ORDER BY pg_temp.our_kind(regexp_replace(part, 'x\d+$', '')))
	FROM regexp_split_to_table(regexp_replace(p_label, '^batch\[(.*)\]$', '\1'), '\+') AS part
	CROSS JOIN LATERAL generate_series(1, coalesce(substring(part FROM 'x(\d+)$'), '1')::integer)
	$$;
-- The differences that are left: what stands in a change beside its updates is a notice too.
SELECT n, label, kinds
FROM (SELECT n, label, array_agg(kind ORDER BY kind) AS kinds FROM received GROUP BY n, label) AS r
WHERE label !~ 'updates, ' AND kinds <> pg_temp.our_kinds(label);
SELECT p.line ->> 'kind' AS label, p.line ->> 'leaves' AS leaves, count(*) AS rows, count(DISTINCT r.kind) AS kinds
FROM payloads AS p JOIN received AS r USING (n) WHERE p.line ->> 'kind' ~ 'updates, ' GROUP BY n, 1, 2 ORDER BY n;

-- How many there are of each class.
SELECT CASE WHEN service IS NOT NULL THEN 'message' WHEN kind ~ '^status\.' THEN 'status' ELSE 'notice' END AS class,
	outcome, count(*) FROM received GROUP BY 1, 2 ORDER BY 1, 2;

-- A second pass brings nothing new.
SELECT outcome, count(*)
FROM payloads CROSS JOIN LATERAL receive_webhook(coalesce(line ->> 'raw', line ->> 'payload')) GROUP BY 1;

-- The furthest status of a message is one that was delivered for it.
SELECT count(*) AS statuses FROM webhook_message_statuses AS s
	WHERE correlation_id IN (SELECT correlation_id FROM received) AND NOT EXISTS (SELECT FROM received AS r
		WHERE r.whatsapp_message_id = s.whatsapp_message_id AND r.kind = concat_ws('.', 'status', nullif(s.type, ''), s.status));

-- How each hostile body ends. Each is rolled back, for many carry the same id.
CREATE FUNCTION pg_temp.ending(p_body bytea) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	v_ending text;
BEGIN
	SELECT string_agg(kind || ' ' || outcome, ', ') INTO v_ending FROM receive_webhook(convert_from(p_body, 'UTF8'));
	RAISE EXCEPTION USING ERRCODE = 'TTEST', MESSAGE = coalesce(v_ending, 'no row at all');
EXCEPTION
	WHEN SQLSTATE 'TTEST' THEN
		RETURN sqlerrm;
	WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS v_ending = PG_EXCEPTION_DETAIL;
		RETURN format('%s: %s; %s', sqlstate, left(sqlerrm, 60), left(v_ending, 60));
END
$$;
SELECT line ->> 'name' AS name,
	pg_temp.ending(coalesce(decode(line ->> 'body_b64', 'base64'), convert_to(line ->> 'body', 'UTF8'))) AS ending
FROM hostile ORDER BY n;

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
