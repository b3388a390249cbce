# Several runs of a GPU in one engine: the bits of one at a time, and every run its own cancel, failure and end.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep);
use TlawServer;

plan skip_all => 'no g++ to compile the CUDA backend for the host' unless TlawServer::pretend_gpu();
my $server = TlawServer->new('tlaw.max_workers = 2', 'tlaw.gpu_runs = 3');
$server->small_corpus;

# Queues a run; its id.
sub queue {
    my ($steps, $more) = @_;
    return $server->sql("SELECT tlaw_train(${\$server->gpu_run($steps)}, again => true $more)");
}

sub engines_of { return $server->sql('SELECT string_agg(DISTINCT engine_pid::text, \' \') FROM tlaw_run_progress WHERE run_id IN (' . join(',', @_) . ')'); }

# Runs that never end, once all are trained.
sub endless {
    my ($count) = @_;
    my @runs = map { queue(1e7, ", seed => $_") } 1 .. $count;
    $server->training($_) for @runs;
    return @runs;
}

sub cancel {
    $server->sql("SELECT tlaw_cancel($_)") for @_;
    return $server->finish(@_);
}

# ---- the bits of one at a time ----

$server->set('tlaw.gpu_runs = 1');
my @single = map { queue(20, ", seed => $_") } 1 .. 3;
$server->finish(@single);
my $bits = $server->bits(@single);
like($bits, qr/^(done .* [0-9a-f]{64} [0-9a-f]{32} [0-9a-f]{32}\n?){3}$/, 'runs');
is($server->most_at_once(@single), 1, 'tlaw.gpu_runs = 1: one at a time, though there are two workers');
ok(wait_for(sub { !$server->workers }), 'workers leave when the queue is empty');
$server->set('tlaw.gpu_runs = 3');

my ($long) = endless(1);
my ($pid) = $server->engines;
my @others = endless(2);
is(engines_of($long, @others), $pid, 'others are trained beside it, in the engine that was there');
my @together = map { queue(20, ", seed => $_") } 1 .. 3;
is($server->sql(q{SELECT string_agg(DISTINCT status, ' ') FROM tlaw_run WHERE run_id IN (} . join(',', @together) . ')'), 'queued', 'up to tlaw.gpu_runs');
my $cpu = $server->sql("SELECT tlaw_train(${\$server->gpu_run(20)}, again => true)" =~ s/'cuda'/'cpu'/r);
$server->finish($cpu);
is($server->status($cpu), 'done', 'a run of the CPU is trained meanwhile');
isnt(engines_of($cpu), $pid, 'in an engine of its own');
cancel(@others);
$server->finish(@together);
is(engines_of(@together), $pid, 'the queue goes on as soon as there is room');
is($server->bits(@together), $bits, 'with the bits of one at a time');

# ---- ends that are a run's own ----

$server->set('tlaw.gpu_runs = 4');
@others = endless(1);
my $wild = queue(3000, ', learning_rate => 100, weight_decay => 100, grad_clip => 0, warmup_steps => 0, priority => 1');
@together = map { queue(20, ", seed => $_") } 1 .. 3;
cancel($long);
is($server->status($long), 'cancelled', 'one is cancelled');
$server->finish($wild, @together);
like($server->sql("SELECT status, attempt, error FROM tlaw_runs WHERE run_id = $wild"), qr/^failed\|1\|.*loss is .* at step \d+/, 'one diverges');
is($server->bits(@together), $bits, 'others have the same bits');
is(engines_of($long, @others, $wild, @together), $pid, 'in the same engine');
is($server->states(@others), 'running 1 0 f', 'which lives on');
cancel(@others);
ok(wait_for(sub { !$server->workers && !$server->engines }), 'workers and engine leave when the queue is empty');
is($server->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 0, 'no lock is left');

# ---- memory, order ----

my @large = split /\n/, $server->sql(['BEGIN', map({ "SELECT tlaw_train(${\$server->gpu_run(10)}, again => true, seed => $_)" } 1 .. 3),
    "UPDATE tlaw_run SET memory = 500 << 20 WHERE status = 'queued'", 'COMMIT']);
$server->finish(@large);
is($server->most_at_once(@large), 1, 'of runs that do not fit the GPU together one is trained at a time');

# ---- two databases ----

$server->sql('CREATE DATABASE other');
$server->small_corpus('other');
($long) = endless(1);
$server->sql("SELECT tlaw_train(${\$server->gpu_run(10)})", 'other');
ok(wait_for(sub { $server->workers == 2 }), 'a worker of another database waits');
sleep 0.5;
is($server->sql("SELECT status FROM tlaw_run", 'other'), 'queued', 'a GPU is served by one engine in the cluster');
$server->sql("SELECT tlaw_cancel($long)");
ok(wait_for(sub { $server->sql('SELECT status FROM tlaw_run', 'other') eq 'done' }), 'and goes to who waits for it');

# ---- tlaw.max_workers, lowered and raised; pg_cancel_backend of the worker ----

my @both = endless(2);
$server->set('tlaw.max_workers = 0');
ok(wait_for(sub { !$server->workers && !TlawServer::stray_engines() }), 'tlaw.max_workers = 0: the engine is gone');
is($server->states(@both), 'queued 1 0 f, queued 1 0 f', 'and all its runs are queued, uncharged');
$server->set('tlaw.max_workers = 2');
my ($waiter) = $server->background("CALL tlaw_wait($both[0])");
$server->training($_) for @both;
$server->sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'tlaw worker'});
ok(wait_for(sub { $server->states(@both) eq 'cancelled 2 0 f, cancelled 2 0 f' }), 'pg_cancel_backend of a worker cancels all that it trains');
waitpid $waiter, 0;
done_testing;
