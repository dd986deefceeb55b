-- The account: what went in, what became of it, and what must not have happened. Fails where that is not so.
CREATE TEMP TABLE expected (what text, n bigint);
\copy expected FROM pstdin

-- Of two messages of a conversation, one surely came first where its delivery was answered before that of the other was
-- sent, or where it stands before it in the same delivery. Work is ordered by the lock's token, which grows with every
-- claim, and by the place within the claim. Messages that failed come back later, so they are left aside. Each service
-- has an order of its own.
CREATE TEMP TABLE arrival AS
	SELECT a.conversation_id, a.service, a.whatsapp_message_id, a.pass, a.n, a.place, d.began_at, d.answered_at
	FROM demo.answer a JOIN demo.delivery d USING (pass, n)
	WHERE a.outcome = 'accepted'
		AND a.whatsapp_message_id NOT IN (SELECT whatsapp_message_id FROM webhook_dlq);
CREATE INDEX ON arrival (conversation_id);
CREATE INDEX ON demo.work (whatsapp_message_id);
ANALYZE;

CREATE TEMP TABLE fault AS
	SELECT 'lost' AS what, (SELECT count(*) FROM (
		SELECT whatsapp_message_id FROM demo.answer WHERE outcome = 'accepted'
		EXCEPT (SELECT whatsapp_message_id FROM demo.work
			UNION ALL SELECT whatsapp_message_id FROM webhook_dlq WHERE resolution_status = 'failed')) l) AS n
	UNION ALL
	SELECT 'processed twice', (SELECT count(*) - count(DISTINCT whatsapp_message_id) FROM demo.work)
	UNION ALL
	SELECT 'out of order', (SELECT count(*)
		FROM arrival a
			JOIN arrival b ON b.conversation_id = a.conversation_id AND b.service = a.service
				AND (a.answered_at < b.began_at OR ((a.pass, a.n) = (b.pass, b.n) AND a.place < b.place))
			JOIN demo.work wa ON wa.whatsapp_message_id = a.whatsapp_message_id
			JOIN demo.work wb ON wb.whatsapp_message_id = b.whatsapp_message_id
		WHERE (wa.lock_token, wa.place) > (wb.lock_token, wb.place));

CREATE TEMP TABLE counted AS
	SELECT 'deliveries' AS what, count(*) AS n FROM demo.delivery WHERE answered_at IS NOT NULL
	UNION ALL SELECT 'events', count(*) FROM demo.answer
	UNION ALL SELECT 'messages', count(*) FROM demo.answer WHERE conversation_id IS NOT NULL
	UNION ALL SELECT 'statuses', count(*) FROM demo.answer WHERE kind LIKE 'status.%'
	UNION ALL SELECT 'notices', count(*) FROM demo.answer
		WHERE conversation_id IS NULL AND kind NOT LIKE 'status.%' AND outcome <> 'quarantined'
	UNION ALL SELECT 'unreadable', count(*) FROM demo.answer WHERE outcome = 'quarantined'
	UNION ALL SELECT 'different messages', count(*) FROM demo.answer WHERE outcome = 'accepted'
	UNION ALL SELECT 'different statuses', count(*) FROM webhook_message_statuses
	UNION ALL SELECT 'different notices', count(*) FROM webhook_notices
	UNION ALL SELECT 'contact cards', count(*) FROM webhook_dlq WHERE resolution_status = 'failed';

CREATE FUNCTION pg_temp.line(p_what text, p_n bigint, p_about text DEFAULT '') RETURNS text LANGUAGE sql
	RETURN rtrim(format('  %s%s   %s', rpad(p_what, 20), lpad(trim(to_char(p_n, '999,999,990')), 8), p_about));

\echo
\echo 'Sent'
SELECT pg_temp.line('deliveries', count(*), 'each line of the file twice, signed')
	FROM demo.delivery WHERE answered_at IS NOT NULL;
SELECT pg_temp.line('sent again', sum(sent - 1), 'the answer was lost in the crash')
	FROM demo.delivery HAVING sum(sent) > count(*);
SELECT pg_temp.line('events', count(*), 'by kind: '
		|| (SELECT string_agg(format('%s %s', kind, n), ', ' ORDER BY n DESC, kind) FROM (
			SELECT kind, count(*) AS n FROM demo.answer GROUP BY kind ORDER BY n DESC, kind LIMIT 5) top)
		|| format(', and %s kinds more', count(DISTINCT kind) - 5))
	FROM demo.answer;

\echo
\echo 'Received'
SELECT pg_temp.line(o.outcome, count(a.outcome), o.about)
	FROM (VALUES (1, 'accepted', 'messages, each once'),
			(2, 'recorded', 'statuses of sent messages, and notices'),
			(3, 'duplicate', 'known already: nothing to do'),
			(4, 'quarantined', 'signed, but unreadable')) o (place, outcome, about)
		LEFT JOIN demo.answer a USING (outcome)
	GROUP BY o.place, o.outcome, o.about ORDER BY o.place;

\echo
\echo 'Processed'
SELECT pg_temp.line('processed', count(DISTINCT whatsapp_message_id),
	format('in %s conversations', count(DISTINCT conversation_id))) FROM demo.work;
SELECT pg_temp.line('- ' || s.by, count(DISTINCT w.whatsapp_message_id), s.about)
	FROM (VALUES ('text', 'in SQL', 'text and buttons, by a function in the database'),
			('media', 'over HTTP', 'media, by an endpoint'),
			('default', 'pulled', 'all others, by clients that claim them')) s (service, by, about)
		LEFT JOIN demo.work w USING (service)
	GROUP BY s.by, s.about ORDER BY s.by DESC;
SELECT pg_temp.line('retried', count(*), 'failed at first, in the dead letter queue meanwhile')
	FROM webhook_dlq WHERE resolution_status = 'resolved';
SELECT pg_temp.line('circuit opened', :opened, format('for the endpoint, and closed %s', CASE :closed WHEN 1 THEN 'once' ELSE :closed || ' times' END));
SELECT pg_temp.line('taken over', count(*), 'who had them was killed or cut off, and the lease ran out')
	FROM webhook_delivery_attempts WHERE outcome = 'lost';
SELECT pg_temp.line('sent twice', count(*), 'over HTTP, the answer was lost; the endpoint knew them') FROM demo.known WHERE sent > 1;
SELECT pg_temp.line('dead', count(*), format('failed %s times: "%s"', max(retry_count) + 1, max(error)))
	FROM webhook_dlq WHERE resolution_status = 'failed';

\echo
\echo 'Must be 0'
SELECT pg_temp.line(what, n, CASE WHEN n > 0 THEN '<-- A FAULT' ELSE '' END) FROM fault;

\echo
\echo 'Counted independently, from the file'
SELECT pg_temp.line(e.what, e.n, CASE WHEN e.n = c.n THEN 'agrees' ELSE format('DISAGREES: wahook has %s', c.n) END)
	FROM expected e LEFT JOIN counted c USING (what);

DO $$
BEGIN
	IF EXISTS (SELECT FROM fault WHERE n > 0)
		OR EXISTS (SELECT FROM expected e LEFT JOIN counted c USING (what) WHERE e.n IS DISTINCT FROM c.n)
	THEN
		RAISE EXCEPTION 'the account does not add up';
	END IF;
END
$$;
