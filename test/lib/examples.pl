# The examples of a document, for test/check-examples:
#   split DOCUMENT                 prints a script for psql that marks where the output of each block begins and ends
#   compare DOCUMENT OUTPUT FIX    compares; where FIX is 1, corrects the document instead
use strict;
use warnings;

my ($action, $document, $output, $fix) = @ARGV;

sub slurp
{
	my ($name) = @_;
	local $/;
	open my $file, '<', $name or die "$name: $!\n";
	my $content = <$file>;
	return $content;
}

# Each block: what it is, its text, its line, and the shown output if there is one.
my $text = slurp($document);
my @blocks;
while ($text =~ /^```sql( error)?\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?/msg)
{
	my ($error, $sql, $shown, $before) = ($1, $2, $3, $`);
	push @blocks, { error => defined $error, sql => $sql, shown => $shown,
		line => 1 + ($before =~ tr/\n//) };
}
die "$document: no block of SQL\n" unless @blocks;

if ($action eq 'split')
{
	for my $i (0 .. $#blocks)
	{
		my $stop = $blocks[$i]{error} ? 'off' : 'on';
		print "\\set ON_ERROR_STOP $stop\n\\echo <<begin $i>>\n$blocks[$i]{sql}\n\\echo <<end $i>>\n";
	}
	exit;
}

my $printed = slurp($output);
my $wrong = 0;
for my $i (0 .. $#blocks)
{
	my $block = $blocks[$i];
	my $where = "$document, the block in line $block->{line}";
	my ($got) = $printed =~ /^<<begin $i>>\n(.*?)^<<end $i>>\n/ms;
	if (!defined $got)
	{
		my ($rest) = $printed =~ /^<<begin $i>>\n(.*)/ms;
		print "$where: psql stopped at\n", $rest // $printed;
		$wrong++;
		last;
	}
	$got =~ s/^You are now connected to database .*\n//mg;
	if ($block->{error} != ($got =~ /^ERROR: /m ? 1 : 0))
	{
		print "$where: ", $block->{error} ? 'no error' : 'an error', ":\n$got";
		$wrong++;
	}
	next if !defined $block->{shown} || $got eq $block->{shown};
	if ($fix)
	{
		$text =~ s/(\Q$block->{sql}\E```\n\n```text\n).*?(^```\n)/$1$got$2/ms;
		next;
	}
	print "$where: shown is\n$block->{shown}but psql prints\n$got";
	$wrong++;
}
if ($fix)
{
	open my $file, '>', $document or die "$document: $!\n";
	print $file $text;
	close $file;
}
exit($wrong ? 1 : 0);
