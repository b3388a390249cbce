# The same run on every instruction set of this machine, chosen by tlaw.cpu_isa: stored with the run, losses that agree,
# the same bits again and on more threads, also when another setting is in force by the time it starts; stop and resume.
# A model is used with the instruction set that it was trained with, unless the setting names another.
use strict;
use warnings;
use Test::More;
use TlawServer;

my $server = TlawServer->new('tlaw.max_workers = 3', 'tlaw.threads = 3', 'tlaw.checkpoint_seconds = 1');
$server->corpus;

my @rows = map { [split /\|/] } split /\n/,
    $server->sql(q{SELECT isa, "precision", gflops > 0 FROM tlaw_devices() WHERE device = 'cpu'});
my %isas = map { $_->[0] => 1 } @rows;
is_deeply([map { $_->[0] } @rows[-2, -1]], ['portable', 'reference'], 'the CPU is listed: ' . join ', ', map { "$_->[0] $_->[1]" } @rows);
is(scalar(grep { $_->[2] eq 't' } @rows), scalar @rows, 'and its speed with each');

# A run of so many steps; the settings are those of the session that submits it.
sub train {
    my ($isa, $precision, $steps, $more) = @_;
    return $server->sql([ "SET tlaw.cpu_isa = '$isa'",
        'SELECT tlaw_train(' . $server->tiny($steps) . qq{, "precision" => '$precision', again => true$more)} ]);
}

sub column {
    my ($run, $column) = @_;
    $server->sql("CALL tlaw_wait($run)");
    return $server->sql("SELECT $column FROM tlaw_runs WHERE run_id = $run");
}

my %tolerance = (float32 => 1e-4, bf16 => 1e-2);
my $reference = train('reference', 'float32', 300, '');
for my $row (@rows) {
    my ($isa, $precision) = @$row;
    my @runs = map { train($isa, $precision, 300, ", threads => $_") } 1, 3;
    is(column($runs[0], q{concat_ws(' ', status, device, isa, "precision")}), "done cpu $isa $precision", "$isa, $precision: a run");
    my ($mine, $truth) = map { column($_, 'test_loss') } $runs[0], $reference;
    cmp_ok(abs($mine / $truth - 1), '<', $tolerance{$precision}, "its test loss, $mine, is the reference's, $truth");
    $server->sql("CALL tlaw_wait($_)") for @runs;
    is(scalar(keys %{ { map { $server->bits($_) => 1 } @runs } }), 1, 'the same bits on 1 and 3 threads');
}

# The bits are those of the instruction set, not only of the precision.
my ($first, $second) = map { train($_, 'float32', 300, '') } 'portable', 'reference';
$server->sql("CALL tlaw_wait($_)") for $first, $second;
isnt($server->bits($first), $server->bits($second), 'another instruction set has other bits');

# ---- stop and resume ----
my ($isa, $precision) = @{ $rows[0] };
$server->experiment(10000, sub { train($isa, $precision, $_[0], '') });
my ($steps, undef, $killed) = $server->interrupted(
    sub {
        kill KILL => $_[0];
        $server->set("tlaw.cpu_isa = 'portable'");
    });
is($server->bits($killed), $server->reference($steps), "$isa, $precision: killed, and resumed while the setting is another: the same bits");
is(column($killed, 'attempt'), 2, 'in two attempts');
$server->set("tlaw.cpu_isa = 'auto'");

# ---- use ----
sub loss_with {
    my ($set) = @_;
    return $server->sql([ 'SET client_min_messages = error', "SET tlaw.cpu_isa = '$set'", "SELECT loss FROM tlaw_validation_loss($first)" ]);
}
my ($loss, $other) = map { loss_with($_) } 'auto', 'reference';
is(loss_with('portable'), $loss, 'a model is used with its own');
isnt($other, $loss, 'or with the one that is set');
cmp_ok(abs($other / $loss - 1), '<', 1e-5, 'to much the same result');
my $text = $server->sql([ 'SET client_min_messages = error', "SET tlaw.cpu_isa = 'reference'", "SELECT octet_length(tlaw_generate($killed, 'ab', 5)) > 0" ]);
is($text, 't', 'also one of another precision');

# ---- refusals ----
my ($missing) = grep { !$isas{$_} } qw(neon amx);
my $machine = join ', ', 'auto', grep { my $name = $_; my $new = $isas{$name}; delete $isas{$name}; $new } map { $_->[0] } @rows;
like($server->sql([ "SET tlaw.cpu_isa = '$missing'", 'SELECT tlaw_train(' . $server->tiny(10) . ')' ]),
    qr/ERROR:  tlaw\.cpu_isa = "$missing" cannot be used here: this machine has \Q$machine\E$/m, 'what this machine lacks is refused');
like($server->sql([ "SET tlaw.cpu_isa = '$missing'", "SELECT tlaw_validation_loss($first)" ]), qr/tlaw\.cpu_isa = "$missing" cannot be used here/, 'for a use too');
like($server->sql([ "SET tlaw.cpu_isa = 'portable'", 'SELECT tlaw_train(' . $server->tiny(10) . q{, "precision" => 'bf16')} ]),
    qr/precision = "bf16" is not available on device "cpu" with tlaw\.cpu_isa = "portable": one of float32/, 'and a precision that it has not');
done_testing;
