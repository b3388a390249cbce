#!/bin/bash
# Checks the CUDA backend on this machine's first GPU, in stages; each has a time limit, goes on after a failure and ends
# in one line; the table of these lines comes last.
#
#   test.sh FOLDER [-t SECONDS] [-o LOGS] [STAGE]...     FOLDER: what `make gpu-build` filled (build/gpu)
#
# Nothing is compiled: FOLDER can be carried to a machine without compiler, PostgreSQL or network.  cuBLASLt is taken from
# LD_LIBRARY_PATH, the system, /usr/local/cuda*, or the Python packages of PyTorch.  -t: seconds for all stages together;
# what would begin after that is left out.  Where FOLDER has the backend that was compiled for the host (`make
# gpu-test-host`), stages that need a real device are left out.
#
# With a borrowed GPU and half an hour, what tells most comes first (measurements between the checks, since wrong numbers need
# no speed, and sanitizers last, since they are slow):
#   1. test.sh build/gpu -t 420 devices fragments operations runs engine
#   2. bench.py build/gpu -t 480 rate 124M 10M 1M profile
#   3. test.sh build/gpu -t 300 neighbours memcheck sql
#   4. bench.py build/gpu -t 240 study10M study1M neighbours
#   5. test.sh build/gpu -t 300 racecheck synccheck initcheck
# Each fits a call of ten minutes and prints what it has when time is up; -o LOGS keeps the whole output.
set -u
budget=3600 logs=
folder=$(cd "${1:?FOLDER}" && pwd) || exit 2
shift
while getopts t:o: option; do
    case $option in
        t) budget=$OPTARG ;;
        o) logs=$OPTARG ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
stages=${*:-devices fragments operations neighbours runs engine memcheck racecheck synccheck initcheck sql}
[ -n "$logs" ] || { logs=$(mktemp -d /tmp/tlaw_gpu.XXXXXX) && trap 'rm -rf "$logs"' EXIT; }
mkdir -p "$logs"
export TLAW_ENGINE=$folder/tlaw_engine PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
regress=$folder/regress
summary=() failed=0

! libraries=$(python3 "$regress/gpu/libraries.py") || export LD_LIBRARY_PATH="$libraries"

note() { summary+=("$(printf '%-11s %s' "$1" "$2")"); echo "== $1: $2"; }

# run NAME SECONDS COMMAND...: a stage, its output in the log; TAP's checks are counted
run() {
    local name=$1 limit=$2 left=$((budget - SECONDS)) start=$SECONDS status passed wrong
    shift 2
    [ "$left" -gt 5 ] || { note "$name" "left out: no time"; return; }
    [ "$left" -ge "$limit" ] || limit=$left
    timeout -k 5 "$limit" "$@" >"$logs/$name" 2>&1
    status=$?
    passed=$(grep -c '^ok' "$logs/$name") wrong=$(grep -c '^not ok' "$logs/$name")
    if [ $status = 0 ] && [ "$wrong" = 0 ]; then
        note "$name" "passed, $passed checks, $((SECONDS - start)) s"
    else
        failed=1
        [ $status != 124 ] || status="ran out of its $limit s"
        note "$name" "FAILED ($status): $wrong of $((passed + wrong)) checks, $((SECONDS - start)) s"
        grep -A 3 '^not ok' "$logs/$name" | head -40
        tail -n 15 "$logs/$name"
    fi
}

on_device() { # the stage needs a real one
    [ -z "$host" ] || { note "$1" "left out: the device is this machine's processor"; return 1; }
}

# sanitize TOOL OPTION...: over fewer calls of each operation; "ours": over this backend's kernels only, not cuBLASLt's
sanitize() {
    local name=$1 sanitizer options=()
    shift
    on_device "$name" || return
    sanitizer=$(command -v compute-sanitizer || find /usr/local/cuda*/ /opt/nvidia -name compute-sanitizer -type f -perm -u+x 2>/dev/null | head -n 1)
    [ -n "$sanitizer" ] || { note "$name" "left out: no compute-sanitizer here"; return; }
    if [ "${1-}" = ours ]; then
        options=(--kernel-name kns=_kernel)
        "$sanitizer" --help | grep -q -- --kernel-name || options=(--kernel-regex kns=_kernel) # before 2025
        shift
    fi
    run "$name" 150 "$sanitizer" --error-exitcode 1 --tool "$name" "${options[@]}" "$@" "$folder/test_cuda" few
    grep -h 'ERROR SUMMARY\|RACECHECK SUMMARY' "$logs/$name" | tail -n 1
}

nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used,compute_cap --format=csv,noheader 2>/dev/null
"$folder/check_run" devices >"$logs/devices" 2>&1
cat "$logs/devices"
host=$(grep -o '^cuda:0 host ' "$logs/devices")
grep -q '^cuda:0 .*usable$' "$logs/devices" || { echo "skipped: no GPU can be used here"; exit 0; }

for stage in $stages; do
    case $stage in
        devices) note devices "$(head -n 1 "$logs/devices")" ;;
        fragments) on_device fragments && run fragments 60 "$folder/test_fragment" ;;
        operations) run operations 240 "$folder/test_cuda" ;;
        neighbours) run neighbours 120 "$folder/test_cuda_knn" ;;
        runs) on_device runs && { run runs 180 "$folder/check_run" && grep '^#\|^ok' "$logs/runs"; } ;;
        engine) run engine 180 python3 "$regress/gpu/check_engine.py" ${host:+host} && grep '^#' "$logs/engine" ;;
        memcheck) sanitize memcheck ours --leak-check full ;; # it reports copies in cuBLAS's kernels that are none
        racecheck | synccheck) sanitize "$stage" ours ;;
        initcheck) sanitize initcheck ;;
        sql) run sql 240 "$regress/gpu/sql.sh" "$folder" ${host:+host} && grep '^#' "$logs/sql" ;;
        *) echo "no such stage: $stage"; exit 2 ;;
    esac
done
echo
printf '%s\n' "${summary[@]}"
exit $failed
