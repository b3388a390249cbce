# What starts a run and what does not: rollbacks, prepared transactions, two submits at once, cancelling, dropping, dumps,
# rights that are lost.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep time);
use TlawServer;

my $server = TlawServer->new('tlaw.max_workers = 1');
$server->corpus;
my $short = $server->tiny(100);
my $long = $server->tiny(1e9);

sub started { return $server->log_text =~ /starting background worker/ ? 1 : 0; }
# What a tlaw_wait for a run or study that nothing starts says, up to a word.
sub said_while_waiting {
    my ($target, $word) = @_;
    my ($session, $output) = $server->background("CALL tlaw_wait($target)");
    wait_for(sub { slurp($output) =~ $word });
    kill INT => $session;
    waitpid $session, 0;
    return slurp($output);
}

sub count { return $server->sql('SELECT count(*) FROM tlaw_run'); }

# ---- transactions ----

$server->set('log_min_messages = debug1');
$server->sql(['BEGIN', "SELECT tlaw_train($short)", 'ROLLBACK']);
$server->sql(['BEGIN', 'SAVEPOINT a', "SELECT tlaw_train($short)", 'ROLLBACK TO a', 'COMMIT']);
$server->sql(['BEGIN', 'SAVEPOINT a', 'SAVEPOINT b', "SELECT tlaw_train($short)", 'RELEASE b', 'ROLLBACK TO a', "PREPARE TRANSACTION 'empty'"]);
is($server->sql("COMMIT PREPARED 'empty'"), '', 'a transaction whose submit was rolled back can be prepared');
sleep 0.5;
is(started() . count(), '00', 'a rollback, to a savepoint or of all, starts nothing');
like($server->sql(['BEGIN', "SELECT tlaw_train($short)", "PREPARE TRANSACTION 'x'"]), qr/cannot PREPARE a transaction that has queued a run/,
    'PREPARE TRANSACTION is refused');
is(started() . count(), '00', 'and starts nothing');
like($server->sql(['BEGIN', "CALL tlaw_wait('x')"]), qr/does not exist|inside a transaction block/, 'no such study');
my $run = $server->sql(['BEGIN', 'SAVEPOINT a', "SELECT tlaw_train($short)", 'RELEASE a', 'COMMIT']);
ok(wait_for(sub { $server->status($run) eq 'done' }), 'a commit starts it');
is(started(), 1, 'which the log would have told');
$server->sql(q{ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'; ALTER DATABASE postgres SET default_transaction_read_only = on});
$run = $server->sql(['SET default_transaction_read_only = off', "SELECT tlaw_train($short, again => true)"]);
ok(wait_for(sub { $server->status($run) eq 'done' }), 'whatever the settings of the database are');
$server->sql(['SET default_transaction_read_only = off', 'ALTER DATABASE postgres RESET ALL']);
like($server->sql(['BEGIN', "CALL tlaw_wait($run)"]), qr/tlaw_wait cannot run inside a transaction block/, 'tlaw_wait in a transaction block');

# ---- two at once ----

my ($first) = $server->background("BEGIN; SELECT tlaw_train($long, study => 's'); SELECT pg_sleep(1); COMMIT");
sleep 0.5;
my $second = $server->sql("SELECT tlaw_train($long, study => 's')");
waitpid $first, 0;
is($server->sql("SELECT array_agg(run_id) FROM tlaw_run WHERE study = 's'"), "{$second}", 'two submits race: one run');

# a corpus is dropped while a run of it is submitted: it waits, and then has a run
$server->sql(q{SELECT tlaw_create_corpus('t', 'body', 'held')});
(my $of_held = $long) =~ s/'c'/'held'/;
($first) = $server->background("BEGIN; SELECT tlaw_train($of_held, again => true); SELECT pg_sleep(1); COMMIT");
wait_for(sub { $server->sql(q{SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND wait_event = 'PgSleep'}) });
like($server->sql(q{SELECT tlaw_drop_corpus('held')}), qr/corpus "held" has 1 run/, 'a corpus dropped while a run of it is submitted');
waitpid $first, 0;
$server->sql(q{SELECT tlaw_cancel(run_id) FROM tlaw_runs WHERE corpus = 'held'});
ok(wait_for(sub { $server->sql(q{SELECT status FROM tlaw_runs WHERE corpus = 'held'}) eq 'cancelled' }), 'which is cancelled');
is($server->sql(q{SELECT tlaw_drop_run(run_id) FROM tlaw_runs WHERE corpus = 'held'; SELECT tlaw_drop_corpus('held'); SELECT count(*) FROM tlaw_corpora}),
    "\n\n1", 'and dropped, and the corpus');

# ---- cancelling ----

ok($server->training($second), 'it trains');
my $queued = $server->sql("SELECT tlaw_train($long, again => true, study => 's')");
$server->sql("SELECT tlaw_cancel($queued)");
is($server->status($queued), 'cancelled', 'a queued run is cancelled at once');
my ($listener, $heard) = $server->background(['LISTEN tlaw',
    "DO \$\$ BEGIN WHILE (SELECT status = 'running' FROM tlaw_run WHERE run_id = $second) LOOP PERFORM pg_sleep(0.05); END LOOP; END \$\$", 'SELECT 1']);
wait_for(sub { $server->sql(q{SELECT 1 FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active'}) });
my $begin = time;
is($server->sql("SELECT tlaw_cancel('s')"), 1, 'cancelling a study');
ok(wait_for(sub { $server->status($second) eq 'cancelled' }), 'a running run is cancelled');
cmp_ok(time - $begin, '<', 20, 'at once');
ok(wait_for(sub { !TlawServer::stray_engines() }), 'and its engine is gone');
like($server->sql("SELECT tlaw_cancel($second)"), qr/run $second is cancelled: only a queued or running one can be cancelled/, 'once is enough');
waitpid $listener, 0;
like(slurp($heard), qr/notification "tlaw" with payload "$second cancelled"/, 'NOTIFY at its end');

# ---- the server is restarted, the run cancelled meanwhile ----

$server->sql("SELECT tlaw_retry($second)");
$server->training($second);
like($server->sql("SELECT tlaw_drop_run($second)"), qr/run $second is running: only one that is not running can be dropped/, 'a running run cannot be dropped');
like($server->sql("SELECT tlaw_drop_study('s')"), qr/run $second of study "s" is running/, 'nor its study');
$server->stop('immediate')->start;
is($server->status($second), 'running', 'a run that nobody works on');
$server->sql("SELECT tlaw_cancel($second)");
is($server->status($second), 'cancelled', 'is cancelled at once');
$server->sql("SELECT tlaw_drop_run($second)");
is($server->sql("SELECT count(*) FROM tlaw_run_loss WHERE run_id = $second"), 0, 'and dropped with what belongs to it');

# a run joins a study that is being dropped: it begins the study anew
$server->set('tlaw.max_workers = 0');
$server->sql("SELECT tlaw_train($long, study => 's')");
my ($dropping) = $server->background("BEGIN; SELECT tlaw_drop_study('s'); SELECT pg_sleep(1); COMMIT");
wait_for(sub { $server->sql(q{SELECT 1 FROM pg_locks WHERE relation = 'tlaw_study'::regclass AND mode = 'RowExclusiveLock'}) });
my $anew = $server->sql("SELECT tlaw_train($long, study => 's')");
waitpid $dropping, 0;
is($server->sql("SELECT array_agg(run_id) FROM tlaw_run WHERE study = 's'"), "{$anew}", 'dropped while a run joins it: the study begins anew');
is($server->sql("SELECT tlaw_drop_study('s')"), 1, 'a study with a queued run is dropped');

# so does a fit, which is then refused; and a plan that names a run, which then stays
$server->sql("SELECT tlaw_record_run('points', train_tokens => 1e4 * x, test_loss => 2 + 1 / x) FROM generate_series(1.0, 4) x");
($dropping) = $server->background("BEGIN; SELECT tlaw_drop_study('points'); SELECT pg_sleep(1); COMMIT");
wait_for(sub { $server->sql(q{SELECT 1 FROM pg_locks WHERE relation = 'tlaw_study'::regclass AND mode = 'RowExclusiveLock'}) });
like($server->sql("SELECT tlaw_fit('points')"), qr/study "points" does not exist/, 'a fit of a study that is being dropped waits, and is not kept');
waitpid $dropping, 0;
is($server->sql('SELECT count(*) FROM tlaw_fits'), 0, 'none is left of it');
my $planned = $server->sql("SELECT tlaw_train($long)");
my ($planning) = $server->background("BEGIN; SELECT tlaw_create_study('after', run => $planned); SELECT pg_sleep(1); COMMIT");
wait_for(sub { $server->sql(q{SELECT 1 FROM pg_locks WHERE relation = 'tlaw_study_plan'::regclass AND mode = 'RowExclusiveLock'}) });
like($server->sql("SELECT tlaw_drop_run($planned)"), qr/the plan of study "after" takes its dimension from run $planned/, 'nor is a run dropped that a plan is being made for');
waitpid $planning, 0;
$server->sql("SELECT tlaw_drop_study('after'); SELECT tlaw_drop_run($planned)");
$server->set('tlaw.max_workers = 1');

# ---- rights ----

$server->sql('CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE team; GRANT team TO alice; GRANT EXECUTE ON FUNCTION tlaw_train TO alice, bob;'
        . q{UPDATE tlaw_corpus SET owner = 'team'});
like($server->sql("SET ROLE bob; SELECT tlaw_train($short)"), qr/permission denied for corpus "c"/, 'no right to the corpus');
like($server->sql("SET ROLE team; SELECT tlaw_train($short)"), qr/permission denied for function tlaw_train/, 'no right to train');
$server->set('tlaw.max_workers = 0');
my $alices = $server->sql("SET ROLE alice; SELECT tlaw_train($short)");
is($server->sql("SET ROLE bob; SELECT count(*) FROM tlaw_runs"), 0, 'a run is seen by its owner');
is($server->sql("SET ROLE alice; SELECT run_id FROM tlaw_runs"), $alices, 'and not by others');
like($server->sql("SET ROLE bob; SELECT tlaw_cancel($alices)"), qr/permission denied for run $alices/, 'nor touched');
like($server->sql("SET ROLE bob; SELECT * FROM tlaw_run"), qr/permission denied for table tlaw_run/, 'the tables are closed');
$server->sql("SET ROLE alice; SELECT tlaw_train($short, study => 'hers', again => true)");
my $fit = $server->sql(q{SET ROLE alice; SELECT fit_id FROM tlaw_fit('SELECT x, 1 / x AS loss FROM generate_series(1.0, 9) x', forms => '{power_law}')});
like($server->sql("SET ROLE bob; SELECT tlaw_drop_study('hers')"), qr/permission denied for study "hers"/, 'a study is not dropped by others');
like($server->sql("SET ROLE bob; SELECT tlaw_drop_fit($fit)"), qr/permission denied for fit $fit/, 'nor a fit');
is($server->sql("SET ROLE alice; SELECT tlaw_drop_study('hers'); SELECT tlaw_drop_fit($fit); SELECT count(*) FROM tlaw_fits"), "1\n\n0", 'but by its owner');
$server->sql('REVOKE team FROM alice');
my $other = $server->sql("SELECT tlaw_train($short, again => true)");
$server->sql("UPDATE tlaw_run SET code_version = '0.0.9' WHERE run_id = $other");
like(said_while_waiting($other, qr/WARNING/), qr/tlaw.max_workers is 0: no run is started/, 'tlaw_wait says why nothing starts');
# 1e6 FLOPs are queued; the fastest that is done made 1e4 a second
$server->sql([ "SELECT tlaw_train($short, study => 'guess', seed => k) FROM generate_series(1, 3) k",
    q{UPDATE tlaw_run r SET status = 'done', flops = 1e5, started_at = now() - s * interval '1 second', finished_at = now()
        FROM (VALUES (1, 10), (2, 100)) v(seed, s) WHERE r.study = 'guess' AND r.seed = v.seed},
    q{UPDATE tlaw_run SET flops = 1e6 WHERE study = 'guess' AND seed = 3} ]);
like(said_while_waiting(q{'guess'}, qr/NOTICE/), qr/2 done, 1 queued, about 100 s left/, 'the time left is guessed from the fastest run');
$server->sql(q{UPDATE tlaw_run SET flops = 1e9 WHERE study = 'guess' AND seed = 3});
like(said_while_waiting(q{'guess'}, qr/NOTICE/), qr/2 done, 1 queued, about 28 h left/, 'in hours where it is hours');
$server->sql(q{SELECT tlaw_cancel('guess')});
$server->set('tlaw.max_workers = 1');
$server->sql("CALL tlaw_wait($other)");
is($server->sql("SELECT status, code_version FROM tlaw_runs WHERE run_id = $other"), 'done|0.0.9, 0.1.0', 'a run of another version says so');
is($server->sql("SELECT status, error FROM tlaw_run WHERE run_id = $alices"),
    qq{failed|the run's owner, role "alice", has no right to corpus "c" any more}, 'a right that is lost before the run starts');
$server->sql('REVOKE ALL ON FUNCTION tlaw_train FROM alice; DROP ROLE alice');
is($server->sql("SELECT count(*) FROM tlaw_runs WHERE owner = 'alice'"), 1, 'a superuser sees what a role left that is gone');
is($server->sql("SET ROLE bob; SELECT count(*) FROM tlaw_runs"), 0, 'and nobody else');
is($server->sql("SELECT tlaw_drop_run(run_id) FROM tlaw_runs WHERE owner = 'alice'; SELECT count(*) FROM tlaw_run WHERE owner = 'alice'"), "\n0", 'and drops it');

# ---- dump and restore ----

my $waiting = $server->sql(["BEGIN", "SELECT tlaw_train($short, again => true, priority => -1)", 'COMMIT']);
$server->sql("CALL tlaw_wait($waiting)");
$server->sql("UPDATE tlaw_run SET status = 'queued' WHERE run_id = $waiting");
$server->command('sh', '-c', TlawServer::program('createdb') . " -h $server->{dir} -U postgres copy && " . TlawServer::program('pg_dump') . " -h $server->{dir} -U postgres postgres | "
        . TlawServer::program('psql') . " -qX -v ON_ERROR_STOP=1 -h $server->{dir} -U postgres copy");
is($server->sql('SELECT sum(hashtext(r::text)) FROM tlaw_run r', 'copy'), $server->sql('SELECT sum(hashtext(r::text)) FROM tlaw_run r'), 'dump and restore: the same rows');
like($server->sql("CALL tlaw_wait($waiting)", 'copy'), qr/were queued by another server or database/, 'a restored queue does not start by itself');
is($server->sql("SELECT tlaw_train($short, again => true)", 'copy'), $waiting + 1, 'ids go on where they were');
ok(wait_for(sub { $server->sql("SELECT status FROM tlaw_run WHERE run_id = $waiting + 1", 'copy') eq 'done' }), 'new runs train');
is($server->sql("SELECT status FROM tlaw_run WHERE run_id = $waiting", 'copy'), 'queued', 'the restored one does not');
$server->sql("SELECT tlaw_retry($waiting); ", 'copy');
ok(wait_for(sub { $server->sql("SELECT status FROM tlaw_run WHERE run_id = $waiting", 'copy') eq 'done' }), 'until tlaw_retry makes it this one\'s');

$server->command('sh', '-c', TlawServer::program('createdb') . " -h $server->{dir} -U postgres jobs && " . TlawServer::program('pg_dump') . " -Fc -f $server->{data}/dump -h $server->{dir} -U postgres postgres && "
        . TlawServer::program('pg_restore') . " --jobs 4 --exit-on-error -h $server->{dir} -U postgres -d jobs $server->{data}/dump");
is($server->sql('SELECT sum(hashtext(r::text)) FROM tlaw_run r', 'jobs'), $server->sql('SELECT sum(hashtext(r::text)) FROM tlaw_run r'), 'pg_restore --jobs, which fills tables in any order');
$server->sql('DROP DATABASE jobs');

# ---- the extension and the database go while a run trains ----

my $last = $server->sql("SELECT tlaw_train($long, again => true)", 'copy');
wait_for(sub { $server->engines });
is($server->sql('DROP EXTENSION tlaw CASCADE', 'copy'), '', 'DROP EXTENSION while running');
ok(wait_for(sub { !$server->workers && !TlawServer::stray_engines() }), 'the worker leaves quietly');
is($server->corpus('copy') =~ /ERROR:  relation "t"/, 1, 'CREATE EXTENSION again');
$server->sql(q{SELECT tlaw_create_corpus('t', 'body', 'c')}, 'copy');
$server->sql("SELECT tlaw_train($long, again => true)", 'copy');
ok(wait_for(sub { $server->engines }), 'runs again');
is($server->sql('DROP DATABASE copy WITH (FORCE)'), '', 'DROP DATABASE WITH (FORCE) of the worker\'s own');
ok(wait_for(sub { !$server->workers && !TlawServer::stray_engines() }), 'nothing is left');
unlike($server->log_text, qr/reinitializing|PANIC|TRAP/, 'the cluster has not restarted');

# ---- no background worker to be had ----

$server->stop;
$server = TlawServer->new('max_worker_processes = 1'); # which the logical replication launcher takes
$server->corpus;
$run = $server->sql("SELECT tlaw_train($short)");
like(said_while_waiting($run, qr/WARNING/), qr/WARNING:  no background worker is free to train/, 'no background worker: tlaw_wait says so');
is($server->status($run), 'queued', 'and the run waits');
done_testing;
