#!/bin/bash
# The house rules that a command can check; the files to check as arguments.
set -u
cd "$(dirname "$0")/.."
status=0
complain() { echo "lint: $*" >&2; status=1; }

clang-format --dry-run -Werror "$@" 2>/dev/null || complain "make format changes something"
for f in "$@" regress/*.* regress/*/*.*; do
    [ -f "$f" ] || continue
    lines=$(wc -l <"$f")
    case $f in *.c | *.h | *.cu | *.cpp | *.sh | *.pl | *.py) [ "$lines" -le 900 ] || complain "$f has $lines lines, 900 are allowed" ;; esac
done
grep -nE '#include *[<"](postgres|fmgr|miscadmin|utils/|executor/|storage/)' -r kernels && complain "kernels/ must not know PostgreSQL"
grep -nE '#include *[<"](cuda|cublas|cblas|omp\.h|pthread\.h)' -r extension && complain "extension/ must not know threads, BLAS or CUDA"
grep -nE '#include *"\.\./kernels/' -r extension | grep -vE 'kernels/(engine/wire|engine/spec|engine/machine|stats/[a-z_]+)\.h' && complain "extension/ may include the wire, machine.h and stats only"
grep -nE 'Ofast|ffast-math' Makefile ./*/*.mk && complain "fast-math at link flushes denormals for the whole process"
if command -v cppcheck >/dev/null; then
    cppcheck --quiet --inline-suppr --enable=warning,portability --error-exitcode=1 --suppress=missingIncludeSystem \
        --suppress=unknownMacro $(printf '%s\n' "$@" | grep -E '^kernels/.*\.c$') || complain "cppcheck"
fi
exit $status
