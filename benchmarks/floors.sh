#!/usr/bin/env bash
# The table under results/floors: bash benchmarks/floors.sh [PROCESSES]. It can be interrupted and continued. About 20 minutes of a core.
# Networks that are polynomial end to end, on labels whose floor is known: does training stop where theory says, and no lower?
. "$(dirname "$0")/sweep.sh"
results=${RESULTS:-results/floors-runs}
common=(--task polyreg --norm none --D 8 --seeds 0:10)

sweep "${common[@]}" -t family=product --L 4,8,10,16 --models linattn,polyattn,s6-poly,ssm
sweep "${common[@]}" -t family=product --L 4 --models linattn --depth 2
# degree and interaction order are different claims: both have degree 3, and only one joins no more than x4 with another
sweep "${common[@]}" -t family=given -t formula='x1*x2*x3' --L 4 --models linattn
sweep "${common[@]}" -t family=given -t formula='x1^2*x4' --L 4 --models linattn --lr 0.03
# parity of fair signs: one layer joins pairs alone, two layers five positions
sweep "${common[@]}" -t family=product -t inputs=signs -t eps=0.5 --L 4 --models linattn --depth 1,2 --lr 0.03

"$python" benchmarks/floors.py "$results"
