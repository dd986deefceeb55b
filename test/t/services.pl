# What a service asks for, as the worker does it: a quiet moment, strict order, its own retries; and what it finds when a service is taken out.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('services');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'wahook'
max_worker_processes = 12
});
$node->start;
$node->safe_psql('postgres', q{
CREATE EXTENSION wahook;
CREATE SCHEMA app;
CREATE TABLE app.broken (message text);
CREATE TABLE app.done (id bigserial, service text, messages text, at timestamptz DEFAULT clock_timestamp());
-- A burst is one object with its messages, else the message is the object.
CREATE FUNCTION app.handle(message jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	v_ids text := (SELECT string_agg(m ->> 'whatsapp_message_id', ' ' ORDER BY n)
		FROM jsonb_array_elements(coalesce(message -> 'messages', jsonb_build_array(message))) WITH ORDINALITY AS m (m, n));
BEGIN
	IF EXISTS (SELECT FROM app.broken b WHERE b.message = v_ids) THEN
		RAISE EXCEPTION '% is broken', v_ids;
	END IF;
	INSERT INTO app.done (service, messages) VALUES (message ->> 'service', v_ids);
END
$$;
CREATE FUNCTION app.send(p_id text, p_from text) RETURNS text LANGUAGE sql AS $$
	SELECT service || ' ' || outcome FROM receive_webhook(json_build_object('entry', json_build_array(json_build_object('changes', json_build_array(json_build_object('field', 'messages', 'value',
		json_build_object('metadata', json_build_object('phone_number_id', '1'), 'messages', json_build_array(json_build_object('from', p_from, 'id', p_id, 'type', 'text',
		'text', json_build_object('body', split_part(p_id, '.', 1))))))))))::text)
	$$;
SELECT register_webhook_service('quiet', 'app.handle(jsonb)', p_debounce => '700 milliseconds');
SELECT register_webhook_service('strict', 'app.handle(jsonb)', p_strict_order => true, p_max_retries => 1, p_retry_base_delay => '1 hour');
SELECT register_webhook_service('loose', 'app.handle(jsonb)', p_retry_base_delay => '1 hour');
SELECT add_webhook_route(name, name, 'keyword', name) FROM webhook_services WHERE name IN ('quiet', 'strict', 'loose');
});

sub done { return $node->safe_psql('postgres', "SELECT string_agg(messages, ', ' ORDER BY id) FROM app.done WHERE service = '$_[0]'") }
sub await { my ($query, $name) = @_; return ok($node->poll_query_until('postgres', $query), $name) }

# In one transaction, so that however slow the machine is, they come at once.
$node->safe_psql('postgres', "BEGIN; SELECT app.send('quiet.1', '1'), app.send('quiet.2', '1'), app.send('quiet.3', '1'); COMMIT");
await("SELECT count(*) = 1 FROM app.done WHERE service = 'quiet'", 'a burst is handed over');
is(done('quiet'), 'quiet.1 quiet.2 quiet.3', 'all of it in one call');
is($node->safe_psql('postgres', q{SELECT min(d.at - m.received_at) >= interval '700 milliseconds'
	FROM app.done d, processed_webhook_messages m WHERE d.service = 'quiet' AND m.whatsapp_message_id LIKE 'quiet.%'}), 't', 'after a quiet moment');

# Strict order: what came later waits for the one that failed, of this service and conversation only.
$node->safe_psql('postgres', "INSERT INTO app.broken VALUES ('strict.1'), ('loose.1')");
$node->safe_psql('postgres', "BEGIN; SELECT app.send('strict.1', '1'), app.send('strict.2', '1'), app.send('strict.3', '2'), app.send('loose.1', '1'), app.send('loose.2', '1'); COMMIT");
await(q{SELECT count(*) = 2 FROM webhook_dlq WHERE resolution_status = 'pending'}, 'two fail');
await(q{SELECT count(*) = 2 FROM app.done WHERE messages IN ('loose.2', 'strict.3')}, 'others go on');
is($node->safe_psql('postgres', q{SELECT string_agg(next_retry_at - updated_at || '', ' ') FROM webhook_dlq}), '01:00:00 01:00:00', 'retried when their services say');
$node->safe_psql('postgres', "SELECT app.send('strict.4', '1'), app.send('strict.5', '2')");
await(q{SELECT count(*) = 1 FROM app.done WHERE messages = 'strict.5'}, 'what comes later for another conversation is handled');
is(done('strict'), 'strict.3, strict.5', 'what comes behind the failed one is not');

# A retry by hand, which fails: no further one is left, and the others go.
$node->safe_psql('postgres', "UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id = 'strict.1'");
await(q{SELECT count(*) = 2 FROM app.done WHERE messages IN ('strict.2', 'strict.4')}, 'given up, it lets the others go');
is(done('strict'), 'strict.3, strict.5, strict.2, strict.4', 'in their order');
is($node->safe_psql('postgres', q{SELECT resolution_status, retry_count FROM webhook_dlq WHERE whatsapp_message_id = 'strict.1'}), 'failed|1', 'it is given up');

# Mended and retried, it comes before those behind it.
$node->safe_psql('postgres', "INSERT INTO app.broken VALUES ('strict.6')");
$node->safe_psql('postgres', "BEGIN; SELECT app.send('strict.6', '3'), app.send('strict.7', '3'); COMMIT");
await(q{SELECT count(*) = 1 FROM webhook_dlq WHERE whatsapp_message_id = 'strict.6' AND resolution_status = 'pending'}, 'it fails');
$node->safe_psql('postgres', "DELETE FROM app.broken; UPDATE webhook_dlq SET next_retry_at = now() WHERE whatsapp_message_id = 'strict.6'");
await(q{SELECT count(*) = 2 FROM app.done WHERE messages IN ('strict.6', 'strict.7')}, 'mended, it is retried');
like(done('strict'), qr/strict\.6, strict\.7$/, 'before the one behind it');
is($node->safe_psql('postgres', q{SELECT resolution_status FROM webhook_dlq WHERE whatsapp_message_id = 'strict.6'}), 'resolved', 'and its dead letter is resolved');

# Disabled, what is there waits, and nothing more comes; enabled, it goes on.
$node->safe_psql('postgres', "BEGIN; SELECT disable_webhook_service('loose'); SELECT app.send('loose.3', '4'); COMMIT");
is($node->safe_psql('postgres', "SELECT service FROM processed_webhook_messages WHERE whatsapp_message_id = 'loose.3'"), 'default', 'no route leads to a disabled service');
$node->safe_psql('postgres', "SELECT enable_webhook_service('loose')");
$node->safe_psql('postgres', "BEGIN; SELECT app.send('loose.4', '4'); SELECT disable_webhook_service('loose'); COMMIT");
$node->safe_psql('postgres', "SELECT app.send('strict.8', '4')");
await(q{SELECT count(*) = 1 FROM app.done WHERE messages = 'strict.8'}, 'another service of the same conversation goes on');
is($node->safe_psql('postgres', "SELECT count(*) FROM app.done WHERE messages = 'loose.4'"), '0', 'what waits for a disabled service waits');
$node->safe_psql('postgres', "SELECT enable_webhook_service('loose')");
await(q{SELECT count(*) = 1 FROM app.done WHERE messages = 'loose.4'}, 'until it is enabled');

$node->stop;
done_testing();
