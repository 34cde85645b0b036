# What the scripts that train runs share: `. benchmarks/sweep.sh`, with the number of processes as the script's first argument.
# Each process takes its share of every sweep (--shard), on one thread. RESULTS chooses another folder for the runs, DEVICE=cuda a
# GPU, which the processes share.
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
