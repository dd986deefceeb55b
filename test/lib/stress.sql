-- What test/t/stress.pl runs: one random call a step, and what must hold between them. Some transactions
-- sleep for longer than the lock_timeout of the calls that must not wait for them.
CREATE SCHEMA stress;

-- Work done in the transaction that completed the message: exactly once.
CREATE TABLE stress.done (wamid text, at timestamptz DEFAULT clock_timestamp());
-- Processed by a caller that has no lock to fence it.
CREATE TABLE stress.marked (wamid text);
-- What was handed over, in a transaction that committed.
CREATE TABLE stress.handed (conversation_id uuid, lock_id uuid, lock_token bigint, n bigint, wamid text, attempt integer, taken boolean DEFAULT false);
CREATE SEQUENCE stress.wamid;

CREATE FUNCTION stress.message(p_id text, p_from text, p_user_id text, p_new text)
	RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object('id', p_id, 'from', p_from, 'from_user_id', p_user_id, 'timestamp', '1700000000')
		|| CASE WHEN p_new IS NULL THEN '{"type": "text", "text": {"body": "x"}}'::jsonb
			ELSE jsonb_build_object('type', 'system', 'system', jsonb_build_object('type', 'user_changed_number', 'wa_id', p_new)) END)
$$;

-- Users 1 to 40, each served by one session only, so that the order of their messages is known;
-- from 31 on any session sends, and numbers change hands.
CREATE FUNCTION stress.delivery(p_session integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	messages jsonb := '[]';
	sender integer;
	id text;
BEGIN
	FOR i IN 1 .. 1 + (random() * 5)::integer LOOP
		IF random() < 0.7 THEN
			sender := p_session + 8 * floor(random() * 3)::integer;
			id := format('o.%s.%s', sender, lpad(nextval('stress.wamid')::text, 8, '0'));
			messages := messages || stress.message(id, (25000 + sender)::text, NULL, NULL);
		ELSE
			sender := 31 + floor(random() * 10)::integer;
			id := format('x.%s', floor(random() * 2000));
			messages := messages || stress.message(id,
				CASE WHEN random() < 0.8 THEN (25000 + sender)::text END,
				CASE WHEN random() < 0.5 OR sender > 35 THEN 'RW.' || sender END,
				CASE WHEN random() < 0.1 THEN (25031 + floor(random() * 10))::text END);
		END IF;
	END LOOP;
	RETURN jsonb_build_object('object', 'whatsapp_business_account', 'entry', jsonb_build_array(jsonb_build_object('id', '1',
		'changes', jsonb_build_array(jsonb_build_object('field', 'messages', 'value',
			jsonb_build_object('metadata', jsonb_build_object('phone_number_id', '1'), 'messages', messages,
				'statuses', jsonb_build_array(jsonb_build_object('id', 's.' || floor(random() * 50), 'status', (ARRAY['sent', 'delivered', 'read'])[1 + floor(random() * 3)::integer])))),
			jsonb_build_object('field', 'account_update', 'value', jsonb_build_object('event', 'e' || floor(random() * 50)))))));
END
$$;

CREATE FUNCTION stress.note_claim(p_conversation uuid, p_lock uuid, p_token bigint, p_messages jsonb)
	RETURNS void LANGUAGE sql AS $$
	INSERT INTO stress.handed (conversation_id, lock_id, lock_token, n, wamid, attempt)
		SELECT p_conversation, p_lock, p_token, n, m ->> 'whatsapp_message_id', (m ->> 'attempt')::integer
		FROM jsonb_array_elements(p_messages) WITH ORDINALITY AS e (m, n)
$$;

-- Does the work of messages and completes them, all in this transaction.
CREATE FUNCTION stress.complete(p_conversation uuid, p_lock uuid, p_wamids text[], p_release boolean)
	RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	waiting text[];
	completed integer;
BEGIN
	-- From here on nobody else can answer for them.
	PERFORM renew_conversation_lock(p_conversation, p_lock, '1 s');
	SELECT array_agg(m.whatsapp_message_id) INTO waiting FROM processed_webhook_messages m
		JOIN webhook_inbox i ON i.conversation_id = p_conversation AND i.message_id = m.id
		WHERE m.whatsapp_message_id = ANY (p_wamids);
	completed := complete_webhook_messages(p_conversation, p_lock, p_wamids, p_release => p_release);
	IF completed <> coalesce(cardinality(waiting), 0) THEN
		-- With an old snapshot it is our own look that was wrong.
		RAISE EXCEPTION 'completed % messages, not %', completed, waiting USING ERRCODE =
			CASE current_setting('transaction_isolation') WHEN 'read committed' THEN 'XX000' ELSE '40001' END;
	END IF;
	INSERT INTO stress.done SELECT unnest(waiting);
END
$$;

-- Answers for the claim in one of the ways there are.
CREATE FUNCTION stress.answer(p_conversation uuid, p_lock uuid, p_wamids text[]) RETURNS void LANGUAGE plpgsql
	SET lock_timeout = '400 ms' AS $$
DECLARE
	way double precision := random();
	failing text := p_wamids[1 + floor(random() * cardinality(p_wamids))];
BEGIN
	IF way < 0.5 THEN
		PERFORM stress.complete(p_conversation, p_lock, p_wamids, true);
	ELSIF way < 0.6 THEN
		PERFORM stress.complete(p_conversation, p_lock, p_wamids[:1], random() < 0.5);
	ELSIF way < 0.8 THEN
		PERFORM fail_webhook_message(p_conversation, p_lock, failing, 'stress', p_retry_after => random() * interval '300 ms',
			p_retryable => random() < 0.9);
		PERFORM stress.complete(p_conversation, p_lock, array_remove(p_wamids, failing), random() < 0.9);
	ELSIF way < 0.9 THEN
		PERFORM release_conversation_lock(p_conversation, p_lock);
	ELSE
		PERFORM renew_conversation_lock(p_conversation, p_lock, '1 s');
	END IF;
END
$$;

CREATE FUNCTION stress.claim(p_session integer, p_received boolean, p_at_once boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	lock uuid := gen_random_uuid();
	claim record;
	wamids text[];
BEGIN
	FOR claim IN SELECT * FROM receive_and_claim_webhook(stress.delivery(p_session), p_lock_id => lock) WHERE p_received
		UNION ALL SELECT * FROM claim_conversations(1 + floor(random() * 4)::integer, lock,
			CASE WHEN random() < 0.3 THEN 'default' END, '1 s') WHERE NOT p_received
	LOOP
		PERFORM stress.note_claim(claim.conversation_id, lock, claim.lock_token, claim.messages);
		IF p_at_once THEN
			SELECT array_agg(m ->> 'whatsapp_message_id') INTO wamids FROM jsonb_array_elements(claim.messages) AS m;
			PERFORM stress.answer(claim.conversation_id, lock, wamids);
		END IF;
	END LOOP;
END
$$;

-- Claims do not wait; intake may.
CREATE FUNCTION stress.claim_waiting(p_session integer, p_at_once boolean) RETURNS void LANGUAGE plpgsql
	SET lock_timeout = '400 ms' AS $$
BEGIN
	PERFORM stress.claim(p_session, false, p_at_once);
END
$$;

-- Answers for a claim of an earlier transaction, anyone's: the lock id says whose it is.
CREATE FUNCTION stress.answer_earlier() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	claim record;
BEGIN
	SELECT conversation_id, lock_id INTO claim FROM stress.handed WHERE NOT taken ORDER BY random() LIMIT 1;
	IF FOUND THEN
		UPDATE stress.handed SET taken = true WHERE ctid = ANY (ARRAY(SELECT ctid FROM stress.handed h
			WHERE h.lock_id = claim.lock_id AND h.conversation_id = claim.conversation_id FOR UPDATE SKIP LOCKED));
		PERFORM stress.answer(claim.conversation_id, claim.lock_id, (SELECT array_agg(wamid ORDER BY n) FROM stress.handed h
			WHERE h.lock_id = claim.lock_id AND h.conversation_id = claim.conversation_id));
	END IF;
END
$$;

CREATE FUNCTION stress.retry() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	entry record;
BEGIN
	FOR entry IN SELECT * FROM get_retriable_messages(2) LOOP
		CONTINUE WHEN random() < 0.3;
		IF random() < 0.5 THEN
			PERFORM mark_message_processed(entry.whatsapp_message_id, true);
			INSERT INTO stress.marked VALUES (entry.whatsapp_message_id);
		ELSE
			PERFORM mark_message_processed(entry.whatsapp_message_id, false, 'again');
		END IF;
	END LOOP;
END
$$;

CREATE FUNCTION stress.lock_a_while() RETURNS void LANGUAGE plpgsql SET lock_timeout = '400 ms' AS $$
DECLARE
	id uuid := (SELECT c.id FROM webhook_conversations c ORDER BY random() LIMIT 1);
	lock uuid := gen_random_uuid();
BEGIN
	IF acquire_conversation_lock(id, lock) AND random() < 0.8 THEN
		PERFORM renew_conversation_lock(id, lock, '1 s');
		PERFORM release_conversation_lock(id, lock);
	END IF;
END
$$;

CREATE FUNCTION stress.step(p_session integer, p_seed integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	what double precision;
BEGIN
	PERFORM setseed(p_seed / 1e6);
	what := random();
	CASE
		WHEN what < 0.30 THEN PERFORM receive_webhook(stress.delivery(p_session));
		WHEN what < 0.40 THEN PERFORM stress.claim(p_session, true, random() < 0.5);
		WHEN what < 0.60 THEN PERFORM stress.claim_waiting(p_session, random() < 0.5);
		WHEN what < 0.75 THEN PERFORM stress.answer_earlier();
		WHEN what < 0.78 THEN PERFORM stress.lock_a_while();
		WHEN what < 0.82 THEN PERFORM transition_conversation((SELECT id FROM webhook_conversations ORDER BY random() LIMIT 1),
			(ARRAY['completed', 'active', 'processing', 'error'])[1 + floor(random() * 4)::integer], 'stress');
		WHEN what < 0.86 THEN PERFORM cleanup_stuck_webhook_conversations();
		WHEN what < 0.92 THEN PERFORM process_dead_letter_queue(5);
		WHEN what < 0.95 THEN PERFORM stress.retry();
		WHEN what < 0.97 THEN PERFORM get_or_create_conversation('RW.' || 31 + floor(random() * 12), (25031 + floor(random() * 12))::text, '1');
		WHEN what < 0.98 THEN PERFORM retry_dead_letters(p_limit => 3);
		ELSE
			-- As a caller of the first generation locks.
			UPDATE webhook_conversations SET locked_by = gen_random_uuid(), locked_at = clock_timestamp()
				WHERE id = (SELECT id FROM webhook_conversations WHERE locked_by IS NULL ORDER BY random() LIMIT 1);
	END CASE;
	-- A caller that goes on after an error.
	IF random() < 0.1 THEN
		BEGIN
			PERFORM receive_webhook(stress.delivery(p_session));
			PERFORM stress.claim_waiting(p_session, true);
			PERFORM 1 / (random() < 0.5)::integer;
		EXCEPTION WHEN OTHERS THEN
			IF SQLSTATE LIKE 'XX%' THEN
				RAISE;
			END IF;
		END;
	END IF;
END
$$;

-- When nothing runs, a line for each thing that is wrong.
CREATE FUNCTION stress.problems() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s was done %s times', wamid, count(*)) FROM stress.done GROUP BY wamid HAVING count(*) > 1
	UNION ALL
	SELECT format('%s is processed and was not done', m.whatsapp_message_id) FROM processed_webhook_messages m
		WHERE m.processed_at IS NOT NULL
		AND NOT EXISTS (SELECT FROM stress.done d WHERE d.wamid = m.whatsapp_message_id)
		AND NOT EXISTS (SELECT FROM stress.marked d WHERE d.wamid = m.whatsapp_message_id)
	UNION ALL
	SELECT format('%s was done and is not processed', wamid) FROM stress.done
		WHERE NOT EXISTS (SELECT FROM processed_webhook_messages m WHERE m.whatsapp_message_id = wamid AND m.processed_at IS NOT NULL)
	UNION ALL
	SELECT format('%s waits %s times, its entry is %s, it is %s', m.whatsapp_message_id, waits, coalesce(d.resolution_status, 'not there'),
			CASE WHEN m.processed_at IS NULL THEN 'not processed' ELSE 'processed' END)
		FROM processed_webhook_messages m LEFT JOIN webhook_dlq d USING (whatsapp_message_id)
		CROSS JOIN LATERAL (SELECT count(*) AS waits FROM webhook_inbox i WHERE i.message_id = m.id) i
		WHERE NOT CASE
			WHEN m.processed_at IS NOT NULL THEN waits = 0 AND coalesce(d.resolution_status, 'resolved') = 'resolved'
			WHEN d.resolution_status IS NULL THEN waits = 1
			WHEN d.resolution_status = 'retrying' THEN waits = (d.retry_lease_until IS NULL)::integer
			ELSE waits = 0 AND d.resolution_status IN ('pending', 'failed') END
	UNION ALL
	SELECT format('%s waits in %s, which is free and not in the queue', m.whatsapp_message_id, i.conversation_id)
		FROM webhook_inbox i LEFT JOIN processed_webhook_messages m ON m.id = i.message_id
		LEFT JOIN webhook_conversations c ON c.id = i.conversation_id
		WHERE c.locked_by IS NULL AND NOT EXISTS (SELECT FROM webhook_conversation_queue q
			WHERE i.conversation_id = ANY (q.conversation_id || q.others) AND q.due_at <= clock_timestamp())
	UNION ALL
	SELECT format('%s is locked, which no lease tells of', c.id) FROM webhook_conversations c
		WHERE c.locked_by IS NOT NULL AND NOT EXISTS (SELECT FROM webhook_leases l
			WHERE c.id = ANY (l.conversation_id || l.others) AND l.lock_id = c.locked_by
			AND l.expires_at <= greatest(c.lock_expires_at, clock_timestamp()))
	UNION ALL
	SELECT format('%s was handed over under token %s twice', conversation_id, lock_token)
		FROM stress.handed GROUP BY conversation_id, lock_token HAVING count(DISTINCT lock_id) > 1
	UNION ALL
	SELECT format('%s was handed over after %s', wamid, before)
		FROM (SELECT wamid, lag(wamid) OVER (PARTITION BY conversation_id ORDER BY lock_token, n) AS before
			FROM (SELECT DISTINCT ON (wamid) * FROM stress.handed WHERE wamid LIKE 'o.%' ORDER BY wamid, lock_token, n) AS first
		) AS q WHERE before > wamid AND split_part(before, '.', 2) = split_part(wamid, '.', 2)
	UNION ALL
	SELECT format('%s user %s has %s conversations', '1', split_part(m.whatsapp_message_id, '.', 2), count(DISTINCT m.conversation_id))
		FROM processed_webhook_messages m WHERE m.whatsapp_message_id LIKE 'o.%'
		GROUP BY split_part(m.whatsapp_message_id, '.', 2) HAVING count(DISTINCT m.conversation_id) > 1
$$;

CREATE PROCEDURE stress.drain() LANGUAGE plpgsql AS $$
DECLARE
	lock uuid;
	claimed integer;
BEGIN
	FOR i IN 1 .. 400 LOOP
		PERFORM retry_dead_letters();
		PERFORM process_dead_letter_queue(1000);
		COMMIT;
		lock := gen_random_uuid();
		CREATE TEMP TABLE claimed AS SELECT * FROM claim_conversations(1000, lock, p_lease => '1 minute');
		INSERT INTO stress.done SELECT m ->> 'whatsapp_message_id' FROM claimed, jsonb_array_elements(messages) AS m;
		PERFORM complete_conversations(array_agg(conversation_id), lock) FROM claimed HAVING count(*) > 0;
		DROP TABLE claimed;
		COMMIT;
		EXIT WHEN NOT EXISTS (SELECT FROM stress.left_over());
		PERFORM pg_sleep(0.05);
	END LOOP;
	PERFORM cleanup_stuck_webhook_conversations();
END
$$;

CREATE FUNCTION stress.left_over() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT 'message ' || whatsapp_message_id FROM processed_webhook_messages WHERE processed_at IS NULL
	UNION ALL SELECT 'inbox ' || i::text FROM webhook_inbox i
	UNION ALL SELECT 'entry ' || d::text FROM webhook_dlq d WHERE resolution_status <> 'resolved'
	UNION ALL SELECT 'queue ' || q::text FROM webhook_conversation_queue q
	UNION ALL SELECT 'lease ' || l::text FROM webhook_leases l WHERE expires_at <= clock_timestamp()
$$;
