# An upgrade keeps what users have put in: rows, levels and other privileges. That the catalog is that of a fresh installation is for
# test/check-upgrade to say.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $node = PostgreSQL::Test::Cluster->new('upgrade');
$node->init;
$node->start;
my @versions = split /\n/, $node->safe_psql('postgres',
	q{SELECT source FROM pg_extension_update_paths('wahook') WHERE target = (SELECT default_version FROM pg_available_extensions WHERE name = 'wahook')
		AND path IS NOT NULL ORDER BY 1});
cmp_ok(scalar @versions, '>', 0, 'there are versions to upgrade from');

# Without triggers: the functions of an old version may no longer be in the library, or do what they did.
my $fill = <<'SQL';
SET search_path = hook;
SET session_replication_role = replica;
SELECT wahook_grant('bot', 'service');
GRANT SELECT ON webhook_inbox, recent_webhook_state_transitions TO reader WITH GRANT OPTION;
GRANT EXECUTE ON FUNCTION webhook_uuid_floor TO PUBLIC;
INSERT INTO webhook_conversations (id, user_id, whatsapp_phone, status, locked_by, locked_at, lock_expires_at, lock_token) VALUES
	('00000000-0000-4000-8000-000000000001', '250788000001', '250788000001', 'processing', gen_random_uuid(), now(), now() + interval '1 hour', 3),
	('00000000-0000-4000-8000-000000000002', '250788000002', '250788000002', 'active', NULL, NULL, NULL, 0);
INSERT INTO webhook_identities (phone_number_id, identity, kind, conversation_id) SELECT '1001', user_id, 'phone', id FROM webhook_conversations;
INSERT INTO processed_webhook_messages (id, whatsapp_message_id, conversation_id, kind, payload, processed_at)
	SELECT ('00000000-0000-4000-9000-00000000000' || n)::uuid, 'wamid.' || n, '00000000-0000-4000-8000-000000000002', 'text',
		format('{"message": {"id": "wamid.%s", "from": "250788000002", "type": "text"}}', n)::jsonb, CASE n WHEN 1 THEN now() END
	FROM generate_series(1, 3) n;
INSERT INTO webhook_inbox (conversation_id, message_id, enqueued_at) VALUES ('00000000-0000-4000-8000-000000000002', '00000000-0000-4000-9000-000000000002', now());
INSERT INTO webhook_conversation_queue (conversation_id, due_at) VALUES ('00000000-0000-4000-8000-000000000002', now());
INSERT INTO webhook_dlq (payload, whatsapp_message_id, conversation_id, next_retry_at) VALUES
	('{}', 'wamid.3', '00000000-0000-4000-8000-000000000002', now() - interval '1 minute');
INSERT INTO conversation_state_transitions (conversation_id, to_state) SELECT id, status FROM webhook_conversations;
INSERT INTO agent_contexts (conversation_id, agent_type) SELECT id, 'waiter' FROM webhook_conversations;
INSERT INTO agent_sessions (conversation_id, agent_type) SELECT id, 'waiter' FROM webhook_conversations;
INSERT INTO wa_workflow_recovery (conversation_id, workflow_type, recovery_action) VALUES ('1', 'x', 'y');
INSERT INTO user_sessions (phone_number) VALUES ('1');
INSERT INTO webhook_delivery_attempts (message_id, attempt, outcome, finished_at) SELECT id, 1, 'failed', now() FROM processed_webhook_messages;
INSERT INTO webhook_message_statuses (whatsapp_message_id, status, payload, correlation_id) VALUES ('wamid.out', 'read', '{}', gen_random_uuid());
INSERT INTO webhook_notices (content_hash, kind, payload, correlation_id) VALUES ('1', 'account_update', '{}', gen_random_uuid());
INSERT INTO webhook_quarantine (content_hash, reason, body, correlation_id) VALUES ('2', 'not JSON', 'x', gen_random_uuid());
UPDATE webhook_agents SET system_prompt = 'You wait at tables.', from_extension = false WHERE agent_type = 'waiter';
INSERT INTO webhook_services (name, handler, run_as) VALUES ('jobs', 'public.handle(pg_catalog.jsonb)', 'bot');
UPDATE webhook_rate_limit_buckets SET max_tokens = 7, from_extension = false;
INSERT INTO webhook_rate_limits VALUES ('1', 'x', 1, now());
SQL
$node->safe_psql('postgres', 'CREATE ROLE bot; CREATE ROLE reader');
for my $version (@versions)
{
	my $database = "kept from $version";
	$node->safe_psql('postgres', qq{CREATE DATABASE "$database"});
	$node->safe_psql($database, "CREATE SCHEMA hook; CREATE EXTENSION wahook SCHEMA hook VERSION '$version'; $fill"
		. q{CREATE FUNCTION public.handle(m jsonb) RETURNS void LANGUAGE sql AS 'SELECT'; CREATE VIEW public.names AS SELECT * FROM webhook_identities});
	# What there was, but for the rows of the extension's own, must be in what there is then.
	my @tables = split /\n/, $node->safe_psql($database, q{SELECT c.oid::regclass FROM pg_class c JOIN pg_depend d ON classid = 'pg_class'::regclass
		AND objid = c.oid AND deptype = 'e' JOIN pg_extension e ON refobjid = e.oid AND extname = 'wahook' WHERE relkind = 'r' ORDER BY 1});
	my $rows = join ' UNION ALL ', map { "SELECT '$_' AS name, to_jsonb(t) AS row FROM $_ t" } @tables;
	$node->safe_psql($database, "CREATE TABLE kept AS $rows");
	# One column has another name since.
	$node->safe_psql($database, q{UPDATE kept SET row = row - 'max_tokens' || jsonb_build_object('context_budget', row -> 'max_tokens')
		WHERE name LIKE '%webhook_agents' AND row ? 'max_tokens'});
	is($node->safe_psql($database, join ' UNION ALL ', map { "SELECT '$_' WHERE NOT EXISTS (TABLE $_)" } @tables), '', "from $version: every table has a row to lose");

	my $stderr;
	is($node->psql($database, q{BEGIN; ALTER EXTENSION wahook UPDATE; SELECT hook.wahook_grant('bot', 'service'); COMMIT}, stderr => \$stderr, on_error_stop => 1), 0,
		"from $version: upgrades");
	like($stderr, qr/DETAIL:  These roles had the level service: bot\./, "from $version: it says which levels are to be granted again") if $version eq '0.1.0';
	is($node->safe_psql($database, "SELECT name, row FROM kept k WHERE row -> 'from_extension' IS DISTINCT FROM 'true'
		AND NOT EXISTS (SELECT FROM ($rows) n WHERE n.name = k.name AND n.row @> k.row)"), '', "from $version: the rows are kept");
	is($node->safe_psql($database, 'SELECT count(*) FROM hook.webhook_leases'), '1', "from $version: the lease too");
	is($node->safe_psql($database, q{SELECT hook.webhook_levels_of('bot')}), 'service', "from $version: a role has its level again");
	is($node->safe_psql($database, q{SELECT count(*) FROM pg_init_privs, aclexplode(initprivs) WHERE objoid >= 16384 AND grantee IN (0, 'bot'::regrole, 'reader'::regrole)}), '0',
		"from $version: a dump has all that is granted");
	is($node->safe_psql($database, q{SELECT string_agg(polname, ',') FROM pg_policy WHERE polname <> 'wahook'}), '', "from $version: without the policies that made it");
	is($node->safe_psql($database, q{SELECT has_table_privilege('reader', 'hook.webhook_inbox', 'SELECT WITH GRANT OPTION'),
		has_table_privilege('reader', 'hook.recent_webhook_state_transitions', 'SELECT'), has_function_privilege('reader', 'hook.webhook_uuid_floor(timestamptz)', 'EXECUTE'),
		has_function_privilege('reader', 'hook.receive_webhook(text, text, uuid)', 'EXECUTE')}), 't|t|t|f', "from $version: what else was granted is kept");
	is($node->safe_psql($database, q{SELECT string_agg(name, ' ' ORDER BY name) FROM hook.webhook_routes WHERE NOT enabled}), 'jobs-keyword jobs-state',
		"from $version: no example leads to a service of the user's");

	is($node->safe_psql($database, q{SELECT agent_type, version, system_prompt, replaced_at IS NULL FROM hook.webhook_agent_versions WHERE agent_type IN ('waiter', 'wallet') ORDER BY 1}),
		"waiter|1|You wait at tables.|t\nwallet|1||t", "from $version: agents have their first version");

	my $bodies = join ', ', map { "'" . delivery(message("wamid.$_", '250788000002')) . "'" } 1 .. 4;
	is($node->safe_psql($database, "SET ROLE bot; SET search_path = hook; SELECT outcome FROM unnest(ARRAY[$bodies]) WITH ORDINALITY AS b (body, n), receive_webhook(body) ORDER BY n"),
		"duplicate\nduplicate\nduplicate\naccepted", "from $version: it knows what it has had");
	$node->safe_psql($database, q{SET ROLE bot; SELECT hook.process_dead_letter_queue()});
	is($node->safe_psql($database, q{SET ROLE bot; SET search_path = hook; SELECT m ->> 'whatsapp_message_id' FROM claim_conversations(10), jsonb_array_elements(messages) m ORDER BY 1}),
		"wamid.2\nwamid.3\nwamid.4", "from $version: and hands out what waits");
}

# From before the first version: what wahook_import() takes over wakes the worker, which has nothing else to do before the retry is due.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'wahook'");
$node->restart;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION wahook;
CREATE SCHEMA old;
CREATE TABLE old.wa_dead_letter_queue (message_id text, from_number text, payload jsonb, next_retry_at timestamptz);
INSERT INTO old.wa_dead_letter_queue VALUES ('wamid.1', '250788000001', '{"id": "wamid.1", "from": "250788000001", "type": "text"}', now() + interval '1 second');
SQL
await($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND datname = 'postgres' AND wait_event IS NOT NULL}, 'a worker');
is($node->safe_psql('postgres', q{SELECT imported FROM wahook_import('old') WHERE table_name = 'webhook_dlq'}), '1', 'a dead letter of the first generation');
await($node, q{SELECT resolution_status = 'retrying' FROM webhook_dlq}, 'its retry');
is($node->safe_psql('postgres', q{SELECT m -> 'message' ->> 'id' FROM claim_conversations(), jsonb_array_elements(messages) m}), 'wamid.1', 'is retried when it is due');

$node->stop;
done_testing();
