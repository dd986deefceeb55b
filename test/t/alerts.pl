# Every alert, provoked for real: seen in the table, at wahook.alert_url, in the log, by LISTEN and in webhook_health(), and
# its end told, too. One that comes and goes is held back; nothing is lost when the URL is dead or the worker is killed.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha256_base64);
use FindBin;
use lib "$FindBin::Bin/../lib";
use Endpoint;
use JSON::PP;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use Wahook;

my $endpoint = Endpoint->new(PostgreSQL::Test::Utils::tempdir());
my $key = 'a secret of thirty-two bytes,abc';
my $secret = 'whsec_' . encode_base64($key, '');
my $dead = $endpoint->url('/switch/shop');
$endpoint->set_switch('shop', 500);

my $node = new_node('alerts', "shared_preload_libraries = 'wahook'", "wahook.http_allowed_networks = '127.0.0.1'",
	"wahook.alert_url = '" . $endpoint->url('/switch/alerts') . "'", "wahook.alert_secret = '$secret'",
	"wahook.alert_interval = '1 s'", "wahook.alert_hold_time = '1 s'", "wahook.health_inbox_age = '2 s'",
	"wahook.health_worker_timeout = '3 s'", "wahook.stuck_timeout = '1 s'", 'wahook.cleanup_interval = 0', 'wahook.retention_interval = 0', 'wahook.rollup_interval = 0',
	'restart_after_crash = on', 'autovacuum = off');

sub sql { return $node->safe_psql('postgres', shift) }
sub has { return sql(qq{SELECT to_regproc('$_[0]') IS NOT NULL}) eq 't' }

my $has_gauge = has('webhook_gauges') && sql("SELECT EXISTS (SELECT FROM webhook_gauges() WHERE metric = 'alerts_active')") eq 't';

sub set
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET $name = '$value'");
	$node->reload;
}

# What a session heard that listens, so far. A notification is shown after a statement.
my ($listener, $heard);
sub listen_now { $listener = $node->background_psql('postgres'); $listener->query_safe('LISTEN wahook_alerts'); $heard = '' }
sub heard { $heard .= $listener->query('SELECT 1'); return $heard }
listen_now();

# Requests to the alert URL, about one type and subject, decoded. All were signed.
sub told
{
	my ($type, $subject, $path) = @_;
	my @told;
	for my $request ($endpoint->requests($path // '/switch/alerts'))
	{
		my $body = decode_json($request->{body});
		$body->{request} = $request;
		next if $body->{data}{alert_type} ne $type || ($body->{data}{subject} // '') ne $subject;
		push @told, $body;
	}
	return @told;
}

my $ahead = 0; # the server's clock, in seconds

sub is_signed
{
	my ($request) = @_;
	my $headers = $request->{headers};
	my $signature = hmac_sha256_base64("$headers->{'webhook-id'}.$headers->{'webhook-timestamp'}.$request->{body}", $key);
	$signature .= '=' while length($signature) % 4;
	return $headers->{'webhook-signature'} eq "v1,$signature" && abs($headers->{'webhook-timestamp'} - $ahead - $request->{at}) < 60;
}

# The events of a kind in the log, decoded.
sub logged
{
	my ($event, $type, $subject) = @_;
	my @events = map { decode_json($_) } slurp_file($node->logfile) =~ /LOG:  (\{"event": "$event".*\})$/mg;
	return grep { $_->{alert_type} eq $type && ($_->{subject} // '') eq $subject } @events;
}

sub await_that
{
	my ($what, $is_so) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	until ($is_so->())
	{
		BAIL_OUT("waited in vain: $what") if time > $deadline;
		usleep 50_000;
	}
	return 1;
}

sub reasons { return sql(q{SELECT string_agg(r ->> 'reason', ',') FROM jsonb_array_elements(webhook_health() -> 'reasons') r}) }

my %seen;

# It fires: in all the places where it must be seen. $number: the how manieth time.
sub fires
{
	my ($type, $subject, $number) = @_;
	my $name = "$type $subject";
	$subject //= '';
	$number //= 1;
	$seen{$type} = 1;
	await($node, "SELECT count(*) >= $number FROM webhook_alerts WHERE alert_type = '$type' AND subject = '$subject'", "$name in the table");
	like(reasons(), qr/\b$type\b/, "$name: in webhook_health()");
	is(sql("SELECT r ->> 'next' IS NOT NULL FROM jsonb_array_elements(webhook_health() -> 'reasons') r WHERE r ->> 'reason' = '$type' LIMIT 1"),
		't', "$name: with what to do next");
	my @firing;
	await_that("$name at the URL", sub { @firing = grep { $_->{type} eq 'alert.firing' } told($type, $subject); @firing >= $number });
	ok(is_signed($firing[-1]{request}), "$name: at the URL, signed");
	like($firing[-1]{text}, qr/^\[firing\] (CRITICAL|HIGH|MEDIUM) $type: /, "$name: in words");
	is(scalar(logged('ALERT_FIRING', $type, $subject)), $number, "$name: in the log");
	await_that("$name by LISTEN", sub { heard() =~ /"wahook_alerts" with payload "\{[^\n]*"state": "firing"[^\n]*"alert_type": "$type"/ });
	pass("$name: by LISTEN");
	like(sql('SELECT webhook_metrics_prometheus()'), qr/^wahook_alerts_active\{[^}]*alert_type="$type"[^}]*\} [1-9]/m, "$name: in Prometheus")
		if $has_gauge;
	like(sql('SELECT webhook_dashboard()'), qr/$type/, "$name: on the page") if has('webhook_dashboard');
}

sub is_over
{
	my ($type, $subject, $number) = @_;
	my $name = "$type $subject";
	$subject //= '';
	$number //= 1;
	await($node, "SELECT count(*) >= $number FROM webhook_alerts WHERE alert_type = '$type' AND subject = '$subject' AND state = 'resolved'",
		"$name is resolved");
	await_that("the end of $name at the URL", sub { $number <= grep { $_->{type} eq 'alert.resolved' } told($type, $subject) });
	my ($told) = reverse grep { $_->{type} eq 'alert.resolved' } told($type, $subject);
	ok(is_signed($told->{request}) && $told->{data}{resolved_at}, "$name: its end, told to the URL");
	is(scalar(logged('ALERT_RESOLVED', $type, $subject)), $number, "$name: and to the log");
	await_that("the end of $name by LISTEN", sub { heard() =~ /"state": "resolved"[^\n]*"alert_type": "$type"/ });
	await($node, "SELECT resolved_told_at IS NOT NULL FROM webhook_alerts WHERE alert_type = '$type' AND subject = '$subject'"
		. ' ORDER BY started_at DESC LIMIT 1', "$name: recorded as told");
}

sub receive
{
	my ($prefix, $count, $text) = @_;
	return sql("SELECT count(*) FROM receive_webhook('"
		. delivery(map { message("$prefix-$_", "491700$prefix$_", $text) } 1 .. $count) . "')");
}

sub worker { return sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'wahook worker'") }
sub await_worker { await($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND pid <> " . (shift // 0), 'a worker') }

# --- All is well, and a look at it writes nothing.
await_worker();
await($node, "SELECT webhook_health() ->> 'status' = 'ok'", 'all is well');
await($node, 'SELECT count(*) >= 2 FROM webhook_jobs WHERE succeeded', 'the jobs have run');
my $looks = "SELECT (webhook_health() -> 'worker' ->> 'heartbeat_age_seconds')::float";
my $next_xid = 'SELECT pg_snapshot_xmax(pg_current_snapshot())';
my $xid = sql($next_xid);
for (1 .. 3)
{
	await($node, "$looks > 0.4", 'the worker sleeps');
	await($node, "$looks < 0.4", 'and looks again');
}
is(sql($next_xid), $xid, 'three looks without a change have written nothing');

# --- A dead endpoint: its circuit opens, errors and dead letters pile up, and what comes then waits.
sql(qq{SELECT register_webhook_service('shop', p_url => '$dead', p_allow_http => true, p_circuit_threshold => 15, p_circuit_timeout => '1 h');
	SELECT add_webhook_route('shop', 'shop', 'keyword', 'shop')});
receive('shop', 16, 'shop');
fires('CIRCUIT_OPEN', 'service:shop');
fires('HIGH_ERROR_RATE');
fires('DLQ_BUILDUP');
receive('late', 1, 'shop');
fires('INBOX_AGEING', 'shop');
is(sql(q{SELECT webhook_health() ->> 'status'}), 'degraded', 'the health is degraded');
is(sql(q{SELECT webhook_health() -> 'circuits' -> 'services' ->> 0}), 'service:shop', 'and names the circuit');
my @ids = map { $_->{request}{headers}{'webhook-id'} } grep { $_->{type} eq 'alert.firing' } told('CIRCUIT_OPEN', 'service:shop');
is(scalar(@ids), 1, 'told once, however often it is looked at');

$endpoint->set_switch('shop', 200);
sql("SELECT reset_circuit('service:shop'); SELECT retry_dead_letters(p_service => 'shop')");
is_over('CIRCUIT_OPEN', 'service:shop');
is_over('INBOX_AGEING', 'shop');
is_over('DLQ_BUILDUP');
set('wahook.health_window', '1 s'); # rather than wait for an hour
is_over('HIGH_ERROR_RATE');
set('wahook.health_window', '1 h');
set('wahook.health_errors', '1000');

# --- A flood that nobody claims, and input that can't be read.
receive('flood', 200);
fires('INBOX_AGEING', 'default');
sql(q{SELECT count(*) FROM claim_conversations(1000) c, complete_webhook_messages(c.conversation_id, c.lock_id)}) for 1 .. 2;
is_over('INBOX_AGEING', 'default');
sql("SELECT count(*) FROM receive_webhook('" . delivery(map { qq({"timestamp":"1700000000","type":"text","from":"49160$_"}) } 1 .. 12) . "')");
fires('QUARANTINE_GROWING');
sql('DELETE FROM webhook_quarantine');
is_over('QUARANTINE_GROWING');

# --- Holders that vanish. The cleanup is off, so nobody gives the locks back.
receive('stuck', 7);
sql("SELECT count(*) FROM claim_conversations(10, p_lease => '1 s')");
fires('STALE_LOCKS');
fires('STUCK_CONVERSATIONS');
sql('SELECT cleanup_stuck_webhook_conversations()');
is_over('STALE_LOCKS');
is_over('STUCK_CONVERSATIONS');
fires('PROCESSING_TIMEOUTS');
set('wahook.health_timeouts', '1000');
is_over('PROCESSING_TIMEOUTS');
sql(q{SELECT count(*) FROM claim_conversations(1000) c, complete_webhook_messages(c.conversation_id, c.lock_id)});

# --- Rows that outlive their retention: the job is off.
sql(q{INSERT INTO webhook_attempts (message_id, attempt, outcome, finished_at)
	VALUES (webhook_uuid_floor(now() - interval '32 days'), 1, 'succeeded', now() - interval '32 days')});
fires('RETENTION_BEHIND');
sql("SELECT run_webhook_job('retention')");
is_over('RETENTION_BEHIND');

# --- A worker that hangs. It can't tell; whoever looks from outside does, and what is written by hand is told when it is back.
my $worker = worker();
kill 'STOP', $worker;
await($node, "SELECT webhook_health() ->> 'status' = 'down'", 'a stopped worker is seen');
like(sql(q{SELECT webhook_health() -> 'worker' ->> 'state'}), qr/^(late|busy)$/, 'as late, or as busy for too long');
is(sql(q{SELECT webhook_health() -> 'accepting'}), 'true', 'while deliveries are accepted');
is(sql('SELECT evaluate_webhook_alerts()'), 1, 'pg_cron would write it down');
kill 'CONT', $worker;
fires_after_all('WORKER_NOT_RUNNING');
is_over('WORKER_NOT_RUNNING');

# Like fires(), for what is no reason any more when it can be told.
sub fires_after_all
{
	my ($type, $number) = (@_, 1);
	$seen{$type} = 1;
	await_that("$type at the URL", sub { $number <= grep { $_->{type} eq 'alert.firing' } told($type, '') });
	is(scalar(logged('ALERT_FIRING', $type, '')), $number, "$type: in the log");
	await_that("$type by LISTEN", sub { heard() =~ /"state": "firing"[^\n]*"alert_type": "$type"/ });
}

# --- A worker that is killed, and not started again: the launcher is held up.
my $launcher = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'wahook launcher'");
kill 'STOP', $launcher;
sql("SELECT pg_terminate_backend($worker)");
await($node, "SELECT webhook_health() ->> 'status' = 'down'", 'a worker that is gone is seen');
is(sql(q{SELECT webhook_health() -> 'worker' ->> 'state'}), 'gone', 'as gone');
like(sql('SELECT message FROM check_webhook_system_health()'), qr/^the worker has not run for \d+ s$/, 'and since when');
if (has('webhook_metrics_prometheus'))
{
	like(sql('SELECT webhook_metrics_prometheus()'), qr/^wahook_worker_up(\{\})? 0/m, 'Prometheus sees it');
}
kill 'CONT', $launcher;
await_worker();
# Nobody has written it down this time: the next worker does.
fires_after_all('WORKER_NOT_RUNNING', 2);
like((told('WORKER_NOT_RUNNING', ''))[-1]{data}{message}, qr/^the worker is back; it was away for \d+ s$/, 'a worker that comes back tells that there was none');
is_over('WORKER_NOT_RUNNING', '', 2);
is(sql(q{SELECT webhook_health() ->> 'status'}), 'ok', 'all is well again');

# --- One that comes and goes is held back, and counted.
set('wahook.alert_hold_time', '1 h');
my $flap = q{FROM webhook_alerts WHERE subject = 'service:flap'};
for my $times (1 .. 3)
{
	sql("SELECT record_circuit_failure('service:flap', 1)");
	await($node, "SELECT times = $times AND cleared_at IS NULL $flap", "it comes for the ${times}th time");
	sql("SELECT reset_circuit('service:flap')");
	await($node, "SELECT cleared_at IS NOT NULL $flap", 'and goes');
}
is(sql("SELECT count(*), max(times), max(state) $flap"), '1|3|firing', 'one alert, three times');
await($node, "SELECT firing_told_at IS NOT NULL $flap", 'told');
is(scalar(told('CIRCUIT_OPEN', 'service:flap')), 1, 'once');
set('wahook.alert_hold_time', '1 s');
await($node, "SELECT resolved_told_at IS NOT NULL $flap", 'its end is told when it has stayed away');
is(join(',', map { $_->{type} . $_->{data}{times} } told('CIRCUIT_OPEN', 'service:flap')), 'alert.firing1,alert.resolved3', 'once, too');

# --- A dead alert URL: told as soon as it lives. Meanwhile messages are delivered.
$endpoint->set_switch('alerts', 503);
sql("SELECT record_circuit_failure('service:unheard', 1)");
my $unheard = q{FROM webhook_alerts WHERE subject = 'service:unheard'};
await($node, "SELECT tell_failures >= 2 $unheard", 'it is tried again and again');
is(sql("SELECT firing_told_at IS NULL, tell_error $unheard"), 't|HTTP 503', 'with the reason in the table');
is(scalar(() = slurp_file($node->logfile) =~ /wahook alert failed: HTTP 503/g), 1, 'and once in the log');
sql("SELECT reset_circuit('service:unheard')");
await($node, "SELECT state = 'resolved' $unheard", 'it is over before anybody heard of it');
$endpoint->set_switch('alerts', 204);
$node->reload; # ends the pause
await($node, "SELECT resolved_told_at IS NOT NULL AND tell_error IS NULL $unheard", 'told in the end');
my @unheard = told('CIRCUIT_OPEN', 'service:unheard');
is(join(',', (map { $_->{type} } @unheard)[ -2, -1 ]), 'alert.firing,alert.resolved', 'first that it fired, then that it is over');
my %once = map { $_->{request}{headers}{'webhook-id'} => 1 } @unheard;
is(scalar(keys %once), 2, 'each repetition by the same id');

# --- kill -9 between the write and the answer: told once more, by the next worker. And a URL that hangs holds up nothing.
set('wahook.alert_url', $endpoint->url('/gate/opened'));
sql("SELECT record_circuit_failure('service:cut', 1)");
ok($endpoint->await_requests('/gate/opened', 1), 'the request is under way');
receive('beside', 1, 'shop');
await($node, "SELECT processed_at IS NOT NULL FROM processed_webhook_messages WHERE whatsapp_message_id = 'beside-1'",
	'a message is delivered while the alert URL hangs');
is(sql(q{SELECT firing_told_at IS NULL FROM webhook_alerts WHERE subject = 'service:cut'}), 't', 'written, not told');
$worker = worker();
kill 'KILL', $worker;
await($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'wahook worker' AND pid <> $worker", 'the next worker');
$endpoint->open_gate('opened');
await($node, q{SELECT firing_told_at IS NOT NULL FROM webhook_alerts WHERE subject = 'service:cut'}, 'told after all');
my @cut = grep { $_->{type} eq 'alert.firing' } told('CIRCUIT_OPEN', 'service:cut', '/gate/opened');
cmp_ok(scalar(@cut), '>=', 2, 'once more');
is($cut[0]{request}{headers}{'webhook-id'}, $cut[-1]{request}{headers}{'webhook-id'}, 'by the same id');
# The circuits were lost with the server.
await($node, q{SELECT resolved_told_at IS NOT NULL FROM webhook_alerts WHERE subject = 'service:cut'}, 'and its end');
set('wahook.alert_url', $endpoint->url('/switch/alerts'));

# --- A secret that is none: nothing goes out unsigned. Without a URL nobody is told, and all else is as it was.
set('wahook.alert_secret', 'whsec_!');
my $before = () = $endpoint->requests;
sql("SELECT record_circuit_failure('service:unsigned', 1)");
await_that('the log says why', sub { slurp_file($node->logfile) =~ /wahook\.alert_secret is no Standard Webhooks secret/ });
is(scalar(() = $endpoint->requests), $before, 'no request is sent unsigned by mistake');
set('wahook.alert_secret', $secret);
await($node, q{SELECT firing_told_at IS NOT NULL FROM webhook_alerts WHERE subject = 'service:unsigned'}, 'told when it is mended');
set('wahook.alert_url', '');
sql("SELECT reset_circuit('service:unsigned'); SELECT record_circuit_failure('service:silent', 1)");
await($node, q{SELECT state = 'resolved' AND tell FROM webhook_alerts WHERE subject = 'service:unsigned'}, 'over while there is no URL');
sql("SELECT reset_circuit('service:silent')");
await($node, q{SELECT state = 'resolved' AND NOT tell FROM webhook_alerts WHERE subject = 'service:silent'}, 'nobody is to be told');

# --- The clock is set, in a server whose clock is ahead by what a file says.
my $dir = PostgreSQL::Test::Utils::tempdir();
sub set_clock
{
	my ($seconds) = @_;
	append_to_file("$dir/clock", '');
	open my $file, '+<', "$dir/clock" or die "clock: $!";
	syswrite $file, pack('q', $ahead = $seconds);
	close $file;
}
set_clock(0);
system_or_bail('cc', '-shared', '-fPIC', '-o', "$dir/clock.so", "$FindBin::Bin/../lib/clock.c", '-ldl');
set('wahook.alert_url', $endpoint->url('/switch/alerts'));
set('wahook.health_window', '1 d');
$node->stop;
{
	local $ENV{LD_PRELOAD} = "$dir/clock.so";
	local $ENV{CLOCK_OFFSET_FILE} = "$dir/clock";
	$node->start;
}
listen_now();
await_worker();
await($node, 'SELECT state = $$asleep$$ FROM webhook_worker_state()', 'which sleeps');
set_clock(3 * 3600);
$node->reload; # wakes it
fires('CLOCK_JUMP');
like((told('CLOCK_JUMP', ''))[0]{text}, qr/the clock was set forward by 3 h/, 'forward, by how much');
set('wahook.health_window', '1 s');
is_over('CLOCK_JUMP');
sql("ALTER SYSTEM SET wahook.health_window = '1 d'");
set_clock(3600);
$node->reload;
fires('CLOCK_JUMP', '', 2);
like((told('CLOCK_JUMP', ''))[-1]{text}, qr/the clock was set back by 2 h/, 'and back');
# The worker goes on by the new clock: it does not wait until the former time is reached.
sql("SELECT record_circuit_failure('service:afterwards', 1)");
await($node, q{SELECT firing_told_at IS NOT NULL FROM webhook_alerts WHERE subject = 'service:afterwards'}, 'and the worker goes on');

# --- Nothing was left out, and nothing that is private went out.
my @types = sort grep { $_ ne 'HEALTH_CHECK_FAILED' } sql(q{SELECT string_agg(DISTINCT m[1], E'\n') FROM pg_proc,
	regexp_matches(prosrc, '''([A-Z_]+)'', ''(?:CRITICAL|HIGH|MEDIUM)''', 'g') m
	WHERE proname LIKE 'webhook_check\_%'}) =~ /\S+/g;
is(join(' ', sort keys %seen), join(' ', @types), 'every alert was seen');
my $bodies = join '', map { $_->{body} } grep { $_->{path} =~ /alerts|gate/ } $endpoint->requests;
unlike($bodies . $heard, qr/491700|hello|[0-9a-f]{8}-[0-9a-f]{4}-4/, 'no phone number, payload or id of a lock went out');
my $ids_of_conversations = sql('SELECT string_agg(id::text, \'|\') FROM webhook_conversations');
unlike($bodies, qr/$ids_of_conversations/, 'nor the id of a conversation');
unlike(slurp_file($node->logfile), qr/\Q$key\E/, 'nor a secret into the log');

$node->stop;
$endpoint->stop;
done_testing();
