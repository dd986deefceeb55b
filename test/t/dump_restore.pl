# A dump holds what users have: their rows, the seeds they changed, the sequences, the levels of roles.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('dump_restore');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE service; CREATE DATABASE restored');
$node->safe_psql('postgres', q{
	CREATE SCHEMA hook;
	CREATE EXTENSION wahook SCHEMA hook;
	SET search_path = hook;
	SELECT wahook_grant('service', 'service');
	UPDATE webhook_agents SET system_prompt = 'You wait at tables.' WHERE agent_type = 'waiter';
	INSERT INTO webhook_agents (agent_type) VALUES ('mine');
	CREATE FUNCTION public.handle(p_message jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
	INSERT INTO webhook_services (name, handler, run_as) VALUES ('mine', 'public.handle', 'service');
	INSERT INTO webhook_services (name, url) VALUES ('theirs', 'https://bot.example.com/');
	INSERT INTO webhook_service_secrets (service, bearer_token) VALUES ('theirs', 'secret'), ('wallet', 'secret');
	-- Users may write their own version of a seed in both ways; its routes stay.
	INSERT INTO webhook_services (name, url) VALUES ('jobs', 'https://bot.example.com/jobs');
	UPDATE webhook_services SET enabled = true WHERE name = 'mobility';
	INSERT INTO webhook_routes (name, match, pattern, service) VALUES ('mine', 'keyword', 'mine', 'mine'), ('wallet', 'state', 'wallet', 'wallet');
	UPDATE webhook_routes SET priority = 5 WHERE name = 'menu';
	UPDATE webhook_feature_flags SET state = 'on';
	INSERT INTO webhook_feature_flags (flag) VALUES ('mine');
	UPDATE webhook_rate_limit_buckets SET max_tokens = 7;
	INSERT INTO webhook_conversations (user_id, status) VALUES ('250788000001', 'processing'), ('250788000002', 'active');
	UPDATE webhook_conversations SET status = 'error' WHERE user_id = '250788000002';
	SELECT acquire_conversation_lock(id, gen_random_uuid()) FROM webhook_conversations WHERE user_id = '250788000001';
	INSERT INTO processed_webhook_messages (whatsapp_message_id, processed_at) VALUES ('wamid.1', NULL), ('wamid.2', now());
	INSERT INTO webhook_inbox (conversation_id, message_id, enqueued_at)
		SELECT c.id, m.id, now() FROM webhook_conversations c, processed_webhook_messages m
		WHERE c.user_id = '250788000001' AND m.whatsapp_message_id = 'wamid.1';
	INSERT INTO webhook_dlq (payload, whatsapp_message_id, error, resolution_status, retry_count)
		VALUES ('{}', 'wamid.3', 'boom', 'failed', 3), ('{}', 'wamid.4', 'boom', 'pending', 1);
	INSERT INTO agent_contexts (conversation_id, agent_type) SELECT id, 'waiter' FROM webhook_conversations;
	SELECT check_rate_limit('1', 'x')});

my $dump = $node->basedir . '/dump.sql';
$node->command_ok(['pg_dump', '--no-sync', '-f', $dump, '-d', $node->connstr('postgres')], 'dumps');
$node->command_ok(['psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('restored')], 'restores');

# Every logged table, row by row.
my @tables = split /\n/, $node->safe_psql('postgres', q{
	SELECT c.oid::regclass FROM pg_class c JOIN pg_depend d ON d.objid = c.oid AND d.deptype = 'e'
	WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'wahook')
		AND d.classid = 'pg_class'::regclass AND c.relkind = 'r' AND c.relpersistence = 'p' ORDER BY 1});
cmp_ok(scalar @tables, '>', 18, 'tables to compare');
for my $table (@tables)
{
	# Untouched seeds are made anew, at another time.
	my $rows = "SELECT r FROM (SELECT to_jsonb(t) AS r FROM $table t) t WHERE r -> 'from_extension' IS DISTINCT FROM 'true' ORDER BY r::text";
	is($node->safe_psql('restored', $rows), $node->safe_psql('postgres', $rows), $table);
}
my $sequence = "SELECT nextval('hook.webhook_inbox_seq')";
is($node->safe_psql('restored', $sequence), $node->safe_psql('postgres', $sequence), 'a sequence goes on');

# The levels are there at once: a dump keeps the privileges, and the policies come with the extension.
is($node->safe_psql('restored', 'SET ROLE service; SELECT count(*) FROM hook.webhook_conversations'), '2', 'the role sees its rows');
is($node->safe_psql('restored', q{SELECT hook.webhook_levels_of('service')}), 'service', 'and has its level');
$node->safe_psql('restored', q{SELECT hook.wahook_revoke('service', 'service')});
isnt($node->psql('restored', 'SET ROLE service; SELECT count(*) FROM hook.webhook_conversations'), 0, 'until it is revoked');

$node->stop;
done_testing();
