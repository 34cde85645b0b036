#!/usr/bin/env bash
# Creates results/bench on a machine with a GPU: bash benchmarks/scan.sh
# Takes about five minutes. All variants in a table are measured in the same run.
#
# mamba-ssm is included if its extension `selective_scan_cuda` can be imported, which needs only torch. With a CUDA toolkit of
# torch's version, build it from the sdist of 2.3.2.post1 and add its folder to PYTHONPATH:
#   MAMBA_FORCE_BUILD=TRUE MAMBA_KEEP_CUDA_BUILD=TRUE python3 -m pip install --no-build-isolation --no-deps \
#       --no-binary mamba-ssm --target mamba mamba-ssm==2.3.2.post1
#   PYTHONPATH=$PWD/mamba bash benchmarks/scan.sh
# (--no-deps: the extension does not need most dependencies. `expbench doctor` reports whether it works.)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-results/bench}
scan() { python3 -m expbench bench scan --device cuda --seconds "${SECONDS_EACH:-0.3}" --out "$out/$1" "${@:2}"; }
scan shapes
scan float32 --shapes 32x768x1024x16 --dtype float32 --no-gate
scan transitions --shapes 32x768x1024x16 --backend triton --transition exact,taylor1,taylor2,taylor3,linear
scan lengths --shapes 8x1536x1024x16 --L 256,512,1024,2048,4096,8192 --backend triton,mamba
