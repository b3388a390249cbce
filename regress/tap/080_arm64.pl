# kernels/ for 64-bit ARM: compiled without a warning, and its backends (portable, NEON) against the reference under
# qemu-aarch64.  Needs Debian's gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user, which `make test` does not install.
use strict;
use warnings;
use Test::More;

sub lacks { return !grep { -x "$_/$_[0]" } split /:/, $ENV{PATH}; }
for my $program (qw(aarch64-linux-gnu-gcc qemu-aarch64)) {
    plan skip_all => "$program is not there" if lacks($program);
}
my $said = `make -s -j2 NVCC= arm64-tests 2>&1`;
is($? >> 8, 0, 'kernels/ compile for arm64, warnings being errors') or diag $said;
for my $call ('test_operations 3e4', 'test_gemm', 'test_threads', 'test_trainer') {
    my ($test) = split / /, $call;
    my $output = `qemu-aarch64 -L /usr/aarch64-linux-gnu build/arm64/$call 2>&1`;
    is($?, 0, "$test: ends well");
    my @failed = $output =~ /^(not ok .*)$/mg;
    my $passed = () = $output =~ /^ok /mg;
    ok(!@failed && $passed && $output =~ /^1\.\.$passed$/m, "$test: $passed checks under qemu-aarch64") or diag join "\n", @failed;
    like($output, qr/neon/, "$test: NEON is among what it checks") if $test =~ /operations|gemm|trainer/;
}
done_testing;
