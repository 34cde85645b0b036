#!/usr/bin/env bash
# Creates results/alignment: bash benchmarks/alignment.sh [PROCESSES]. The same command resumes. Takes about half an hour on a core.
# Claim C3: is the advantage of S6 over attention one of degree? Compares long products with short ones and a control of pairs.
. "$(dirname "$0")/sweep.sh"
results=${RESULTS:-results/alignment-runs}
common=(--task polyreg --models s6,attn,linattn --L 16 --norm layer --seeds 0:10)

sweep "${common[@]}" -t family=suffix
sweep "${common[@]}" -t family=pairwise
sweep "${common[@]}" -t family=distant --degree 2,4
sweep "${common[@]}" -t family=sparse --degree 2,4,8
sweep "${common[@]}" -t family=product -t inputs=signs

"$python" benchmarks/alignment.py "$results"
