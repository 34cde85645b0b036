#!/usr/bin/env bash
# The table and the figure under results/reference: bash benchmarks/reference.sh [PROCESSES]. It can be interrupted and continued.
# About an hour of one core in all.
. "$(dirname "$0")/sweep.sh"
results=${RESULTS:-results/reference-runs}
common=(--seeds 0:5)

# one layer, the product of all inputs on [0, 1]: the floor of one layer of linear attention is known in closed form
product=(--task polyreg -t family=product --L 2,3,4,6,8 --D 8 --norm none)
sweep "${common[@]}" "${product[@]}" --models s6,s6-poly,linattn,attn
sweep "${common[@]}" "${product[@]}" --models linattn --depth 2
# the continuous count in row, paired seeds
sweep "${common[@]}" --task polyreg --L 16 --models s6,attn,linattn
# count in row at the parameters of the paper's Table 2, with LayerNorm on two channels and without
count=(--task count-in-row --L 20 --D 2 -t supervise=last -t head=scalar --norm layer,none --lr 0.03 --steps 4000 --batch-size 128)
sweep "${common[@]}" "${count[@]}" --models s6
sweep "${common[@]}" "${count[@]}" --models attn --depth 1,2

"$python" benchmarks/reference.py "$results"
