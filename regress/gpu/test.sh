#!/bin/bash
# usage: regress/gpu/test.sh [FOLDER]    (default build/gpu, filled by `make gpu-build`; no compiler is needed then)
# Checks the CUDA backend on this machine's first GPU: every operation against the reference, whole runs against the
# CPU, bits, memory; then the operations again under compute-sanitizer, where there is one.  Skipped without a GPU.
set -u
folder=${1-build/gpu}
failed=0
check() {
    local name=$1
    shift
    echo "# $name"
    if "$@"; then echo "# $name: passed"; else echo "# $name: FAILED"; failed=1; fi
}

nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader 2>/dev/null ||
    { echo "skipped: this machine shows no NVIDIA GPU"; exit 0; }
check operations "$folder/test_cuda"
check runs "$folder/check_run"
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if [ -n "$sanitizer" ]; then
    for tool in "memcheck --leak-check full" racecheck synccheck; do
        # shellcheck disable=SC2086 # the tool and its options
        check "compute-sanitizer $tool" "$sanitizer" --error-exitcode 1 --tool $tool "$folder/test_cuda"
    done
else
    echo "skipped: no compute-sanitizer here"
fi
exit $failed
