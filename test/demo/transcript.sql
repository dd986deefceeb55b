-- What was said, and whether it adds up.
\pset footer off
\pset border 1
\echo
\echo 'What guest 2 and the host remember of it'
SELECT m ->> 'role' AS who, m ->> 'content' AS what, CASE WHEN m ? 'edited' THEN 'edited' WHEN m ? 'revoked' THEN 'revoked' END AS since
	FROM webhook_conversations c JOIN agent_contexts a ON a.conversation_id = c.id,
		jsonb_array_elements(a.context_data -> 'messages') WITH ORDINALITY AS m (m, n)
	WHERE c.user_id = '49301002' AND a.agent_type = 'host' ORDER BY n;
\echo 'agent_turns, by who answered'
SELECT answered_by, outcome, count(*) AS turns, sum(cardinality(whatsapp_message_ids)) AS messages, sum(calls) AS calls,
		sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens
	FROM agent_turns GROUP BY 1, 2 ORDER BY 1, 2;
\echo 'webhook_agent_performance'
SELECT agent_type, unique_conversations, round(avg_messages_per_session, 1) AS avg_messages_per_session,
		round(avg_tokens_used, 1) AS avg_tokens_used, total_errors, active_sessions
	FROM webhook_agent_performance WHERE agent_type IN ('host', 'spare');
CREATE TEMP TABLE fault AS
	SELECT 'lost' AS what, (SELECT count(*) FROM processed_webhook_messages m WHERE whatsapp_message_id LIKE 'wamid.guest.%'
		AND NOT EXISTS (SELECT FROM agent_turns t WHERE t.outcome = 'answered' AND m.whatsapp_message_id = ANY (t.whatsapp_message_ids))) AS n
	UNION ALL
	SELECT 'in two turns', (SELECT count(*) - count(DISTINCT wamid) FROM agent_turns, unnest(whatsapp_message_ids) wamid WHERE outcome = 'answered')
	UNION ALL
	SELECT 'replied to twice', (SELECT count(*) - count(DISTINCT wamid) FROM demo.reply, unnest(message_ids) wamid);
\pset tuples_only on
\pset format unaligned
SELECT format('  %s   %s of %s messages of ten guests', CASE n WHEN 0 THEN 'ok ' ELSE 'NOT' END, n || ' ' || what,
	(SELECT count(*) FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'wamid.guest.%')) FROM fault;
SELECT 1 / (sum(n) = 0)::integer AS adds_up FROM fault \g /dev/null
