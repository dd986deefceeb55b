# Behind PgBouncer in transaction mode: each transaction of a client may run in another session of the server, which other clients use in between.
# Twenty clients share two such sessions, by the simple and by the extended protocol; what one leaves in a session must not reach the next.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;
use Wahook;

$ENV{PATH} .= ':/usr/sbin';
my $clients = 20;
my $transactions = 30; # of each client

my $node = new_node('pgbouncer');
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE bot LOGIN;
SELECT wahook_grant('bot', 'service');
CREATE TABLE work (id text, lock_token bigint, place bigint);
GRANT ALL ON work TO bot;

CREATE FUNCTION delivery(p_id text, p_user integer) RETURNS text LANGUAGE sql
	RETURN format('{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"messages","value":'
		'{"metadata":{"phone_number_id":"1001"},"messages":[{"from":"%s","id":"%s","timestamp":"1700000000","type":"text",'
		'"text":{"body":"hello"}}]}}]}]}', 1000 + p_user, p_id);

-- The lock id of a client's claim.
CREATE FUNCTION lock_id(p_client integer, p_n integer) RETURNS uuid LANGUAGE sql
	RETURN lpad(format('%s%s', to_hex(p_client + 1), lpad(to_hex(p_n), 6, '0')), 32, '0')::uuid;

-- The messages are kept by the claim's transaction, as a client would keep them in its memory.
CREATE TABLE claimed (lock_id uuid, id text, lock_token bigint, place bigint);
GRANT ALL ON claimed TO bot;
CREATE FUNCTION claim(p_client integer, p_n integer) RETURNS bigint LANGUAGE sql AS $$
	WITH kept AS (
		INSERT INTO claimed SELECT lock_id, m ->> 'whatsapp_message_id', lock_token, place
			FROM claim_conversations(3, lock_id(p_client, p_n)) CROSS JOIN jsonb_array_elements(messages) WITH ORDINALITY AS a (m, place)
			RETURNING 1)
	SELECT count(*) FROM kept
$$;
CREATE FUNCTION finish(p_client integer, p_n integer) RETURNS integer LANGUAGE sql AS $$
	INSERT INTO work SELECT id, lock_token, place FROM claimed WHERE lock_id = lock_id(p_client, p_n);
	SELECT complete_conversations(array_agg(id), lock_id(p_client, p_n)) FROM webhook_conversations
		WHERE locked_by = lock_id(p_client, p_n) HAVING count(*) > 0
$$;
SQL

# --- the pooler

my $dir = PostgreSQL::Test::Utils::tempdir();
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $config = "$dir/pgbouncer.ini";
my $pooled = "host=$dir port=$port dbname=postgres";

sub configure
{
	my ($reset_always) = @_;
	open my $file, '>', $config or die;
	print $file <<"INI";
[databases]
postgres = host=@{[$node->host]} port=@{[$node->port]} dbname=postgres user=bot

[pgbouncer]
pool_mode = transaction
default_pool_size = 2
max_client_conn = 100
auth_type = any
listen_addr =
listen_port = $port
unix_socket_dir = $dir
admin_users = pooler
logfile = $dir/pgbouncer.log
pidfile = $dir/pgbouncer.pid
server_reset_query_always = $reset_always
INI
	close $file;
}

configure(0);
my $pooler = IPC::Run::start([ 'pgbouncer', '-q', $config ], '<', '/dev/null', '>', "$dir/out", '2>', "$dir/err");
END { $pooler->kill_kill if $pooler }

sub pooled_psql
{
	my ($sql, $database) = @_;
	my ($out, $err);
	IPC::Run::run([ 'psql', '-XqAt', '-U', $database ? 'pooler' : 'bot', '-d', $database ? "host=$dir port=$port dbname=$database" : $pooled, '-c', $sql ],
		'<', '/dev/null', '>', \$out, '2>', \$err);
	chomp($out, $err);
	return $err eq '' ? $out : "error: $err";
}

my $tries = 0;
while (pooled_psql('SELECT 1') ne '1')
{
	BAIL_OUT('PgBouncer does not start: ' . slurp_file("$dir/err")) if $tries++ > 600;
	Time::HiRes::usleep(100_000);
}

# --- the load

my $first = 0; # messages have ids of their own in each run

sub load
{
	my ($protocol, $name) = @_;
	my $script = "$dir/$protocol$first";
	append_to_file($script, <<"SQL");
\\set n :n + 1
\\set user random(1, 12)
SELECT count(*) FROM receive_webhook(delivery(:client_id || '-' || :n, :user));
SELECT claim(:client_id, :n);
BEGIN;
SELECT finish(:client_id, :n);
COMMIT;
SQL
	command_ok(
		[ 'pgbench', '--no-vacuum', '--username', 'bot', '--client', $clients, '--jobs', 2, '--protocol', $protocol,
			'--transactions', $transactions, '--define', "n=$first", '--file', $script, $pooled ],
		$name);
	$first += $transactions;
	# What came while its conversation was locked.
	my $n = 900_000 + $first;
	while (pooled_psql("SELECT claim(0, $n)") ne '0') { pooled_psql("SELECT finish(0, $n)"); $n++; }
	is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT id) FROM work'), join('|', ($clients * $first) x 2),
		'... and every message is processed once');
	is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM webhook_inbox), count(*) FROM webhook_delivery_attempts WHERE attempt > 1'), '0|0',
		'... none waits, and none needed another attempt');
}

# What a session has beyond what it was given.
my $state = q{SELECT pg_backend_pid(), (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_cursors),
	pg_my_temp_schema(), (SELECT count(*) FROM pg_listening_channels()),
	(SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),
	(SELECT string_agg(name, ' ') FROM pg_settings WHERE source = 'session'
		AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')),
	current_setting('search_path'), current_user};

# Of both sessions. The second is asked while a transaction holds the first, or the pooler would give the same one twice.
sub is_clean
{
	my ($name) = @_;
	open my $file, '>', "$dir/state.sql" or die;
	print $file $state;
	close $file;
	my $out = '';
	IPC::Run::run([ 'psql', '-XqAt', '-U', 'bot', '-d', $pooled, '-c', 'BEGIN', '-f', "$dir/state.sql",
			'-c', "\\! psql -XqAt -U bot -d '$pooled' -f $dir/state.sql", '-c', 'COMMIT' ],
		'<', '/dev/null', '>', \$out, '2>&1');
	my %sessions = map { /^(\d+)\|(.*)/ ? ($1 => $2) : (0 => $_) } split /\n/, $out;
	is_deeply([ values %sessions ], [ ('0|0|0|0|0||"$user", public|bot') x 2 ], $name) or diag $out;
	return join ' ', sort keys %sessions;
}

my $sessions = is_clean('two sessions of the server, as they were given');
load('simple', 'twenty clients in two sessions, by the simple protocol');
load('extended', '... and by the extended one');
is(is_clean('they have nothing that they did not have'), $sessions, 'and are the same two');

# The two sessions have seen the extension that goes, and its plans.
$node->safe_psql('postgres', 'DROP EXTENSION wahook CASCADE');
like(pooled_psql(q{SELECT * FROM claim_conversations(1)}), qr/does not exist/, 'the extension is dropped');
$node->safe_psql('postgres', <<'SQL');
CREATE SCHEMA hook;
CREATE EXTENSION wahook SCHEMA hook;
SELECT hook.wahook_grant('bot', 'service');
ALTER DATABASE postgres SET search_path = "$user", public, hook;
TRUNCATE work, claimed;
SQL
is(pooled_psql('SET search_path = "$user", public, hook; SELECT outcome FROM receive_webhook(delivery(\'again\', 1)); RESET search_path'), 'accepted',
	'it is created anew in another schema, and the same sessions use it');
is(is_clean('they are as they were given'), $sessions, 'they are still the same two');

# Where the pooler discards all that a session has after each transaction, plans and caches too.
$node->safe_psql('postgres', q{TRUNCATE work, claimed; DROP EXTENSION wahook; CREATE EXTENSION wahook; SELECT wahook_grant('bot', 'service');
	ALTER DATABASE postgres RESET search_path});
configure(1);
is(pooled_psql('RELOAD', 'pgbouncer'), '', 'DISCARD ALL after each transaction');
$first = 0;
load('extended', 'twenty clients in two sessions that forget');
is(is_clean('they have nothing that they did not have'), $sessions, 'and are the same two');
unlike(slurp_file($node->logfile), qr/deadlock detected|PANIC|terminated by signal/, 'no deadlock, no crash');

$pooler->kill_kill;
undef $pooler;
done_testing();
