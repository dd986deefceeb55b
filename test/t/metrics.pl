# The counters: each is driven by the calls that it counts, and compared with what the tables have. What is rolled back
# counts nothing; many sessions lose nothing; a clean restart keeps all, a crash says that it began anew.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Endpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

# No worker at first: what is counted is what the test does.
my $node = new_node('metrics', "shared_preload_libraries = 'wahook'", "wahook.databases = 'nowhere'", "wahook.dlq_jitter = 0",
	"wahook.http_allowed_networks = '127.0.0.1'", 'max_prepared_transactions = 5', 'restart_after_crash = on', 'wahook.max_attempts = 3');

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]) }

sub samples
{
	my ($where, $database) = @_;
	return map { my ($name, $value) = /^(.*)\|(.*)$/; ($name => $value) } split /\n/, sql(qq{
		SELECT name || coalesce((SELECT '{' || string_agg(key || '=' || value, ',' ORDER BY key) || '}' FROM jsonb_each_text(labels)), '')
			|| '|' || value FROM webhook_metrics() WHERE source = 'shared memory' AND $where}, $database);
}

# The counters, and how often each histogram was told something.
sub counters { my ($database) = @_; return samples(q{(kind = 'counter' OR name LIKE '%\_count')}, $database) }

sub counter { my ($name, $database) = @_; my %counters = counters($database); return $counters{$name} }

# What a piece of work changes about them: names without prefix and suffix.
sub counted
{
	my ($work) = @_;
	my %before = counters();
	$work->();
	my %after = counters();
	my %difference = map { ($_ => $after{$_} - ($before{$_} // 0)) } grep { $after{$_} != ($before{$_} // 0) } keys %after;
	return { map { s/^wahook_//r =~ s/_total\b//r => $difference{$_} } keys %difference };
}

sub counts
{
	my ($what, $statements, $expected) = @_;
	is_deeply(counted(sub { sql($statements) }), $expected, $what);
}

sub receive { my (@messages) = @_; return q{SELECT receive_webhook('} . delivery(@messages) . q{');} }

my $claim = q{SELECT conversation_id, lock_id FROM claim_conversations() \gset
};
my $complete = q{SELECT complete_webhook_messages(:'conversation_id', :'lock_id');};

# --- intake

is(sql(q{SELECT count(*) > 0 FROM webhook_metrics() WHERE kind = 'counter' AND value <> 0}), 'f', 'at first all is zero');
counts('a delivery of two messages', receive(message('m-1', '1000'), message('m-2', '1001')),
	{ 'deliveries{outcome=accepted}' => 1, 'events{kind=message,outcome=accepted}' => 2, 'intake_duration_seconds_count' => 1 });
counts('the same again, and one twice in a delivery', receive(message('m-1', '1000'), message('m-2', '1001'), message('m-3', '1001'), message('m-3', '1001')),
	{
		'deliveries{outcome=accepted}' => 1,
		'events{kind=message,outcome=accepted}' => 1,
		'events{kind=message,outcome=duplicate}' => 3,
		'intake_duration_seconds_count' => 1
	});
my $other = q({"object":"whatsapp_business_account","entry":[{"id":"1","changes":[)
	. q({"field":"messages","value":{"messaging_product":"whatsapp","metadata":{"phone_number_id":"1001"},"statuses":[{"id":"sent-1","status":"sent","timestamp":"1700000000","recipient_id":"1000"}]}},)
	. q({"field":"account_update","value":{"event":"VERIFIED_ACCOUNT"}},)
	. q({"field":"messages","value":{"messaging_product":"whatsapp","metadata":{"phone_number_id":"1001"},"messages":[{"from":"1","id":"\u0000","type":"text"}]}}]}]});
counts('a status, a notice and what cannot be read', "SELECT receive_webhook('$other')",
	{
		'deliveries{outcome=accepted}' => 1,
		'events{kind=status,outcome=recorded}' => 1,
		'events{kind=notice,outcome=recorded}' => 1,
		'events{kind=unreadable,outcome=quarantined}' => 1,
		'intake_duration_seconds_count' => 1
	});
counts('and again', "SELECT receive_webhook('$other')",
	{
		'deliveries{outcome=accepted}' => 1,
		'events{kind=status,outcome=duplicate}' => 1,
		'events{kind=notice,outcome=duplicate}' => 1,
		'events{kind=unreadable,outcome=quarantined}' => 1,
		'intake_duration_seconds_count' => 1
	});
sub refused { my ($statement) = @_; return sub { isnt($node->psql('postgres', $statement), 0, "$statement is refused") } }
is_deeply(counted(refused($_)), { 'deliveries{outcome=refused}' => 1 }, "a refused delivery: $_")
	for q~SELECT receive_webhook('{')~, q{SET wahook.app_secret = 'x'; SELECT receive_webhook('{}', 'sha256=00')},
	q{SET wahook.app_secret = 'x'; SELECT receive_webhook('{}')}, q{SELECT receive_and_claim_webhook('nothing')},
	q{SET wahook.max_body_size = '1kB'; SELECT receive_webhook(repeat(' ', 2000))};
sql(q{INSERT INTO webhook_rate_limit_buckets (bucket, max_tokens, refill_per_second) VALUES ('intake', 1, 0.001)});
counts('a user who sends too much', receive(message('m-4', '1002'), message('m-5', '1002')),
	{
		'deliveries{outcome=accepted}' => 1,
		'events{kind=message,outcome=accepted}' => 1,
		'events{kind=message,outcome=rate_limited}' => 1,
		'intake_duration_seconds_count' => 1
	});
sql(q{DELETE FROM webhook_rate_limit_buckets WHERE bucket = 'intake'});
is(sql(q{SELECT count(*) FROM processed_webhook_messages}), sql(q{SELECT sum(value) FROM webhook_metrics() WHERE name = 'wahook_events_total'
	AND labels @> '{"kind": "message"}' AND labels->>'outcome' <> 'duplicate'}), 'the messages are those of the table');

# --- locks, claims, completion

counts('a claim of one message, and its completion', $claim . $complete,
	{
		'locks{result=acquired}' => 1, 'claims' => 1, 'inbox_wait_seconds_count' => 1, 'messages_completed' => 1,
		'processing_duration_seconds_count' => 1, 'end_to_end_duration_seconds_count' => 1
	});
counts('a claim of two messages of one conversation', $claim . $complete,
	{
		'locks{result=acquired}' => 1, 'claims' => 1, 'inbox_wait_seconds_count' => 2, 'messages_completed' => 2,
		'processing_duration_seconds_count' => 2, 'end_to_end_duration_seconds_count' => 2
	});
my $id = q{SELECT id FROM webhook_conversations ORDER BY created_at, id LIMIT 1 \gset
};
counts('a lock, and one that is refused', $id . q{SELECT acquire_conversation_lock(:'id', gen_random_uuid()), acquire_conversation_lock(:'id', gen_random_uuid())},
	{ 'locks{result=acquired}' => 1, 'locks{result=refused}' => 1 });
my $expire = q{BEGIN; UPDATE webhook_conversations SET lock_expires_at = now() - interval '1 s' WHERE locked_by IS NOT NULL;
	UPDATE webhook_leases SET expires_at = now() - interval '1 s'; COMMIT;
};
counts('one that is taken over, and lost by its holder', $id . q{SELECT locked_by FROM webhook_conversations WHERE id = :'id' \gset
} . $expire
	. q{SELECT acquire_conversation_lock(:'id', gen_random_uuid()); SELECT renew_conversation_lock(:'id', :'locked_by')},
	{ 'locks{result=taken_over}' => 1, 'locks{result=lost}' => 1 });
for my $call (q{complete_webhook_messages(:'id', gen_random_uuid())}, q{complete_conversations(ARRAY[:'id']::uuid[], gen_random_uuid())},
	q{fail_webhook_message(:'id', gen_random_uuid(), 'm-1', 'no')})
{
	is_deeply(counted(sub { isnt($node->psql('postgres', "\\set ON_ERROR_STOP 1\n$id SELECT $call"), 0, "$call fails") }),
		{ 'locks{result=lost}' => 1 }, "a lost lock: $call");
}
counts('a lock that is written directly', $id . q{UPDATE webhook_conversations SET locked_by = NULL, locked_at = NULL WHERE id = :'id';
	UPDATE webhook_conversations SET locked_by = gen_random_uuid(), locked_at = now() WHERE id = :'id';
	UPDATE webhook_conversations SET locked_by = gen_random_uuid(), locked_at = now() WHERE id = :'id'},
	{ 'locks{result=acquired}' => 1, 'locks{result=taken_over}' => 1 });
sql(q{UPDATE webhook_conversations SET locked_by = NULL, locked_at = NULL, lock_expires_at = NULL; DELETE FROM webhook_leases});
counts('receiving and claiming at once', q{SELECT conversation_id, lock_id FROM receive_and_claim_webhook('} . delivery(message('m-6', '1000')) . q{') \gset
}
	. q{SELECT count(*) FROM receive_and_claim_webhook('} . delivery(message('m-7', '1000')) . q{');} . $complete,
	{
		'deliveries{outcome=accepted}' => 2, 'events{kind=message,outcome=accepted}' => 2, 'intake_duration_seconds_count' => 2,
		'locks{result=acquired}' => 1, 'locks{result=refused}' => 1, 'claims' => 1, 'inbox_wait_seconds_count' => 1,
		'messages_completed' => 1, 'processing_duration_seconds_count' => 1, 'end_to_end_duration_seconds_count' => 1
	});
counts('receiving and claiming two messages of one user', q{SELECT conversation_id, lock_id FROM receive_and_claim_webhook('} . delivery(message('m-9', '1004'), message('m-10', '1004')) . q{') \gset
} . $complete,
	{
		'deliveries{outcome=accepted}' => 1, 'events{kind=message,outcome=accepted}' => 2, 'intake_duration_seconds_count' => 1,
		'locks{result=acquired}' => 1, 'claims' => 1, 'inbox_wait_seconds_count' => 2,
		'messages_completed' => 2, 'processing_duration_seconds_count' => 2, 'end_to_end_duration_seconds_count' => 2
	});
counts('several conversations at once', receive(message('m-8', '1003')) . q{
	SELECT array_agg(conversation_id) AS ids, min(lock_id::text) AS lock_id FROM claim_conversations(10) \gset
	SELECT complete_conversations(:'ids', :'lock_id', 1500)},
	{
		'deliveries{outcome=accepted}' => 1, 'events{kind=message,outcome=accepted}' => 1, 'intake_duration_seconds_count' => 1,
		'locks{result=acquired}' => 3, 'claims' => 3, 'inbox_wait_seconds_count' => 3, 'messages_completed' => 3,
		'processing_duration_seconds_count' => 3, 'end_to_end_duration_seconds_count' => 3
	});
counts('a caller that records what it processed itself', q{SELECT record_processed_message('own', gen_random_uuid(), NULL), record_processed_message('own', gen_random_uuid(), NULL)},
	{ 'events{kind=message,outcome=accepted}' => 1, 'messages_completed' => 1, 'events{kind=message,outcome=duplicate}' => 1 });
is(sql(q{SELECT count(*) FROM processed_webhook_messages WHERE processed_at IS NOT NULL}),
	sql(q{SELECT value FROM webhook_metrics() WHERE name = 'wahook_messages_completed_total'}), 'the completed messages are those of the table');

# --- failures, dead letters, retries

my $fail = sub { my ($id, $more) = @_; return $claim . qq{SELECT count(*) FROM fail_webhook_message(:'conversation_id', :'lock_id', '$id', 'broken'$more);
	SELECT complete_webhook_messages(:'conversation_id', :'lock_id', '{}');} };
my %claimed = ('locks{result=acquired}' => 1, 'claims' => 1, 'inbox_wait_seconds_count' => 1);
my %completed = ('messages_completed' => 1, 'processing_duration_seconds_count' => 1, 'end_to_end_duration_seconds_count' => 1);
sql(receive(message('f-1', '21')));
counts('a message that fails', $fail->('f-1', q{, p_retry_after => '0'}), { %claimed, 'messages_failed' => 1, 'dead_letters{state=added}' => 1 });
counts('and fails again', 'SELECT process_dead_letter_queue();' . $fail->('f-1', q{, p_retry_after => '0'}), { %claimed, 'messages_failed' => 1, 'retries{result=rescheduled}' => 1 });
counts('and is resolved', 'SELECT process_dead_letter_queue();' . $claim . $complete, { %claimed, %completed, 'retries{result=resolved}' => 1, 'dead_letters{state=resolved}' => 1 });
sql(receive(message('f-2', '22')));
counts('one that fails for good', $fail->('f-2', ', p_retryable => false'), { %claimed, 'messages_failed' => 1, 'dead_letters{state=added}' => 1, 'dead_letters{state=failed}' => 1 });
counts('it is discarded', q{SELECT discard_dead_letters()}, { 'dead_letters{state=discarded}' => 1 });
sql(receive(message('f-3', '23')));
counts('retries that are used up', q{SET wahook.dlq_max_retries = 1;} . $fail->('f-3', q{, p_retry_after => '0'}) . 'SELECT process_dead_letter_queue();' . $fail->('f-3', ''),
	{ (map { ($_ => 2) } keys %claimed), 'messages_failed' => 2, 'dead_letters{state=added}' => 1, 'dead_letters{state=failed}' => 1, 'retries{result=failed}' => 1 });
sql('SELECT discard_dead_letters();' . receive(message('f-4', '24')));
counts('a handler that fails, and then does not', $fail->('f-4', q{, p_retry_after => '0'}) . q{
	CREATE FUNCTION handler(jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN IF current_setting('my.fails') = 'on' THEN RAISE 'no'; END IF; END $$;
	UPDATE webhook_services SET handler = 'handler(jsonb)' WHERE name = 'default';
	SET my.fails = on; SELECT process_dead_letter_queue();
	UPDATE webhook_dlq SET next_retry_at = now() WHERE resolution_status = 'pending'; SET my.fails = off; SELECT process_dead_letter_queue();
	UPDATE webhook_services SET handler = NULL WHERE name = 'default'},
	{
		%completed, 'locks{result=acquired}' => 3, 'claims' => 1, 'inbox_wait_seconds_count' => 1, 'messages_failed' => 2, 'dead_letters{state=added}' => 1,
		'retries{result=rescheduled}' => 1, 'retries{result=resolved}' => 1, 'dead_letters{state=resolved}' => 1
	});
sql(receive(message('f-5', '25')));
counts('a holder that vanishes', $claim . $expire . $claim . $expire . $claim . $complete,
	{
		'locks{result=acquired}' => 1, 'locks{result=taken_over}' => 2, 'claims' => 3, 'inbox_wait_seconds_count' => 3, 'messages_failed' => 2,
		'messages_completed' => 1, 'processing_duration_seconds_count' => 1, 'end_to_end_duration_seconds_count' => 1
	});
sql(receive(message('f-6', '26')));
counts('and often enough', $claim . $expire . $claim . $expire . $claim . $expire . 'SELECT cleanup_stuck_webhook_conversations()',
	{
		'locks{result=acquired}' => 1, 'locks{result=taken_over}' => 2, 'claims' => 3, 'inbox_wait_seconds_count' => 3, 'messages_failed' => 3,
		'dead_letters{state=added}' => 1
	});
sql('SELECT discard_dead_letters()');
counts('entries of the first generation', q{
	INSERT INTO webhook_dlq (payload, whatsapp_message_id, next_retry_at) VALUES ('{}', 'd-1', now()), ('{}', 'd-2', now()), ('{}', 'd-3', now());
	INSERT INTO wa_dead_letter_queue (message_id, payload, retry_count) VALUES ('d-4', '{}', 3);
	SELECT count(*) FROM get_retriable_messages();
	SELECT mark_message_processed('d-1', true), mark_message_processed('d-2', false, 'no');
	UPDATE webhook_dlq SET retry_lease_until = now() WHERE whatsapp_message_id = 'd-3';
	SELECT webhook_end_retry_leases();
	UPDATE webhook_dlq SET resolution_status = 'pending' WHERE whatsapp_message_id = 'd-4';
	UPDATE wa_dead_letter_queue SET processed = true WHERE message_id = 'd-4'},
	{
		'dead_letters{state=added}' => 4, 'dead_letters{state=failed}' => 1, 'dead_letters{state=resolved}' => 2,
		'retries{result=resolved}' => 1, 'retries{result=rescheduled}' => 2, 'messages_failed' => 2
	});
counts('a message that fails anew after its entry was resolved', q{SELECT add_to_dead_letter_queue('{}', 'again', p_whatsapp_message_id => 'd-1')},
	{ 'dead_letters{state=added}' => 1 });
is(sql(q{SELECT count(*) FROM webhook_delivery_attempts WHERE outcome IN ('failed', 'lost')}),
	sql(q{SELECT value FROM webhook_metrics() WHERE name = 'wahook_messages_failed_total'}), 'the attempts that failed are those of the table');
is(sql(q{SELECT count(*) FILTER (WHERE resolution_status <> 'resolved') FROM webhook_dlq}),
	sql(q{SELECT sum(CASE labels->>'state' WHEN 'added' THEN value WHEN 'failed' THEN 0 ELSE -value END) FROM webhook_metrics() WHERE name = 'wahook_dead_letters_total'}),
	'and what was added, less what was resolved and discarded, is what is there');

# --- what does not commit

my %accepted = ('deliveries{outcome=accepted}' => 1, 'events{kind=message,outcome=accepted}' => 1, 'intake_duration_seconds_count' => 1);
counts('what is rolled back', 'BEGIN;' . receive(message('r-1', '3000')) . 'ROLLBACK', {});
counts('a savepoint', 'BEGIN;' . receive(message('r-2', '3000')) . 'SAVEPOINT a;' . receive(message('r-3', '3000')) . receive(message('r-4', '3001'))
	. 'SAVEPOINT b;' . receive(message('r-5', '3001')) . 'ROLLBACK TO a; COMMIT', \%accepted);
counts('nested ones that stay, and one that does not', 'BEGIN;' . receive(message('r-6', '3000')) . 'SAVEPOINT a;' . receive(message('r-7', '3000'))
	. 'SAVEPOINT b;' . receive(message('r-8', '3000')) . 'SAVEPOINT c;' . receive(message('r-9', '3000')) . 'ROLLBACK TO c; RELEASE b;' . receive(message('r-10', '3000')) . 'RELEASE a; COMMIT',
	{ map { ($_ => 4) } keys %accepted });
counts('a thousand exception blocks, half of which fail', q{DO $$ BEGIN FOR i IN 1..1000 LOOP BEGIN
	PERFORM webhook_count('claims', '{}'); IF i % 2 = 0 THEN RAISE 'no'; END IF; EXCEPTION WHEN raise_exception THEN END; END LOOP; END $$}, { claims => 500 });
counts('savepoints within savepoints, to a depth of 300', 'BEGIN;' . join('', map { "SAVEPOINT s$_; SELECT webhook_count('claims', '{}');" } 1 .. 300)
	. 'ROLLBACK TO s200; COMMIT', { claims => 199 });
counts('a deferred error', q{CREATE TABLE later (id int UNIQUE DEFERRABLE INITIALLY DEFERRED); \set ON_ERROR_STOP 0
	BEGIN; INSERT INTO later VALUES (1), (1); } . receive(message('r-11', '3000')) . 'COMMIT', {});
counts('a prepared transaction', 'BEGIN;' . receive(message('r-12', '3000')) . "PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'", \%accepted);

# --- histograms

my %buckets = samples(q{name LIKE 'wahook_processing_duration_seconds%'});
is($buckets{'wahook_processing_duration_seconds_bucket{le=2}'} - $buckets{'wahook_processing_duration_seconds_bucket{le=1}'}, 3, 'three took between one and two seconds');
is($buckets{'wahook_processing_duration_seconds_bucket{le=+Inf}'}, $buckets{'wahook_processing_duration_seconds_count'}, 'the last bucket has all');
is(sprintf('%.3f', $buckets{'wahook_processing_duration_seconds_sum'}), sql(q{SELECT round(sum(processing_time_ms) / 1000.0, 3) FROM processed_webhook_messages
	WHERE processing_time_ms IS NOT NULL}), 'the sum is that of the table');
ok($buckets{'wahook_processing_duration_seconds_bucket{le=1}'} <= $buckets{'wahook_processing_duration_seconds_bucket{le=2}'}, 'buckets are cumulative');

# --- many sessions at once

my $script = PostgreSQL::Test::Utils::tempdir() . '/script';
append_to_file($script, q{SELECT count(*) FROM receive_webhook('} . delivery(message('c-:client_id-:n', '4:client_id')) =~ s/:client_id/' || :client_id || '/gr =~ s/:n"/' || nextval('n') || '"/r . q{');
BEGIN;
SELECT count(*) FROM claim_conversations(1);
ROLLBACK;
});
sql('CREATE SEQUENCE n');
is_deeply(counted(sub {
	command_ok([ 'pgbench', '--no-vacuum', '--client', 8, '--transactions', 100, '--file', $script, '-d', $node->connstr('postgres') ], '8 sessions at once');
}), { map { ($_ => 800) } keys %accepted }, 'none of their counts is lost');

# --- bounded names

counts('a name that is quoted or long', q~SELECT webhook_count('http_attempts', ARRAY[n, '2xx']) FROM unnest(ARRAY['"}', repeat('x', 100), 'a\b']) n~,
	{ 'http_attempts{service="},status=2xx}' => 1, 'http_attempts{service=' . 'x' x 63 . ',status=2xx}' => 1, 'http_attempts{service=a\b,status=2xx}' => 1 });
counts('more jobs than there is room for', q{SELECT webhook_count('job_runs', ARRAY['job ' || n, 'ok']) FROM generate_series(1, 20) n},
	{ (map { ("job_runs{job=job $_,result=ok}" => 1) } 1 .. 16), 'job_runs{job=other,result=ok}' => 4 });
isnt($node->psql('postgres', $_), 0, "$_ is an error") for q{SELECT webhook_count('nothing', '{}')}, q{SELECT webhook_count('claims', '{a}')},
	q{SELECT webhook_count('job_runs', '{a,b}')}, q{SELECT webhook_count('events', '{message,accepted,c}')};
counts('nulls', q{SELECT webhook_count(NULL, '{}'), webhook_count('claims', NULL), webhook_count('locks', '{NULL}')}, {});

# --- reset, restart, crash

sub why { return (samples(q{name = 'wahook_counters_reset_timestamp_seconds'}))[0] =~ /reason=(\w+)/ ? $1 : undef }
my $before = sql(q{SELECT clock_timestamp()});
is(sql(qq{SELECT webhook_metrics_reset() >= '$before'}), 't', 'a reset says since when the counters count');
is(sql(q{SELECT count(*) FROM webhook_metrics() WHERE source = 'shared memory' AND kind <> 'gauge' AND value <> 0}), 0, 'all is zero after it');
is(why(), 'requested', 'and it says so');
sql(receive(message('s-1', '5000')) . $claim . $complete . q{SELECT webhook_count('job_runs', '{retention,ok}')});
my %kept = samples('true');
$node->restart;
is_deeply({ samples('true') }, \%kept, 'a clean restart keeps everything, to the last bucket');
ok(!-e $node->data_dir . '/pg_stat/wahook.counters', 'the file is gone when it has been read');
sql(q{SELECT webhook_count('job_runs', '{retention,failed}')});
is(counter('wahook_job_runs_total{job=retention,result=failed}'), 1, 'and names go on where they were');
$node->stop('immediate');
$node->start;
is(why(), 'crashed', 'after a crash they say so');
is(sql(q{SELECT sum(value) FROM webhook_metrics() WHERE source = 'shared memory' AND kind = 'counter'}), 0, 'and are zero');
sql(receive(message('s-2', '5000')));
my $victim = start_script($node, 'victim', 'SELECT pg_sleep(1000)');
my $pid_of = q{SELECT pid FROM pg_stat_activity WHERE application_name = 'victim' AND wait_event = 'PgSleep'};
await($node, "SELECT EXISTS ($pid_of)", 'a session to be killed');
kill 'KILL', sql($pid_of);
isnt(finish_script($victim), 0, 'a session is killed');
await($node, 'SELECT count(*) = 0 FROM webhook_metrics() WHERE kind = \'counter\' AND value <> 0', 'the crash of a session');
is(why(), 'crashed', 'a session that is killed is a crash too');
sql(receive(message('s-3', '5000')));
my $file = $node->data_dir . '/pg_stat/wahook.counters';
for my $damage (
	[ 'a byte that is wrong', sub { my ($bytes) = @_; substr($bytes, 500, 1) ^= "\x01"; return $bytes } ],
	[ 'a missing end', sub { return substr $_[0], 0, -3 } ],
	[ 'nothing in it', sub { return '' } ],
	[ 'another format', sub { return 'x' . substr $_[0], 1 } ])
{
	my ($what, $damaged) = @$damage;
	sql(receive(message("damage-$what", '5000')));
	$node->stop;
	my $bytes = $damaged->(slurp_file($file));
	unlink $file;
	append_to_file($file, $bytes);
	$node->start;
	is(why(), 'unreadable', "a file with $what");
	is(sql(q{SELECT sum(value) FROM webhook_metrics() WHERE source = 'shared memory' AND kind = 'counter'}), 0, 'the counters are zero');
}
like(slurp_file($node->logfile), qr{could not read file "pg_stat/wahook.counters"}, 'the log says so');

# --- databases and extensions that come and go

sql(receive(message('t-1', '6000')));
my $accepted = 'wahook_deliveries_total{outcome=accepted}';
is(counter($accepted), 1, 'one was counted');
sql('CREATE DATABASE other');
sql('CREATE EXTENSION wahook', 'other');
sql(receive(message('t-1', '6000')) x 2, 'other');
is(counter($accepted, 'other'), 2, 'another database counts on its own');
sql('BEGIN; DROP EXTENSION wahook; ROLLBACK; BEGIN; SAVEPOINT a; DROP EXTENSION wahook; ROLLBACK TO a; COMMIT', 'other');
is(counter($accepted, 'other'), 2, 'an extension that is not dropped after all keeps its numbers');
sql('CREATE EXTENSION pg_trgm; DROP EXTENSION pg_trgm', 'other') if -e $node->config_data('--sharedir') . '/extension/pg_trgm.control';
sql('DROP EXTENSION wahook; CREATE EXTENSION wahook', 'other');
is(counter($accepted, 'other'), 0, 'a new one begins at zero');
sql(receive(message('t-1', '6000')) . 'BEGIN; DROP EXTENSION wahook; CREATE EXTENSION wahook;' . receive(message('t-1', '6000')) . 'COMMIT', 'other');
is(counter($accepted, 'other'), 1, 'in one transaction too');
sql('CREATE DATABASE brief TEMPLATE other');
sql(receive(message('brief', '6000')), 'brief');
is(counter($accepted, 'brief'), 1, 'a copy of a database counts from one');
sql('DROP DATABASE brief');
is(counter($accepted), 1, 'the others count on');

# More of them than there is room for. What takes room is the library; the extension would only take time.
my $take = q{CREATE FUNCTION take() RETURNS timestamptz AS '$libdir/wahook', 'wahook_reset_counters' LANGUAGE C; SELECT take()};
is(sql(join "\n", map { "CREATE DATABASE d$_ TEMPLATE template0 STRATEGY file_copy;\n\\connect d$_\n$take IS NOT NULL;" } 1 .. 62), join("\n", ('t') x 62), 'room for 64 databases');
sql('CREATE DATABASE one_more');
sql('CREATE EXTENSION wahook', 'one_more');
sql(receive(message('t-1', '6000')), 'one_more');
is(sql(q{SELECT count(*) FROM webhook_metrics() WHERE source <> 'tables'}, 'one_more'), 0, 'one that there is no room for has no counters');
isnt($node->psql('one_more', 'SELECT webhook_metrics_reset()', stderr => \my $no_room), 0, 'nothing to reset');
like($no_room, qr/there is no room.*64 databases/s, 'and that says why');
sql('DROP DATABASE d1');
sql(receive(message('t-2', '6000')), 'one_more');
is(counter($accepted, 'one_more'), 1, 'until another one is dropped');
sql(join "\n", map { "DROP DATABASE $_;" } 'one_more', map { "d$_" } 2 .. 62);

# Without the preload line meanwhile, and the extension made anew.
$node->stop;
is((unpack 'LLLl', slurp_file($file))[3], 2, 'what a dropped database had is free');
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->start;
is(sql(q{SELECT count(*) FROM webhook_metrics() WHERE source <> 'tables'}), 0, 'without preload there are no counters');
is(sql(receive(message('t-2', '6000')) =~ s/^SELECT/SELECT count(*) FROM/r), 1, 'and everything goes on');
isnt($node->psql('postgres', 'SELECT webhook_metrics_reset()', stderr => \my $stderr), 0, 'there is nothing to reset');
like($stderr, qr/there are no counters to reset.*shared_preload_libraries/s, 'and that says why');
sql('DROP EXTENSION wahook; CREATE EXTENSION wahook', 'other');
$node->stop;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'wahook'\nwahook.databases = 'postgres'\n");
$node->start;
is(counter($accepted), 1, 'with it again, they go on where they were');
sql(receive(message('t-3', '6000')), 'other');
is(counter($accepted, 'other'), 1, 'but not those of an extension that is not the same');

# --- jobs and requests, by the worker

await($node, q{SELECT bool_and(runs > 0) FROM webhook_jobs}, 'the jobs');
await($node, q{SELECT (SELECT sum(runs) FROM webhook_job_runs) = (SELECT sum(value) FROM webhook_metrics() WHERE name = 'wahook_job_runs_total' AND labels->>'job' IN (SELECT job FROM webhook_jobs))},
	'the runs of the jobs are those of the table');
sql(q{ALTER TABLE webhook_rate_limits RENAME TO hidden});
is(sql(q{SELECT run_webhook_job('retention')->>'success'}), 'false', 'a job fails');
is(counter('wahook_job_runs_total{job=retention,result=failed}'), 1, 'and that is counted');
sql(q{ALTER TABLE hidden RENAME TO webhook_rate_limits});

my $endpoint = Endpoint->new(PostgreSQL::Test::Utils::tempdir());
my %answers = ('/ok' => '2xx', '/redirect/302' => '3xx', '/status/404' => '4xx', '/status/503' => '5xx', '/hang' => 'timeout', '/close' => 'connection');
for my $path (sort keys %answers)
{
	my $name = "to $path";
	sql(qq{INSERT INTO webhook_services (name, url, allow_http, timeout) VALUES ('$name', '@{[ $endpoint->url($path) ]}', true, '1s');
		INSERT INTO webhook_routes (name, match, pattern, service, priority) VALUES ('$name', 'keyword', '$name', '$name', 1)});
	sql(receive(message("h $path", '7' . length $path, $name)));
	await($node, qq{SELECT value = 1 FROM webhook_metrics() WHERE name = 'wahook_http_attempts_total' AND labels = jsonb_build_object('service', '$name', 'status', '$answers{$path}')}, $name);
}
sql(qq{INSERT INTO webhook_services (name, url) VALUES ('forbidden', 'https://10.1.2.3/');
	INSERT INTO webhook_routes (name, match, pattern, service, priority) VALUES ('forbidden', 'keyword', 'forbidden', 'forbidden', 1)});
sql(receive(message('h forbidden', '7000', 'forbidden')));
await($node, q{SELECT value = 1 FROM webhook_metrics() WHERE name = 'wahook_http_attempts_total' AND labels = '{"service": "forbidden", "status": "refused"}'}, 'what may not be sent');
is(counter('wahook_http_request_duration_seconds_count'), scalar keys %answers, 'the time of what was sent is known');

# --- who may

sql(q{CREATE ROLE watcher; CREATE ROLE stranger; CREATE ROLE boss; SELECT wahook_grant('watcher', 'monitor'), wahook_grant('boss', 'admin')});
is(sql('SET ROLE watcher; SELECT count(*) > 100 FROM webhook_metrics()'), 't', 'a monitor reads them');
for my $forbidden ('SET ROLE watcher; SELECT webhook_metrics_reset()', 'SET ROLE stranger; SELECT webhook_metrics()', q{SET ROLE watcher; SELECT webhook_count('claims', '{}')},
	'SET ROLE watcher; SELECT webhook_counter_samples()')
{
	isnt($node->psql('postgres', $forbidden, stderr => \$stderr), 0, $forbidden);
	like($stderr, qr/permission denied/, 'is denied');
}
is(sql('SET ROLE boss; SELECT webhook_metrics_reset() IS NOT NULL'), 't', 'an admin resets them');

done_testing();
