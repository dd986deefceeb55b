# On a standby the launcher waits. At promotion it starts, and the worker goes on with what the primary had begun.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;
use Wahook;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "shared_preload_libraries = 'wahook'\ntimezone = 'UTC'\n");
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION wahook');
await($primary, 'SELECT bool_and(coalesce(succeeded, false)) FROM webhook_jobs', 'the worker of the primary');
$primary->backup('backup');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

# What is due during the failover, and what is claimed then by a client that vanishes with the primary.
$primary->safe_psql('postgres', "SELECT * FROM receive_and_claim_webhook('" . delivery(message('due', '1')) . "') \\gset\n"
	. "SELECT fail_webhook_message(:'conversation_id', :'lock_id', 'due', 'no', p_retry_after => '2 s');\n"
	. "SELECT release_conversation_lock(:'conversation_id', :'lock_id');\n"
	. "SET wahook.lock_timeout = '1 s';\n"
	. "SELECT count(*) FROM receive_and_claim_webhook('" . delivery(message('claimed', '2')) . "');\n");
$primary->wait_for_catchup($standby);

my $ours = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'wahook%'};
is($standby->safe_psql('postgres', $ours), '0', 'a standby has neither launcher nor worker');
is($standby->safe_psql('postgres', 'SELECT count(*) > 0 AND bool_and(succeeded) FROM webhook_jobs WHERE last_run_at IS NOT NULL'), 't', 'but shows the jobs');
is($standby->safe_psql('postgres', q{SELECT h ->> 'status', h -> 'accepting', h -> 'circuits', jsonb_path_query_array(h, '$.reasons[*].reason') FROM webhook_health() h}),
	'down|false|null|["STANDBY"]', 'its health says what it is, and nothing else is wrong with it');
my (undef, undef, $stderr) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT start_webhook_worker()");
like($stderr, qr/25006: .*standby.*HINT/s, 'nor can one be started');
(undef, undef, $stderr) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT run_webhook_job('retention')");
like($stderr, qr/25006/, 'nor a job be run');

$primary->stop('immediate');
$standby->promote;
await($standby, "SELECT resolution_status = 'retrying' FROM webhook_dlq WHERE whatsapp_message_id = 'due'", 'after promotion the worker retries what is due');
$standby->safe_psql('postgres', "ALTER SYSTEM SET wahook.cleanup_interval = '1 s'");
$standby->reload;
await($standby, "SELECT locked_by IS NULL FROM webhook_conversations WHERE whatsapp_phone = '2'", 'and gives back what was lost');
is($standby->safe_psql('postgres', $ours), '2', 'a launcher and a worker');

# It can be a primary that stays read-only: then nothing is done until it may write, and that is said once.
$standby->append_conf('postgresql.conf', "default_transaction_read_only = on\n");
$standby->reload;
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if slurp_file($standby->logfile) =~ /WARNING:  wahook .*read-only transaction/;
	Time::HiRes::usleep(100_000);
}
is(scalar(() = slurp_file($standby->logfile) =~ /WARNING:  wahook .*read-only transaction/g), 1, 'read-only: said once');
my $runs = $standby->safe_psql('postgres', "SELECT runs FROM webhook_jobs WHERE job = 'cleanup-stuck-conversations'");
$standby->append_conf('postgresql.conf', "default_transaction_read_only = off\n");
$standby->reload;
await($standby, "SELECT runs > $runs FROM webhook_jobs WHERE job = 'cleanup-stuck-conversations'", 'and done again after a reload');
is(scalar(() = slurp_file($standby->logfile) =~ /PANIC|TRAP|WARNING:/g), 1, 'nothing else to tell of');
$standby->stop;
done_testing();
