# A session of psql that is talked to through pipes. It knows when the connection is lost, and connects again.
# Core Perl and psql, because the demo must run on a machine that has nothing else.
package Psql;

use strict;
use warnings;
use IPC::Open3;
use Time::HiRes qw(sleep);

my $end = 'end of answer';

sub new
{
	my ($class, $name) = @_;
	$ENV{PGAPPNAME} = $name;
	local $SIG{PIPE} = 'IGNORE';
	return bless { lost => 0 }, $class;
}

sub connect
{
	my ($self) = @_;
	for (1 .. 600)
	{
		my ($in, $out);
		$self->{pid} = open3($in, $out, undef, 'psql', '-XqAt', '--no-password') or die "psql: $!";
		@$self{qw(in out)} = ($in, $out);
		return $self if eval { $self->send('SELECT 1'); 1 };
		sleep 0.1;
	}
	die "no connection to the server\n";
}

# One statement; returns the lines of its answer. Dies with "lost" when the connection broke meanwhile, with the SQLSTATE
# when the statement failed.
sub send
{
	my ($self, $statement) = @_;
	my @lines;
	my ($in, $out) = @$self{qw(in out)};
	local $SIG{PIPE} = 'IGNORE';

	print {$in} "$statement;\n\\echo :ERROR :SQLSTATE $end\n";
	$in->flush;
	while (my $line = <$out>)
	{
		if ($line =~ /^(true|false) (\w*) $end$/)
		{
			return @lines if $1 eq 'false';
			last if $2 eq '' || $2 =~ /^57P/; # psql has no connection any more, or is about to have none
			die "$2: @lines\n";
		}
		chomp $line;
		push @lines, $line;
	}
	close $in;
	close $out;
	waitpid $self->{pid}, 0;
	delete @$self{qw(in out)};
	die "lost\n";
}

# Runs the work, and runs it anew on a new connection for as long as the connection is lost in the middle of it.
sub persist
{
	my ($self, $work) = @_;
	while (1)
	{
		$self->connect unless $self->{in};
		my @result;
		return @result if eval { @result = $work->($self); 1 };
		die $@ unless $@ eq "lost\n";
		$self->{lost}++;
	}
}

sub literal
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

1;
