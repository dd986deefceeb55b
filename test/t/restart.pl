# What outlives what: secrets are rotated in open sessions, the extension is dropped and created anew in another schema
# under a session that uses it, rows outlive restarts and come back from a dump, and DROP EXTENSION leaves nothing.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha256_hex);
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;
use Wahook;

my $node = PostgreSQL::Test::Cluster->new('restart');
$node->init;
$node->append_conf('postgresql.conf', "wahook.app_secret = 'old_secret'\n");
$node->start;
is($node->safe_psql('postgres', 'SHOW shared_preload_libraries'), '', 'nothing is preloaded');

# What the catalog holds of the extension's kinds of objects.
my $objects = q{SELECT string_agg(o, E'\n' ORDER BY o) FROM (
	SELECT 'class ' || oid::regclass FROM pg_class WHERE oid >= 16384 AND relkind <> 't' AND relnamespace <> 'pg_toast'::regnamespace
	UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE oid >= 16384
	UNION ALL SELECT 'type ' || oid::regtype FROM pg_type WHERE oid >= 16384
	UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger
	UNION ALL SELECT 'policy ' || polname FROM pg_policy
	UNION ALL SELECT 'default privileges ' || defaclacl::text FROM pg_default_acl
	UNION ALL SELECT 'comment ' || description FROM pg_description WHERE objoid >= 16384
	UNION ALL SELECT 'schema ' || nspname FROM pg_namespace) x (o)};
my $before = $node->safe_psql('postgres', $objects);

$node->safe_psql('postgres', 'CREATE EXTENSION wahook');

# --- rotating the secret, under an open session

my $body = delivery(message('rotated', '1000'));
my %signature = map { $_ => 'sha256=' . hmac_sha256_hex($body, $_) } 'old_secret', 'new_secret';

# The sessions that psql opens would read the new settings anyway.
my $session = $node->background_psql('postgres');

sub accepts
{
	my ($secret) = @_;
	return $session->query_safe("SELECT verify_webhook_signature('$body', '$signature{$secret}')");
}

# The signal is on its way when reload returns; the session acts on it before its next statement.
sub reload_with
{
	my ($secrets, $secret, $accepted) = @_;
	$node->append_conf('postgresql.conf', "wahook.app_secret = '$secrets'\n");
	$node->reload;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (accepts($secret) ne $accepted && time < $deadline)
	{
		Time::HiRes::usleep(20_000);
	}
	return accepts($secret);
}

is(accepts('old_secret'), 't', 'the secret signs');
is(accepts('new_secret'), 'f', 'another does not');
is(reload_with('new_secret, old_secret', 'new_secret', 't'), 't', 'the session knows the second secret after a reload');
is(accepts('old_secret'), 't', 'and still the first');
is(reload_with('new_secret', 'old_secret', 'f'), 'f', 'the first is gone after the next reload');
is(accepts('new_secret'), 't', 'the second stays');
is($session->query_safe('SHOW wahook.app_secret'), '********', 'the session does not show it');

# --- the extension moves, under the same session

# Receives, claims, fails, retries, completes: all that keeps a plan or the schema's name.
sub whole_life
{
	my ($schema, $id, $from) = @_;
	my $delivery = delivery(message($id, $from));
	my $signature = 'sha256=' . hmac_sha256_hex($delivery, 'new_secret');
	return $session->query_safe(qq{
		SELECT outcome FROM $schema.receive_webhook('$delivery', '$signature');
		SELECT conversation_id, lock_id FROM $schema.claim_conversations() \\gset
		SELECT resolution_status FROM $schema.fail_webhook_message(:'conversation_id', :'lock_id', '$id', 'no', p_retry_after => '0');
		SELECT $schema.complete_webhook_messages(:'conversation_id', :'lock_id', '{}');
		SELECT $schema.process_dead_letter_queue() -> 'requeued';
		SELECT conversation_id, lock_id FROM $schema.claim_conversations() \\gset
		SELECT $schema.complete_webhook_messages(:'conversation_id', :'lock_id');
		SELECT $schema.cleanup_stuck_webhook_conversations();
		SELECT count(*) FROM $schema.processed_webhook_messages WHERE processed_at IS NOT NULL});
}

my $life = "accepted\npending\n0\n1\n1\n0\n1";
is(whole_life('public', 'moving', '2000'), $life, 'a message lives in public');
$session->query_safe('DROP EXTENSION wahook');
is($node->safe_psql('postgres', $objects), $before, 'DROP EXTENSION leaves nothing');
$session->query_safe('CREATE SCHEMA other');
$session->query_safe('CREATE EXTENSION wahook SCHEMA other');
is(whole_life('other', 'moving', '2000'), $life, 'and anew in another schema, in the same session');
$session->query_safe('DROP EXTENSION wahook');
$session->query_safe('DROP SCHEMA other');
$session->query_safe('CREATE EXTENSION wahook');
is(whole_life('public', 'moving', '2000'), $life, 'and back');
$session->quit;

# --- rows outlive restarts, and come back from a dump

$node->append_conf('postgresql.conf', "wahook.app_secret = ''\n");
$node->reload;
sub receive
{
	my ($database, @messages) = @_;
	return $node->safe_psql($database, "SELECT outcome FROM receive_webhook('" . delivery(@messages) . "')");
}
receive('postgres', message("kept-$_", 3000 + $_ % 3)) for 1 .. 9;
$node->safe_psql('postgres', q{
	SELECT conversation_id, lock_id FROM claim_conversations() \gset
	SELECT count(*) FROM fail_webhook_message(:'conversation_id', :'lock_id', 'kept-4', 'kept');
	SELECT conversation_id, lock_id FROM claim_conversations() \gset
	SELECT complete_webhook_messages(:'conversation_id', :'lock_id');
	INSERT INTO webhook_agents (agent_type) VALUES ('florist');
	INSERT INTO wa_workflow_recovery (conversation_id, workflow_type, recovery_action) VALUES ('1', 'order', 'resume')});

# A fingerprint of every row of the extension's logged tables, and of its sequences. A row that came with the extension is
# as old as the extension.
my $rows = q{
	SELECT format('SELECT %L, count(*), md5(string_agg(r::text, chr(10) ORDER BY r::text)) FROM %s t, to_jsonb(t) j, '
			|| 'LATERAL (SELECT j - CASE WHEN j @> %L THEN %L::text[] ELSE %L END) x (r)',
		c.oid::regclass, c.oid::regclass, '{"from_extension": true}', '{created_at,updated_at}', '{}')
	FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
		JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'wahook'
	WHERE c.relkind = 'r' AND c.relpersistence = 'p' ORDER BY c.relname \gexec
	SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2};
my $kept = $node->safe_psql('postgres', $rows);
like($kept, qr/^processed_webhook_messages\|10\|/m, 'there are rows to be kept');

$node->restart;
is($node->safe_psql('postgres', $rows), $kept, 'they outlive a restart');
# A sequence may skip some numbers in a crash.
my $without_sequences = $rows =~ s/SELECT schemaname.*//r;
my $kept_rows = $node->safe_psql('postgres', $without_sequences);
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', $without_sequences), $kept_rows, 'and a crash');
is(receive('postgres', message('kept-1', '3001')), 'duplicate', 'what was known is known');

$kept = $node->safe_psql('postgres', $rows);
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, 'postgres' ], 'the database is dumped');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', 'restored', '-f', $dump ], 'and restored');
is($node->safe_psql('restored', $rows), $kept, 'every row is there again');
is(receive('restored', message('kept-1', '3001')), 'duplicate', 'what was known is known');
is(receive('restored', message('kept-10', '3001')), 'accepted', 'what is new is new');

$node->safe_psql('restored', 'DROP EXTENSION wahook');
is($node->safe_psql('restored', $objects), $before, 'DROP EXTENSION leaves nothing of a restored one');

done_testing();
