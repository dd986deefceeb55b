# The edge function under test: a copy of its folder, served by Deno, with a bot of the test's own where one is named.
package Edge;

use strict;
use warnings;
use Cwd qw(abs_path);
use Digest::SHA qw(hmac_sha256_hex);
use File::Basename qw(dirname);
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $instances = 0;
my $root = dirname(dirname(dirname(abs_path(__FILE__))));
my ($deno) = glob "$root/test/edge/node_modules/\@deno/*/deno";
$ENV{DENO_DIR} = "$root/test/edge/deno-cache";
$ENV{DENO_NO_UPDATE_CHECK} = 1;
$ENV{NO_COLOR} = 1;

sub deno { return $deno // BAIL_OUT('test/lib/javascript has not installed Deno') }
sub root { return $root }

# new(bot => FILE, preload => FILE, NAME => VALUE...): in a new directory, with these environment variables. The bot takes
# the place of the function's own; what is to be preloaded runs before it.
sub new
{
	my ($class, %env) = @_;
	my $bot = delete $env{bot};
	my $preload = delete $env{preload};
	my $dir = PostgreSQL::Test::Utils::tempdir() . '/edge-function';
	system('cp', '-R', "$root/doc/examples/edge-function", $dir) == 0 or BAIL_OUT('cannot copy the edge function');
	system('cp', "$root/test/edge/$bot", "$dir/bot.ts") == 0 or BAIL_OUT("cannot copy $bot") if $bot;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $self = bless { dir => $dir, log => ($ENV{TESTLOGDIR} // $dir) . '/function' . ++$instances . '.log', port => $port, url => "http://127.0.0.1:$port",
		options => $preload ? [ '--preload', "$root/test/edge/$preload" ] : [],
		env => { %env, PORT => $port } }, $class;
	return $self->start;
}

# Until it listens.
sub start
{
	my ($self) = @_;
	local %ENV = (%ENV, %{ $self->{env} });
	$self->{run} = IPC::Run::start(
		[ $deno, 'run', '--allow-net', '--allow-env', '--allow-read', '--cached-only', '--frozen', @{ $self->{options} },
			"$self->{dir}/index.ts" ],
		'<', '/dev/null', '>>', $self->{log}, '2>>', $self->{log});
	$self->await_event('LISTENING', ++$self->{starts});
	return $self;
}

# Until an event has been logged so many times.
sub await_event
{
	my ($self, $event, $times) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	until ((() = slurp_file($self->{log}) =~ /"event":"$event"/g) >= $times)
	{
		BAIL_OUT("no $event from the function:\n" . slurp_file($self->{log})) if time > $deadline || !$self->{run}->pumpable;
		usleep 20_000;
	}
	return;
}

# Sends a signal and waits for the end; the exit code, or what killed it.
sub stop
{
	my ($self, $signal) = @_;
	$self->{run}->signal($signal // 'TERM');
	$self->{run}->finish;
	return $self->{run}->full_result(0);
}

# The objects in its log. Each line has to be one.
sub log_lines
{
	my ($self) = @_;
	return map { JSON::PP->new->utf8->decode($_) } split /\n/, slurp_file($self->{log});
}

sub get
{
	my ($self, $path, %headers) = @_;
	return HTTP::Tiny->new(timeout => $PostgreSQL::Test::Utils::timeout_default)
		->get("$self->{url}$path", { headers => \%headers });
}

sub post
{
	my ($self, $body, %headers) = @_;
	return HTTP::Tiny->new(timeout => $PostgreSQL::Test::Utils::timeout_default)
		->post("$self->{url}/webhook", { content => $body, headers => \%headers });
}

# As Meta does.
sub post_signed
{
	my ($self, $secret, $body, %headers) = @_;
	return $self->post($body, 'X-Hub-Signature-256' => 'sha256=' . hmac_sha256_hex($body, $secret), %headers);
}

1;
