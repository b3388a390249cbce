#!/bin/bash
# pg_regress over sql/ and expected/ as TAP; the differences go to standard error.
set -u
cd "$(dirname "$0")/.."
log=$(mktemp -d /tmp/tlaw_regress.XXXXXX)
trap 'rm -rf "$log"' EXIT
tests=$(cd sql && ls ./*.sql | sed 's#^\./##; s#\.sql$##')
# shellcheck disable=SC2086 -- one word a test
"$(dirname "$(${PG_CONFIG:-pg_config} --pgxs)")/../test/regress/pg_regress" --inputdir=. --outputdir="$log" \
    --bindir="$(${PG_CONFIG:-pg_config} --bindir)" --dbname=tlaw_regression $tests >"$log/out" 2>&1
n=0
while read -r line; do
    [[ $line =~ ^(test[[:space:]]+)?([a-z_0-9]+)[[:space:]]+\.\.\.[[:space:]]+(ok|FAILED) ]] || continue
    n=$((n + 1))
    if [ "${BASH_REMATCH[3]}" = ok ]; then echo "ok $n - sql/${BASH_REMATCH[2]}"; else echo "not ok $n - sql/${BASH_REMATCH[2]}"; fi
done <"$log/out"
echo "1..$n"
[ "$n" -gt 0 ] || cat "$log/out" >&2
[ ! -s "$log/regression.diffs" ] || cat "$log/regression.diffs" >&2
[ "$n" = "$(wc -w <<<"$tests")" ]
