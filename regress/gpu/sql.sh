#!/bin/bash
# A study on the GPU through SQL, end to end: a corpus, runs on the GPU and one on the CPU, a fit, a dimension.
#
#   sql.sh FOLDER [host]     host: the device is this machine's processor, so everything is small
#
# FOLDER/stage: tlaw as `make install DESTDIR` leaves it, but for the engine and its library
#
# PostgreSQL is FOLDER/postgres.tar.* (relocatable: env.sh in it sets PATH and LD_LIBRARY_PATH, the rest lies as Debian has
# version 15) or the one of pg_config, where the stage is for that; without either this is skipped.  Everything else goes to a temporary folder.
set -eu
folder=$(cd "$1" && pwd)
if [ "${2-}" = host ]; then size="documents=40 steps=4 batch=2 eval=64"; else size="documents=1500 steps=200 batch=16 eval=2048"; fi
work=$(mktemp -d /tmp/tlaw_sql.XXXXXX)
chmod 755 "$work"
bin=
clean_up() {
    [ ! -d "$work/data" ] || as_owner "$bin/pg_ctl" -D "$work/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT
owner=nobody # PostgreSQL refuses root
as_owner() {
    if [ "$(id -u)" = 0 ]; then setpriv --reuid "$owner" --regid "$(id -g "$owner")" --clear-groups -- "$@"; else "$@"; fi
}

archive=$(ls "$folder"/postgres.tar.* 2>/dev/null || true)
mkdir "$work/root"
if [ -n "$archive" ]; then
    tar -xf "$archive" -C "$work/root"
    . "$work/root/env.sh"
    bin=$work/root/usr/lib/postgresql/15/bin
    library=$work/root/usr/lib/postgresql/15/lib share=$work/root/usr/share/postgresql/15
    cp -r "$folder/stage/usr/." "$work/root/usr/"
    settings=("dynamic_library_path = '$library'")
    server=$bin/postgres
elif command -v pg_config >/dev/null && [ -d "$folder/stage$(pg_config --pkglibdir)" ]; then
    # a copy of the server that finds links to its files, and tlaw beside them, relative to where it lies
    for part in "$(pg_config --sharedir)" "$(pg_config --pkglibdir)"; do
        mkdir -p "$work/root$part"
        cp -rs "$part/." "$work/root$part"
    done
    find "$work/root" -name 'tlaw*' -delete # of another tlaw that is installed there
    cp -r "$folder/stage/." "$work/root/"
    bin=$(pg_config --bindir) library=$work/root$(pg_config --pkglibdir) share=''
    settings=()
    server=$work/root$bin/postgres
    install -D "$bin/postgres" "$server"
else
    echo "ok 1 # SKIP there is no PostgreSQL here that tlaw was packed for"
    exit 0
fi
cp "$folder/tlaw_engine" "$folder/tlaw_cuda.so" "$library"
echo "# $("$server" --version)"

mkdir "$work/data" "$work/run"
[ "$(id -u)" != 0 ] || chown "$owner" "$work/data" "$work/run"
cd "$work/run"
as_owner "$bin/initdb" -D "$work/data" -U postgres -A trust --locale=C --encoding=UTF8 -N ${share:+-L "$share"} >"$work/log" 2>&1 ||
    { cat "$work/log"; exit 1; }
printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$work/run'" 'max_worker_processes = 24' \
    "tlaw.device = 'cuda'" "tlaw.max_workers = 8" "${settings[@]}" >>"$work/data/postgresql.conf"
as_owner "$bin/pg_ctl" -p "$server" -D "$work/data" -l "$work/run/log" -w start >/dev/null || { cat "$work/run/log"; exit 1; }
status=0
# shellcheck disable=SC2046,SC2086 # words
"$bin/psql" -X -q -At -v ON_ERROR_STOP=1 -h "$work/run" -U postgres -d postgres \
    $(printf -- '-v %s ' $size) -f "$folder/regress/gpu/study.sql" || status=$?
[ $status = 0 ] || tail -n 30 "$work/run/log"
exit $status
