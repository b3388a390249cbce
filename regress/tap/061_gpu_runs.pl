# Several runs of a GPU in one engine: the bits of one at a time, and every run its own cancel, failure and end.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep time);
use TlawServer;

plan skip_all => 'no g++ to compile the CUDA backend for the host' unless TlawServer::pretend_gpu();
my $server = TlawServer->new('tlaw.max_workers = 2', 'tlaw.gpu_runs = 3');
$server->small_corpus;

# Queues a run; its id.
sub queue {
    my ($steps, $more) = @_;
    return $server->sql("SELECT tlaw_train(${\$server->gpu_run($steps)}, again => true $more)");
}

sub wait_done { $server->sql("CALL tlaw_wait($_)") for @_; }
sub running { return $server->sql(q{SELECT count(*) || ' in ' || count(DISTINCT engine_pid) FROM tlaw_progress WHERE step > 0}); }

# ---- the bits of one at a time ----

$server->set('tlaw.gpu_runs = 1');
my @single = map { queue(20, ", seed => $_") } 1 .. 3;
my $most = 0;
wait_for(
    sub {
        my $now = $server->sql(q{SELECT count(*) FROM tlaw_run WHERE status = 'running'});
        $most = $now if $now > $most;
        return $server->sql(q{SELECT count(*) FROM tlaw_run WHERE status = 'done'}) == 3;
    });
my @bits = map { $server->bits($_) } @single;
like($_, qr/^done .* [0-9a-f]{64} [0-9a-f]{32} [0-9a-f]{32}$/, 'a run') for @bits;
is($most, 1, 'tlaw.gpu_runs = 1: one at a time, though there are two workers');
$server->set('tlaw.gpu_runs = 3');

my $long = queue(1e6, '');
ok($server->training($long), 'a long run');
my ($pid) = $server->engines;
my @together = map { queue(20, ", seed => $_") } 1 .. 3;
ok(wait_for(sub { running() eq '3 in 1' }), 'others are trained beside it');
is($server->sql(q{SELECT count(*) FROM tlaw_run WHERE status = 'queued'}), 1, 'up to tlaw.gpu_runs');
is(join(' ', $server->engines), $pid, 'in the engine that was there');
my $cpu = $server->sql("SELECT tlaw_train(${\$server->gpu_run(20)}, again => true)" =~ s/'cuda'/'cpu'/r);
wait_done($cpu);
is($server->status($cpu), 'done', 'a run of the CPU has an engine of its own meanwhile');
wait_done(@together);
is($server->bits($together[$_]), $bits[$_], 'the bits of one at a time') for 0 .. 2;

# ---- ends that are a run's own ----

@together = map { queue(20, ", seed => $_") } 1, 2;
wait_for(sub { running() eq '3 in 1' });
$server->sql("SELECT tlaw_cancel($long)");
my $start = time;
ok(wait_for(sub { $server->status($long) eq 'cancelled' }, 5), 'one is cancelled');
cmp_ok(time - $start, '<', 3, 'soon');
my $wild = queue(3000, ', learning_rate => 100, weight_decay => 100, grad_clip => 0, warmup_steps => 0');
wait_done($wild, @together);
like($server->sql("SELECT status, attempt, error FROM tlaw_runs WHERE run_id = $wild"), qr/^failed\|1\|.*loss is .* at step \d+/, 'one diverges');
is($server->bits($together[$_]), $bits[$_], 'the others have the same bits') for 0, 1;
ok(wait_for(sub { !$server->workers && !$server->engines }), 'workers and engine leave when the queue is empty');
is($server->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 0, 'no lock is left');

# ---- memory, order ----

$server->sql(['BEGIN', map({ "SELECT tlaw_train(${\$server->gpu_run(10)}, again => true, seed => $_)" } 1 .. 3), "UPDATE tlaw_run SET memory = 500 << 20 WHERE status = 'queued'", 'COMMIT']);
$most = 0;
wait_for(
    sub {
        my $now = $server->sql(q{SELECT count(*) FROM tlaw_run WHERE status = 'running'});
        $most = $now if $now > $most;
        return $server->sql(q{SELECT count(*) FROM tlaw_run WHERE status IN ('queued', 'running')}) == 0;
    });
is($most, 1, 'of runs that do not fit the GPU together one is trained at a time');

# ---- two databases ----

$server->sql('CREATE DATABASE other');
$server->small_corpus('other');
$long = queue(1e6, '');
$server->training($long);
my $theirs = $server->sql("SELECT tlaw_train(${\$server->gpu_run(10)})", 'other');
sleep 0.5;
is($server->sql("SELECT status FROM tlaw_run", 'other'), 'queued', 'a GPU is served by one engine in the cluster');
$server->sql("SELECT tlaw_cancel($long)");
ok(wait_for(sub { $server->sql('SELECT status FROM tlaw_run', 'other') eq 'done' }), 'and goes to who waits for it');

# ---- pg_cancel_backend of the worker ----

my @both = map { queue(1e6, ", seed => $_") } 1, 2;
wait_for(sub { running() eq '2 in 1' });
$server->sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'tlaw worker'});
ok(wait_for(sub { $server->sql("SELECT count(*) FROM tlaw_run WHERE run_id IN ($both[0], $both[1]) AND status = 'cancelled'") == 2 }, 5),
    'pg_cancel_backend of a worker cancels all that it trains');
done_testing;
