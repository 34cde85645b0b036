"""The selective scan in Triton: one kernel forward, one backward, each state of a channel in the registers of one thread.

A program is one warp. Its tile has the axes [T, V, LD, LN, LB, R]: T steps of time and V x R states lie in a thread's
registers; lane ld + LD (ln + LN lb) of the warp takes states ln of channel ld of sequence lb. The recurrence of a state is
plain arithmetic in the registers of one thread. Lanes exchange what is summed over states, or, for the gradients of B and C,
over channels; and what is done once for a channel and step (softplus, the gate) is done for some of the steps by each of the
LN lanes that need it. Inputs are fetched tiles ahead. V is one vector load of A, and that load is what fixes the layout of
everything else.
"""

from expbench.ops.selective.kernels.backward import backward_kernel
from expbench.ops.selective.kernels.elementwise import widen_kernel
from expbench.ops.selective.kernels.forward import forward_kernel

__all__ = ["backward_kernel", "forward_kernel", "widen_kernel"]
