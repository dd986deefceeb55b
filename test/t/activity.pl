# What pg_stat_activity shows of the processes, and how far a job is while it runs.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Endpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $node = new_node('activity', "shared_preload_libraries = 'wahook'", "wahook.http_allowed_networks = '127.0.0.1'");
sub sql { return $node->safe_psql('postgres', $_[0]) }

# A wait event has a name of its own since PostgreSQL 17.
sub await_wait
{
	my ($type, $name) = @_;
	my $event = $node->pg_version >= 17 ? $name : 'Extension';
	return await($node, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = '$type' AND wait_event_type = 'Extension' AND wait_event = '$event')",
		"$type waits: $name") && pass("$type waits: $name");
}

await($node, 'SELECT count(*) = count(*) FILTER (WHERE succeeded) AND count(*) > 3 FROM webhook_jobs', 'the first runs');
await_wait('wahook launcher', 'WahookLauncherMain');
await_wait('wahook worker', 'WahookWorkerMain');
my $endpoint = Endpoint->new(PostgreSQL::Test::Utils::tempdir());
sql(qq{INSERT INTO webhook_services (name, url, allow_http) VALUES ('far', '@{[ $endpoint->url('/gate/far') ]}', true);
	INSERT INTO webhook_routes (name, match, pattern, service, priority) VALUES ('far', 'keyword', 'far', 'far', 1)});
sql("SELECT receive_webhook('" . delivery(message('m-1', '1', 'far')) . "')");
ok($endpoint->await_requests('/gate/far', 1), 'a request is under way');
await_wait('wahook worker', 'WahookHttp');
$endpoint->open_gate('far');
sql(q{CREATE FUNCTION slow(jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(0.1)';
	SELECT register_webhook_service('slow one', p_handler => 'slow(jsonb)'); SELECT enable_webhook_service('slow one');
	INSERT INTO webhook_routes (name, match, pattern, service, priority) VALUES ('slow', 'keyword', 'slow', 'slow one', 1)});
sql("SELECT receive_webhook('" . delivery(message('m-2', '2', 'slow')) . "')");
await_wait('wahook handler', 'WahookHandlerMain');
is(sql(q{SELECT query FROM pg_stat_activity WHERE backend_type = 'wahook handler'}), 'slow one', 'and its text is the service that it ran');
is(sql(q{SELECT count(*) FROM pg_wait_events WHERE type = 'Extension' AND name LIKE 'Wahook%'}) >= 4, 1, 'the names are in pg_wait_events') if $node->pg_version >= 17;

# --- a job that is held up

my $running = q{SELECT job, running_pid, running_phase, running_since BETWEEN clock_timestamp() - interval '1 hour' AND clock_timestamp(), running_done FROM webhook_jobs WHERE running_pid IS NOT NULL};
is(sql($running), '', 'no job runs');
sql(q{CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN OLD; END $$;
	CREATE TRIGGER hold_up BEFORE DELETE ON wa_workflow_recovery FOR EACH ROW EXECUTE FUNCTION hold_up();
	INSERT INTO webhook_quarantine (content_hash, reason, body, correlation_id, received_at, last_seen_at)
		SELECT sha256(n::text::bytea), 'x', 'x', gen_random_uuid(), now() - interval '1 year', now() - interval '1 year' FROM generate_series(1, 7) n;
	INSERT INTO wa_workflow_recovery (conversation_id, workflow_type, recovery_action, status, created_at, completed_at) VALUES ('1', 'x', 'x', 'completed', now() - interval '1 year', now() - interval '1 year')});
my $blocker = $node->background_psql('postgres');
$blocker->query_safe('SELECT pg_advisory_lock(42)');
sql(q{ALTER SYSTEM SET wahook.retention_interval = '1s'});
$node->reload;
await($node, q{SELECT EXISTS (SELECT FROM webhook_jobs WHERE job = 'retention' AND running_phase IS NOT NULL)}, 'a job that is held up');
my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'wahook worker'});
await($node, qq{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $pid AND NOT granted)}, 'the worker waits');
like(sql($running), qr/^retention\|$pid\|\w+\|t\|\d+$/, 'others see it');
like(sql(qq{SELECT query FROM pg_stat_activity WHERE pid = $pid AND state = 'active'}), qr/^job retention: \w+/, 'in pg_stat_activity too');
sql(q{CREATE ROLE watcher; SELECT wahook_grant('watcher', 'monitor')});
like(sql("SET ROLE watcher; $running"), qr/^retention/, 'a monitor does');

# However it ends, it is not shown any more.
sql(qq{SELECT pg_terminate_backend($pid)});
await($node, qq{SELECT NOT EXISTS (SELECT FROM webhook_job_progress() WHERE pid = $pid)}, 'the job has ended with its process');
$blocker->query_safe('SELECT pg_advisory_unlock(42)');
await($node, q{SELECT count(*) = 0 FROM wa_workflow_recovery}, 'the next run');
sql(q{ALTER SYSTEM SET wahook.retention_interval = 0});
$node->reload;
await($node, q{SELECT NOT EXISTS (SELECT FROM webhook_job_progress())}, 'it is over');
is(sql("BEGIN; SELECT webhook_progress_begin('retention'); SELECT webhook_progress('a', 3), webhook_progress('a', 4), webhook_progress('b', 1), webhook_progress('b', 1);"
	. 'SELECT job, phase, done FROM webhook_job_progress(); ROLLBACK; SELECT count(*) FROM webhook_job_progress()'), "\n|||\nretention|b|2\n0", 'counted by phase, until the transaction ends');
is(sql("SELECT webhook_progress('x', 1), webhook_progress_end(); SELECT count(*) FROM webhook_job_progress()"), "|\n0", 'where no job runs there is no progress');
$blocker->quit;

done_testing();
