# What becomes of requests that are under way when the worker, the server, the extension or the database goes.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Endpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Wahook;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $endpoint = Endpoint->new($dir);
my $node = new_node('http_crash', "shared_preload_libraries = 'wahook'", 'restart_after_crash = on',
	"wahook.http_allowed_networks = '127.0.0.1'");
my $worker = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND datname = 'postgres'};

# A service at a gate, and a message that is under way to it.
sub start_delivery
{
	my ($name, $timeout) = @_;
	my $url = $endpoint->url("/gate/$name");
	$node->safe_psql('postgres', qq{
		INSERT INTO webhook_services (name, url, allow_http, timeout, circuit_threshold)
			VALUES ('$name', '$url', true, '$timeout', 1000);
		INSERT INTO webhook_routes (name, match, pattern, service, priority) VALUES ('$name', 'keyword', '$name', '$name', 1);
		SELECT receive_webhook('} . delivery(message("wamid.$name", "49$name", $name)) . q{')});
	ok($endpoint->await_requests("/gate/$name", 1), "$name: a request is under way");
}

# Some time passes, as far as leases go.
sub end_leases
{
	$node->safe_psql('postgres', q{UPDATE webhook_conversations SET lock_expires_at = now() WHERE locked_by IS NOT NULL;
		UPDATE webhook_leases SET expires_at = now(); SELECT pg_reload_conf()});
}

# It is sent again when its lease is over, and processed once.
sub await_delivery
{
	my ($name) = @_;
	$endpoint->open_gate($name);
	await($node, "SELECT processed_at IS NOT NULL FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.$name'", $name);
	ok($endpoint->await_requests("/gate/$name", 2), "$name: it was sent again");
	is($node->safe_psql('postgres', qq{SELECT string_agg(outcome, ' ' ORDER BY seq) FROM webhook_delivery_attempts a
		JOIN processed_webhook_messages m ON m.id = a.message_id WHERE whatsapp_message_id = 'wamid.$name'}), 'lost succeeded',
		"$name: one attempt was lost, the other succeeded");
	is($node->safe_psql('postgres', q{SELECT (SELECT count(*) FROM webhook_inbox) || ' '
		|| (SELECT count(*) FROM webhook_conversations WHERE locked_by IS NOT NULL)}), '0 0', "$name: nothing is left");
	my ($first, $second) = $endpoint->requests("/gate/$name");
	is($second->{headers}{'idempotency-key'}, $first->{headers}{'idempotency-key'}, "$name: the endpoint can tell");
	cmp_ok($second->{headers}{'x-wahook-lock-token'}, '>', $first->{headers}{'x-wahook-lock-token'}, "$name: the lock token has grown");
}

sub new_worker
{
	my ($old) = @_;
	await($node, "SELECT EXISTS ($worker AND pid <> $old)", 'a new worker');
}

# A killed worker takes all sessions of the server with it.
start_delivery('killed', '5s');
my $pid = $node->safe_psql('postgres', $worker);
kill 'KILL', $pid;
new_worker($pid);
await_delivery('killed');

# The server restarts, in a hurry and not.
for my $mode (qw(fast immediate))
{
	start_delivery($mode, '3min');
	my $begin = time;
	$node->stop($mode);
	note sprintf 'stopping (%s) took %.1f s', $mode, time - $begin;
	$node->start;
	end_leases();
	await_delivery($mode);
}

# The worker is asked to end. It waits for answers a little: one that comes in time is recorded.
start_delivery('ended', '3min');
$pid = $node->safe_psql('postgres', $worker);
my $begin = time;
kill 'TERM', $pid;
await($node, "SELECT NOT EXISTS ($worker AND pid = $pid)", 'it is gone');
note sprintf 'the worker was gone after %.1f s', time - $begin;
new_worker($pid);
end_leases();
await_delivery('ended');

start_delivery('answered', '3min');
$pid = $node->safe_psql('postgres', $worker);
$endpoint->open_gate('answered');
kill 'TERM', $pid;
await($node, q{SELECT processed_at IS NOT NULL FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.answered'}, 'an answer');
is(scalar($endpoint->requests('/gate/answered')), 1, 'an answer that comes in time is recorded');
new_worker($pid);

# Also where it is asked while it records the answer, and something is in the way of that.
$node->safe_psql('postgres', q{
	CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(99); RETURN NEW; END';
	CREATE TRIGGER wait BEFORE UPDATE ON processed_webhook_messages FOR EACH ROW EXECUTE FUNCTION wait()});
my $waits = q{SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 99 AND NOT granted};
my $holder = $node->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(99)');
start_delivery('recorded', '3min');
$pid = $node->safe_psql('postgres', $worker);
$endpoint->open_gate('recorded');
await($node, "SELECT EXISTS ($waits AND pid = $pid)", 'the answer is being recorded');
kill 'TERM', $pid;
$holder->quit;
new_worker($pid);
$node->safe_psql('postgres', 'DROP TRIGGER wait ON processed_webhook_messages');
end_leases();
await($node, q{SELECT processed_at IS NOT NULL FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.recorded'}, 'it is processed');
is(scalar($endpoint->requests('/gate/recorded')), 1, 'and was not sent again');

# The extension goes, and comes back.
start_delivery('dropped', '3min');
$node->safe_psql('postgres', 'DROP EXTENSION wahook');
pass('DROP EXTENSION does not wait for the answer');
$node->safe_psql('postgres', 'CREATE EXTENSION wahook');
start_delivery('anew', '3min');
$endpoint->open_gate('anew');
await($node, q{SELECT processed_at IS NOT NULL FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.anew'}, 'anew');
pass('and a new one delivers');

# The database goes.
start_delivery('gone', '3min');
$node->safe_psql('template1', 'DROP DATABASE postgres');
pass('DROP DATABASE does not wait for the answer');
$node->safe_psql('template1', 'CREATE DATABASE postgres');

unlike(slurp_file($node->logfile), qr/TRAP|PANIC|segmentation|signal 11/i, 'nothing crashed besides');
$node->stop;
done_testing();
