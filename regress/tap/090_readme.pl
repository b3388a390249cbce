# The tour of README.md as it is printed, pasted into psql: every statement succeeds, every file is made.  Only sizes are smaller.
use strict;
use warnings;
use Cwd qw(getcwd);
use File::Temp qw(tempdir);
use Test::More;
use TlawServer;

my ($tour) = slurp('README.md') =~ /^## The tour\n(.*?)^## /ms;
my $script = join "\n", map { s/^    //r } grep { /^    / } split /\n/, $tour;

# What makes the tour's runs small, in order; each must be there.
my $settings = 'n_layer => 1, context_length => 32, batch_size => 4, steps => 40, eval_tokens => 500';
my @smaller = (
    [ qr/tlaw_train\('stories'\)/,                       "tlaw_train('stories', $settings, d_model => 16)" ],
    [ qr/tlaw_train\('stories', study => 's',/,          "tlaw_train('stories', study => 's', $settings, d_model => 16," ],
    [ qr/tlaw_log_series\(1e5, 1e7, 8\)/,                'tlaw_log_series(1e3, 3e4, 4)' ],
    [ qr/batch_size => 8, steps => round\(t \/ \(8 \* 128\)\)/, 'n_layer => 1, context_length => 32, batch_size => 4, eval_tokens => 500, steps => round(t / (4 * 32))' ],
    [ qr/tlaw_log_series\(3e5, 5e6, 4\)/,                'tlaw_log_series(3e3, 2e4, 4)' ],
);
like($script, $_->[0], "the tour has $_->[0]") for @smaller;
for my $change (@smaller) {
    $script =~ s/$change->[0]/$change->[1]/g;
}

my $server = TlawServer->new('tlaw.threads = 2', 'tlaw.cpu_isa = portable');
$server->sql([
    'CREATE EXTENSION tlaw',
    q{CREATE TABLE stories AS SELECT string_agg((ARRAY['cat','dog','sat','ran','the','a','mat'])[1 + (i * j * j) % 7], ' ') || i AS body
        FROM generate_series(1, 600) i, generate_series(1, 30) j GROUP BY i},
    'CREATE TABLE other_table AS SELECT upper(body) AS body FROM stories LIMIT 50',
    'CREATE TABLE items AS SELECT i AS id, ARRAY[sin(i), cos(i * i), sin(i * 1.7)]::real[] AS embedding FROM generate_series(1, 300) i' ]);

my ($top, $folder) = (getcwd, tempdir('/tmp/tlaw_tour.XXXXXX', CLEANUP => 1));
chdir $folder or die $!;
open my $psql, '|-', join(' ', map { quotemeta } $server->psql) . ' >out 2>err' or die $!;
print $psql $script;
close $psql;
is($?, 0, 'the tour ends without an error') or diag(slurp('err'));
unlike(slurp('err'), qr/extra argument|invalid variable/, 'psql takes its lines as they are meant');
like(slurp($_), qr/^<svg .*<\/svg>\s*$/s, "$_ is a plot") for qw(s.svg nd.svg layers.svg positions.svg);

# ---- the weights, as transformers wants them ----
my $run = $server->sql('SELECT min(run_id) FROM tlaw_runs');
is(unpack('H*', slurp('model.safetensors')), $server->sql("SELECT encode(tlaw_export($run), 'hex')"), 'model.safetensors is the export');
like(slurp('config.json'), qr/"vocab_size" : 257, "n_positions" : 32, "n_embd" : 16, "n_layer" : 1, "n_head" : 1\b/, 'config.json is its shape');
chdir $top;

# ---- what the table of functions names is there ----
my ($functions) = slurp('README.md') =~ /^## Functions\n(.*?)^## /ms;
my %known = map { split /=/, $_, 2 } split /\n/, $server->sql(q{
    SELECT proname || '=' || string_agg(DISTINCT a, ' ') FROM pg_proc, unnest(proargnames) a WHERE proname LIKE 'tlaw%' GROUP BY proname
    UNION ALL SELECT proname || '=' FROM pg_proc WHERE proname LIKE 'tlaw%' AND proargnames IS NULL
    UNION ALL SELECT relname || '=' FROM pg_class WHERE relname LIKE 'tlaw%' AND relkind = 'v'});
my (@unknown, $named);
while ($functions =~ /`(?:CALL )?(tlaw_\w+)(?:\(([^`]*)\))?(?= |`)/g) {
    my ($name, $arguments) = ($1, $2 // '');
    $named++;
    push @unknown, $name unless exists $known{$name};
    push @unknown, map { "$name($_)" } grep { ($known{$name} // '') !~ /\b$_\b/ } $arguments =~ /[a-z]\w+/g unless $arguments =~ / or /;
}
cmp_ok($named, '>', 40, 'the table names functions and views');
is("@unknown", '', 'all of them, and their arguments, are there');
done_testing;
