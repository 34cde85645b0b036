# Shared by the scripts that train runs: `. benchmarks/sweep.sh`. The first argument of a script is the number of processes. Each
# process runs its shard of every sweep (--shard) on one thread. RESULTS sets another folder for the runs, DEVICE=cuda a GPU that
# all processes share.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
processes=${1:-2}
python=${PYTHON:-python3}
export OMP_NUM_THREADS=1

sweep() {
    for shard in $(seq "$processes"); do
        "$python" -m expbench run --device "${DEVICE:-cpu}" --results "$results" --shard "$shard/$processes" "$@" 2>&1 | tail -n 1 &
    done
    wait
}
