# doc/examples/psql/dashboard.sql: a role of the level monitor sees what happens, round after round, and no line is ever
# longer than 100 columns, or has a character that moves the cursor, in an empty database, a busy one, and whatever names
# there are.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Encode;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use Wahook;

my $script = "$FindBin::Bin/../../doc/examples/psql/dashboard.sql";
my $tmp = PostgreSQL::Test::Utils::tempdir();
my $node = new_node('terminal', "shared_preload_libraries = 'wahook'", "wahook.databases = 'nowhere'", "wahook.health_dead_letters = 0");
sub sql { return $node->safe_psql('postgres', @_) }
sql(q{CREATE ROLE watcher LOGIN; SELECT wahook_grant('watcher', 'monitor'); CREATE ROLE stranger LOGIN});

# Starts it; the function that is returned answers the lines of the round N, when it is complete.
my $runs = 0;
sub start_dashboard
{
	my ($database, @options) = @_;
	my $out = "$tmp/out" . ++$runs;
	my $run = IPC::Run::start([ 'psql', '-X', '-U', 'watcher', '-d', $node->connstr($database), '-v', 'every=0.1', @options, '-f', $script ],
		'<', '/dev/null', '>', $out, '2>', "$out.err");
	return $run, sub {
		my ($n) = @_;
		my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
		while (time < $deadline)
		{
			my @rounds = split /^(?=wahook \d)/m, Encode::decode('UTF-8', slurp_file($out));
			shift @rounds if @rounds && $rounds[0] !~ /^wahook/;
			return [ split /\n/, $rounds[ $n - 1 ], -1 ] if @rounds > $n;
			last if !$run->pumpable;
			usleep 20_000;
		}
		BAIL_OUT("no round $n: " . slurp_file($out) . slurp_file("$out.err"));
	};
}

sub end_dashboard { my ($run) = @_; $run->kill_kill; return }

# The lines of one look, which are as they should be.
sub look
{
	my ($what, $database, @options) = @_;
	my ($run, $round) = start_dashboard($database, '-v', 'plain=1', @options);
	my $lines = $round->(1);
	end_dashboard($run);
	is(slurp_file("$tmp/out$runs.err"), '', "$what: nothing to complain about");
	return good($what, $lines);
}

sub good
{
	my ($what, $lines) = @_;
	is_deeply([ grep { length > 100 } @$lines ], [], "$what: no line is longer than 100 characters");
	is_deeply([ grep { /[^ -~\x{a1}-\x{ac}\x{ae}-\x{24f}]/ } @$lines ], [], "$what: nor has a character of another width than one");
	my $text = join "\n", @$lines;
	like($text, qr/^$_/m, "$what: $_") for 'THROUGHPUT', 'LATENCY', 'LAST 24 HOURS', 'ALERTS';
	note Encode::encode('UTF-8', $text);
	return $text;
}

# --- an empty database

my $text = look('empty', 'postgres');
like($text, qr/^wahook \S+, database postgres, \d{4}-.* UTC +OK$/m, 'its name, the time, the status');
like($text, qr/^messages received +- +0 +waiting or in work +0$/m, 'nothing came');
like($text, qr/^ALERTS: none$/m, 'no alert');

# --- round after round

my ($run, $round) = start_dashboard('postgres', '-v', 'plain=1');
like(join("\n", @{ $round->(1) }), qr/per s: from the next look on/, 'a first round has nothing to compare with');
my $deliver = sub { sql(q{SELECT receive_webhook('} . delivery(map { message("m-$_", "1555$_") } @_) . q{')}) };
$deliver->(1 .. 20);
sql(q{SELECT complete_webhook_messages(c.conversation_id, c.lock_id) FROM claim_conversations(5) c});

# The first round from the Nth on that is like this.
my $n = 2;
sub await_round
{
	my ($pattern, $what) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	for (; time < $deadline; $n++)
	{
		my $round_text = join "\n", @{ $round->($n) };
		next if $round_text !~ $pattern;
		pass($what);
		return $round_text;
	}
	BAIL_OUT("waited in vain: $what");
}
await_round(qr/^messages received +[1-9]\d*\.\d +20 /m, 'then what comes in, per second');
$text = await_round(qr/^messages completed +0\.0 +5 /m, 'what was completed');
like($text, qr/^messages received +\d+\.\d +20 +waiting or in work +15$/m, 'and in all, and what waits');
like($text, qr/; per s: in the last \d+\.\d s\.$/m, 'since the last look');
like($text, qr/^end to end +- +- +-(?: +\d\S* \w+){3}$/m, 'latencies of all, where nothing is new');
end_dashboard($run);

# What psql shows of a histogram is what Prometheus would calculate: all of a bucket is evenly spread in it.
sql(q{SELECT webhook_metrics_reset()});
sql(q{SELECT complete_webhook_messages(c.conversation_id, c.lock_id, NULL, 70) FROM claim_conversations(10) c});
like(look('quantiles', 'postgres'), qr/^processing +- +- +- +75 ms +98 ms +100 ms$/m, 'from 50 to 100 ms');

# --- a busy one, with names of all kinds

sql(q{INSERT INTO webhook_dlq (payload, whatsapp_message_id, resolution_status) SELECT '{}', 'd' || n, 'pending' FROM generate_series(1, 12) n});
my @names = ('x' x 300, "new\nline", "\e[2Jescape", "tab\tand\rreturn", "\x{6f22}\x{5b57}" x 40, "a\x{301}\x{200b}\x{202e}", '%s %1$s', "quote'\"\\", "K\x{fc}che");
my $list = join ', ', map { 'E\'' . (join '', map { sprintf '\\U%08x', ord } split //) . '\'' } @names;
sql(qq{SELECT record_circuit_failure('service:' || n, 1), webhook_count('http_attempts', ARRAY[n, '2xx']) FROM unnest(ARRAY[$list]) n});
sql(q{INSERT INTO processed_webhook_messages (whatsapp_message_id, processed_at, processing_time_ms) SELECT 'old' || n, now() - n * interval '1 minute', n FROM generate_series(1, 1200) n; SELECT run_webhook_job('rollup')});
$text = look('busy', 'postgres');
like($text, qr/ DEGRADED$/m, 'it is degraded');
like($text, qr/^HIGH +DLQ_BUILDUP +12 /m, 'an alert');
like($text, qr/dead letters: pending +12$/m, 'dead letters');
like($text, qr/^CIRCUITS OPEN$/m, 'circuits');
like($text, qr/^and 4 more$/m, 'not all of them');
like($text, qr/^requests to endpoints +- +9 /m, 'requests, of all services');
like($text, qr/^messages processed  \|[ .:\-=+*#%@]{23}[^ ]\|  1,2\d\d, at most \d+ an hour$/m, 'the last day');
unlike($text, qr/1555\d/, 'no phone number');

my $name = Encode::encode('UTF-8', "x \x{6f22}\n\e[31m" . '"\'%' . 'y' x 40);
$node->safe_psql('postgres', 'CREATE DATABASE "' . $name =~ s/"/""/gr . '"');
$node->safe_psql($name, q{CREATE SCHEMA "Web hook"; CREATE EXTENSION wahook SCHEMA "Web hook"; SELECT "Web hook".wahook_grant('watcher', 'monitor')});
look('another schema', $name, '-v', 'schema=Web hook');

# --- in a terminal it clears the screen

($run, $round) = start_dashboard('postgres');
like(join("\n", @{ $round->(1) }), qr/^\e\[2J\e\[H$/m, 'the screen is cleared before the next round');
end_dashboard($run);

# --- without preload; for others

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
$text = look('without preload', 'postgres');
like($text, qr/^messages received +- +- +waiting or in work +\d+$/m, 'what tables tell is there');
like($text, qr/^Throughput and latencies are counted where wahook is in shared_preload_libraries\.$/m, 'and why the rest is not');
my ($stdout, $stderr) = ('', '');
ok(!IPC::Run::run([ 'psql', '-X', '-U', 'stranger', '-d', $node->connstr('postgres'), '-f', $script ], '<', '/dev/null', '>', \$stdout, '2>', \$stderr), 'a stranger sees nothing');
like($stderr, qr/permission denied/, 'and is told why');
done_testing();
