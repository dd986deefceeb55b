# What waits for one endpoint and can't be claimed delays nothing that will be due for another.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Endpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $endpoint = Endpoint->new(PostgreSQL::Test::Utils::tempdir());
my $node = new_node('http_pause', "shared_preload_libraries = 'wahook'", "wahook.http_allowed_networks = '127.0.0.1'");
my $url = $endpoint->url('/ok');
$node->safe_psql('postgres', qq{
	SELECT register_webhook_service('held', p_url => '$url', p_allow_http => true);
	SELECT register_webhook_service('quiet', p_url => '$url', p_allow_http => true, p_debounce => '1 second');
	SELECT add_webhook_route(name, name, 'keyword', name) FROM webhook_services WHERE name IN ('held', 'quiet')});

sub receive
{
	my ($service, $id, $from) = @_;
	return $node->safe_psql('postgres', q{SELECT receive_webhook('} . delivery(message($id, $from, $service)) . q{')});
}

sub await_processed
{
	my ($id) = @_;
	await($node, "SELECT processed_at IS NOT NULL FROM processed_webhook_messages WHERE whatsapp_message_id = '$id'",
		"$id processed");
}

receive('held', 'held-1', '491');
await_processed('held-1');
my $holder = $node->background_psql('postgres');
$holder->query_safe(q{BEGIN; SELECT FROM webhook_conversations WHERE id =
	(SELECT conversation_id FROM processed_webhook_messages WHERE whatsapp_message_id = 'held-1') FOR UPDATE});
receive('held', 'held-2', '491');

# The pause grows with each look in vain, up to a minute.
$node->safe_psql('postgres', "SELECT reset_circuit('none')") for 1 .. 20;
receive('quiet', 'quiet', '492');
await_processed('quiet');
is($node->safe_psql('postgres', q{SELECT processed_at - received_at < '30 seconds' FROM processed_webhook_messages
	WHERE whatsapp_message_id = 'quiet'}), 't', 'a quiet moment is not longer for it');

$holder->query_safe('COMMIT');
$holder->quit;
$node->safe_psql('postgres', "SELECT reset_circuit('none')");
await_processed('held-2');

$node->stop;
done_testing();
