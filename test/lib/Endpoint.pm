# An HTTP endpoint for the tests, with TLS or without, that answers as the path says and writes down what it was asked.
#
#   my $endpoint = Endpoint->new($dir, tls => [$certificate_file, $key_file]);
#   $endpoint->url('/ok'); $endpoint->requests; $endpoint->stop;
#
# The paths:
#   /ok                     200
#   /status/CODE            CODE
#   /retry-after/CODE/WHEN  CODE with Retry-After: WHEN, URL-encoded
#   /slow/MS                200 after so long
#   /gate/NAME              200 once open_gate(NAME) was called
#   /switch/NAME            the code that set_switch(NAME, CODE) set last, first 200
#   /fails-with/TEXT        200, but 422 where the body contains TEXT
#   /hang                   no answer at all
#   /drip                   an answer that never ends, a byte at a time
#   /reset, /close          no answer: the connection is reset, or closed
#   /half                   an answer that ends before its time
#   /huge/CODE              CODE and 64 MB
#   /headers                headers without end
#   /garbage/CODE           CODE and a body that is not text
#   /nonsense               bytes that are not HTTP
#   /redirect/CODE          CODE, to /ok
package Endpoint;

use strict;
use warnings;
use Fcntl qw(:flock);
use IO::Socket::INET;
use IO::Socket::SSL;
use IO::Socket::SSL::Utils;
use JSON::PP;
use POSIX ();
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(sleep time);

# Keys and certificates: PEM files of a CA, and of servers by it for 127.0.0.1 and localhost, for another name, and that
# has expired.
sub make_certificates
{
	my ($dir) = @_;
	my %files;
	my $save = sub {
		my ($name, $cert, $key) = @_;
		$files{$name} = ["$dir/$name.crt", "$dir/$name.key"];
		PEM_cert2file($cert, $files{$name}[0]);
		PEM_key2file($key, $files{$name}[1]);
	};
	my @ca = CERT_create(CA => 1, subject => { commonName => 'test CA' });
	$save->('ca', @ca);
	my @here = ([ IP => '127.0.0.1' ], [ DNS => 'localhost' ]);
	my %certificates = (
		good => { subjectAltNames => [@here] },
		wrong_name => { subjectAltNames => [ [ DNS => 'elsewhere.example' ] ] },
		expired => { subjectAltNames => [@here], not_before => time - 86400 * 2, not_after => time - 86400 });
	for my $name (sort keys %certificates)
	{
		$save->($name, CERT_create(issuer => [@ca], subject => { commonName => $name }, %{ $certificates{$name} }));
	}
	return \%files;
}

sub new
{
	my ($class, $dir, %args) = @_;
	my $listener = IO::Socket::INET->new(Listen => 128, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "listen: $!";
	my $self = bless { dir => $dir, port => $listener->sockport, %args }, $class;
	$self->{log} = "$dir/requests.$self->{port}";
	$self->{parent} = $$;
	$self->{pid} = fork // die "fork: $!";
	if ($self->{pid} == 0)
	{
		# Ends without the test's own cleanup.
		eval { $self->serve($listener) };
		POSIX::_exit(1);
	}
	return $self;
}

sub url
{
	my ($self, $path) = @_;
	my $host = $self->{host} // '127.0.0.1';
	return ($self->{tls} ? 'https' : 'http') . "://$host:$self->{port}$path";
}

# What it was asked so far: hashes of method, path, headers (names in lower case), body, at.
sub requests
{
	my ($self, $path) = @_;
	open my $log, '<', $self->{log} or return ();
	my @requests = map { decode_json($_) } <$log>;
	return grep { !defined $path || $_->{path} eq $path } @requests;
}

# Until it was asked so often for this path. False when that takes too long.
sub await_requests
{
	my ($self, $path, $n) = @_;
	my $deadline = time + 180;
	while ((my $requests = () = $self->requests($path)) < $n)
	{
		return 0 if time > $deadline;
		sleep 0.02;
	}
	return 1;
}

sub open_gate
{
	my ($self, $name) = @_;
	$self->set_switch($name, 'open');
}

sub set_switch
{
	my ($self, $name, $value) = @_;
	open my $file, '>', "$self->{dir}/$name.new" or die "$name: $!";
	print $file $value;
	close $file;
	rename "$self->{dir}/$name.new", "$self->{dir}/$name" or die "$name: $!";
}

sub switch_value
{
	my ($self, $name) = @_;
	open my $file, '<', "$self->{dir}/$name" or return undef;
	return scalar <$file>;
}

sub stop
{
	my ($self) = @_;
	return unless $self->{pid} && $self->{parent} == $$;
	kill 'TERM', -$self->{pid} or kill 'TERM', $self->{pid};
	waitpid $self->{pid}, 0;
	$self->{pid} = 0;
}

sub DESTROY
{
	local ($?, $!);
	$_[0]->stop;
}

# --- what runs in its processes: one that listens, and one a connection

sub serve
{
	my ($self, $listener) = @_;
	setpgrp;
	$SIG{TERM} = 'DEFAULT';
	$SIG{CHLD} = 'IGNORE';
	$SIG{PIPE} = 'IGNORE';
	while (1)
	{
		my $client = $listener->accept or next;
		my $pid = fork // die "fork: $!";
		next if $pid != 0;
		close $listener;
		eval { $self->talk($client) };
		POSIX::_exit(0);
	}
}

sub talk
{
	my ($self, $client) = @_;
	if (my $tls = $self->{tls})
	{
		IO::Socket::SSL->start_SSL($client, SSL_server => 1, SSL_cert_file => $tls->[0], SSL_key_file => $tls->[1])
			or return;
	}
	my $buffer = '';
	while (my $request = read_request($client, \$buffer))
	{
		$self->write_down($request);
		last unless $self->answer($client, $request);
	}
	close $client;
}

sub read_request
{
	my ($client, $buffer) = @_;
	until ($$buffer =~ /\r\n\r\n/)
	{
		sysread($client, $$buffer, 65536, length $$buffer) or return undef;
		# TLS, where none is spoken
		return respond($client, 400, 'no TLS') && undef if $$buffer =~ /^\x16/;
	}
	$$buffer =~ s/^(.*?)\r\n\r\n//s;
	my ($first, @lines) = split /\r\n/, $1;
	my ($method, $path) = split / /, $first;
	my %headers = map { /^([^:]+): *(.*)$/ ? (lc $1, $2) : () } @lines;
	my $length = $headers{'content-length'} // 0;
	while (length $$buffer < $length)
	{
		sysread($client, $$buffer, 65536, length $$buffer) or return undef;
	}
	my $body = substr $$buffer, 0, $length, '';
	return { method => $method, path => $path, headers => \%headers, body => $body, at => time };
}

sub write_down
{
	my ($self, $request) = @_;
	open my $log, '>>', $self->{log} or die "$self->{log}: $!";
	flock $log, LOCK_EX;
	# Each byte of the body as a character.
	print $log encode_json($request), "\n";
	close $log;
}

sub send_all
{
	my ($client, $bytes) = @_;
	while (length $bytes)
	{
		my $n = syswrite($client, $bytes, 65536) or return 0;
		substr $bytes, 0, $n, '';
	}
	return 1;
}

sub respond
{
	my ($client, $status, $body, @headers) = @_;
	return send_all($client, join "\r\n", "HTTP/1.1 $status Whatever", 'Content-Length: ' . length $body, @headers, '', $body);
}

# Whether the connection goes on.
sub answer
{
	my ($self, $client, $request) = @_;
	my ($what, @args) = grep { length } split '/', $request->{path} =~ s/\?.*//r;
	my $method = 'answer_' . $what =~ tr/-/_/r;
	return respond($client, 404, 'no such path') unless $self->can($method);
	return $self->$method($client, $request, @args);
}

sub answer_ok { return respond($_[1], 200, '{"ok": true}') }
sub answer_status { return respond($_[1], $_[3], "status $_[3]") }

sub answer_retry_after
{
	my ($self, $client, $request, $status, $when) = @_;
	$when =~ s/%([0-9A-F]{2})/chr hex $1/gei;
	return respond($client, $status, 'later', "Retry-After: $when");
}

sub answer_slow
{
	my ($self, $client, $request, $ms) = @_;
	sleep $ms / 1000;
	return respond($client, 200, 'slow');
}

sub answer_gate
{
	my ($self, $client, $request, $name) = @_;
	sleep 0.02 until defined $self->switch_value($name);
	return respond($client, 200, 'open');
}

sub answer_switch
{
	my ($self, $client, $request, $name) = @_;
	return respond($client, $self->switch_value($name) // 200, 'switched');
}

sub answer_fails_with
{
	my ($self, $client, $request, $text) = @_;
	return respond($client, $request->{body} =~ /\Q$text\E/ ? 422 : 200, 'looked at');
}

# Until the client has had enough.
sub answer_hang
{
	my ($self, $client) = @_;
	my $byte;
	sysread $client, $byte, 1;
	return 0;
}

sub answer_drip
{
	my ($self, $client) = @_;
	send_all($client, "HTTP/1.1 200 OK\r\n\r\n");
	sleep 0.05 while send_all($client, 'x');
	return 0;
}

sub answer_reset
{
	my ($self, $client) = @_;
	setsockopt $client, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
	return 0;
}

sub answer_close { return 0 }

sub answer_half
{
	my ($self, $client) = @_;
	send_all($client, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf");
	return 0;
}

sub answer_huge
{
	my ($self, $client, $request, $status) = @_;
	my $mb = 'huge' x (256 * 1024);
	send_all($client, "HTTP/1.1 $status Whatever\r\nContent-Length: " . 64 * length($mb) . "\r\n\r\n") or return 0;
	for (1 .. 64) { send_all($client, $mb) or return 0 }
	return 1;
}

sub answer_headers
{
	my ($self, $client) = @_;
	send_all($client, "HTTP/1.1 200 OK\r\n");
	1 while send_all($client, "X-Header: again and again and again\r\n");
	return 0;
}

sub answer_garbage { return respond($_[1], $_[3], "caf\xc3\xa9 \0 \xff\xfe \xed\xa0\x80 \xf0\x9f\x98\x80 \xc3") }
sub answer_nonsense { send_all($_[1], "\x16\x03\x01 this is not HTTP\n" x 3); return 0 }
sub answer_redirect { return respond($_[1], $_[3], 'elsewhere', 'Location: /ok') }

1;
