# Eight clients at once, on few conversations, which they begin together: every message is completed once, in order, and nobody waits for long,
# let alone for ever. A number of transactions, not of seconds: nothing here depends on how fast the machine is.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $clients = 8;
my $transactions = 150; # of each client

my $node = new_node('concurrency', 'max_connections = 50', 'log_statement = none');
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE work (id text, client integer, n integer, conversation_id uuid, lock_token bigint, place bigint, received_at timestamptz);
CREATE TABLE outcomes (client integer, id text, outcome text);

CREATE FUNCTION message(p_id text, p_from text) RETURNS text LANGUAGE sql
	RETURN format('{"from":"%s","id":"%s","timestamp":"1700000000","type":"text","text":{"body":"hello"}}', p_from, p_id);

CREATE FUNCTION delivery(VARIADIC p_messages text[]) RETURNS text LANGUAGE sql
	RETURN format('{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"messages","value":'
		'{"metadata":{"phone_number_id":"1001"},"messages":[%s]}}]}]}', array_to_string(p_messages, ','));

-- First transaction: a delivery of some user comes in, and what is free is claimed.
CREATE FUNCTION take(p_client integer, p_n integer, p_user integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	v_n bigint;
BEGIN
	CREATE TEMP TABLE IF NOT EXISTS mine (conversation_id uuid, lock_id uuid, lock_token bigint, messages jsonb);
	INSERT INTO mine SELECT conversation_id, lock_id, lock_token, messages
		FROM receive_and_claim_webhook(delivery(message(format('%s-%s', p_client, p_n), 1000 + p_user || '')));
	GET DIAGNOSTICS v_n = ROW_COUNT;
	RETURN v_n;
END
$$;

-- Second transaction: the work, and the completion of what was claimed.
CREATE FUNCTION finish() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	v_done bigint;
BEGIN
	INSERT INTO work
		SELECT id, split_part(id, '-', 1)::integer, split_part(id, '-', 2)::integer, conversation_id, lock_token, place, received_at
		FROM mine CROSS JOIN jsonb_array_elements(messages) WITH ORDINALITY AS a (m, place)
			CROSS JOIN LATERAL jsonb_to_record(m) AS r (whatsapp_message_id text, received_at timestamptz)
			CROSS JOIN LATERAL (SELECT whatsapp_message_id) AS i (id);
	SELECT sum(complete_webhook_messages(conversation_id, lock_id)) INTO v_done FROM mine;
	DELETE FROM mine;
	RETURN v_done;
END
$$;

-- A delivery of the same twenty messages as everybody's in this round, in an order of its own.
CREATE FUNCTION receive_shuffled(p_client integer, p_round integer) RETURNS bigint LANGUAGE sql AS $$
	WITH shuffled AS (
		SELECT array_agg(message(format('shared-%s-%s', p_round, i), format('%s%s', 2000 + p_round, i % 7)) ORDER BY random()) AS messages
		FROM generate_series(1, 20) i
	), r AS (
		SELECT r.* FROM shuffled CROSS JOIN LATERAL receive_webhook(delivery(VARIADIC messages)) r
	), kept AS (INSERT INTO outcomes SELECT p_client, whatsapp_message_id, outcome FROM r)
	SELECT count(*) FROM r
$$;
SQL

sub pgbench
{
	my ($name, $transactions, $script) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/script';
	append_to_file($file, $script);
	$node->command_ok(
		[ 'pgbench', '--no-vacuum', '--client', $clients, '--jobs', 2, '--transactions', $transactions,
			'--define', 'n=0', '--file', $file, 'postgres' ],
		$name);
}

sub is_none
{
	my ($query, $name) = @_;
	is($node->safe_psql('postgres', "SELECT string_agg(w::text, ' ') FROM ($query LIMIT 10) w"), '', $name);
}

$node->safe_psql('postgres', "CREATE TABLE began AS SELECT now() AS at");
pgbench('clients receive, claim and complete', $transactions, <<'SQL');
\set n :n + 1
\set user random(1, 5) + 5 * (:n / 10)
SELECT take(:client_id, :n, :user);
SELECT finish();
SQL

# What came while its conversation was locked waits, and is there for the next claim.
$node->safe_psql('postgres', <<'SQL');
CREATE TEMP TABLE mine (conversation_id uuid, lock_id uuid, lock_token bigint, messages jsonb);
SELECT set_config('wahook.claim_max_messages', '1000', false);
DO $$
BEGIN
	LOOP
		INSERT INTO mine SELECT conversation_id, lock_id, lock_token, messages FROM claim_conversations(10);
		EXIT WHEN NOT FOUND;
		PERFORM finish();
	END LOOP;
END
$$;
SQL

is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT id) FROM work'),
	join('|', ($clients * $transactions) x 2), 'every message is completed once');
is($node->safe_psql('postgres', "SELECT count(*) = count(DISTINCT user_id) FROM webhook_conversations"), 't', 'a user has one conversation');
is_none('SELECT whatsapp_message_id FROM processed_webhook_messages WHERE processed_at IS NULL', 'all are marked as processed');
is_none('SELECT * FROM webhook_inbox', 'nothing waits');
is_none('SELECT * FROM webhook_delivery_attempts WHERE attempt > 1', 'nothing needed a second attempt');
is_none(q{SELECT id, later.former FROM (
		SELECT id, n, lag(n) OVER (PARTITION BY conversation_id, client ORDER BY lock_token, place) AS former FROM work) later
	WHERE n < former}, 'what a client sent first is processed first');
is_none('SELECT id, received_at FROM work WHERE received_at NOT BETWEEN (SELECT at FROM began) AND now() OR received_at IS NULL',
	'a claim says when a message was received');
is_none('SELECT conversation_id, lock_token FROM work GROUP BY 1, 2 HAVING count(*) <> max(place)', 'a token stands for one claim');

$node->safe_psql('postgres', 'SELECT pg_stat_force_next_flush()');
diag 'HOT updates of webhook_conversations: ' . $node->safe_psql('postgres', q{
	SELECT format('%s %% of %s', round(100.0 * n_tup_hot_upd / n_tup_upd, 1), n_tup_upd)
	FROM pg_stat_user_tables WHERE relname = 'webhook_conversations'});

pgbench('clients receive the same messages in different orders', 40, <<'SQL');
\set n :n + 1
SELECT receive_shuffled(:client_id, :n);
SQL
is($node->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE outcome = 'accepted'), count(DISTINCT id), count(*) FROM outcomes}),
	join('|', 800, 800, 800 * $clients), 'each of them is accepted once, and answered every time');
is_none("SELECT conversation_id FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'shared-%'
	GROUP BY 1 HAVING count(DISTINCT payload #>> '{message,from}') > 1", 'a conversation is with one user');
is_none("SELECT payload #>> '{message,from}' FROM processed_webhook_messages WHERE whatsapp_message_id LIKE 'shared-%'
	GROUP BY 1 HAVING count(DISTINCT conversation_id) > 1", 'a user has one conversation');
is_none('SELECT conversation_id FROM webhook_inbox WHERE conversation_id NOT IN (SELECT id FROM webhook_conversations)',
	'the conversation of every message is there');
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'no deadlock');

done_testing();
