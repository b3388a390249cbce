# The cache of token files is only a cache: removed, wiped, truncated, rebuilt by many at once, it is what the tables say.
# What is stored survives a dump; other encodings work.
use strict;
use warnings;
use Test::More;
use TlawServer;

my $server = TlawServer->new('shared_preload_libraries = tlaw');
$server->corpus;
my $run = $server->sql('SELECT tlaw_train(' . $server->tiny(50) . ')');
$server->sql("CALL tlaw_wait($run)");
is($server->status($run), 'done', 'a run on the corpus');

my $folder = "$server->{data}/base/pgsql_tmp/pgsql_tmp_tlaw";
my $file = "$folder/" . $server->sql('SELECT sha256 FROM tlaw_corpora');
my $generate = "SELECT md5(tlaw_generate($run, 'a', 30))";
my $text = $server->sql($generate);
like($text, qr/^[0-9a-f]{32}$/, 'generates');

sub cached { return join ' ', sort grep { -f } glob "$folder/*"; }

is(cached(), $file, 'the token file is cached under its hash');
is((stat $file)[2] & 0777, 0600, 'and is its owner\'s');

unlink $file;
is($server->sql($generate), $text, 'it was removed: the same text');
is(cached(), $file, 'and it is there again');

truncate $file, 1000;
is($server->sql($generate), $text, 'it was truncated: the same text');

$server->stop->start;
is($server->sql($generate), $text, 'the server was restarted: the same text');

unlink $file;
rmdir $folder;
rmdir "$server->{data}/base/pgsql_tmp";
is($server->sql($generate), $text, 'the folder was removed: the same text');
is((stat $folder)[2] & 0777, 0700, 'the folder is the server\'s own');

unlink $file;
my @sessions = map { [$server->background($generate)] } 1 .. 6;
waitpid $_->[0], 0 for @sessions;
is(join('', map { slurp($_->[1]) } @sessions), "$text\n" x 6, 'six sessions rebuild it at once');
is(cached(), $file, 'and leave one file');

# damage in the tables
my $flip = 'UPDATE tlaw_corpus_shard SET data = set_byte(data, 1000, get_byte(data, 1000) # 1)';
$server->sql($flip);
unlink $file;
like($server->sql($generate), qr/ERROR:  the stored shards of corpus "c" are damaged/, 'damaged shards are refused');
is(cached(), '', 'and leave no file');
$server->sql($flip);
is($server->sql($generate), $text, 'repaired');

# dump and restore
$server->sql('CREATE DATABASE copy');
my $dump = "$server->{dir}/dump";
$server->command('sh', '-c', "pg_dump -h $server->{dir} -U postgres postgres -f $dump && psql -qX -v ON_ERROR_STOP=1 -h $server->{dir} -U postgres -d copy -f $dump");
is($server->sql($generate, 'copy'), $text, 'a restored database generates the same text');
is($server->sql("SELECT tlaw_record_run('s', train_tokens => 1, test_loss => 1)", 'copy'), $run + 1, 'and goes on counting runs');
$server->sql('DROP DATABASE copy WITH (FORCE)');

# dropping: at commit
$server->sql(['BEGIN', "SELECT tlaw_drop_run($run)", "SELECT tlaw_drop_corpus('c')", 'ROLLBACK']);
is(cached(), $file, 'a drop that is rolled back removes nothing');
$server->sql(['BEGIN', "SELECT tlaw_drop_run($run)", "SELECT tlaw_drop_corpus('c')", 'COMMIT']);
is(cached(), '', 'a drop removes the file');

# two freezes of one name
$server->sql('CREATE VIEW slow AS SELECT body || pg_sleep(0.005) AS body FROM t');
@sessions = map { [$server->background("SELECT tlaw_create_corpus('slow', 'body')")] } 1 .. 2;
waitpid $_->[0], 0 for @sessions;
my $answers = join '', sort map { slurp($_->[1]) } @sessions;
like($answers, qr/(duplicate key|already exists).*^slow$/ms, 'of two freezes of one name one fails');
is($server->sql('SELECT count(*) FROM tlaw_corpora'), 1, 'and one is stored');

# another encoding: documents travel as UTF-8, texts come back as far as the encoding has them
$server->sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
$server->sql(['CREATE EXTENSION tlaw', "CREATE TABLE t AS SELECT repeat('caf' || chr(233) || ' ' || i || ' ', 5) AS body FROM generate_series(1, 400) i",
    "SELECT tlaw_create_corpus('t', 'body', 'c')"], 'latin');
is($server->sql("SELECT bytes - sum(length(body)) FROM tlaw_corpora, t GROUP BY bytes", 'latin'), 2000, 'LATIN1 text is frozen as UTF-8');
$run = $server->sql('SELECT tlaw_train(' . $server->tiny(50) . ')', 'latin');
$server->sql("CALL tlaw_wait($run)", 'latin');
is($server->sql("SELECT length(tlaw_generate($run, 'caf' || chr(233), 200, temperature => 20)) > 50", 'latin'), 't', 'and text comes back');
like($server->sql("SELECT tlaw_generate($run, 'caf' || chr(233), 200, temperature => 20)", 'latin'), qr/\?/, 'with ? for what LATIN1 lacks');
done_testing();
