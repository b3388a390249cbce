# What whoever runs a busy server does beside runs: pausing and going on by tlaw.max_workers, terminating workers, restarts,
# transactions that stay open, timeouts.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep);
use TlawServer;

my $server = TlawServer->new('tlaw.max_workers = 2', 'tlaw.checkpoint_seconds = 1');
$server->corpus;
my $endless = $server->tiny(1e9);

sub running { return $server->sql(q{SELECT count(*) FROM tlaw_run WHERE status = 'running'}); }
sub queued { return $server->sql(q{SELECT count(*) FROM tlaw_run WHERE status = 'queued'}); }
sub checkpoint { my ($run) = @_; return $server->sql("SELECT coalesce(max(step), 0) FROM tlaw_checkpoint WHERE run_id = $run"); }
sub terminate { return $server->sql(q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'tlaw worker'}); }

# ---- beside the server's clients ----

my ($one, $two) = map { $server->sql("SELECT tlaw_train($endless, seed => $_)") } 1, 2;
for my $engine (map { $server->training($_) } $one, $two) {
    my $nice = getpriority(0, $server->postmaster) + 10;
    $nice = 19 if $nice > 19;
    is(getpriority(0, $engine), $nice, 'training leaves processors to others that want them');
    ok(wait_for(sub { slurp("/proc/$engine/autogroup") =~ / nice $nice$|^$/ }), 'its session likewise, where the system weighs sessions');
}

# ---- fewer and more workers while runs train ----

wait_for(sub { checkpoint($one) > 0 && checkpoint($two) > 0 });
$server->set('tlaw.max_workers = 1');
ok(wait_for(sub { running() == 1 && queued() == 1 }), 'tlaw.max_workers lowered: a run goes back into the queue');
is(scalar(() = $server->engines), 1, 'and its engine is gone');
$server->set('tlaw.max_workers = 2');
ok(wait_for(sub { running() == 2 }), 'raised: it goes on');
$server->training($_) for $one, $two;
is($server->sql("SELECT sum(failures) FROM tlaw_run WHERE error IS NULL"), 0, 'which is no failure');
$server->set('tlaw.max_workers = 0');
ok(wait_for(sub { !$server->workers && !TlawServer::stray_engines() }), 'to 0: nothing trains');
is(queued(), 2, 'all is queued');
my $before = $server->sql("SELECT attempt FROM tlaw_run WHERE run_id = $one");
is(terminate(), 0, 'no worker is left');
is($server->sql('CREATE DATABASE copy TEMPLATE postgres'), '', 'and the database can be a template');
$server->set('tlaw.max_workers = 2');
is($server->sql("SELECT tlaw_train($endless, seed => 1)"), $one, 'tlaw_train of a run that is queued returns it');
ok(wait_for(sub { running() == 2 }), 'and sees to it that workers run');
$server->training($one);
is($server->sql("SELECT attempt FROM tlaw_run WHERE run_id = $one"), $before + 1, 'as one attempt more');

# ---- a run that is cancelled just before it would go back into the queue ----

$server->sql("SELECT tlaw_cancel($two)");
$server->set('tlaw.max_workers = 0');
ok(wait_for(sub { $server->states($two) =~ /^cancelled / && $server->states($one) =~ /^queued / }), 'a run that was cancelled is not queued');
$server->set('tlaw.max_workers = 2');
$server->sql("SELECT tlaw_retry($two)");
$server->training($_) for $one, $two;

# ---- a worker that is terminated ----

my $attempts = $server->sql('SELECT sum(attempt) FROM tlaw_run');
is(terminate(), 2, 'workers are terminated');
ok(wait_for(sub { $server->sql(q{SELECT sum(attempt) FROM tlaw_run WHERE status = 'running'}) eq $attempts + 2 }), 'others go on with their runs');
$server->training($_) for $one, $two;

# ---- a restart, and the same sweep again ----

$server->stop('fast')->start;
is($server->sql("SELECT tlaw_train($endless, seed => 1)"), $one, 'tlaw_train after a restart');
ok(wait_for(sub { running() == 2 && $server->engines == 2 }), 'and the interrupted runs go on');
$server->sql("SELECT tlaw_cancel(run_id) FROM tlaw_runs WHERE status IN ('queued', 'running')");
ok(wait_for(sub { !$server->workers }), 'until they are cancelled');

# ---- transactions that stay open ----

my $locked = $server->sql(['BEGIN', "SELECT tlaw_train($endless, seed => 3)", 'COMMIT']);
$server->training($locked);
$server->stop('immediate')->start;
my ($holder) = $server->background("BEGIN; SELECT tlaw_cancel($locked); SELECT pg_sleep(3600)");
wait_for(sub { $server->sql(q{SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)' AND wait_event = 'PgSleep'}) });
my $other = $server->sql("SELECT tlaw_train(${\$server->tiny(100)})");
ok(wait_for(sub { $server->status($other) eq 'done' }, 30), 'a dead run that a transaction has locked keeps no worker waiting');
kill INT => $holder;
waitpid $holder, 0;
$server->sql("SELECT tlaw_cancel($locked); SELECT tlaw_retry($locked)");
$server->set('tlaw.max_workers = 0');
wait_for(sub { queued() == 1 && !$server->workers });
($holder) = $server->background("BEGIN; SELECT tlaw_cancel($locked); SELECT pg_sleep(3600)");
wait_for(sub { $server->sql(q{SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)' AND wait_event = 'PgSleep'}) });
$server->set('tlaw.max_workers = 1');
$server->sql("SELECT tlaw_train($endless, seed => 3)");
ok(wait_for(sub { $server->workers }), 'all that is queued is locked by a transaction');
my $commits = q{SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'};
my $begin = $server->sql($commits);
sleep 2;
cmp_ok($server->sql($commits) - $begin, '<', 100, 'the worker waits, and does not spin');
kill INT => $holder;
waitpid $holder, 0;
ok($server->training($locked), 'and takes it when the transaction has ended');
$server->sql("SELECT tlaw_cancel($locked)");
wait_for(sub { !$server->workers });

# ---- preloaded ----

$server->set("shared_preload_libraries = 'tlaw'");
$server->set('tlaw.max_workers = 0');
$server->stop('fast')->start;
my $waits = $server->sql("SELECT tlaw_train(${\$server->tiny(100)}, seed => 4)");
wait_for(sub { !$server->workers });
is($server->status($waits), 'queued', 'preloaded, with tlaw.max_workers = 0: a run waits');
$server->set('tlaw.max_workers = 1');
ok(wait_for(sub { $server->status($waits) eq 'done' }), 'raised: the launcher sees to it');

# ---- a hot standby ----

my $standby = $server->standby;
is($standby->sql("SELECT count(*) FROM tlaw_runs WHERE run_id = $waits"), 1, 'a hot standby shows the runs');
is($standby->sql("SELECT loss > 0 FROM tlaw_validation_loss($waits)"), 't', 'and uses their models');
like($standby->sql("SELECT tlaw_train($endless)"), qr/cannot execute tlaw_train\(\) in a read-only transaction/, 'it trains none');
my $moves = $server->sql("SELECT tlaw_train($endless, seed => 6)");
$server->training($moves);
wait_for(sub { $standby->status($moves) eq 'running' });
$server->stop('immediate');
$standby->command(TlawServer::program('pg_ctl'), '-D', $standby->{data}, '-w', 'promote');
ok(wait_for(sub { $standby->sql("SELECT attempt FROM tlaw_run WHERE run_id = $moves AND status = 'running'") eq '2' }), 'promoted, it goes on with them');
$standby->stop;
$server->start;
$server->sql("SELECT tlaw_cancel($moves)");

# ---- timeouts ----

SKIP: {
    skip 'transaction_timeout is of PostgreSQL 17', 1 if $server->sql('SHOW server_version_num') < 170000;
    $server->sql(q{ALTER DATABASE postgres SET transaction_timeout = '1ms'});
    $waits = $server->sql(q{SET transaction_timeout = 0; SELECT tlaw_train(} . $server->tiny(100) . ', seed => 5)');
    ok(wait_for(sub { $server->sql("SET transaction_timeout = 0; SELECT status FROM tlaw_run WHERE run_id = $waits") eq 'done' }, 30), 'transaction_timeout does not hold for workers');
}
done_testing;
