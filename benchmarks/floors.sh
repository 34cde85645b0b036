#!/usr/bin/env bash
# The table under results/floors: bash benchmarks/floors.sh [PROCESSES]. It can be interrupted and continued. About 20 minutes of a core.
# Networks that are polynomial end to end, on labels whose floor is known: does training stop where theory says, and no lower?
set -euo pipefail
cd "$(dirname "$0")/.."
processes=${1:-2}
results=${RESULTS:-results/floors-runs}
export OMP_NUM_THREADS=1

sweep() {
    for shard in $(seq "$processes"); do
        ${PYTHON:-python3} -m expbench run --task polyreg --device cpu --norm none --D 8 --seeds 0:10 --results "$results" \
            --shard "$shard/$processes" "$@" 2>&1 | tail -n 1 &
    done
    wait
}

sweep -t family=product --L 4,8,10,16 --models linattn,polyattn,s6-poly,ssm
sweep -t family=product --L 4 --models linattn --depth 2
# degree and interaction order are different claims: both have degree 3, and only one joins no more than x4 with another
sweep -t family=given -t formula='x1*x2*x3' --L 4 --models linattn
sweep -t family=given -t formula='x1^2*x4' --L 4 --models linattn --lr 0.03
# parity of fair signs: one layer joins pairs alone, two layers five positions
sweep -t family=product -t inputs=signs -t eps=0.5 --L 4 --models linattn --depth 1,2 --lr 0.03

${PYTHON:-python3} benchmarks/floors.py "$results"
