#!/usr/bin/perl
# Runs everything that checks, inside regress/server.sh, and ends with "N passed, N failed, N skipped".
# Each source prints TAP: kernel tests (programs), the engine without a server (Python), pg_regress, pgTAP files, each in
# a database of its own, and tests that start servers of their own (Perl).  Names as arguments: only what matches one.
#
# Two at once: one after the other what has servers and mostly waits, and beside it what computes.  What a source that failed wrote
# to standard error is shown when it has ended, below its failed tests; with V=1 in the environment that of all.
use strict;
use warnings;
use File::Temp qw(tempdir);
use TAP::Harness;

my @computing = (glob('build/regress/test_*[!.do]'), glob('build/regress/ptx/test_*[!dox]'), glob('regress/engine/test_*.py'), 'regress/tap/080_arm64.pl');
my @serving = ('regress/pg_regress.sh', glob('regress/pgtap/*.sql'), grep { !/arm64/ } glob('regress/tap/*.pl'));
if (@ARGV) {
    my $wanted = join '|', map { quotemeta } @ARGV;
    @$_ = grep { /$wanted/ } @$_ for \(@computing, @serving);
}
my @sources = (@computing, @serving);
die "no test matches @ARGV\n" unless @sources;

my $errors = tempdir('/tmp/tlaw_errors.XXXXXX', CLEANUP => 1);
sub errors_of { return "$errors/" . $_[0] =~ s{/}{_}gr; }

sub command_of {
    my (undef, $file) = @_;
    my @command = $file =~ /\.py$/ ? ('python3', $file) : $file =~ /\.pl$/ ? ('perl', '-Iregress/tap', $file)
        : $file =~ /\.sql$/ ? ('regress/pgtap.sh', $file) : $file =~ m{/ptx/test_cuda$} ? ("./$file", 'few') : ("./$file");
    return ['sh', '-c', 'exec "$@" 2>"$0"', errors_of($file), @command];
}

sub tell {
    my ($source, $parser) = @_;
    return unless $parser->has_problems || $ENV{V};
    open my $file, '<', errors_of($source->[0]) or return;
    local $/;
    my $said = <$file> // '';
    print "---- $source->[1]\n$said" . ($said =~ /\n\z/ ? '' : "\n") if $said ne '';
    return;
}

$| = 1;
my $harness = TAP::Harness->new({
    exec => \&command_of,
    timer => 1,
    verbosity => $ENV{V} ? 1 : 0,
    failures => 1,
    merge => 1,    # else the harness waits for one source while it could go on with another
    jobs => 2,
    rules => { par => [grep { @{ (values %$_)[0] } } { seq => \@serving }, { par => \@computing }] },
});
$harness->callback(after_test => \&tell);
my $total = $harness->runtests(@sources);

my ($passed, $failed, $skipped) = (scalar $total->passed, scalar $total->failed, scalar $total->skipped);
$passed -= $skipped;    # TAP counts a skipped test as passed
for my $name ($total->descriptions) {
    my ($parser) = $total->parsers($name);
    $skipped++ if defined $parser->skip_all;
    print "skipped: $name: ", $parser->skip_all, "\n" if defined $parser->skip_all;
    # a program that died without a failing line still failed
    $failed++ if !$parser->failed && ($parser->exit || $parser->parse_errors);
}
printf "%d passed, %d failed, %d skipped\n", $passed, $failed, $skipped;
exit($failed ? 1 : 0);
