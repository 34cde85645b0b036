#!/usr/bin/env bash
# Runs a study of the paper in several processes that share the work: bash benchmarks/study.sh PRESET [PROCESSES [MINUTES]]. It stops
# after this many minutes; the same command resumes. It writes a table, claims and a report to results/PRESET. GPUS=0,1 assigns the
# processes to these GPUs in turn. A language modelling study needs a text: OPTIONS='--data wikitext-2'. With NVIDIA's
# multi-process service (nvidia-cuda-mps-control -d), small kernels of several processes run concurrently.
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
