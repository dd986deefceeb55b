# What the server's log says, and what it does not: an event is one line of JSON, and no line holds a secret, a message or
# the error of one.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha256_hex);
use FindBin;
use JSON::PP;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $secret = 'K1ngfisher-app-secret';
my $token = 'K1ngfisher-verify-token';
my $text = 'K1ngfisher says hello';
my $error = 'K1ngfisher broke';

my $node = new_node('log', "shared_preload_libraries = 'wahook'", "wahook.app_secret = '$secret'", "wahook.verify_token = '$token'", 'wahook.log_events = all',
	'wahook.dlq_max_retries = 0', 'log_statement = none', 'log_error_verbosity = verbose', "lc_messages = 'C'");

# Through the extended protocol, as drivers do, so that what a statement was given is not part of its text.
my %files;
sub call
{
	my ($statement, %arguments) = @_;
	if (!$files{$statement})
	{
		$files{$statement} = PostgreSQL::Test::Utils::tempdir() . '/script';
		append_to_file($files{$statement}, "$statement;\n");
	}
	return run_log([ 'pgbench', '--no-vacuum', '--protocol', 'extended', '--transactions', 1, '--file', $files{$statement},
			(map { ('--define', "$_=$arguments{$_}") } sort keys %arguments), '-d', $node->connstr('postgres') ],
		'>', '/dev/null', '2>', '/dev/null');
}

sub signed { my ($body) = @_; return 'sha256=' . hmac_sha256_hex($body, $secret) }

my $receive = 'SELECT * FROM receive_webhook(:body, :signature)';
my $good = delivery(map { message("w-$_", '1000', $text) } 1 .. 3);
ok(call($receive, body => $good, signature => signed($good)), 'a delivery is received');
ok(call($receive, body => $good, signature => signed($good)), 'and again');
ok(!call($receive, body => $good, signature => signed('other')), 'a wrong signature is refused');
ok(!call('SELECT * FROM receive_webhook(:body)', body => $good), 'and a missing one');
my $broken = substr $good, 0, -1;
ok(!call($receive, body => $broken, signature => signed($broken)), 'what is not JSON is refused');
my $unreadable = $good =~ s/w-1/\\u0000/r;
ok(call($receive, body => $unreadable, signature => signed($unreadable)), 'what jsonb cannot hold is quarantined');
ok(!call('SELECT verify_webhook_subscription(:mode, :token, :challenge)', mode => 'subscribe', token => 'wrong', challenge => 'c'),
	'a wrong token is refused');

my $claimed = $node->safe_psql('postgres', "SELECT conversation_id || ' ' || lock_id FROM claim_conversations()");
my ($conversation, $lock) = split / /, $claimed;
ok(call('SELECT fail_webhook_message(:conversation::uuid, :lock::uuid, :message, :error, :stack)', conversation => $conversation,
		lock => $lock, message => 'w-1', error => $error, stack => "$error at line 1"), 'a message fails');
ok(call('SELECT complete_webhook_messages(:conversation::uuid, :lock::uuid)', conversation => $conversation, lock => $lock),
	'the others are completed');
ok(!call('SELECT complete_webhook_messages(:conversation::uuid, :lock::uuid)', conversation => $conversation, lock => $lock),
	'once');
$node->safe_psql('postgres', 'SELECT process_dead_letter_queue(), cleanup_stale_sessions()');

my $log = slurp_file($node->logfile);
my %events;
for my $line (grep { /"event"/ } split /\n/, $log)
{
	my ($json) = $line =~ /LOG:  (?:00000: )?(\{.*\})$/;
	my $event = eval { decode_json($json // '') };
	ok($event, 'an event is one line of JSON') or diag $line;
	$events{ $event->{event} } = $event;
}
my @names = qw(WEBHOOK_DUPLICATE_DETECTED WEBHOOK_ADDED_TO_DLQ DLQ_MESSAGE_ABANDONED CONVERSATION_LOCK_ACQUIRED
	DLQ_PROCESSOR_STARTED DLQ_PROCESSOR_COMPLETED SESSION_CLEANUP_STARTED SESSION_CLEANUP_COMPLETED);
is(join(' ', grep { !$events{$_} } @names), '', 'the events are there');
is($events{$_}{conversation_id}, $conversation, "$_ names its conversation") for qw(WEBHOOK_ADDED_TO_DLQ DLQ_MESSAGE_ABANDONED);
ok($events{$_}{correlation_id}, "$_ has its correlation id")
	for qw(WEBHOOK_DUPLICATE_DETECTED WEBHOOK_ADDED_TO_DLQ DLQ_MESSAGE_ABANDONED);

for my $state (qw(WH001 WH002 WH007))
{
	like($log, qr/ERROR:  $state/, "$state is in the log");
}
unlike($log, qr/K1ngfisher/i, 'no secret, message or error of one is');

# --- nor anywhere else

my %masked = ('wahook.app_secret' => 'app_secret', 'wahook.verify_token' => 'verify_token');
for my $name (sort keys %masked)
{
	is($node->safe_psql('postgres', "LOAD 'wahook'; SHOW $name"), '********', "SHOW masks $name");
	is($node->safe_psql('postgres', "LOAD 'wahook'; SELECT current_setting('$name')"), '********', "current_setting() masks $name");
}
unlike($node->safe_psql('postgres', "LOAD 'wahook'; SHOW ALL; SELECT * FROM pg_settings; SELECT webhook_setting('app_secret')"),
	qr/K1ngfisher/, 'SHOW ALL, pg_settings and webhook_setting() hold none');
$node->safe_psql('postgres', 'CREATE ROLE nobody_special LOGIN');
for my $statement ('SHOW wahook.app_secret', "SELECT current_setting('wahook.app_secret')", 'SELECT * FROM pg_file_settings')
{
	my ($status, $stdout, $stderr) = $node->psql('postgres', "LOAD 'wahook'; SET ROLE nobody_special; $statement");
	isnt($status, 0, "$statement is not for everybody");
	unlike("$stdout$stderr", qr/K1ngfisher/, 'and tells nothing');
}
# Where the library is preloaded, a session knows the settings from its first statement on.
for my $statement ('SHOW wahook.app_secret', "SELECT current_setting('wahook.app_secret')", "SELECT current_setting('wahook.verify_token')")
{
	my ($status, $stdout, $stderr) = $node->psql('postgres', "SET ROLE nobody_special; $statement");
	isnt($status, 0, "$statement is not for everybody in a new session");
	unlike("$stdout$stderr", qr/K1ngfisher/, 'and tells nothing');
}
# --- in parallel queries

# A worker gets the leader's settings, the mask for a secret; the calls that need it stay with the leader.
my $parallel = "SET force_parallel_mode = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;"
	=~ s/force_parallel_mode/$node->pg_version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode'/er;
is($node->safe_psql('postgres', "$parallel SELECT count(*) FROM pg_class WHERE verify_webhook_signature('x', 'sha256=" . hmac_sha256_hex('x', $secret)
		. "') AND oid > 0"), $node->safe_psql('postgres', 'SELECT count(*) FROM pg_class'), 'a signature is verified in a parallel query');
like($node->safe_psql('postgres', "$parallel EXPLAIN (ANALYZE, COSTS OFF) SELECT count(*) FROM pg_class WHERE webhook_uuid() IS NOT NULL"),
	qr/Workers Launched: [1-9]/, 'such a query has workers');

# --- a secret that is rotated by a reload

my $offset = -s $node->logfile;
$node->append_conf('postgresql.conf', "wahook.app_secret = 'K1ngfisher-second'\nwahook.lock_timeout = 77\n");
$node->reload;
await($node, "SELECT verify_webhook_signature('x', 'sha256=" . hmac_sha256_hex('x', 'K1ngfisher-second') . "')", 'the reload');
like(slurp_file($node->logfile, $offset), qr/"wahook.lock_timeout" changed to "77"/, 'a reload logs what it changes');
unlike(slurp_file($node->logfile, $offset), qr/K1ngfisher/, 'but not the new secret');
is($node->safe_psql('postgres', 'SHOW wahook.app_secret'), '********', 'which is masked like the old one');

# Also where there was none before, and none is again.
$offset = -s $node->logfile;
$node->append_conf('postgresql.conf', "wahook.alert_url = 'https://K1ngfisher.example/hook'\nwahook.alert_secret = 'whsec_K1ngfisherK1ngfisherAA'\nwahook.lock_timeout = 78\n");
$node->reload;
await($node, "SELECT current_setting('wahook.alert_url') = '********'", 'the URL of alerts');
$node->append_conf('postgresql.conf', "wahook.alert_url = ''\nwahook.alert_secret = ''\nwahook.lock_timeout = 79\n");
$node->reload;
await($node, "SELECT current_setting('wahook.alert_url') = '' AND current_setting('wahook.alert_secret') = ''", 'none again');
like(slurp_file($node->logfile, $offset), qr/"wahook.lock_timeout" changed to "79"/, 'other changes are logged');
unlike(slurp_file($node->logfile, $offset), qr/K1ngfisher/, 'not those of a secret');

# The mask, copied by mistake, is not a secret.
isnt($node->psql('postgres', "ALTER SYSTEM SET wahook.app_secret = '********'"), 0, 'the mask is not taken for a secret');
isnt($node->psql('postgres', "SET wahook.verify_token = '********'"), 0, 'nor for a token');
# A value of a session's own ends with its transaction, or with a reset.
my $verifies = "SELECT verify_webhook_signature('x', 'sha256=" . hmac_sha256_hex('x', 'own') . "')";
is($node->safe_psql('postgres', "BEGIN; SET LOCAL wahook.app_secret = 'own'; $verifies; SAVEPOINT a; SET LOCAL wahook.app_secret = 'other'; $verifies;"
		. "ROLLBACK TO a; $verifies; COMMIT; $verifies; SET wahook.app_secret = 'own'; $verifies; RESET wahook.app_secret; $verifies;"),
	"t\nf\nt\nf\nt\nf", 'a secret is set and reset like any setting');

done_testing();
