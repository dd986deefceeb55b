# Delivery over HTTP: what is sent, and what becomes of the messages for each way in which an endpoint can answer.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Digest::SHA qw(hmac_sha256_base64);
use Endpoint;
use JSON::PP;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $certificates = Endpoint::make_certificates($dir);
my $plain = Endpoint->new($dir);
my $tls = Endpoint->new($dir, tls => $certificates->{good}, host => 'localhost');
my $wrong_name = Endpoint->new($dir, tls => $certificates->{wrong_name});
my $expired = Endpoint->new($dir, tls => $certificates->{expired});

my $node = new_node('http', "shared_preload_libraries = 'wahook'", "wahook.http_allowed_networks = '127.0.0.1'",
	"wahook.http_ca_file = '$certificates->{ca}[0]'", "wahook.dlq_base_delay = '1h'", "wahook.dlq_max_delay = '2h'",
	"wahook.log_events = all");

sub sql { return $node->safe_psql('postgres', $_[0]) }

# A service with this URL, and a route to it for messages whose text is its name.
sub service
{
	my ($name, $url, $settings) = @_;
	$settings //= q{timeout = '3min', circuit_threshold = 1000};
	sql(qq{
		INSERT INTO webhook_services (name, url, allow_http) VALUES ('$name', '$url', true);
		UPDATE webhook_services SET $settings WHERE name = '$name';
		INSERT INTO webhook_routes (name, match, pattern, service, priority) VALUES ('$name', 'keyword', '$name', '$name', 1);
	});
}

# A message of a user of its own, or of the given one.
sub receive
{
	my ($service, $id, $from) = @_;
	sql(q{SELECT receive_webhook('} . delivery(message($id, $from // "1$id", $service)) . q{')});
}

sub await_entry
{
	my ($id, $status) = @_;
	await($node, "SELECT resolution_status = '$status' FROM webhook_dlq WHERE whatsapp_message_id = '$id'", "$id $status");
}

sub await_processed
{
	my ($id) = @_;
	await($node, "SELECT processed_at IS NOT NULL FROM processed_webhook_messages WHERE whatsapp_message_id = '$id'",
		"$id processed");
}

# Nothing waits, nothing is locked.
sub settled
{
	my ($what) = @_;
	is(sql(q{SELECT (SELECT count(*) FROM webhook_inbox i JOIN webhook_services s ON s.name = i.service AND s.enabled) || ' '
		|| (SELECT count(*) FROM webhook_conversation_queue q JOIN webhook_services s ON s.name = q.service AND s.enabled) || ' '
		|| (SELECT count(*) FROM webhook_conversations WHERE locked_by IS NOT NULL)}), '0 0 0', $what);
}

# --- what is sent

my $secret = 'whsec_' . encode_base64('k' x 32, '');
my $previous = 'whsec_' . encode_base64('p' x 24, '');
service('signed', $tls->url('/ok'));
sql("SET log_statement = none; SELECT set_webhook_service_secrets('signed', p_bearer_token => 'the-bearer-token', p_signing_secret => '$previous');
	SELECT set_webhook_service_secrets('signed', p_bearer_token => 'the-bearer-token', p_signing_secret => '$secret')");
my $correlation_id = '0191e000-0000-7000-8000-000000000001';
sql(q{SELECT receive_webhook('} . delivery(message('wamid.signed', '4911', 'signed')) . qq{', NULL, '$correlation_id')});
await_processed('wamid.signed');

my ($request) = $tls->requests;
my $headers = $request->{headers};
is($request->{method}, 'POST', 'a POST');
is($headers->{'content-type'}, 'application/json', 'of JSON');
is($headers->{'x-correlation-id'}, $correlation_id, 'with the correlation id');
is($headers->{'x-wa-internal-forward'}, 'true', 'as forwarded');
ok(!exists $headers->{'x-dlq-retry'}, 'not as a retry');
is($headers->{authorization}, 'Bearer the-bearer-token', 'with the bearer token');
like($headers->{'idempotency-key'}, qr/^[0-9a-f]{64}$/, 'with an idempotency key');
is($headers->{'webhook-id'}, $headers->{'idempotency-key'}, 'which is the id of the webhook too');
ok(abs($headers->{'webhook-timestamp'} - $request->{at}) < $PostgreSQL::Test::Utils::timeout_default, 'with the time');
my $signed = "$headers->{'webhook-id'}.$headers->{'webhook-timestamp'}.$request->{body}";
is($headers->{'webhook-signature'}, join(' ', map { "v1,$_=" } hmac_sha256_base64($signed, 'k' x 32), hmac_sha256_base64($signed, 'p' x 24)),
	'signed by both secrets');
my $body = decode_json($request->{body});
is($headers->{'x-wahook-lock-token'}, $body->{lock_token}, 'with the lock token');
is(join(' ', sort keys %$body),
	'agent_type conversation_context conversation_id lock_id lock_token messages service user_id whatsapp_phone', 'what the body has');
is($body->{service}, 'signed', 'its service');
is(@{ $body->{messages} }, 1, 'its messages');
is($body->{messages}[0]{whatsapp_message_id}, 'wamid.signed', 'by their ids');
is($body->{messages}[0]{message}{text}{body}, 'signed', 'and what they say');
is(sql(q{SELECT outcome, service, lock_token, duration_ms >= 0 FROM webhook_delivery_attempts}), "succeeded|signed|$body->{lock_token}|t",
	'the attempt is on record');
settled('nothing is left');

# --- each way to answer

# name => [url, settings, status of the entry (none: processed), pattern of its error, of its error stack]
my %cases = (
	'created' => [ $plain->url('/status/201') ],
	'no-content' => [ $plain->url('/status/204') ],
	'slow' => [ $plain->url('/slow/500') ],
	'huge' => [ $plain->url('/huge/200') ],
	'huge-failure' => [ $plain->url('/huge/500'), '', 'pending', qr/^HTTP 500$/, qr/^(huge){1024}$/ ],
	'bad-request' => [ $plain->url('/status/400'), '', 'failed', qr/^HTTP 400$/, qr/^status 400$/ ],
	'unauthorized' => [ $plain->url('/status/401'), '', 'failed', qr/^HTTP 401$/ ],
	'gone' => [ $plain->url('/status/410'), '', 'failed', qr/^HTTP 410$/ ],
	'unprocessable' => [ $plain->url('/status/422'), '', 'failed', qr/^HTTP 422$/ ],
	'timeout-status' => [ $plain->url('/status/408'), '', 'pending', qr/^HTTP 408$/ ],
	'too-early' => [ $plain->url('/status/425'), '', 'pending', qr/^HTTP 425$/ ],
	'too-many' => [ $plain->url('/status/429'), '', 'pending', qr/^HTTP 429$/ ],
	'failing' => [ $plain->url('/status/500'), '', 'pending', qr/^HTTP 500$/, qr/^status 500$/ ],
	'unavailable' => [ $plain->url('/status/503'), '', 'pending', qr/^HTTP 503$/ ],
	'strange' => [ $plain->url('/status/999'), '', 'pending', qr/^HTTP 999$/ ],
	'redirect' => [ $plain->url('/redirect/302'), '', 'failed', qr/^HTTP 302: redirects are not followed$/ ],
	'redirect-post' => [ $plain->url('/redirect/308'), '', 'failed', qr/^HTTP 308: redirects are not followed$/ ],
	'garbage' => [ $plain->url('/garbage/500'), '', 'pending', qr/^HTTP 500$/, qr/^caf\xc3\xa9 \? \?\? \?\?\? \xf0\x9f\x98\x80 \?$/ ],
	'garbage-refusal' => [ $plain->url('/garbage/418'), '', 'failed', qr/^HTTP 418$/, qr/^caf/ ],
	'reset' => [ $plain->url('/reset'), '', 'pending', qr/^connection failed: / ],
	'closed' => [ $plain->url('/close'), '', 'pending', qr/^connection failed: / ],
	'half' => [ $plain->url('/half'), '', 'pending', qr/^connection failed: / ],
	'nonsense' => [ $plain->url('/nonsense'), '', 'pending', qr/^connection failed: / ],
	'headers' => [ $plain->url('/headers'), '', 'pending', qr/^connection failed: the headers of the answer are too long$/ ],
	'hanging' => [ $plain->url('/hang'), q{timeout = '300ms'}, 'pending', qr/^timed out: / ],
	'dripping' => [ $plain->url('/drip'), q{timeout = '300ms'}, 'pending', qr/^timed out: / ],
	'nobody' => [ 'http://127.0.0.1:1/', '', 'pending', qr/^connection failed: / ],
	'unknown-name' => [ 'https://nowhere.invalid/', '', 'pending', qr/^connection failed: Could not resolve host/ ],
	'wrong-name' => [ $wrong_name->url('/ok'), '', 'pending', qr/^TLS failed: / ],
	'expired' => [ $expired->url('/ok'), '', 'pending', qr/^TLS failed: / ],
	'no-tls' => [ 'https' . substr($plain->url('/ok'), 4), '', 'pending', qr/^TLS failed: / ],
	'private' => [ 'http://10.0.0.1/', '', 'pending', qr/^address refused: / ],
	'metadata' => [ 'http://169.254.169.254/latest/meta-data/', '', 'pending', qr/^address refused: / ],
	'loopback-6' => [ 'http://[::1]:80/', '', 'pending', qr/^address refused: / ],
	'public' => [ 'https://192.0.2.1/', '', 'pending', qr/^address refused: / ],
);
for my $name (sort keys %cases)
{
	service($name, $cases{$name}[0], 'circuit_threshold = 1000, ' . ($cases{$name}[1] || q{timeout = '3min'}));
	receive($name, $name);
}
for my $name (sort keys %cases)
{
	my ($url, $settings, $status, $error, $stack) = @{ $cases{$name} };
	if (!defined $status)
	{
		await_processed($name);
		is(sql("SELECT count(*) FROM webhook_dlq WHERE whatsapp_message_id = '$name'"), 0, "$name: processed");
		next;
	}
	await_entry($name, $status);
	pass("$name: $status");
	like(sql("SELECT error FROM webhook_dlq WHERE whatsapp_message_id = '$name'"), $error, "$name: error");
	like(sql("SELECT error_stack FROM webhook_dlq WHERE whatsapp_message_id = '$name'"), $stack, "$name: answer") if $stack;
	is(sql(qq{SELECT a.outcome, a.error = d.error, a.error_stack IS NOT DISTINCT FROM d.error_stack, retry_count
		FROM webhook_dlq d JOIN processed_webhook_messages m USING (whatsapp_message_id)
		JOIN webhook_delivery_attempts a ON a.message_id = m.id WHERE whatsapp_message_id = '$name'}), 'failed|t|t|0', "$name: attempt");
}
is(scalar($plain->requests('/ok')), 0, 'no redirect was followed');
settled('nothing is left of any of them');

# --- when to come again

# name => [code, Retry-After, seconds until the retry]
my %retry_after = (
	'later' => [ 503, 120, 120 ],
	'much-later' => [ 429, 99999999, 7200 ],
	'at-once' => [ 429, 0, 1 ],
	'unclear' => [ 503, 'soon', 3600 ],
	'later-than-most' => [ 503, 99999999, 30 ],
	'past' => [ 503, 'Sun, 06 Nov 1994 08:49:37 GMT', 1 ],
);
for my $name (sort keys %retry_after)
{
	my ($code, $when) = @{ $retry_after{$name} };
	service($name, $plain->url("/retry-after/$code/" . $when =~ s/ /%20/gr),
		q{timeout = '3min', circuit_threshold = 1000} . ($name eq 'later-than-most' ? q{, retry_max_delay = '30s'} : ''));
	receive($name, $name);
}
for my $name (sort keys %retry_after)
{
	await($node, "SELECT EXISTS (SELECT FROM webhook_dlq WHERE whatsapp_message_id = '$name')", $name);
	is(sql(qq{SELECT extract(epoch FROM next_retry_at - updated_at)::integer FROM webhook_dlq
		WHERE whatsapp_message_id = '$name' AND retry_count = 0
		UNION ALL SELECT $retry_after{$name}[2] FROM webhook_dlq WHERE whatsapp_message_id = '$name' AND retry_count > 0}),
		$retry_after{$name}[2], "$name: when it is due");
}
sql(q{UPDATE webhook_services SET enabled = false WHERE name IN ('at-once', 'past')});

# --- retries

service('recovering', $plain->url('/switch/recovering'));
$plain->set_switch('recovering', 503);
receive('recovering', 'retried');
await_entry('retried', 'pending');
$plain->set_switch('recovering', 200);
sql(q{UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id = 'retried'});
await_entry('retried', 'resolved');
my ($first, $second) = $plain->requests('/switch/recovering');
is($second->{headers}{'x-dlq-retry'}, 'true', 'a retry says that it is one');
is($second->{headers}{'idempotency-key'}, $first->{headers}{'idempotency-key'}, 'under the same idempotency key');
is($second->{headers}{'x-correlation-id'}, $first->{headers}{'x-correlation-id'}, 'and the same correlation id');
cmp_ok($second->{headers}{'x-wahook-lock-token'}, '>', $first->{headers}{'x-wahook-lock-token'}, 'with a later lock token');
is(decode_json($second->{body})->{messages}[0]{attempt}, 2, 'as the second attempt');
is(sql(q{SELECT string_agg(attempt || outcome, ' ' ORDER BY seq) FROM webhook_delivery_attempts a
	JOIN processed_webhook_messages m ON m.id = a.message_id WHERE whatsapp_message_id = 'retried'}), '1failed 2succeeded', 'both on record');

# A burst goes in one request. Where it is refused, each message is tried alone, and the bad one fails alone.
service('particular', $plain->url('/fails-with/poison'));
sql(q{SELECT receive_webhook('} . delivery(map { message($_, '4920', 'particular') } qw(burst-1 burst-poison burst-3)) . q{')});
await_entry('burst-poison', 'failed');
await_entry("burst-$_", 'resolved') for 1, 3;
my @bursts = map { join ' ', map { $_->{whatsapp_message_id} } @{ decode_json($_->{body})->{messages} } }
	$plain->requests('/fails-with/poison');
is(join(', ', @bursts), 'burst-1 burst-poison burst-3, burst-1, burst-poison, burst-3', 'in one request, then one by one');
is(sql(q{SELECT count(DISTINCT lock_token) FROM webhook_delivery_attempts WHERE service = 'particular' AND attempt = 2}), 1,
	'under one lock');
settled('nothing is left of the burst');

# In strict order, what failed holds back what came after it.
service('strict', $plain->url('/switch/strict'), q{timeout = '3min', circuit_threshold = 1000, strict_order = true});
$plain->set_switch('strict', 503);
sql(q{SELECT receive_webhook('} . delivery(map { message($_, '4921', 'strict') } qw(strict-1 strict-2 strict-3)) . q{')});
await($node, q{SELECT count(*) = 3 FROM webhook_dlq WHERE service = 'strict' AND resolution_status = 'pending'}, 'all failed');
sql(q{UPDATE webhook_dlq SET next_retry_at = now() WHERE service = 'strict'});
await($node, q{SELECT retry_count = 1 FROM webhook_dlq WHERE whatsapp_message_id = 'strict-1'}, 'the first failed again');
is(sql(q{SELECT count(*) FROM webhook_dlq WHERE service = 'strict' AND retry_count > 0}), 1, 'the others were not tried');
$plain->set_switch('strict', 200);
sql(q{UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id = 'strict-1'});
await_entry("strict-$_", 'resolved') for 1 .. 3;
is(join(' ', map { $_->{whatsapp_message_id} } map { @{ decode_json($_->{body})->{messages} } } $plain->requests('/switch/strict')),
	'strict-1 strict-2 strict-3 strict-1 strict-1 strict-2 strict-3', 'in strict order');

# --- dead letters that belong to no conversation

service('direct', $tls->url('/switch/direct'));
for my $case ([ 200, 'resolved', 0 ], [ 503, 'pending', 1 ], [ 400, 'failed', 1 ])
{
	my ($code, $status, $retries) = @$case;
	$tls->set_switch('direct', $code);
	my $id = sql(q{INSERT INTO webhook_dlq (payload, error, service, from_number, next_retry_at)
		VALUES ('{"task": "tidy"}', 'by hand', 'direct', '4911', now()) RETURNING id});
	await($node, "SELECT resolution_status = '$status' AND retry_count = $retries FROM webhook_dlq WHERE id = '$id'", "$code: $status");
	my $request = ($tls->requests('/switch/direct'))[-1];
	my $body = decode_json($request->{body});
	is($body->{dead_letter_id}, $id, "$code: the dead letter is named");
	is($body->{messages}[0]{task}, 'tidy', "$code: its payload is sent");
	is($request->{headers}{'x-dlq-retry'}, 'true', "$code: as a retry");
	ok(!exists $request->{headers}{'x-wahook-lock-token'}, "$code: there is no lock");
	is(sql("SELECT string_agg(outcome, ' ') FROM webhook_delivery_attempts WHERE message_id = '$id'"),
		$code == 200 ? 'succeeded' : 'failed', "$code: the attempt is on record");
}

# --- circuits

service('broken', $plain->url('/switch/broken'), q{timeout = '3min', concurrency = 1, circuit_threshold = 2, circuit_timeout = '1 hour'});
$plain->set_switch('broken', 500);
receive('broken', "broken-$_") for 1 .. 4;
await($node, q{SELECT state = 'open' FROM webhook_circuits WHERE key = 'service:broken'}, 'the circuit opens');
is(scalar($plain->requests('/switch/broken')), 2, 'an open circuit lets nothing through');
is(sql(q{SELECT count(*) FROM webhook_dlq WHERE service = 'broken'}), 2, 'and spends no retry');
$plain->set_switch('broken', 200);
sql(q{SELECT reset_circuit('service:broken')});
await_processed($_) for sql(q{SELECT whatsapp_message_id FROM processed_webhook_messages
	WHERE whatsapp_message_id LIKE 'broken-%' AND whatsapp_message_id NOT IN (SELECT whatsapp_message_id FROM webhook_dlq)}) =~ /\S+/g;
pass('what waited is delivered when it is closed');

service('healing', $plain->url('/switch/healing'), q{timeout = '3min', concurrency = 1, circuit_threshold = 1, circuit_timeout = '300 milliseconds'});
$plain->set_switch('healing', 500);
receive('healing', 'healing-1');
await_entry('healing-1', 'pending');
$plain->set_switch('healing', 200);
receive('healing', "healing-$_") for 2 .. 5;
await_processed("healing-$_") for 2 .. 5;
is(sql(q{SELECT state FROM webhook_circuits WHERE key = 'service:healing'}), 'closed', 'a circuit that is probed closes by itself');

# A probe that fails opens it again, and costs one message an attempt.
service('failing-probe', $plain->url('/switch/probe'), q{timeout = '3min', circuit_threshold = 1, circuit_timeout = '200 milliseconds'});
$plain->set_switch('probe', 500);
receive('failing-probe', "probe-$_") for 1 .. 3;
await($node, q{SELECT count(*) = 3 FROM webhook_dlq WHERE service = 'failing-probe'}, 'a probe each');
is(sql(q{SELECT state FROM webhook_circuits WHERE key = 'service:failing-probe'}), 'open', 'a probe that fails opens it again');
$plain->set_switch('probe', 200);
receive('failing-probe', 'probe-4');
await_processed('probe-4');

# What was erased while it waited is cleared away, and not sent.
service('erased', $plain->url('/status/200'), q{timeout = '3min', circuit_threshold = 1});
sql(q{SELECT record_circuit_failure('service:erased', 1, 3600000)});
receive('erased', 'erased');
sql(q{DELETE FROM processed_webhook_messages WHERE whatsapp_message_id = 'erased'; SELECT reset_circuit('service:erased')});
await($node, q{SELECT NOT EXISTS (SELECT FROM webhook_inbox WHERE service = 'erased')}, 'erased');
is(scalar($plain->requests('/status/200')), 0, 'a message that was erased is not sent');

# What is said of the endpoint counts, what is said of the message does not.
for my $case ([ 401, 'open' ], [ 404, 'open' ], [ 422, 'closed' ], [ 400, 'closed' ])
{
	my ($code, $state) = @$case;
	service("says-$code", $plain->url("/status/$code"), q{timeout = '3min', circuit_threshold = 1});
	receive("says-$code", "says-$code");
	await_entry("says-$code", 'failed');
	is(sql("SELECT coalesce((SELECT state FROM webhook_circuits WHERE key = 'service:says-$code'), 'closed')"), $state, "$code: $state");
}

# --- one does not delay another

service('stuck', $plain->url('/hang'), q{timeout = '3min', concurrency = 3});
receive('stuck', "stuck-$_") for 1 .. 6;
ok($plain->await_requests('/hang', 3 + 1), 'a service hangs with all it may have under way');
service('quick', $plain->url('/ok'));
receive('quick', "quick-$_") for 1 .. 5;
await_processed("quick-$_") for 1 .. 5;
is(scalar($plain->requests('/hang')), 3 + 1, 'others go on, and it gets no more than that');

$node->append_conf('postgresql.conf', 'wahook.http_max_connections = 3');
$node->reload;
receive('quick', "limited-$_") for 1 .. 5;
await_processed("limited-$_") for 1 .. 5;
pass('also when it has all there is');
$node->append_conf('postgresql.conf', 'wahook.http_max_connections = 100');
$node->reload;

# --- a lease that is lost

service('losing', $plain->url('/gate/lost'));
receive('losing', 'lost');
ok($plain->await_requests('/gate/lost', 1), 'a request is under way');
sql(q{UPDATE webhook_conversations SET locked_by = gen_random_uuid()
	WHERE id = (SELECT conversation_id FROM processed_webhook_messages WHERE whatsapp_message_id = 'lost')});
$plain->open_gate('lost');
$node->wait_for_log(qr/HTTP_DELIVERY_LEASE_LOST/);
is(sql(q{SELECT m.processed_at, (SELECT count(*) FROM webhook_dlq WHERE whatsapp_message_id = 'lost'),
	(SELECT count(*) FROM webhook_delivery_attempts WHERE message_id = m.id)
	FROM processed_webhook_messages m WHERE whatsapp_message_id = 'lost'}), '|0|0', 'who has lost the lease records nothing');

# --- fifty that are due

service('fifty', $plain->url('/switch/fifty'), q{timeout = '3min', circuit_threshold = 1000});
$plain->set_switch('fifty', 503);
receive('fifty', "fifty-$_") for 1 .. 50;
await($node, q{SELECT count(*) = 50 FROM webhook_dlq WHERE service = 'fifty' AND resolution_status = 'pending'}, 'fifty dead letters');
sql(q{UPDATE webhook_services SET url = '} . $plain->url('/slow/100') . q{' WHERE name = 'fifty';
	UPDATE webhook_dlq SET next_retry_at = now() WHERE service = 'fifty'});
await($node, q{SELECT count(*) = 50 FROM webhook_dlq WHERE service = 'fifty' AND resolution_status = 'resolved'}, 'all are resolved');
my $s = sql(q{SELECT extract(epoch FROM max(a.finished_at) - min(a.started_at)) FROM webhook_delivery_attempts a
	WHERE service = 'fifty' AND outcome = 'succeeded'});
note "fifty due dead letters took $s s";
cmp_ok($s, '<', 50 * 0.1, 'fifty dead letters are not sent one after the other');

# --- secrets

my $log = slurp_file($node->logfile);
unlike($log, qr/the-bearer-token|\Q$secret\E|\Q$previous\E|signature: v1,/, 'no secret is in the log');
unlike(sql('SELECT row_to_json(t) FROM webhook_dlq t') . sql('SELECT row_to_json(t) FROM webhook_delivery_attempts t'),
	qr/the-bearer-token|\Q$secret\E/, 'or in a table of outcomes');
unlike($log, qr/PANIC|FATAL|TRAP|WARNING/, 'nothing went wrong besides');

$node->stop;
done_testing();
