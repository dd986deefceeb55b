# What becomes of agents' turns when the worker, the server or the extension goes while a model thinks: none is lost, none is
# there twice.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JSON::PP;
use Model;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use Wahook;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $model = Model->new($dir);
my $node = new_node('agents_crash', "shared_preload_libraries = 'wahook'", 'restart_after_crash = on',
	"wahook.http_allowed_networks = '127.0.0.1'", 'wahook.max_attempts = 100', 'wahook.cleanup_interval = 1s', 'wahook.handler_workers = 2');
my $worker = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND datname = 'postgres'};

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub set_up
{
	sql(q{CREATE SCHEMA IF NOT EXISTS app; CREATE TABLE IF NOT EXISTS app.replies (n bigserial, reply jsonb);
		CREATE OR REPLACE FUNCTION app.keep(p_reply jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO app.replies (reply) VALUES (p_reply)'});
}
set_up();

sub agent
{
	my ($name, $path) = @_;
	my $url = $model->url($path);
	sql(qq{
		INSERT INTO webhook_agents (agent_type, system_prompt, model, endpoint, allow_http, timeout, circuit_threshold)
			VALUES ('$name', 'You are $name.', 'm', '$url', true, '3 min', 1000);
		SELECT register_webhook_service('$name', p_agent_type => '$name', p_reply_handler => 'app.keep(jsonb)', p_concurrency => 50);
		INSERT INTO webhook_routes (name, match, pattern, service, priority) VALUES ('$name', 'regex', '^$name\\M', '$name', 1)});
}

# An agent at a gate, and a turn that is under way.
sub start_turn
{
	my ($name) = @_;
	agent($name, "/model/gate/$name");
	sql(q{SELECT receive_webhook('} . delivery(message("wamid.$name", "49$name", "$name here")) . q{')});
	ok($model->await_requests("/model/gate/$name", 1), "$name: a model thinks");
}

# Some time passes, as far as leases go.
sub end_leases
{
	sql(q{UPDATE webhook_conversations SET lock_expires_at = now() WHERE locked_by IS NOT NULL;
		UPDATE webhook_leases SET expires_at = now() - random() * interval '1 s'; SELECT pg_reload_conf()});
}

sub processed { return "SELECT processed_at IS NOT NULL FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.$_[0]'" }

sub await_turn
{
	my ($name) = @_;
	$model->open_gate($name);
	await($node, processed($name), $name);
	ok($model->await_requests("/model/gate/$name", 2), "$name: it was asked again");
	my ($first, $second, @others) = $model->requests("/model/gate/$name");
	is(scalar @others, 0, "$name: but once");
	is($second->{headers}{'idempotency-key'}, $first->{headers}{'idempotency-key'}, "$name: with the same key");
	is($second->{body}, $first->{body}, "$name: and the same words");
	answered_once($name);
}

sub answered_once
{
	my ($name) = @_;
	is(sql(qq{SELECT string_agg(m ->> 'role' || ': ' || (m ->> 'content'), ', ' ORDER BY n) FROM agent_contexts,
		jsonb_array_elements(context_data -> 'messages') WITH ORDINALITY AS m (m, n) WHERE agent_type = '$name'}),
		"user: $name here, assistant: m heard: $name here", "$name: it is remembered once");
	is(sql(qq{SELECT count(*) FROM app.replies WHERE reply ->> 'agent_type' = '$name'}), 1, "$name: the handler had it once");
	is(sql(q{SELECT (SELECT count(*) FROM webhook_inbox) || ' ' || (SELECT count(*) FROM webhook_agent_replies) || ' '
		|| (SELECT count(*) FROM webhook_conversations WHERE locked_by IS NOT NULL)}), '0 0 0', "$name: nothing is left");
}

sub new_worker
{
	my ($old) = @_;
	await($node, "SELECT EXISTS ($worker AND pid <> $old)", 'a new worker');
}

# A killed worker takes all sessions of the server with it.
start_turn('killed');
my $pid = sql($worker);
kill 'KILL', $pid;
new_worker($pid);
end_leases();
await_turn('killed');

for my $mode (qw(fast immediate))
{
	start_turn($mode);
	my $begin = time;
	$node->stop($mode);
	note sprintf 'stopping (%s) took %.1f s', $mode, time - $begin;
	cmp_ok(time - $begin, '<', $PostgreSQL::Test::Utils::timeout_default / 2, "$mode: the server does not wait for the model");
	$node->start;
	end_leases() if $mode eq 'immediate';
	await_turn($mode);
}

# SIGTERM: what is under way is given back at once, and costs no attempt.
start_turn('ended');
$pid = sql($worker);
my $begin = time;
kill 'TERM', $pid;
await($node, "SELECT NOT EXISTS ($worker AND pid = $pid)", 'it is gone');
note sprintf 'the worker was gone after %.1f s', time - $begin;
new_worker($pid);
await_turn('ended');
is(sql(q{SELECT string_agg(outcome, ' ') FROM webhook_delivery_attempts a JOIN processed_webhook_messages m ON m.id = a.message_id
	WHERE whatsapp_message_id = 'wamid.ended'}), 'succeeded', 'and no attempt was lost');

start_turn('answered');
$pid = sql($worker);
$model->open_gate('answered');
kill 'TERM', $pid;
await($node, processed('answered'), 'an answer');
new_worker($pid);
answered_once('answered');

# The answer is there, and the handler is running: what was paid for is kept.
sql(q{CREATE FUNCTION app.wait(p_reply jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN PERFORM pg_advisory_xact_lock_shared(99); INSERT INTO app.replies (reply) VALUES (p_reply); END $$});
my $waits = q{SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 99 AND NOT granted};
for my $who (qw(handler worker))
{
	my $holder = $node->background_psql('postgres', on_error_stop => 0);
	$holder->query_safe('SELECT pg_advisory_lock(99)');
	agent($who, "/model/ok?$who");
	sql("SELECT register_webhook_service('$who', p_reply_handler => 'app.wait(jsonb)', p_timeout => '10 min')");
	sql(q{SELECT receive_webhook('} . delivery(message("wamid.$who", "49$who", "$who here")) . q{')});
	await($node, "SELECT EXISTS ($waits)", "the handler runs");
	$pid = sql($worker);
	if ($who eq 'handler')
	{
		kill 'TERM', sql($waits);
		await($node, "SELECT count(*) >= 2 FROM pg_stat_activity WHERE backend_type LIKE 'wahook %r'", 'others go on');
		$holder->quit;
	}
	else
	{
		kill 'KILL', $pid;
		$holder->{run}->kill_kill;
		new_worker($pid);
		sql(q{UPDATE webhook_agent_replies SET taken_until = now(); SELECT pg_reload_conf()});
		end_leases();
	}
	await($node, processed($who), $who);
	is(scalar(() = $model->requests("/model/ok?$who")), 1, "$who killed while the handler runs: the model is not asked again");
	answered_once($who);
}

# The extension goes, and comes back.
start_turn('dropped');
sql('DROP EXTENSION wahook');
pass('DROP EXTENSION does not wait for the model');
sql('CREATE EXTENSION wahook');
agent('anew', '/model/ok?anew');
sql(q{SELECT receive_webhook('} . delivery(message('wamid.anew', '49', 'anew here')) . q{')});
await($node, processed('anew'), 'anew');
answered_once('anew');

# --- under load: the worker is killed again and again, leases end while it lives

my ($users, $bursts, $size) = (12, 4, 3);
sql(q{TRUNCATE app.replies; UPDATE webhook_rate_limit_buckets SET enabled = false});
agent('load', '/model/slow/150');
for my $burst (1 .. $bursts)
{
	for my $user (1 .. $users)
	{
		sql(q{SELECT receive_webhook('} . delivery(map { message("wamid.$user.$burst.$_", "49000$user", "load $user.$burst.$_") } 1 .. $size) . q{')});
	}
	$pid = sql($worker);
	kill 'KILL', $pid if $pid =~ /^\d+$/ && $burst % 2;
	new_worker($pid) if $pid =~ /^\d+$/ && $burst % 2;
	end_leases();
}
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
until (sql('SELECT count(*) FROM webhook_inbox') eq '0' || time > $deadline)
{
	sleep 0.7;
	end_leases();
}
is(sql(q{SELECT count(*) FROM webhook_inbox}) . sql(q{SELECT count(*) FROM webhook_dlq}), '00', 'under load: all is done');
my $n = $users * $bursts * $size;
is(sql(q{SELECT count(*) FROM processed_webhook_messages WHERE processed_at IS NOT NULL AND whatsapp_message_id LIKE 'wamid.%.%.%'}), $n, 'all messages');

# The reference: what each user said, in order, and after each turn what the model heard since the one before.
my $wrong = 0;
for my $user (1 .. $users)
{
	my @memory = split /\n/, sql(qq{SELECT string_agg(m ->> 'role' || ': ' || (m ->> 'content'), E'\\n' ORDER BY n)
		FROM webhook_conversations c JOIN agent_contexts a ON a.conversation_id = c.id,
		jsonb_array_elements(a.context_data -> 'messages') WITH ORDINALITY AS m (m, n) WHERE c.user_id = '49000$user' AND a.agent_type = 'load'});
	my @said = grep { /^user/ } @memory;
	my @expected = map { my $burst = $_; map { "user: load $user.$burst.$_" } 1 .. $size } 1 .. $bursts;
	my @reference;
	my @since;
	for my $line (@memory)
	{
		if ($line =~ /^user: (.*)/) { push @since, $1; push @reference, $line }
		else { push @reference, 'assistant: m heard: ' . join(' | ', @since); @since = () }
	}
	next if "@said" eq "@expected" && "@memory" eq "@reference" && !@since;
	$wrong++;
	diag join "\n", "user $user:", @memory;
}
is($wrong, 0, 'each user: all that was said, in order, each once, and each answered once');
is(sql(q{SELECT count(*), count(DISTINCT m ->> 'whatsapp_message_id') FROM app.replies, jsonb_array_elements(reply -> 'messages') m}), "$n|$n",
	'the handler had each message once');
is(sql(q{SELECT sum(cardinality(whatsapp_message_ids)) FROM agent_turns WHERE agent_type = 'load' AND outcome = 'answered'}), $n, 'and the turns');
account(sprintf '%d messages of %d users in %d turns, %d calls, the worker killed %d times',
	$n, $users, sql(q{SELECT count(*) FROM agent_turns WHERE agent_type = 'load'}), scalar(() = $model->requests('/model/slow/150')), $bursts / 2);

unlike(slurp_file($node->logfile), qr/TRAP|PANIC|segmentation|signal 11/i, 'nothing crashed besides');
$node->stop;
done_testing();
