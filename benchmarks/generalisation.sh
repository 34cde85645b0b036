#!/usr/bin/env bash
# The tables and the figure under results/generalisation: bash benchmarks/generalisation.sh [PROCESSES], best with DEVICE=cuda. It can
# be interrupted and continued. Theorem 3 bounds one bare layer (Eq. 6) at any length. Here, with all that stands around a layer, how
# much of random labels is fitted, and how large is the gap of true ones, against length and depth? Of 256 sequences the true labels
# are learnt without a gap, of 32 they are not (two seeds, L=64).
. "$(dirname "$0")/sweep.sh"
results=${RESULTS:-results/generalisation-runs}
common=(--task finite --models s6-bbar-b,s6,linattn,attn -t labels=true,random -t samples=32,256 --norm layer --seeds 0:10)

sweep "${common[@]}" --L 16,32,64,128,256 --D 8
# deeper at nearly as many parameters: 404, 448, 412 of both S6 and 284, 316, 300 of both attentions, within 7 % of their means
sweep "${common[@]}" --L 64 --D 6 --depth 2
sweep "${common[@]}" --L 64 --D 4 --depth 4

"$python" benchmarks/generalisation.py "$results"
