# A PostgreSQL server of a test's own, with a copy of this build of tlaw (TLAW_STAGE, see regress/server.sh) and a small corpus
# 'c'; what the tests of the queue do to it and see of it.  Everything is stopped and removed when the test ends.
#
# Tests hold on a machine of any speed, whatever stands still for seconds meanwhile: nothing is left to the length of a run or of
# a sleep.  Runs that must not end have 1e7 steps or more, those that something must happen to and that must end are
# `interrupted`, what is to be is waited for with `wait_for`, and what was at once is asked of the tables (`most_at_once`).
package TlawServer;
use strict;
use warnings;
use Exporter 'import';
use File::Temp qw(tempdir);
use Time::HiRes qw(sleep time);

our @EXPORT = qw(wait_for slurp processes);

my $bin = `pg_config --bindir`;
my $library = `pg_config --pkglibdir`;
chomp($bin, $library);
my @running;

# A copy of the installation for this test alone: it may replace what is in it, and the engines that run it are its own.
if ($ENV{TLAW_STAGE}) {
    my $stage = tempdir('/tmp/tlaw_stage.XXXXXX', CLEANUP => 1);
    chmod 0755, $stage;
    system('cp', '-r', "$ENV{TLAW_STAGE}/.", $stage) == 0 or die "copying the installation\n";
    $ENV{TLAW_STAGE} = $stage;
}

# ---- processes ----

sub slurp {
    open my $file, '<', $_[0] or return '';
    local $/;
    return scalar(<$file>) // '';
}

# The value of a condition once it is true; '' when it has not become true after so many seconds.
sub wait_for {
    my ($condition, $seconds) = @_;
    my $until = time + ($seconds // 120);
    my $value;
    until ($value = $condition->()) {
        return '' if time > $until;
        sleep 0.02;
    }
    return $value;
}

# Children of a process whose name and state match: [pid, name, state].
sub processes {
    my ($parent) = @_;
    my @found;
    for my $stat (map { slurp($_) } glob '/proc/[0-9]*/stat') {
        push @found, [$1, $2, $3] if $stat =~ /^(\d+) \((.*)\) (\S) (\d+)/s && $4 == $parent;
    }
    return @found;
}

sub program { return "$bin/$_[0]"; }

# The server program that has tlaw beside it.
sub server_program { return "$ENV{TLAW_STAGE}$bin/postgres"; }

sub as_owner { return $> == 0 ? ('runuser', '-u', 'postgres', '--', 'env', '-C', '/', @_) : @_; }

# ---- the server ----

# From here on servers have a GPU that is this machine's processor: the CUDA backend compiled for the host (see
# regress/cuda_shim) in the place of the real one.  False where it was not compiled.
sub pretend_gpu {
    my $compiled = 'build/regress/tlaw_cuda.so';
    return 0 unless -e $compiled;
    system('cp', $compiled, "$ENV{TLAW_STAGE}$library/tlaw_cuda.so") == 0 or die "copying $compiled\n";
    return 1;
}

# A server that has folders, which are empty.
sub folders {
    my ($class) = @_;
    die "TLAW_STAGE is not set: run this test with regress/server.sh\n" unless $ENV{TLAW_STAGE};
    my $dir = tempdir('/tmp/tlaw_test.XXXXXX', CLEANUP => 1);
    my $self = bless { dir => $dir, data => "$dir/data" }, $class;
    mkdir $self->{data}, 0700;
    chmod 0755, $dir;
    if ($> == 0) {
        my ($uid, $gid) = (getpwnam 'postgres')[2, 3];
        chown $uid, $gid, $dir, $self->{data};
    }
    push @running, $self;
    return $self;
}

# TlawServer->new('name=value', ...): settings.
sub new {
    my ($class, @settings) = @_;
    my $self = folders($class);
    my $dir = $self->{dir};
    $self->command("$bin/initdb", '-D', $self->{data}, qw(-U postgres -A trust --locale=C.UTF-8 --encoding=UTF8 -N));
    open my $conf, '>>', "$self->{data}/postgresql.conf" or die $!;
    print $conf "$_\n" for "listen_addresses = ''", "unix_socket_directories = '$dir'", 'fsync = off',
        'max_prepared_transactions = 4', 'tlaw.device = cpu', @settings;
    close $conf;
    return $self->start;
}

# A hot standby of the server.
sub standby {
    my ($self) = @_;
    my $standby = folders(ref $self);
    $self->command("$bin/pg_basebackup", '-h', $self->{dir}, qw(-U postgres -R -c fast -D), $standby->{data});
    open my $conf, '>>', "$standby->{data}/postgresql.conf" or die $!;
    print $conf "unix_socket_directories = '$standby->{dir}'\n";
    close $conf;
    return $standby->start;
}

sub command {
    my ($self, @command) = @_;
    my $pid = fork // die $!;
    if ($pid == 0) {
        open STDOUT, '>>', "$self->{dir}/out";
        open STDERR, '>&', \*STDOUT;
        exec as_owner(@command) or exit 127;
    }
    waitpid $pid, 0;
    die "@command failed:\n" . slurp("$self->{dir}/out") . slurp("$self->{dir}/log") if $?;
    return;
}

sub start {
    my ($self) = @_;
    $self->command("$bin/pg_ctl", '-p', server_program(), '-D', $self->{data}, '-l', "$self->{dir}/log", '-w', 'start');
    return $self;
}

sub stop {
    my ($self, $mode) = @_;
    $self->command("$bin/pg_ctl", '-D', $self->{data}, '-m', $mode // 'fast', '-w', 'stop') if $self->postmaster;
    return $self;
}

# Changes settings; sessions and workers that start from now on have them.
sub set {
    my ($self, @settings) = @_;
    my $loaded = 'SELECT extract(epoch FROM pg_conf_load_time())';
    my $before = $self->sql($loaded);
    open my $conf, '>>', "$self->{data}/postgresql.conf" or die $!;
    print $conf "$_\n" for @settings;
    close $conf;
    kill HUP => $self->postmaster;
    wait_for(sub { $self->sql($loaded) ne $before }) or die "the server does not read its settings again\n";
    return;
}

sub postmaster {
    my ($self) = @_;
    return slurp("$self->{data}/postmaster.pid") =~ /^(\d+)/ ? $1 : 0;
}

sub log_text { return slurp("$_[0]{dir}/log"); }

sub workers { return map { $_->[0] } grep { slurp("/proc/$_->[0]/cmdline") =~ /tlaw worker/ } processes($_[0]->postmaster); }

# Engines at work: children of the workers, dead ones not counted.
sub engines {
    my ($self) = @_;
    return map { $_->[0] } grep { $_->[1] eq 'tlaw_engine' && $_->[2] ne 'Z' } map { processes($_) } $self->workers;
}

# Every engine of this test, whoever its parent is.
sub stray_engines { return grep { (readlink("/proc/$_/exe") // '') =~ m{^\Q$ENV{TLAW_STAGE}\E.*/tlaw_engine} } map { m{(\d+)$} } glob '/proc/[0-9]*'; }

# ---- SQL ----

sub psql {
    my ($self, $database) = @_;
    return ("$bin/psql", '-qAtX', '-v', 'ON_ERROR_STOP=1', '-h', $self->{dir}, '-U', 'postgres', '-d', $database // 'postgres');
}

# What a query (an array: statements, each on its own) prints, errors and notices included.
sub sql {
    my ($self, $sql, $database) = @_;
    my $pid = open(my $out, '-|') // die $!;
    if ($pid == 0) {
        open STDERR, '>&', \*STDOUT;
        $ENV{PGOPTIONS} = '-c statement_timeout=120s';
        exec $self->psql($database), map { ('-c', $_) } ref $sql ? @$sql : $sql or exit 127;
    }
    my $text = join '', <$out>;
    close $out;
    chomp $text;
    return $text;
}

# Starts a session in the background (an array: statements, each on its own); its output is in the file that is returned with its pid.
sub background {
    my ($self, $sql, $database) = @_;
    my $file = "$self->{dir}/background." . ++$self->{sessions};
    my $pid = fork // die $!;
    if ($pid == 0) {
        open STDOUT, '>', $file;
        open STDERR, '>&', \*STDOUT;
        exec $self->psql($database), map { ('-c', $_) } ref $sql ? @$sql : $sql or exit 127;
    }
    return ($pid, $file);
}

# tlaw, and 400 documents of random words as corpus 'c' (about 240,000 bytes).
sub corpus {
    my ($self, $database) = @_;
    return $self->sql([
        'CREATE EXTENSION tlaw',
        q{CREATE TABLE t AS SELECT string_agg(md5((i * 1000 + j)::text), ' ') AS body
            FROM generate_series(1, 400) i, generate_series(1, 20) j GROUP BY i},
        q{SELECT tlaw_create_corpus('t', 'body', 'c')} ], $database);
}

# tlaw, and a corpus 'c' of about 2,500 bytes, for a GPU that is none.
sub small_corpus {
    my ($self, $database) = @_;
    return $self->sql([
        'CREATE EXTENSION tlaw',
        q{CREATE TABLE t AS SELECT repeat(chr(97 + g % 7) || ' to ' || g || '; ', 6) AS body FROM generate_series(1, 40) g},
        q{SELECT tlaw_create_corpus('t', 'body', 'c')} ], $database);
}

# The arguments of the smallest run on a GPU of so many steps.
sub gpu_run {
    return "'c', n_layer => 1, n_head => 1, d_model => 16, context_length => 8, batch_size => 2, train_tokens => 600, eval_tokens => 16,
        eval_interval => 10, device => 'cuda', \"precision\" => 'float32', steps => $_[1]";
}

# The arguments of a tiny run of so many steps (some 20,000 a second).
sub tiny { return "'c', n_layer => 1, d_model => 16, context_length => 16, batch_size => 4, eval_tokens => 500, steps => $_[1]"; }

# Everything that runs measured, but their times, a line a run: equal strings are equal bits.
sub bits {
    my ($self, @runs) = @_;
    my $list = join ',', @runs;
    return $self->sql(qq{
        SELECT concat_ws(' ', r.status, r.train_loss, r.val_loss, r.val_loss_min, r.val_loss_last, r.best_step, r.test_loss,
               r.test_loss_se, r.bits_per_byte, (SELECT encode(sha256, 'hex') FROM tlaw_checkpoint k WHERE k.run_id = r.run_id AND kind = 'model'),
               (SELECT md5(string_agg(concat_ws(',', step, tokens_seen, train_loss, val_loss, learning_rate, grad_norm), ';' ORDER BY step))
                  FROM tlaw_run_loss l WHERE l.run_id = r.run_id), md5(d::text))
          FROM tlaw_run r LEFT JOIN (SELECT run_id, loss_sum::text AS d FROM tlaw_run_document_loss) d USING (run_id) WHERE run_id IN ($list) ORDER BY run_id});
}

sub status { my ($self, $run) = @_; return $self->sql("SELECT status FROM tlaw_run WHERE run_id = $run"); }

# The engine that works on a run, once it is beyond the first step.
sub training {
    my ($self, $run) = @_;
    require_ids($run);
    return wait_for(sub { $self->sql("SELECT engine_pid FROM tlaw_progress WHERE run_id = $run AND phase = 'train' AND step > 0") })
        || die "could not set up: run $run does not train: ", $self->states($run), "\n";
}

# For the places where something goes on for minutes if a run was not queued.
sub require_ids {
    my $wrong = join ', ', grep { !/^\d+$/ } @_;
    die "could not set up: not queued: $wrong\n" if !@_ || $wrong ne '';
    return;
}

# "status attempt failures alone" of runs.
sub states {
    my ($self, @runs) = @_;
    return $self->sql(q{SELECT string_agg(concat_ws(' ', status, attempt, failures, alone), ', ' ORDER BY run_id) FROM tlaw_run WHERE run_id IN (} . join(',', @runs) . ')');
}

# Waits for the ends of runs, whatever happens to the server meanwhile.
sub finish {
    my ($self, @runs) = @_;
    require_ids(@runs);
    my $open = 'SELECT count(*) FROM tlaw_run WHERE status IN (\'queued\', \'running\') AND run_id IN (' . join(',', @runs) . ')';
    return wait_for(
        sub {
            $self->sql("CALL tlaw_wait($_)") for @runs;
            $self->sql($open) eq '0';
        },
        240) || die "runs @runs do not end: ", $self->states(@runs), "\n";
}

# The most of these runs that were trained at once, of those that were started once.
sub most_at_once {
    my ($self, @runs) = @_;
    my $list = join ',', @runs;
    return $self->sql(qq{SELECT max(n) FROM (SELECT count(*) AS n FROM tlaw_run a, tlaw_run b WHERE a.run_id IN ($list) AND b.run_id IN ($list)
        AND a.attempt = 1 AND b.attempt = 1 AND b.started_at <= a.started_at AND coalesce(b.finished_at, 'infinity') > a.started_at GROUP BY a.run_id) c});
}

# ---- runs that something happens to in the middle ----

# What `reference` and `interrupted` train: $queue->($steps) queues runs of so many steps and returns their ids.
sub experiment {
    my ($self, $steps, $queue) = @_;
    @$self{qw(steps queue reference)} = ($steps, $queue, {});
    return;
}

# The bits of such runs to which nothing happens.
sub reference {
    my ($self, $steps) = @_;
    return $self->{reference}{$steps} //= do {
        my @runs = $self->{queue}->($steps);
        $self->finish(@runs);
        $self->bits(@runs);
    };
}

# The pid of the one engine that trains all these runs once each has a checkpoint; 0: one is done before it comes to that.
sub caught {
    my ($self, @runs) = @_;
    require_ids(@runs);
    my $list = join ',', @runs;
    my $seen = wait_for(
        sub {
            $self->sql(qq{SELECT CASE WHEN bool_or(r.status IN ('failed', 'cancelled')) THEN 'failed'
                                      WHEN bool_or(r.status = 'done') THEN 'done'
                                      WHEN bool_and(p.step > 0 AND k.step IS NOT NULL) AND count(DISTINCT engine_pid) = 1 THEN min(engine_pid)::text END
                            FROM tlaw_run r LEFT JOIN tlaw_progress p USING (run_id)
                                 LEFT JOIN tlaw_checkpoint k ON k.run_id = r.run_id AND k.kind = 'resume'
                           WHERE r.run_id IN ($list)});
        });
    die "could not set up: runs @runs are neither trained nor done: ", $self->states(@runs), "\n" unless $seen =~ /^(done|\d+)$/;
    return $seen eq 'done' ? 0 : $seen;
}

# Queues runs and calls $act->($engine, @runs) once they have checkpoints, until that returns something true; then
# ($steps, $engine, @runs).  On a machine so fast, or with a test so slow, that the runs were done before, once more with twice as
# many steps; the next call begins with as many.  All runs have ended on return.
sub in_midrun {
    my ($self, $act) = @_;
    for (1 .. 12) {
        my $steps = $self->{steps};
        my @runs = $self->{queue}->($steps);
        my $engine = $self->caught(@runs);
        my $hit = $engine && $act->($engine, @runs);
        $self->finish(@runs);
        return ($steps, $engine, @runs) if $hit;
        $self->{steps} *= 2;
    }
    die "could not set up: even runs of $self->{steps} steps are done before anything can happen to them\n";
}

# in_midrun, where what happens is known by a second attempt at each run.
sub interrupted {
    my ($self, $act) = @_;
    return $self->in_midrun(
        sub {
            my ($engine, @runs) = @_;
            $act->($engine, @runs);
            $self->finish(@runs);
            return $self->sql('SELECT min(attempt) > 1 FROM tlaw_run WHERE run_id IN (' . join(',', @runs) . ')') eq 't';
        });
}

END {
    my $status = $?;
    for my $self (@running) { eval { $self->stop('immediate') }; }
    $? = $status;
}

1;
