# What a backend does to its engine, and what the engine's death does to a backend: started clean, killed, cancelled,
# orphaned; nothing is left behind; a large table goes in with little memory.
use strict;
use warnings;
use IPC::Open2;
use Test::More;
use Time::HiRes qw(sleep time);
use TlawServer ();

my $server = TlawServer->new; # its backends will be killed
@ENV{qw(PGHOST PGPORT PGUSER)} = ($server->{dir}, 5432, 'postgres');
my $files = query('SHOW data_directory') . '/base/pgsql_tmp/pgsql_tmp_tlaw';

# ---- sessions: psql processes that are sent queries and asked for the output later ----

sub query {
    my ($sql, $database) = @_;
    my $pid = open2(my $out, my $in, 'psql', '-qAtX', '-d', $database // 'postgres', '-c', $sql);
    close $in;
    my $answer = join '', readline $out;
    waitpid $pid, 0;
    chomp $answer;
    return $answer;
}

sub session {
    my $pid = open2(my $out, my $in, 'exec psql -qAtX -d tlaw_client 2>&1');
    my $s = { pid => $pid, in => $in, out => $out };
    $s->{backend} = ask($s, 'SELECT pg_backend_pid()');
    return $s;
}

sub send_query {
    my ($s, $sql) = @_;
    print { $s->{in} } "$sql;\n\\echo ==end\n";
    $s->{in}->flush;
}

sub answer {
    my ($s) = @_;
    my $text = '';
    while (defined(my $line = readline $s->{out})) {
        last if $line eq "==end\n";
        $text .= $line;
    }
    chomp $text;
    return $text;
}

sub ask { send_query(@_); return answer($_[0]); }

sub finish {
    my ($s) = @_;
    close $s->{in};
    waitpid $s->{pid}, 0;
}

# ---- processes ----

sub slurp {
    open my $file, '<', $_[0] or return '';
    local $/;
    return scalar(<$file>) // '';
}

# PIDs of the children of a process, zombies included.
sub children {
    my ($parent) = @_;
    return grep { (slurp("/proc/$_/stat") =~ /^\d+ \(.*\) \S (\d+)/s ? $1 : 0) == $parent }
        map { m{(\d+)$} } glob '/proc/[0-9]*';
}

# Waits for a true value, at most 60 s.
sub wait_for {
    my ($condition) = @_;
    my $until = time + 60;
    my $value;
    sleep 0.01 until ($value = $condition->()) || time > $until;
    return $value;
}

sub engine_of {
    my ($s) = @_;
    return wait_for(sub { my ($pid) = grep { -e "/proc/$_/exe" && slurp("/proc/$_/comm") eq "tlaw_engine\n" } children($s->{backend}); $pid });
}

sub kilobytes { return slurp("/proc/$_[0]/status") =~ /^$_[1]:\s+(\d+)/m ? $1 : 0; }

sub no_files { return !grep { -f } glob "$files/*"; }

# ---- the tests ----

query('CREATE DATABASE tlaw_client');
query($_, 'tlaw_client')
    for 'CREATE EXTENSION tlaw',
    "CREATE VIEW slow AS SELECT i, 'row ' || i || pg_sleep(0.02)::text AS body FROM generate_series(1, 100000) i",
    q{CREATE TABLE words AS SELECT string_agg(translate(md5((i * 40 + j)::text), '0123456789', 'ghijklmnop'), ' ') AS body
        FROM generate_series(1, 6000) i, generate_series(1, 40) j GROUP BY i};

my $s = session();
my $freeze = q{SELECT tlaw_create_corpus('slow', 'body')};

# the spawn contract
send_query($s, $freeze);
my $engine = engine_of($s);
ok($engine, 'a freeze has an engine') or BAIL_OUT(answer($s));
my (%open, @files);
wait_for(sub { # one of its own in /proc is open for a moment
    %open = map { m{(\d+)$} => readlink } glob "/proc/$engine/fd/*";
    @files = grep { m{^/} && !m{^/dev/null$|/pgsql_tmp_tlaw/} } values %open;
    !@files;
});
is("@files", '', 'it has none of the server\'s files');
is(scalar(grep { /^socket:/ } values %open), 1, 'it has one socket');
my ($session) = slurp("/proc/$engine/stat") =~ /^\d+ \(.*\) \S \d+ \d+ (\d+)/s;
is($session, $engine, 'it has a session of its own');
like(slurp("/proc/$engine/status"), qr/^SigBlk:\s0*\nSigIgn:\s0*\n/m, 'it ignores and blocks no signal');
unlike(slurp("/proc/$engine/environ"), qr/PG[A-Z]+=/, 'it has nothing of the server\'s environment');
ok(kilobytes($engine, 'VmRSS') > 0, 'it runs');

# kill -9 of the engine
kill 9, $engine;
my $start = time;
like(answer($s), qr/ERROR:  engine killed by signal 9/, 'the death of the engine is an error that names the signal');
cmp_ok(time - $start, '<', 20, 'at once');
is(ask($s, 'SELECT pg_backend_pid()'), $s->{backend}, 'the session goes on');
is(join(' ', children($s->{backend})), '', 'there is no zombie');
ok(no_files(), 'there is no file');
is(ask($s, 'SELECT count(*) FROM tlaw_corpus'), 0, 'there is no row');

# in a subtransaction
send_query($s, "DO \$\$ BEGIN BEGIN PERFORM tlaw_create_corpus('slow', 'body'); EXCEPTION WHEN others THEN RAISE WARNING 'caught: %', SQLERRM; END; PERFORM pg_sleep(0.2); END \$\$");
kill 9, engine_of($s);
like(answer($s), qr/caught: engine killed by signal 9/, 'a subtransaction catches it');
is(join(' ', children($s->{backend})), '', 'and leaves no zombie');

# cancel while rows are read
send_query($s, $freeze);
$engine = engine_of($s);
sleep 0.3;
$start = time;
query("SELECT pg_cancel_backend($s->{backend})");
like(answer($s), qr/canceling statement due to user request/, 'reading is cancelled');
cmp_ok(time - $start, '<', 20, 'at once');
ok(!-e "/proc/$engine" && no_files(), 'engine and files are gone');

# cancel while the engine works: with twice the words where it is done before that
my $said;
for (1 .. 8) {
    send_query($s, q{SELECT tlaw_create_corpus('words', 'body', tokenizer => 'bpe:20000')});
    $engine = engine_of($s) // 0;
    wait_for(sub { my @t = split ' ', slurp("/proc/$engine/stat") =~ s/.*\) //sr; !@t || $t[11] > 20 });    # 0.2 s of its own
    $start = time;
    query("SELECT pg_cancel_backend($s->{backend})");
    $said = answer($s);
    last if $said ne 'words';
    query($_, 'tlaw_client') for q{SELECT tlaw_drop_corpus('words')}, 'INSERT INTO words SELECT reverse(body) FROM words';
}
like($said, qr/canceling statement due to user request/, 'the engine\'s work is cancelled');
cmp_ok(time - $start, '<', 20, 'at once');
ok(!-e "/proc/$engine" && no_files(), 'engine and files are gone');

# the backend is terminated
send_query($s, $freeze);
$engine = engine_of($s);
query("SELECT pg_terminate_backend($s->{backend})");
ok(wait_for(sub { !-e "/proc/$engine" }), 'a terminated backend takes its engine along');
ok(no_files(), 'and its files');
answer($s);
finish($s);

# engines that are none
my $real = "$ENV{TLAW_STAGE}" . qx(pg_config --pkglibdir);
chomp $real;
$real .= '/tlaw_engine';
rename $real, "$real.real" or BAIL_OUT("cannot replace $real");
END { rename "$real.real", $real if $real && -e "$real.real"; }

sub pretend {
    my ($script) = @_;
    unlink $real;
    open my $file, '>', $real or die;
    print $file "#!/bin/sh\n$script\n";
    close $file;
    chmod 0755, $real;
}

$s = session();
pretend('echo "first line" >&2; echo "the reason" >&2; exit 7');
like(ask($s, $freeze), qr/ERROR:  engine exited with code 7: first line the reason$/m, 'an exit code and the last words');
pretend('i=0; while [ $i -lt 9000 ]; do echo "line $i of many" >&2; i=$((i + 1)); done; exit 1');
like(ask($s, $freeze), qr/ERROR:  engine exited with code 1: .*line 8999 of many$/m, 'the last of many words, none of which block it');
pretend('printf "this is not what the wire speaks........" >&3; sleep 60');
like(ask($s, $freeze), qr/ERROR:  engine sent a malformed message: /, 'a malformed message');
pretend('exec 3>&- 3<&-; sleep 60');
like(ask($s, $freeze), qr/ERROR:  engine closed its socket and did not exit/, 'one that hangs');
unlink $real;
like(ask($s, $freeze), qr/ERROR:  engine exited with code 127: could not execute /, 'one that is missing');
is(join(' ', children($s->{backend})), '', 'none of them leaves a zombie');
ok(no_files(), 'or a file');
finish($s);
rename "$real.real", $real;

# a large table
query(q{CREATE TABLE large AS SELECT repeat(md5(i::text) || ' ', 31) || md5((-i)::text) AS body FROM generate_series(1, 220000) i}, 'tlaw_client');
$s = session();
my $before = kilobytes($s->{backend}, 'RssAnon');
my ($backend_peak, $engine_peak) = (0, 0);
send_query($s, q{SELECT tlaw_create_corpus('large', 'body')});
$engine = engine_of($s);
while (-e "/proc/$engine/exe") {
    my $anonymous = kilobytes($s->{backend}, 'RssAnon');
    my $high = kilobytes($engine, 'VmHWM');
    $backend_peak = $anonymous if $anonymous > $backend_peak;
    $engine_peak = $high if $high > $engine_peak;
    sleep 0.02;
}
like(answer($s), qr/^large$/m, '225 MB go in');
cmp_ok($backend_peak - $before, '<', 100_000, 'with less than 100 MB in the backend');
cmp_ok($engine_peak, '<', 300_000, 'and less than 300 MB in the engine');
note(sprintf 'backend %.0f MB above %.0f MB, engine %.0f MB', ($backend_peak - $before) / 1024, $before / 1024, $engine_peak / 1024);
is(ask($s, 'SELECT bytes FROM tlaw_corpora WHERE corpus = \'large\''), query('SELECT sum(octet_length(body)) FROM large', 'tlaw_client'), 'all of them');
ok(ask($s, "SELECT tlaw_drop_corpus('large')") eq '' && no_files(), 'and are dropped');

# the backend is killed: the cluster restarts, the orphan leaves by itself
send_query($s, $freeze);
$engine = engine_of($s);
kill 9, $s->{backend};
ok(wait_for(sub { !-e "/proc/$engine" }), 'the orphan of a killed backend exits');
finish($s);
ok(wait_for(sub { qx(psql -qAtX -d postgres -c 'SELECT 1' 2>/dev/null) eq "1\n" }), 'the server is back');
ok(no_files(), 'there is no file');

done_testing();
