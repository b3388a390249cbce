# A queue of 50 runs with tlaw.max_workers = 2 and a restart in the middle, not preloaded and preloaded: never more than two
# engines, no run lost, none done twice.
use strict;
use warnings;
use Test::More;
use TlawServer;

# Waits for something; the most engines seen at once meanwhile.
sub watch {
    my ($server, $condition) = @_;
    my $most = 0;
    wait_for(
        sub {
            my $now = () = $server->engines;
            $most = $now if $now > $most;
            return $condition->();
        },
        240) or die "could not set up: ", $server->sql('SELECT status, count(*) FROM tlaw_run GROUP BY 1'), "\n";
    return $most;
}

sub count { my ($server, $which) = @_; return $server->sql("SELECT count(*) FROM tlaw_run WHERE $which"); }

# 15 runs, then two that would never end, in which the restart comes, then 33 runs.
sub queue_of_50 {
    my ($name, $preloaded) = @_;
    my $server = TlawServer->new('tlaw.max_workers = 2', $preloaded ? "shared_preload_libraries = 'tlaw'" : ());
    $server->corpus;
    my $run = $server->tiny('CASE WHEN i IN (16, 17) THEN 1e9 ELSE 1000 END');
    is($server->sql("SELECT count(tlaw_train($run, study => 's', train_tokens => n, subset_seed => k, priority => CASE WHEN i < 16 THEN 2 WHEN i < 18 THEN 1 ELSE 0 END))
            FROM (SELECT n, k, row_number() OVER () AS i FROM tlaw_log_series(1e3, 2e5, 25) n, generate_series(0, 1) k) r"),
        50, "$name: 50 submits");
    my $trained = 'steps = 1e9 AND run_id IN (SELECT run_id FROM tlaw_progress WHERE step > 0)';
    my $most = watch($server, sub { count($server, $trained) == 2 });
    is(count($server, q{status = 'done'}), 15, "$name: in the order of their priority");
    is(scalar(() = $server->engines), 2, "$name: two engines at once");
    $server->stop('fast')->start;
    my $pid;
    ($pid) = $server->background("CALL tlaw_wait('s')") unless $preloaded;
    my $more = watch($server, sub { count($server, "attempt = 2 AND $trained") == 2 });
    is(count($server, q{status = 'done'}), 15, "$name: those that the restart interrupted go on first");
    $server->sql(q{SELECT tlaw_cancel(run_id) FROM tlaw_run WHERE steps = 1e9});
    my $rest = watch($server, sub { count($server, q{status = 'done'}) >= 48 });
    waitpid $pid, 0 if $pid;
    cmp_ok($_, '<=', 2, "$name: and not more") for $most, $more, $rest;
    is($server->sql("SELECT count(*), count(DISTINCT run_id), count(*) FILTER (WHERE status = 'done'), count(*) FILTER (WHERE status = 'cancelled') FROM tlaw_run"),
        '50|50|48|2', "$name: none lost");
    is($server->sql('SELECT sum(attempt) FROM tlaw_run'), 52, "$name: none twice but the two that the restart interrupted");
    is(count($server, 'failures > 0 OR error IS NOT NULL'), 0, "$name: without a failure");
    ok(wait_for(sub { !$server->workers }), "$name: workers leave when the queue is empty");
    is($server->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 0, "$name: no lock is left");
    $server->stop;
    return;
}

queue_of_50('not preloaded', 0);
queue_of_50('preloaded', 1);

# ---- two databases share the slot ----

# Whether a worker of a database waits for a slot: by its lock, as workers that find nothing to do come and go.
sub waits {
    my ($server, $database) = @_;
    return $server->sql(qq{SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                            WHERE locktype = 'advisory' AND objsubid = 5 AND objid = 1 AND datname = '$database'});
}

my $server = TlawServer->new('tlaw.max_workers = 1');
$server->corpus;
$server->sql('CREATE DATABASE other');
$server->corpus('other');
my $long = $server->sql("SELECT tlaw_train(${\$server->tiny(1e9)})");
$server->training($long);
$server->sql("SELECT tlaw_train(${\$server->tiny(100)})", 'other');
ok(wait_for(sub { $server->workers == 2 }), 'a worker of another database waits');
is(scalar(() = $server->engines), 1, 'max_workers counts for the whole cluster');
is($server->sql("SELECT status FROM tlaw_run", 'other'), 'queued', 'its queue waits');
$server->set('tlaw.max_workers = 0');
ok(wait_for(sub { !$server->workers }), 'without slots nobody waits for one');
$server->set('tlaw.max_workers = 1');
my $next = $server->sql("SELECT tlaw_train(${\$server->tiny(1e9)}, seed => 1)");
$server->training($long);
$server->sql("SELECT tlaw_train(${\$server->tiny(100)}, seed => 1)", 'other');
ok(wait_for(sub { waits($server, 'other') }), 'with one, it is waited for again');
$server->sql("SELECT tlaw_cancel($long)");
ok(wait_for(sub { $server->sql("SELECT bool_or(status = 'done') FROM tlaw_run", 'other') eq 't' }), 'for the slot, and gets it when a run ends, though others of its database are queued');
ok($server->training($next), 'and these have it next');
$server->set('tlaw.max_workers = 2');
my ($second, $third) = map { $server->sql("SELECT tlaw_train(${\$server->tiny(1e9)}, seed => $_)") } 2, 3;
$server->training($second);
my $others = $server->sql("SELECT tlaw_train(${\$server->tiny(1e9)})", 'other');
ok(wait_for(sub { waits($server, 'other') }), 'of two slots, too, another database waits for one');
$server->sql("SELECT tlaw_cancel($second)");
ok(wait_for(sub { $server->sql("SELECT status FROM tlaw_run WHERE run_id = $others", 'other') eq 'running' }), 'and gets it');
ok(wait_for(sub { waits($server, 'postgres') }), 'which the one that gave it waits for now');
$server->sql("SELECT tlaw_cancel($others)", 'other');
ok($server->training($third), 'and gets when no run of the other is left');
is($server->status($next), 'running', 'while its own go on');
$server->stop;

# ---- runs share the processors ----

$server = TlawServer->new('tlaw.max_workers = 2');
$server->corpus;
my $cpus = $server->sql(['LOAD $$tlaw$$', 'SHOW tlaw.threads']);
my $half = $cpus > 1 ? int($cpus / 2) : 1;
my ($one, $two) = map { $server->sql("SELECT tlaw_train(${\$server->tiny(1e7)}, seed => $_)") } 1, 2;

sub threads_become { my $wanted = join ',', @_; return wait_for(sub { $server->sql(q{SELECT string_agg(threads::text, ',') FROM tlaw_progress}) eq $wanted }); }
ok(threads_become($half, $half), 'two runs share the processors');
$server->sql("SELECT tlaw_cancel($two)");
ok(threads_become($cpus), 'and the one that is left has all of them');
done_testing;
