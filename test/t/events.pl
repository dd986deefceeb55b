# Every event, provoked: each is one line of JSON in the log, on stderr, in csvlog and in jsonlog, whatever is in an error,
# a name or a key, and is as doc/reference/events.schema.json says. wahook.log_events says which there are.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Endpoint;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Wahook;

my $schema = decode_json(slurp_file("$FindBin::Bin/../../doc/reference/events.schema.json"));
my %schemas = map { $_->{title} => $_ } @{ $schema->{oneOf} };
my %documented = slurp_file("$FindBin::Bin/../../doc/reference/events.md") =~ /^\| ([A-Z_]+) \| (\w+) \|/mg;
is_deeply({ map { $_ => $schemas{$_}{properties}{level}{const} } keys %schemas }, \%documented, 'the schema has the events of the reference, at their levels');

my $endpoint = Endpoint->new(PostgreSQL::Test::Utils::tempdir());
my $node = new_node('events', "shared_preload_libraries = 'wahook'", 'wahook.log_events = all', 'wahook.log_error_texts = on', 'wahook.dlq_jitter = 0',
	"wahook.http_allowed_networks = '127.0.0.1'", "wahook.alert_interval = '1s'", 'wahook.alert_hold_time = 0', 'wahook.health_circuits = 0',
	'logging_collector = on', "log_destination = 'stderr,csvlog,jsonlog'", "log_directory = 'log'", "log_filename = 'events'", "log_statement = 'none'",
	"log_line_prefix = '%m [%p] %q%u@%d/%a '", 'log_error_verbosity = verbose', "lc_messages = 'C'");
sub sql { return $node->safe_psql('postgres', $_[0]) }

# The log, whose processes may still be writing.
my $dir = $node->data_dir . '/log';
sub await_log
{
	my ($pattern, $what) = @_;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if (grep { slurp_file("$dir/$_") =~ $pattern } qw(events events.csv events.json)) == 3;
		Time::HiRes::usleep(100_000);
	}
	BAIL_OUT("waited in vain: $what");
}

# --- each of them

my $hostile = qq(quote " apostrophe '' backslash \\ tab\t newline\nreturn\r bell\a escape\e delete\x7f {"event": "FAKE"}\n2026-11-20 16:00:00.000 UTC [1] LOG:  {"event": "FAKE"}\n);
$hostile .= chr for 1 .. 31;
my $error = "E'" . ($hostile =~ s/\\/\\\\/gr) . ('long ' x 1000) . "'";
my $delivery = delivery(message('m-\\"1\\u0001', '1000'), message('m-2', '1000'), message('m-3', '1001'));
sql("SELECT receive_webhook('$delivery'); SELECT receive_webhook('$delivery')");
sql(qq{SELECT conversation_id, lock_id FROM claim_conversations() \\gset
SELECT count(*) FROM fail_webhook_message(:'conversation_id', :'lock_id', E'm-"1\\x01', $error, $error, '0');
SELECT count(*) FROM fail_webhook_message(:'conversation_id', :'lock_id', 'm-2', $error, p_retryable => false);
SELECT acquire_conversation_lock(:'conversation_id', gen_random_uuid());
SELECT complete_webhook_messages(:'conversation_id', :'lock_id', '{}');
SELECT acquire_conversation_lock(:'conversation_id', :'lock_id');
SELECT release_conversation_lock(:'conversation_id', :'lock_id');
SELECT process_dead_letter_queue();
SELECT complete_conversations(array_agg(conversation_id), min(lock_id::text)::uuid) FROM claim_conversations(10);
SELECT add_to_dead_letter_queue('{}', $error, NULL, 'added');
SELECT mark_message_processed('added', true);
SELECT add_to_dead_letter_queue('{}', NULL, NULL, 'null');
SELECT cleanup_stale_sessions()});
sql(qq{SELECT record_circuit_failure(E'key "\\n\\x01', 1, 1); SELECT pg_sleep(0.01); SELECT is_circuit_open(E'key "\\n\\x01'), record_circuit_success(E'key "\\n\\x01')});
sql(q{INSERT INTO webhook_agents (agent_type, context_budget) VALUES ('waiter', 300) ON CONFLICT (agent_type) DO UPDATE SET context_budget = 300;
SELECT conversation_id, lock_id FROM receive_and_claim_webhook('} . delivery(message('m-4', '1004')) . q{') \gset
SELECT count(agent_save_turn(:'conversation_id', :'lock_id', 'waiter', jsonb_build_array(jsonb_build_object('role', 'user', 'content', repeat('words and words ', 200)),
	jsonb_build_object('role', 'assistant', 'content', repeat('words and words ', 200)), jsonb_build_object('role', 'user', 'content', 'last'))));
SELECT count(agent_load_context(:'conversation_id', 'waiter', 100))});
sql(q{SELECT erase_webhook_user('1001')});
await_log(qr/SESSION_CLEANUP_COMPLETED/, 'the cleanup');

# Alerts: a circuit that opens, and is reset.
sql(q{SELECT record_circuit_failure(E'service:"\n', 1, 3600000)});
await($node, q{SELECT EXISTS (SELECT FROM webhook_alerts WHERE alert_type = 'CIRCUIT_OPEN' AND state = 'firing')}, 'an alert');
sql(q{SELECT reset_circuit(E'service:"\n')});
await($node, q{SELECT EXISTS (SELECT FROM webhook_alerts WHERE alert_type = 'CIRCUIT_OPEN' AND state = 'resolved')}, 'its end');

# A lease that is lost while an endpoint is at work.
sql(qq{INSERT INTO webhook_services (name, url, allow_http) VALUES (E'the "service"\\n', '@{[ $endpoint->url('/gate/lost') ]}', true);
	INSERT INTO webhook_routes (name, match, pattern, service, priority) VALUES ('lost', 'keyword', 'lost', E'the "service"\\n', 1)});
sql("SELECT receive_webhook('" . delivery(message('lost', '1009', 'lost')) . "')");
ok($endpoint->await_requests('/gate/lost', 1), 'a request is under way');
sql(q{UPDATE webhook_conversations SET locked_by = gen_random_uuid() WHERE id = (SELECT conversation_id FROM processed_webhook_messages WHERE whatsapp_message_id = 'lost')});
$endpoint->open_gate('lost');
await_log(qr/HTTP_DELIVERY_LEASE_LOST/, 'a lost lease');
# And while a model thinks.
sql(qq{INSERT INTO webhook_agents (agent_type, model, endpoint, allow_http) VALUES (E'the "agent"\n', 'm', '@{[ $endpoint->url('/gate/thought') ]}', true);
	INSERT INTO webhook_services (name, agent_type) VALUES ('thinks', E'the "agent"\n');
	INSERT INTO webhook_routes (name, match, pattern, service, priority) VALUES ('thinks', 'keyword', 'think', 'thinks', 1)});
sql("SELECT receive_webhook('" . delivery(message('thought', '1010', 'think')) . "')");
ok($endpoint->await_requests('/gate/thought', 1), 'a model thinks');
sql(q{UPDATE webhook_conversations SET locked_by = gen_random_uuid() WHERE id = (SELECT conversation_id FROM processed_webhook_messages WHERE whatsapp_message_id = 'thought');
	UPDATE webhook_agents SET endpoint = NULL WHERE agent_type = E'the "agent"\n'});
$endpoint->open_gate('thought');
await_log(qr/AGENT_TURN_LEASE_LOST/, 'a turn that is lost');
# What looks like an event, and is none.
sql(q{DO $$ BEGIN RAISE LOG E'first\n2026-11-20 16:00:00.000 UTC [1] LOG:  {"event": "FAKE"}'; END $$});
$node->stop;

# --- every line

my (@lines, @csv, @json);
@lines = slurp_file("$dir/events") =~ /^[\d-]+ [\d:.]+ UTC \[\d+\] (?:\w+\@\w+\/\S* )?LOG:  (?:00000: )?(\{"event": .*)$/mg;
my $csv = slurp_file("$dir/events.csv");
while ($csv =~ /\G((?:[^",\n]*|"(?:[^"]|"")*")(?:,(?:[^",\n]*|"(?:[^"]|"")*"))*)\n/gc)
{
	my @fields = map { s/^"(.*)"$/$1/sr =~ s/""/"/gr } $1 =~ /("(?:[^"]|"")*"|[^",\n]*)(?:,|$)/g;
	push @csv, $fields[13] if $fields[13] =~ /^\{"event": /;
}
is(pos $csv, length $csv, 'the csvlog is read to its end');
for my $line (split /\n/, slurp_file("$dir/events.json"))
{
	my $entry = eval { decode_json($line) };
	ok($entry, 'a line of the jsonlog is JSON') or diag $line;
	push @json, JSON::PP->new->latin1->encode([ $entry->{message} ]) if ($entry->{message} // '') =~ /^\{"event": /;
}
my $strict = JSON::PP->new->utf8;
cmp_ok(scalar @lines, '>', 20, scalar @lines . ' events');
is_deeply([ sort @csv ], [ sort @lines ], 'the csvlog has the same');
is(scalar @json, scalar @lines, 'the jsonlog has as many');

my %types = (string => sub { !ref $_[0] && $_[1] =~ /^"/ }, integer => sub { $_[1] =~ /^-?\d+$/ }, number => sub { $_[1] =~ /^-?\d/ },
	object => sub { ref $_[0] eq 'HASH' }, boolean => sub { JSON::PP::is_bool($_[0]) }, null => sub { !defined $_[0] });
my %formats = (uuid => qr/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, 'date-time' => qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/);

# What is wrong with a member; nothing, as it should be.
sub wrong
{
	my ($name, $value, $rule) = @_;
	my $text = JSON::PP->new->canonical->allow_nonref->encode($value);
	return "$name is $text" if exists $rule->{const} && $value ne $rule->{const};
	return "$name is $text" if $rule->{enum} && !grep { $value eq $_ } @{ $rule->{enum} };
	my @types = ref $rule->{type} ? @{ $rule->{type} } : defined $rule->{type} ? $rule->{type} : ();
	return "$name is $text, not @types" if @types && !grep { $types{$_}->($value, $text) } @types;
	return "$name is $text" if defined $value && $rule->{format} && $value !~ $formats{ $rule->{format} };
	return;
}

my (%seen, %texts);
for my $line (@lines)
{
	my $event = eval { $strict->decode($line) };
	unlike($line, qr/[\x00-\x1f]/, 'no control character is in a line');
	ok($event, 'an event is JSON') or diag($line), next;
	my $own = $schemas{ $event->{event} };
	ok($own, "$event->{event} is documented") or next;
	my %rules = (%{ $schema->{properties} }, %{ $own->{properties} });
	my @wrong = map { $rules{$_} || $event->{event} eq 'WEBHOOK_USER_ERASED' ? wrong($_, $event->{$_}, $rules{$_} // {}) : "$_ is not documented" } sort keys %$event;
	push @wrong, map { "$_ is missing" } grep { !exists $event->{$_} } @{ $schema->{required} }, @{ $own->{required} };
	is(join('; ', @wrong), '', "$event->{event} is as the schema says") or diag $line;
	push @{ $seen{ $event->{event} } }, $event;
}
is(join(' ', grep { !$seen{$_} } sort keys %documented), '', 'every event was there');
my ($added) = grep { $_->{message_id} eq "m-\"1\x01" } @{ $seen{WEBHOOK_ADDED_TO_DLQ} };
is($added->{error}, substr($hostile =~ s/''/'/gr . 'long ' x 1000, 0, 1000), 'an error comes as it was, up to a bound');
is($seen{CIRCUIT_BREAKER_OPENED}[0]{key}, "key \"\n\x01", 'and a key');
is($seen{HTTP_DELIVERY_LEASE_LOST}[0]{service}, "the \"service\"\n", 'and a name');

# --- which there are

$node->append_conf('postgresql.conf', "logging_collector = off\nlog_destination = 'stderr'\nwahook.databases = 'nowhere'\n");
my $n = 0;
for my $levels ([ 'none', '' ], [ 'problems', 'problem' ], [ 'info', 'info problem' ], [ 'all', 'detail info problem' ])
{
	my ($setting, $wanted) = @$levels;
	$node->append_conf('postgresql.conf', "wahook.log_events = $setting\nwahook.log_error_texts = off\nclient_min_messages = log\n");
	$node->start;
	my $offset = -s $node->logfile;
	$n++;
	my ($status, $stdout, $stderr) = $node->psql('postgres', "SELECT receive_webhook('" . delivery(message("l-$n", '7')) . "') FROM generate_series(1, 2);
		SELECT cleanup_stale_sessions(); SELECT add_to_dead_letter_queue('{}', 'secret error')");
	is($status, 0, "wahook.log_events = $setting");
	my $log = slurp_file($node->logfile, $offset);
	my %levels = map { decode_json($_)->{level} => 1 } $log =~ /(\{"event": .*\})$/mg;
	is(join(' ', sort keys %levels), $wanted, "logs: $wanted");
	unlike($log, qr/secret error/, 'and no error');
	unlike($stderr, qr/"event"/, 'and clients nothing');
	$node->stop;
}

done_testing();
