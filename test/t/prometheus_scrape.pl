# doc/examples/prometheus, for real: Prometheus scrapes the edge function, run by Deno, and postgres_exporter, while the
# function and the worker process messages. Both ways tell what the database tells; the rules load, and alerts that are
# provoked fire and end; each query of the Grafana dashboard is executed, and has something to show.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Edge;
use Endpoint;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Prometheus;
use Test::More;
use Wahook;

my $tmp = PostgreSQL::Test::Utils::tempdir();
my $examples = Prometheus::examples();

# --- The files, for themselves

sub promtool { my (@args) = @_; my $out = ''; my $ok = IPC::Run::run([ 'promtool', @args ], '<', '/dev/null', '>', \$out, '2>&1'); return $ok ? 'ok' : $out }

my $copy = "$tmp/copy";
system('cp', '-R', $examples, $copy) == 0 or die;
append_to_file("$copy/wahook-metrics-token", 'x');
is(promtool('check', 'config', "$copy/prometheus.yml"), 'ok', 'the configuration');
is(promtool('check', 'rules', "$examples/wahook.rules.yml"), 'ok', 'the rules');
is(promtool('test', 'rules', "$examples/wahook.rules.test.yml"), 'ok', 'the tests of the rules');
my $rules = slurp_file("$examples/wahook.rules.yml");
my $tested = slurp_file("$examples/wahook.rules.test.yml");
my @alerts = $rules =~ /^ +- alert: (\w+)$/mg;
is_deeply([ grep { $tested !~ /alertname: $_\n +exp_alerts:/ || $tested !~ /alertname: $_\n(?! +exp_alerts)/ } @alerts ], [],
	'each alert is tested, and when it is none');
# All thresholds are moved up, or down: the tests of each notice.
for my $by (1, -1)
{
	my $moved = $rules =~ s/(stuck|state="pending"\}|failed:increase1h|p95_5m) > \K(\d+)/$2 + $by * ($by > 0 || $2 > 2 ? 1 : 0.1)/ger;
	Prometheus::replace("$copy/wahook.rules.yml", $moved);
	my $noticed = promtool('test', 'rules', "$copy/wahook.rules.test.yml");
	is_deeply([ grep { $noticed !~ /alertname: $_,/ } qw(WahookStuckConversations WahookDeadLetters WahookErrors WahookSlow) ], [],
		"the tests of the rules notice thresholds moved by $by");
}

my @families = slurp_file("$examples/../../reference/metrics.md") =~ /^\| `(wahook_\w+)` \|/mg;
my %known = map { $_ => 1 } map { ($_, "${_}_bucket", "${_}_sum", "${_}_count") } @families;
my $dashboard = decode_json(slurp_file("$examples/grafana-dashboard.json"));
my $queries = slurp_file("$examples/queries.yaml");
my @exprs = map { $_->{expr} } map { @{ $_->{targets} // [] } } @{ $dashboard->{panels} };
is_deeply([ grep { !$known{$_} } "@exprs $rules" =~ /\b(wahook_\w+)/g ], [], 'rules and dashboard name metrics that there are');
is_deeply([ grep { my $name = $_; !grep { /\b$name(_bucket|_sum)?\b/ } @exprs } @families ], [], 'each is on the dashboard');
is_deeply([ sort $queries =~ /webhook_metrics\('\{(\w+(?:,\w+)*)\}'\)/g ], [ sort((grep { !/^wahook_conversations_/ } @families),
	'wahook_conversations_locked,wahook_conversations_stuck') ], 'and among the queries of the exporter');

# --- Everything is started

my $secret = 'the-app-secret';
my $endpoint = Endpoint->new($tmp);
$endpoint->set_switch('shop', 200);
my $node = new_node('scrape', "shared_preload_libraries = 'wahook'", "listen_addresses = '127.0.0.1'", "wahook.app_secret = '$secret'",
	"wahook.http_allowed_networks = '127.0.0.1'", "wahook.alert_interval = '1 s'", "wahook.alert_hold_time = '1 s'", "wahook.dlq_base_delay = '1 h'",
	"wahook.dlq_max_delay = '2 h'", 'max_connections = 60');
sub sql { return $node->safe_psql('postgres', @_) }
sql(q{CREATE ROLE bot LOGIN; SELECT wahook_grant('bot', 'service');
	CREATE ROLE prometheus LOGIN; SELECT wahook_grant('prometheus', 'monitor');
	CREATE TABLE work (message_id text, conversation_id uuid, lock_token bigint, flag boolean, body text); GRANT INSERT ON work TO bot;
	INSERT INTO webhook_services (name, url, allow_http) VALUES ('shop', '} . $endpoint->url('/switch/shop') . q{', true);
	UPDATE webhook_services SET circuit_threshold = 3, circuit_timeout = '1 h' WHERE name = 'shop';
	INSERT INTO webhook_routes (name, match, pattern, service, priority) VALUES ('shop', 'keyword', 'shop', 'shop', 1)});

my $function = Edge->new(bot => 'bot.ts', DATABASE_URL => 'postgres://bot@127.0.0.1:' . $node->port . '/postgres', WAHOOK_METRICS_TOKEN => 'of-numbers');
my $exporter = Prometheus::start_exporter($tmp, 'postgres://prometheus@127.0.0.1:' . $node->port . '/postgres?sslmode=disable');
my $prometheus = Prometheus->new($tmp, 'of-numbers', wahook => "127.0.0.1:$function->{port}", 'wahook-postgres' => $exporter->{address});
my @jobs = qw(wahook wahook-postgres);

sub samples { my ($query) = @_; return @{ $prometheus->query($query) } }
Prometheus::await_true('both targets', sub { samples('wahook_messages_failed_total == 0') == 2 });
is_deeply([ sort map { $_->{metric}{job} } samples('up == 1') ], \@jobs, 'Prometheus scrapes the function and the exporter');
is(scalar(samples('pg_exporter_last_scrape_error != 0 or pg_exporter_user_queries_load_error != 0')), 0, 'the exporter has no fault to find with the queries');

# --- Traffic

my $n = 0;
sub send_text { my ($text) = @_; $n++; my $r = $function->post_signed($secret, delivery(message("wamid.$n", '1555' . $n % 20, $text))); return $r->{status} }
sub quiet { return await($node, q{SELECT NOT EXISTS (SELECT FROM webhook_inbox) AND NOT EXISTS (SELECT FROM webhook_conversations WHERE locked_by IS NOT NULL)}, 'nothing waits') }

is(send_text($_), 200, "a message: $_") for 'succeed', 'shop', 'fail';
$function->post_signed($secret, delivery(message('wamid.1', '15551', 'succeed')));
$function->post('{}', 'X-Hub-Signature-256' => 'sha256=00');
$function->post_signed($secret, q({"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"messages","value":{"metadata":{"phone_number_id":"1001"},"messages":[{"from":"1","id":"\u0000","type":"text"}]}}]}]}));
await($node, q{SELECT EXISTS (SELECT FROM webhook_dlq)}, 'one failed');
sql(q{UPDATE webhook_dlq SET next_retry_at = now(); SELECT process_dead_letter_queue()});
sql(q{SELECT webhook_count('agent_calls', '{helper,ok}'), webhook_count('agent_tokens', '{helper,input}');
	SELECT increment_session_metrics(id, 'helper') FROM webhook_conversations LIMIT 1; SELECT run_webhook_job(job) FROM webhook_job_list()});
send_text('succeed'); # sets the function to work on the retry
quiet();

# --- Alerts: what goes wrong is seen

ok(!$prometheus->firing($_), "$_ does not fire") for qw(WahookCircuitOpen WahookDeadLetters WahookErrors WahookMetricsMissing WahookWorkerDown);
$endpoint->set_switch('shop', 500);
send_text('shop') for 1 .. 3;
$prometheus->await_firing('WahookCircuitOpen', 2);
send_text('fail') for 1 .. 12;
$prometheus->await_firing('WahookErrors', 2);
$prometheus->await_firing('WahookDeadLetters', 2);
is_deeply([ sort map { $_->{job} } $prometheus->firing('WahookDeadLetters') ], \@jobs, 'by both ways');
is_deeply([ map { $_->{severity} } $prometheus->firing('WahookErrors') ], [ ('critical') x 2 ], 'with their severity');

# --- The values: what the database tells, under the same names

sub key { my ($name, %labels) = @_; return $name . '{' . join(',', map { "$_=" . ($_ eq 'le' ? $labels{le} + 0 : $labels{$_}) } sort keys %labels) . '}' }
sub text { my ($samples) = @_; return join "\n", map { "$_ $samples->{$_}" } sort keys %$samples }
quiet();
for my $job (@jobs)
{
	my ($told, $expected);
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	do
	{
		$told = {};
		for my $sample (samples(qq({__name__=~"wahook_.+", job="$job"})))
		{
			my %labels = %{ $sample->{metric} };
			my ($name, $exported) = delete @labels{qw(__name__ exported_job)};
			delete @labels{qw(job instance server)};
			$labels{job} = $exported if defined $exported;
			$told->{ key($name, %labels) } = $sample->{value}[1] + 0;
		}
		my $rows = decode_json(sql(q{SELECT json_agg(json_build_array(name, labels, value)) FROM webhook_metrics()}));
		$expected = { map { (key($_->[0], %{ $_->[1] }) => $_->[2] + 0) } @$rows };
		delete @{$_}{ grep { /_(?:age|oldest)_seconds\{/ } keys %$_ } for $told, $expected;
	} until text($told) eq text($expected) || time > $deadline;
	is(text($told), text($expected), "$job tells all that the database tells");
	my %names = map { $_->{metric}{__name__} =~ s/_(bucket|sum|count)$//r => 1 } samples(qq({__name__=~"wahook_.+", job="$job"}));
	is_deeply([ grep { !$names{$_} } @families ], [], "$job has every metric");
	cmp_ok($told->{'wahook_messages_failed_total{}'}, '>=', 13, 'the failures');
	is($told->{'wahook_circuits_open{}'}, 1, 'the circuit');
	is($told->{'wahook_alerts_active{alert_type=CIRCUIT_OPEN}'}, 1, 'the alert that the worker saw');
	is($told->{'wahook_worker_up{}'}, 1, 'the worker');
}
my $page = Prometheus::http()->get("http://$exporter->{address}/metrics")->{content};
my $lint = '';
IPC::Run::run([qw(promtool check metrics)], '<', \join('', grep { /wahook_/ } split /^/, $page), '>', \$lint, '2>&1');
is($lint, '', 'promtool has nothing to say against what the exporter makes of it');

# --- The rules, after all that

my @groups = @{ $prometheus->api('rules')->{groups} };
my @loaded = map { @{ $_->{rules} } } @groups;
is(scalar(grep { $_->{type} eq 'alerting' } @loaded), scalar @alerts, 'all alerts are loaded');
is_deeply([ map { "$_->{name}: $_->{lastError}" } grep { $_->{health} ne 'ok' } @loaded ], [], 'and evaluated without an error');
for my $record (map { $_->{name} } grep { $_->{type} eq 'recording' } @loaded)
{
	Prometheus::await_true($record, sub { samples("$record >= 0") >= 2 || do { send_text('shop'); send_text('succeed'); 0 } });
	pass("$record is recorded");
}

# --- It ends

$endpoint->set_switch('shop', 200);
sql(q{SELECT reset_circuit('service:shop')});
$prometheus->await_firing('WahookCircuitOpen', 0);

# --- The dashboard. Rates need something that goes on.

my %seen_ids;
is_deeply([ grep { $seen_ids{ $_->{id} }++ } @{ $dashboard->{panels} } ], [], 'each panel has an id of its own');
is_deeply([ grep { !$_->{title} } @{ $dashboard->{panels} } ], [], 'and a title');
for my $job (@jobs)
{
	my %value = (job => $job, instance => '.+', __rate_interval => '1m', datasource => 'x');
	my $substitute = sub { my ($query) = @_; return $query =~ s/\$\{?(\w+)\}?/$value{$1} \/\/ die "no variable $1 in $query"/ger };
	for my $variable (grep { $_->{type} eq 'query' } @{ $dashboard->{templating}{list} })
	{
		my ($match, $label) = $variable->{query}{query} =~ /^label_values\((.*), (\w+)\)$/ or die $variable->{query}{query};
		my $values = $prometheus->api("label/$label/values", 'match[]' => $substitute->($match));
		is((grep { $_ eq $job || /^127/ } @$values) > 0, 1, "$job: values of \$$variable->{name}");
	}
	my @queries = map { my $panel = $_; map { [ $panel->{title}, $_->{expr}, $_->{range}, $_->{legendFormat} ] } @{ $panel->{targets} // [] } } @{ $dashboard->{panels} };
	push @queries, map { [ $_->{name}, $_->{expr}, 1, $_->{textFormat} ] } grep { $_->{expr} } @{ $dashboard->{annotations}{list} };
	for my $query (@queries)
	{
		my ($title, $expr, $range, $legend) = @$query;
		my @labels = $legend =~ /\{\{(\w+)\}\}/g;
		$expr = $substitute->($expr);
		Prometheus::await_true("$title: $expr", sub {
			my @series = @{ $range ? $prometheus->query_range($expr) : $prometheus->query($expr) };
			for my $series (@series)
			{
				next if grep { !defined $series->{metric}{$_} } @labels; # its legend would be empty
				return 1 if grep { $_->[1] =~ /^-?[0-9.]+(e[+-]?\d+)?$/ } $range ? @{ $series->{values} } : $series->{value};
			}
			send_text($_) for qw(shop succeed);
			sql(q{SELECT webhook_count('agent_calls', '{helper,ok}'), webhook_count('agent_tokens', '{helper,input}')});
			return 0;
		});
		pass("$job: $title: $expr");
	}
}

# --- A worker that ends and is not started again, because the launcher is held up. Conversations that hang meanwhile.

my $launcher = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'wahook launcher'});
kill 'STOP', $launcher;
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'wahook worker'});
$prometheus->await_firing('WahookWorkerDown', 2);
sql(q{INSERT INTO webhook_conversations (user_id, agent_type, status, last_activity_at) SELECT 'hangs' || n, 'helper', 'processing', now() - interval '1 day' FROM generate_series(1, 6) n;
	INSERT INTO webhook_services (name) VALUES ('nobody');
	INSERT INTO webhook_routes (name, match, pattern, service, priority) VALUES ('nobody', 'keyword', 'nobody', 'nobody', 1)});
send_text('nobody');
sql(q{UPDATE webhook_inbox SET enqueued_at = now() - interval '1 hour' WHERE service = 'nobody'});
is(sql(q{WITH u AS (UPDATE webhook_conversation_queue SET due_at = now() - interval '1 hour' WHERE service = 'nobody' RETURNING 1) SELECT count(*) FROM u}), '1', 'one waits');
$prometheus->await_firing('WahookStuckConversations', 2);
$prometheus->await_firing('WahookInboxAgeing', 2);
kill 'CONT', $launcher;
$prometheus->await_firing('WahookWorkerDown', 0);
sql(q{UPDATE webhook_conversations SET status = 'completed' WHERE user_id LIKE 'hangs%'});
$prometheus->await_firing('WahookStuckConversations', 0);

# --- A target that is gone

Prometheus::end_server($exporter->{run});
$prometheus->await_firing('WahookMetricsMissing', 1);
is(($prometheus->firing('WahookMetricsMissing'))[0]{job}, 'wahook-postgres', 'that of the exporter');
unlike(slurp_file($prometheus->{log}), qr/level=(error|warn) .*(rule|scrape)/i, 'Prometheus has nothing to complain about');
$prometheus->stop;
is($function->stop('TERM'), 0, 'the end');
done_testing();
