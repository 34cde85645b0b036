#!/usr/bin/env bash
# Creates results/taylor: bash benchmarks/taylor.sh [PROCESSES], best with DEVICE=cuda. The same command resumes. Claim C1: does S6
# perform equally well with Taylor polynomials for softplus and exp, and with which degree and expansion point?
. "$(dirname "$0")/sweep.sh"
results=${RESULTS:-results/taylor-runs}
common=(--norm layer,none --seeds 0:10)
polynomial=(--models s6-poly,s6-poly-disc -m taylor=1,2,3,4,6 -m center=zero,bias -m start=literal)
exact=(--models s6,s6-bbar-b)

count=(--task count-in-row --L 20 --D 2 -t supervise=last -t head=classes --lr 0.03 --batch-size 128)
sweep "${common[@]}" "${count[@]}" "${polynomial[@]}"
sweep "${common[@]}" "${count[@]}" "${exact[@]}"
suffix=(--task polyreg --L 16 --D 4 -t family=suffix --lr 0.01 --batch-size 64)
sweep "${common[@]}" "${suffix[@]}" "${polynomial[@]}"
sweep "${common[@]}" "${suffix[@]}" "${exact[@]}"

"$python" benchmarks/taylor.py "$results"
