# The same specification gives the same bits: again, with another number of threads, changed in mid-run, and stopped by
# a killed engine, a killed worker or a restart and resumed.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep);
use TlawServer;

my $server = TlawServer->new('tlaw.checkpoint_seconds = 1', 'tlaw.max_workers = 1', 'tlaw.threads = 2');
$server->corpus;
$server->experiment(5000, sub { train('', $_[0]) });

# Queues a run of so many steps; its id.
sub train {
    my ($more, $steps) = @_;
    return $server->sql("SELECT tlaw_train(${\$server->tiny($steps)}, again => true$more)");
}

my $first = $server->sql("SELECT tlaw_train(${\$server->tiny(5000)})");
is($server->sql("SELECT tlaw_train(${\$server->tiny(5000)})"), $first, 'the run that exists is returned');
$server->finish($first);
my $bits = $server->bits($first);
like($bits, qr/^done .* [0-9a-f]{64} [0-9a-f]{32} [0-9a-f]{32}$/, 'a run');
is($server->sql("SELECT tlaw_train(${\$server->tiny(5000)})"), $first, 'the run that is done is returned');

my $again = train('', 5000);
isnt($again, $first, 'again: a new run');
my $one = train(', threads => 1', 5000);
$server->finish($again, $one);
is($server->bits($again), $bits, 'again: the same bits');
is($server->bits($one), $bits, 'one thread: the same bits');

my ($steps, undef, $changed) = $server->in_midrun(
    sub {
        my (undef, $run) = @_;
        $server->set('tlaw.threads = 1');
        my $seen = wait_for(sub { $server->sql("SELECT coalesce((SELECT threads::text FROM tlaw_progress WHERE run_id = $run), 'none')") =~ /^(1|none)$/ ? $1 : '' });
        $server->set('tlaw.threads = 2');
        return $seen eq '1';
    });
pass('threads change in mid-run');
is($server->bits($changed), $server->reference($steps), 'threads changed in mid-run: the same bits');

# ---- stopped and resumed ----

($steps, undef, my $killed) = $server->interrupted(
    sub {
        sleep rand 0.4;
        kill KILL => $_[0];
    });
is($server->bits($killed), $server->reference($steps), 'engine killed: the same bits');
like($server->sql("SELECT attempt, error FROM tlaw_runs WHERE run_id = $killed"), qr/^2\|attempt 1: engine killed by signal 9/,
    'the reason of its death is kept');
is($server->sql("SELECT count(*) FROM tlaw_checkpoint WHERE run_id = $killed AND kind = 'resume'"), 0, 'the resume state is dropped at the end');

my $row;
($steps, undef, my $restarted) = $server->interrupted(
    sub {
        $server->stop('fast')->start;
        $row = $server->status($_[1]);
    });
is($row, 'running', 'a restart leaves the row as it is');
is($server->bits($restarted), $server->reference($steps), 'server restarted: the same bits');
is($server->sql("SELECT attempt, failures FROM tlaw_run WHERE run_id = $restarted"), '2|0', 'and no failure is counted');

($steps, undef, my $damaged) = $server->interrupted(
    sub {
        $server->stop('fast')->start;
        $server->sql("UPDATE tlaw_checkpoint_chunk SET data = overlay(data PLACING '\\x00ff00ff'::bytea FROM 5000) WHERE run_id = $_[1]");
    });
is($server->bits($damaged), $server->reference($steps), 'damaged checkpoint: the run starts from scratch, the same bits');
like($server->log_text, qr/WARNING:  the checkpoint of run $damaged is damaged/, 'and says so');

($steps, undef, my $crashed) = $server->interrupted(sub { kill KILL => $server->workers });
like($server->log_text, qr/all server processes terminated; reinitializing/, 'worker killed: the cluster restarts');
is($server->sql('SELECT 1'), 1, 'and is back');
is($server->bits($crashed), $server->reference($steps), 'worker killed: the same bits');
ok(wait_for(sub { !TlawServer::stray_engines() }), 'no engine is left behind');
done_testing;
