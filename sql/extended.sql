-- What users may add to the tables: triggers, columns, constraints. The rows that are written without
-- a statement must respect it as the others do.
CREATE FUNCTION ext_body(p_id text, p_from text DEFAULT '88990001') RETURNS text LANGUAGE sql AS $$
	SELECT format('{"object": "whatsapp_business_account", "entry": [{"changes": [{"field": "messages", "value":
		{"messages": [{"id": "%s", "from": "%s", "type": "text", "text": {"body": "x"}}]}}]}]}', p_id, p_from)
$$;
CREATE FUNCTION ext_claim(p_limit integer) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM claim_conversations(p_limit, '00000000-0000-4000-8000-0000000000ee')
$$;
CREATE FUNCTION ext_complete() RETURNS integer LANGUAGE sql AS $$
	SELECT complete_conversations(array_agg(id), '00000000-0000-4000-8000-0000000000ee')
	FROM webhook_conversations WHERE locked_by = '00000000-0000-4000-8000-0000000000ee'
$$;

-- Row triggers before and after. With a setting of their own, they have memory to lose between two rows.
DELETE FROM webhook_conversation_queue;
CREATE TABLE ext_log (entry text);
CREATE FUNCTION ext_log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
	INSERT INTO ext_log VALUES (format('%s %s %s', TG_WHEN, TG_OP, TG_TABLE_NAME));
	RETURN coalesce(NEW, OLD);
END
$$;
DO $$
DECLARE
	name text;
	time text;
BEGIN
	FOREACH name IN ARRAY '{webhook_conversations,webhook_inbox,webhook_conversation_queue,webhook_leases,processed_webhook_messages,webhook_attempts}'::text[] LOOP
		FOREACH time IN ARRAY '{BEFORE,AFTER}'::text[] LOOP
			EXECUTE format('CREATE TRIGGER ext_%s %s INSERT OR UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION ext_log()', time, time, name);
		END LOOP;
	END LOOP;
END
$$;
SELECT count(*) FROM generate_series(1, 3) AS i, receive_webhook(ext_body('ext.' || i, '8899000' || i));
SELECT ext_claim(10), ext_complete();
-- Conversations that are reopened by the claim: their rows change twice in one call.
UPDATE webhook_conversations SET status = 'completed' WHERE user_id LIKE '8899000_';
SELECT count(*) FROM generate_series(4, 6) AS i, receive_webhook(ext_body('ext.' || i, '8899000' || i - 3));
-- These are late, so that their attempts are rows.
UPDATE processed_webhook_messages SET received_at = received_at - interval '1 hour' WHERE whatsapp_message_id IN ('ext.4', 'ext.5', 'ext.6');
SELECT ext_claim(10), ext_complete();
SELECT status, lock_token, locked_by IS NULL AS free FROM webhook_conversations WHERE user_id LIKE '8899000_' ORDER BY user_id;
SELECT entry, count(*) FROM ext_log GROUP BY 1 ORDER BY 1;
SET client_min_messages = warning;
DROP FUNCTION ext_log() CASCADE;
RESET client_min_messages;
DROP TABLE ext_log;

-- Columns with a default, computed ones, and those that must not be null.
ALTER TABLE processed_webhook_messages ADD tenant text NOT NULL DEFAULT 'acme',
	ADD sender text GENERATED ALWAYS AS (payload -> 'message' ->> 'from') STORED, ADD CONSTRAINT ext_sender CHECK (sender <> '88990666');
ALTER TABLE webhook_conversations ADD busy boolean GENERATED ALWAYS AS (locked_by IS NOT NULL) STORED;
ALTER TABLE webhook_inbox ADD stored_by text DEFAULT current_user::text;
ALTER TABLE webhook_dlq ADD ticket integer;
SELECT outcome FROM receive_webhook(ext_body('ext.7'));
\set VERBOSITY terse
SELECT outcome FROM receive_webhook(ext_body('ext.8', '88990666'));
\set VERBOSITY default
SELECT tenant, sender, stored_by = current_user AS mine FROM processed_webhook_messages m JOIN webhook_inbox i ON i.message_id = m.id
	WHERE whatsapp_message_id = 'ext.7';
SELECT ext_claim(10);
SELECT busy FROM webhook_conversations WHERE user_id = '88990001';
SELECT (fail_webhook_message(id, locked_by, 'ext.7', 'boom', p_retry_after => '0')).ticket IS NULL FROM webhook_conversations WHERE user_id = '88990001';
SELECT ext_complete();
SELECT busy FROM webhook_conversations WHERE user_id = '88990001';
INSERT INTO webhook_dlq (payload, whatsapp_message_id, next_retry_at, ticket) VALUES ('{}', 'ext.9', now(), 9);
SELECT whatsapp_message_id, ticket FROM get_retriable_messages(100) WHERE whatsapp_message_id LIKE 'ext.%' ORDER BY 1;
ALTER TABLE processed_webhook_messages DROP tenant, DROP sender;
ALTER TABLE webhook_conversations DROP busy;
ALTER TABLE webhook_inbox DROP stored_by;
ALTER TABLE webhook_dlq DROP ticket;

-- Messages of a delivery that are written together.
CREATE FUNCTION ext_bodies(p_from integer, p_to integer) RETURNS text LANGUAGE sql AS $$
	SELECT jsonb_build_object('object', 'whatsapp_business_account', 'entry', jsonb_build_array(jsonb_build_object('changes', jsonb_build_array(jsonb_build_object('field', 'messages',
		'value', jsonb_build_object('messages', (SELECT jsonb_agg(jsonb_build_object('id', 'ext.many.' || lpad(n::text, 4, '0'), 'from', '8899000' || n % 3 + 1,
			'type', 'text', 'many', n)) FROM generate_series(p_from, p_to) n)))))))::text
$$;
CREATE TABLE ext_log (message_id uuid, n integer, twice integer);
CREATE FUNCTION ext_log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
	INSERT INTO ext_log VALUES (NEW.id, (NEW.payload -> 'message' ->> 'many')::integer, NEW.twice);
	RETURN NULL;
END
$$;
ALTER TABLE processed_webhook_messages ADD twice integer GENERATED ALWAYS AS (2 * (payload -> 'message' ->> 'many')::integer) STORED,
	ADD CONSTRAINT ext_twice CHECK (twice <> 104);
CREATE TRIGGER ext_log AFTER INSERT ON processed_webhook_messages FOR EACH ROW EXECUTE FUNCTION ext_log();
SELECT outcome, count(*) FROM receive_webhook(ext_bodies(1, 40)) GROUP BY 1 ORDER BY 1;
SELECT outcome, count(*) FROM receive_webhook(ext_bodies(38, 50)) GROUP BY 1 ORDER BY 1;
SELECT count(*), count(DISTINCT n) AS different, bool_and(l.twice = 2 * n AND m.twice = 2 * n) AS same FROM ext_log l JOIN processed_webhook_messages m ON id = message_id;
\set VERBOSITY terse
SELECT outcome, count(*) FROM receive_webhook(ext_bodies(51, 60)) GROUP BY 1 ORDER BY 1;
\set VERBOSITY default
ALTER TABLE processed_webhook_messages DROP CONSTRAINT ext_twice;
-- An error in the midst of them leaves the block that catches it its own subtransaction to roll back.
CREATE INDEX ext_quotient ON processed_webhook_messages ((1 / (twice - 140)));
DO $$
BEGIN
	DELETE FROM ext_log;
	BEGIN
		PERFORM receive_webhook(ext_bodies(51, 52));
		PERFORM receive_webhook(ext_bodies(61, 75));
	EXCEPTION WHEN division_by_zero THEN
		RAISE NOTICE 'divided by zero';
	END;
	PERFORM receive_webhook(ext_bodies(53, 54));
END
$$;
SELECT n FROM ext_log ORDER BY n;
DROP INDEX ext_quotient;
-- A unique index of the user's makes a duplicate of a message, too; a deferrable one can't.
CREATE UNIQUE INDEX ext_odd ON processed_webhook_messages (twice) WHERE twice % 4 = 2;
SELECT outcome, count(*) FROM receive_webhook(replace(ext_bodies(71, 75), '"many": 74', '"many": 73')) GROUP BY 1 ORDER BY 1;
DROP INDEX ext_odd;
\set VERBOSITY terse
ALTER TABLE processed_webhook_messages ADD CONSTRAINT ext_once UNIQUE (twice) DEFERRABLE;
SELECT outcome, count(*) FROM receive_webhook(replace(ext_bodies(81, 85), '"many": 84', '"many": 83')) GROUP BY 1 ORDER BY 1;
SELECT outcome, count(*) FROM receive_webhook(replace(ext_bodies(82, 82), '"many": 82', '"many": 50')) GROUP BY 1 ORDER BY 1;
\set VERBOSITY default
-- It keeps no repetition from being known, nor from then on what is new from being accepted.
SELECT outcome, count(*) FROM receive_webhook(ext_bodies(71, 76)) GROUP BY 1 ORDER BY 1;
-- A BRIN index hears of all rows, whether they differ, or are the same and only the second is for it.
ALTER TABLE processed_webhook_messages ADD batch integer NOT NULL DEFAULT 0;
CREATE INDEX ext_twice ON processed_webhook_messages USING brin (twice) WITH (pages_per_range = 1000);
CREATE INDEX ext_batch ON processed_webhook_messages USING brin (batch) WITH (pages_per_range = 1000) WHERE twice % 8 = 6;
ALTER TABLE processed_webhook_messages ALTER batch SET DEFAULT 1;
SELECT outcome, count(*) FROM receive_webhook(ext_bodies(101, 120)) GROUP BY 1 ORDER BY 1;
SET enable_seqscan = off;
SET enable_indexscan = off;
SELECT count(*) FROM processed_webhook_messages WHERE twice > 230;
SELECT count(*) FROM processed_webhook_messages WHERE twice % 8 = 6 AND batch = 1;
-- And on how many pages a range is, not on how many it is to be when the index is built anew.
DELETE FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'ext.many.%' AND whatsapp_message_id < 'ext.many.0120';
VACUUM processed_webhook_messages;
CREATE INDEX ext_pages ON processed_webhook_messages USING brin (batch) WITH (pages_per_range = 1);
ALTER INDEX ext_pages SET (pages_per_range = 1000);
ALTER TABLE processed_webhook_messages ALTER batch SET DEFAULT 2;
SELECT outcome, count(*) FROM receive_webhook(ext_bodies(201, 240)) GROUP BY 1 ORDER BY 1;
SELECT count(*), count(DISTINCT (ctid::text::point)[0]) > 1 AS on_pages FROM processed_webhook_messages WHERE batch = 2;
RESET enable_seqscan;
RESET enable_indexscan;
ALTER TABLE processed_webhook_messages DROP batch;
ALTER TABLE processed_webhook_messages DROP twice;
-- A trigger before each wants to see the ones before.
CREATE OR REPLACE FUNCTION ext_log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
	INSERT INTO ext_log VALUES (NEW.id, (SELECT count(*) FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'ext.many.009_'));
	RETURN CASE WHEN NEW.whatsapp_message_id = 'ext.many.0093' THEN NULL ELSE NEW END;
END
$$;
DROP TRIGGER ext_log ON processed_webhook_messages;
CREATE TRIGGER ext_log BEFORE INSERT ON processed_webhook_messages FOR EACH ROW EXECUTE FUNCTION ext_log();
TRUNCATE ext_log;
SELECT outcome, count(*) FROM receive_webhook(ext_bodies(91, 95)) GROUP BY 1 ORDER BY 1;
SELECT array_agg(n ORDER BY n) FROM ext_log;
DROP TRIGGER ext_log ON processed_webhook_messages;
DROP FUNCTION ext_log, ext_bodies;
DROP TABLE ext_log;
SELECT ext_claim(10) > 0 AS claimed, ext_complete() > 0 AS completed;

-- A trigger that writes another row than it was given.
CREATE FUNCTION ext_other_id() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.id := gen_random_uuid();
	RETURN NEW;
END
$$;
CREATE TRIGGER ext_other_id BEFORE INSERT ON webhook_notices FOR EACH ROW EXECUTE FUNCTION ext_other_id();
SELECT kind, whatsapp_message_id FROM receive_webhook('{"object": "whatsapp_business_account", "entry": [{"id": "ext", "changes": [{"field": "ext_notice", "value": {"n": 1}}]}]}');
SELECT kind, payload FROM webhook_notices WHERE entry_id = 'ext';
DELETE FROM webhook_notices WHERE entry_id = 'ext';
DROP TRIGGER ext_other_id ON webhook_notices;
DROP FUNCTION ext_other_id;

-- A transaction that must not write does not.
SELECT outcome FROM receive_webhook(ext_body('ext.10'));
SELECT ext_claim(10);
BEGIN READ ONLY;
SELECT renew_conversation_lock(id, locked_by) FROM webhook_conversations WHERE user_id = '88990001';
ROLLBACK;
BEGIN READ ONLY;
SELECT release_conversation_lock(id, locked_by) FROM webhook_conversations WHERE user_id = '88990001';
ROLLBACK;
SELECT ext_complete();

-- A lock that is written by hand holds no claim, unless it only goes on; nor does one with nonsense in it.
SELECT outcome FROM receive_webhook(ext_body('ext.11'));
SELECT ext_claim(10);
UPDATE webhook_conversations SET locked_at = clock_timestamp() WHERE user_id = '88990001';
SELECT cardinality(claimed_messages) AS claimed FROM webhook_conversations WHERE user_id = '88990001';
UPDATE webhook_conversations SET locked_by = '00000000-0000-4000-8000-0000000000ef', locked_at = clock_timestamp() WHERE user_id = '88990001';
SELECT complete_webhook_messages(id, locked_by) FROM webhook_conversations WHERE user_id = '88990001';
SELECT ext_claim(10);
UPDATE webhook_conversations SET claimed_messages = '{NULL,1}' WHERE user_id = '88990001';
SELECT ext_complete(), ext_claim(10), ext_complete();

DELETE FROM webhook_dlq;
DELETE FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'ext.%';
DELETE FROM webhook_conversations WHERE user_id LIKE '8899000_';
DROP FUNCTION ext_body, ext_claim, ext_complete;

-- Within bounds: wahook writes rows of up to 32 columns.
BEGIN;
DO $$
BEGIN
	EXECUTE (SELECT 'ALTER TABLE webhook_inbox ' || string_agg(format('ADD c%s integer', i), ', ') FROM generate_series(1, 30) i);
END
$$;
SELECT outcome FROM receive_webhook('{"object": "whatsapp_business_account", "entry": [{"changes": [{"field": "messages",
	"value": {"metadata": {"phone_number_id": "x-1"}, "messages": [{"from": "x", "id": "x-wide", "type": "text"}]}}]}]}');
ROLLBACK;
