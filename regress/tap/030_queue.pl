# A queue of 50 runs with tlaw.max_workers = 2 and a restart in the middle, not preloaded and preloaded: never more than two
# engines, no run lost, none done twice.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep time);
use TlawServer;

# Watches until the queue is empty (or $until is true); the most engines seen at once.
sub watch {
    my ($server, $until) = @_;
    my $most = 0;
    wait_for(
        sub {
            my $now = () = $server->engines;
            $most = $now if $now > $most;
            return $until->();
        },
        120);
    return $most;
}

sub done { return $_[0]->sql(q{SELECT count(*) FROM tlaw_run WHERE status = 'done'}); }

sub queue_of_50 {
    my ($name, $preloaded) = @_;
    my $server = TlawServer->new('tlaw.max_workers = 2', $preloaded ? "shared_preload_libraries = 'tlaw'" : ());
    $server->corpus;
    my $run = $server->tiny(2000);
    my $begin = time;
    is($server->sql("SELECT count(tlaw_train($run, study => 's', train_tokens => n, subset_seed => k)) FROM tlaw_log_series(1e3, 2e5, 25) n, generate_series(0, 1) k"),
        50, "$name: 50 submits");
    cmp_ok(time - $begin, '<', 5, "$name: at once");
    my $most = watch($server, sub { done($server) >= 15 });
    $server->stop('fast')->start;
    cmp_ok(done($server), '<', 50, "$name: restarted in the middle");
    my $pid;
    ($pid) = $server->background("CALL tlaw_wait('s')") unless $preloaded;
    my $more = watch($server, sub { done($server) >= 50 });
    waitpid $pid, 0 if $pid;
    is($most, 2, "$name: two engines at once");
    is($more, 2, "$name: and not more after the restart");
    is($server->sql("SELECT count(*), count(DISTINCT run_id), count(*) FILTER (WHERE status = 'done') FROM tlaw_run"), '50|50|50', "$name: none lost");
    cmp_ok($server->sql('SELECT sum(attempt) FROM tlaw_run'), '<=', 52, "$name: none twice but the two that the restart interrupted");
    is($server->sql(q{SELECT count(*) FROM tlaw_run WHERE failures > 0 OR error IS NOT NULL}), 0, "$name: without a failure");
    ok(wait_for(sub { !$server->workers }), "$name: workers leave when the queue is empty");
    is($server->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 0, "$name: no lock is left");
    $server->stop;
    return;
}

queue_of_50('not preloaded', 0);
queue_of_50('preloaded', 1);

# ---- two databases share the two slots ----

my $server = TlawServer->new('tlaw.max_workers = 1');
$server->corpus;
$server->sql('CREATE DATABASE other');
$server->corpus('other');
$server->sql("SELECT tlaw_train(${\$server->tiny(60000)})");
$server->training(1);
$server->sql("SELECT tlaw_train(${\$server->tiny(100)})", 'other');
my $most = watch($server, sub { $server->sql("SELECT status FROM tlaw_run", 'other') eq 'done' });
is($most, 1, 'max_workers counts for the whole cluster');
is($server->status(1), 'done', 'a queue waits for the slot that another database holds');
$server->stop;

# ---- runs share the processors ----

$server = TlawServer->new('tlaw.max_workers = 2');
$server->corpus;
my $cpus = $server->sql(['LOAD $$tlaw$$', 'SHOW tlaw.threads']);
my $half = $cpus > 1 ? int($cpus / 2) : 1;
my ($one, $two) = map { $server->sql("SELECT tlaw_train(${\$server->tiny(1e7)}, seed => $_)") } 1, 2;

sub threads_become { my $wanted = join ',', @_; return wait_for(sub { $server->sql(q{SELECT string_agg(threads::text, ',') FROM tlaw_progress}) eq $wanted }, 10); }
ok(threads_become($half, $half), 'two runs share the processors');
$server->sql("SELECT tlaw_cancel($two)");
ok(threads_become($cpus), 'and the one that is left has all of them');
done_testing;
