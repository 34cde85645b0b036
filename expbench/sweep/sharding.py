"""Sharding: the part of a sweep that one of several machines runs."""

from __future__ import annotations

from collections.abc import Sequence

from expbench.sweep.progress import work
from expbench.sweep.tuning import Key, configuration_of, pair_of
from expbench.training.job import Job


def share(jobs: Sequence[Job], part: tuple[int, int], *, whole_pairs: bool) -> list[Job]:
    """Return part i of n of the jobs, keeping jobs of one stack or one learning-rate grid together where possible.

    Jobs that differ only in seed, instance, rate and degree form a group; with `whole_places`, they may also differ in the
    model. Each group, the largest first, goes to the part with the least work. With fewer than 2 n groups and without
    `whole_places`, each part takes every n-th job instead.
    """
    i, n = part
    groups: dict[Key, list[Job]] = {}
    for job in jobs if n > 1 else ():
        groups.setdefault((pair_of if whole_pairs else configuration_of)(job.run, "degree"), []).append(job)
    if not groups or (len(groups) < 2 * n and not whole_pairs):
        return list(jobs)[i - 1 :: n]
    loads, own = [0.0] * n, []
    for group in sorted(groups.values(), key=lambda group: -sum(map(work, group))):
        least = loads.index(min(loads))
        loads[least] += sum(map(work, group))
        if least == i - 1:
            own.append(group)
    return [job for group in own for job in group]
