# The worker delivers to the edge function over HTTP, and nobody else does anything: Meta's side sends all payloads, again
# and again, while the function is killed and the server crashes; messages fail, leases are left, circuits open. Every
# message is processed once, without anybody's help.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Edge;
use JSON::PP;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $secret = 'the-app-secret';
my $signing_secret = 'whsec_' . encode_base64('a key of the worker and the function', '');
my $payloads = Edge::root() . '/test/fixtures/payloads.jsonl';
my $tmp = PostgreSQL::Test::Utils::tempdir();

my $node = new_node('edge_worker', "listen_addresses = '127.0.0.1'", "shared_preload_libraries = 'wahook'",
	"wahook.http_allowed_networks = '127.0.0.1'", "wahook.app_secret = '$secret'", 'wahook.dlq_base_delay = 1s',
	'wahook.dlq_max_retries = 1000', 'wahook.dlq_max_delay = 2s', 'wahook.max_attempts = 1000', 'log_statement = none');
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE bot LOGIN;
SELECT wahook_grant('bot', 'service');
CREATE TABLE work (n bigint GENERATED ALWAYS AS IDENTITY, message_id text NOT NULL, conversation_id uuid, lock_token bigint,
	flag boolean, body text);
GRANT INSERT ON work TO bot;
SQL
# It claims for a service that does not exist: all that it processes is what the worker posts.
my $function = Edge->new(bot => 'bot.ts', DATABASE_URL => 'postgres://bot@127.0.0.1:' . $node->port . '/postgres',
	WAHOOK_SERVICE => 'nobody', WAHOOK_SIGNING_SECRET => $signing_secret, WAHOOK_BEARER_TOKEN => 'bearer');
$node->safe_psql('postgres', qq{
	SELECT register_webhook_service('default', p_url => '$function->{url}/webhook', p_allow_http => true,
		p_timeout => '5 s', p_circuit_timeout => '1 s');
	SELECT set_webhook_service_secrets('default', 'bearer', '$signing_secret')});

my $meta = IPC::Run::start([ Edge::deno(), 'run', '--allow-net', '--allow-read', '--cached-only',
	Edge::root() . '/test/edge/meta.ts', "$function->{url}/webhook", $payloads, $secret, "$tmp/stop", 4 ],
	'>', "$tmp/summary", '2>', "$tmp/summary.err");
await($node, 'SELECT count(*) > 20 FROM work', 'the worker delivers what comes in');
$function->stop('KILL');
await($node, q{SELECT count(*) > 0 FROM webhook_delivery_attempts WHERE outcome = 'failed'}, 'the worker meets the dead function');
$function->start;
$node->stop('immediate');
$node->start;
append_to_file("$tmp/stop", '');
$meta->finish;
is(slurp_file("$tmp/summary.err"), '', 'nothing went wrong at the sender');
await($node, q{SELECT NOT EXISTS (SELECT FROM webhook_inbox)
	AND NOT EXISTS (SELECT FROM webhook_dlq WHERE resolution_status <> 'resolved')}, 'nothing waits any more');

my $sent = decode_json(slurp_file("$tmp/summary"));
my %counted = map { split /\t/ } split /\n/, `"@{[Edge::root()]}/test/demo/count" "$payloads"`;
my ($accepted, $once, $lost, $twice, $failed, $attempts) = split /\|/, $node->safe_psql('postgres', q{SELECT
	(SELECT count(*) FROM processed_webhook_messages),
	(SELECT count(*) FROM (SELECT message_id FROM work GROUP BY 1 HAVING count(*) = 1) w),
	(SELECT count(*) FROM processed_webhook_messages m WHERE NOT EXISTS (SELECT FROM work w WHERE w.message_id = m.whatsapp_message_id)),
	(SELECT count(*) FROM (SELECT message_id FROM work GROUP BY 1 HAVING count(*) > 1) w),
	(SELECT count(DISTINCT message_id) FROM webhook_delivery_attempts WHERE outcome <> 'succeeded'),
	(SELECT count(*) FROM webhook_delivery_attempts)});
account("requests sent: $sent->{requests}, duplicates among them: $sent->{duplicates}, unanswered: $sent->{interrupted}");
account('responses by status: ' . join ', ', map { "$_: $sent->{statuses}{$_}" } sort keys %{ $sent->{statuses} });
account("messages accepted: $accepted, delivered by the worker in $attempts attempts, of which failed or lost at first: $failed");
account("messages processed once: $once, lost: $lost, twice: $twice");
is($accepted, $counted{'different messages'}, 'every message was accepted');
is($once, $accepted, 'every message was processed once');
is("$lost $twice", '0 0', 'none was lost, none processed twice');
cmp_ok($failed, '>', 0, 'some failed at first');

# The correlation id goes all the way.
my $correlation = '11111111-2222-4333-8444-555555555555';
$function->post_signed($secret, delivery(message('wamid.traced', '15550001', 'succeed')), 'X-Correlation-ID' => $correlation);
await($node, q{SELECT EXISTS (SELECT FROM work WHERE message_id = 'wamid.traced')}, 'delivered');
is($function->stop('TERM'), 0, 'the function ends');
my @events = map { $_->{event} } grep { ($_->{correlation_id} // '') eq $correlation } $function->log_lines;
is_deeply(\@events, [ 'WEBHOOK_RECEIVED', 'MESSAGE_PROCESSED' ], 'one correlation id from the delivery to the work');
done_testing();
