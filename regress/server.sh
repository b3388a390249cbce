#!/bin/bash
# Runs a command against a private, throw-away PostgreSQL that has this build of tlaw, and leaves nothing behind.
#
#   regress/server.sh [-o name=value]... [--keep] command [argument]...
#
# PostgreSQL is the one of PG_CONFIG (else of pg_config in the PATH), and is not changed: tlaw is installed into a folder of its
# own, beside a copy of the program `postgres` and links to its files, which it finds relative to where it lies.
#
# The command finds the server through PGHOST, PGPORT, PGUSER (a superuser) and PGDATABASE, and that folder in TLAW_STAGE, so that
# it can start servers of its own (pg_ctl -p "$TLAW_STAGE$(pg_config --bindir)/postgres"); pg_config, psql, ... are that PostgreSQL's.
# --keep: the server stays after the command has ended; how to reach and remove it is printed.
# PostgreSQL refuses to run as root: root hands it to the user postgres.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
export PG_CONFIG=${PG_CONFIG:-pg_config}
bin=$("$PG_CONFIG" --bindir)
export PATH=$bin:$PATH
options=() keep=
while :; do
    case "${1-}" in
        -o) options+=("$2"); shift 2 ;;
        --keep) keep=1; shift ;;
        *) break ;;
    esac
done

work=$(mktemp -d /tmp/tlaw.XXXXXX)
chmod 755 "$work"
as_owner() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- env -C / "$@"; else "$@"; fi; }
clean_up() {
    as_owner "$bin/pg_ctl" -D "$work/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

for folder in "$("$PG_CONFIG" --sharedir)" "$("$PG_CONFIG" --pkglibdir)"; do
    mkdir -p "$work/stage$folder"
    cp -rs "$folder/." "$work/stage$folder"
done
find "$work/stage" -name 'tlaw*' -delete # of another tlaw that is installed there
install -D "$bin/postgres" "$work/stage$bin/postgres"
make -s -C "$top" install DESTDIR="$work/stage" >"$work/install.log" 2>&1 || { cat "$work/install.log" >&2; exit 1; }
mkdir "$work/data" "$work/run"
[ "$(id -u)" != 0 ] || chown postgres "$work/data" "$work/run"
as_owner "$bin/initdb" -D "$work/data" -U postgres -A trust --locale=C.UTF-8 --encoding=UTF8 -N >"$work/initdb.log" 2>&1 ||
    { cat "$work/initdb.log" >&2; exit 1; }
{
    echo "listen_addresses = ''"
    echo "unix_socket_directories = '$work/run'"
    echo "max_worker_processes = 16"
    for option in "${options[@]}"; do echo "${option%%=*} = '${option#*=}'"; done
} >>"$work/data/postgresql.conf"
as_owner "$bin/pg_ctl" -p "$work/stage$bin/postgres" -D "$work/data" -l "$work/run/log" -w start >/dev/null || { cat "$work/run/log" >&2; exit 1; }

export PGHOST="$work/run" PGPORT=5432 PGUSER=postgres PGDATABASE=postgres TLAW_STAGE="$work/stage" TLAW_LOG="$work/run/log"
status=0
"$@" || status=$?
if [ -n "$keep" ] && [ $status = 0 ]; then
    trap - EXIT
    echo "The server stays.  Explore it:    psql -h $work/run -U postgres"
    if [ "$(id -u)" = 0 ]; then stop="runuser -u postgres -- $bin/pg_ctl"; else stop="$bin/pg_ctl"; fi
    echo "Stop and remove it:               $stop -D $work/data -m fast stop; rm -rf $work"
fi
exit $status
