# docs.pl ERRCODES: compares README.md and doc/ with the catalog (what test/lib/catalog.sql prints, on standard input) and
# with src/, and prints every difference. ERRCODES: the server's errcodes.txt.
use strict;
use warnings;
use utf8;
use open qw(:std :encoding(UTF-8));
use File::Basename;

my ($errcodes) = @ARGV;
my $differences = 0;

sub slurp
{
	my ($name) = @_;
	local $/;
	open my $file, '<', $name or die "$name: $!\n";
	my $content = <$file>;
	return $content;
}

sub differs
{
	print "@_\n";
	$differences++;
}

# Both directions, between what is there and what a document has.
sub compare
{
	my ($what, $document, $there, $documented) = @_;
	differs("$document lacks the $what $_") for grep { !exists $documented->{$_} } sort keys %$there;
	differs("$document has the $what $_, which does not exist") for grep { !exists $there->{$_} } sort keys %$documented;
	for (grep { exists $documented->{$_} } sort keys %$there)
	{
		differs("$document: the $what $_ is\n\t$there->{$_}\nnot\n\t$documented->{$_}")
			if $there->{$_} ne $documented->{$_};
	}
}

sub cells
{
	my ($row) = @_;
	my @cells = map { s/^\s+|\s+$//gr } split /(?<!\\)\|/, $row, -1;
	shift @cells;
	pop @cells;
	return map { s/^`(.*)`$/$1/r } @cells;
}

# The catalog.
my (%functions, %traits, %tables, %views, %settings, %objects);
while (<STDIN>)
{
	chomp;
	my ($what, $name, @rest) = split /\|/, $_, -1;
	if ($what eq 'function')
	{
		my $traits = pop @rest;
		$functions{$name} = join '|', @rest;
		$traits{$name} = $traits;
	}
	elsif ($what eq 'table')
	{
		my $column = shift @rest;
		$tables{"$name.$column"} = join ', ', @rest;
	}
	elsif ($what eq 'view') { $views{"$name.$rest[0]"} = $rest[1] }
	elsif ($what eq 'setting') { $settings{$name} = join ', ', @rest }
	elsif ($what eq 'object')
	{
		my $object = shift @rest;
		$objects{"$name $object"} = join '|', @rest;
	}
	elsif ($what eq 'secret') { $settings{$name} = 'string, empty, superuser' }
}

# Functions: a heading and a block with the signature each; the internal ones a row of a table.
my (%documented, %documented_traits);
my $functions = slurp('doc/reference/functions.md');
while ($functions =~ /^### (\w+)\n\n```\n(.*?)```\n(.*?)(?=^#|\z)/msg)
{
	my ($name, $signature, $text) = ($1, $2, $3);
	$signature =~ s/\s+/ /g;
	$signature =~ s/\( /(/g;
	$signature =~ s/ $//;
	$documented{$name} = $signature;
	$documented_traits{$name} = $1 if $text =~ /^((?:Volatile|Stable|Immutable).*)$/m;
	differs("doc/reference/functions.md: no example of $name") unless $text =~ /^```\n.*\b\Q$name\E\(/ms;
}
while ($functions =~ /^\| `((\w+)\(.*?)` \|/mg)
{
	$documented{$2} = $1;
	$documented_traits{$2} = $traits{$2} // '';
}
compare('function', 'doc/reference/functions.md', \%functions, \%documented);
compare('volatility or level of', 'doc/reference/functions.md', \%traits, \%documented_traits);

# Tables and views: a heading and a row a column each.
my (%documented_tables, %documented_views);
my $tables = slurp('doc/reference/tables.md');
while ($tables =~ /^### (\w+)\n(.*?)(?=^#|\z)/msg)
{
	my ($name, $text) = ($1, $2);
	my $view = $text =~ /^\| column \| type \| meaning \|$/m;
	for my $row ($text =~ /^(\|.*)$/mg)
	{
		my ($column, $type, $null, $default) = cells($row);
		next if $column eq 'column' || $column eq '---';
		if ($view) { $documented_views{"$name.$column"} = $type }
		else
		{
			$default =~ s/::\w+$//;
			$documented_tables{"$name.$column"} = "$type, $null, $default";
		}
	}
}
compare('column', 'doc/reference/tables.md', \%tables, \%documented_tables);
compare('column of view', 'doc/reference/tables.md', \%views, \%documented_views);

# Settings.
my %documented_settings;
for my $row (slurp('doc/reference/settings.md') =~ /^(\| `wahook\..*)$/mg)
{
	my ($name, @rest) = cells($row);
	pop @rest;
	$documented_settings{$name} = join ', ', @rest;
}
compare('setting', 'doc/reference/settings.md', \%settings, \%documented_settings);

# Every object, and who may do what with it.
my %documented_objects;
my ($every_object) = slurp('doc/security.md') =~ /^## Every object\n(.*)/ms;
for my $row ($every_object =~ /^(\| `.*)$/mg)
{
	my ($object, $kind, @rest) = cells($row);
	$documented_objects{"$kind $object"} = join '|', @rest;
}
compare('object', 'doc/security.md', \%objects, \%documented_objects);
for my $object (grep { !exists $documented_objects{$_} } sort keys %objects)
{
	my ($kind, $name) = split / /, $object, 2;
	print "\tso add, where it is in order:\n| `$name` | $kind |", map({ $_ eq '' ? ' |' : " $_ |" } split /\|/, $objects{$object}, -1), "\n";
}

# SQLSTATEs: those that the source raises, under whichever name. Those passed through are not compared.
my %sqlstates;
for (split /\n/, slurp($errcodes))
{
	my ($sqlstate, undef, $macro, $name) = split;
	next unless defined $macro && $sqlstate =~ /^[0-9A-Z]{5}$/;
	$sqlstates{$macro} = $sqlstate;
	$sqlstates{$name} = $sqlstate if defined $name;
}
my %raised;
my %events;
my @sources = glob('src/*/*.[ch] src/*/*.sql src/*.c');
for my $source (@sources)
{
	my $text = slurp($source);
	$sqlstates{$1} = "WH00$2" while $text =~ /#define (WAHOOK_\w+) WAHOOK_ERRCODE\('(\d)'\)/g;
}
for my $source (@sources)
{
	my $text = slurp($source);
	for my $name ($text =~ /errcode\((\w+)\)/g, $text =~ /ERRCODE = '(\w+)'/g)
	{
		next if $name eq 'd';
		my $sqlstate = $sqlstates{$name} // ($name =~ /^[0-9A-Z]{5}$/ ? $name : undef);
		if (defined $sqlstate) { $raised{$sqlstate} = '' }
		else { differs("$source raises $name, of which no SQLSTATE is known") }
	}
	$events{$_} = '' for grep { $_ ne 'MODULE_PATHNAME' } $text =~ /(?:event_begin|log_entry|log_lock|log_event|log_problem)\([^;]*?["']([A-Z]+(?:_[A-Z]+)+)["']/g,
		$text =~ /log_lock\([^;]*?: "([A-Z_]+)"/g;
}
my ($raised) = slurp('doc/reference/errors.md') =~ /^## wahook's own\n(.*?)^## [^\n]*passed through/ms;
my %documented_raised = map { $_ => '' } $raised =~ /^\| ([0-9A-Z]{5}) \|(?!.*Not raised)/mg;
compare('SQLSTATE', 'doc/reference/errors.md', \%raised, \%documented_raised);
my $errors = slurp('doc/reference/errors.md');
for my $sqlstate (slurp('doc/reference/functions.md') =~ /\b(WH\d{3}|[0-9][0-9A-Z]{4})\b(?=[^`\n]*(?:;|\.|,))/g)
{
	next unless $sqlstate =~ /^WH/ || $sqlstate =~ /^(?:22|23|40|42|55|57|XX|0A)/;
	differs("doc/reference/functions.md speaks of $sqlstate, doc/reference/errors.md does not")
		unless $errors =~ /^\| \Q$sqlstate\E \|/m;
}

# Events.
my %documented_events = map { $_ => '' } slurp('doc/reference/events.md') =~ /^\| ([A-Z]+(?:_[A-Z]+)+) \|/mg;
compare('event', 'doc/reference/events.md', \%events, \%documented_events);

# Links: files are there, and what follows a # is a heading in them.
my %anchors;
sub anchors
{
	my ($document) = @_;
	return $anchors{$document} //= {
		map { (lc =~ s/[`'":,.()?\/]//gr =~ s/ /-/gr) => 1 } slurp($document) =~ /^#+ (.*)$/mg };
}
for my $document ('README.md', 'CHANGELOG.md', glob('doc/*.md doc/*/*.md'))
{
	my $text = slurp($document) =~ s/^```.*?^```$//msgr;
	for my $link ($text =~ /\]\(([^)\s]+)\)/g)
	{
		next if $link =~ m{^https?://};
		my ($path, $anchor) = split /#/, $link, 2;
		my $target = $path eq '' ? $document : dirname($document) . "/$path";
		$target =~ s{^\./|(?<=/)\./}{}g;
		1 while $target =~ s{[^/.]+/\.\./}{};
		if (!-e $target) { differs("$document links to $link, which does not exist") }
		elsif (defined $anchor && !anchors($target)->{$anchor}) { differs("$document links to $link: no such heading") }
	}
}

exit($differences ? 1 : 0);
