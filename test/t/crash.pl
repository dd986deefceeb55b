# Crashes in the middle of everything: of one server process, by an immediate stop, and by the death of all processes at
# once; while several clients receive, claim, complete, fail and retry. What receive_webhook() had answered for is not
# lost, nothing is completed twice, and the messages of a conversation are processed in their order.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;
use Wahook;

# The moments of the crashes follow from the seed.
my $seed = $ENV{WAHOOK_SEED} // 42;
srand $seed;
note "WAHOOK_SEED=$seed";

my $receivers = 3;
my $conversations = 4; # of each receiver
my $deliveries = 300; # of each receiver, two messages each
my @crashes = qw(receive immediate complete kill retry immediate claim kill);

my $node = new_node('crash', 'restart_after_crash = on', 'wahook.lock_timeout = 1s', 'wahook.dlq_max_retries = 1');
$node->safe_psql('postgres', <<'SQL');
-- What was done, written in the transactions that completed it. No unique key: it must be able to show a fault.
CREATE TABLE work (id text, conversation_id uuid, lock_token bigint, place bigint);

-- Messages whose number ends in 7 fail at first, those in 99 for good.
CREATE FUNCTION is_to_fail(p_id text, p_attempt integer) RETURNS boolean LANGUAGE sql
	RETURN p_id LIKE '%99' OR (p_id LIKE '%7' AND p_attempt = 1);

CREATE PROCEDURE work_on(p_claim record) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO work
		SELECT m ->> 'whatsapp_message_id', p_claim.conversation_id, p_claim.lock_token, place
		FROM jsonb_array_elements(p_claim.messages) WITH ORDINALITY AS a (m, place)
		WHERE NOT is_to_fail(m ->> 'whatsapp_message_id', (m ->> 'attempt')::integer);
	PERFORM fail_webhook_message(p_claim.conversation_id, p_claim.lock_id, m ->> 'whatsapp_message_id', 'out of order',
			p_retry_after => '0.1 s')
		FROM jsonb_array_elements(p_claim.messages) AS m
		WHERE is_to_fail(m ->> 'whatsapp_message_id', (m ->> 'attempt')::integer);
	PERFORM complete_webhook_messages(p_claim.conversation_id, p_claim.lock_id);
END
$$;

-- A worker. It ends when it is told to, and nothing waits any more.
CREATE TABLE no_more ();
CREATE PROCEDURE work() LANGUAGE plpgsql AS $$
DECLARE
	v_claim record;
BEGIN
	LOOP
		SELECT * INTO v_claim FROM claim_conversations();
		COMMIT;
		IF v_claim.conversation_id IS NOT NULL THEN
			BEGIN
				CALL work_on(v_claim);
			EXCEPTION WHEN SQLSTATE 'WH002' OR lock_not_available THEN
				NULL; -- taken over, or its dead letter is being changed: it is claimed again
			END;
		ELSIF to_regclass('no_more') IS NULL AND NOT EXISTS (SELECT FROM webhook_inbox)
			AND NOT EXISTS (SELECT FROM webhook_dlq WHERE resolution_status IN ('pending', 'retrying'))
		THEN
			RETURN;
		ELSE
			PERFORM pg_sleep(0.01);
		END IF;
		COMMIT;
	END LOOP;
END
$$;

CREATE PROCEDURE jobs() LANGUAGE plpgsql AS $$
BEGIN
	WHILE to_regclass('no_more') IS NOT NULL OR EXISTS (SELECT FROM webhook_inbox)
		OR EXISTS (SELECT FROM webhook_dlq WHERE resolution_status IN ('pending', 'retrying'))
	LOOP
		PERFORM cleanup_stuck_webhook_conversations();
		COMMIT;
		PERFORM process_dead_letter_queue();
		COMMIT;
		PERFORM pg_sleep(0.02);
		COMMIT;
	END LOOP;
END
$$;
SQL

# What each receiver was answered for, and which delivery is its next.
my %acknowledged;
my @next = (0) x $receivers;

sub ids_of
{
	my ($receiver, $n) = @_;
	return map { sprintf 'm-%d-%05d', $receiver, 2 * $n + $_ } 0, 1;
}

# A receiver's conversations are its own, so that the order of its messages is known.
sub receiver_script
{
	my ($receiver, $at_end) = @_;
	my $script = '';
	for my $n ($next[$receiver] .. $deliveries - 1)
	{
		my $place = 0;
		my $body = delivery(map { message($_, 1000 + 100 * $receiver + ($n + $place++) % $conversations) } ids_of($receiver, $n));
		$script .= "SELECT whatsapp_message_id FROM receive_webhook('$body') WHERE outcome IN ('accepted', 'duplicate');\n"
			. "DO 'BEGIN PERFORM pg_sleep(0.02); END';\n";
	}
	return $script . $at_end;
}

sub start_clients
{
	my ($at_end) = @_;
	my @clients = map { start_script($node, "receiver $_", receiver_script($_, $at_end)) } 0 .. $receivers - 1;
	push @clients, start_script($node, "worker $_", 'CALL work();') for 1 .. 3;
	push @clients, start_script($node, 'jobs', 'CALL jobs();');
	return @clients;
}

# Notes what was answered for. A delivery without an answer is sent again, as Meta does.
sub finish_clients
{
	my (@clients) = @_;
	my $failed = grep { $_ != 0 } map { finish_script($_) } @clients;
	for my $receiver (0 .. $receivers - 1)
	{
		my $answers = 0;
		for my $id (split /\n/, $clients[$receiver]{stdout})
		{
			$acknowledged{$id} = 1;
			$answers++;
		}
		$next[$receiver] += int($answers / 2);
	}
	return $failed;
}

# The workers and the jobs are after the same.
sub until_it
{
	my ($condition) = @_;
	return "DO 'BEGIN WHILE NOT (" . ($condition =~ s/'/''/gr) . ") LOOP PERFORM pg_sleep(0.002); END LOOP; END';";
}

# A transaction that is open in the middle of a stage when the crash comes. None of it may be left.
sub open_transaction
{
	my ($stage, $round) = @_;
	my %body = (
		receive => "SELECT count(*) FROM receive_webhook('" . delivery(message("open-$round", "9$round")) . "');",
		claim => until_it('EXISTS (SELECT FROM claim_conversations())'),
		complete => "SELECT * FROM receive_and_claim_webhook('" . delivery(message("held-$round", "8$round")) . "') \\gset\n"
			. "COMMIT;\nBEGIN;\n"
			. "INSERT INTO work VALUES ('held-$round', :'conversation_id', :lock_token, 1);\n"
			. "SELECT complete_webhook_messages(:'conversation_id', :'lock_id');",
		retry => until_it("(process_dead_letter_queue() ->> 'processed')::integer > 0"));
	$acknowledged{"held-$round"} = 1 if $stage eq 'complete';
	my $client = start_script($node, "open $stage",
		"BEGIN;\n$body{$stage}\nSET application_name = 'opened $stage';\nSELECT pg_sleep(600);\n");
	await($node, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'opened $stage')", "a transaction is open in $stage");
	return $client;
}

# All processes of the server at once, as the machine's power would take them.
sub kill_all
{
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my @children;
	for my $stat (glob '/proc/[0-9]*/stat')
	{
		open my $fh, '<', $stat or next;
		my ($pid, $parent) = (<$fh> // '') =~ /^(\d+) .*\) \S (\d+)/;
		push @children, $pid if defined $parent && $parent == $postmaster;
	}
	kill 'STOP', $postmaster;
	kill 'KILL', @children, $postmaster;
	$node->{_pid} = undef; # what the module's kill9 does
	await_gone($_) for @children, $postmaster;
	# A process that nobody has reaped yet would pass for the server.
	unlink $node->data_dir . '/postmaster.pid', $node->host . '/.s.PGSQL.' . $node->port . '.lock';
}

sub await_gone
{
	my ($pid) = @_;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		# It may go between any two looks at it.
		open my $fh, '<', "/proc/$pid/stat" or return;
		return if (<$fh> // '') =~ /\) Z /;
		Time::HiRes::usleep(20_000);
	}
	BAIL_OUT("process $pid does not go");
}

$node->safe_psql('postgres', "SELECT count(*) FROM receive_webhook('" . delivery(message('first', '7')) . "')");
$acknowledged{first} = 1;

my $round = 0;
for my $crash (@crashes)
{
	my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM work');
	my @clients = start_clients('SELECT pg_sleep(600);');
	my @stages = $crash =~ /immediate|kill/ ? qw(receive claim complete retry) : ($crash);
	my @open = map { open_transaction($_, $round) } @stages;
	my $more = 10 + int rand 40;

	await($node, "SELECT count(*) >= $before + $more FROM work", "$more messages more are processed in round $round");
	if ($crash eq 'immediate')
	{
		$node->stop('immediate');
		$node->start;
	}
	elsif ($crash eq 'kill')
	{
		kill_all();
		$node->start;
	}
	else
	{
		my $pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE application_name = 'opened $crash'");
		kill 'KILL', $pid;
	}
	finish_script($_) for @open;
	my $failed = finish_clients(@clients);
	await($node, 'SELECT true', 'the server is up again');
	is($failed, scalar @clients, "round $round, $crash: all clients were cut off");
	is($node->safe_psql('postgres', "SELECT count(*) FROM processed_webhook_messages WHERE whatsapp_message_id = 'open-$round'"),
		0, "round $round: nothing is left of what was not committed");
	$round++;
}

# To the end, undisturbed.
my @clients = start_clients('');
my @receivers = @clients[0 .. $receivers - 1];
finish_script($_) for @receivers;
$node->safe_psql('postgres', 'DROP TABLE no_more');
is(finish_clients(@clients), 0, 'all clients end well');
is_deeply(\@next, [ ($deliveries) x $receivers ], 'all deliveries are answered');

my $expected = 2 * $deliveries * $receivers;
cmp_ok(scalar(grep { /^m-/ } keys %acknowledged), '==', $expected, "all $expected messages are answered for");

$node->safe_psql('postgres', 'CREATE TABLE acknowledged (id text);'
	. 'INSERT INTO acknowledged VALUES ' . join ', ', map { "('$_')" } sort keys %acknowledged);
is($node->safe_psql('postgres', q{
	SELECT string_agg(id, ' ') FROM acknowledged WHERE id NOT IN (SELECT id FROM work)
		AND id NOT IN (SELECT whatsapp_message_id FROM webhook_dlq WHERE resolution_status = 'failed')}),
	'', 'nothing that was answered for is lost');
is($node->safe_psql('postgres', q{
	SELECT string_agg(id, ' ') FROM (SELECT id FROM work GROUP BY id HAVING count(*) > 1) twice}),
	'', 'nothing is completed twice');
is($node->safe_psql('postgres', q{
	SELECT string_agg(work.id, ' ') FROM work JOIN webhook_dlq ON whatsapp_message_id = work.id WHERE resolution_status <> 'resolved'}),
	'', 'what is a dead letter is not processed');
is($node->safe_psql('postgres', q{
	SELECT string_agg(work.id, ' ') FROM work JOIN processed_webhook_messages ON whatsapp_message_id = work.id WHERE processed_at IS NULL}),
	'', 'what is done is marked as processed');
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM webhook_dlq WHERE resolution_status = 'failed' AND whatsapp_message_id NOT LIKE '%99'}),
	0, 'only what fails for good is dead');
is($node->safe_psql('postgres', q{
	SELECT string_agg(id || ' after ' || former, ', ') FROM (
		SELECT id, lag(id) OVER (PARTITION BY conversation_id ORDER BY lock_token, place) AS former
		FROM work WHERE id LIKE 'm-%' AND id NOT IN (SELECT whatsapp_message_id FROM webhook_dlq)) pairs
	WHERE id < former}),
	'', 'the messages of a conversation are processed in their order');
is($node->safe_psql('postgres', q{SELECT count(*) FROM webhook_conversations WHERE locked_by IS NOT NULL}),
	0, 'no lock is left');
is($node->safe_psql('postgres', 'SELECT count(*) FROM webhook_inbox'), 0, 'nothing waits');
my $lost = $node->safe_psql('postgres', "SELECT count(*) FROM webhook_delivery_attempts WHERE outcome = 'lost'");
cmp_ok($lost, '>', 0, 'claims were lost in the crashes, and their messages claimed again');
diag "$lost claimed messages lost their holder in $round crashes";

done_testing();
