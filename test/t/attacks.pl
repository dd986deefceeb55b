# What attackers try who can do more than they should: names that are better than wahook's, in schemas that are searched
# before it or in its own; objects that lie in wait before it is installed; hostile text; settings; handlers.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha256_hex);
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $node = PostgreSQL::Test::Cluster->new('attacks');
$node->init;
$node->append_conf('postgresql.conf', "timezone = 'UTC'\nwahook.app_secret = 'K1ngfisher'\nlog_error_verbosity = terse\n");
$node->start;

sub sql { my ($sql, %parameters) = @_; return $node->safe_psql('postgres', $sql, %parameters) }

# Mallory is a client with every level, may create things beside wahook, and owns the database.
sql('CREATE ROLE mallory LOGIN; ALTER DATABASE postgres OWNER TO mallory;
	CREATE SCHEMA hook; GRANT ALL ON SCHEMA hook, public TO mallory');

# --- lying in wait

# Nothing of another's becomes part of the extension: where a name is taken, it is not installed at all.
sql('CREATE EXTENSION wahook SCHEMA hook');
my @taken = split /\n/, sql(q{
	SELECT CASE relkind WHEN 'v' THEN format('VIEW hook.%I AS SELECT 1', relname) WHEN 'S' THEN format('SEQUENCE hook.%I', relname)
			ELSE format('TABLE hook.%I ()', relname) END
		FROM pg_depend JOIN pg_class c ON classid = 'pg_class'::regclass AND objid = c.oid
		WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass AND relkind IN ('r', 'v', 'S') AND relnamespace = 'hook'::regnamespace
	UNION ALL SELECT format('DOMAIN hook.%I AS text', typname) FROM pg_type
		WHERE typtype = 'd' AND typnamespace = 'hook'::regnamespace
	UNION ALL SELECT format('FUNCTION %s RETURNS %s LANGUAGE sql AS ''SELECT NULL::%2$s''', p.oid::regprocedure, prorettype::regtype)
		FROM pg_proc p WHERE pronamespace = 'hook'::regnamespace AND NOT proretset AND prorettype::regtype::text !~ 'hook|trigger|^void$'
			AND p.oid::regprocedure::text !~ 'hook.*hook'});
sql('DROP EXTENSION wahook');
cmp_ok(scalar @taken, '>', 50, 'names to take');
my $adopted = '';
for my $object (@taken)
{
	my ($status, undef, $stderr) = $node->psql('postgres', "SET ROLE mallory; CREATE $object; RESET ROLE; CREATE EXTENSION wahook SCHEMA hook");
	$adopted .= "$object: $stderr\n" unless $status != 0 && $stderr =~ /already exists/;
	sql($object =~ /^FUNCTION (.*?) RETURNS/ ? "DROP FUNCTION $1" : 'DROP ' . ($object =~ s/( AS text| AS SELECT 1| \(\))$//r));
}
is($adopted, '', 'each of them keeps the extension from being installed');
is(sql("SELECT count(*) FROM pg_extension WHERE extname = 'wahook'"), '0', 'so it is not');

# --- shadows

# Operators and functions that are found before PostgreSQL's where search_path has evil first, and that tell whose rights
# they run with.
sql('CREATE SCHEMA evil AUTHORIZATION mallory');
sql(q{
	SET check_function_bodies = off;
	DO $do$
	DECLARE
		v_capture text := $body$ BEGIN IF pg_catalog.current_setting('evil.awake', true) OPERATOR(pg_catalog.=) 'yes' THEN RAISE LOG 'captured: % as %', %L, current_user; END IF; %s END $body$;
		v_types regtype[] := '{text,jsonb,uuid,timestamptz,interval,integer,bigint,boolean,double precision,numeric,name,text[],bigint[],uuid[],oid,record,anyelement,anyarray}';
		v record;
		v_count integer := 0;
	BEGIN
		FOR v IN SELECT oprname, oprleft::regtype AS l, oprright::regtype AS r, oprresult::regtype AS result FROM pg_catalog.pg_operator
			WHERE oprleft::regtype = ANY (v_types) AND oprright::regtype = ANY (v_types)
				AND 'record' <> ALL (ARRAY[oprleft::regtype, oprright::regtype]::text[])
				AND oprleft::regtype::text !~ '^any' AND oprright::regtype::text !~ '^any'
		LOOP
			v_count := v_count + 1;
			EXECUTE format('CREATE FUNCTION evil.op%s(a %s, b %s) RETURNS %s LANGUAGE plpgsql AS %L', v_count, v.l, v.r, v.result,
				replace(replace(v_capture, '%L', quote_literal(format('operator %s(%s, %s)', v.oprname, v.l, v.r))),
					'%s', format('RETURN a OPERATOR(pg_catalog.%s) b;', v.oprname)));
			EXECUTE format('CREATE OPERATOR evil.%s (FUNCTION = evil.op%s, LEFTARG = %s, RIGHTARG = %s)', v.oprname, v_count, v.l, v.r);
		END LOOP;
		FOR v IN SELECT p.proname, p.prorettype::regtype AS result, pronargs, pg_get_function_identity_arguments(p.oid) AS arguments,
				(SELECT string_agg('$' || n, ', ') FROM generate_series(1, pronargs) n) AS passed
			FROM pg_catalog.pg_proc p WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND NOT proretset AND provariadic = 0
				AND prorettype::regtype = ANY (v_types) AND prorettype::regtype::text !~ '^(any|record)'
				AND NOT EXISTS (SELECT FROM unnest(proargtypes) t WHERE t::regtype <> ALL (v_types) OR t::regtype::text ~ '^(any|record)')
				AND proname !~ '^(pg_|binary_upgrade|lo_|txid|.*(in|out|send|recv|sel)$)'
		LOOP
			EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', v.proname, v.arguments, v.result,
				replace(replace(v_capture, '%L', quote_literal('function ' || v.proname)),
					'%s', format('RETURN pg_catalog.%I(%s);', v.proname, v.passed)));
		END LOOP;
	END
	$do$;
});
cmp_ok(sql("SELECT count(*) FROM pg_operator WHERE oprnamespace = 'evil'::regnamespace"), '>', 150, 'operators to be captured by');
cmp_ok(sql("SELECT count(*) FROM pg_proc WHERE pronamespace = 'evil'::regnamespace AND proname !~ '^op[0-9]'"), '>', 500, 'functions');


# Overloads of wahook's own functions, in its own schema, each of which fits better where an argument is not of the very type
# that is declared, or is left to its default.
sql('CREATE EXTENSION wahook SCHEMA hook');
sql(q{SELECT hook.wahook_grant('mallory', level) FROM unnest('{service,admin}'::text[]) level});
sql(q{
	SET ROLE mallory;
	SET check_function_bodies = off;
	DO $do$
	DECLARE
		v record;
		v_types regtype[];
		v_other jsonb := '{"text": ["varchar", "name"], "integer": ["bigint", "smallint", "numeric"], "bigint": ["integer", "numeric"],
			"timestamp with time zone": ["timestamp", "date"], "interval": ["text"], "jsonb": ["json"], "uuid": ["text"],
			"regrole": ["oid", "text"], "boolean": ["integer"], "text[]": ["varchar[]"], "double precision": ["numeric", "integer"]}';
		v_name text;
		v_at integer;
	BEGIN
		FOR v IN SELECT p.oid, proname, proargtypes::oid[]::regtype[] AS types, pronargs, pronargdefaults FROM pg_depend JOIN pg_proc p ON p.oid = objid
			WHERE classid = 'pg_proc'::regclass AND deptype = 'e' AND pronamespace = 'hook'::regnamespace
		LOOP
			FOR n IN v.pronargs - v.pronargdefaults .. v.pronargs - 1 LOOP
				BEGIN
					EXECUTE format('CREATE FUNCTION hook.%I(%s) RETURNS text LANGUAGE plpgsql AS %L', v.proname,
						array_to_string(v.types[0:n - 1], ', '),
						format('BEGIN RAISE LOG ''captured: %s with %s arguments as %%'', current_user; RAISE EXCEPTION ''captured''; END', v.proname, n));
				EXCEPTION WHEN duplicate_function THEN
				END;
			END LOOP;
			FOR v_at IN 0 .. v.pronargs - 1 LOOP
				FOR v_name IN SELECT jsonb_array_elements_text(v_other -> v.types[v_at]::text) LOOP
					v_types := v.types;
					v_types[v_at] := v_name::regtype;
					BEGIN
						EXECUTE format('CREATE FUNCTION hook.%I(%s) RETURNS text LANGUAGE plpgsql AS %L', v.proname, array_to_string(v_types, ', '),
							format('BEGIN RAISE LOG ''captured: %s(%s) as %%'', current_user; RAISE EXCEPTION ''captured''; END', v.proname, array_to_string(v_types, ', ')));
					EXCEPTION WHEN duplicate_function THEN
					END;
				END LOOP;
			END LOOP;
		END LOOP;
	END
	$do$;
});
cmp_ok(sql(q{SELECT count(*) FROM pg_proc WHERE pronamespace = 'hook'::regnamespace AND proowner = 'mallory'::regrole}), '>', 150, 'overloads');

# All that wahook does, each call with its very types. The functions once more, whatever they make of it.
my $body = delivery(map { message("wamid.$_", "25078800000$_") } 1 .. 5);
my $signature = 'sha256=' . hmac_sha256_hex($body, 'K1ngfisher');
my @calls = (
	"SELECT * FROM hook.receive_webhook('$body'::text, '$signature'::text, NULL::uuid)",
	"SELECT * FROM hook.receive_webhook('$body'::text, '$signature'::text, NULL::uuid)",
	"SELECT * FROM hook.claim_conversations(2::integer, '00000000-0000-0000-0000-000000000001'::uuid, NULL::text, NULL::interval)",
	"SELECT hook.fail_webhook_message(conversation_id, '00000000-0000-0000-0000-000000000001'::uuid, whatsapp_message_id, 'no'::text, NULL::text, NULL::interval, true)
		FROM hook.processed_webhook_messages JOIN hook.webhook_conversations c ON c.id OPERATOR(pg_catalog.=) conversation_id
		WHERE locked_by IS NOT NULL LIMIT 1",
	"SELECT hook.complete_webhook_messages(id, locked_by, NULL::text[], NULL::integer, true) FROM hook.webhook_conversations WHERE locked_by IS NOT NULL",
	"SELECT * FROM hook.claim_conversations(2::integer, '00000000-0000-0000-0000-000000000002'::uuid, NULL::text, '1 second'::interval)",
	"INSERT INTO hook.webhook_conversations (id, user_id, whatsapp_phone) VALUES ('00000000-0000-0000-0000-000000000001', '250788000077', '250788000077')",
	"UPDATE hook.webhook_conversations SET status = 'processing', locked_by = '00000000-0000-0000-0000-000000000003', locked_at = '2020-01-01'",
	"INSERT INTO hook.webhook_dlq (payload, error, whatsapp_message_id, next_retry_at) VALUES ('{}', 'no', 'default', '2020-01-01')",
	"INSERT INTO hook.wa_dead_letter_queue (message_id, from_number, payload) VALUES ('other', '1', '{}') ON CONFLICT (message_id) DO UPDATE SET retry_count = 1",
	"UPDATE hook.webhook_dlq SET next_retry_at = '2020-01-01'",
	'SELECT hook.process_dead_letter_queue(50::integer)',
	'SELECT hook.cleanup_stuck_webhook_conversations()',
	'SELECT hook.apply_webhook_retention(1::integer)',
	"SELECT hook.cleanup_stale_sessions('1 hour'::interval)",
	(map { "SELECT hook.run_webhook_job('$_'::text)" } split /\n/, sql('SELECT job FROM hook.webhook_job_list()')),
	(split /\n/, sql('SELECT command FROM hook.webhook_job_list() UNION ALL SELECT by_worker FROM hook.webhook_job_list() WHERE by_worker IS NOT NULL
		UNION ALL SELECT command FROM hook.webhook_cron_jobs()')),
	(map { "SELECT * FROM hook.$_" } split /\n/, sql(q{SELECT object_name FROM hook.webhook_privileges() WHERE kind = 'view'})),
	split /\n/, sql(q{
		SELECT format('SELECT * FROM hook.%I(%s)', proname, (SELECT string_agg(format('%L::%s', CASE t::regtype::text
			WHEN 'uuid' THEN '00000000-0000-0000-0000-000000000001' WHEN 'uuid[]' THEN '{00000000-0000-0000-0000-000000000001}' WHEN 'text' THEN 'default'
			WHEN 'text[]' THEN '{default}' WHEN 'integer' THEN '1' WHEN 'bigint' THEN '1' WHEN 'bigint[]' THEN '{1}' WHEN 'interval' THEN '1 minute'
			WHEN 'jsonb' THEN '{}' WHEN 'boolean' THEN 'true' WHEN 'timestamp with time zone' THEN 'now' WHEN 'double precision' THEN '1'
			WHEN 'regrole' THEN 'mallory' WHEN 'regprocedure' THEN 'pg_catalog.jsonb_typeof(jsonb)' WHEN 'numeric' THEN '1' END, t::regtype), ', ' ORDER BY n)
			FROM unnest(proargtypes) WITH ORDINALITY x(t, n)))
		FROM pg_depend JOIN pg_proc p ON p.oid = objid
		WHERE classid = 'pg_proc'::regclass AND deptype = 'e' AND pronamespace = 'hook'::regnamespace AND prorettype <> 'trigger'::regtype
			AND proname !~ '^(wahook_revoke$|start_)' ORDER BY proname = 'wahook_grant', proname}));
# What pg_temp holds is found by its name alone: tables of both wahook's names and PostgreSQL's.
my $temp = join '', map { "CREATE TEMP TABLE $_ ();" } qw(webhook_dlq webhook_conversations webhook_inbox webhook_services pg_extension pg_roles pg_class pg_type pg_policy);

sub captured
{
	my ($who) = @_;
	my $offset = -s $node->logfile;
	my ($file, $out) = (PostgreSQL::Test::Utils::tempdir() . "/$who.sql") x 2;
	append_to_file($file, join ";\n", "SET ROLE $who", $temp, "SET search_path = evil, pg_catalog, hook", "SET evil.awake = 'yes'", "SET statement_timeout = '1min'", @calls, '');
	my ($stdout, $stderr);
	run_log([ 'psql', '-Xq', '-d', $node->connstr('postgres'), '-f', $file ], '>', \$stdout, '2>', \$stderr);
	note $stderr;
	return slurp_file($node->logfile, $offset);
}
for my $who ('mallory', 'postgres')
{
	my $log = captured($who);
	my %captured = map { $_ => 1 } grep { !/ as mallory/ } $log =~ /captured: (.*)/g;
	is(join("\n", sort keys %captured), '', "nothing is captured of what $who calls");
	unlike($log, qr/XX000|TRAP|PANIC|terminated by signal/, 'and nothing breaks');
}
done_testing();
