"""The selective scan in Triton: one kernel forward, one backward, each state of a channel in the registers of one thread.

A program is one warp. Its tile has the axes [T, V, LD, LN, LB, R]: T steps of time and R vectors of V states (each one load of
A) lie in a thread's registers, and lanes lie along channels, states and sequences. The recurrence of a state is plain arithmetic in the
registers of one thread. Lanes exchange what is summed over states, or, for the gradients of B and C, over channels; and what
is done once for a channel and step (softplus, the gate) is done for some of the steps by each of the LN lanes that need it.
A thread of the backward has one vector of states (R is 1), and takes TURNS channels, one after the other. Inputs are fetched
tiles ahead. FAST is 0 in the interpreter, 1 where lanes exchange by tl.gather, 2 and 3 where they do by shuffles.
"""

from expbench.ops.selective.triton_kernels.backward import backward_kernel
from expbench.ops.selective.triton_kernels.elementwise import widen_kernel
from expbench.ops.selective.triton_kernels.forward import forward_kernel

__all__ = ["backward_kernel", "forward_kernel", "widen_kernel"]
