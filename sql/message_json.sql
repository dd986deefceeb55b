-- A message as SQL handlers get it, from its row. The claims' form of it is in the test of claims.
CREATE TEMP TABLE rows AS SELECT * FROM processed_webhook_messages WITH NO DATA;
INSERT INTO rows (id, whatsapp_message_id, correlation_id, received_at, service, kind, payload)
	VALUES (webhook_uuid(), 'msj.1', '00000000-0000-4000-8000-00000000c0de', '2026-01-02 03:04:05.678901+00', 'default', 'text',
			'{"message": {"id": "msj.1", "text": {"body": "é \ud83d\ude00"}}, "contact": null, "metadata": {"phone_number_id": "1"}}'),
		(webhook_uuid(), 'msj.2', '00000000-0000-4000-8000-00000000c0de', '2026-01-02 03:04:05+00', 'default', NULL, NULL),
		-- What its keys could hide is not hidden.
		(webhook_uuid(), 'msj.3', '00000000-0000-4000-8000-00000000c0de', '2026-01-02 03:04:05+00', 'default', 'text',
			'{"attempt": 99, "kind": "x", "whatsapp_message_id": "x", "correlation_id": 1, "received_at": [], "more": {"deep": [1, {"er": null}]}}'),
		-- Payloads that are no objects, as callers may have recorded them.
		(webhook_uuid(), 'msj.4', '00000000-0000-4000-8000-00000000c0de', '2026-01-02 03:04:05+00', 'default', 'text', '[1, {"a": 2}]'),
		(webhook_uuid(), 'msj.5', '00000000-0000-4000-8000-00000000c0de', '2026-01-02 03:04:05+00', 'default', 'text', '"text"'),
		(webhook_uuid(), 'msj.6', '00000000-0000-4000-8000-00000000c0de', '2026-01-02 03:04:05+00', 'default', 'text', 'null'),
		(webhook_uuid(), 'msj.7', '00000000-0000-4000-8000-00000000c0de', '2026-01-02 03:04:05+00', 'default', 'text', '{}'),
		(webhook_uuid(), 'msj.8', '00000000-0000-4000-8000-00000000c0de', '2026-01-02 03:04:05+00', 'default', 'text', '17'),
		(webhook_uuid(), 'msj.9', '00000000-0000-4000-8000-00000000c0de', '2026-01-02 03:04:05+00', 'default', 'text', '[]');
SET timezone = 'Africa/Kigali';
SELECT webhook_message_json(ROW(r.*)::processed_webhook_messages, 3) FROM rows AS r ORDER BY whatsapp_message_id;
SELECT webhook_message_json(NULL, 1), webhook_message_json(ROW(r.*)::processed_webhook_messages, NULL) FROM rows AS r LIMIT 1;
-- Large ones are fetched whole.
SELECT length(webhook_message_json(ROW(r.id, r.whatsapp_message_id, r.correlation_id, r.conversation_id, r.received_at, r.kind, r.service,
	jsonb_build_object('message', repeat('x', 1000000)), NULL, NULL, NULL, NULL, NULL)::processed_webhook_messages, 1) ->> 'message') FROM rows AS r LIMIT 1;
