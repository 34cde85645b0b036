"""Sharding: the part of a sweep that one of several machines takes."""

from __future__ import annotations

from collections.abc import Sequence

from expbench.sweep.progress import work
from expbench.sweep.tuning import Key, cell_of, place_of
from expbench.training.job import Job


def share(jobs: Sequence[Job], part: tuple[int, int], *, whole_places: bool) -> list[Job]:
    """The part (i, n) of the jobs, such that what is trained together, or has one grid of rates, stays together if it can.

    Groups of jobs that differ in seed, instance, rate and degree alone, or in the model too, go to the part that has the
    least work yet, the largest first; but every n-th job to each where there are fewer than 2 n groups.
    """
    i, n = part
    groups: dict[Key, list[Job]] = {}
    for job in jobs if n > 1 else ():
        groups.setdefault((place_of if whole_places else cell_of)(job.run, "degree"), []).append(job)
    if not groups or (len(groups) < 2 * n and not whole_places):
        return list(jobs)[i - 1 :: n]
    loads, own = [0.0] * n, []
    for group in sorted(groups.values(), key=lambda group: -sum(map(work, group))):
        least = loads.index(min(loads))
        loads[least] += sum(map(work, group))
        if least == i - 1:
            own.append(group)
    return [job for group in own for job in group]
