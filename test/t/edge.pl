# The edge function of doc/examples, served by Deno: Meta's side sends all payloads over HTTP, again and again, several at
# a time and in any order, while the function is killed, the server crashes and is restarted, and messages fail. Every
# message is processed once. Then what a caller can do wrong, what a handler can do wrong, and what an operator sees.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Digest::SHA qw(hmac_sha256);
use Edge;
use JSON::PP;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $secret = 'the-app-secret';
my $signing_key = 'a key of the worker and the function';
my $payloads = Edge::root() . '/test/fixtures/payloads.jsonl';
my $tmp = PostgreSQL::Test::Utils::tempdir();

my $node = new_node('edge', "listen_addresses = '127.0.0.1'", "wahook.app_secret = '$secret'",
	"wahook.verify_token = 'the-token'", 'log_statement = none');
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE bot LOGIN;
SELECT wahook_grant('bot', 'service');
-- What was done, written in the transactions that completed it. No unique key: it must be able to show a fault.
CREATE TABLE work (n bigint GENERATED ALWAYS AS IDENTITY, message_id text NOT NULL, conversation_id uuid, lock_token bigint,
	flag boolean, body text);
GRANT INSERT ON work TO bot;
SQL
my $function = Edge->new(bot => 'bot.ts', DATABASE_URL => 'postgres://bot@127.0.0.1:' . $node->port . '/postgres',
	WAHOOK_TIMEOUT_MS => 600_000, WAHOOK_SIGNING_SECRET => 'whsec_' . encode_base64($signing_key, ''), WAHOOK_BEARER_TOKEN => 'bearer-of-good-news',
	WAHOOK_METRICS_TOKEN => 'of-numbers', WAHOOK_DASHBOARD_TOKEN => 'of-charts');

sub sql { return $node->safe_psql('postgres', @_) }
sub sign { return 'sha256=' . Digest::SHA::hmac_sha256_hex($_[0], $secret) }
sub json { return decode_json($_[0]{content}) }
sub send_text { my ($id, $from, $text) = @_; return $function->post_signed($secret, delivery(message($id, $from, $text))) }

# As if two minutes were over.
sub end_leases
{
	sql(q{UPDATE webhook_conversations SET lock_expires_at = now() - interval '1 s' WHERE locked_by IS NOT NULL;
		UPDATE webhook_leases SET expires_at = now() - interval '1 s' WHERE expires_at > now();
		SELECT cleanup_stuck_webhook_conversations()});
	return;
}

# --- Everything at once

my $stop = "$tmp/stop";
my $summary = "$tmp/summary";
my $meta = IPC::Run::start([ Edge::deno(), 'run', '--allow-net', '--allow-read', '--cached-only',
	Edge::root() . '/test/edge/meta.ts', "$function->{url}/webhook", $payloads, $secret, $stop, 8 ], '>', $summary, '2>', "$summary.err");

# Killed while it holds a conversation, its work half done.
send_text('wamid.killed', '15550001', "wait $tmp/never");
await($node, "SELECT locked_by IS NOT NULL FROM webhook_conversations WHERE whatsapp_phone = '15550001'",
	'the function holds the conversation');
await($node, 'SELECT count(*) > 20 FROM processed_webhook_messages', 'deliveries come in');
$function->stop('KILL');
is(sql("SELECT count(*) FROM work WHERE message_id = 'wamid.killed'"), '0', 'kill -9: what was half done is not done');
end_leases(); # nobody is alive who could hold one
append_to_file("$tmp/never", 'now');
$function->start;

# The server crashes under load, and comes back at once: that is bridged. What was being claimed has nobody to complete it.
$node->stop('immediate');
$node->start;
is(send_text('wamid.crash', '15550002', 'still there?')->{status}, 200, 'a crash of the server: the function goes on');
await($node, q{SELECT count(*) = 1 FROM work WHERE message_id = 'wamid.crash'}, 'and processes messages');

# It is away for longer: Meta is told to come again.
$node->stop('fast');
my $refused = send_text('wamid.restart', '15550002', 'still there?');
is($refused->{status}, 503, 'no server: 503');
is($refused->{headers}{'retry-after'}, 5, 'and when to come again');
is($function->get($_, Authorization => 'Bearer of-numbers')->{status}, 503, "$_ says so, too") for qw(/health /metrics /webhook?hub.mode=subscribe);
is(json($function->get('/health'))->{status}, 'down', 'in a word');
$node->start;
is(send_text('wamid.restart', '15550002', 'still there?')->{status}, 200, 'the server is back: the function goes on');
await($node, q{SELECT count(*) = 1 FROM work WHERE message_id = 'wamid.restart'}, 'and processes messages');

append_to_file($stop, '');
$meta->finish;
is(slurp_file("$summary.err"), '', 'nothing went wrong at the sender');
my $sent = decode_json(slurp_file($summary));

# What is left: retries, and what the restarts interrupted. Time goes on until nothing waits.
sub drain
{
	for (1 .. 20)
	{
		end_leases();
		sql(q{UPDATE webhook_dlq SET next_retry_at = now() WHERE resolution_status = 'pending';
			SELECT retry_dead_letters();
			SELECT process_dead_letter_queue(1000)});
		send_text('wamid.crash', '15550002', 'still there?'); # a duplicate, which sets the function to work
		await($node, 'SELECT count(*) = 0 FROM webhook_conversations WHERE locked_by IS NOT NULL', 'nobody is at work');
		return if sql(q{SELECT NOT EXISTS (SELECT FROM webhook_inbox)
			AND NOT EXISTS (SELECT FROM webhook_dlq WHERE resolution_status <> 'resolved')}) eq 't';
	}
}
drain();

my %counted = map { split /\t/ } split /\n/, `"@{[Edge::root()]}/test/demo/count" "$payloads"`;
my $own = 3; # of this test, besides the payloads
my %account = (
	accepted => sql('SELECT count(*) FROM processed_webhook_messages'),
	once => sql('SELECT count(*) FROM (SELECT message_id FROM work GROUP BY 1 HAVING count(*) = 1) w'),
	lost => sql('SELECT count(*) FROM processed_webhook_messages m
		WHERE NOT EXISTS (SELECT FROM work w WHERE w.message_id = m.whatsapp_message_id)'),
	twice => sql('SELECT count(*) FROM (SELECT message_id FROM work GROUP BY 1 HAVING count(*) > 1) w'),
	retried => sql('SELECT count(*) FROM webhook_dlq'));
my $statuses = join ', ', map { "$_: $sent->{statuses}{$_}" } sort keys %{ $sent->{statuses} };
account("requests sent: $sent->{requests}, of which unanswered, while the function was down: $sent->{interrupted}");
account("duplicates sent: $sent->{duplicates}, each of $sent->{deliveries} deliveries at least once");
account("responses by status: $statuses");
account("messages accepted: $account{accepted}, of which failed at first and were retried: $account{retried}");
account("messages processed once: $account{once}, lost: $account{lost}, twice: $account{twice}");
is($account{accepted}, $counted{'different messages'} + $own, 'every message was accepted');
is($account{once}, $account{accepted}, 'every message was processed once');
is($account{lost}, 0, 'none was lost');
is($account{twice}, 0, 'none was processed twice');
cmp_ok($account{retried}, '>', 0, 'some failed at first');
is(sql('SELECT count(*) FROM processed_webhook_messages WHERE processed_at IS NULL'), '0', 'all are marked as processed');
cmp_ok($sent->{interrupted}, '>', 0, 'the sender met the dead function');
cmp_ok($sent->{statuses}{503}, '>', 0, 'and the missing server');
is_deeply([ sort keys %{ $sent->{statuses} } ], [ 200, 503 ], 'it was told nothing else');

# --- Order

send_text("wamid.ordered.$_", '15550003', $_ == 3 ? 'fail' : 'succeed') for 1 .. 20;
await($node, q{SELECT count(*) = 19 FROM work WHERE message_id LIKE 'wamid.ordered.%'}, 'all but the one that fails');
is(sql(q{SELECT array_agg(substr(message_id, 15)::int ORDER BY n) = array_remove(array_agg(substr(message_id, 15)::int
	ORDER BY substr(message_id, 15)::int), NULL) FROM work WHERE message_id LIKE 'wamid.ordered.%'}),
	't', 'the messages of a conversation are processed in their order, around one that failed');

# Where the service is strict, the messages behind one that failed wait for it.
sql(q{UPDATE webhook_services SET strict_order = true});
send_text("wamid.strict.$_", '15550012', $_ == 2 ? 'fail' : 'succeed') for 1 .. 3;
await($node, q{SELECT EXISTS (SELECT FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.strict.2')}, 'the second one fails');
await($node, q{SELECT count(*) = 0 FROM webhook_conversations WHERE locked_by IS NOT NULL}, 'nobody is at work');
is(sql(q{SELECT string_agg(message_id, ' ') FROM work WHERE message_id LIKE 'wamid.strict.%'}), 'wamid.strict.1', 'the third one waits');
sql(q{UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id = 'wamid.strict.2'; SELECT process_dead_letter_queue()});
send_text('wamid.strict.1', '15550012', 'succeed');
await($node, q{SELECT string_agg(message_id, ' ' ORDER BY n) = 'wamid.strict.1 wamid.strict.2 wamid.strict.3'
	FROM work WHERE message_id LIKE 'wamid.strict.%'}, 'until the second one has been retried');
sql(q{UPDATE webhook_services SET strict_order = false});

# --- What callers get wrong

is($function->get('/webhook?hub.mode=subscribe&hub.verify_token=the-token&hub.challenge=1158201444')->{content},
	'1158201444', 'the handshake is answered with the challenge');
is($function->get('/webhook?hub.mode=subscribe&hub.verify_token=wrong&hub.challenge=1')->{status}, 403, 'not with a wrong token');
is($function->get('/webhook')->{status}, 403, 'not without one');

my $body = delivery(message('wamid.forged', '15550004', 'hello'));
for (
	[ 'no signature', 401, $function->post($body) ],
	[ 'a wrong signature', 401, $function->post($body, 'X-Hub-Signature-256' => 'sha256=' . '0' x 64) ],
	[ 'the signature of another body', 401, $function->post("$body ", 'X-Hub-Signature-256' => sign($body)) ],
	[ 'an old signature by SHA-1', 401, $function->post($body, 'X-Hub-Signature' => 'sha1=' . '0' x 40) ],
	[ 'no JSON', 400, $function->post_signed($secret, 'hello') ],
	[ 'no UTF-8', 400, $function->post_signed($secret, "\xff\xfe{}") ],
	[ 'a zero byte', 400, $function->post_signed($secret, "{}\0") ],
	[ 'more than the database takes', 413, $function->post_signed($secret, ' ' x 3_500_000) ],
	[ 'more than anybody sends', 413, $function->post_signed($secret, ' ' x 5_000_000) ],
	[ 'an unknown path', 404, $function->get('/') ],
	[ 'an unknown method', 405, HTTP::Tiny->new->request('PUT', "$function->{url}/webhook") ])
{
	my ($what, $status, $response) = @$_;
	is($response->{status}, $status, $what);
	like($response->{headers}{'x-correlation-id'}, qr/^[0-9a-f-]{36}$/, 'answered with a correlation id');
}
is(sql(q{SELECT count(*) FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.forged'}), '0', 'nothing of it got in');


# --- What handlers get wrong

sub entry { return sql("SELECT resolution_status || ': ' || error FROM webhook_dlq WHERE whatsapp_message_id = '$_[0]'") }

send_text('wamid.break', '15550005', 'break');
await($node, q{SELECT EXISTS (SELECT FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.break')}, 'the work failed');
like(entry('wamid.break'), qr/^pending: null value in column "message_id"/, 'work that the database refuses is a failure');

$function->{env}{WAHOOK_TIMEOUT_MS} = 300;
is($function->stop('TERM'), 0, 'the function ends when it is asked to');
$function->start;
send_text('wamid.hang', '15550006', 'hang');
await($node, q{SELECT EXISTS (SELECT FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.hang')}, 'the handler hung');
is(entry('wamid.hang'), 'pending: not processed within 300 ms', 'a handler that hangs is a failure');

# One that is at work when the function is asked to end may finish.
$function->{env}{WAHOOK_TIMEOUT_MS} = 600_000;
$function->stop('TERM');
$function->start;
send_text('wamid.last', '15550007', "wait $tmp/gate");
await($node, q{SELECT locked_by IS NOT NULL FROM webhook_conversations WHERE whatsapp_phone = '15550007'}, 'it is at work');
$function->{run}->signal('TERM');
append_to_file("$tmp/gate", '');
$function->{run}->finish;
is($function->{run}->full_result(0), 0, 'the function ends');
is(sql(q{SELECT count(*) FROM work WHERE message_id = 'wamid.last'}), '1', 'after it has processed what it had claimed');
is(sql('SELECT count(*) FROM webhook_conversations WHERE locked_by IS NOT NULL'), '0', 'and holds nothing any more');
$function->start;

# --- The worker's side: it posts a claim that it holds, and records what becomes of it

sub forward
{
	my ($body, %change) = @_;
	my ($id, $at) = ('msg_1', $change{at} // time);
	my $key = $change{key} // $signing_key;
	return $function->post($change{body} // $body, 'X-WA-Internal-Forward' => 'true', 'X-DLQ-Retry' => 'true',
		'Authorization' => 'Bearer ' . ($change{bearer} // 'bearer-of-good-news'),
		'webhook-id' => $id, 'webhook-timestamp' => $at,
		'webhook-signature' => 'v1,' . encode_base64('x' x 32, '') . ' v1,' . encode_base64(hmac_sha256("$id.$at.$body", $key), ''));
}

sub claim
{
	my (@messages) = @_;
	sql("SELECT FROM receive_webhook(\$body\$" . $_[0] . "\$body\$, '" . sign($_[0]) . "')");
	return sql('SELECT to_json(c) FROM claim_conversations() AS c');
}

my $claim = claim(delivery(message('wamid.f1', '15550008', 'succeed'), message('wamid.f2', '15550008', 'succeed')));
is(forward($claim, key => 'another key')->{status}, 401, 'a forward that is signed by another is refused');
is(forward($claim, body => "$claim ")->{status}, 401, 'so is one that was changed');
is(forward($claim, at => time - 3600)->{status}, 401, 'and one that is old');
is(forward($claim, bearer => 'wrong')->{status}, 401, 'and one with another bearer token');
is(sql(q{SELECT count(*) FROM work WHERE message_id LIKE 'wamid.f_'}), '0', 'none did anything');
my $forwarded = forward($claim);
is($forwarded->{status}, 200, 'a signed one is processed');
is_deeply(json($forwarded), { completed => 2, errors => [] }, 'all of it');
is(sql(q{SELECT count(*) FROM work WHERE message_id LIKE 'wamid.f_'}), '2', 'and what it caused is there');
is(forward($claim)->{status}, 200, 'once more');
is(sql(q{SELECT count(*) FROM work WHERE message_id LIKE 'wamid.f_'}), '2', 'does nothing twice');
sql("SELECT release_conversation_lock(id, locked_by) FROM webhook_conversations WHERE locked_by IS NOT NULL");

# Of a 500 the worker fails all that it posted. So it must not get one where something was completed.
$claim = claim(delivery(message('wamid.f3', '15550008', 'fail')));
$forwarded = forward($claim);
is($forwarded->{status}, 500, 'where all failed, the worker is told');
is_deeply(json($forwarded), { completed => 0, errors => ['Error: told to fail wamid.f3'] }, 'and why');
is(sql(q{SELECT count(*) FROM webhook_inbox}), '1', 'and decides what becomes of it');
sql("SELECT release_conversation_lock(id, locked_by) FROM webhook_conversations WHERE locked_by IS NOT NULL");

$claim = claim(delivery(message('wamid.f4', '15550008', 'succeed')));
is(forward($claim)->{status}, 200, 'where some failed, the function records it');
is(entry('wamid.f3'), 'pending: told to fail wamid.f3', 'the one that failed is a dead letter');
is(sql(q{SELECT count(*) FROM work WHERE message_id = 'wamid.f4'}), '1', 'the other one is done');
sql("SELECT release_conversation_lock(id, locked_by) FROM webhook_conversations WHERE locked_by IS NOT NULL");

sql(q{UPDATE webhook_services SET strict_order = true});
$claim = claim(delivery(map { message("wamid.s$_", '15550011', $_ == 2 ? 'fail' : 'succeed') } 1 .. 3));
is(forward($claim)->{status}, 200, 'a strict service');
is(sql(q{SELECT string_agg(message_id, ' ') FROM work WHERE message_id LIKE 'wamid.s_'}), 'wamid.s1',
	'does not go on behind a message that failed');
is(sql(q{SELECT count(*) FROM webhook_conversations WHERE locked_by IS NOT NULL}), '0', 'the rest waits again');
sql(q{UPDATE webhook_services SET strict_order = false});

# A dead letter of the first generation, without a conversation: there is no lock, and the worker records the rest.
$forwarded = forward(encode_json({ conversation_id => undef, lock_id => undef, service => 'default', user_id => undef, messages =>
	[ { whatsapp_message_id => 'wamid.direct', attempt => 2, message => { text => { body => 'succeed' } } } ] }));
is($forwarded->{status}, 200, 'a dead letter without a conversation');
is(sql(q{SELECT count(*) FROM work WHERE message_id = 'wamid.direct'}), '1', 'is processed');

# --- What operators see

my $correlation = '11111111-2222-4333-8444-555555555555';
my $response = $function->post_signed($secret, delivery(message('wamid.traced', '15550009', 'succeed')), 'X-Correlation-ID' => $correlation);
is($response->{headers}{'x-correlation-id'}, $correlation, 'a correlation id comes back');
is(json($response)->{accepted}, 1, 'with what became of the delivery');
await($node, q{SELECT EXISTS (SELECT FROM work WHERE message_id = 'wamid.traced')}, 'the message is processed');
is(sql(q{SELECT correlation_id FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.traced'}), $correlation,
	'is with the message');
$function->stop('TERM');
my @log = $function->log_lines;
my %seen = map { $_->{event} => 1 } grep { ($_->{correlation_id} // '') eq $correlation } @log;
is_deeply([ sort keys %seen ], [ 'MESSAGE_PROCESSED', 'WEBHOOK_RECEIVED' ], 'and in the log');
is((grep { !($_->{time} && $_->{level} && $_->{event}) } @log), 0, 'each line of the log is an object with time, level and event');
unlike(slurp_file($function->{log}), qr/wamid|1555000\d|succeed/, 'none with a message id, a phone number or a text');
$function->start;

my $health = json($function->get('/health'));
like($health->{status}, qr/^(ok|degraded)$/, '/health');
is_deeply([ map { join ' ', sort keys %$_ } @{ $health->{reasons} } ], [ ('message reason severity') x @{ $health->{reasons} } ],
	'alerts go without ids');
my @bearer = (Authorization => 'Bearer of-numbers');
my $text = $function->get('/metrics', @bearer);
is($text->{headers}{'content-type'}, 'text/plain; version=0.0.4; charset=utf-8', '/metrics');
is($text->{content} =~ s/(oldest|age)_seconds .*/$1_seconds/gr, sql('SELECT webhook_metrics_prometheus()') =~ s/(oldest|age)_seconds .*/$1_seconds/gr,
	'says what the database says');
is($function->get('/metrics', %$_)->{status}, 401, 'not to everybody')
	for {}, { Authorization => 'Bearer of-number' }, { Authorization => 'of-numbers' }, { Authorization => 'Bearer ' };

my @page = (Authorization => 'Bearer of-charts');
my $page = $function->get('/dashboard', @page);
is("$page->{status} $page->{headers}{'content-type'} $page->{headers}{'cache-control'}", '200 text/html; charset=utf-8 no-store', '/dashboard');
like($page->{headers}{'content-security-policy'}, qr/default-src 'none'/, 'may run nothing, and load nothing');
like($page->{content}, qr{^<!DOCTYPE html>.*<h1>wahook in postgres</h1>.*</html>$}s, 'is the page');
unlike($page->{content}, qr/1555000|wamid|succeed/, 'without phone numbers, ids and texts');
is($function->get('/dashboard', Authorization => 'Basic ' . encode_base64('anybody:of-charts', ''))->{status}, 200, 'also by a password, as browsers ask for it');
for ({}, { Authorization => 'Bearer of-numbers' }, { Authorization => 'Bearer of-chart' }, { Authorization => 'Basic ' . encode_base64('of-charts:x', '') },
	{ Authorization => 'Basic ' . encode_base64("x:\xc3\xbc", '') }, { Authorization => 'Basic' })
{
	my $answer = $function->get('/dashboard', %$_);
	is("$answer->{status} $answer->{headers}{'www-authenticate'}", '401 Basic realm="wahook", charset="UTF-8"', 'not to everybody');
}

is($function->stop('INT'), 0, 'the end');

# --- Each call of the client

my $calls = delivery(map { message("wamid.client.$_", '15550014', 'hello') } 1 .. 3);
system('cp', Edge::root() . '/test/edge/client.ts', $function->{dir}) == 0 or die;
my $answers = '';
IPC::Run::run([ Edge::deno(), 'run', '--allow-net', '--allow-env', '--allow-read', '--cached-only', "$function->{dir}/client.ts",
	$function->{env}{DATABASE_URL}, $calls, sign($calls) ], '>', \$answers, '2>&1');
is((() = $answers =~ /^ok /mg), 27, 'each call of the client');
unlike($answers, qr/^(?!ok )/m, 'does what it says');
is(sql(q{SELECT count(*) FROM work WHERE message_id = 'twice'}), '0', 'work on a message that was completed before is undone');

# --- With the extension in a schema that has to be quoted, and is not in the search_path

$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
$node->safe_psql('elsewhere', q{CREATE SCHEMA "Web hook"; CREATE EXTENSION wahook SCHEMA "Web hook";
	SELECT "Web hook".wahook_grant('bot', 'service');
	CREATE TABLE work (message_id text, conversation_id uuid, lock_token bigint, flag boolean, body text); GRANT INSERT ON work TO bot});
my $elsewhere = Edge->new(bot => 'bot.ts', %{ $function->{env} }, WAHOOK_SCHEMA => 'Web hook',
	DATABASE_URL => 'postgres://bot@127.0.0.1:' . $node->port . '/elsewhere');
is($elsewhere->post_signed($secret, delivery(message('wamid.else', '15550015', 'flag enhanced_processing')))->{status}, 200,
	'in another schema');
is($elsewhere->get($_, @bearer)->{status}, 200, $_) for qw(/health /metrics);
is($elsewhere->stop('TERM'), 0, 'ends when what it began is done');
is($node->safe_psql('elsewhere', 'SELECT flag FROM work'), 'f', 'processed, the flag asked for');

# --- In Supabase's runtime, which lets the function live until its tasks are done

$function = Edge->new(bot => 'bot.ts', preload => 'supabase.ts', %{ $function->{env} });
send_text('wamid.task', '15550013', 'succeed');
$function->await_event('TASK_DONE', 1);
$function->stop('KILL');
is_deeply([ map { $_->{event} } $function->log_lines ], [ qw(LISTENING WEBHOOK_RECEIVED MESSAGE_PROCESSED TASK_DONE) ],
	'by a task that the runtime was told of');

# --- The folder as it is, three variables set, behind PgBouncer in transaction mode with two sessions: a bot that answers

my $pooler_port = PostgreSQL::Test::Cluster::get_free_port();
append_to_file("$tmp/pgbouncer.ini", <<"INI");
[databases]
postgres = host=127.0.0.1 port=@{[$node->port]} user=bot
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $pooler_port
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
INI
local $ENV{PATH} = "$ENV{PATH}:/usr/sbin";
my $pooler = IPC::Run::start([ 'pgbouncer', '-q', "$tmp/pgbouncer.ini" ], '<', '/dev/null', '>', "$tmp/pgbouncer.log", '2>&1');

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $graph = IPC::Run::start([ Edge::deno(), 'run', '--allow-net', '--allow-write', Edge::root() . '/test/edge/graph.ts', $port,
	"$tmp/sent" ], '<', '/dev/null', '>', "$tmp/graph.log", '2>', "$tmp/graph.err");
$function = Edge->new(GRAPH_URL => "http://127.0.0.1:$port", DATABASE_URL => "postgres://bot\@127.0.0.1:$pooler_port/postgres",
	WHATSAPP_TOKEN => 'token-of-the-business', WAHOOK_SIGNING_SECRET => $function->{env}{WAHOOK_SIGNING_SECRET});
send_text('wamid.new1', '15550010', 'Hello!');
send_text("wamid.pooled.$_", '1556' . $_ % 10, 'Hello!') for 1 .. 40;
await($node, q{SELECT processed_at IS NOT NULL FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.new1'},
	'the bot has answered');
sql(q{UPDATE webhook_feature_flags SET state = 'on' WHERE flag = 'enhanced_processing'});
send_text('wamid.new2', '15550010', 'Hello again!');
await($node, q{SELECT processed_at IS NOT NULL FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.new2'},
	'and again');
await($node, q{SELECT count(processed_at) = 40 FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'wamid.pooled.%'},
	'and all others');
my @sent = map { decode_json($_) } split /\n/, slurp_file("$tmp/sent");
is(scalar @sent, 42, 'each once');
@sent = grep { $_->{to} eq '15550010' } @sent;
is_deeply([ map { $_->{text}{body} } @sent ], [ 'You said: Hello!', 'friend said: Hello again!' ],
	'an answer to each, the second one with the feature that was turned on meanwhile');
is_deeply([ @{ $sent[0] }{qw(path authorization to type context)} ],
	[ '/1001/messages', 'Bearer token-of-the-business', '15550010', 'text', { message_id => 'wamid.new1' } ],
	'from the number that was written to, to who wrote, as a reply');
is($function->get("/$_", Authorization => 'Bearer ')->{status}, 404, "without a token of its own /$_ is not there") for qw(metrics dashboard);
is($function->stop('TERM'), 0, 'the bot ends');
for my $run ($graph, $pooler)
{
	$run->signal('TERM');
	$run->finish;
}
done_testing();
