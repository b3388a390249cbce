# The same specification gives the same bits: again, with another number of threads, changed in mid-run, and stopped by
# a killed engine, a killed worker or a restart and resumed.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep);
use TlawServer;

my $server = TlawServer->new('tlaw.checkpoint_seconds = 1', 'tlaw.max_workers = 1', 'tlaw.threads = 2');
$server->corpus;
my $run = $server->tiny(100000);

sub train {
    my ($more) = @_;
    return $server->sql("SELECT tlaw_train($run, again => true$more)");
}

my $first = $server->sql("SELECT tlaw_train($run)");
is($server->sql("SELECT tlaw_train($run)"), $first, 'the run that exists is returned');
$server->sql("CALL tlaw_wait($first)");
my $bits = $server->bits($first);
like($bits, qr/^done .* [0-9a-f]{64} [0-9a-f]{32} [0-9a-f]{32}$/, 'a run');
is($server->sql("SELECT tlaw_train($run)"), $first, 'the run that is done is returned');

my $again = train('');
isnt($again, $first, 'again: a new run');
my $one = train(', threads => 1');
$server->sql("CALL tlaw_wait($_)") for $again, $one;
is($server->bits($again), $bits, 'again: the same bits');
is($server->bits($one), $bits, 'one thread: the same bits');

my $changed = train('');
$server->training($changed);
$server->set('tlaw.threads = 1');
ok(wait_for(sub { $server->sql("SELECT threads FROM tlaw_progress WHERE run_id = $changed") eq '1' }), 'threads change in mid-run');
$server->sql("CALL tlaw_wait($changed)");
is($server->bits($changed), $bits, 'threads changed in mid-run: the same bits');

# ---- stopped and resumed ----

sub has_checkpoint {
    my ($id) = @_;
    return wait_for(sub { $server->sql("SELECT step FROM tlaw_checkpoint WHERE run_id = $id AND kind = 'resume'") });
}

my $killed = train('');
ok(has_checkpoint($killed), 'a checkpoint');
sleep rand 0.4;
kill KILL => $server->training($killed);
$server->sql("CALL tlaw_wait($killed)");
is($server->bits($killed), $bits, 'engine killed: the same bits');
like($server->sql("SELECT attempt, error FROM tlaw_runs WHERE run_id = $killed"), qr/^2\|attempt 1: engine killed by signal 9/,
    'the reason of its death is kept');
is($server->sql("SELECT count(*) FROM tlaw_checkpoint WHERE run_id = $killed AND kind = 'resume'"), 0, 'the resume state is dropped at the end');

my $restarted = train('');
has_checkpoint($restarted);
$server->stop('fast')->start;
is($server->status($restarted), 'running', 'a restart leaves the row as it is');
$server->sql("CALL tlaw_wait($restarted)");
is($server->bits($restarted), $bits, 'server restarted: the same bits');
is($server->sql("SELECT attempt, failures FROM tlaw_run WHERE run_id = $restarted"), '2|0', 'and no failure is counted');

my $damaged = train('');
has_checkpoint($damaged);
$server->stop('fast')->start;
$server->sql("UPDATE tlaw_checkpoint_chunk SET data = overlay(data PLACING '\\x00ff00ff'::bytea FROM 5000) WHERE run_id = $damaged");
$server->sql("CALL tlaw_wait($damaged)");
is($server->bits($damaged), $bits, 'damaged checkpoint: the run starts from scratch, the same bits');
like($server->log_text, qr/WARNING:  the checkpoint of run $damaged is damaged/, 'and says so');

my $crashed = train('');
has_checkpoint($crashed);
my ($worker) = $server->workers;
kill KILL => $worker;
ok(wait_for(sub { $server->log_text =~ /all server processes terminated; reinitializing/ }), 'worker killed: the cluster restarts');
ok(wait_for(sub { $server->sql('SELECT 1') eq '1' }), 'and is back');
$server->sql("CALL tlaw_wait($crashed)");
is($server->bits($crashed), $bits, 'worker killed: the same bits');
ok(wait_for(sub { !TlawServer::stray_engines() }, 5), 'no engine is left behind');
done_testing;
