#!/bin/bash
# Fills FOLDER with all that regress/gpu/test.sh and bench.py need on a machine that may have neither compiler nor
# PostgreSQL nor network; `make gpu-build` calls it.
#
#   pack.sh FOLDER PROGRAMS LIBRARY [POSTGRES]
#
# PROGRAMS: a folder of programs; LIBRARY: tlaw_cuda.so; POSTGRES: an archive of a relocatable PostgreSQL 15 (see sql.sh).
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
folder=$1 programs=$2 library=$3 postgres=${4-}
rm -rf "$folder"
mkdir -p "$folder/regress" "$folder/kernels/engine"
for program in "$programs"/*; do
    [[ $program == *.d ]] || { cp "$program" "$folder" && strip "$folder/${program##*/}"; }
done
cp "$library" "$folder/tlaw_cuda.so"
strip --strip-unneeded "$folder/tlaw_cuda.so"
cp "$top"/kernels/engine/{wire,spec}.h "$folder/kernels/engine"
for part in gpu/{test.sh,sql.sh,study.sql,check_engine.py,bench.py,libraries.py} engine/{engine_driver,test_engine,test_many_runs}.py bench/torch_step.py; do
    install -D "$top/regress/$part" "$folder/regress/$part"
done
# the installation, whose engine and library are those above
if "${PG_CONFIG:-pg_config}" --pkglibdir >/dev/null 2>&1; then
    make -s -C "$top" install DESTDIR="$(cd "$folder" && pwd)/stage" >/dev/null
    rm -f "$folder/stage$("${PG_CONFIG:-pg_config}" --pkglibdir)"/tlaw_{engine,cuda.so}
fi
if [ -n "$postgres" ]; then cp "$postgres" "$folder/postgres.tar.${postgres##*.}"; fi
echo "$folder: $(du -sm "$folder" | cut -f 1) MB"
