# The contract's jobs in a real pg_cron: there once, taken out again, and what they run runs.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $extensions = `"\${PG_CONFIG:-pg_config}" --sharedir`;
chomp $extensions;
plan skip_all => 'pg_cron is not installed' unless -e "$extensions/extension/pg_cron.control";

my $node = PostgreSQL::Test::Cluster->new('jobs');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'pg_cron'
cron.use_background_workers = on
cron.database_name = 'postgres'
});
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION wahook');

# Without pg_cron in the database the error says what to do.
my (undef, undef, $stderr) = $node->psql('postgres',
	"\\set VERBOSITY verbose\nSELECT schedule_webhook_jobs()");
like($stderr, qr/WH006: .*not installed in database "postgres"/, 'refused without the extension');
like($stderr, qr/HINT: +CREATE EXTENSION pg_cron/, 'and says how to get it');

$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
$node->safe_psql('elsewhere', 'CREATE EXTENSION wahook');
(undef, undef, $stderr) = $node->psql('elsewhere', 'SELECT schedule_webhook_jobs()');
like($stderr, qr/keeps its jobs in database "postgres"/, 'in another database it says where pg_cron is');
like($stderr, qr/schedule_in_database\(.*'elsewhere'\)/, 'and how to schedule from there');

$node->safe_psql('postgres', 'CREATE EXTENSION pg_cron');
my $jobs = 'SELECT jobname, schedule, database FROM cron.job ORDER BY 1';
my $expected = join "\n",
	'cleanup-stuck-conversations|*/5 * * * *|postgres',
	'dlq-processor|*/5 * * * *|postgres',
	'session-cleanup|0 2 * * *|postgres';

is($node->safe_psql('postgres', 'SELECT count(*) FROM schedule_webhook_jobs()'), '3', 'schedules three');
is($node->safe_psql('postgres', $jobs), $expected, 'they are in pg_cron');
$node->safe_psql('postgres', 'SELECT schedule_webhook_jobs()');
is($node->safe_psql('postgres', $jobs), $expected, 'twice is once');

# Another superuser takes them over: they must not run twice.
$node->safe_psql('postgres', 'CREATE ROLE other SUPERUSER; SET ROLE other; SELECT schedule_webhook_jobs()');
is($node->safe_psql('postgres', $jobs), $expected, 'scheduled by another is once, too');
is($node->safe_psql('postgres', 'SELECT DISTINCT username FROM cron.job'), 'other', 'and theirs');

# Jobs of others stay, also those of the same name in other databases.
$node->safe_psql('postgres', q{
	SELECT cron.schedule('mine', '0 0 1 1 *', 'SELECT 1');
	SELECT cron.schedule_in_database('dlq-processor', '0 0 1 1 *', 'SELECT 1', 'elsewhere')});

# pg_cron looks at its jobs once a minute, too slow for a test: their commands are run as they stand.
for my $job (split /\n/, $node->safe_psql('postgres', q{SELECT jobname FROM cron.job WHERE database = 'postgres' AND jobname <> 'mine'}))
{
	my $command = $node->safe_psql('postgres', "SELECT command FROM cron.job WHERE jobname = '$job' AND database = 'postgres'");
	is($node->psql('postgres', $command), 0, "the command of $job runs");
}

is($node->safe_psql('postgres', 'SELECT unschedule_webhook_jobs()'), '3', 'unschedules three');
is($node->safe_psql('postgres', $jobs),
	"dlq-processor|0 0 1 1 *|elsewhere\nmine|0 0 1 1 *|postgres", 'only those');
is($node->safe_psql('postgres', 'SELECT unschedule_webhook_jobs()'), '0', 'and none twice');

$node->stop;
done_testing();
