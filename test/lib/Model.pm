# A model for the tests: an Endpoint that speaks chat completions, and strictly so. It answers what the user said since it
# answered last, so that a transcript shows what each turn was asked.
#
#   my $model = Model->new($dir);
#   $model->url('/model/ok'); $model->calls('/model/ok');
#
# The paths:
#   /model/ok               an answer, with its usage
#   /model/slow/MS          the same after so long
#   /model/gate/NAME        the same once open_gate(NAME) was called
#   /model/first/N/...      what follows for the first N requests with an idempotency key, then an answer
#   /model/switch/NAME      what set_switch(NAME, 'status/503') says, first an answer
#   /model/status/CODE      CODE
#   /model/limited/CODE/S   CODE with Retry-After: S
#   /model/no-usage, /model/parts, /model/cut-short   an answer without usage, in parts, with finish_reason length
#   /model/no-json, /model/no-choices, /model/empty, /model/blank, /model/tools, /model/refusal, /model/zero   answers of which some can't be used
#   /model/huge             200 and 64 MB
#   /model/hang, /model/reset   as of an Endpoint
package Model;

use strict;
use warnings;
use parent -norequire, 'Endpoint';
use JSON::PP;
use Time::HiRes qw(sleep);

use Endpoint;

my $json = JSON::PP->new->utf8->canonical;

# The requests for a path, with what they asked in {asked}.
sub calls
{
	my ($self, $path) = @_;
	return map { { %$_, asked => $json->decode($_->{body}) } } $self->requests($path);
}

# What makes a server refuse a request; undef: nothing.
sub fault
{
	my ($request) = @_;
	my $asked = eval { $json->decode($request->{body}) } or return 'not JSON';
	return 'no JSON' if ($request->{headers}{'content-type'} // '') ne 'application/json';
	return 'no model' unless length($asked->{model} // '');
	my @unknown = grep { !/^(?:model|messages|temperature|max_tokens|max_completion_tokens)$/ } keys %$asked;
	return "unknown: @unknown" if @unknown;
	my $messages = $asked->{messages};
	return 'no messages' unless ref $messages eq 'ARRAY' && @$messages;
	for my $message (@$messages)
	{
		return 'no role' unless ($message->{role} // '') =~ /^(?:system|user|assistant|tool)$/;
		@unknown = grep { !/^(?:role|content|name|tool_calls|tool_call_id)$/ } keys %$message;
		return "unknown in a message: @unknown" if @unknown;
	}
	return;
}

# What the user said since the last answer.
sub said
{
	my ($asked) = @_;
	my @said;
	for my $message (@{ $asked->{messages} })
	{
		@said = () if $message->{role} eq 'assistant';
		push @said, $message->{content} if $message->{role} eq 'user';
	}
	return join ' | ', @said;
}

sub completion
{
	my ($asked, %of) = @_;
	my $content = exists $of{content} ? $of{content} : "$asked->{model} heard: " . said($asked);
	my %answer = (id => 'chatcmpl-1', object => 'chat.completion', model => $asked->{model}, choices => [ {
		index => 0, finish_reason => $of{finish_reason} // 'stop',
		message => { role => 'assistant', content => $content, %{ $of{message} // {} } } } ]);
	$answer{usage} = { prompt_tokens => 100, completion_tokens => 10, total_tokens => 110 } unless $of{no_usage};
	return $json->encode(\%answer);
}

# Whether the connection goes on.
sub answer_model
{
	my ($self, $client, $request, $how, @args) = @_;
	if (my $fault = fault($request))
	{
		return Endpoint::respond($client, 400, $json->encode({ error => { message => $fault } }));
	}
	my $method = 'model_' . $how =~ tr/-/_/r;
	return Endpoint::respond($client, 404, 'no such model') unless $self->can($method);
	return $self->$method($client, $request, $json->decode($request->{body}), @args);
}

sub ok { return Endpoint::respond($_[0], 200, $_[1], 'Content-Type: application/json') }

sub model_ok { return ok($_[1], completion($_[3])) }

sub model_slow
{
	my ($self, $client, $request, $asked, $ms) = @_;
	sleep $ms / 1000;
	return ok($client, completion($asked));
}

sub model_gate
{
	my ($self, $client, $request, $asked, $name) = @_;
	sleep 0.02 until defined $self->switch_value($name);
	return ok($client, completion($asked));
}

sub model_first
{
	my ($self, $client, $request, $asked, $n, @then) = @_;
	my $key = $request->{headers}{'idempotency-key'} // '';
	my $times = grep { ($_->{headers}{'idempotency-key'} // '') eq $key } $self->requests($request->{path});
	return $times > $n ? ok($client, completion($asked)) : $self->answer_model($client, $request, @then);
}

sub model_switch
{
	my ($self, $client, $request, $asked, $name) = @_;
	return $self->answer_model($client, $request, split '/', $self->switch_value($name) // 'ok');
}

sub model_status { return Endpoint::respond($_[1], $_[4], $json->encode({ error => { message => "status $_[4]" } })) }
sub model_limited { return Endpoint::respond($_[1], $_[4], 'later', "Retry-After: $_[5]") }
sub model_no_usage { return ok($_[1], completion($_[3], no_usage => 1)) }
sub model_parts { return ok($_[1], completion($_[3], content => [ { type => 'text', text => 'in ' }, { type => 'text', text => 'parts' } ])) }
sub model_cut_short { return ok($_[1], completion($_[3], finish_reason => 'length')) }
sub model_no_json { return ok($_[1], '<html>upstream error</html>') }
sub model_no_choices { return ok($_[1], '{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 0}}') }
sub model_empty { return ok($_[1], completion($_[3], content => undef)) }
sub model_blank { return ok($_[1], completion($_[3], content => " \n\t ")) }
sub model_refusal { return ok($_[1], completion($_[3], content => undef, message => { refusal => 'I will not' })) }
sub model_zero { return ok($_[1], completion($_[3], content => "zero \0 byte")) }
sub model_huge { return $_[0]->answer_huge($_[1], $_[2], 200) }
sub model_hang { return $_[0]->answer_hang($_[1]) }
sub model_reset { return $_[0]->answer_reset($_[1]) }

sub model_tools
{
	my ($self, $client, $request, $asked) = @_;
	return ok($client, completion($asked, content => undef, finish_reason => 'tool_calls', message => { tool_calls => [
		{ id => 'call_1', type => 'function', function => { name => 'find_ride', arguments => '{}' } } ] }));
}

1;
