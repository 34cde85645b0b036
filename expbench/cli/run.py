"""Command `expbench run`. Heavy imports happen inside it."""

from __future__ import annotations

import os
from typing import Any

from expbench.cli.execution import Execution, carry_out
from expbench.cli.options import DEVICES, add_folders, check_choice, hold_log, of_fields, of_options, shard_of, takes
from expbench.supervision import supervise
from expbench.sweep.spec import OPTIONS, SweepSpec, announced


# The options are declared by Request and Execution; typer reads them from a generated signature.
@takes(of_options(OPTIONS.values()), of_fields(Execution))
def run(**options: Any) -> None:
    """Run every combination that is not in the results yet.

    Lists are written 1,2,3 and ranges 0:5 (without the end). The same command resumes an interrupted sweep.
    """
    asked = {name: options.pop(name) for name in OPTIONS}
    spec = SweepSpec(**{name: tuple(text or ()) if OPTIONS[name].repeats else text for name, text in asked.items()})
    execution = Execution(**options)
    add_folders(execution.tasks_dir, execution.models_dir)
    shard_of(execution.shard)
    from expbench.ops import backends

    check_choice("--device", execution.device, DEVICES)
    check_choice("--backend", execution.backend, ("auto", *backends.BACKENDS))
    supervise(f"expbench run: {announced(spec)}, into {execution.results}; loading torch and the plugins")
    # Read when torch is loaded. Threads that wait without spinning are as fast alone, and twice as fast on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench.sweep import torchrun
    from expbench.training.device import choose_device

    chosen = choose_device(execution.device)
    held = hold_log()
    with backends.using(None if execution.backend == "auto" else execution.backend):
        jobs = torchrun.expand([spec], chosen)
        carry_out(jobs, execution.sweep_options(chosen, tunes=spec.lr == "auto"), held, dry_run=execution.dry_run)
