#!/usr/bin/perl
# Runs everything that checks, inside regress/server.sh, and ends with "N passed, N failed, N skipped".
# Each source prints TAP: kernel tests (programs), the engine without a server (Python), pg_regress, pgTAP files, each in
# a database of its own, and tests that start servers of their own (Perl).  Names as arguments: only what matches one.
use strict;
use warnings;
use TAP::Harness;
use TAP::Formatter::Console;

my @sources = (glob('build/regress/test_*[!.do]'), glob('regress/engine/test_*.py'), 'regress/pg_regress.sh',
    glob('regress/pgtap/*.sql'), glob('regress/tap/*.pl'));
@sources = grep { -f && !/\.d$/ } @sources;
if (@ARGV) {
    my $wanted = join '|', map { quotemeta } @ARGV;
    @sources = grep { /$wanted/ } @sources;
}
die "no test matches @ARGV\n" unless @sources;

sub command_of {
    my (undef, $file) = @_;
    return ['python3', $file] if $file =~ /\.py$/;
    return ['perl', '-Iregress/tap', $file] if $file =~ /\.pl$/;
    return ['regress/pgtap.sh', $file] if $file =~ /\.sql$/;
    return ["./$file"];
}

my $harness = TAP::Harness->new({ exec => \&command_of, timer => 1, verbosity => $ENV{V} ? 1 : 0, merge => 0 });
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
