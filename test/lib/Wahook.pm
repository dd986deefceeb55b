# What the TAP tests share: servers with wahook, deliveries, and clients that run beside the test.
package Wahook;

use strict;
use warnings;
use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(start_node new_node delivery message await account start_script finish_script);

# A server without wahook in any database. Settings are lines of postgresql.conf.
sub start_node
{
	my ($name, @settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init;
	$node->append_conf('postgresql.conf', join "\n", "timezone = 'UTC'", @settings, '');
	$node->start;
	return $node;
}

# The same with wahook in the database postgres, in public.
sub new_node
{
	my $node = start_node(@_);
	$node->safe_psql('postgres', 'CREATE EXTENSION wahook');
	return $node;
}

# A message as Meta writes it.
sub message
{
	my ($id, $from, $text) = @_;
	$text //= 'hello';
	return qq({"from":"$from","id":"$id","timestamp":"1700000000","type":"text","text":{"body":"$text"}});
}

# A delivery of messages.
sub delivery
{
	my $messages = join ',', @_;
	return '{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"messages","value":'
		. '{"messaging_product":"whatsapp","metadata":{"display_phone_number":"15550001","phone_number_id":"1001"},'
		. qq("messages":[$messages]}}]}]});
}

# Until the query answers t. The server may be going down and coming up again meanwhile.
sub await
{
	my ($node, $query, $what) = @_;
	my $answer;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (time < $deadline)
	{
		my $stderr;
		return 1 if $node->psql('postgres', $query, stdout => \$answer, stderr => \$stderr) == 0 && $answer eq 't';
		usleep 50_000;
	}
	BAIL_OUT("waited in vain: $what");
}

# A line of an account that test/run shows even though the test passes.
sub account { diag("| $_[0]"); return }

# Starts psql on a script of its own, beside the test. Through files, because nobody tends to its pipes meanwhile.
sub start_script
{
	my ($node, $name, $script) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/script';
	my $client = { name => $name, out => "$file.out" };
	append_to_file($file, $script);
	local $ENV{PGAPPNAME} = $name;
	$client->{run} = IPC::Run::start(
		[ 'psql', '-XqAt', '--no-password', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', $file ],
		'<', '/dev/null', '>', $client->{out}, '2>', "$file.err",
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	$client->{err} = "$file.err";
	return $client;
}

# Waits until it has ended, by itself or because its server went away. Its exit code; what it printed is in {stdout}.
sub finish_script
{
	my ($client) = @_;
	$client->{run}->finish;
	$client->{stdout} = slurp_file($client->{out});
	$client->{stderr} = slurp_file($client->{err});
	note "$client->{name}: $client->{stderr}" if $client->{stderr} ne '';
	return $client->{run}->full_result(0);
}

1;
