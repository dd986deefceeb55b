-- wahook, and procedures to put messages into it and to take them out.
\ir bodies.sql
CREATE EXTENSION wahook;

-- Receives p_each messages for every user from p_from to p_to, a hundred a delivery, user after user in turn.
CREATE PROCEDURE bench_receive(p_prefix integer, p_from integer, p_to integer, p_each integer) LANGUAGE plpgsql
	AS $$
DECLARE
	users integer := p_to - p_from + 1;
BEGIN
	FOR delivery IN 0 .. (users * p_each - 1) / 100 LOOP
		PERFORM receive_webhook((SELECT bench_delivery(string_agg(bench_change(bench_wamid(n, phone), phone), ',' ORDER BY n))
			FROM (SELECT p_prefix * 1000000000::bigint + i AS n, bench_phone(p_from + i % users) AS phone
				FROM generate_series(delivery * 100, least(delivery * 100 + 99, users * p_each - 1)) i) message));
		COMMIT;
	END LOOP;
END
$$;

-- Completes all that waits.
CREATE PROCEDURE bench_complete() LANGUAGE plpgsql
	AS $$
BEGIN
	LOOP
		PERFORM complete_conversations(ids, lock_id)
			FROM (SELECT array_agg(conversation_id) AS ids, lock_id FROM claim_conversations(1000) GROUP BY lock_id) claim;
		EXIT WHEN NOT FOUND;
		COMMIT;
	END LOOP;
END
$$;
