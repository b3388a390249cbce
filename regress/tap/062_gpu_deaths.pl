# Deaths of an engine that serves several runs, of its worker and of the server: every run goes back to the queue, uncharged,
# and ends with the same bits; who was there when an engine died is served alone, and charged if that dies, too.
use strict;
use warnings;
use Test::More;
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
        }) || die "could not set up: runs @runs are not trained by one engine: ", $server->states(@runs), "\n";
}

$server->experiment(40, sub { queue($_[0], 2) });
my @long = queue(1e7, 2);
like(trained(@long), qr/^\d+$/, 'two runs in one engine');
$server->sql("SELECT tlaw_cancel($_)") for @long;
$server->finish(@long);

# ---- the engine ----

my $most = 0;
my ($steps, $engine, @runs) = $server->interrupted(
    sub {
        my ($pid, @pair) = @_;
        kill KILL => $pid;
        wait_for(
            sub {
                my @now = split /\n/, $server->sql(q{SELECT coalesce(engine_pid, 0) FROM tlaw_progress JOIN tlaw_run USING (run_id) WHERE attempt = 2});
                $most = @now if @now > $most;
                return $server->states(@pair) =~ /^done .*done /;
            });
    });
is($server->states(@runs), 'done 2 0 t, done 2 0 t', 'engine killed: neither is charged');
cmp_ok($most, '<', 2, 'each is served alone');
is($server->sql('SELECT count(DISTINCT engine_pid) FROM tlaw_run_progress WHERE run_id IN (' . join(',', @runs) . ')'), 2, 'by an engine of its own');
like($server->reference($steps), qr/^(done .* [0-9a-f]{64} .*\n?){2}$/, 'a pair that is left alone is done');
is($server->bits(@runs), $server->reference($steps), 'with the same bits');
like($server->sql("SELECT error FROM tlaw_run WHERE run_id = $runs[0]"), qr/^attempt 1: engine killed by signal 9/, 'the reason is kept');

wait_for(sub { !$server->workers });
$server->set('tlaw.checkpoint_seconds = 3600'); # a death after a checkpoint is not charged
my ($culprit, $bystander) = queue(1e7, 2);
kill KILL => trained($culprit, $bystander);
for my $attempt (2, 3) {
    my $alone = wait_for(sub { $server->sql("SELECT engine_pid FROM tlaw_progress p JOIN tlaw_run r USING (run_id) WHERE run_id = $culprit AND attempt = $attempt AND engine_pid IS NOT NULL") });
    is($server->states($bystander), 'queued 1 0 t', 'the other waits until it is alone') if $attempt == 2;
    kill KILL => $alone;
    ok(wait_for(sub { $server->states($culprit) =~ / ${\($attempt - 1)} t$/ }), "attempt $attempt, alone: charged");
}
is($server->states($culprit), 'failed 3 2 t', 'and failed at last');
ok(wait_for(sub { $server->states($bystander) eq 'running 2 0 t' }), 'the other goes on');
$server->sql("SELECT tlaw_cancel($bystander)");
ok(wait_for(sub { $server->states($bystander) =~ /^cancelled/ }), 'and can be cancelled');
$server->set('tlaw.checkpoint_seconds = 1');

# ---- the worker, the server ----

($steps, $engine, @runs) = $server->interrupted(sub { $server->sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'tlaw worker'}); });
ok(!-e "/proc/$engine", 'a worker that is terminated takes its engine along');
is($server->states(@runs), 'done 2 0 f, done 2 0 f', 'the runs are neither charged nor to be alone');
is($server->bits(@runs), $server->reference($steps), 'and end with the same bits');

($steps, $engine, @runs) = $server->interrupted(sub { kill KILL => $server->workers });
like($server->log_text, qr/all server processes terminated; reinitializing/, 'a worker is killed: the cluster restarts');
ok(wait_for(sub { !-e "/proc/$engine" }), 'the engine is gone');
is($server->states(@runs), 'done 2 0 f, done 2 0 f', 'both runs go on');
is($server->bits(@runs), $server->reference($steps), 'and end with the same bits');

# ---- too little memory beside others ----

SKIP: {
    skip 'prlimit is not here', 3 if system('prlimit --version >/dev/null 2>&1') != 0;
    my ($long) = queue(1e7, 1);
    $engine = trained($long);
    my ($bytes) = slurp("/proc/$engine/status") =~ /^VmData:\s+(\d+)/m;
    system(TlawServer::as_owner('prlimit', '--pid', $engine, '--data=' . ($bytes + 12000) * 1024));
    my $poor = $server->sql("SELECT tlaw_train(${\$server->gpu_run(10)}, again => true)" =~ s/d_model => 16/d_model => 128/r =~ s/n_layer => 1/n_layer => 3/r);
    ok(wait_for(sub { $server->states($poor) eq 'queued 1 0 t' }), 'a run that finds too little memory beside another waits to be alone');
    is($server->states($long), 'running 1 0 f', 'the other is unharmed');
    $server->sql("SELECT tlaw_cancel($long)");
    $server->finish($poor);
    is($server->states($poor), 'done 2 0 t', 'and is trained then');
}

ok(wait_for(sub { !$server->workers && !TlawServer::stray_engines() }), 'no process is left');
is($server->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 0, 'no lock is left');
done_testing;
