-- What deliveries leave behind: messages, statuses of what was sent, notices, and what could not be read.

CREATE TABLE @extschema@.processed_webhook_messages (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	whatsapp_message_id text NOT NULL,
	correlation_id uuid NOT NULL DEFAULT gen_random_uuid(),
	conversation_id uuid,
	received_at timestamptz NOT NULL DEFAULT now(),
	kind text,
	service text NOT NULL DEFAULT 'default',
	payload jsonb,
	processed_at timestamptz DEFAULT now(),
	processing_time_ms integer,
	claimed_at timestamptz,
	claim_token bigint,
	claimed_by uuid
) WITH (fillfactor = 45, autovacuum_analyze_threshold = 100000);
-- While a table is analyzed nothing can be vacuumed or pruned, and soon conversations are no longer
-- updated in their place. So a sample of a third of the usual size is taken, of what queries ask for.
ALTER TABLE @extschema@.processed_webhook_messages
	ALTER id SET STATISTICS 30,
	ALTER whatsapp_message_id SET STATISTICS 30,
	ALTER correlation_id SET STATISTICS 0,
	ALTER conversation_id SET STATISTICS 30,
	ALTER received_at SET STATISTICS 30,
	ALTER kind SET STATISTICS 30,
	ALTER service SET STATISTICS 30,
	ALTER payload SET STATISTICS 0,
	ALTER processed_at SET STATISTICS 30,
	ALTER processing_time_ms SET STATISTICS 0,
	ALTER claimed_at SET STATISTICS 0,
	ALTER claim_token SET STATISTICS 0,
	ALTER claimed_by SET STATISTICS 0;
-- Each row is updated once, when it is processed. With room for that in its page the update is HOT:
-- it touches no index, and its WAL record leaves out the payload. A row grows by some fifty bytes, and all
-- rows of a page may be updated by one transaction, so the room is a little more than half.
ALTER TABLE @extschema@.processed_webhook_messages
	ADD CONSTRAINT processed_webhook_messages_whatsapp_message_id_key UNIQUE (whatsapp_message_id);
CREATE INDEX processed_webhook_messages_received_idx
	ON @extschema@.processed_webhook_messages USING brin (received_at) WITH (pages_per_range = 32);
COMMENT ON TABLE @extschema@.processed_webhook_messages IS
	'every message accepted within the retention: the idempotency record, from acceptance on';
COMMENT ON COLUMN @extschema@.processed_webhook_messages.processed_at IS
	'when its processing was completed; null: accepted, not processed yet';
COMMENT ON COLUMN @extschema@.processed_webhook_messages.payload IS
	'message, contact and metadata as they were delivered';
COMMENT ON COLUMN @extschema@.processed_webhook_messages.claimed_at IS
	'of a message whose first attempt succeeded soon: when that began; see webhook_delivery_attempts';
COMMENT ON COLUMN @extschema@.processed_webhook_messages.claim_token IS
	'of a message whose first attempt succeeded soon: the fencing token of the claim';
COMMENT ON COLUMN @extschema@.processed_webhook_messages.claimed_by IS
	'of a message whose first attempt succeeded soon: the lock id of the claim; null: nothing is told here';

CREATE TABLE @extschema@.webhook_message_changes (
	conversation_id uuid NOT NULL,
	whatsapp_message_id text NOT NULL,
	message_id uuid NOT NULL,
	kind text NOT NULL CHECK (kind IN ('edit', 'revoke')),
	received_at timestamptz NOT NULL DEFAULT now(),
	applied_in xid8,
	settled boolean NOT NULL DEFAULT false,
	PRIMARY KEY (conversation_id, whatsapp_message_id, message_id)
);
CREATE INDEX webhook_message_changes_received_idx ON @extschema@.webhook_message_changes (received_at);
CREATE INDEX webhook_message_changes_open_idx
	ON @extschema@.webhook_message_changes (applied_in NULLS FIRST) WHERE NOT settled;
COMMENT ON TABLE @extschema@.webhook_message_changes IS
	'edits and revocations that arrived: which message they are about';
COMMENT ON COLUMN @extschema@.webhook_message_changes.whatsapp_message_id IS
	'the message that was edited or revoked';
COMMENT ON COLUMN @extschema@.webhook_message_changes.message_id IS
	'processed_webhook_messages.id of the edit or revocation itself, which has the new content';
COMMENT ON COLUMN @extschema@.webhook_message_changes.applied_in IS
	'the transaction that last applied it to what is stored';
COMMENT ON COLUMN @extschema@.webhook_message_changes.settled IS
	'nothing that is stored can be without it any more, but for what is yet to be written';

CREATE TABLE @extschema@.webhook_erased_messages (
	id_hash bytea PRIMARY KEY,
	erased_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_erased_messages_erased_idx ON @extschema@.webhook_erased_messages (erased_at);
COMMENT ON TABLE @extschema@.webhook_erased_messages IS
	'messages of users who were erased, so that a repeated delivery does not bring them back';
COMMENT ON COLUMN @extschema@.webhook_erased_messages.id_hash IS
	'SHA-256 of the message id, which has the phone number in it';

CREATE TABLE @extschema@.webhook_message_statuses (
	whatsapp_message_id text NOT NULL,
	recipient text NOT NULL DEFAULT '',
	type text NOT NULL DEFAULT '',
	status text NOT NULL,
	status_at timestamptz,
	sent_at timestamptz,
	delivered_at timestamptz,
	read_at timestamptz,
	played_at timestamptz,
	failed_at timestamptz,
	phone_number_id text,
	errors jsonb,
	payload jsonb NOT NULL,
	correlation_id uuid NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (whatsapp_message_id, recipient, type)
);
-- Not BRIN: retention asks for the oldest, and the minimum of a range of pages does not rise when
-- its rows are deleted and new ones take their place.
CREATE INDEX webhook_message_statuses_created_idx
	ON @extschema@.webhook_message_statuses (created_at);
COMMENT ON TABLE @extschema@.webhook_message_statuses IS
	'the furthest status of each message we sent, a row a recipient; it never moves backwards';
COMMENT ON COLUMN @extschema@.webhook_message_statuses.recipient IS
	'the participant where the message went to a group, else empty';
COMMENT ON COLUMN @extschema@.webhook_message_statuses.type IS
	'empty for messages; payment, call: statuses with a meaning of their own';

CREATE TABLE @extschema@.webhook_notices (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	content_hash bytea NOT NULL UNIQUE,
	kind text NOT NULL,
	entry_id text,
	phone_number_id text,
	payload jsonb NOT NULL,
	correlation_id uuid NOT NULL,
	received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_notices_received_idx ON @extschema@.webhook_notices (received_at);
COMMENT ON TABLE @extschema@.webhook_notices IS
	'account, template, call, history... updates, once each by content';

CREATE TABLE @extschema@.webhook_quarantine (
	id uuid PRIMARY KEY DEFAULT @extschema@.webhook_uuid(),
	content_hash bytea NOT NULL UNIQUE,
	reason text NOT NULL,
	body text NOT NULL,
	entry_id text,
	correlation_id uuid NOT NULL,
	seen_count integer NOT NULL DEFAULT 1,
	received_at timestamptz NOT NULL DEFAULT now(),
	last_seen_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_quarantine_received_idx ON @extschema@.webhook_quarantine (received_at);
COMMENT ON TABLE @extschema@.webhook_quarantine IS
	'signed input that could not be read or stored as jsonb, whole and as it came';
COMMENT ON COLUMN @extschema@.webhook_quarantine.body IS
	'the raw text of the update, or of the whole delivery where no update could be told apart';

CREATE TABLE @extschema@.webhook_rate_limit_buckets (
	bucket text PRIMARY KEY,
	max_tokens integer NOT NULL CHECK (max_tokens > 0),
	refill_per_second double precision NOT NULL CHECK (refill_per_second > 0),
	from_extension boolean NOT NULL DEFAULT false,
	action text NOT NULL DEFAULT 'delay' CHECK (action IN ('delay', 'drop')),
	enabled boolean NOT NULL DEFAULT true
);
INSERT INTO @extschema@.webhook_rate_limit_buckets VALUES
	('default', 60, 1, true, 'delay', true), ('intake', 60, 1, true, 'delay', false);
CREATE TRIGGER keep_changed_seed BEFORE INSERT OR UPDATE ON @extschema@.webhook_rate_limit_buckets
	FOR EACH ROW EXECUTE FUNCTION @extschema@.webhook_keep_changed_seed('bucket');
COMMENT ON TABLE @extschema@.webhook_rate_limit_buckets IS
	'token buckets; a bucket that is not listed here has the limits of ''default''';
COMMENT ON COLUMN @extschema@.webhook_rate_limit_buckets.action IS
	'of the bucket ''intake'': what becomes of a message that finds no token; delay: it waits for one; drop: it is not processed';
COMMENT ON COLUMN @extschema@.webhook_rate_limit_buckets.enabled IS
	'of the bucket ''intake'': whether deliveries are limited, by user';
CREATE UNLOGGED TABLE @extschema@.webhook_rate_limits (
	identifier text NOT NULL,
	bucket text NOT NULL,
	tokens double precision NOT NULL,
	refilled_at timestamptz NOT NULL,
	PRIMARY KEY (identifier, bucket)
) WITH (fillfactor = 50);
COMMENT ON TABLE @extschema@.webhook_rate_limits IS
	'how many tokens each identifier has left in each bucket; unlogged, for it is cheap to lose';
