#!/usr/bin/env bash
# Creates results/starts: bash benchmarks/starts.sh. The same command resumes. Takes about a quarter of an hour on a core.
# Four layers of the polynomial S6 without normalisation: do they train from the scaled start, at the rate that tuning chooses?
. "$(dirname "$0")/sweep.sh"
results=${RESULTS:-results/starts-runs}

suffix=(--task polyreg --L 8 --degree 8 --D 8 --depth 4 --norm none -t family=suffix -t inputs=signs)
"$python" -m expbench run --device "${DEVICE:-cpu}" --results "$results" "${suffix[@]}" --models s6-poly -m start=scaled --lr auto --seeds 0:20

"$python" benchmarks/starts.py "$results"
