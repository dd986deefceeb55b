# Calls through a REST layer: each function that the service level may call works as rpc, as a role that has nothing but
# that level, with the extension's schema not in the search_path; and the examples of doc/rest.md print what is shown.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Edge;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('rest');
$node->init;
$node->append_conf('postgresql.conf', q{
timezone = 'UTC'
listen_addresses = '127.0.0.1'
wahook.app_secret = 'the-app-secret'
wahook.verify_token = 'the-token'
});
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE SCHEMA wahook_api;
CREATE EXTENSION wahook SCHEMA wahook_api;
CREATE ROLE web_service;
SELECT wahook_api.wahook_grant('web_service', 'service');
CREATE ROLE authenticator LOGIN NOINHERIT;
GRANT web_service TO authenticator;
SQL

# A REST layer tells functions apart by their names and the names of their arguments.
is($node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT proname FROM pg_proc
	WHERE pronamespace = 'wahook_api'::regnamespace GROUP BY 1 HAVING count(*) > 1) overloaded}), '0', 'no name is there twice');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_proc
	WHERE pronamespace = 'wahook_api'::regnamespace AND pronargs > 0 AND prorettype <> 'trigger'::regtype
	AND (proargnames IS NULL OR '' = ANY (proargnames[1:pronargs]))}), '0', 'every argument has a name');

my $functions = $node->safe_psql('postgres', q{SELECT string_agg(proname, ',' ORDER BY proname) FROM pg_proc
	WHERE pronamespace = 'wahook_api'::regnamespace AND has_function_privilege('web_service', oid, 'EXECUTE')});
my ($out, $err) = ('', '');
my $ok = IPC::Run::run([ 'node', Edge::root() . '/test/edge/rest-examples.mjs',
	'postgres://authenticator@127.0.0.1:' . $node->port . '/postgres', 'wahook_api', 'web_service', 'the-app-secret',
	Edge::root() . '/doc/rest.md', $functions, $ENV{WAHOOK_FIX} ? '--fix' : () ], '>', \$out, '2>', \$err);
ok($ok, 'the examples print what is shown, and every function can be called');
diag($err) if $err ne '';

my %uncalled = map { $_ => 1 } split /,/, $functions;
delete $uncalled{$_} for split /\n/, $out;
note('without an example: ', join ' ', sort keys %uncalled);
done_testing();
