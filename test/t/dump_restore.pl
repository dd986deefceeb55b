# A dump holds what users have: their rows, the seeds they changed, the sequences, the levels of roles.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $node = PostgreSQL::Test::Cluster->new('dump_restore');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE service');
$node->safe_psql('postgres', q{
	CREATE SCHEMA hook;
	CREATE EXTENSION wahook SCHEMA hook;
	SET search_path = hook;
	SELECT wahook_grant('service', 'service');
	UPDATE webhook_agents SET system_prompt = 'You wait at tables.' WHERE agent_type = 'waiter';
	INSERT INTO webhook_agents (agent_type) VALUES ('mine');
	-- Versions come with the dump: none is counted anew.
	UPDATE webhook_agents SET system_prompt = 'You wait at tables, and are brief.' WHERE agent_type = 'waiter';
	SELECT register_webhook_agent('mine', 'Mine.', 'm-1', 'https://api.example.com/v1', p_fallback_agent => 'waiter', p_api_key_from => 'env:WAHOOK_KEY',
		p_daily_tokens => 1000, p_daily_tokens_per_user => 100, p_budget => 'shared');
	SELECT register_webhook_agent('mobility', p_fallback_agent => 'mine', p_endpoint => 'https://api.example.com/v1'), set_webhook_agent_key('mobility', 'secret');
	SELECT register_webhook_agent_variant('mine', 'brief', 3, 'Be brief.'), register_webhook_agent_variant('real_estate', 'warm', 0);
	UPDATE webhook_agents SET model = 'm-2' WHERE agent_type = 'mine';
	DELETE FROM webhook_agents WHERE agent_type = 'job_board';
	INSERT INTO webhook_agents (agent_type, system_prompt) VALUES ('wallet', 'You keep it safe.');
	CREATE FUNCTION public.handle(p_message jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
	INSERT INTO webhook_services (name, handler, run_as) VALUES ('mine', 'public.handle', 'service');
	INSERT INTO webhook_services (name, url) VALUES ('theirs', 'https://bot.example.com/');
	INSERT INTO webhook_service_secrets (service, bearer_token) VALUES ('theirs', 'secret'), ('wallet', 'secret');
	-- Users may write their own version of a seed in both ways; its routes stay.
	INSERT INTO webhook_services (name, url) VALUES ('jobs', 'https://bot.example.com/jobs');
	UPDATE webhook_services SET enabled = true WHERE name = 'mobility';
	INSERT INTO webhook_routes (name, match, pattern, service) VALUES ('mine', 'keyword', 'mine', 'mine'), ('wallet', 'state', 'wallet', 'wallet');
	UPDATE webhook_routes SET priority = 5 WHERE name = 'menu';
	UPDATE webhook_routes SET name = 'renamed' WHERE name = 'jobs-state';
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
	SELECT increment_session_metrics(id, 'mine') FROM webhook_conversations;
	INSERT INTO agent_turns (conversation_id, agent_type, variant, version, outcome) SELECT conversation_id, agent_type, variant, version, 'answered' FROM agent_sessions;
	INSERT INTO webhook_agent_replies (conversation_id, service, agent_type, whatsapp_message_ids, reply, details, calls, prompt_tokens, completion_tokens, started_at)
		SELECT id, 'mine', 'mine', '{wamid.1}', 'hello', '{}', 1, 10, 2, now() FROM webhook_conversations;
	INSERT INTO wa_workflow_recovery (conversation_id, workflow_type, recovery_action) VALUES ('1', 'x', 'y');
	INSERT INTO user_sessions (phone_number) VALUES ('1');
	INSERT INTO webhook_attempts (message_id, attempt, outcome, finished_at) SELECT id, 1, 'failed', now() FROM processed_webhook_messages;
	INSERT INTO webhook_message_statuses (whatsapp_message_id, status, payload, correlation_id) VALUES ('wamid.out', 'read', '{}', gen_random_uuid());
	INSERT INTO webhook_notices (content_hash, kind, payload, correlation_id) VALUES ('1', 'account_update', '{}', gen_random_uuid());
	INSERT INTO webhook_quarantine (content_hash, reason, body, correlation_id) VALUES ('2', 'not JSON', 'x', gen_random_uuid());
	INSERT INTO webhook_conversation_queue (conversation_id, due_at) SELECT conversation_id, enqueued_at FROM webhook_inbox;
	INSERT INTO webhook_job_runs (job, last_started_at, duration_ms, succeeded) VALUES ('mine', now(), 1, true);
	INSERT INTO webhook_conversation_queue (conversation_id, due_at) SELECT conversation_id, enqueued_at FROM webhook_inbox;
	INSERT INTO webhook_message_changes (conversation_id, whatsapp_message_id, kind, message_id)
		SELECT c.id, 'wamid.2', 'revoke', m.id FROM webhook_conversations c, processed_webhook_messages m
		WHERE c.user_id = '250788000001' AND m.whatsapp_message_id = 'wamid.1';
	INSERT INTO webhook_erased_messages (id_hash) VALUES (sha256('wamid.5'));
	INSERT INTO webhook_alerts (alert_type, severity, message) VALUES ('DLQ_BUILDUP', 'HIGH', 'mine');
	SELECT run_webhook_job('session-cleanup');
	INSERT INTO webhook_message_sums (width, starts_at, times, counts) VALUES ('1 hour', '2000-01-01', '{1,2}', '{3,4}');
	INSERT INTO webhook_conversation_sums VALUES ('active', now(), ARRAY[now()], '{1}', '{0.5}', '{2}', '{3}', '{4}');
	INSERT INTO webhook_rollup_state DEFAULT VALUES;
	INSERT INTO webhook_depth_samples VALUES (now(), 1, 2, 3);
	SELECT check_rate_limit('1', 'x')});

my @tables = split /\n/, $node->safe_psql('postgres', q{
	SELECT c.oid::regclass FROM pg_class c JOIN pg_depend d ON d.objid = c.oid AND d.deptype = 'e'
	WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'wahook')
		AND d.classid = 'pg_class'::regclass AND c.relkind = 'r' AND c.relpersistence = 'p' ORDER BY 1});
cmp_ok(scalar @tables, '>', 18, 'tables to compare');
my @sequences = split /\n/, $node->safe_psql('postgres', q{
	SELECT c.oid::regclass FROM pg_class c JOIN pg_depend d ON d.objid = c.oid AND d.deptype = 'e'
	WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'wahook') AND c.relkind = 'S' ORDER BY 1});

# Untouched seeds are made anew, at another time.
sub rows
{
	my ($database) = @_;
	my $queries = join ' UNION ALL ', (map {
		"SELECT '$_', to_jsonb(t) AS r FROM $_ t WHERE to_jsonb(t) -> 'from_extension' IS DISTINCT FROM 'true'" } @tables),
		map { "SELECT '$_', to_jsonb(ARRAY[last_value, is_called::integer]) FROM $_" } @sequences;
	return $node->safe_psql($database, "SELECT * FROM ($queries) q ORDER BY 1, 2");
}

my $origin = rows('postgres');
my $empty = join "\n", grep { my $t = $_; $origin !~ /^\Q$t\E\|/m } @tables;
is($empty, '', 'every table has a row to lose');

# restored DATABASE: it is as the origin was, and works.
sub restored
{
	my ($database) = @_;
	is(rows($database), $origin, "$database: every row and sequence");
	# The levels are there at once: a dump keeps the privileges, and the policies come with the extension.
	is($node->safe_psql($database, 'SET ROLE service; SELECT count(*) FROM hook.webhook_conversations'), '2', "$database: the role sees its rows");
	is($node->safe_psql($database, q{SELECT hook.webhook_levels_of('service')}), 'service', "$database: it has its level");
	is($node->safe_psql($database, q{SELECT string_agg(format('%s %s', polrelid::regclass, pg_get_expr(polqual, polrelid)), ' ' ORDER BY polrelid::regclass::text) FROM pg_policy}),
		$node->safe_psql('postgres', q{SELECT string_agg(format('%s %s', polrelid::regclass, pg_get_expr(polqual, polrelid)), ' ' ORDER BY polrelid::regclass::text) FROM pg_policy}),
		"$database: the policies");
	my $message = delivery(message('wamid.new', '250788000003'));
	is($node->safe_psql($database, qq{SET ROLE service; SET search_path = hook;
		SELECT outcome FROM receive_webhook('$message');
		SELECT outcome FROM receive_webhook('$message');
		SELECT outcome FROM receive_webhook('} . delivery(message('wamid.2', '250788000002')) . q{');
		SELECT jsonb_array_length(messages), complete_webhook_messages(conversation_id, lock_id) FROM claim_conversations()}),
		"accepted\nduplicate\nduplicate\n1|1", "$database: it receives, knows what it has had, and hands out");
	is($node->safe_psql($database, q{SELECT whatsapp_message_id FROM hook.webhook_dlq WHERE resolution_status = 'pending'}), 'wamid.4', "$database: the retry is still to come");
}

# By psql.
my $dump = $node->basedir . '/dump';
$node->command_ok([ 'pg_dump', '--no-sync', '-f', "$dump.sql", '-d', $node->connstr('postgres') ], 'dumps as a script');
$node->safe_psql('postgres', 'CREATE DATABASE script');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.sql", $node->connstr('script') ], 'restores it');
restored('script');

# By pg_restore. Not by several jobs: pg_dump tells them nothing of the references between tables of an extension.
$node->command_ok([ 'pg_dump', '--no-sync', '-Fc', '-f', "$dump.custom", '-d', $node->connstr('postgres') ], 'dumps in the custom format');
$node->safe_psql('postgres', 'CREATE DATABASE archive');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('archive'), "$dump.custom" ], 'restores that');
restored('archive');

# The schema by a superuser, as the extension asks for one; then the rows by its owner, who is none, but may become the role that a handler
# runs as.
$node->safe_psql('postgres', 'CREATE ROLE keeper LOGIN SUPERUSER; GRANT service TO keeper; CREATE DATABASE owned OWNER keeper');
my $owned = $node->connstr('owned') . ' user=keeper';
$node->command_ok([ 'pg_restore', '--exit-on-error', '--schema-only', '--no-owner', '-d', $owned, "$dump.custom" ], 'restores the schema alone');
is($node->safe_psql('owned', 'SELECT count(*) FROM hook.webhook_conversations'), '0', 'which brings no rows');
$node->safe_psql('postgres', 'ALTER ROLE keeper NOSUPERUSER');
$node->command_ok([ 'pg_restore', '--exit-on-error', '--data-only', '-d', $owned, "$dump.custom" ], 'then the rows, by an owner who is not superuser');
restored('owned');

# What was granted is taken back as ever.
$node->safe_psql('script', q{SELECT hook.wahook_revoke('service', 'service')});
isnt($node->psql('script', 'SET ROLE service; SELECT count(*) FROM hook.webhook_conversations'), 0, 'a level that was restored can be revoked');

# Where the library is preloaded, the restored databases get their workers, which go on with the retries.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'wahook'");
$node->restart;
for my $database (qw(script archive owned))
{
	$node->safe_psql($database, q{SET search_path = hook; SELECT receive_webhook('} . delivery(message('wamid.fails', '250788000009')) . q{');
		SELECT fail_webhook_message(conversation_id, lock_id, 'wamid.fails', 'boom', p_retry_after => '0'), release_conversation_lock(conversation_id, lock_id)
			FROM claim_conversations(10)});
	ok($node->poll_query_until($database, q{SELECT resolution_status = 'retrying' FROM hook.webhook_dlq WHERE whatsapp_message_id = 'wamid.fails'}),
		"$database: its worker retries");
}

$node->stop;
done_testing();
