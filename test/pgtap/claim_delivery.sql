-- A delivery with several messages of one user claims their conversation once, with all of them.
BEGIN;
SELECT plan(3);

SELECT '{"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"field": "messages", "value": {
	"metadata": {"phone_number_id": "claim.delivery"}, "messages": ['
	|| string_agg(format('{"from": "%s", "id": "claim.delivery.%s", "type": "text", "text": {"body": "%2$s"}}',
		15550100 + n % 3, n), ',' ORDER BY n)
	|| ']}}]}]}' AS body FROM generate_series(1, 60) AS n \gset

CREATE TEMP TABLE claimed AS SELECT * FROM receive_and_claim_webhook(:'body');
SELECT results_eq(
	$$ SELECT whatsapp_phone, jsonb_array_length(messages), lock_token FROM claimed ORDER BY 1 $$,
	$$ VALUES ('15550100', 20, 1::bigint), ('15550101', 20, 1), ('15550102', 20, 1) $$,
	'a row a conversation, locked once');
SELECT is_empty(
	$$ SELECT FROM claimed, LATERAL (SELECT array_agg(m ->> 'whatsapp_message_id' ORDER BY place) AS ids,
			array_agg(m ->> 'whatsapp_message_id' ORDER BY substring(m ->> 'whatsapp_message_id' FROM '\d+$')::integer) AS in_order
		FROM jsonb_array_elements(messages) WITH ORDINALITY AS e (m, place)) AS o WHERE ids <> in_order $$,
	'their messages in order of arrival');
SELECT is(complete_conversations(array_agg(conversation_id), (array_agg(lock_id))[1]), 60,
	'and all of them can be completed') FROM claimed;

SELECT * FROM finish();
ROLLBACK;
