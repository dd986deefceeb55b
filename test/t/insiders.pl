# What those try who have been let in: settings that are a superuser's, hostile text, handlers that want more rights, a trigger
# on a table of wahook's, and the places where secrets and queries of others can be read.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha256_hex);
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $node = new_node('insiders', "wahook.app_secret = 'K1ngfisher'", "wahook.require_signature = on",
	"shared_preload_libraries = 'pg_stat_statements'", 'statement_timeout = 1min');

sub sql { return $node->safe_psql('postgres', @_) }

# As a role: what it printed, and the error.
sub as
{
	my ($role, $statements) = @_;
	my ($status, $stdout, $stderr) = $node->psql('postgres', "SET SESSION AUTHORIZATION $role; $statements", extra_params => ['-v', 'VERBOSITY=verbose']);
	return "$stdout$stderr";
}

sql(q{
	CREATE ROLE client LOGIN; CREATE ROLE watcher LOGIN; CREATE ROLE operator LOGIN; CREATE ROLE stranger LOGIN;
	SELECT wahook_grant('client', 'service'), wahook_grant('watcher', 'monitor'), wahook_grant('operator', 'admin');
	CREATE SCHEMA app; GRANT ALL ON SCHEMA app TO operator});

# --- settings, given a value before the library is there to say that they are a superuser's

my $body = delivery(message('wamid.1', '250788000001'));
my $receive = "SELECT outcome FROM receive_webhook('$body', 'sha256=" . hmac_sha256_hex($body, 'mine') . "')";
like(as('client', "SET wahook.app_secret = 'mine'; $receive"), qr/WH001/, 'nobody verifies with a secret of their own');
like(as('client', "SET wahook.app_secret = ''; SET wahook.require_signature = off; SELECT outcome FROM receive_webhook('$body')"),
	qr/WH001/, 'or goes without');
like(as('client', "SET wahook.max_body_size = 1; $receive"), qr/WH001/, 'or sets limits');
like(as('client', "LOAD 'wahook'; SET wahook.app_secret = 'mine'"), qr/42501/, 'later it is an error');
like(as('client', "ALTER ROLE client SET wahook.app_secret = 'mine'"), qr/42501|WH001|^$/, 'and what a role sets for itself');
like(as('client', $receive), qr/WH001/, 'has no effect');

# --- hostile text, to each function that takes any

my @texts = ("'; DROP TABLE webhook_dlq; --", '$$; SELECT 1; $$', '%s%n%I%L%1$s%', '\\', '\\x', 'E\\\'', '(((((', '(a+)+$', '[', '*', '{}', '{"a":', '{1,2', 'null',
	"\x{1}\x{7f}", 'pg_catalog', '"', "line\nbreak", '..', '-1', '1e400', 'x' x 300_000, "'" x 1000, '%' x 1000, '%\\', "\xc3\xa9\xf0\x9f\x98\x80" x 1000);
my $quote = sub { my ($text) = @_; $text =~ s/'/''/g; $text =~ s/\\/\\\\/g; $text =~ s/\n/\\n/g; return "E'$text'" };
# Each argument of a type that takes text is hostile in its turn, and all at once; the others are null, or of no consequence.
my @functions = split /\n/, sql(q{
	SELECT proname || '|' || oidvectortypes(proargtypes) FROM webhook_privileges() w
		JOIN pg_proc p ON proname = object_name AND pronamespace = 'public'::regnamespace
	WHERE w.admin IS NOT NULL AND prorettype <> 'trigger'::regtype AND proname !~ '^start_' AND oidvectortypes(proargtypes) ~ 'text|json|bytea|reg'});
my @statements;
for my $function (@functions)
{
	my ($name, $types) = split /\|/, $function;
	my @types = split /, /, $types;
	my @open = grep { $types[$_] =~ /^(text|jsonb|bytea|text\[\]|reg\w+)$/ } 0 .. $#types;
	for my $text (@texts)
	{
		for my $at (map({ [$_] } @open), @open > 1 ? [@open] : ())
		{
			my @arguments = map { my $type = $_; "NULL::$type" } @types;
			for my $n (@$at)
			{
				my $value = $quote->($text);
				$arguments[$n] = $types[$n] eq 'jsonb' ? "jsonb_build_object($value, ARRAY[$value])" : $types[$n] eq 'text[]' ? "ARRAY[$value, NULL]"
					: $types[$n] eq 'bytea' ? "convert_to($value, 'UTF8')" : "$value\::$types[$n]";
			}
			push @statements, "SELECT * FROM $name(" . join(', ', @arguments) . ')';
		}
	}
}
cmp_ok(scalar @statements, '>', 1000, 'calls with hostile text');
my $file = PostgreSQL::Test::Utils::tempdir() . '/hostile.sql';
append_to_file($file, join ";\n", 'SET SESSION AUTHORIZATION operator', @statements, '');
my $tables = sql('SELECT count(*) FROM pg_class');
my $stderr;
run_log([ 'psql', '-Xq', '-v', 'VERBOSITY=sqlstate', '-d', $node->connstr('postgres'), '-f', $file ], '>', '/dev/null', '2>', \$stderr);
my %states;
$states{$2} //= $1 while $stderr =~ /hostile.sql:(\d+): ERROR:  (\w{5})/g;
cmp_ok(scalar keys %states, '>', 4, 'many of which are refused');
# Arguments (22), pg_cron and secrets that are not there (WH006), names that are not (42704, 42883, 3F000): never a syntax error,
# a missing relation, or an internal one. 42601 and 42602 are how PostgreSQL refuses the name of a function or role.
my %expected = map { $_ => 1 } qw(22004 22023 22025 2201B 22P02 23502 23514 23505 42501 42602 42704 42883 55P03 WH001 WH003 WH004 WH006 WH007 WH009);
is(join("\n", map { "$_: $statements[$states{$_} - 2]" =~ s/(.{300}).*/$1/sr } grep { !$expected{$_} } sort keys %states), '', 'each with an error that says so');
is(sql('SELECT count(*) FROM pg_class'), $tables, 'nothing is created or dropped');


# --- handlers: they run as the role that registered them, and can't get out of it

my @escapes = (
	'RESET ROLE', 'SET ROLE postgres', 'SET SESSION AUTHORIZATION DEFAULT', 'SET SESSION AUTHORIZATION postgres', "SELECT set_config('role', 'none', false)",
	"SELECT set_config('session_authorization', 'postgres', false)", 'COMMIT', 'ROLLBACK', 'SELECT * FROM webhook_service_secrets', 'SELECT * FROM pg_authid',
	"SELECT wahook_grant('operator', 'admin')", "SET wahook.app_secret = 'mine'", 'SET wahook.log_events = none', "COPY app.tried TO '/tmp/tried'",
	"COPY app.tried TO PROGRAM 'true'", 'ALTER TABLE webhook_dlq DISABLE ROW LEVEL SECURITY', 'LISTEN x', 'CREATE TEMP TABLE x ()',
	"UPDATE webhook_services SET run_as = 'postgres' WHERE name = 'default'",
	# What would run later, when the job is itself again.
	'DECLARE later CURSOR WITH HOLD FOR SELECT app.note(0)', 'INSERT INTO app.later VALUES (1)');
sql(q{
	SET ROLE operator;
	CREATE TABLE app.tried (statement text, result text);
	CREATE TABLE app.ran_as (name text);
	CREATE FUNCTION app.note(integer) RETURNS integer LANGUAGE sql AS 'INSERT INTO app.ran_as VALUES (current_user) RETURNING 1';
	CREATE TABLE app.later (i integer);
	CREATE FUNCTION app.later() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM app.note(1); RETURN NULL; END';
	CREATE CONSTRAINT TRIGGER later AFTER INSERT ON app.later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.later();
	CREATE FUNCTION app.handle(p_message jsonb) RETURNS void LANGUAGE plpgsql AS $f$
	DECLARE
		v_statement text;
	BEGIN
		FOREACH v_statement IN ARRAY string_to_array(current_setting('app.escapes'), ';') LOOP
			BEGIN
				EXECUTE v_statement;
				INSERT INTO app.tried VALUES (v_statement, 'done');
			EXCEPTION WHEN OTHERS THEN
				INSERT INTO app.tried VALUES (v_statement, SQLSTATE);
			END;
		END LOOP;
		PERFORM app.note(2);
		PERFORM set_config('search_path', 'app', false), set_config('statement_timeout', '0', false);
	END
	$f$;
	UPDATE public.webhook_services SET handler = 'app.handle' WHERE name = 'default';
	SELECT add_to_dead_letter_queue('{}', 'no', p_delay => '0')});
my $settings = sql("SET app.escapes = '" . join(';', map { s/'/''/gr } @escapes) . "'; SELECT process_dead_letter_queue() ->> 'successful';
	SELECT current_user, current_setting('search_path'), current_setting('statement_timeout')");
is($settings, "1\npostgres|\"\$user\", public|1min", 'a handler has run, and left the settings of its caller alone');
is(sql("SELECT count(*) FROM app.tried"), scalar @escapes, 'and has tried all');
is(sql("SELECT string_agg(DISTINCT name, ',') FROM app.ran_as"), 'operator', 'as the role that registered it');
is(sql("SELECT string_agg(statement, '; ') FROM app.tried WHERE result = 'done'"), '', 'it has got nowhere');

# --- a trigger on a table of wahook's: only its owner can put one there, and it runs with the owner's rights

like(as('operator', 'CREATE TRIGGER mine AFTER INSERT ON webhook_inbox FOR EACH ROW EXECUTE FUNCTION app.later()'), qr/42501/, 'an operator puts no trigger there');
like(as('operator', 'CREATE RULE mine AS ON INSERT TO webhook_dlq DO ALSO SELECT app.note(3)'), qr/42501/, 'nor a rule');
sql('TRUNCATE app.ran_as; CREATE TRIGGER mine AFTER INSERT ON webhook_inbox FOR EACH ROW EXECUTE FUNCTION app.later()');
as('client', "SELECT outcome FROM receive_webhook('$body', 'sha256=" . hmac_sha256_hex($body, 'K1ngfisher') . "')");
is(sql('SELECT name FROM app.ran_as'), 'postgres', 'the trigger that the owner puts there runs as the owner, whoever wrote its function');
sql('DROP TRIGGER mine ON webhook_inbox');

# --- where others' secrets and queries can be read

sql(q{INSERT INTO webhook_services (name) VALUES ('secretive'); INSERT INTO webhook_service_secrets (service, bearer_token) VALUES ('secretive', 'K1ngfisher-token')});
for my $role ('client', 'watcher', 'operator', 'stranger')
{
	like(as($role, 'TABLE webhook_service_secrets'), qr/42501/, "$role reads no secrets of services");
	unlike(as($role, "SELECT * FROM pg_stat_activity; SELECT * FROM pg_settings; SHOW ALL; LOAD 'wahook'; SHOW ALL; SELECT * FROM pg_db_role_setting; SELECT * FROM pg_stats"),
		qr/K1ngfisher/, "or any other, in PostgreSQL's views");
	my ($stdout, $stderr);
	ok(!run_log([ 'pg_dump', '--no-sync', '--table', 'webhook_service_secrets', '-d', $node->connstr('postgres') . " user=$role" ], '>', \$stdout, '2>', \$stderr)
		|| $stdout !~ /K1ngfisher/, 'or in a dump');
}

# --- an operator has the token sent to a host of their own

my $token = "SELECT bearer_token FROM webhook_service_secrets WHERE service = 'secretive'";
for my $url ('https://bot.example.com/a', 'https://bot.example.com/b?x', 'HTTPS://BOT.example.com')
{
	is(as('operator', "SELECT register_webhook_service('secretive', p_url => '$url')") . sql($token), 'K1ngfisher-token', "the token stays with its host: $url");
}
for my $change ("register_webhook_service('secretive', p_url => 'https://bot.example.com.evil.example/b')",
	"register_webhook_service('secretive', p_url => 'https://bot.example.com:8443/b')", "register_webhook_service('secretive', p_url => 'http://bot.example.com/b', p_allow_http => true)",
	"register_webhook_service('secretive', 'app.handle(jsonb)')")
{
	sql("SELECT register_webhook_service('secretive', p_url => 'https://bot.example.com/a'), set_webhook_service_secrets('secretive', 'K1ngfisher-token')");
	like(as('operator', "SELECT $change"), qr/WARNING: .*bearer token of service "secretive" is removed/s, "it does not go with $change");
	is(sql($token), '', 'and is gone');
}
sql("SELECT set_webhook_service_secrets('secretive', 'K1ngfisher-token')");

# --- what is kept of statements

# Statements that set a secret as a value of a query do not show it afterwards; ALTER SYSTEM does.
sql('CREATE EXTENSION pg_stat_statements');
unlike(sql('SELECT query FROM pg_stat_statements'), qr/K1ngfisher-token/, 'pg_stat_statements has the statement without the secret');


# --- the same handler, in a process of the worker's, which is connected as a superuser

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'wahook, pg_stat_statements'\napp.escapes = '" . join(';', map { s/'/''/gr } @escapes) . "'\n");
$node->restart;
sql('TRUNCATE app.tried, app.ran_as');
my $second = delivery(map { message("wamid.worker$_", '250788000002') } 1, 2);
as('client', "SELECT outcome FROM receive_webhook('$second', 'sha256=" . hmac_sha256_hex($second, 'K1ngfisher') . "')");
await($node, "SELECT count(*) = 2 FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'wamid.worker%' AND processed_at IS NOT NULL", 'the handler processes');
# And with one that waited from before.
cmp_ok(sql('SELECT count(*) FROM app.tried'), '>=', 2 * @escapes, 'in a handler process, all is tried with each message');
is(sql("SELECT string_agg(DISTINCT name, ',') FROM app.ran_as"), 'operator', 'as the role that registered it');
is(sql("SELECT string_agg(statement, '; ') FROM app.tried WHERE result = 'done'"), '', 'and gets nowhere');

done_testing();
