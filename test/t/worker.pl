# The launcher and the workers of databases: they come and go with the extension, sleep while there is nothing to do, and
# come back after whatever ended them.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $node = PostgreSQL::Test::Cluster->new('worker');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'wahook'
timezone = 'UTC'
restart_after_crash = on
});
$node->start;

my $worker = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND datname = 'postgres'};

await($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'wahook launcher'}, 'the launcher runs');
$node->safe_psql('postgres', 'CREATE EXTENSION wahook');
await($node, "SELECT EXISTS ($worker)", 'a worker');
await($node, q{SELECT count(*) = 4 FROM webhook_jobs WHERE succeeded}, 'jobs ran');
is(1, 1);
print $node->safe_psql('postgres', 'TABLE webhook_jobs');
$node->stop;
print slurp_file($node->logfile);
done_testing();
