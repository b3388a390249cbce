#!/bin/bash
# pg_regress over sql/ and expected/ as TAP; the differences go to standard error.  A test that prints a line "SKIP: why" is skipped.
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
    if [[ $line =~ ^test[[:space:]]+([a-z_0-9]+)[[:space:]]+\.\.\.[[:space:]]+(ok|FAILED) ]]; then # PostgreSQL 15
        name=${BASH_REMATCH[1]} result=${BASH_REMATCH[2]/FAILED/not ok}
    elif [[ $line =~ ^((not )?ok)[[:space:]]+[0-9]+[[:space:]]+-[[:space:]]+([a-z_0-9]+) ]]; then # 16 and later
        name=${BASH_REMATCH[3]} result=${BASH_REMATCH[1]}
    else
        continue
    fi
    n=$((n + 1))
    skip=$(sed -n 's/^SKIP: /# SKIP /p' "$log/results/$name.out")
    echo "$result $n - sql/$name $skip"
done <"$log/out"
echo "1..$n"
[ "$n" -gt 0 ] || cat "$log/out" >&2
[ ! -s "$log/regression.diffs" ] || cat "$log/regression.diffs" >&2
[ "$n" = "$(wc -w <<<"$tests")" ]
