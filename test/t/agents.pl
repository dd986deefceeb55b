# Agents that the worker asks: what a model is sent, what becomes of its answer, and of the messages for each way in which it
# can fail.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JSON::PP;
use List::Util qw(sum0);
use Model;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $model = Model->new($dir);
my $key = 'sk-secret-0123456789';
my $env_key = 'sk-environment-0123456789';
$ENV{WAHOOK_TEST_KEY} = $env_key;
$ENV{OTHER_KEY} = 'sk-of-somebody-else';
my $node = new_node('agents', "shared_preload_libraries = 'wahook'", "wahook.http_allowed_networks = '127.0.0.1'",
	"wahook.dlq_base_delay = '1h'", "wahook.dlq_max_delay = '2h'", 'wahook.log_events = all', 'wahook.handler_workers = 4');
my $json = JSON::PP->new->utf8->canonical;

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql(q{
	CREATE SCHEMA app;
	CREATE TABLE app.replies (n bigserial, at timestamptz DEFAULT clock_timestamp(), reply jsonb);
	CREATE FUNCTION app.keep(p_reply jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO app.replies (reply) VALUES (p_reply)';
	CREATE FUNCTION app.fail(p_reply jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO app.replies (reply) VALUES (p_reply);
		IF p_reply #>> '{messages,0,attempt}' = '1' THEN RAISE EXCEPTION 'the mail is not there'; END IF;
	END $$;
	CREATE FUNCTION app.hang(p_reply jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(600)'});

# An agent at this URL.
sub agent
{
	my ($name, $url, $settings) = @_;
	sql(qq{INSERT INTO webhook_agents (agent_type, system_prompt, model, endpoint, allow_http) VALUES ('$name', 'You are $name.', 'm-$name', '$url', true)});
	sql("UPDATE webhook_agents SET $settings WHERE agent_type = '$name'") if $settings;
}

# A service that it answers, and a route to it for messages that begin with the name.
sub service
{
	my ($name, %of) = @_;
	my $agent = $of{agent} // $name;
	my $handler = exists $of{handler} ? $of{handler} : 'app.keep(jsonb)';
	sql("SELECT register_webhook_service('$name', p_agent_type => '$agent'" . ($handler ? ", p_reply_handler => '$handler'" : '') . ')');
	sql("UPDATE webhook_services SET $of{settings} WHERE name = '$name'") if $of{settings};
	sql("INSERT INTO webhook_routes (name, match, pattern, service, priority) VALUES ('$name', 'regex', '^$name\\M', '$name', 1)");
}

sub both
{
	my ($name, $path, $settings, %of) = @_;
	agent($name, $model->url($path), $settings);
	service($name, %of);
}

# Messages of a user, in one delivery.
sub receive
{
	my @messages = @_;
	sql(q{SELECT receive_webhook($body$} . delivery(@messages) . q{$body$)});
}

sub await_processed
{
	my ($id) = @_;
	await($node, "SELECT processed_at IS NOT NULL FROM processed_webhook_messages WHERE whatsapp_message_id = '$id'", "$id processed");
}

sub await_entry
{
	my ($id, $status) = @_;
	await($node, "SELECT resolution_status = '$status' FROM webhook_dlq WHERE whatsapp_message_id = '$id'", "$id $status");
}

# The reply that was handed over for a message.
sub reply_to
{
	my ($id) = @_;
	my $reply = sql(qq{SELECT reply FROM app.replies WHERE reply -> 'messages' \@> '[{"whatsapp_message_id": "$id"}]' ORDER BY n DESC LIMIT 1});
	return $reply eq '' ? undef : $json->decode($reply);
}

# What an agent remembers of the conversation of a message: role and text.
sub memory
{
	my ($id, $agent) = @_;
	return sql(qq{SELECT string_agg(format('%s: %s', m ->> 'role', m ->> 'content'), E'\\n' ORDER BY n)
		FROM processed_webhook_messages p JOIN agent_contexts c USING (conversation_id),
			jsonb_array_elements(c.context_data -> 'messages') WITH ORDINALITY AS m (m, n)
		WHERE p.whatsapp_message_id = '$id' AND c.agent_type = '$agent'});
}

sub said { return map { "$_->{role}: $_->{content}" } @{ $_[0]{asked}{messages} } }

sub settled
{
	my ($what) = @_;
	is(sql(q{SELECT (SELECT count(*) FROM webhook_inbox WHERE service NOT IN ('long', 'lost')) || ' ' || (SELECT count(*) FROM webhook_conversation_queue) || ' '
		|| (SELECT count(*) FROM webhook_agent_replies) || ' '
		|| (SELECT count(*) FROM webhook_conversations WHERE locked_by IS NOT NULL AND user_id NOT IN ('long', 'lost'))}),
		'0 0 0 0', $what);
}

# A model that thinks for long, until the end of this test.
both('long', '/model/gate/long');
receive(message('wamid.long', 'long', 'long'));
ok($model->await_requests('/model/gate/long', 1), 'a model thinks for long');
my $lease = sql(q{SELECT lock_expires_at FROM webhook_conversations WHERE locked_by IS NOT NULL});

# Another one, who loses its lease, as if its holder had been away; the next turn of it asks again, and waits as well.
both('lost', '/model/gate/lost');
sql(q{SELECT register_webhook_agent('lost', p_daily_tokens => 1000)});
receive(message('wamid.lost', 'lost', 'lost'));
ok($model->await_requests('/model/gate/lost', 1), 'and another one');
sql(q{UPDATE webhook_conversations SET lock_expires_at = now() WHERE user_id = 'lost';
	UPDATE webhook_leases SET expires_at = now() WHERE service = 'lost'; SELECT pg_reload_conf()});
ok($model->await_requests('/model/gate/lost', 2), 'which is asked again');

# --- a turn

both('plain', '/model/ok', q{temperature = 0.5, max_output_tokens = 50});
my $correlation_id = '0191e000-0000-7000-8000-000000000001';
sql(q{SELECT receive_webhook('} . delivery(map { message("wamid.plain$_", '1', "plain $_") } 1 .. 3) . qq{', NULL, '$correlation_id')});
await_processed('wamid.plain3');
my ($call, @others) = $model->calls('/model/ok');
is(scalar @others, 0, 'a burst is one call');
is($call->{method}, 'POST', 'a POST');
is($call->{headers}{'content-type'}, 'application/json', 'of JSON');
is($call->{headers}{'x-correlation-id'}, $correlation_id, 'with the correlation id');
like($call->{headers}{'idempotency-key'}, qr/^[0-9a-f]{64}$/, 'with an idempotency key');
ok(!exists $call->{headers}{authorization}, 'without a key where there is none');
is_deeply([ said($call) ], [ 'system: You are plain.', 'user: plain 1', 'user: plain 2', 'user: plain 3' ], 'what it is told, in order');
is($call->{asked}{model}, 'm-plain', 'its model');
is($call->{asked}{temperature}, 0.5, 'its temperature');
is($call->{asked}{max_tokens}, 50, 'its bound');
my $reply = reply_to('wamid.plain2');
is($reply->{reply}, 'm-plain heard: plain 1 | plain 2 | plain 3', 'the handler gets the reply');
is_deeply([ map { $_->{whatsapp_message_id} } @{ $reply->{messages} } ], [ map { "wamid.plain$_" } 1 .. 3 ], 'and the messages');
is_deeply($reply->{usage}, { prompt_tokens => 100, completion_tokens => 10, estimated => JSON::PP::false }, 'and what it cost');
is_deeply([ @$reply{qw(service agent_type answered_by model variant version finish_reason calls user_id correlation_id)} ],
	[ 'plain', 'plain', 'plain', 'm-plain', '', 2, 'stop', 1, '1', $correlation_id ], 'and who answered whom');
is(sql("SELECT c.id = '$reply->{conversation_id}', s.id = '$reply->{session_id}', s.total_messages, s.total_tokens_used, s.session_state
	FROM webhook_conversations c JOIN agent_sessions s ON s.conversation_id = c.id"), 't|t|3|110|active', 'and where; a session has begun');
is(memory('wamid.plain1', 'plain'), "user: plain 1\nuser: plain 2\nuser: plain 3\nassistant: $reply->{reply}", 'it is remembered');
is(sql(q{SELECT outcome, answered_by, calls, prompt_tokens, completion_tokens, cardinality(whatsapp_message_ids), correlation_id, duration_ms >= 0
	FROM agent_turns}), "answered|plain|1|100|10|3|$correlation_id|t", 'the turn is on record');
is(sql(q{SELECT string_agg(DISTINCT outcome || service, ',') FROM webhook_delivery_attempts WHERE service <> 'lost'}), 'succeededplain', 'and the attempts');
settled('nothing is left');

receive(message('wamid.plain4', '1', 'plain 4'));
await_processed('wamid.plain4');
(undef, $call) = $model->calls('/model/ok');
is_deeply([ said($call) ], [ 'system: You are plain.', (map { "user: plain $_" } 1 .. 3), "assistant: $reply->{reply}", 'user: plain 4' ],
	'the next turn knows of the one before');

# Without a handler it is remembered, and that is all.
both('quiet', '/model/no-usage', undef, handler => undef);
receive(message('wamid.quiet', '2', 'quiet please'));
await_processed('wamid.quiet');
is(memory('wamid.quiet', 'quiet'), "user: quiet please\nassistant: m-quiet heard: quiet please", 'without a handler');
is(sql(q{SELECT prompt_tokens BETWEEN 5 AND 30, completion_tokens BETWEEN 5 AND 20 FROM agent_turns WHERE agent_type = 'quiet'}), 't|t',
	'what an endpoint does not tell of the cost is estimated');

# --- kinds of messages

sub other
{
	my ($type, $id, $from, $of) = @_;
	return qq({"from":"$from","id":"$id","timestamp":"1700000001","type":"$type","$type":$of});
}
sql(q{UPDATE webhook_routes SET match = 'all', pattern = NULL WHERE name = 'plain'});
receive(message('wamid.e1', '3', 'plain one'), message('wamid.e2', '3', 'plain two'), message('wamid.e3', '3', 'plain three'),
	other('edit', 'wamid.e4', '3', '{"original_message_id":"wamid.e1","message":{"type":"text","text":{"body":"plain uno"}}}'),
	other('revoke', 'wamid.e5', '3', '{"original_message_id":"wamid.e2"}'));
await_processed('wamid.e1');
unlike(reply_to('wamid.e1')->{reply}, qr/plain one|plain two/, 'what was edited or revoked in the burst is asked as it is now');
like(reply_to('wamid.e1')->{reply}, qr/plain uno.*plain three/, 'and the rest');
await_processed('wamid.e5');
my $calls = () = $model->calls('/model/ok');
receive(other('reaction', 'wamid.e6', '3', '{"message_id":"wamid.e3","emoji":"\ud83d\udc4d"}'));
receive(other('edit', 'wamid.e7', '3', '{"original_message_id":"wamid.e3","message":{"type":"text","text":{"body":"plain tres"}}}'));
receive(other('revoke', 'wamid.e8', '3', '{"original_message_id":"wamid.e1"}'));
await_processed("wamid.e$_") for 6 .. 8;
is(scalar(() = $model->calls('/model/ok')), $calls, 'a reaction, an edit, a revocation alone ask for no answer');
receive(message('wamid.e9', '3', 'plain last'));
await_processed('wamid.e9');
($call) = grep { $_->{body} =~ /plain last/ } $model->calls('/model/ok');
my $told = join "\n", grep { /^user/ } said($call);
is($told, join("\n", map { "user: $_" } '[deleted by its sender]', '[deleted by its sender]', 'plain tres',
	"[reacted with \x{1f44d} to an earlier message]", 'plain last'), 'but what is told from then on is what they say');
sql(q{UPDATE webhook_routes SET match = 'regex', pattern = '^plain\M' WHERE name = 'plain'});
settled('nothing is left of them');

# --- two agents in one conversation

both('waiter', '/model/ok?waiter');
both('driver', '/model/ok?driver');
receive(message('wamid.w1', '4', 'waiter hungry'));
await_processed('wamid.w1');
receive(message('wamid.d1', '4', 'driver home'), message('wamid.w2', '4', 'waiter pay'));
await_processed($_) for qw(wamid.d1 wamid.w2);
is(memory('wamid.w1', 'waiter'), "user: waiter hungry\nassistant: m-waiter heard: waiter hungry\nuser: waiter pay\nassistant: m-waiter heard: waiter pay",
	'each of two agents in a conversation');
is(memory('wamid.w1', 'driver'), "user: driver home\nassistant: m-driver heard: driver home", 'has its own memory');

# --- keys

sub with_key
{
	my ($name, $from, $set) = @_;
	both($name, "/model/ok?$name", "api_key_from = '$from'");
	sql("SET log_statement = none; SET log_min_error_statement = panic; INSERT INTO webhook_agent_secrets (agent_type, api_key) VALUES ('$name', '$set')") if $set;
	receive(message("wamid.$name", "5$name", "$name hello"));
}
with_key('secret', 'secret', $key);
with_key('env', 'env:WAHOOK_TEST_KEY');
with_key('unset', 'secret');
with_key('missing', 'env:WAHOOK_NO_SUCH_KEY');
await_processed("wamid.$_") for qw(secret env);
await_entry("wamid.$_", 'pending') for qw(unset missing);
is(($model->calls('/model/ok?secret'))[0]{headers}{authorization}, "Bearer $key", 'a key that was set');
is(($model->calls('/model/ok?env'))[0]{headers}{authorization}, "Bearer $env_key", 'a key of the environment');
is(sql(q{SELECT error FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.unset'}), 'agent "unset": its key is not set', 'one that is not set');
is(sql(q{SELECT error FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.missing'}),
	q{agent "missing": its key is not in the server's environment as WAHOOK_NO_SUCH_KEY}, 'one that is not there');

# --- each way to answer, all at once: the pauses of a turn take their time

# name => [path, calls, pattern of the error (none: answered), status of the entry, pattern of its error stack]
my %cases = (
	'parts' => [ '/model/parts', 1 ],
	'cut' => [ '/model/cut-short', 1 ],
	'zero' => [ '/model/zero', 1 ],
	'once' => [ '/model/first/1/status/503', 2 ],
	'thrice' => [ '/model/first/3/status/500', 4 ],
	'soon' => [ '/model/first/1/limited/429/2', 2 ],
	'refused' => [ '/model/status/400', 1, qr/^agent "refused": HTTP 400$/, 'failed', qr/^\{"error":/ ],
	'unauthorized' => [ '/model/status/401', 1, qr/^agent "unauthorized": HTTP 401$/, 'failed' ],
	'failing' => [ '/model/status/503', 4, qr/^agent "failing": HTTP 503 \(4 calls\)$/, 'pending', qr/status 503/ ],
	'reset' => [ '/model/reset', 4, qr/^agent "reset": connection failed: .* \(4 calls\)$/, 'pending' ],
	'hanging' => [ '/model/hang', 4, qr/^agent "hanging": timed out: .* \(4 calls\)$/, 'pending' ],
	'later' => [ '/model/limited/429/3600', 1, qr/^agent "later": HTTP 429$/, 'pending', qr/^later$/ ],
	'capped' => [ '/model/limited/429/600', 1, qr/^agent "capped": HTTP 429$/, 'failed' ],
	'nojson' => [ '/model/no-json', 4, qr/^agent "nojson": unusable answer: it is not JSON \(4 calls\)$/, 'pending', qr/^<html>/ ],
	'nochoices' => [ '/model/no-choices', 4, qr/unusable answer: it has no choices/, 'pending' ],
	'empty' => [ '/model/empty', 4, qr/unusable answer: its message is empty/, 'pending' ],
	'blank' => [ '/model/blank', 4, qr/unusable answer: its message is empty/, 'pending' ],
	'tools' => [ '/model/tools', 1, qr/unusable answer: it calls a tool, and there is none$/, 'failed' ],
	'refusal' => [ '/model/refusal', 1, qr/unusable answer: the model refused$/, 'failed' ],
	'huge' => [ '/model/huge', 1, qr/unusable answer: it is longer than wahook.http_max_response$/, 'failed', qr/^(huge){1024}$/ ],
	'elsewhere' => [ undef, 4, qr/^agent "elsewhere": address refused: .* \(4 calls\)$/, 'pending' ],
	'nowhere' => [ '', 0, qr/^agent "nowhere": it has no endpoint$/, 'pending' ],
	'modelless' => [ '/model/ok?modelless', 0, qr/^agent "modelless": it has no model$/, 'pending' ]);
for my $name (sort keys %cases)
{
	my ($path) = @{ $cases{$name} };
	agent($name, defined $path ? $model->url($path) : 'http://10.255.255.1/', q{circuit_threshold = 1000, timeout = '60 s'});
	service($name);
}
sql(q{UPDATE webhook_agents SET timeout = '300 ms' WHERE agent_type = 'hanging';
	UPDATE webhook_agents SET endpoint = NULL WHERE agent_type = 'nowhere'; UPDATE webhook_agents SET model = NULL WHERE agent_type = 'modelless';
	UPDATE webhook_services SET retry_max_delay = '20 s', max_retries = 0 WHERE name = 'capped'});
receive(map { message("wamid.$_", "6$_", "$_ please") } sort keys %cases);
for my $name (sort keys %cases)
{
	my ($path, $n, $error, $status, $stack) = @{ $cases{$name} };
	if (defined $error)
	{
		await_entry("wamid.$name", $status);
		like(sql("SELECT error FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.$name'"), $error, "$name: the error");
		like(sql("SELECT error_stack FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.$name'"), $stack, "$name: what was answered") if $stack;
		is(sql("SELECT outcome, calls, error IS NOT NULL FROM agent_turns WHERE agent_type = '$name'"), "failed|$n|t", "$name: the turn");
		is(memory("wamid.$name", $name), '', "$name: nothing is remembered");
	}
	else
	{
		await_processed("wamid.$name");
		is(sql("SELECT outcome, calls FROM agent_turns WHERE agent_type = '$name'"), "answered|$n", "$name: the turn");
		ok(defined reply_to("wamid.$name"), "$name: the reply");
	}
	next unless $path;
	my @calls = $model->calls($path);
	# libcurl tries a connection that it had kept open anew.
	cmp_ok(scalar @calls, $name eq 'reset' ? '>=' : '==', $n, "$name: asked $n times");
	is(scalar(keys %{ { map { ($_->{headers}{'idempotency-key'}, 1) } @calls } }), 1, "$name: the same each time") if $n > 1;
}
is(reply_to('wamid.parts')->{reply}, 'in parts', 'an answer in parts is joined');
is(reply_to('wamid.cut')->{finish_reason}, 'length', 'an answer that was cut short says so');
is(reply_to('wamid.zero')->{reply}, 'zero   byte', 'a zero byte is a space');
my @at = map { $_->{at} } $model->calls('/model/first/3/status/500');
ok($at[1] - $at[0] >= 0.9 && $at[2] - $at[1] >= 1.9 && $at[3] - $at[2] >= 3.9, 'again after 1, 2 and 4 seconds')
	or diag "at @at";
@at = map { $_->{at} } $model->calls('/model/first/1/limited/429/2');
cmp_ok($at[1] - $at[0], '>=', 1.9, 'or as long as it was asked to wait');
is(sql(q{SELECT next_retry_at - created_at BETWEEN '59 min' AND '61 min' FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.later'}), 't',
	'what is too long for a turn is the time of its retry');
is(sql(q{SELECT sum(error_count) FROM agent_sessions WHERE agent_type IN ('failing', 'tools')}), 2, 'sessions count errors');
settled('nothing is left of them');

# --- fallback agents

both('first', '/model/switch/first', q{circuit_threshold = 3});
agent('second', $model->url('/model/ok?second'), q{api_key_from = 'env:WAHOOK_TEST_KEY'});
sql(q{UPDATE webhook_agents SET fallback_agent = 'second' WHERE agent_type = 'first'});
receive(message('wamid.f1', '7', 'first 1'));
await_processed('wamid.f1');
$model->set_switch('first', 'status/400');
receive(message('wamid.f2', '7', 'first 2'));
await_processed('wamid.f2');
is(reply_to('wamid.f2')->{answered_by}, 'second', 'a fallback agent answers');
is(reply_to('wamid.f2')->{agent_type}, 'first', 'in the place of the other');
($call) = $model->calls('/model/ok?second');
is_deeply([ said($call) ], [ 'system: You are second.', 'user: first 1', 'assistant: m-first heard: first 1', 'user: first 2' ],
	'as itself, knowing what was said');
is($call->{asked}{model}, 'm-second', 'with its own model');
is($call->{headers}{authorization}, "Bearer $env_key", 'and its own key');
$model->set_switch('first', 'status/500');
receive(message('wamid.f3', '7', 'first 3'));
await_processed('wamid.f3');
is(sql(q{SELECT state FROM webhook_circuits WHERE key = 'agent:first'}), 'open', 'the circuit of an agent opens');
$calls = () = $model->calls('/model/switch/first');
receive(message('wamid.f4', '7', 'first 4'));
await_processed('wamid.f4');
is(scalar(() = $model->calls('/model/switch/first')), $calls, 'and it is left alone then');
$model->set_switch('first', 'ok');
sql(q{SELECT reset_circuit('agent:first')});
receive(message('wamid.f5', '7', 'first 5'));
await_processed('wamid.f5');
is(memory('wamid.f1', 'first'), join("\n", map { ("user: first $_", 'assistant: ' . ($_ =~ /[234]/ ? 'm-second' : 'm-first') . " heard: first $_") } 1 .. 5),
	'one memory, whoever answered');
is(sql(q{SELECT string_agg(answered_by, ' ' ORDER BY id) FROM agent_turns WHERE agent_type = 'first'}), 'first second second second first',
	'the turns tell who did');

# All of them fail.
agent("ring$_", $model->url('/model/status/404')) for 1 .. 3;
sql("UPDATE webhook_agents SET fallback_agent = 'ring" . ($_ + 1) . "' WHERE agent_type = 'ring$_'") for 1, 2;
service('ring', agent => 'ring1');
receive(message('wamid.ring', '8', 'ring ring'));
await_entry('wamid.ring', 'failed');
is(sql(q{SELECT error FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.ring'}),
	'agent "ring1": HTTP 404; agent "ring2": HTTP 404; agent "ring3": HTTP 404', 'each is asked once, and named');

# An open circuit without a fallback: messages wait, and no attempt is spent on them.
both('alone', '/model/switch/alone', q{circuit_threshold = 2});
$model->set_switch('alone', 'status/400');
sql(q{SELECT record_circuit_failure('agent:alone', 1, 3600000)});
receive(message('wamid.alone', '9', 'alone 1'));
both('awake', '/model/ok?awake');
receive(message('wamid.awake', '9a', 'awake'));
await_processed('wamid.awake');
is(sql(q{SELECT count(*) FROM webhook_inbox WHERE service = 'alone' AND attempts = 0}), 1, 'behind an open circuit a message waits');
is(scalar(() = $model->calls('/model/switch/alone')), 0, 'and nobody is asked');
is(sql(q{SELECT count(*) FROM claim_conversations(100)}), 0, 'clients that pull do not get it');
is(sql(q{SELECT count(*) FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.alone'}), 0, 'nor do the dead letters');
$model->set_switch('alone', 'ok');
sql(q{SELECT reset_circuit('agent:alone')});
await_processed('wamid.alone');
pass('until it closes');

# --- what the handler does

both('mail', '/model/ok?mail', undef, handler => 'app.fail(jsonb)');
receive(message('wamid.mail1', '10', 'mail 1'), message('wamid.mail2', '10', 'mail 2'));
await_entry("wamid.mail$_", 'pending') for 1, 2;
is(sql(q{SELECT DISTINCT error FROM webhook_dlq WHERE whatsapp_message_id LIKE 'wamid.mail%'}), 'the mail is not there', 'a handler that fails');
is(sql(q{SELECT outcome, error, prompt_tokens FROM agent_turns WHERE agent_type = 'mail'}), 'failed|the mail is not there|100', 'fails the turn');
is(memory('wamid.mail1', 'mail'), '', 'which is not remembered');
is(reply_to('wamid.mail1'), undef, 'and has not written anything');
sql(q{UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id LIKE 'wamid.mail%'});
await_processed("wamid.mail$_") for 1, 2;
is(memory('wamid.mail1', 'mail'), "user: mail 1\nuser: mail 2\nassistant: m-mail heard: mail 1 | mail 2", 'retried, they are one turn again');

both('stuck', '/model/ok?stuck', undef, handler => 'app.hang(jsonb)', settings => q{timeout = '2 s', concurrency = 1});
receive(message('wamid.stuck', '11', 'stuck'));
await($node, q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'wahook handler' AND wait_event = 'PgSleep')}, 'a handler hangs');
receive(message('wamid.plain5', '1', 'plain 5'));
await_processed('wamid.plain5');
is(sql(q{SELECT count(*) FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.stuck'}), 0, 'a handler that hangs holds up nobody');
await_entry('wamid.stuck', 'pending');
is(sql(q{SELECT error FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.stuck'}), 'handler ran longer than 2000 ms', 'and fails at its timeout');
settled('nothing is left of them');

# Many at once, with a debounce. A reply that is taken and not dealt with would wait for this timeout.
both('crowd', '/model/slow/200', undef, settings => q{timeout = '10 min', debounce = '700 ms', concurrency = 50});
for my $n (1 .. 3)
{
	receive(map { message("wamid.crowd$_.$n", "19$_", "crowd $n") } 10 .. 25);
}
await($node, q{SELECT count(*) = 48 FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'wamid.crowd%' AND processed_at IS NOT NULL}, 'a crowd');
is(scalar(() = $model->calls('/model/slow/200')), 16, 'what comes within the debounce is one turn');

# --- changes in mid-turn

both('gone', '/model/first/1/status/503');
receive(message('wamid.gone', '12', 'gone'));
ok($model->await_requests('/model/first/1/status/503', 3), 'a turn is under way');
sql(q{SET session_replication_role = replica; DELETE FROM webhook_agents WHERE agent_type = 'gone'});
await_entry('wamid.gone', 'pending');
is(sql(q{SELECT error FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.gone'}), 'agent "gone": it does not exist any more', 'an agent that is deleted');

both('moved', '/model/first/1/status/502');
receive(message('wamid.moved', '13', 'moved'));
ok($model->await_requests('/model/first/1/status/502', 1), 'another one');
sql("UPDATE webhook_agents SET endpoint = '" . $model->url('/model/ok?moved') . q{', system_prompt = 'You have moved.' WHERE agent_type = 'moved'});
await_processed('wamid.moved');
is(((said(($model->calls('/model/ok?moved'))[0]))[0]), 'system: You have moved.', 'what changes counts from the next call on');

both('off', '/model/gate/off');
receive(message('wamid.off', '14', 'off'));
ok($model->await_requests('/model/gate/off', 1), 'a third');
sql(q{SELECT disable_webhook_service('off')});
receive(message('wamid.off2', '14', 'off'));
$model->open_gate('off');
await_processed('wamid.off');
is(scalar(() = $model->calls('/model/gate/off')), 1, 'a service that is disabled ends its turn, and begins none');

# Who is erased while a model thinks: what it costs is counted, and not under a name.
both('erased', '/model/gate/erased');
sql(q{SELECT register_webhook_agent('erased', p_daily_tokens => 1000, p_daily_tokens_per_user => 1000)});
receive(message('wamid.erased', '491511777777', 'erased'));
ok($model->await_requests('/model/gate/erased', 1), 'a fourth');
sql(q{SELECT erase_webhook_user('491511777777')});
$model->open_gate('erased');
await($node, q{SELECT EXISTS (SELECT FROM webhook_rate_limits WHERE bucket = 'agent:erased' AND tokens < 950)}, 'a call for somebody erased is paid for');
is(sql(q{SELECT count(*) FROM webhook_rate_limits WHERE identifier = '491511777777'}), 0, 'and leaves no name');

# Nothing is held while a model thinks.
both('slow', '/model/gate/slow');
receive(message('wamid.slow1', '15', 'slow 1'));
ok($model->await_requests('/model/gate/slow', 1), 'a model thinks');
# Another process may be looking for work for a moment; what is held for the model is held until its gate opens.
await($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'wahook%' AND xact_start IS NOT NULL}, 'no transaction is open');
is(sql(q{SELECT count(*) FROM webhook_conversations WHERE locked_by IS NOT NULL AND lock_expires_at > now() AND user_id = '15'}), 1, 'only a lease');
receive(message('wamid.slow2', '15', 'slow 2'), message('wamid.slow3', '15', 'slow 3'));
$model->open_gate('slow');
await_processed("wamid.slow$_") for 1 .. 3;
is(memory('wamid.slow1', 'slow'), "user: slow 1\nassistant: m-slow heard: slow 1\nuser: slow 2\nuser: slow 3\nassistant: m-slow heard: slow 2 | slow 3",
	'what came meanwhile is the next turn');

# --- how much

both('small', '/model/ok?small', q{context_budget = 200});
for my $i (1 .. 5)
{
	receive(message("wamid.small$i", '16', "small $i " . 'abcd ' x (40 * $i)));
	await_processed("wamid.small$i");
}
is(sql(q{SELECT max(count_context_tokens(m::jsonb)) <= 200 FROM (VALUES } . join(', ', map { q{($$} . $json->encode($_->{asked}{messages}) . q{$$)} }
	$model->calls('/model/ok?small')) . q{) v (m)}), 't', 'no request is beyond the budget');

# --- how long

await($node, "SELECT lock_expires_at > '$lease' FROM webhook_conversations WHERE user_id = 'long'", 'the lease is renewed');
$model->open_gate('long');
await_processed('wamid.long');
is(sql(q{SELECT string_agg(outcome, ',') FROM webhook_delivery_attempts a JOIN processed_webhook_messages m ON m.id = a.message_id
	WHERE whatsapp_message_id = 'wamid.long'}), 'succeeded', 'a lease is renewed for as long as the model thinks');

# By now the first has been told.
$model->open_gate('lost');
await_processed('wamid.lost');
await($node, q{SELECT EXISTS (SELECT FROM webhook_rate_limits WHERE bucket = 'agent:lost' AND tokens < 850)}, 'both calls are paid for');
is(sql(q{SELECT count(*) FROM agent_turns WHERE agent_type = 'lost'}), 1, 'one is a turn');
like(slurp_file($node->logfile), qr/"event": "AGENT_TURN_LEASE_LOST"[^\n]*"service": "lost"/, 'the other one an event');

# --- what it may cost

both('dear', '/model/ok?dear');
sql(q{SELECT register_webhook_agent('dear', p_daily_tokens_per_user => 150)});
receive(message('wamid.dear1', '17', 'dear 1'));
await_processed('wamid.dear1');
receive(message('wamid.dear2', '17', 'dear 2 ' . 'word ' x 60));
receive(message('wamid.dear3', '18', 'dear 3'));
await_processed('wamid.dear3');
await_entry('wamid.dear2', 'pending');
is(scalar(() = $model->calls('/model/ok?dear')), 2, 'a user whose tokens are used up is not asked for, another one is');
is(sql(q{SELECT error, next_retry_at BETWEEN now() + '1 min' AND now() + '1 day' FROM webhook_dlq WHERE whatsapp_message_id = 'wamid.dear2'}),
	'agent "dear": its budget of tokens is used up (daily_tokens_per_user)|t', 'and told why, and until when');

# --- what is counted

sub counted
{
	my ($metric, $agent) = @_;
	return sql(qq{SELECT string_agg(coalesce(labels ->> 'result', labels ->> 'direction') || ' ' || value, ', ' ORDER BY labels::text)
		FROM webhook_metrics() WHERE name = 'wahook_agent_${metric}_total' AND labels ->> 'agent' = '$agent' AND value > 0});
}
is(counted('calls', 'thrice'), 'error 3, ok 1', 'the calls of an agent are counted by how they ended');
is(counted('calls', 'soon'), 'ok 1, rate_limited 1', 'one that was told to wait');
is(counted('calls', 'hanging'), 'timeout 4', 'one that did not answer in time');
is(counted('calls', 'ring1'), 'error 1, fallback 1', 'one for which another answered');
is(counted('tokens', 'thrice'), 'input 100, output 10', 'and their tokens');

# --- what nobody must see

my $log = slurp_file($node->logfile);
unlike($log, qr/\Q$key\E|\Q$env_key\E|sk-of-somebody/, 'no key is in the log');
is(sql(qq{SELECT count(*) FROM webhook_dlq d WHERE d::text ~ 'sk-'}) . sql(q{SELECT count(*) FROM agent_turns t WHERE t::text ~ 'sk-'}), '00', 'nor in a table');
unlike(join("\n", grep { /^\S+ \S+ \S+ \[\d+\] [A-Z]/ } split /\n/, $log), qr/plain uno|first 1/, 'nor what users say');
unlike($log, qr/TRAP|PANIC|segmentation|signal 11/i, 'nothing crashed');
settled('nothing is left') if sql(q{DELETE FROM webhook_inbox; DELETE FROM webhook_conversation_queue; SELECT true});
$node->stop;
done_testing();
