# A run on a GPU through SQL, where the GPU is this machine's processor: the CUDA backend compiled for the host (see
# regress/cuda_shim) lies in the server's copy of the installation in the place of the real one.
use strict;
use warnings;
use Test::More;
use TlawServer;

plan skip_all => 'no g++ to compile the CUDA backend for the host' unless TlawServer::pretend_gpu();

my $server = TlawServer->new('tlaw.max_workers = 1');
$server->sql('CREATE EXTENSION IF NOT EXISTS tlaw');
$server->sql(q{CREATE TABLE c AS SELECT g AS id, repeat(chr(97 + g % 7) || ' to ' || g || '; ', 6) AS body
    FROM generate_series(1, 40) g});
$server->sql(q{SELECT tlaw_create_corpus('c', 'body')});

is($server->sql(q{SELECT string_agg(device || ' ' || isa || ' ' || usable, ', ') FROM tlaw_devices() WHERE device <> 'cpu'}),
    'cuda:0 sm_90 true', 'the GPU is listed');

sub train {
    my ($more) = @_;
    my $run = $server->sql(q{SELECT tlaw_train('c', n_layer => 1, d_model => 32, n_head => 2, context_length => 16,
        batch_size => 4, steps => 12, train_tokens => 1500, eval_tokens => 32} . ", $more)");
    $server->sql("CALL tlaw_wait($run)");
    return $run;
}

sub column {
    my ($run, $column) = @_;
    return $server->sql("SELECT $column FROM tlaw_runs WHERE run_id = $run");
}

my $cpu = train(q{device => 'cpu', "precision" => 'float32'});
my %tolerance = (float32 => 1e-5, bf16 => 1e-2);
for my $precision (qw(float32 bf16)) {
    my $gpu = train(qq{device => 'cuda'} . ($precision eq 'bf16' ? '' : q{, "precision" => 'float32'}));
    is(column($gpu, q{concat_ws(' ', status, device, isa, "precision")}), "done cuda:0 sm_90 $precision", "a run in $precision");
    my ($mine, $reference) = map { column($_, 'test_loss') } $gpu, $cpu;
    cmp_ok(abs($mine - $reference), '<', $tolerance{$precision} * $reference, "test loss: $mine, the CPU's $reference");
    next if $precision eq 'float32';
    my $again = train(qq{device => 'cuda:0', "precision" => '$precision', again => true});
    is(column($again, 'test_loss'), $mine, 'again: the same bits');
}
# Neighbours: enough coordinates that an engine finds them.
$server->sql(q{CREATE TABLE p AS SELECT array_agg(sin(i * 0.021 * (1 + j % 9))::real ORDER BY j) AS x
    FROM generate_series(1, 300) i, generate_series(1, 11264) j GROUP BY i});
sub dimension {
    my ($device) = @_;
    return $server->sql([ "SET tlaw.device = '$device'", 'SET client_min_messages = warning', q{SELECT d FROM tlaw_dimension('p', 'x', estimator => 'mackay', k => 10) d} ]);
}
my $expected = dimension('cpu');
like($expected, qr/^\(,1\.\d+,/, "a dimension: $expected");
is(dimension('cuda'), $expected, 'the same, from neighbours found on the GPU');
like(dimension('cuda:7'), qr/"cuda:7" is not available: this machine has cuda:0/, 'no such GPU');

done_testing;
