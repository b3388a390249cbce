# What engines, workers and servers survive: engines that die again and again, a server that is PID 1, a long run beside
# VACUUM, DROP DATABASE and a fast shutdown.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep time);
use TlawServer;

my $server = TlawServer->new('tlaw.max_workers = 1', 'tlaw.max_attempts = 2', 'autovacuum = off');
$server->corpus;

# ---- an engine that dies without progress ----

my $bystander = $server->sql('SELECT pg_postmaster_start_time()');
my ($session, $output) = $server->background('SELECT pg_sleep(3600)');
wait_for(sub { $server->sql(q{SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)' AND state = 'active'}) });
my $run = $server->sql("SELECT tlaw_train(${\$server->tiny(1e9)})");
for my $attempt (1, 2) {
    ok(wait_for(sub { $server->sql("SELECT attempt FROM tlaw_run WHERE run_id = $run AND status = 'running'") eq $attempt }), "attempt $attempt");
    kill KILL => $server->training($run);
    wait_for(sub { $server->sql("SELECT failures FROM tlaw_run WHERE run_id = $run") eq $attempt });
}
ok(wait_for(sub { $server->status($run) eq 'failed' }), 'killed as often as tlaw.max_attempts allows: failed');
is($server->sql("SELECT error FROM tlaw_runs WHERE run_id = $run"), 'attempt 2: engine killed by signal 9', 'with the reason');
$server->sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)'});
waitpid $session, 0;
like(slurp($output), qr/canceling statement due to user request/, 'other sessions are unharmed');
is($server->sql('SELECT pg_postmaster_start_time()'), $bystander, 'and so is the server');
ok(wait_for(sub { !$server->workers && !TlawServer::stray_engines() }), 'no process is left');
is($server->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 0, 'no lock is left');
$server->sql("SELECT tlaw_retry($run)");
ok($server->training($run), 'a failed run can be retried');

$server->sql("SELECT tlaw_cancel($run)");
wait_for(sub { $server->status($run) eq 'cancelled' });

# ---- a run that diverges ----

my $wild = $server->sql(q{SELECT tlaw_train('c', n_layer => 2, d_model => 32, context_length => 16, batch_size => 4, eval_tokens => 500, steps => 3000,
                                 learning_rate => 100, warmup_steps => 0, grad_clip => 0, eval_interval => 50)});
$server->sql("CALL tlaw_wait($wild)");
like($server->sql("SELECT status, attempt, error FROM tlaw_runs WHERE run_id = $wild"), qr/^failed\|1\|loss is .* at step \d+, gradient norm /,
    'failed at once, with the step and the gradient norm');
cmp_ok($server->sql("SELECT count(*) FROM tlaw_losses WHERE run_id = $wild"), '>', 0, 'and the losses up to there');
$server->sql("SELECT tlaw_retry($run)");
$server->training($run);

# ---- beside a long run ----

$server->sql('CREATE TABLE churn AS SELECT generate_series(1, 1000) AS i; UPDATE churn SET i = i + 1');
ok(wait_for(sub { $server->sql('VACUUM (VERBOSE) churn') =~ /tuples: 1000 removed, 1000 remain, 0 are dead/ }), 'VACUUM removes dead rows');
my ($waiting) = $server->background("CALL tlaw_wait($run)");
wait_for(sub { $server->sql(q{SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CALL tlaw_wait%' AND state = 'active'}) });
ok(wait_for(sub { $server->sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()}) eq '0' }),
    'neither the worker nor tlaw_wait holds a snapshot');
kill INT => $waiting;
waitpid $waiting, 0;
isnt($?, 0, 'tlaw_wait can be cancelled');
$server->sql('CREATE DATABASE other');
my $begin = time;
is($server->sql('DROP DATABASE other'), '', 'DROP DATABASE of another database');
cmp_ok(time - $begin, '<', 20, 'at once');
my @engines = $server->engines;
$begin = time;
$server->stop('fast');
cmp_ok(time - $begin, '<', 20, 'a fast shutdown is fast');
is(scalar(@engines), 1, 'with an engine at work');
ok(!TlawServer::stray_engines(), 'which is gone with the server');

# ---- after a restart ----

$server->start;
my ($waiter) = $server->background("CALL tlaw_wait($run)");
ok($server->training($run), 'after a restart: whoever waits starts a worker');
$server->sql("SELECT tlaw_cancel($run)");
waitpid $waiter, 0;
is($?, 0, 'tlaw_wait ends with the run');
$server->stop;

# ---- the server as PID 1 ----

SKIP: {
    skip 'unshare --pid is not permitted here', 7 if $> != 0 || system('unshare --pid --fork --mount-proc true 2>/dev/null') != 0;
    my $pid = fork // die $!;
    if ($pid == 0) {
        open STDOUT, '>>', "$server->{dir}/log";
        open STDERR, '>&', \*STDOUT;
        exec 'unshare', '--pid', '--fork', '--kill-child', '--mount-proc', 'setpriv', '--reuid=postgres', '--regid=postgres', '--clear-groups', 'env', '-C', '/',
            TlawServer::server_program(), '-D', $server->{data}, '-c', 'tlaw.checkpoint_seconds=1' or exit 127;
    }
    ok(wait_for(sub { $server->sql('SELECT 1') eq '1' }), 'the server is PID 1');
    my ($postmaster) = map { $_->[0] } processes($pid);
    $server->experiment(20000, sub { $server->sql("SELECT tlaw_train(${\$server->tiny($_[0])}, again => true)") });
    my ($steps, undef, $id) = $server->interrupted(sub { $server->sql("COPY (SELECT 1) TO PROGRAM 'kill -9 $_[0]'") });
    is($server->states($id), 'done 2 0 t', 'engine killed: the run is retried');
    is($server->bits($id), $server->reference($steps), 'with the same bits');
    unlike($server->log_text, qr/process .* was terminated by signal 9/, 'the server has not taken the engine for one of its processes');
    my $kills = 0;
    ($steps, undef, $id) = $server->interrupted(
        sub {
            my ($worker) = grep { slurp("/proc/$_/cmdline") =~ /tlaw worker/ } map { $_->[0] } processes($postmaster);
            $kills += kill KILL => $worker if $worker;
        });
    like($server->log_text, qr/reinitializing/, 'worker killed: the cluster restarts');
    is($server->bits($id), $server->reference($steps), 'and the run finishes with the same bits');
    my $restarts = () = $server->log_text =~ /reinitializing/g;
    is($restarts, $kills, 'its orphaned engine did not restart the cluster once more');
    kill INT => $postmaster;
    waitpid $pid, 0;
}
done_testing;
