"""The selective scan in Triton, one kernel for each direction; a single thread holds a state of a channel in its registers.

A program is one warp. Its tile has the axes [T, V, LD, LN, LB, R]. T steps of time and R vectors of V states (each vector
is one load of A) lie in the registers of a thread. Lanes lie along channels (LD), states (LN) and sequences (LB).

The recurrence of a state is plain arithmetic within one thread. Lanes communicate only for sums: over states, and over
channels for the gradients of B and C. Work that is needed once per channel and step (softplus, the gate) is divided by
steps among the LN lanes that share the channel. A thread of the backward has one vector of states (R is 1) and processes
TURNS channels one after the other. Inputs are prefetched several tiles ahead.

FAST is 0 in the interpreter, 1 if lanes exchange values by tl.gather, and 2 or 3 if they use shuffles (see `triton_launch`).
"""

from expbench.ops.selective.triton_kernels.backward import backward_kernel
from expbench.ops.selective.triton_kernels.elementwise import widen_kernel
from expbench.ops.selective.triton_kernels.forward import forward_kernel

__all__ = ["backward_kernel", "forward_kernel", "widen_kernel"]
