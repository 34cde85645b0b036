#!/usr/bin/env bash
# Creates results/reference: bash benchmarks/reference.sh [PROCESSES]. The same command resumes. Takes about an hour on a core.
. "$(dirname "$0")/sweep.sh"
results=${RESULTS:-results/reference-runs}
common=(--seeds 0:5)

# one layer, the product of all inputs on [0, 1]: the floor of one layer of linear attention is known in closed form
product=(--task polyreg -t family=product --L 2,3,4,6,8 --D 8 --norm none)
sweep "${common[@]}" "${product[@]}" --models s6,s6-poly,linattn,attn -m s6-poly:start=literal
sweep "${common[@]}" "${product[@]}" --models linattn --depth 2
# continuous count in row, paired seeds
sweep "${common[@]}" --task polyreg --L 16 --models s6,attn,linattn
# count in row at the parameter counts of the paper's Table 2, with two channels, with and without LayerNorm
count=(--task count-in-row --L 20 --D 2 -t supervise=last -t head=scalar --norm layer,none --lr 0.03 --steps 4000 --batch-size 128)
sweep "${common[@]}" "${count[@]}" --models s6
sweep "${common[@]}" "${count[@]}" --models attn --depth 1,2

"$python" benchmarks/reference.py "$results"
