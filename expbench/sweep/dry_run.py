"""Dry run: the networks, runs and estimated time of a sweep, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from expbench import supervision
from expbench.algebra.reach import NOT_STATED, degree_and_order
from expbench.console.formatting import aligned
from expbench.console.progress import duration
from expbench.nn.memory import machine
from expbench.results.identity import identity
from expbench.run import Run
from expbench.sweep.estimate import estimate, exceeds, largest_need
from expbench.sweep.execution import refusal, stacks
from expbench.sweep.plan import Plan
from expbench.training.family import Stack, family_of
from expbench.training.job import Job

_HEADER = [
    *("task", "model", "L", "degree", "D", "depth", "norm", "positions"),
    *("parameters", "state", "reach", "done", "to run"),
]


def describe(plan: Plan, device: str, largest: int | None = None) -> str:
    """Return one line for each distinct network, with its sizes and its finished and missing runs, then a time estimate."""
    missing = {job.run.key for job in plan.missing}
    configurations: dict[str, list[Job]] = {}
    for job in plan.jobs:
        configurations.setdefault(_configuration(job), []).append(job)
    counts = Counter(_configuration(job) for job in plan.missing)
    lines = [_HEADER]
    for configuration, jobs in configurations.items():
        to_run = counts[configuration]
        lines.append([*_shown(jobs[0].run), *_sizes(jobs[0], device), str(len(jobs) - to_run), str(to_run)])
    there = machine(device).free
    to_train = [job for job in plan.missing if job.refusal is None]
    divided = stacks([job for job in to_train if not exceeds(job, there, device)], device, largest)
    divided += [Stack([job]) for job in to_train if exceeds(job, there, device)]
    time = estimate(divided, device)
    need = largest_need(plan.missing, device)
    seconds = "unknown" if time.seconds is None else duration(time.seconds)
    how = ["from a few timed steps of each shape"]
    if time.measured != time.shapes:
        how.append(f"only {time.measured} of {time.shapes} shapes were timed")
    how += [f"{count} failed: {reason}" for reason, count in time.failed.items()]
    how += dict.fromkeys(filter(None, (family_of(job.task).untimed(device) for job in plan.missing)))
    return "\n".join(
        [
            aligned(lines),
            "",
            *_silent(configurations.values(), lines[1:]),
            f"{len(plan.jobs)} runs: {len(plan.jobs) - len(missing)} done, {len(missing)} to run; "
            f"{len(plan.controls)} sets of controls to measure",
            *_together(divided),
            *([] if need is None else [str(need)]),
            f"estimated time on {device}: {seconds} ({', '.join(how)})",
        ]
    )


def _silent(configurations: Iterable[Sequence[Job]], lines: Iterable[Sequence[str]]) -> list[str]:
    """Return a line that says how to measure the reach of the models that do not state it."""
    models = dict.fromkeys(jobs[0].run.model for jobs, line in zip(configurations, lines, strict=True) if NOT_STATED in line)
    return [f"the reach is not stated; this measures it: expbench check {model}" for model in models]


def _together(stacks: Sequence[Stack]) -> list[str]:
    """Return the number of stacks, and one line for each reason that runs are not stacked."""
    sizes = [len(stack.jobs) for stack in stacks]
    lines = [f"trained in {len(sizes)} stacks of up to {max(sizes)} runs"] if sizes else []
    alone = Counter((stack.jobs[0].run.model, stack.not_stacked_reason) for stack in stacks if stack.not_stacked_reason)
    return lines + [f"{count} runs of {model} are not stacked: {reason}" for (model, reason), count in alone.items()]


def _configuration(job: Job) -> str:
    """Return the identity of a network on a task, independent of its training settings."""
    return identity(job.run, without={"version", "training", "rate", "seed", "instance"})


def _shown(run: Run) -> list[str]:
    degree = run.task_settings.get("degree")
    sizes = (run.L, "-" if degree is None else degree, run.D, run.depth)
    positions = run.positions if run.base == "auto" else f"{run.positions} (base {run.base})"
    return [run.task, run.model, *map(str, sizes), run.norm, positions]


def _sizes(job: Job, device: str) -> list[str]:
    if job.refusal is not None:
        return ["-", "-", "refused"]
    reason = job.unsupported(device)
    if reason is not None:
        return ["-", "-", f"unsupported: {reason}"]
    attempt = f"sizes {_configuration(job)}"
    reason = refusal(job) or supervision.refusal(attempt)
    if reason is not None:
        return ["-", "-", reason]
    with supervision.attempting(f"building {job.run.title()}", attempt):
        facts = family_of(job.task).describe(job)
    state = facts.state_size
    return [str(facts.parameters), "?" if state is None else str(state), degree_and_order(facts.reach)]
