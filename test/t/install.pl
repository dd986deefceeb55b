# The extension comes and goes: into a schema with as odd a name as PostgreSQL lets an extension have, where everything works, and out again
# with nothing left in the catalog.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $node = PostgreSQL::Test::Cluster->new('install');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum = off\n");
$node->start;
my $schema = '"Wa hook, 100%s; @é"';
my @levels = qw(service monitor admin personal_data);
$node->safe_psql('postgres', "CREATE SCHEMA $schema; GRANT USAGE ON SCHEMA $schema TO PUBLIC;" . join '',
	map { "CREATE ROLE $_; GRANT USAGE ON SCHEMA $schema TO $_;" } @levels);

# Every row of the catalog: by its oid, or as a whole where it has none. Not statistics, which ANALYZE writes.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION catalog_rows() RETURNS TABLE (catalog text, entry text) LANGUAGE plpgsql AS $$
DECLARE
	v_catalog record;
BEGIN
	FOR v_catalog IN
		SELECT c.relname, EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'oid' AND attnum > 0) AS has_oid
		FROM pg_class c WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r'
			AND relname NOT LIKE 'pg_statistic%' AND relname <> 'pg_largeobject'
	LOOP
		RETURN QUERY EXECUTE format('SELECT %L, %s FROM pg_catalog.%I t', v_catalog.relname,
			CASE WHEN v_catalog.has_oid THEN 'oid::text' ELSE 't::text' END, v_catalog.relname);
	END LOOP;
END
$$;
SQL
$node->safe_psql('postgres', 'CREATE TABLE before AS SELECT * FROM catalog_rows() WHERE false; INSERT INTO before SELECT * FROM catalog_rows()');

sub is_gone
{
	my ($name) = @_;
	is($node->safe_psql('postgres', q{
		(TABLE before EXCEPT SELECT * FROM catalog_rows()) UNION ALL (SELECT * FROM catalog_rows() EXCEPT TABLE before) LIMIT 20}), '', $name);
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), '0', '... and no lock');
}

sub in_schema { return $node->safe_psql('postgres', "SET search_path = $schema; $_[0]") }

$node->safe_psql('postgres', "CREATE EXTENSION wahook SCHEMA $schema");
isnt($node->safe_psql('postgres', 'SELECT count(*) FROM catalog_rows() EXCEPT SELECT count(*) FROM before'), '', 'the extension is in the catalog');
in_schema("SELECT wahook_grant('$_', '$_')") for @levels;

# Everything that a level may call without an argument, as a superuser, who may call all of it.
my @functions = split /\n/, in_schema(q{SELECT proname FROM webhook_privileges() p JOIN pg_proc ON proname = object_name
	WHERE kind = 'function' AND coalesce(service, monitor, admin) IS NOT NULL AND pronargs = pronargdefaults
		AND pronamespace::regnamespace::text = quote_ident(current_schema) AND prorettype <> 'trigger'::regtype
		AND proname NOT IN ('schedule_webhook_jobs', 'unschedule_webhook_jobs', 'webhook_require_cron', 'webhook_metrics_reset') ORDER BY 1});
cmp_ok(scalar @functions, '>', 10, 'functions that need no argument');
for my $function (@functions)
{
	my $stderr;
	is($node->psql('postgres', "SET search_path = $schema; SELECT * FROM $function()", stderr => \$stderr), 0, $function) or diag $stderr;
}

# The rest by what a client does with a message.
my $body = delivery(message('wamid.1', '250788000001'), message('wamid.2', '250788000001'), message('wamid.3', '250788000002'));
is(in_schema("SET ROLE service; SELECT count(*) FROM receive_webhook('$body') WHERE outcome = 'accepted'"), '3', 'messages come in');
is(in_schema(q{SET ROLE service;
	SELECT (fail_webhook_message(conversation_id, lock_id, 'wamid.1', 'boom', p_retry_after => '0')).resolution_status,
		complete_webhook_messages(conversation_id, lock_id) FROM claim_conversations()}), 'pending|1', 'one fails, one is completed');
in_schema('SELECT process_dead_letter_queue()');
is(in_schema(q{SET ROLE service; SELECT m ->> 'whatsapp_message_id', m ->> 'attempt' FROM claim_conversations(10), jsonb_array_elements(messages) m ORDER BY 1}),
	"wamid.1|2\nwamid.3|1", 'the failed one comes again');
in_schema(q{
	SET session_replication_role = replica;
	UPDATE processed_webhook_messages SET received_at = now() - interval '1 year', processed_at = now() - interval '1 year';
	UPDATE webhook_conversations SET last_activity_at = now() - interval '1 year';
	RESET session_replication_role;
	SELECT apply_webhook_retention(), cleanup_stuck_webhook_conversations(), cleanup_stale_sessions()});

# What users keep in it goes with it; a role, and what it may elsewhere, stays.
$node->safe_psql('postgres', 'DROP EXTENSION wahook');
is_gone('nothing is left');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_db_role_setting'), '0', '... and no setting of a database or role');

# And again, in a transaction that is rolled back; and once more in one that is not, in another schema.
$node->safe_psql('postgres', "BEGIN; CREATE EXTENSION wahook SCHEMA $schema; ROLLBACK");
is_gone('nothing comes of a transaction that is rolled back');
$node->safe_psql('postgres', "CREATE EXTENSION wahook; SELECT receive_webhook('$body'); DROP EXTENSION wahook");
is_gone('nothing is left of another one, in one session with it');

# A database in another encoding is told so.
my $stderr;
$node->safe_psql('postgres', q{CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
isnt($node->psql('latin', 'CREATE EXTENSION wahook', stderr => \$stderr), 0, 'a database that is not UTF8');
like($stderr, qr/needs a database with encoding UTF8, this one has LATIN1/, '... is refused');

$node->stop;
done_testing();
