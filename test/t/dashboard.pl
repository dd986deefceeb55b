# The page of webhook_dashboard() in a real browser: light and dark, wide and narrow, empty, busy and without what is locked; and that its colours
# can be told from each other. The screenshots are left where the tests leave their logs, to be looked at.
use strict;
use warnings;
use Compress::Zlib ();
use IPC::Run;
use List::Util qw(max min sum);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Wahook;

my $node = PostgreSQL::Test::Cluster->new('dashboard');
$node->init;
$node->start;
my $dir = $ENV{TESTLOGDIR} // PostgreSQL::Test::Utils::tempdir();
unlink glob "$dir/*.html";
my $profile = PostgreSQL::Test::Utils::tempdir();

# browser FILE, OPTION...: what it prints
sub browser
{
	my ($file, @options) = @_;
	my ($out, $err) = ('', '');
	# Without its sandbox, which needs privileges that containers do not give. The page has no script.
	IPC::Run::run([ 'chromium', qw(--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run
			--disable-background-networking --disable-component-update --disable-sync), "--user-data-dir=$profile", @options, "file://$file" ],
		'<', '/dev/null', '>', \$out, '2>', \$err, IPC::Run::timeout(120)) or BAIL_OUT("chromium failed: $err");
	return $out;
}

# Width, height and rows of a PNG of 8 bits a channel; a row is a string of RGB or RGBA.
sub read_png
{
	my $data = slurp_file(shift);
	my ($width, $height, $depth, $type) = unpack 'x16 N N C C', $data;
	die 'not what this reads' if $depth != 8 || ($type != 2 && $type != 6);
	my ($at, $packed) = (8, '');
	while ($at < length $data)
	{
		my ($length, $chunk) = unpack 'N a4', substr $data, $at, 8;
		$packed .= substr $data, $at + 8, $length if $chunk eq 'IDAT';
		$at += 12 + $length;
	}
	my $raw = Compress::Zlib::uncompress($packed);
	my $bytes = $type == 2 ? 3 : 4;
	my @before = (0) x ($width * $bytes);
	my @rows;
	for my $y (0 .. $height - 1)
	{
		my ($filter, @row) = unpack 'C*', substr $raw, $y * ($width * $bytes + 1), $width * $bytes + 1;
		for my $i ($filter ? (0 .. $#row) : ())
		{
			my $left = $i < $bytes ? 0 : $row[ $i - $bytes ];
			my $corner = $i < $bytes ? 0 : $before[ $i - $bytes ];
			my $guess = $left + $before[$i] - $corner;
			my ($a, $b, $c) = (abs($guess - $left), abs($guess - $before[$i]), abs($guess - $corner));
			$row[$i] = ($row[$i] + ($filter == 1 ? $left : $filter == 2 ? $before[$i] : $filter == 3 ? int(($left + $before[$i]) / 2)
				: $a <= $b && $a <= $c ? $left : $b <= $c ? $before[$i] : $corner)) & 255;
		}
		push @rows, [@row];
		@before = @row;
	}
	return ($width, $height, $bytes, \@rows);
}

# shot NAME, WIDTH, HEIGHT, dark or light: how bright the page is, and how many different colours are in it
sub shot
{
	my ($name, $width, $height, $scheme) = @_;
	my $png = "$dir/dashboard-$name-$width-$scheme.png";
	browser("$dir/$name.html", "--window-size=$width,$height", "--screenshot=$png",
		'--blink-settings=preferredColorScheme=' . ($scheme eq 'dark' ? 0 : 1));
	my ($w, $h, $bytes, $rows) = read_png($png);
	is("$w x $h", "$width x $height", "$name, $width wide, $scheme: the screenshot");
	my %colours;
	my @corner = @{ $rows->[2] }[ 0 .. 2 ];
	for my $row (@$rows[ grep { $_ % 3 == 0 } 0 .. $#$rows ])
	{
		$colours{ join ',', @$row[ $_ * $bytes .. $_ * $bytes + 2 ] }++ for grep { $_ % 3 == 0 } 0 .. $w - 1;
	}
	return (sum(@corner) / 3, \%colours);
}

# --- Colours: WCAG 2 asks for 4.5 to 1 of text, and 3 to 1 of what is drawn.
sub luminance
{
	my ($colour) = @_;
	$colour =~ s/^#(.)(.)(.)$/#$1$1$2$2$3$3/;
	my @rgb = map { $_ <= 0.03928 ? $_ / 12.92 : (($_ + 0.055) / 1.055)**2.4 } map { hex($_) / 255 } $colour =~ /^#(..)(..)(..)$/;
	return 0.2126 * $rgb[0] + 0.7152 * $rgb[1] + 0.0722 * $rgb[2];
}
sub contrast { my ($high, $low) = sort { $b <=> $a } map { luminance($_) } @_; return ($high + 0.05) / ($low + 0.05) }
sub rgb { return join ',', map { hex } shift =~ /^#(..)(..)(..)$/ }

$node->safe_psql('postgres', 'CREATE EXTENSION wahook');
my $style = $node->safe_psql('postgres', 'SELECT webhook_dashboard_style()');
my %scheme;
@scheme{qw(light dark)} = map { { /--(\w+): (#\w+)/g } } $style =~ /:root \{([^}]*)\}/g;
for my $name (qw(light dark))
{
	my $c = $scheme{$name};
	cmp_ok(min(map { my $t = $_; map { contrast($c->{$t}, $c->{$_}) } qw(page card) } qw(text soft good bad odd plain ok)), '>=', 4.5,
		"$name: every colour can be read, on the page and on a card");
	cmp_ok(contrast($c->{text}, $c->{card}), '>=', 7, "$name: the text well");
}

# --- Empty
my $html = $node->safe_psql('postgres', 'SELECT webhook_dashboard()');
append_to_file("$dir/empty.html", $html);
my $dom = browser("$dir/empty.html", '--dump-dom');
is((() = $dom =~ /<section/g), 7, 'empty: every section is there');
is((() = $dom =~ /class="none"/g), 7, 'and says that there is nothing');

# --- Busy: a day of traffic, and names that try to get out.
$node->safe_psql('postgres', q{
	INSERT INTO webhook_agents (agent_type) VALUES ('</text><img src=x onerror=alert(1)>');
	SELECT register_webhook_service('<script>', p_url => 'https://example.com/hook');
	INSERT INTO webhook_message_sums (width, starts_at, received, processed, failed, lost, dropped, timed, total_ms, times, counts)
		SELECT w, date_bin(w, at, '2000-01-01'), sum(n), sum(n - 2), sum(n % 3), sum((n % 7 = 0)::int), sum((n % 11 = 0)::int), sum(n), 0,
			ARRAY[30 + avg(n)::int, 300, 900], ARRAY[sum(n) / 2 + 1, sum(n) / 3, sum(n) / 40 + 1]::bigint[]
		FROM unnest('{5 minutes,1 hour}'::interval[]) w, (SELECT at, (120 + 100 * sin(extract(epoch FROM at) / 13750))::bigint AS n
			FROM generate_series(now() - interval '25 hours', now(), '5 minutes') at) s GROUP BY 1, 2;
	INSERT INTO webhook_rollup_state (counted_until) VALUES (now());
	INSERT INTO webhook_depth_samples SELECT at, (200 * (1 + sin(extract(epoch FROM at) / 8000)))::bigint, 3, 12
		FROM generate_series(now() - interval '24 hours', now(), '5 minutes') at;
	INSERT INTO webhook_dlq (payload, error, whatsapp_message_id, service, created_at)
		SELECT '{}', (ARRAY['HTTP 503', 'timed out: 5000 ms', '<script>alert(1)</script> 250788123456'])[n % 3 + 1], 'wamid.' || n, '<script>', now() - interval '1 hour'
		FROM generate_series(1, 60) n;
	INSERT INTO webhook_conversations (user_id) SELECT 'u' || n FROM generate_series(1, 30) n;
	INSERT INTO agent_sessions (conversation_id, agent_type, session_state)
		SELECT id, CASE WHEN row_number() OVER () % 2 = 0 THEN 'waiter' ELSE '</text><img src=x onerror=alert(1)>' END,
			(ARRAY['active', 'completed', 'failed'])[row_number() OVER () % 3 + 1] FROM webhook_conversations});
$html = $node->safe_psql('postgres', 'SELECT webhook_dashboard()');
append_to_file("$dir/busy.html", $html);
$dom = browser("$dir/busy.html", '--dump-dom');
is((() = $dom =~ /<svg class="chart"/g), 6, 'busy: six charts');
is((() = $dom =~ /<table>/g), 6, 'each with a table');
unlike($dom, qr/<script|<img|onerror=(?!alert)/i, 'a name that is no text but HTML stays a text');
like($dom, qr/&lt;script&gt;/, 'and is shown');
# As the browser has understood the page it is what was sent: nothing was mended.
my $elements = sub { my ($text) = @_; return join ' ', grep { !m{^/(line|rect|path)$} } map { lc } $text =~ m{<(/?\w+)}g };
is($elements->($dom), $elements->($html), 'the browser had nothing to mend');

# --- A part whose table somebody has locked says so, and hides no other.
sub locked
{
	my ($status, $page) = $node->psql('postgres', "SET statement_timeout = '60s'; SELECT webhook_dashboard()");
	return $status == 0 ? $page : 'hangs';
}
my $failure = q{<p class="none">Can't be shown now: somebody has locked a table.</p></section>};
my $blocker = $node->background_psql('postgres');
$blocker->query_safe('BEGIN; LOCK TABLE agent_sessions');
my $page = locked();
like($page, qr{id="agents-h">Agents</h2>\Q$failure\E</div>}, 'locked: the sessions of agents');
is((() = $page =~ /<svg class="chart"/g), 5, 'but no other chart');
like($page, qr/Counted up to/, 'nor how far they are counted');
$blocker->query_safe('LOCK TABLE webhook_message_sums, webhook_dlq, webhook_job_runs');
$page = locked();
is((() = $page =~ /\Q$failure\E/g), 3, 'locked: all that is drawn');
like($page, qr{<dt>Processed</dt><dd>-<.*<dt>Dead letters</dt><dd>-<.*<dt>Worker</dt><dd>-<.*HEALTH_CHECK_FAILED.*<footer>Times are UTC\. wahook .*</html>$},
	'but not the page, which says what is not known');
append_to_file("$dir/locked.html", $page);
is((() = browser("$dir/locked.html", '--dump-dom') =~ /<section/g), 4, 'in the browser as well');
$blocker->query_safe('ROLLBACK');
$blocker->quit;

# In a copy that may run a script: no part is wider than the screen, however narrow, and nothing was loaded.
my $copy = $html =~ s/<meta http-equiv="Content-Security-Policy"[^>]*>//r;
$copy =~ s{</body>}{<script>document.title = 'width ' + document.documentElement.scrollWidth + ' of ' + innerWidth
	+ ', loaded ' + performance.getEntriesByType('resource').length;</script></body>};
append_to_file("$dir/measured.html", $copy);
for my $width (320, 768, 1440)
{
	my ($wide, $screen, $loaded) = browser("$dir/measured.html", '--dump-dom', "--window-size=$width,900") =~ /<title>width (\d+) of (\d+), loaded (\d+)/;
	cmp_ok($wide, '<=', $screen, "on a screen of $width it is $screen wide, and the page fits in");
	is($loaded, 0, 'it loads nothing');
}

for my $shot ([ empty => 900, 500, 'light' ], [ locked => 900, 500, 'light' ], [ busy => 1000, 900, 'light' ], [ busy => 1000, 900, 'dark' ], [ busy => 400, 1600, 'dark' ])
{
	my ($name, $width, $height, $scheme) = @$shot;
	my ($brightness, $colours) = shot(@$shot);
	my $c = $scheme{$scheme};
	$scheme eq 'dark' ? cmp_ok($brightness, '<', 40, 'is dark') : cmp_ok($brightness, '>', 215, 'is light');
	next if $name ne 'busy';
	cmp_ok($colours->{ rgb($c->{$_}) } // 0, '>', 3, "something is drawn in the colour '$_'") for qw(good bad);
}

done_testing();
