# SQL handlers in processes of the worker's: exactly once, and whatever a handler does, the others go on.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;
use Wahook;

my $node = PostgreSQL::Test::Cluster->new('handlers');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'wahook'
timezone = 'UTC'
max_worker_processes = 12
restart_after_crash = on
wahook.handler_workers = 2
wahook.handler_idle_timeout = '1 h'
wahook.dlq_base_delay = 1
wahook.cleanup_interval = '1 h'
});
$node->start;

# What a handler is to do is in the text of its message. What it did is in app.done, with the process that did it.
$node->safe_psql('postgres', q{
CREATE EXTENSION wahook;
CREATE ROLE app LOGIN;
CREATE SCHEMA app AUTHORIZATION app;
CREATE TABLE app.done (id bigserial, message text, attempt integer, who name, service text, pid integer DEFAULT pg_backend_pid(), at timestamptz DEFAULT clock_timestamp());
CREATE TABLE app.sequenced (message text);
CREATE SEQUENCE app.calls;
GRANT ALL ON ALL TABLES IN SCHEMA app TO app;
GRANT ALL ON ALL SEQUENCES IN SCHEMA app TO app;
CREATE FUNCTION app.handle(message jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	v_do text := message->'message'->'text'->>'body';
BEGIN
	PERFORM nextval('calls');
	INSERT INTO done (message, attempt, who, service)
		VALUES (message->>'whatsapp_message_id', (message->>'attempt')::integer, current_user, message->>'service');
	IF v_do = 'raise' OR v_do = 'raise once' AND (message->>'attempt')::integer = 1 THEN
		RAISE EXCEPTION 'no' USING DETAIL = 'Not today.', HINT = 'Ask tomorrow.';
	ELSIF v_do = 'sleep' THEN
		PERFORM pg_sleep(600);
	ELSIF v_do = 'stubborn' THEN
		PERFORM stubborn();
	ELSIF v_do = 'catch' THEN
		LOOP
			BEGIN
				PERFORM pg_sleep(600);
			EXCEPTION WHEN query_canceled THEN
			END;
		END LOOP;
	ELSIF v_do = 'lock' THEN
		PERFORM pg_advisory_lock(42);
	ELSIF v_do = 'locks' THEN
		PERFORM count(pg_advisory_lock(43, n)) FROM generate_series(1, 1000000) n;
	ELSIF v_do = 'setting' THEN
		SET work_mem = '123kB';
	END IF;
END
$$;
});

# A handler that no error stops, as one in a language with exceptions of its own may be.
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/stubborn.c", q{
#include "postgres.h"
#include "fmgr.h"
#include "miscadmin.h"
PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(stubborn);
Datum
stubborn(PG_FUNCTION_ARGS)
{
	for (;;)
	{
		MemoryContext context = CurrentMemoryContext;

		PG_TRY();
		{
			pg_usleep(10000);
			CHECK_FOR_INTERRUPTS();
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(context);
			FlushErrorState();
		}
		PG_END_TRY();
	}
}
});
chomp(my $includes = qx("\${PG_CONFIG:-pg_config}" --includedir-server));
system_or_bail('gcc', '-shared', '-fPIC', "-I$includes", '-o', "$dir/stubborn.so", "$dir/stubborn.c");
$node->safe_psql('postgres', "CREATE FUNCTION app.stubborn() RETURNS void AS '$dir/stubborn' LANGUAGE C");

sub one { my ($query) = @_; return $node->safe_psql('postgres', $query) }

# A message; service: where it is to go.
sub send_message
{
	my ($id, $from, $text, $service) = @_;
	my $body = delivery(message($id, $from, $text));
	my $move = '';
	if ($service)
	{
		$move = "UPDATE webhook_inbox SET service = '$service' WHERE message_id = (SELECT id FROM processed_webhook_messages WHERE whatsapp_message_id = '$id');"
			. "UPDATE webhook_conversation_queue SET service = '$service' WHERE conversation_id = (SELECT conversation_id FROM processed_webhook_messages WHERE whatsapp_message_id = '$id');";
	}
	one("BEGIN; SELECT outcome FROM receive_webhook(\$body\$$body\$body\$); $move COMMIT");
}

sub set_service { my ($settings) = @_; return one("UPDATE webhook_services SET $settings WHERE name = 'default'") }

my $handlers = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'wahook handler' AND datname = 'postgres'};

sub done { my ($id) = @_; return "SELECT processed_at IS NOT NULL FROM processed_webhook_messages WHERE whatsapp_message_id = '$id'" }

# The log, once it has the text.
sub slurp_log
{
	my ($text) = @_;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $log = slurp_file($node->logfile);
		return $log if $log =~ /\Q$text/;
		Time::HiRes::usleep(100_000);
	}
	BAIL_OUT("waited in vain for $text in the log");
}

await($node, q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'wahook worker')}, 'a worker');
is(one("SELECT count(*) FROM ($handlers) h"), 0, 'no handler, no process');

# In order, as the role that registered it.
set_service(q{handler = 'app.handle', run_as = 'app'});
send_message('a.1', '1', 'hello');
await($node, done('a.1'), 'the first message');
is(one("SELECT attempt, who, service FROM app.done WHERE message = 'a.1'"), '1|app|default', 'the handler ran as its role');
is(one("SELECT locked_by IS NULL FROM webhook_conversations WHERE user_id = '1' OR whatsapp_phone = '1'"), 't', 'the lock was given back');
is(one("SELECT outcome FROM webhook_delivery_attempts"), 'succeeded', 'the attempt is on record');
my $body = delivery(map { message("a.$_", '1', 'hello') } 2 .. 20);
one("SELECT count(*) FROM receive_webhook(\$body\$$body\$body\$)");
await($node, done('a.20'), 'a delivery of many');
is(one("SELECT string_agg(message, ',' ORDER BY id) FROM app.done"), join(',', map { "a.$_" } 1 .. 20), 'in order, each once');

# What fails is retried, and leaves nothing of its own.
send_message('b.1', '2', 'raise once');
await($node, done('b.1'), 'the retry');
is(one("SELECT attempt FROM app.done WHERE message = 'b.1'"), '2', 'of the attempt that failed nothing is left');
is(one("SELECT resolution_status, error, error_stack LIKE '%DETAIL: Not today.%CONTEXT: %' FROM webhook_dlq"),
	'resolved|no|t', 'its error is in the dead letter');
is(one("SELECT string_agg(outcome, ',' ORDER BY seq) FROM webhook_delivery_attempts WHERE attempt > 1 OR outcome = 'failed'"),
	'failed,succeeded', 'both attempts are on record');

# Dead letters that belong to no conversation.
one(q{INSERT INTO webhook_dlq (payload, error, next_retry_at) VALUES ('{"message": {"text": {"body": "x"}}}', 'by hand', now())});
await($node, q{SELECT resolution_status = 'resolved' FROM webhook_dlq WHERE whatsapp_message_id IS NULL}, 'a dead letter of its own');


# --- handlers that misbehave

# How the message failed, once it has.
sub error_of
{
	my ($id) = @_;
	await($node, "SELECT EXISTS (SELECT FROM webhook_dlq WHERE whatsapp_message_id = '$id' AND error IS NOT NULL)", "$id fails");
	return one("SELECT error FROM webhook_dlq WHERE whatsapp_message_id = '$id'");
}

# Of what has failed only this is retried: at most once more, much later.
$node->append_conf('postgresql.conf', "wahook.dlq_base_delay = '1 h'");
$node->reload;
set_service("timeout = '300 ms', circuit_threshold = 1000");
send_message('c.1', '11', 'sleep');
send_message('c.2', '12', 'catch');
send_message('c.3', '13', 'hello');
await($node, done('c.3'), 'the others go on');
is(error_of('c.1'), 'handler ran longer than 300 ms', 'one that sleeps');
is(error_of('c.2'), 'handler ran longer than 300 ms', 'one that catches the cancel');
my @pids = split /\n/, one("$handlers ORDER BY 1");
send_message("c.$_", $_, 'hello') for 101 .. 104;
await($node, done('c.104'), 'and so do these processes');
is_deeply([ split /\n/, one("$handlers ORDER BY 1") ], \@pids, 'which have survived both');

send_message('c.4', '14', 'lock');
send_message('c.5', '15', 'setting');
await($node, done('c.5'), 'a handler that sets something');
await($node, "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 42", 'no lock is left behind');

# What failed is recorded all the same.
set_service("timeout = '1 min', circuit_threshold = 1000");
send_message('c.16', '26', 'locks');
like(error_of('c.16'), qr/^(out of shared memory|the transaction of the attempt failed)/, 'a handler that locks more than there is room for');
await($node, "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND classid = 43", 'none of its locks is left behind');
set_service("timeout = '300 ms', circuit_threshold = 1000");

send_message('c.6', '16', 'stubborn');
is(error_of('c.6'), 'handler ran longer than 300 ms', 'one that heeds nothing');
is(one("SELECT retry_count, resolution_status FROM webhook_dlq WHERE whatsapp_message_id = 'c.6'"), '0|pending', 'it will be retried');
is(one("SELECT outcome FROM webhook_delivery_attempts a JOIN processed_webhook_messages m ON m.id = a.message_id WHERE whatsapp_message_id = 'c.6'"),
	'failed', 'as any that failed');
is(one("SELECT locked_by IS NULL FROM webhook_conversations WHERE whatsapp_phone = '16' OR user_id = '16'"), 't', 'its conversation is free');
send_message('c.7', '17', 'hello');
await($node, done('c.7'), 'another process takes over');
my %left = map { $_ => 1 } split /\n/, one($handlers);
is(scalar(grep { !$left{$_} } @pids), 1, 'the process has gone with it');

# Somebody has the conversation's row: the others go on, and it follows.
send_message('d.0', '21', 'hello');
await($node, done('d.0'), 'a conversation');
my $session = $node->background_psql('postgres');
$session->query_safe("BEGIN");
$session->query_safe("SELECT FROM webhook_conversations WHERE whatsapp_phone = '21' OR user_id = '21' FOR UPDATE");
send_message('d.1', '21', 'hello');
send_message('d.2', '22', 'hello');
await($node, done('d.2'), 'the others go on');
is(one(done('d.1')), 'f', 'the one with the locked row waits');
$session->query_safe("COMMIT");
await($node, done('d.1'), 'and is handled then');
$session->quit;

# The role that answers for the handler is renamed.
one('ALTER ROLE app RENAME TO other');
send_message('d.3', '23', 'hello');
send_message('d.4', '24', 'hello');
like(slurp_log('role that registered it does not exist'), qr/handler of service "default" failed/, 'a handler without its role is reported');
one('ALTER ROLE other RENAME TO app');
await($node, done('d.4'), 'with its role back, it goes on');
cmp_ok(scalar(() = slurp_file($node->logfile) =~ /role that registered it does not exist/g), '<=', 2, 'it was reported once by each process');

# A service that hangs leaves a process to the others.
one("INSERT INTO webhook_services (name, handler, run_as, timeout) VALUES ('slow', 'app.handle', 'app', '1 h')");
send_message("e.$_", "3$_", 'sleep', 'slow') for 1 .. 3;
my $busy = q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'wahook handler' AND query = 'slow' AND state = 'active'};
await($node, $busy, 'a handler hangs');
send_message("f.$_", "4$_", 'hello') for 1 .. 5;
await($node, done("f.$_"), 'the others go on') for 1 .. 5;
is(one($busy), 't', 'it hangs still, alone');

# SIGTERM: the handler is cancelled, its message waits again, as if nothing had been.
is(one(q{SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE backend_type = 'wahook handler' AND query = 'slow'}), 1, 'SIGTERM');
is(one(q{SELECT count(*) FROM webhook_delivery_attempts WHERE service = 'slow'}), 0, 'no attempt was spent');
await($node, $busy, 'another process takes it up');
one("UPDATE webhook_services SET enabled = false WHERE name = 'slow'");
one(q{SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE backend_type = 'wahook handler' AND query = 'slow'});
await($node, q{SELECT count(*) = 0 FROM webhook_conversations WHERE locked_by IS NOT NULL}, 'all locks are given back');
one("DELETE FROM webhook_inbox WHERE service = 'slow'; DELETE FROM webhook_conversation_queue WHERE service = 'slow'");

# --- circuits

one(q{DELETE FROM webhook_dlq; DELETE FROM webhook_circuits});
set_service("timeout = NULL, circuit_threshold = 3, circuit_timeout = '1 h'");
send_message("g.$_", "5$_", 'raise once') for 1 .. 3;
await($node, q{SELECT state = 'open' FROM webhook_circuits WHERE key = 'service:default'}, 'the circuit opens');
send_message("g.$_", "5$_", 'hello') for 4 .. 7;
is(one(q{SELECT count(*) FROM webhook_delivery_attempts a JOIN processed_webhook_messages m ON m.id = a.message_id WHERE whatsapp_message_id LIKE 'g.%'}),
	3, 'three attempts');
is(one(q{SELECT count(*) FROM webhook_inbox}), 4, 'the others wait, their attempts unspent');
# A dead letter that comes due meanwhile waits with them.
one(q{UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id = (SELECT min(whatsapp_message_id) FROM webhook_dlq)});
await($node, q{SELECT count(*) = 5 FROM webhook_inbox}, 'it is back in its queue');
is(one(q{SELECT max(retry_count) FROM webhook_dlq}), 0, 'no retry is spent');
one(q{UPDATE webhook_circuits SET probe_at = now()});
is(one(q{SELECT reset_circuit('service:default')}), '', 'closed by hand');
await($node, q{SELECT count(*) = 0 FROM webhook_inbox}, 'and the others go on');
like(slurp_log('CIRCUIT_BREAKER_CLOSED'), qr/CIRCUIT_BREAKER_OPENED.*service:default/, 'both are in the log');

# --- order, and bursts

# Strict order: what comes after a message that failed waits for it.
set_service("strict_order = true, timeout = NULL, circuit_threshold = 1000");
one(q{DELETE FROM webhook_dlq; DELETE FROM webhook_circuits});
$body = delivery(message('j.1', '81', 'hello'), message('j.2', '81', 'raise once'), message('j.3', '81', 'hello'));
one("SELECT count(*) FROM receive_webhook(\$body\$$body\$body\$)");
is(error_of('j.2'), 'no', 'the second fails');
send_message('j.4', '82', 'hello');
await($node, done('j.4'), 'other conversations go on');
is(one(done('j.1')) . one(done('j.3')), 'tf', 'the third waits');
one(q{UPDATE webhook_dlq SET next_retry_at = now() WHERE resolution_status = 'pending'});
await($node, done('j.3'), 'it follows when the second has been retried');
is(one(q{SELECT string_agg(message, ',' ORDER BY id) FROM app.done WHERE message LIKE 'j._' AND message <> 'j.4'}), 'j.1,j.2,j.3', 'in order');

# A burst is one call, and succeeds or fails as one.
one(q{CREATE FUNCTION app.handle_burst(burst jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO done (message, service)
		SELECT string_agg(m->>'whatsapp_message_id' || ' ' || (m->>'attempt'), ',' ORDER BY n), burst->>'service'
		FROM jsonb_array_elements(burst->'messages') WITH ORDINALITY x (m, n);
	IF burst->'messages' @? '$[*] ? (@.attempt == 1).message.text.body ? (@ == "raise once")' THEN
		RAISE EXCEPTION 'not these';
	END IF;
END
$$});
set_service(q{handler = 'app.handle_burst', strict_order = false, debounce = '1 s'});
set_service(q{run_as = 'app'});
send_message('k.1', '91', 'hello');
send_message('k.2', '91', 'hello');
await($node, done('k.2'), 'a burst');
is(one(q{SELECT message FROM app.done ORDER BY id DESC LIMIT 1}), 'k.1 1,k.2 1', 'both in one call');
send_message('k.3', '91', 'raise once');
send_message('k.4', '91', 'hello');
is(error_of('k.4'), 'not these', 'one that fails');
is(error_of('k.3'), 'not these', 'fails as a whole');
one(q{UPDATE webhook_dlq SET next_retry_at = now() WHERE resolution_status = 'pending'});
await($node, done('k.4'), 'and is retried');
is(one(q{SELECT message FROM app.done ORDER BY id DESC LIMIT 1}), 'k.3 2,k.4 2', 'as a whole, too');
set_service(q{debounce = '0', handler = 'app.handle'});
set_service(q{run_as = 'app'});

# --- crashes

set_service("circuit_threshold = 1000, timeout = '1 s'");
one(q{DELETE FROM webhook_dlq; DELETE FROM webhook_circuits});
send_message('h.1', '61', 'sleep');
await($node, q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'wahook handler' AND query = 'default' AND state = 'active' AND wait_event = 'PgSleep')}, 'a handler runs');
kill 9, one(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'wahook handler' AND wait_event = 'PgSleep'});
await($node, q{SELECT count(*) = 1 FROM webhook_delivery_attempts a JOIN processed_webhook_messages m ON m.id = a.message_id
	WHERE whatsapp_message_id = 'h.1' AND outcome = 'lost'}, 'its lease runs out');
is(error_of('h.1'), 'handler ran longer than 1000 ms', 'it is taken up again');
send_message('h.2', '62', 'hello');
await($node, done('h.2'), 'the others go on');
is(one(q{SELECT count(*) FROM app.done GROUP BY message, attempt HAVING count(*) > 1}), '', 'nothing was done twice');

# --- idle processes leave, and come back

$node->append_conf('postgresql.conf', "wahook.handler_idle_timeout = '1 s'\n");
$node->reload;
await($node, "SELECT count(*) = 0 FROM ($handlers) h", 'idle processes leave');
send_message('h.3', '63', 'hello');
await($node, done('h.3'), 'one comes back');
$node->append_conf('postgresql.conf', "wahook.handler_workers = 0\n");
$node->reload;
await($node, "SELECT count(*) = 0 FROM ($handlers) h", 'it leaves');
send_message('h.4', '64', 'hello');
one('SELECT run_webhook_job(job) FROM webhook_jobs');
is(one("SELECT count(*) FROM ($handlers) h"), 0, 'none is wanted');
$node->append_conf('postgresql.conf', "wahook.handler_workers = 2\n");
$node->reload;
await($node, done('h.4'), 'now one is');

# --- going away

set_service("timeout = '1 h'");
send_message('i.1', '71', 'sleep');
my $running = q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'wahook handler' AND wait_event = 'PgSleep')};
await($node, $running, 'a handler runs');
my $began = time;
$node->stop('fast');
ok(time - $began < 60, 'a handler that runs does not hold up a shutdown');
$node->start;
is(one(q{SELECT count(*) FROM webhook_delivery_attempts a JOIN processed_webhook_messages m ON m.id = a.message_id WHERE whatsapp_message_id = 'i.1'}), 0, 'nor was an attempt spent');
await($node, $running, 'it runs again');
one('CREATE DATABASE other TEMPLATE postgres');
pass('the database can be copied');
await($node, $running, 'it runs again');
one('DROP EXTENSION wahook');
is(one("SELECT count(*) FROM ($handlers) h"), 0, 'DROP EXTENSION ends it');
$node->safe_psql('template1', 'DROP DATABASE other');
pass('so does DROP DATABASE');

$node->stop;

# --- no process to be had

my $full = PostgreSQL::Test::Cluster->new('full');
$full->init;
$full->append_conf('postgresql.conf', "shared_preload_libraries = 'wahook'\nmax_worker_processes = 2\nmax_logical_replication_workers = 0\n");
$full->start;
$full->safe_psql('postgres', q{
CREATE EXTENSION wahook;
CREATE FUNCTION handle(message jsonb) RETURNS void LANGUAGE sql AS '';
UPDATE webhook_services SET handler = 'handle' WHERE name = 'default';
INSERT INTO webhook_dlq (payload, error, next_retry_at) VALUES ('{}', 'by hand', now())});
$node = $full;
like(slurp_log('max_worker_processes'), qr/WARNING: .*handler process.*no background worker is free/, 'it is said');
is(one(q{SELECT process_dead_letter_queue()->>'successful'}), 1, 'the job still runs handlers');
$full->adjust_conf('postgresql.conf', 'max_worker_processes', '3');
one(q{INSERT INTO webhook_dlq (payload, error, next_retry_at) VALUES ('{}', 'by hand', now())});
$full->restart;
await($full, q{SELECT count(*) = 2 FROM webhook_dlq WHERE resolution_status = 'resolved'}, 'with room for it a process does');
$full->stop;
done_testing();
