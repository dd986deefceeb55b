# Everything at once: eight sessions make every call in random order, in transactions and savepoints
# that roll back, at every isolation level, while their queries are cancelled, their backends ended
# and their leases run out. Then: no message is lost, completed twice or handed over out of order,
# and none waits where nobody would look. STRESS_SEED and STRESS_ROUNDS choose another run.
use strict;
use warnings;

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $seed = $ENV{STRESS_SEED} // 1;
my $rounds = $ENV{STRESS_ROUNDS} // 3;
my $sessions = 8;
my $steps = 60; # a session a round

my $node = PostgreSQL::Test::Cluster->new('stress');
$node->init;
$node->append_conf('postgresql.conf', q{
max_connections = 40
log_min_error_statement = panic
log_min_messages = fatal
wahook.log_events = none
wahook.lock_timeout = 1s
wahook.dlq_base_delay = 1s
wahook.stuck_timeout = 1s
deadlock_timeout = 20ms
statement_timeout = 60s
session_preload_libraries = wahook
});
$node->start;
$node->safe_psql('postgres', q{CREATE EXTENSION wahook});
$node->safe_psql('postgres', slurp_file('test/lib/stress.sql'));

sub count { return $node->safe_psql('postgres', "SELECT count(*) FROM ($_[0]) AS q") }

# One connection after the other, because those that are ended must not end the session's work.
sub session
{
	my ($number, $round) = @_;

	srand($seed * 1000 + $round * 100 + $number);
	for my $part (1 .. 4)
	{
		my $sql = '';
		for my $step (1 .. $steps / 4)
		{
			my $isolation = (('READ COMMITTED') x 6, 'REPEATABLE READ', 'SERIALIZABLE')[ int rand 8 ];
			my $end = rand() < 0.85 ? 'COMMIT' : 'ROLLBACK';
			$sql .= "BEGIN ISOLATION LEVEL $isolation;\n";
			for (1 .. 1 + int rand 3)
			{
				$sql .= sprintf "SAVEPOINT s; SELECT stress.step(%d, %d);\n", $number, int rand 1e6;
				$sql .= "ROLLBACK TO s;\n" if rand() < 0.15;
			}
			$sql .= "SELECT FROM pg_sleep(0.8);\n" if rand() < 0.04;
			$sql .= "$end;\n";
		}
		# Most errors are expected: the session was cancelled, was ended, or lost a race.
		IPC::Run::run(['psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=0', '-v', 'VERBOSITY=verbose',
				$node->connstr('postgres') . ' application_name=stress'],
			'<', \$sql, '>', \my $out, '2>', \my $errors);
		my @unexpected = $errors =~ /^(.*(?:XX00|23505|WARNING|TRAP|lock timeout|crash).*(?:\n.+){0,3})/mg;
		if (@unexpected)
		{
			print STDERR "$_\n" for @unexpected;
			return 1;
		}
	}
	return 0;
}

sub disturb
{
	my ($round) = @_;
	my $what = q{FROM (SELECT pid FROM pg_stat_activity
		WHERE application_name = 'stress' AND state <> 'idle' ORDER BY random() LIMIT 1) AS victim};

	$node->psql('postgres', rand() < 0.8 ? "SELECT pg_cancel_backend(pid) $what" : "SELECT pg_terminate_backend(pid) $what");
}

my $failed = 0;
local $SIG{ALRM} = sub { die "it takes too long\n" };
alarm 240;
for my $round (1 .. $rounds)
{
	my @children;
	for my $number (1 .. $sessions)
	{
		my $pid = fork // die "could not fork: $!";
		if ($pid == 0)
		{
			my $status = eval { session($number, $round) } // 2;
			print STDERR $@ if $@;
			POSIX::_exit($status);
		}
		push @children, $pid;
	}
	srand($seed + $round);
	while (@children)
	{
		disturb($round);
		usleep(30_000);
		my @left;
		for my $pid (@children)
		{
			if (waitpid($pid, POSIX::WNOHANG()) == 0) { push @left, $pid }
			elsif ($?) { $failed++ }
		}
		@children = @left;
	}
	is($node->safe_psql('postgres', 'SELECT * FROM stress.problems()'), '', "round $round leaves everything in order");
}
is($failed, 0, 'no session met an internal error');

cmp_ok(count('SELECT FROM processed_webhook_messages'), '>', 100, 'messages were accepted');
cmp_ok(count(q{SELECT FROM webhook_delivery_attempts WHERE outcome = 'lost'}), '>', 0, 'claims were lost');
cmp_ok(count(q{SELECT FROM webhook_delivery_attempts WHERE outcome = 'failed'}), '>', 0, 'messages failed');
note($node->safe_psql('postgres', q{SELECT format('%s messages, %s done, %s waiting, %s attempts lost', (SELECT count(*) FROM processed_webhook_messages),
	(SELECT count(*) FROM stress.done), (SELECT count(*) FROM webhook_inbox), (SELECT count(*) FROM webhook_delivery_attempts WHERE outcome = 'lost'))}));

# Whatever is left is done by one client, as soon as its lease or its time for a retry has come.
my $left = $node->safe_psql('postgres', 'SET wahook.max_attempts = 1000; CALL stress.drain(); SELECT * FROM stress.left_over()');
is($left, '', 'nothing is left over');
is($node->safe_psql('postgres', 'SELECT * FROM stress.problems()'), '', 'and everything is in order');

$node->stop;
done_testing();
