# tlaw.device = auto where there is no GPU: the CPU, said once a session; a run keeps the device that it was given.
use strict;
use warnings;
use Test::More;
use TlawServer;

my $server = TlawServer->new('tlaw.max_workers = 0', 'tlaw.device = auto');
$server->corpus;
plan skip_all => 'this machine has a GPU'
    if $server->sql(q{SELECT bool_or(usable) FROM tlaw_devices() WHERE device LIKE 'cuda%'}) eq 't';

my $estimate = 'SELECT device FROM tlaw_estimate(' . TlawServer->tiny(100) . ')';
my $notice = qr/NOTICE:  no GPU can be used here: device "auto" is the CPU\nDETAIL:  .+\.\nHINT:  Set tlaw.device to cpu/;
my $said = $server->sql([ $estimate, $estimate ]);
like($said, $notice, 'it is said');
is(scalar(() = $said =~ /NOTICE/g), 1, 'once a session');
like($server->sql($estimate), $notice, 'and in the next');
is($server->sql([ q{SET tlaw.device = 'cpu'}, $estimate ]), 'cpu', 'not where the CPU is asked for');
like($server->sql([ q{SET tlaw.device = 'cuda'}, $estimate ]), qr/ERROR:  device = "cuda" cannot be used here: one of auto, cpu\nDETAIL:  \S/,
    'a GPU that is asked for is not replaced, and the reason is given');
my $run = $server->sql([ 'SET client_min_messages = warning', 'SELECT tlaw_train(' . TlawServer->tiny(100) . ')' ]);
is($server->sql("SELECT device FROM tlaw_runs WHERE run_id = $run"), 'cpu', 'a run has the device, not the word auto');
done_testing;
