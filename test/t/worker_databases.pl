# Workers in many databases: where they run, what they make way for, and what is in their way.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

# The databases in which workers run, in alphabetical order.
sub await_workers
{
	my ($node, $databases, $what) = @_;
	await($node, "SELECT coalesce(string_agg(datname, ' ' ORDER BY datname), '') = '$databases' FROM pg_stat_activity"
		. " WHERE backend_type = 'wahook worker' AND state = 'idle'", $what);
}

sub pid_in
{
	my ($node, $database) = @_;
	return $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND datname = '$database'");
}

sub count_log
{
	my ($node, $pattern) = @_;
	return scalar(() = slurp_file($node->logfile) =~ /$pattern/g);
}

sub set_and_reload
{
	my ($node, $setting) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET $setting");
	$node->reload;
}

my $node = start_node('databases', q{shared_preload_libraries = 'wahook'}, 'max_worker_processes = 10', "log_statement = 'none'");

# --- One in each database that has it, in no other.
$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(one two without);
$node->safe_psql($_, 'CREATE EXTENSION wahook') for qw(one two);
await_workers($node, 'one two', 'a worker in each database that has the extension');

# --- A copy has it as well; its template's worker is not in the way, nor is it lost.
$node->safe_psql('postgres', 'CREATE DATABASE three TEMPLATE one');
await_workers($node, 'one three two', 'one in the copy');

# --- Not in templates, and not where nobody may connect.
$node->safe_psql('postgres', 'ALTER DATABASE three IS_TEMPLATE true');
await_workers($node, 'one two', 'none in a template');
is($node->safe_psql('three', 'SELECT expected, state FROM webhook_worker_state()'), 'f|not expected', 'which says so');
$node->safe_psql('postgres', 'CREATE DATABASE four TEMPLATE three');
await_workers($node, 'four one two', 'but in its copies');
$node->safe_psql('postgres', 'ALTER DATABASE four ALLOW_CONNECTIONS false');
await_workers($node, 'one two', 'none where connections are not allowed');
$node->safe_psql('postgres', 'ALTER DATABASE four ALLOW_CONNECTIONS true; ALTER DATABASE three IS_TEMPLATE false');
await_workers($node, 'four one three two', 'and back');

# --- Commands that want the database for themselves.
my $pid = pid_in($node, 'one');
$node->safe_psql('postgres', 'ALTER DATABASE one RENAME TO uno');
await_workers($node, 'four three two uno', 'RENAME');
isnt(pid_in($node, 'uno'), $pid, 'by another process');
my $tablespace = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', "CREATE TABLESPACE other LOCATION '$tablespace'");
$node->safe_psql('postgres', 'ALTER DATABASE uno SET TABLESPACE other');
await_workers($node, 'four three two uno', 'SET TABLESPACE');
$node->safe_psql('postgres', 'DROP DATABASE four');
await_workers($node, 'three two uno', 'DROP DATABASE');
$node->safe_psql('postgres', 'DROP DATABASE three WITH (FORCE)');
await_workers($node, 'two uno', 'DROP DATABASE WITH (FORCE)');

# --- Where the command fails, the worker comes back.
my $client = start_script($node, 'in the way', "\\connect two\nSET application_name = 'in the way';\nSELECT pg_sleep(600);\n");
await($node, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'in the way')", 'somebody else is connected');
$pid = pid_in($node, 'two');
isnt($node->psql('postgres', 'ALTER DATABASE two RENAME TO dos'), 0, 'a command that fails');
await_workers($node, 'two uno', 'the worker comes back');
isnt(pid_in($node, 'two'), $pid, 'having been away');
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'in the way'");
finish_script($client);

# --- A worker that can't go on, because somebody has locked what it needs, keeps the others from starting for a while only.
$client = start_script($node, 'locks', "\\connect uno\nBEGIN;\nLOCK TABLE pg_extension IN ACCESS EXCLUSIVE MODE;\n"
	. "SET application_name = 'locks';\nSELECT pg_sleep(600);\n");
await($node, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'locks')", 'a lock');
$pid = pid_in($node, 'uno');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
await($node, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND datname = 'uno' AND pid <> $pid AND wait_event_type = 'Lock')",
	'a worker waits');
$node->safe_psql('without', 'CREATE EXTENSION wahook');
await($node, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND datname = 'without' AND state = 'idle')", 'another starts all the same');
$node->safe_psql('without', 'DROP EXTENSION wahook');
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'locks'");
finish_script($client);
await_workers($node, 'two uno', 'and it goes on when it can');

# --- Who may not do it does not disturb it.
$pid = pid_in($node, 'two');
$node->safe_psql('postgres', 'CREATE ROLE nobody_special LOGIN');
for my $command ('DROP DATABASE two', 'ALTER DATABASE two RENAME TO mine', 'CREATE DATABASE mine TEMPLATE two', "ALTER DATABASE two SET work_mem = '1MB'")
{
	isnt($node->psql('postgres', "SET ROLE nobody_special; $command"), 0, "refused: $command");
}
isnt($node->psql('two', 'SET ROLE nobody_special; DROP EXTENSION wahook'), 0, 'refused: DROP EXTENSION');
$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS no_such_database');
is(pid_in($node, 'two'), $pid, 'the worker was not sent away');

# --- wahook.databases.
set_and_reload($node, q{wahook.databases = 'two, "No Such"'});
await_workers($node, 'two', 'narrowed');
is(count_log($node, qr/WARNING:  database "No Such" in wahook.databases does not exist/), 1, 'a name that is none is told of');
$node->safe_psql('postgres', 'CREATE DATABASE five');
$node->reload;
$node->safe_psql('five', 'CREATE EXTENSION wahook');
set_and_reload($node, 'wahook.databases = five');
await_workers($node, 'five', 'another list');
is($node->safe_psql($_->[0], 'SELECT expected FROM webhook_worker_state()'), $_->[1], "expected in $_->[0]: $_->[1]") for [ five => 't' ], [ two => 'f' ];
my (undef, undef, $stderr) = $node->psql('postgres', q{ALTER SYSTEM SET wahook.databases = 'a,,b'});
like($stderr, qr/invalid value.*\n.*names of databases/, 'no list');
set_and_reload($node, q{wahook.databases = ''});
await_workers($node, 'five two uno', 'all again');
is(count_log($node, qr/WARNING:  database "No Such"/), 1, 'it was told of once');

# --- A database that can't be connected to: told of, tried again with pauses that grow, and without a storm.
my $directory = $node->data_dir . '/base/' . $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname = 'two'");
rename "$directory/PG_VERSION", "$directory/PG_VERSION.away" or die;
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND datname = 'two'});
my $exits = qr/background worker "wahook worker" \(PID \d+\) exited with exit code 1/;
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if count_log($node, $exits) >= 3;
	Time::HiRes::usleep(100_000);
}
cmp_ok(count_log($node, $exits), '>=', 3, 'it was tried three times');
is(count_log($node, qr/FATAL:  .*not a valid data directory/), 1, 'but said why only once');
is(count_log($node, qr/LOG:  wahook worker of database "two" ended/), 1, 'it was told of once');
rename "$directory/PG_VERSION.away", "$directory/PG_VERSION" or die;
await_workers($node, 'five two uno', 'it comes back when it can');

# --- DROP DATABASE while the worker is in the midst of a job, and another session is starting to use it.
$node->safe_psql('five', q{
	CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3600); RETURN OLD; END $$;
	CREATE TRIGGER hang BEFORE DELETE ON user_sessions FOR EACH ROW EXECUTE FUNCTION hang();
	INSERT INTO user_sessions (phone_number, last_interaction) VALUES ('25080', now() - interval '2 days')});
$node->safe_psql('postgres', "ALTER DATABASE five SET wahook.session_cleanup_interval = '1 s'");
await($node, q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND wait_event = 'PgSleep')}, 'a job hangs');
$node->safe_psql('postgres', 'DROP DATABASE five');
await_workers($node, 'two uno', 'DROP DATABASE in the midst of a job');

# --- Through a restart.
$node->restart;
await_workers($node, 'two uno', 'after a restart');
$node->safe_psql($_, 'DROP EXTENSION wahook') for qw(two uno);
await_workers($node, '', 'none without the extension');
$node->stop;
is(count_log($node, qr/PANIC|TRAP|WARNING:  (?!database "No Such")/), 0, 'nothing else to tell of');

# --- Too few background workers: said once, with what to do; and the next free one is used.
$node = start_node('few', q{shared_preload_libraries = 'wahook'}, 'max_worker_processes = 3');
$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(one two);
$node->safe_psql('one', 'CREATE EXTENSION wahook');
await_workers($node, 'one', 'there is room for one');
$node->safe_psql('two', 'CREATE EXTENSION wahook');
my $full = qr/WARNING:  no background worker is free for wahook in database "two"/;
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if count_log($node, $full);
	Time::HiRes::usleep(100_000);
}
like(slurp_file($node->logfile), qr/$full.*\n.*DETAIL.*\n.*HINT:  Raise max_worker_processes/, 'no room for a second one');
$node->safe_psql('one', 'DROP EXTENSION wahook');
await_workers($node, 'two', 'until the first one goes');
is(count_log($node, $full), 1, 'said once');
$node->stop;

# --- Without the preload line.
$node = start_node('by_hand', 'restart_after_crash = on');
$node->safe_psql('postgres', 'CREATE DATABASE bot; CREATE DATABASE other');
$node->safe_psql($_, 'CREATE EXTENSION wahook') for qw(bot other);
like($node->safe_psql('bot', 'SELECT start_webhook_worker()'), qr/^\d+$/, 'started by hand');
await_workers($node, 'bot', 'in this database');
is($node->safe_psql('bot', 'SELECT start_webhook_worker()'), pid_in($node, 'bot'), 'twice is once');
$node->safe_psql('bot', "INSERT INTO webhook_dlq (payload, whatsapp_message_id) VALUES ('{}', 'x');"
	. " INSERT INTO webhook_dlq (payload, next_retry_at) VALUES ('{}', now())");
$node->poll_query_until('bot', 'SELECT bool_and(coalesce(succeeded, false)) FROM webhook_jobs') or die;
ok(1, 'it runs the jobs');
my $runs = $node->safe_psql('bot', "SELECT runs FROM webhook_jobs WHERE job = 'dlq-processor'");
$node->safe_psql('bot', 'UPDATE webhook_dlq SET next_retry_at = now()');
$node->poll_query_until('bot', "SELECT runs > $runs FROM webhook_jobs WHERE job = 'dlq-processor'") or die;
ok(1, 'a commit wakes it');
$pid = pid_in($node, 'bot');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
await($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND pid <> $pid", 'it is started again');
like($node->safe_psql('other', 'SELECT start_webhook_worker()'), qr/^\d+$/, 'in another database as well');
await_workers($node, 'bot other', 'both run');
kill 'KILL', pid_in($node, 'bot');
await_workers($node, 'bot other', 'both come back after a crash');
$node->safe_psql('postgres', "LOAD 'wahook'; DROP DATABASE other");
$node->safe_psql('bot', "LOAD 'wahook'; DROP EXTENSION wahook");
await($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'wahook%'", 'with the extension it all goes, the launchers too');
$node->safe_psql('bot', 'CREATE EXTENSION wahook');
$node->stop;

done_testing();
