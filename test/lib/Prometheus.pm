# A real Prometheus with the configuration, the rules and the dashboard of doc/examples/prometheus, and postgres_exporter with
# the queries from there. Only the addresses and the times are the test's own: all is scraped and evaluated each second, and
# no alert waits longer than a second to fire. promtool test rules proves the times that are shipped.
package Prometheus;

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $examples = dirname(dirname(dirname(abs_path(__FILE__)))) . '/doc/examples/prometheus';
my @running;

sub examples { return $examples }

# Starts a server that ends with the test, whatever becomes of it.
sub run_server
{
	my ($log, @command) = @_;
	my $run = IPC::Run::start(\@command, '<', '/dev/null', '>>', $log, '2>>', $log);
	push @running, $run;
	return $run;
}

sub end_server { my ($run) = @_; $run->signal('TERM'); $run->finish; @running = grep { $_ != $run } @running; return }

END
{
	my $status = $?;
	$_->kill_kill for @running;
	$? = $status;
}

sub http { return HTTP::Tiny->new(timeout => $PostgreSQL::Test::Utils::timeout_default) }

# Until this is true, and then what it answers.
sub await_true
{
	my ($what, $check) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (time < $deadline)
	{
		my $answer = $check->();
		return $answer if $answer;
		usleep 100_000;
	}
	BAIL_OUT("waited in vain: $what");
}

# postgres_exporter for the database of this connection string, once it answers.
sub start_exporter
{
	my ($dir, $source) = @_;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $log = ($ENV{TESTLOGDIR} // $dir) . '/exporter.log';
	local $ENV{DATA_SOURCE_NAME} = $source;
	my $run = run_server($log, 'prometheus-postgres-exporter', "--web.listen-address=127.0.0.1:$port", "--extend.query-path=$examples/queries.yaml");
	await_true("the exporter, see $log", sub { http()->get("http://127.0.0.1:$port/metrics")->{success} });
	return { run => $run, address => "127.0.0.1:$port", log => $log };
}

# new(DIRECTORY, TOKEN, JOB => ADDRESS...): in a directory of its own, once it is ready. The addresses take the place of the
# targets in prometheus.yml; a job that has none is left out.
sub new
{
	my ($class, $dir, $token, %targets) = @_;
	$dir .= '/prometheus';
	system('cp', '-R', $examples, $dir) == 0 or BAIL_OUT('cannot copy the examples');
	append_to_file("$dir/wahook-metrics-token", $token);

	my ($head, @jobs) = split /(?=^  (?:#[^\n]*\n  )?- job_name: )/m, slurp_file("$dir/prometheus.yml");
	my $text = $head =~ s/localhost:9093/127.0.0.1:9/r;
	for my $job (@jobs)
	{
		my ($name) = $job =~ /job_name: (\S+)/;
		$text .= $job =~ s/scheme: https/scheme: http/r =~ s/targets: \[.*?\]/targets: ["$targets{$name}"]/r if $targets{$name};
	}
	replace("$dir/prometheus.yml", $text =~ s/(_interval:) 15s/$1 1s/gr);
	replace("$dir/wahook.rules.yml", slurp_file("$dir/wahook.rules.yml") =~ s/^(\s+for:) \w+$/$1 1s/gmr);

	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $self = bless { url => "http://127.0.0.1:$port", log => ($ENV{TESTLOGDIR} // $dir) . '/prometheus.log' }, $class;
	$self->{run} = run_server($self->{log}, 'prometheus', "--config.file=$dir/prometheus.yml", "--storage.tsdb.path=$dir/data",
		"--web.listen-address=127.0.0.1:$port", '--log.level=warn');
	await_true("Prometheus, see $self->{log}", sub { http()->get("$self->{url}/-/ready")->{success} });
	return $self;
}

sub replace
{
	my ($file, $text) = @_;
	unlink $file;
	append_to_file($file, $text);
	return;
}

sub stop { my ($self) = @_; end_server($self->{run}); return }

# What its HTTP API answers to a path with parameters: the data, or dies with its error.
sub api
{
	my ($self, $path, @parameters) = @_;
	my $query = HTTP::Tiny->new->www_form_urlencode(\@parameters);
	my $response = http()->get("$self->{url}/api/v1/$path" . ($query ? "?$query" : ''));
	my $answer = eval { decode_json($response->{content}) } // { error => $response->{content} };
	die "$path $query: $answer->{error}\n" if ($answer->{status} // '') ne 'success';
	return $answer->{data};
}

# The samples of a query at this time: [{metric => {...}, value => [time, 'number']}...].
sub query { my ($self, $query) = @_; return $self->api('query', query => $query)->{result} }

# The series that a graph of the last minute would show: [{metric => {...}, values => [[time, 'number']...]}...].
sub query_range
{
	my ($self, $query) = @_;
	my $now = time;
	return $self->api('query_range', query => $query, start => $now - 60, end => $now, step => 1)->{result};
}

# The labels of alerts of this name that fire.
sub firing
{
	my ($self, $name) = @_;
	return map { $_->{labels} } grep { $_->{state} eq 'firing' && $_->{labels}{alertname} eq $name } @{ $self->api('alerts')->{alerts} };
}

# Until as many fire.
sub await_firing
{
	my ($self, $name, $n) = @_;
	await_true("$name, $n times", sub { $self->firing($name) == $n });
	return pass("$name fires" . ($n == 1 ? '' : $n ? " $n times" : ' no more'));
}

1;
