#!/bin/bash
# The main job on real text: regress/demo.sh [--keep] [FILE]
# FILE: plain text, a document a paragraph block (blank lines part them); by default the PostgreSQL manual.
set -euo pipefail
cd "$(dirname "$0")/.."
keep=
[ "${1-}" != --keep ] || { keep=--keep; shift; }
start=$SECONDS
text=$(mktemp -d /tmp/tlaw_text.XXXXXX)
trap 'rm -rf "$text"' EXIT

if [ -n "${1-}" ]; then
    [ -r "$1" ] || { echo "TEXT=$1 cannot be read" >&2; exit 1; }
    perl -00 -ne 's/\s+$//; next unless length; s/\\/\\\\/g; s/\t/\\t/g; s/\r//g; s/\n/\\n/g; print int($./20), "\t$_\n"' "$1" >"$text/copy"
    [ "$(wc -l <"$text/copy")" -ge 100 ] && [ "$(wc -c <"$text/copy")" -ge 100000 ] ||
        { echo "TEXT=$1 has too little text: 100 paragraphs with blank lines between them and 100,000 bytes are needed" >&2; exit 1; }
else
    manual=$(apt-cache depends postgresql-doc | sed -n 's/.*Depends: *//p')
    pages=/usr/share/doc/$manual/html
    if [ ! -d "$pages" ]; then
        echo "this machine's dpkg leaves documentation out: unpacking the package $manual by itself"
        (cd "$text" && apt-get download -qq "$manual" && dpkg -x "$manual"_*.deb .)
        pages=$text$pages
    fi
    perl regress/manual_text.pl "$pages"/*.html >"$text/copy"
fi
export TLAW_DEMO_TEXT=$text/copy
regress/server.sh $keep -o tlaw.max_workers="$(nproc)" psql -X -q -v ON_ERROR_STOP=1 <regress/demo.sql
echo "The demo took $((SECONDS - start)) s: 21 transformers were trained by background workers on this machine's CPU."
