#!/usr/bin/env bash
# Creates results/floors: bash benchmarks/floors.sh [PROCESSES]. The same command resumes. Takes about 20 minutes on a core.
# Networks that are polynomial end to end, on labels with a known floor: does training reach the floor, and not go below it?
. "$(dirname "$0")/sweep.sh"
results=${RESULTS:-results/floors-runs}
common=(--task polyreg --norm none --D 8 --seeds 0:10)

sweep "${common[@]}" -t family=product --L 4,8,10,16 --models linattn,polyattn,s6-poly,ssm -m s6-poly:start=literal
sweep "${common[@]}" -t family=product --L 4 --models linattn --depth 2
# Degree and interaction order are different claims: both have degree 3, but only the second joins just one position with x4.
sweep "${common[@]}" -t family=given -t formula='x1*x2*x3' --L 4 --models linattn
sweep "${common[@]}" -t family=given -t formula='x1^2*x4' --L 4 --models linattn --lr 0.03
# parity of fair signs: one layer joins only pairs, two layers join five positions
sweep "${common[@]}" -t family=product -t inputs=signs -t eps=0.5 --L 4 --models linattn --depth 1,2 --lr 0.03

"$python" benchmarks/floors.py "$results"
