# Erasing a user: nothing that tells of the user is in a dump afterwards, others keep what is theirs, and what Meta delivers
# again does not come back.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $node = new_node('erase', 'wahook.log_events = all');
my $phone = '250788765432';
my $user_id = 'US.77700011122233344455';
my $wamid = 'wamid.' . encode_base64("..$phone..A1B2C3", '');

# Everything that Meta sends, for the others.
my $fixtures = "$FindBin::Bin/../fixtures";
$node->safe_psql('postgres', qq{
	CREATE TABLE lines (line json);
	COPY lines FROM '$fixtures/payloads.jsonl' CSV QUOTE e'\\x01' DELIMITER e'\\x02';
	SELECT count(*) FROM lines, receive_webhook(coalesce(line ->> 'raw', line ->> 'payload'))});

sub envelope
{
	my ($field, $rest) = @_;
	return '{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"' . $field
		. '","value":{"messaging_product":"whatsapp","metadata":{"display_phone_number":"15550001","phone_number_id":"1001"},'
		. $rest . '}}]}]}';
}
my $contact = qq("contacts":[{"profile":{"name":"Erasmus Unforgettable"},"wa_id":"$phone","user_id":"$user_id"}]);
my $text = 'my unmistakable words';
my $first = envelope('messages', qq($contact,"messages":[)
	. qq({"from":"$phone","from_user_id":"$user_id","id":"$wamid","timestamp":"1700000000","type":"text","text":{"body":"$text"}},)
	. qq({"from":"$phone","from_user_id":"$user_id","id":"$wamid.2","timestamp":"1700000001","type":"text","text":{"body":"$text again"}}]));
# The next one has no number, then there is one with a number alone.
my $second = envelope('messages', qq("contacts":[{"profile":{"name":"Erasmus Unforgettable"},"user_id":"$user_id"}],)
	. qq("messages":[{"from_user_id":"$user_id","id":"$wamid.3","timestamp":"1700000002","type":"edit","edit":{"original_message_id":"$wamid","message":{"type":"text","text":{"body":"$text, edited"}}}}]));
my @known = (
	$first, $second,
	envelope('messages', qq("messages":[{"from":"$phone","id":"$wamid.4","timestamp":"1700000003","type":"text","text":{"body":"$text"}}])),
	envelope('messages', qq("statuses":[{"id":"wamid.sent","status":"read","timestamp":"1700000004","recipient_id":"$phone"}])),
	envelope('messages', qq("statuses":[{"id":"wamid.sent2","status":"sent","timestamp":"1700000004","recipient_user_id":"$user_id"}])),
	envelope('user_preferences', qq($contact,"user_preferences":[{"wa_id":"$phone","value":"stop"}])),
	envelope('messages', qq("messages":[{"from":"$phone","type":"text","text":{"body":"$text without an id"}}])));
# Somebody else speaks of the user.
my $other = envelope('messages', qq("messages":[{"from":"250788000099","id":"wamid.other","timestamp":"1700000005","type":"text","text":{"body":"call +$phone or 1$phone"}}]));
$node->safe_psql('postgres', "SELECT receive_webhook(\$body\$$_\$body\$)") for @known, $other;
my $conversation = $node->safe_psql('postgres', "SELECT DISTINCT conversation_id FROM webhook_identities WHERE identity IN ('$phone', '$user_id')");
like($conversation, qr/^[0-9a-f-]{36}$/, 'number and user id lead to one conversation');

# And whatever else there can be.
$node->safe_psql('postgres', qq{
	SELECT claim_conversations(1000, 'aaaaaaaa-0000-4000-8000-000000000001');
	SELECT fail_webhook_message('$conversation', 'aaaaaaaa-0000-4000-8000-000000000001', '$wamid.2', 'could not tell $phone', '$text');
	SELECT agent_save_turn('$conversation', 'aaaaaaaa-0000-4000-8000-000000000001', 'waiter', '[{"role": "user", "content": "$text", "wamid": "$wamid"}, {"role": "assistant", "content": "Dear Erasmus Unforgettable"}]');
	SELECT agent_save_turn(c.id, c.locked_by, 'waiter', '[{"role": "user", "content": "tell $phone"}]') FROM webhook_conversations c WHERE user_id = '250788000099';
	SELECT complete_webhook_messages('$conversation', 'aaaaaaaa-0000-4000-8000-000000000001', '{$wamid}', NULL, false);
	INSERT INTO webhook_conversations (user_id, whatsapp_phone, conversation_context) VALUES ('$user_id', '+$phone', '{"text": "$text"}');
	UPDATE webhook_conversations SET conversation_context = '{"friend": "$phone", "number": $phone}' WHERE user_id = '250788000099';
	INSERT INTO user_sessions (phone_number, context) VALUES ('+$phone', '{"text": "$text"}');
	INSERT INTO wa_workflow_recovery (conversation_id, workflow_type, recovery_action, details) VALUES ('$conversation', 'x', 'y', '{"text": "$text"}'), ('other', 'x', 'y', '{"of": "$user_id"}');
	INSERT INTO webhook_dlq (payload, whatsapp_message_id, error) VALUES ('{"from": "$phone", "text": {"body": "$text"}}', 'wamid.direct', 'x');
	INSERT INTO wa_dead_letter_queue (message_id, from_number, payload) VALUES ('wamid.direct2', '$phone', '{"text": "$text"}');
	SELECT record_processed_message('wamid.direct3', NULL, NULL, NULL, '{"entry": [{"changes": [{"value": {"messages": [{"from": "$phone", "text": {"body": "$text"}}]}}]}]}');
	SELECT transition_conversation('$conversation', 'processing', 'because of $phone');
	SELECT check_rate_limit('$phone', 'x'), check_rate_limit('agent:$user_id', 'y');
	SELECT record_circuit_failure('user:$phone');
	UPDATE webhook_feature_flags SET test_users = '{$phone,250788000099}' WHERE flag = (SELECT min(flag) FROM webhook_feature_flags);
	UPDATE webhook_services SET test_users = '{$user_id}' WHERE name = 'wallet'});

my $words = qr/$phone|\Q$user_id\E|Unforgettable|unmistakable|\Q$wamid\E/;
sub mentions
{
	my ($dump) = run_command([ 'pg_dump', '--data-only', '--port', $node->port, '--host', $node->host, 'postgres' ]);
	my @lines;
	my $table = '';
	for (split /\n/, $dump)
	{
		$table = $1 if /^COPY (\S+)/;
		push @lines, "$table: $_" if $table ne 'public.lines' && $_ =~ $words;
	}
	return @lines;
}
cmp_ok(scalar mentions(), '>', 20, 'all of it is there');
my $others = $node->safe_psql('postgres', "SELECT count(*) FROM processed_webhook_messages WHERE conversation_id <> '$conversation'");

my $counts = $node->safe_psql('postgres', "SELECT erase_webhook_user(' +$phone ')");
note($counts);
is_deeply([ mentions() ], [ grep { /1$phone/ } mentions() ], 'nothing of it is in a dump');
is($node->safe_psql('postgres', "SELECT count(*) FROM processed_webhook_messages"), $others, 'the messages of others are all there');
is($node->safe_psql('postgres', "SELECT payload #>> '{message,text,body}' FROM processed_webhook_messages WHERE whatsapp_message_id = 'wamid.other'"),
	"call +100000000000 or 1$phone", 'what others say of the user is made unreadable, not more');
is($node->safe_psql('postgres', "SELECT conversation_context FROM webhook_conversations WHERE user_id = '250788000099'"),
	'{"friend": "100000000000", "number": 100000000000}', 'in JSON as well');
is($node->safe_psql('postgres', "SELECT test_users FROM webhook_feature_flags WHERE '250788000099' = ANY (test_users)"), '{250788000099}', 'lists lose the name');
unlike(slurp_file($node->logfile), qr/WEBHOOK_USER_ERASED.*$words/, 'the event names nobody');
like(slurp_file($node->logfile), qr/WEBHOOK_USER_ERASED/, 'there is one');

# What comes again stays away; what is new begins anew.
for my $body ($first, $second)
{
	is($node->safe_psql('postgres', "SELECT DISTINCT outcome FROM receive_webhook(\$body\$$body\$body\$)"), 'duplicate', 'a repeated delivery is known');
}
is($node->safe_psql('postgres', "SELECT record_processed_message('wamid.direct3', NULL, NULL)"), 'f', 'to those who record it themselves as well');
is($node->safe_psql('postgres', "SELECT outcome FROM receive_webhook(\$body\$" . delivery(message('wamid.new', $phone), message('wamid.other', '250788000099')) . "\$body\$) ORDER BY 1"),
	"accepted\nduplicate", 'a new message is not');
is($node->safe_psql('postgres', "SELECT erase_webhook_user('$user_id') ->> 'webhook_conversations'"), '0', 'which the user id has nothing to do with any more');
is($node->safe_psql('postgres', "SELECT erase_webhook_user('$phone') ->> 'webhook_conversations'"), '1', 'and the number has');

# A holder.
$node->safe_psql('postgres', 'SELECT receive_webhook($body$' . delivery(message('wamid.held', $phone)) . '$body$)');
my ($held) = $node->safe_psql('postgres', "SELECT conversation_id FROM claim_conversations(1000, 'aaaaaaaa-0000-4000-8000-000000000002') WHERE whatsapp_phone = '$phone'");
$node->safe_psql('postgres', "SELECT erase_webhook_user('$phone')");
my ($ret, $out, $err) = $node->psql('postgres', "\\set VERBOSITY sqlstate\nSELECT complete_webhook_messages('$held', 'aaaaaaaa-0000-4000-8000-000000000002')");
like($err, qr/WH003/, 'a holder finds the conversation gone');
($ret, $out, $err) = $node->psql('postgres', "\\set VERBOSITY sqlstate\nSELECT agent_save_turn('$held', 'aaaaaaaa-0000-4000-8000-000000000002', 'waiter', '[\"x\"]')");
like($err, qr/WH003/, 'and can save no turn');
is(scalar(grep { !/1$phone/ } mentions()), 0, 'so nothing comes back');

# Beside a holder whose transaction is open.
$node->safe_psql('postgres', 'SELECT receive_webhook($body$' . delivery(message('wamid.open', $phone)) . '$body$)');
my $session = $node->background_psql('postgres');
$session->query_safe("BEGIN; SELECT claim_conversations(1000, 'aaaaaaaa-0000-4000-8000-000000000003')");
($ret, $out, $err) = $node->psql('postgres', "\\set VERBOSITY sqlstate\nSELECT erase_webhook_user('$phone')");
like($err, qr/55P03/, 'it waits for an open transaction for some seconds only');
$session->query_safe('COMMIT');
$session->quit;
is($node->safe_psql('postgres', "SELECT erase_webhook_user('$phone') ->> 'webhook_conversations'"), '1', 'and gets by afterwards');

for my $nobody ('NULL', "''", "'  '")
{
	($ret, $out, $err) = $node->psql('postgres', "\\set VERBOSITY sqlstate\nSELECT erase_webhook_user($nobody)");
	like($err, qr/22023/, "$nobody is nobody");
}
is($node->safe_psql('postgres', "SELECT erase_webhook_user('%') ->> 'webhook_conversations'"), '0', 'a pattern is a name');
is($node->safe_psql('postgres', "SELECT erase_webhook_user('.*(') ->> 'webhook_conversations'"), '0', 'whatever it is made of');

$node->stop;
done_testing();
