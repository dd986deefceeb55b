# webhook_metrics_prometheus(): promtool finds nothing to say against it, whatever services are called; it says what
# webhook_metrics() says; its gauges are those of the tables; a table that somebody has locked hides no other.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $node = new_node('prometheus', "shared_preload_libraries = 'wahook'", "wahook.databases = 'nowhere'", "wahook.dlq_jitter = 0");

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub text { return sql('SELECT webhook_metrics_prometheus()') }

sub promtool
{
	my ($text) = @_;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([qw(promtool check metrics)], \"$text\n", \$out, \$err);
	return ($ok ? '' : 'failed: ') . $out . $err;
}

# Reads the text format: a hash of samples, labels in alphabetical order, and one of types.
sub parse
{
	my ($text) = @_;
	my (%samples, %types, %helps, $metric);
	for my $line (split /\n/, $text)
	{
		if ($line =~ /^# HELP (\w+) (\S.*)$/) { die "twice: $1" if $helps{$1}++; $metric = $1; next }
		if ($line =~ /^# TYPE (\w+) (counter|gauge|histogram)$/ && $1 eq $metric) { $types{$1} = $2; next }
		next if $line =~ /^# UNIT (\w+_seconds) seconds$/ && $1 eq $metric;
		my ($name, $labels, $value) = $line =~ /^(\w+)(?:\{(.*)\})? (-?[0-9.e+-]+)$/ or die "no sample: $line";
		die "outside of its metric: $line" if $name !~ /^$metric(_bucket|_sum|_count)?$/;
		my @labels;
		while (defined $labels && $labels =~ /\G,?([a-z_]+)="((?:[^"\\]|\\["\\n])*)"/gc)
		{
			push @labels, "$1=" . $2 =~ s/\\(.)/$1 eq 'n' ? "\n" : $1/ger;
		}
		die "bad labels: $line" if defined $labels && (pos($labels) // 0) != length $labels;
		my $key = $name . (@labels ? '{' . join(',', @labels) . '}' : '');
		die "twice: $key" if exists $samples{$key};
		$samples{$key} = $value;
	}
	return (\%samples, \%types);
}

# --- its form

is(promtool(text()), '', 'promtool finds nothing at first');
my @hostile = ('"', '\\', 'a"} 1', '\\"', 'back\\n', "new\nline", '{}', '# HELP x y', "tab\t", '%s %1$s', '\\\\', ' ', "car\rriage", 'x' x 200);
for my $name (@hostile)
{
	my $quoted = $name =~ s/'/''/gr;
	sql("SELECT webhook_count('http_attempts', ARRAY['$quoted', '2xx']), webhook_count('agent_calls', ARRAY['$quoted', 'ok']), webhook_count('agent_tokens', ARRAY['$quoted', 'input'])");
}
sql("SELECT receive_webhook('" . delivery(message('m-1', '491761234567'), message('m-2', '2'), message('m-3', '3')) . "'); SELECT run_webhook_job(job) FROM webhook_job_list()");
my $text = text();
is(promtool($text), '', 'nor with services of all names');
is(sql(q~SELECT string_agg(line, ' ' ORDER BY line) FROM regexp_split_to_table(webhook_metrics_prometheus(), E'\n') AS line WHERE line LIKE '%http_attempts_total{%'~),
	sql(q~SET standard_conforming_strings = off; SELECT string_agg(line, ' ' ORDER BY line) FROM regexp_split_to_table(webhook_metrics_prometheus(), E'\n') AS line WHERE line LIKE '%http_attempts_total{%'~),
	'nor where strings are written as of old');
like(promtool("$text\nwahook_claims 1"), qr/./, 'it would find something');
my ($samples, $types) = parse($text);
ok(exists $samples->{'wahook_http_attempts_total{service=' . substr($_, 0, 63) . ',status=2xx}'}, 'a service is found again') or diag $_ for @hostile;
is(sql(q{SELECT right(webhook_metrics_prometheus(), 1) = E'\n'}), 't', 'which is the end of a line');

my %rows = map { my ($name, $value) = /^(.*)\|(.*)$/s; ($name => $value) } split /\x01/, sql(q{
	SELECT string_agg(name || coalesce('{' || (SELECT string_agg(key || '=' || value, ',' ORDER BY key) FROM jsonb_each_text(labels)) || '}', '') || '|' || value, E'\x01')
	FROM webhook_metrics()});
is_deeply([ sort keys %$samples ], [ sort keys %rows ], 'it has the samples of webhook_metrics()');
is_deeply({ map { ($_ => $samples->{$_}) } grep { !/age_seconds|oldest/ } keys %$samples }, { map { ($_ => $rows{$_}) } grep { !/age_seconds|oldest/ } keys %rows }, 'and their values');
is(sql(q{SET extra_float_digits = -15; SELECT webhook_metrics_prometheus() ~ 'reset_timestamp_seconds\S+ [0-9]{10}\.[0-9]'}), 't', 'whatever the session does to numbers');

# --- gauges

sub gauge { my ($name) = @_; my ($now) = parse(text()); return $now->{"wahook_$name"} }
is(gauge('inbox_messages'), 3, 'three wait');
sql(q{UPDATE webhook_inbox SET enqueued_at = now() - interval '90 s'});
sql(q{UPDATE webhook_conversation_queue SET due_at = now() - interval '90 s'});
cmp_ok(gauge('inbox_oldest_seconds'), '>=', 90, 'for so long');
cmp_ok(gauge('inbox_oldest_seconds'), '<', 90 + $PostgreSQL::Test::Utils::timeout_default, 'and not longer');
sql(q{SELECT claim_conversations(2)});
is(gauge('conversations_locked'), 2, 'two are claimed');
is(gauge('conversations_stuck'), 0, 'none is stuck');
sql(q{BEGIN; UPDATE webhook_leases SET expires_at = now() - interval '1 s'; UPDATE webhook_conversations SET lock_expires_at = now() - interval '1 s' WHERE locked_by IS NOT NULL; COMMIT});
is(gauge('conversations_locked') . gauge('conversations_stuck'), '02', 'their leases have run out');
sql(q{SELECT record_circuit_failure('service:a', 1), record_circuit_failure('b', 1), record_circuit_success('c')});
is(gauge('circuits_open'), 2, 'two circuits are open');
sql(q{INSERT INTO webhook_dlq (payload, whatsapp_message_id, resolution_status) SELECT '{}', 'd' || n, CASE WHEN n < 2 THEN 'retrying' WHEN n < 5 THEN 'failed' WHEN n < 6 THEN 'resolved' ELSE 'pending' END FROM generate_series(1, 10) n});
is(join(' ', map { gauge("dead_letters{state=$_}") } qw(pending retrying failed)), '5 1 3', 'dead letters by state');
sql(q{SELECT receive_webhook('{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"messages","value":{"messages":[{"id":"\u0000"}]}}]}]}')});
is(gauge('quarantine_messages'), 1, 'one is in the quarantine');
sql(q{SELECT increment_session_metrics(id, 'waiter') FROM webhook_conversations LIMIT 2});
is(gauge('agent_sessions_active'), 2, 'two sessions');
is(gauge('job_last_run_succeeded{job=retention}'), 1, 'a job succeeded');
is(gauge('alerts_active{alert_type=CIRCUIT_OPEN}'), undef, 'no alert');
sql('SELECT evaluate_webhook_alerts()');
is(gauge('alerts_active{alert_type=CIRCUIT_OPEN}'), sql(q{SELECT count(*) FROM webhook_alerts WHERE alert_type = 'CIRCUIT_OPEN'}), 'the alerts that fire');
is(gauge('worker_up'), undef, 'there is to be no worker');
sql(q{CREATE SEQUENCE d; INSERT INTO webhook_quarantine (content_hash, reason, body, correlation_id, received_at, last_seen_at) SELECT sha256(n::text::bytea), 'x', 'x', gen_random_uuid(), now(), now() FROM generate_series(1, 10500) n});
await($node, q{SELECT value = 10501 FROM webhook_metrics() WHERE name = 'wahook_quarantine_messages'}, 'the estimate above 10,000');

# --- some of them

sub names { return sql("SELECT coalesce(string_agg(name, ' '), '') FROM webhook_metrics($_[0])") }
is(names(q{'{wahook_claims_total,wahook_inbox_messages,no_such,NULL}'}), 'wahook_claims_total wahook_inbox_messages', 'those that are named');
is(names(q{'{wahook_intake_duration_seconds}'}), 'wahook_intake_duration_seconds_bucket ' x 24 . 'wahook_intake_duration_seconds_sum wahook_intake_duration_seconds_count', 'a histogram');
is(names(q{'{}'}) . names(q{'{NULL}'}), '', 'none');
is(sql(q{SELECT count(*) FROM webhook_metrics(NULL)}), sql(q{SELECT count(*) FROM webhook_metrics()}), 'null: all');
is(sql(q{BEGIN; SELECT count(*) FROM webhook_metrics('{wahook_claims_total}'); SELECT count(*) FROM pg_locks WHERE relation = 'webhook_dlq'::regclass; COMMIT}),
	"1\n0", 'a gauge that is not asked for is not looked up');

# --- in bounded time: no table is read from end to end

sql(q{CREATE TABLE scans AS SELECT relname, seq_scan FROM pg_stat_user_tables});
my $scans = q{SELECT coalesce(string_agg(u.relname, ' ' ORDER BY u.relname), '') FROM pg_stat_xact_user_tables u JOIN pg_depend d ON d.objid = u.relid AND d.deptype = 'e'
	WHERE u.seq_scan > 0 AND u.relname NOT IN ('webhook_job_runs')};
is(sql("BEGIN; SELECT count(*) > 100 FROM webhook_metrics(); SELECT 'scans:' || ($scans); COMMIT"), "t\nscans:", 'no sequential scans');

# --- a table that somebody has locked

my $blocker = $node->background_psql('postgres');
$blocker->query_safe('BEGIN; LOCK TABLE webhook_dlq');
$text = text();
is(promtool($text), '', 'a locked table does no harm');
($samples) = parse($text);
is($samples->{wahook_gauges_failed}, 1, 'its gauge failed');
ok(!exists $samples->{'wahook_dead_letters{state=pending}'}, 'and is absent');
is($samples->{wahook_circuits_open}, 2, 'the others are there');

# answers QUERY: what it tells while the table is locked; 'hangs' where it waits for that
sub answers
{
	my ($status, $out) = $node->psql('postgres', "SET statement_timeout = '60s'; $_[0]");
	return $status == 0 ? $out : 'hangs';
}
is(answers(q{SELECT string_agg(details ->> 'subject' || ' ' || (details ->> 'sqlstate'), ', ') FROM check_webhook_system_health() WHERE alert_type = 'HEALTH_CHECK_FAILED'}),
	'queues 55P03, retention 55P03', 'the alerts are there but for those of the locked table');
is(answers(q{SELECT h -> 'dead_letters', h #> '{queue,messages}' >= '0' FROM webhook_health() h}), '{"failed": "55P03"}|t', 'so is the health');

$blocker->query_safe('LOCK TABLE webhook_job_runs');
is($node->psql('postgres', q{SET statement_timeout = '60s'; SELECT count(*) > 100 FROM webhook_metrics()}), 0, 'nor does that of the jobs, whose runs shared memory has');
$blocker->query_safe('ROLLBACK');
$blocker->quit;

# --- who may

sql(q{CREATE ROLE watcher; CREATE ROLE stranger; SELECT wahook_grant('watcher', 'monitor')});
is(sql('SET ROLE watcher; SELECT webhook_metrics_prometheus() IS NOT NULL'), 't', 'a monitor reads it');
isnt($node->psql('postgres', 'SET ROLE stranger; SELECT webhook_metrics_prometheus()'), 0, 'a stranger does not');
unlike($text, qr/491761234567/, 'it holds no phone number');

# --- with a worker; without preload; in a read-only transaction

sql(q{ALTER SYSTEM SET wahook.databases = ''});
$node->reload;
await($node, q{SELECT value = 1 FROM webhook_metrics() WHERE name = 'wahook_worker_up'}, 'the worker');
(undef, $types) = parse(text());
my %documented = slurp_file("$FindBin::Bin/../../doc/reference/metrics.md") =~ /^\| `(wahook_\w+)` \| (\w+) \|/mg;
is_deeply(\%documented, $types, 'the reference has all metrics');
is(promtool(sql('BEGIN READ ONLY; SELECT webhook_metrics_prometheus(); COMMIT')), '', 'in a read-only transaction');
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
$text = text();
is(promtool($text), '', 'without preload');
($samples) = parse($text);
is($samples->{'wahook_job_runs_total{job=retention,result=ok}'}, sql(q{SELECT runs FROM webhook_job_runs WHERE job = 'retention'}), 'the jobs are counted by their table');
is($samples->{'wahook_deliveries_total{outcome=accepted}'}, undef, 'deliveries are not counted');

done_testing();
