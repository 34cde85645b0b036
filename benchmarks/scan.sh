#!/usr/bin/env bash
# The table and the figure under results/bench, on a machine with a GPU: bash benchmarks/scan.sh [OPTIONS of bench scan].
# Some minutes. `--backend torch,triton` does without mamba-ssm, `--L 256,512,1024,2048,4096,8192` gives the curves against L.
#
# mamba-ssm is compared with where its extension `selective_scan_cuda` can be imported; that needs torch alone. With a CUDA toolkit
# of torch's version, build it from the sdist of 2.3.2.post1 and put the folder that it lands in on PYTHONPATH:
#   MAMBA_FORCE_BUILD=TRUE MAMBA_KEEP_CUDA_BUILD=TRUE python3 -m pip install --no-build-isolation --no-deps --no-binary mamba-ssm \
#       --target mamba mamba-ssm==2.3.2.post1
#   PYTHONPATH=$PWD/mamba bash benchmarks/scan.sh
# (--no-deps: it asks for much that the extension does not use. `expbench doctor` says whether it works.)
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m expbench bench scan --device cuda --seconds 0.5 --out results/bench "$@"
