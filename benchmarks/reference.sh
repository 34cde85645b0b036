#!/usr/bin/env bash
# The table and the figure under results/reference: bash benchmarks/reference.sh [PROCESSES]. It can be interrupted and continued.
# About an hour of one core in all. Each process takes its share of every sweep (--shard).
set -euo pipefail
cd "$(dirname "$0")/.."
processes=${1:-2}
results=${RESULTS:-results/reference-runs}
export OMP_NUM_THREADS=1

sweep() {
    for shard in $(seq "$processes"); do
        python3 -m expbench run --device cpu --seeds 0:5 --results "$results" --shard "$shard/$processes" "$@" 2>&1 | tail -n 1 &
    done
    wait
}

# one layer, the product of all inputs on [0, 1]: the floor of one layer of linear attention is known in closed form
product=(--task polyreg -t family=product --L 2,3,4,6,8 --D 8 --norm none)
sweep "${product[@]}" --models s6,s6-poly,linattn,attn
sweep "${product[@]}" --models linattn --depth 2
# the continuous count in row, paired seeds
sweep --task polyreg --L 16 --models s6,attn,linattn
# count in row at the parameters of the paper's Table 2, with LayerNorm on two channels and without
count=(--task count-in-row --L 20 --D 2 -t supervise=last -t head=scalar --norm layer,none --lr 0.03 --steps 4000 --batch-size 128)
sweep "${count[@]}" --models s6
sweep "${count[@]}" --models attn --depth 1,2

python3 benchmarks/reference.py "$results"
