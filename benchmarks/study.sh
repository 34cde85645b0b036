#!/usr/bin/env bash
# A study of the paper, by several processes that divide the work: bash benchmarks/study.sh PRESET [PROCESSES [MINUTES]]. It stops after
# so many minutes, and the same command goes on from there. What it leaves in results/PRESET is one table, its claims and its report.
# With GPUS=0,1 the processes are dealt to these GPUs in turn. A study of a text has it in OPTIONS='--data wikitext-2'.
# Where NVIDIA's multi-process service runs (nvidia-cuda-mps-control -d), small kernels of several processes run side by side.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1 processes=${2:-1} minutes=${3:-100000}
python=${PYTHON:-python3}
results=${RESULTS:-results/$preset}
export OMP_NUM_THREADS=1
read -ra options <<<"${OPTIONS:-}"
IFS=, read -ra gpus <<<"${GPUS:-${CUDA_VISIBLE_DEVICES:-0}}"

for i in $(seq "$processes"); do
    CUDA_VISIBLE_DEVICES=${gpus[$((i % ${#gpus[@]}))]} \
        "$python" -m expbench reproduce "$preset" "${options[@]}" --results "$results" --no-report --time-limit "$minutes" \
        >"/tmp/study-$preset-$i.log" 2>&1 &
done
wait
tail -qn 3 /tmp/study-"$preset"-*.log
"$python" -m expbench compact --results "$results" --no-curves
"$python" -m expbench report --results "$results"
