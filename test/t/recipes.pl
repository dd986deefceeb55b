# The recipes in doc/recipes that are programs: workers that pull, a service that the worker delivers to, and a handler
# in SQL that it runs.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Digest::SHA qw(hmac_sha256);
use Edge;
use HTTP::Tiny;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use Wahook;

my $tmp = PostgreSQL::Test::Utils::tempdir();
my $node = new_node('recipes', "listen_addresses = '127.0.0.1'", "shared_preload_libraries = 'wahook'",
	"wahook.http_allowed_networks = '127.0.0.1'", 'log_statement = none');
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE worker LOGIN;
SELECT wahook_grant('worker', 'service');
CREATE TABLE work (n bigint GENERATED ALWAYS AS IDENTITY, message_id text NOT NULL, conversation_id uuid, worker text);
GRANT INSERT ON work TO worker;
CREATE TABLE orders (message_id text, what text);
GRANT INSERT ON orders TO worker;
SQL

sub sql { return $node->safe_psql('postgres', @_) }

# A program of doc/recipes beside the packages that it imports.
sub start_program
{
	my ($name, $command, %env) = @_;
	my $program = { name => $name, log => "$tmp/$name.log" };
	local %ENV = (%ENV, NAME => $name, DATABASE_URL => 'postgres://worker@127.0.0.1:' . $node->port . '/postgres', %env);
	$program->{run} = IPC::Run::start([ 'node', @$command ], '<', '/dev/null', '>>', $program->{log}, '2>>', $program->{log});
	return $program;
}

# Its handler is the test's, unless another is named.
sub start_worker
{
	my ($name, %env) = @_;
	my $handler = delete $env{handler} // "$tmp/test-handler.mjs";
	return start_program($name, [ "$tmp/pull-worker.mjs", $handler ], %env);
}

sub stop_program
{
	my ($program, $signal) = @_;
	$program->{run}->signal($signal);
	$program->{run}->finish;
	note slurp_file($program->{log});
	return $program->{run}->full_result(0);
}

sub receive
{
	my ($from, @messages) = @_;
	sql('SELECT FROM receive_webhook($$' . delivery(map { message($_->[0], $from, $_->[1]) } @messages) . '$$)');
	return;
}

sub processed { my ($id) = @_; return "SELECT count(*) = 1 FROM work WHERE message_id = '$id'" }

symlink Edge::root() . '/test/edge/node_modules', "$tmp/node_modules" or die $!;
system('cp', glob(Edge::root() . '/doc/recipes/*.mjs'), $tmp) == 0 or die;
system('cp', Edge::root() . '/test/edge/handler.mjs', "$tmp/test-handler.mjs") == 0 or die;

# Two workers, ten users, a message that fails among those of each.
for my $user (0 .. 9)
{
	receive("1555$user", map { [ "wamid.$user.$_", $_ == 3 ? 'fail' : 'work' ] } 1 .. 6);
}
my @workers = map { start_worker($_) } qw(one two);
await($node, 'SELECT count(*) = 50 FROM work', 'all that do not fail are processed');
is(sql(q{SELECT count(*) FROM webhook_dlq WHERE resolution_status = 'pending' AND error = 'told to fail'}), '10', 'those that fail are dead letters');
sql(q{UPDATE webhook_dlq SET next_retry_at = now(); SELECT process_dead_letter_queue()});
await($node, 'SELECT count(*) = 60 FROM work', 'and are processed later');
is(sql('SELECT count(*) FROM (SELECT message_id FROM work GROUP BY 1 HAVING count(*) > 1) twice'), '0', 'none twice');
is(sql(q{SELECT count(*) FROM (SELECT n, lag(n) OVER (PARTITION BY conversation_id ORDER BY split_part(message_id, '.', 3)::int) AS before
	FROM work WHERE message_id NOT LIKE '%.3') w WHERE n < before}), '0', 'in the order of their conversations');
stop_program($workers[1], 'TERM');

# Errors of the work, and handlers that hang.
receive('15551', [ 'wamid.break', 'break' ]);
await($node, q{SELECT count(*) = 1 FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.break'}, 'work that fails is a failure');
is(stop_program($workers[0], 'TERM'), 0, 'a worker ends when it is asked to');
my $impatient = start_worker('impatient', TIMEOUT_MS => 200);
receive('15551', [ 'wamid.hang', 'hang' ]);
await($node, q{SELECT count(*) = 1 FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.hang'}, 'so is a handler that hangs');
stop_program($impatient, 'TERM');

# A lease is renewed for as long as the work takes.
my $renewing = start_worker('renewing', LEASE_MS => 3000, TIMEOUT_MS => 600_000);
receive('15552', [ 'wamid.long', "wait $tmp/long" ]);
await($node, q{SELECT lock_expires_at > locked_at + interval '4 s' FROM webhook_conversations WHERE whatsapp_phone = '15552'}, 'renewed');
append_to_file("$tmp/long", '');
await($node, processed('wamid.long'), 'and processed at last');

# Who is told to stop finishes what it has begun, and leaves the rest.
receive('15553', [ 'wamid.last', "wait $tmp/last" ], [ 'wamid.rest', 'work' ]);
await($node, q{SELECT locked_by IS NOT NULL FROM webhook_conversations WHERE whatsapp_phone = '15553'}, 'it is at work');
$renewing->{run}->signal('TERM');
append_to_file("$tmp/last", '');
is(stop_program($renewing, 'CONT'), 0, 'ends');
is(sql(q{SELECT string_agg(message_id, ' ') FROM work WHERE message_id IN ('wamid.last', 'wamid.rest')}), 'wamid.last', 'when the message is done');
is(sql('SELECT count(*) FROM webhook_conversations WHERE locked_by IS NOT NULL'), '0', 'nothing stays locked');

# One that is killed leaves its lease; when that is over, another goes on. Work half done is not done.
my $killed = start_worker('killed', TIMEOUT_MS => 600_000);
await($node, processed('wamid.rest'), 'what the former left is processed');
receive('15554', [ 'wamid.killed', "wait $tmp/killed" ]);
await($node, q{SELECT locked_by IS NOT NULL FROM webhook_conversations WHERE whatsapp_phone = '15554'}, 'it is at work');
stop_program($killed, 'KILL');
sql(q{UPDATE webhook_conversations SET lock_expires_at = now() - interval '1 s' WHERE locked_by IS NOT NULL;
	UPDATE webhook_leases SET expires_at = now() - interval '1 s'; SELECT cleanup_stuck_webhook_conversations()});
append_to_file("$tmp/killed", '');
my $next = start_worker('next');
await($node, processed('wamid.killed'), 'another goes on');
is(sql(q{SELECT worker FROM work WHERE message_id = 'wamid.killed'}), 'next', 'once');

# The database goes away and comes back.
$node->restart;
receive('15555', [ 'wamid.back', 'work' ]);
await($node, processed('wamid.back'), 'a worker outlives a restart of the server');
is(stop_program($next, 'TERM'), 0, 'ends');

# The handler that comes with it.
my $shown = start_worker('shown', handler => "$tmp/handler.mjs");
receive('15556', [ 'wamid.order', 'A table for two' ]);
await($node, q{SELECT what = 'A table for two' FROM orders WHERE message_id = 'wamid.order'}, 'the handler as it is in the recipes');
is(stop_program($shown, 'INT'), 0, 'ends');
unlike(slurp_file($shown->{log}), qr/wamid|table/, 'its log has neither ids nor texts');

# A handler that asks a model: what was said before goes with the question, and the turn is remembered once.
append_to_file("$tmp/model.mjs", <<'JS');
import { createServer } from "node:http";
createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  const { messages } = JSON.parse(body);
  if (messages.at(-1).content === "fail") return response.writeHead(500).end();
  const content = `${messages.length}: ${messages.map(({ content }) => content).join("|")}`;
  response.end(JSON.stringify({ model: "m", choices: [{ message: { role: "assistant", content, refusal: null } }], usage: { prompt_tokens: 7, completion_tokens: 3 } }));
}).listen(process.env.PORT, "127.0.0.1", () => console.log("LISTENING"));
JS
my $model_port = PostgreSQL::Test::Cluster::get_free_port();
my $model = start_program('model', [ "$tmp/model.mjs" ], PORT => $model_port);
sql(q{CREATE TABLE replies (id bigint GENERATED ALWAYS AS IDENTITY, conversation_id uuid, body text); GRANT INSERT ON replies TO worker;
	UPDATE webhook_agents SET system_prompt = 'You wait at tables.', model = 'm' WHERE agent_type = 'waiter'});
my $asking = start_worker('asking', handler => "$tmp/agent-handler.mjs", MODEL_URL => "http://127.0.0.1:$model_port/", MODEL_KEY => 'key');
receive('15559', [ 'wamid.ask.1', 'A table' ], [ 'wamid.ask.2', 'fail' ], [ 'wamid.ask.3', 'for two' ]);
await($node, q{SELECT count(*) = 2 FROM replies}, 'answered');
is(sql('SELECT string_agg(body, chr(10) ORDER BY id) FROM replies'), "2: You wait at tables.|A table\n4: You wait at tables.|A table|2: You wait at tables.|A table|for two", 'the model is told what was said before');
is(sql(q{SELECT messages_count FROM agent_contexts WHERE agent_type = 'waiter'}), '4', 'and both turns are remembered');
is(sql(q{SELECT count(*), sum(prompt_tokens), min(model) FROM agent_turns WHERE outcome = 'answered'}), '2|14|m', 'and counted');
is(sql(q{SELECT error FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.ask.2'}), 'the model answered with status 500', 'a turn that fails is a dead letter');
stop_program($asking, 'TERM');
stop_program($model, 'KILL');

# --- A service over HTTP, to which the worker delivers

my $key = 'a key that both of them have, and nobody else';
my $port = PostgreSQL::Test::Cluster::get_free_port();
my %service_env = (PORT => $port, SIGNING_SECRET => 'whsec_' . encode_base64($key, ''));
sub start_service
{
	my ($name) = @_;
	my $program = start_program($name, [ "$tmp/http-service.mjs" ], %service_env);
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	until (slurp_file($program->{log}) =~ /LISTENING/)
	{
		BAIL_OUT("the service does not start:\n" . slurp_file($program->{log})) if time > $deadline;
		usleep 20_000;
	}
	return $program;
}
my $service = start_service('service');
sql("INSERT INTO webhook_services (name, url, allow_http, circuit_timeout) VALUES ('http', 'http://127.0.0.1:$port/', true, '1 s');
	SELECT set_webhook_service_secrets('http', p_signing_secret => '$service_env{SIGNING_SECRET}');
	SELECT add_webhook_route('to the service', 'http', 'all')");
receive('15557', map { [ "wamid.http.$_", 'hello' ] } 1 .. 3);
await($node, q{SELECT count(processed_at) = 3 FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'wamid.http._'}, 'delivered and processed');
is((() = slurp_file($service->{log}) =~ /"event":"MESSAGE"/g), 3, 'each once');

# One by hand, signed as the worker does.
sub deliver
{
	my ($secret, $id, $age) = @_;
	my $body = qq({"conversation_id": null, "messages": [{"whatsapp_message_id": "$id", "attempt": 1, "kind": "text"}]});
	my $at = time - ($age // 0);
	return HTTP::Tiny->new->post("http://127.0.0.1:$port/", { content => $body, headers => { 'webhook-id' => 'msg_1',
		'webhook-timestamp' => $at, 'webhook-signature' => 'v1,' . encode_base64(hmac_sha256("msg_1.$at.$body", $secret), '') } })->{status};
}
is(deliver($key, 'wamid.http.1'), 204, 'a repetition is taken');
is(deliver('another key', 'wamid.http.9'), 401, 'what is signed by others is not');
is(deliver($key, 'wamid.http.9', 3600), 401, 'nor what is old');
is((() = slurp_file($service->{log}) =~ /"event":"MESSAGE"/g), 3, 'and nothing is done again');

# It is away for a while: the worker comes again.
is(stop_program($service, 'TERM'), 0, 'the service ends');
receive('15557', [ 'wamid.http.later', 'hello' ]);
await($node, q{SELECT count(*) = 1 FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.http.later'}, 'a failure');
$service = start_service('service again');
sql(q{UPDATE webhook_dlq SET next_retry_at = now() WHERE resolution_status = 'pending'});
await($node, q{SELECT processed_at IS NOT NULL FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.http.later'}, 'retried');
is(stop_program($service, 'TERM'), 0, 'the service ends');

# --- A handler in SQL, which the worker runs

$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', Edge::root() . '/doc/recipes/sql-handler.sql' ],
	'the handler in SQL is registered');
receive('15558', [ 'wamid.sql.1', 'A table, please' ], [ 'wamid.sql.2', 'A table for 4' ], [ 'wamid.sql.3', 'a table for 99' ]);
await($node, q{SELECT count(processed_at) = 2 FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'wamid.sql._'}, 'run');
is(sql(q{SELECT string_agg(message_id || ' ' || seats, ',') FROM restaurant.reservations}), 'wamid.sql.2 4', 'a reservation');
is(sql(q{SELECT string_agg(body, ' ' ORDER BY id) FROM restaurant.replies}), 'For how many? A table for 4 is yours.', 'with its replies');
await($node, q{SELECT count(*) = 1 FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.sql.3' AND resolution_status = 'pending'
	AND error LIKE '%violates check constraint%'}, 'what it refuses is a dead letter');

done_testing();
