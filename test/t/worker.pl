# The worker of a database: it runs the jobs when they are due, sleeps while nothing is, and comes back after whatever ended
# it. Nothing here depends on how fast the machine is: what has to happen is waited for, and what must not happen is looked
# for after something later has happened.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use Wahook;

my $node = PostgreSQL::Test::Cluster->new('worker');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'wahook'
timezone = 'UTC'
restart_after_crash = on
max_prepared_transactions = 2
wahook.alert_interval = 0 # the look for alerts is by the clock; see alerts.pl
autovacuum = off # its workers would count as work in an idle database
});
$node->start;

sub pid_of
{
	my ($type) = @_;
	return $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'");
}

# The worker's process id, once it is another than this one.
sub await_worker
{
	my ($not) = @_;
	await($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND pid <> " . ($not // 0)
		. " AND state = 'idle'", 'a worker runs');
	return pid_of('wahook worker');
}

sub runs_of
{
	my ($job) = @_;
	return $node->safe_psql('postgres', "SELECT runs FROM webhook_jobs WHERE job = '$job'");
}

sub slurp_process
{
	my ($pid, $file) = @_;
	open my $fh, '<', "/proc/$pid/$file" or return '';
	local $/;
	return <$fh> // '';
}

# How often a process has gone to sleep, and for how long it has computed, in ticks.
sub sleeps_of { return slurp_process(shift, 'status') =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : undef }
sub ticks_of { my @stat = split / /, slurp_process(shift, 'stat') =~ s/^.*\) //sr; return $stat[11] + $stat[12] }

sub is_gone
{
	my ($pid) = @_;
	for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if slurp_process($pid, 'stat') eq '' || slurp_process($pid, 'stat') =~ /\) Z /;
		usleep 10_000;
	}
	return 0;
}

my $count_log = sub { my ($pattern) = @_; return scalar(() = slurp_file($node->logfile) =~ /$pattern/g) };

# --- It comes with the extension, and runs every job once.
await($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'wahook launcher'}, 'the launcher runs');
is(pid_of('wahook worker'), '', 'no worker where there is no extension');
$node->safe_psql('postgres', 'CREATE EXTENSION wahook');
my $worker = await_worker();
await($node, 'SELECT bool_and(coalesce(succeeded, false)) FROM webhook_jobs', 'all jobs have run');
is($node->safe_psql('postgres', 'SELECT job, every, runs, failures, next_run_at - last_run_at FROM webhook_jobs WHERE job IN '
		. "('cleanup-stuck-conversations', 'retention') ORDER BY job"),
	"cleanup-stuck-conversations|00:05:00|1|0|00:05:00\nretention|00:05:00|1|0|00:05:00", 'and are to run again in five minutes');
is($node->safe_psql('postgres', "SELECT extract(hour FROM next_run_at), next_run_at - last_run_at <= '1 day'"
		. " FROM webhook_jobs WHERE job = 'session-cleanup'"), '2|t', 'the sessions at two in the morning');
is($node->safe_psql('postgres', "SELECT next_run_at FROM webhook_jobs WHERE job = 'dlq-processor'"), '', 'the dead letters when there is one');

# --- A dead letter is retried at its time, and before that costs nothing: neither do a thousand that fail one by one.
sub receive
{
	my ($id, $from) = @_;
	return "SELECT * FROM receive_and_claim_webhook('" . delivery(message($id, $from)) . "') \\gset\n";
}
my $fail = "SELECT resolution_status FROM fail_webhook_message(:'conversation_id', :'lock_id', 'ID', 'no', p_retry_after => 'DELAY');\n"
	. "SELECT release_conversation_lock(:'conversation_id', :'lock_id');\n";
sub failing
{
	my ($id, $from, $delay) = @_;
	return receive($id, $from) . $fail =~ s/ID/$id/r =~ s/DELAY/$delay/r;
}

my $runs = runs_of('dlq-processor');
my $sleeps = sleeps_of($worker);
$node->safe_psql('postgres', join '', map { failing("later-$_", "1$_", '1 day') } 1 .. 300);
$node->safe_psql('postgres', failing('soon', '1', '0.5 s'));
await($node, "SELECT EXISTS (SELECT FROM webhook_inbox i JOIN processed_webhook_messages m ON m.id = i.message_id"
		. " WHERE m.whatsapp_message_id = 'soon' AND i.attempts = 1)", 'a dead letter is back in its queue');
is($node->safe_psql('postgres', "SELECT resolution_status FROM webhook_dlq WHERE whatsapp_message_id = 'soon'"), 'retrying', 'as one to be retried');
cmp_ok($node->safe_psql('postgres', "SELECT extract(epoch FROM r.last_started_at - d.created_at) >= 0.5 FROM webhook_job_runs r, webhook_dlq d"
		. " WHERE r.job = 'dlq-processor' AND d.whatsapp_message_id = 'soon'"), 'eq', 't', 'not before its time');
is(runs_of('dlq-processor') - $runs, 1, 'by one run, while 300 wait for tomorrow');
cmp_ok(sleeps_of($worker) - $sleeps, '<', 60, 'and the worker was hardly woken');

# By hand, as in the runbook: at once, although now() is over when the statement commits.
$node->safe_psql('postgres', "UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id = 'later-7'");
await($node, "SELECT resolution_status = 'retrying' FROM webhook_dlq WHERE whatsapp_message_id = 'later-7'", 'a retry by hand is at once');
# What is rolled back wakes nobody, and is not retried: the run for the next one finds nothing of it.
$runs = runs_of('dlq-processor');
$node->safe_psql('postgres', "BEGIN; UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id LIKE 'later-1_'; ROLLBACK");
$node->safe_psql('postgres', "UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id = 'later-6'");
await($node, "SELECT resolution_status = 'retrying' FROM webhook_dlq WHERE whatsapp_message_id = 'later-6'", 'the next one is retried');
is(runs_of('dlq-processor') - $runs, 1, 'by the only run');
# Also where another session commits it in the end.
$node->safe_psql('postgres', "BEGIN; UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id = 'later-8'; PREPARE TRANSACTION 'later'");
$node->safe_psql('postgres', "COMMIT PREPARED 'later'");
await($node, "SELECT resolution_status = 'retrying' FROM webhook_dlq WHERE whatsapp_message_id = 'later-8'", 'one that was prepared');

# The lease of a retrier that vanished ends: its entry is due again, after its delay.
$node->safe_psql('postgres', "SET wahook.lock_timeout = '1 s'; INSERT INTO webhook_dlq (payload, whatsapp_message_id, next_retry_at)"
	. " VALUES ('{}', 'direct', now() - interval '1 hour'); SELECT count(*) FROM get_retriable_messages()");
await($node, "SELECT resolution_status = 'pending' AND retry_count = 1 FROM webhook_dlq WHERE whatsapp_message_id = 'direct'",
	'a lease that ran out');

# --- Idle, it does nothing: no transaction in its database, however busy another is.
$node->safe_psql('postgres', 'CREATE DATABASE idle');
$node->safe_psql('idle', 'CREATE EXTENSION wahook');
await($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND datname = 'idle' AND state = 'idle'", 'a second worker');
$node->safe_psql('idle', "INSERT INTO webhook_dlq (payload, next_retry_at) SELECT '{}', now() + interval '1 day' FROM generate_series(1, 100000)");
$node->poll_query_until('idle', 'SELECT bool_and(coalesce(succeeded, false)) FROM webhook_jobs') or die;
my $transactions = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'idle'";
# The sessions of this test report what they did when they end.
await($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 'idle'", 'nobody else is there');
my $idle = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE datname = 'idle'");
my ($before, $ticks) = ($node->safe_psql('postgres', $transactions), ticks_of($idle));
$sleeps = sleeps_of($idle);
$node->safe_psql('postgres', failing("busy-$_", "2$_", '0.1 s')) for 1 .. 20;
await($node, "SELECT count(*) = 20 FROM webhook_dlq WHERE whatsapp_message_id LIKE 'busy-%' AND resolution_status = 'retrying'", 'the other is busy');
is($node->safe_psql('postgres', $transactions), $before, 'with 100,000 dead letters due tomorrow, no transaction');
cmp_ok(ticks_of($idle) - $ticks, '<=', 1, 'and no processor time');
cmp_ok(sleeps_of($idle) - $sleeps, '<=', 5, 'nor was it woken');
$node->safe_psql('postgres', 'DROP DATABASE idle');
ok(is_gone($idle), 'it goes with its database');

# --- A cancel is nothing to an idle worker; SIGTERM ends it, and the launcher starts another.
$node->safe_psql('postgres', "SELECT pg_cancel_backend($worker)");
$node->safe_psql('postgres', "UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id = 'later-9'");
await($node, "SELECT resolution_status = 'retrying' FROM webhook_dlq WHERE whatsapp_message_id = 'later-9'", 'it goes on working');
is(pid_of('wahook worker'), $worker, 'after a cancel');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
$worker = await_worker($worker);

my $launcher = pid_of('wahook launcher');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
await($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'wahook launcher' AND pid <> $launcher", 'another launcher');
is(pid_of('wahook worker'), $worker, 'which finds the worker that is there');

# --- A reload: its interval is another one at once.
$node->safe_psql('postgres', "ALTER SYSTEM SET wahook.retention_interval = '1 s'");
$node->reload;
$runs = runs_of('retention');
await($node, "SELECT runs > $runs + 1 FROM webhook_jobs WHERE job = 'retention'", 'an interval that was changed');
$node->safe_psql('postgres', "ALTER SYSTEM SET wahook.retention_interval = 0");
$node->reload;
await($node, "SELECT next_run_at IS NULL FROM webhook_jobs WHERE job = 'retention'", 'and off');
# A database has settings of its own.
$node->safe_psql('postgres', "ALTER DATABASE postgres SET wahook.retention_interval = '1 s'");
$worker = await_worker($worker);
$runs = runs_of('retention');
await($node, "SELECT runs > $runs + 1 FROM webhook_jobs WHERE job = 'retention'", 'an interval of the database');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET wahook.retention_interval; ALTER SYSTEM RESET wahook.retention_interval');
$node->reload;
$worker = await_worker($worker);
# Both at once: the reload comes while the next worker starts, and must not be lost.
for my $interval (('1 h', '1 s') x 8)
{
	$node->safe_psql('postgres', "ALTER DATABASE postgres SET wahook.dlq_interval = '6 min'; ALTER SYSTEM SET wahook.retention_interval = '$interval'; SELECT pg_reload_conf()");
	$worker = await_worker($worker);
	$runs = runs_of('retention');
	await($node, "SELECT runs > $runs + 1 FROM webhook_jobs WHERE job = 'retention'", 'an interval that was changed with the worker') if $interval eq '1 s';
}
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET wahook.dlq_interval; ALTER SYSTEM RESET wahook.retention_interval');
$node->reload;
$worker = await_worker($worker);

# --- A job that fails is told of once, is tried again, and does not keep the others from running.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'refused' USING DETAIL = 'secret ' || 'payload', ERRCODE = 'P4711';
END
$$;
CREATE TRIGGER refuse BEFORE DELETE ON user_sessions FOR EACH ROW EXECUTE FUNCTION refuse();
INSERT INTO user_sessions (phone_number, last_interaction) VALUES ('25078', now() - interval '2 days');
ALTER SYSTEM SET wahook.session_cleanup_interval = '1 s';
SELECT pg_reload_conf();
SQL
await($node, "SELECT failures >= 3 FROM webhook_jobs WHERE job = 'session-cleanup'", 'a job fails, and is tried again');
is($node->safe_psql('postgres', "SELECT succeeded, error, result ->> 'sqlstate' FROM webhook_jobs WHERE job = 'session-cleanup'"),
	'f|refused|P4711', 'the view shows why');
is($count_log->(qr/WARNING:  wahook job "session-cleanup" failed: refused/), 1, 'the log has it once');
unlike(slurp_file($node->logfile), qr/secret payload/, 'without what may be private');
is(pid_of('wahook worker'), $worker, 'and the worker is the same');
$node->safe_psql('postgres', "DROP TRIGGER refuse ON user_sessions");
await($node, "SELECT succeeded FROM webhook_jobs WHERE job = 'session-cleanup'", 'once it can, it succeeds');
is($node->safe_psql('postgres', "SELECT count(*) FROM user_sessions WHERE phone_number = '25078'"), '0', 'and has done its work');

# --- A job that runs elsewhere is left to it.
$node->safe_psql('postgres', 'CREATE TABLE go_on ()');
my $holder = start_script($node, 'holder', "BEGIN;\nSELECT run_webhook_job('session-cleanup');\nSET application_name = 'holds';\n"
	. "DO 'BEGIN WHILE NOT EXISTS (SELECT FROM go_on) LOOP PERFORM pg_sleep(0.01); END LOOP; END';\nCOMMIT;\n");
await($node, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'holds')", 'a run that does not commit');
$runs = runs_of('session-cleanup');
like($node->safe_psql('postgres', "SELECT run_webhook_job('session-cleanup')"), qr/"running": true/, 'by hand it says so');
$node->safe_psql('postgres', failing("meanwhile", "31", '0.1 s'));
await($node, "SELECT resolution_status = 'retrying' FROM webhook_dlq WHERE whatsapp_message_id = 'meanwhile'", 'other jobs run meanwhile');
is(runs_of('session-cleanup'), $runs, 'the worker does not run it either');
$node->safe_psql('postgres', 'INSERT INTO go_on DEFAULT VALUES');
is(finish_script($holder), 0, 'that run ends');
await($node, "SELECT runs > $runs + 1 FROM webhook_jobs WHERE job = 'session-cleanup'", 'then it does');

# --- What runs in it runs as the owner of the extension, and stays so.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE seen (who text, attempt text);
CREATE FUNCTION look_around() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	v_attempt text := 'none';
BEGIN
	BEGIN
		EXECUTE 'RESET ROLE';
	EXCEPTION WHEN OTHERS THEN v_attempt := SQLERRM;
	END;
	BEGIN
		EXECUTE 'RESET SESSION AUTHORIZATION';
	EXCEPTION WHEN OTHERS THEN v_attempt := v_attempt || ', ' || SQLERRM;
	END;
	BEGIN
		PERFORM pg_read_file('PG_VERSION');
	EXCEPTION WHEN OTHERS THEN v_attempt := v_attempt || ', ' || SQLERRM;
	END;
	INSERT INTO public.seen VALUES (current_user, v_attempt);
	RETURN OLD;
END
$$;
CREATE TRIGGER look_around BEFORE DELETE ON user_sessions FOR EACH ROW EXECUTE FUNCTION look_around();
CREATE ROLE keeper;
ALTER TABLE seen OWNER TO keeper;
SQL
# An owner who is no superuser: the extension was made by one, who then handed it over.
$node->safe_psql('postgres', q{
	UPDATE pg_extension SET extowner = 'keeper'::regrole WHERE extname = 'wahook';
	DO $$
	DECLARE
		v_object record;
	BEGIN
		FOR v_object IN SELECT c.oid::regclass AS name, c.relkind FROM pg_depend d JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
			WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND c.relkind IN ('r', 'v')
		LOOP
			EXECUTE format('ALTER %s %s OWNER TO keeper', CASE v_object.relkind WHEN 'r' THEN 'TABLE' ELSE 'VIEW' END, v_object.name);
		END LOOP;
		FOR v_object IN SELECT p.oid::regprocedure AS name FROM pg_depend d JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
			WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
		LOOP
			EXECUTE format('ALTER FUNCTION %s OWNER TO keeper', v_object.name);
		END LOOP;
	END
	$$;
	INSERT INTO user_sessions (phone_number, last_interaction) VALUES ('25079', now() - interval '2 days')});
await($node, 'SELECT EXISTS (SELECT FROM seen)', 'a trigger of a user is fired in the worker');
like($node->safe_psql('postgres', 'SELECT * FROM seen'),
	qr/^keeper\|.*cannot set parameter "role" .*cannot set parameter "session_authorization" .*permission denied for function pg_read_file/,
	'as the owner of the extension, who is no superuser, and it can be no other');
$node->safe_psql('postgres', 'DROP TRIGGER look_around ON user_sessions');

# --- A job that takes long does not keep the server, the extension or the worker's end waiting.
my $hang = q{
	CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3600); RETURN OLD; END $$;
	CREATE TRIGGER hang BEFORE DELETE ON user_sessions FOR EACH ROW EXECUTE FUNCTION hang();
	INSERT INTO user_sessions (phone_number, last_interaction) VALUES ('25080', now() - interval '2 days')};
my $hangs = q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND wait_event = 'PgSleep')};
$node->safe_psql('postgres', $hang);
await($node, $hangs, 'a job hangs');
$worker = pid_of('wahook worker');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
ok(is_gone($worker), 'SIGTERM ends it in the middle of a job');
await($node, "$hangs AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $worker)", 'and the next one gets there');

# --- kill -9: the postmaster starts everything anew.
$worker = pid_of('wahook worker');
kill 'KILL', $worker;
ok(is_gone($worker), 'the worker was killed');
await($node, "$hangs AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $worker)", 'everything is there again');
$node->restart;
await($node, $hangs, 'and after a restart');

# --- DROP EXTENSION in the middle of a job.
$worker = pid_of('wahook worker');
$node->safe_psql('postgres', 'BEGIN; DROP EXTENSION wahook; ROLLBACK');
ok(is_gone($worker), 'it goes for a DROP EXTENSION');
await($node, $hangs, 'and comes back where that is rolled back');
$worker = pid_of('wahook worker');
$node->safe_psql('postgres', 'DROP EXTENSION wahook CASCADE');
ok(is_gone($worker), 'it is gone with the extension');
is(pid_of('wahook worker'), '', 'for good');
$node->safe_psql('postgres', 'CREATE SCHEMA elsewhere; CREATE EXTENSION wahook SCHEMA elsewhere');
await($node, 'SELECT bool_and(coalesce(succeeded, false)) FROM elsewhere.webhook_jobs', 'it works for one in another schema');
$node->safe_psql('postgres', 'DROP SCHEMA elsewhere CASCADE');
await($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'wahook worker'", 'and goes with the schema');

$node->stop;
# --- In pg_upgrade's hands a server has no background processes of anybody's.
system_or_bail('pg_ctl', '-s', '-w', '-D', $node->data_dir, '-l', $node->logfile, '-o', '-b', 'start');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'wahook%'"), '0', 'none in a binary upgrade');
system_or_bail('pg_ctl', '-s', '-w', '-D', $node->data_dir, 'stop');

# --- The log tells what happened, once.
cmp_ok($count_log->(qr/WARNING:.*wahook/), '==', 1, 'one warning in all');
is($count_log->(qr/ERROR|PANIC|TRAP/), 0, 'no error') or diag(grep { /ERROR|PANIC|TRAP/ } split /^/, slurp_file($node->logfile));
done_testing();
