#!/usr/bin/env bash
# Creates results/witnesses: bash benchmarks/witnesses.sh. The same command resumes. Takes a few minutes on a core.
# Networks whose weights are kept, as proofs that their class can represent a label (rates not tuned).
. "$(dirname "$0")/sweep.sh"
processes=1
results=${RESULTS:-results/witnesses-runs}
common=(--task polyreg --D 8 --norm none --seeds 0:1 --stack 1 --save-weights)
learned=("${common[@]}" --models linattn --positions learned --lr 0.03)

sweep "${learned[@]}" --L 16,32 -t family=sparse --degree 1 --depth 1
sweep "${learned[@]}" --L 16 -t family=sparse --degree 2 --depth 2
sweep "${learned[@]}" --L 16 -t family=sparse --degree 4 --depth 3
sweep "${learned[@]}" --L 32 -t inputs=signs --degree 2 --depth 1
sweep "${common[@]}" --models s6 --positions none --lr 0.03 --L 8 --degree 8
sweep "${common[@]}" --models s6-poly --positions none --lr 0.01 --L 8 -t inputs=signs --degree 8

"$python" -m expbench compact --no-curves --results "$results"
rm -rf results/witnesses
mkdir results/witnesses
cp -r "$results/table.parquet" "$results/weights" results/witnesses
"$python" -m expbench theory witnesses --results results/witnesses
