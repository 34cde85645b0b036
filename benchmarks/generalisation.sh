#!/usr/bin/env bash
# Creates results/generalisation: bash benchmarks/generalisation.sh [PROCESSES], best with DEVICE=cuda. The same command resumes.
# Theorem 3 bounds one bare layer (Eq. 6) at any length. This benchmark measures full networks: the fit of random labels, and the
# generalisation gap of true labels, against length and depth. In a pilot (two seeds, L=64), true labels had no gap with 256
# training sequences, but had one with 32.
. "$(dirname "$0")/sweep.sh"
results=${RESULTS:-results/generalisation-runs}
common=(--task finite --models s6-bbar-b,s6,linattn,attn -t labels=true,random -t samples=32,256 --norm layer --seeds 0:10)

sweep "${common[@]}" --L 16,32,64,128,256 --D 8
# Deeper at nearly equal parameters: 404, 448, 412 for both S6 and 284, 316, 300 for both attentions, within 7 % of the means.
sweep "${common[@]}" --L 64 --D 6 --depth 2
sweep "${common[@]}" --L 64 --D 4 --depth 4

"$python" benchmarks/generalisation.py "$results"
