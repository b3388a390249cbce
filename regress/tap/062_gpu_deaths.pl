# Deaths of an engine that serves several runs, of its worker and of the server: every run goes back to the queue, uncharged,
# and ends with the same bits; who was there when an engine died is served alone, and charged if that dies, too.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep time);
use TlawServer;

plan skip_all => 'no g++ to compile the CUDA backend for the host' unless TlawServer::pretend_gpu();
my $server = TlawServer->new('tlaw.max_workers = 2', 'tlaw.checkpoint_seconds = 1', 'tlaw.max_attempts = 2');
$server->small_corpus;

# Queues runs of so many steps with seeds 1, 2, ...; their ids.
sub queue {
    my ($steps, $count) = @_;
    return split /\n/, $server->sql("SELECT tlaw_train(${\$server->gpu_run($steps)}, again => true, seed => s) FROM generate_series(1, $count) s");
}

# Waits until all of them, which are too long to end, are trained by one engine; its pid.
sub trained {
    my @runs = @_;
    my $list = join ',', @runs;
    return wait_for(
        sub {
            $server->sql(qq{SELECT min(engine_pid) FROM tlaw_progress WHERE run_id IN ($list) AND step > 0
                HAVING count(*) = ${\scalar @runs} AND count(DISTINCT engine_pid) = 1});
        });
}

# Pairs of runs that something happens to once both have a checkpoint.
sub interrupted {
    my ($act) = @_;
    return $server->interrupted(sub { queue($_[0], 2) }, $act);
}

sub states { return $server->sql('SELECT string_agg(concat_ws(\' \', status, attempt, failures, alone), \', \' ORDER BY run_id) FROM tlaw_run WHERE run_id IN (' . join(',', @_) . ')'); }
sub wait_done { $server->sql("CALL tlaw_wait($_)") for @_; }

# The bits of such a pair that nothing happens to.
my %reference;

sub reference {
    my ($steps) = @_;
    return $reference{$steps} //= do {
        my @runs = queue($steps, 2);
        wait_done(@runs);
        [map { $server->bits($_) } @runs];
    };
}

$server->{steps} = 40;
my @long = queue(1e6, 2);
ok(trained(@long), 'two runs in one engine');
$server->sql("SELECT tlaw_cancel($_)") for @long;
wait_done(@long);

# ---- the engine ----

my $most = 0;
my ($steps, $engine, @runs) = interrupted(
    sub {
        my ($pid, @pair) = @_;
        kill KILL => $pid;
        wait_for(
            sub {
                my @now = split /\n/, $server->sql(q{SELECT coalesce(engine_pid, 0) FROM tlaw_progress JOIN tlaw_run USING (run_id) WHERE attempt = 2});
                $most = @now if @now > $most;
                return states(@pair) =~ /^done .*done /;
            });
    });
is(states(@runs), 'done 2 0 t, done 2 0 t', 'engine killed: neither is charged');
cmp_ok($most, '<', 2, 'each is served alone');
is($server->sql('SELECT count(DISTINCT engine_pid) FROM tlaw_run_progress WHERE run_id IN (' . join(',', @runs) . ')'), 2, 'by an engine of its own');
like(reference($steps)->[0], qr/^done .* [0-9a-f]{64} /, 'a pair that is left alone is done');
is($server->bits($runs[$_]), reference($steps)->[$_], 'with the same bits') for 0, 1;
like($server->sql("SELECT error FROM tlaw_run WHERE run_id = $runs[0]"), qr/^attempt 1: engine killed by signal 9/, 'the reason is kept');

wait_for(sub { !$server->workers });
$server->set('tlaw.checkpoint_seconds = 3600'); # a death after a checkpoint is not charged
my ($culprit, $bystander) = queue(1e6, 2);
kill KILL => trained($culprit, $bystander);
for my $attempt (2, 3) {
    my $alone = wait_for(sub { $server->sql("SELECT engine_pid FROM tlaw_progress p JOIN tlaw_run r USING (run_id) WHERE run_id = $culprit AND attempt = $attempt AND engine_pid IS NOT NULL") });
    is(states($bystander), 'queued 1 0 t', 'the other waits until it is alone') if $attempt == 2;
    kill KILL => $alone;
    ok(wait_for(sub { states($culprit) =~ / ${\($attempt - 1)} t$/ }), "attempt $attempt, alone: charged");
}
is(states($culprit), 'failed 3 2 t', 'and failed at last');
ok(wait_for(sub { states($bystander) eq 'running 2 0 t' }), 'the other goes on');
$server->sql("SELECT tlaw_cancel($bystander)");
ok(wait_for(sub { states($bystander) =~ /^cancelled/ }), 'and can be cancelled');
$server->set('tlaw.checkpoint_seconds = 1');

# ---- the worker, the server ----

($steps, $engine, @runs) = interrupted(sub { $server->sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'tlaw worker'}); });
ok(!-e "/proc/$engine", 'a worker that is terminated takes its engine along');
is(states(@runs), 'done 2 0 f, done 2 0 f', 'the runs are neither charged nor to be alone');
is($server->bits($runs[$_]), reference($steps)->[$_], 'and end with the same bits') for 0, 1;

($steps, $engine, @runs) = interrupted(sub { kill KILL => $server->workers });
like($server->log_text, qr/all server processes terminated; reinitializing/, 'a worker is killed: the cluster restarts');
ok(wait_for(sub { !-e "/proc/$engine" }), 'the engine is gone');
is(states(@runs), 'done 2 0 f, done 2 0 f', 'both runs go on');
is($server->bits($runs[$_]), reference($steps)->[$_], 'and end with the same bits') for 0, 1;

# ---- too little memory beside others ----

SKIP: {
    skip 'prlimit is not here', 3 if system('prlimit --version >/dev/null 2>&1') != 0;
    my ($long) = queue(1e6, 1);
    $engine = trained($long);
    my ($bytes) = slurp("/proc/$engine/status") =~ /^VmData:\s+(\d+)/m;
    system(TlawServer::as_owner('prlimit', '--pid', $engine, '--data=' . ($bytes + 12000) * 1024));
    my $poor = $server->sql("SELECT tlaw_train(${\$server->gpu_run(10)}, again => true)" =~ s/d_model => 16/d_model => 128/r =~ s/n_layer => 1/n_layer => 3/r);
    ok(wait_for(sub { states($poor) eq 'queued 1 0 t' }), 'a run that finds too little memory beside another waits to be alone');
    is(states($long), 'running 1 0 f', 'the other is unharmed');
    $server->sql("SELECT tlaw_cancel($long)");
    wait_done($poor);
    is(states($poor), 'done 2 0 t', 'and is trained then');
}

ok(wait_for(sub { !$server->workers && !TlawServer::stray_engines() }), 'no process is left');
is($server->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 0, 'no lock is left');
done_testing;
