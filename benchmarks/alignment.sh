#!/usr/bin/env bash
# The table under results/alignment: bash benchmarks/alignment.sh [PROCESSES]. It can be interrupted and continued. About half an hour
# of a core. Claim C3: is S6's advantage over attention one of degree? Long products against short ones and a control of pairs.
set -euo pipefail
cd "$(dirname "$0")/.."
processes=${1:-2}
results=${RESULTS:-results/alignment-runs}
export OMP_NUM_THREADS=1

sweep() {
    for shard in $(seq "$processes"); do
        "${PYTHON:-python3}" -m expbench run --task polyreg --device cpu --models s6,attn,linattn --L 16 --norm layer --seeds 0:10 \
            --results "$results" --shard "$shard/$processes" "$@" 2>&1 | tail -n 1 &
    done
    wait
}

sweep -t family=suffix
sweep -t family=pairwise
sweep -t family=distant --degree 2,4
sweep -t family=sparse --degree 2,4,8
sweep -t family=product -t inputs=signs

"${PYTHON:-python3}" benchmarks/alignment.py "$results"
