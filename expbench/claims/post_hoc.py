"""Post-hoc comparisons: claims generated from the observed means of the models that were run.

Nobody registered them before the runs, so reports mark them as post hoc and they are never written to a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, groupby, product

from expbench.claims.claim import Claim
from expbench.claims.parsing import TOKEN, Side
from expbench.results.configurations import Configuration

_MOST_COMPARED = 4  # models; the number of pairs grows quadratically


def of_models(configurations: Iterable[Configuration]) -> list[Claim]:
    """Generate for each task and each pair of its models the claim that the model with the better mean is better.

    Each model keeps its own position code. Tasks with more than four models are skipped, because there are too many pairs.
    """
    found = []
    for task, of_task in groupby(filter(_can_be_said, configurations), key=lambda configuration: str(configuration["task"])):
        own = list(of_task)
        sides = [(str(c["model"]), {"positions": str(c["positions"])}) for c in own]
        models = _once(sides)
        if len(models) > _MOST_COMPARED or len({model for model, _ in models}) < len(models):
            continue
        better_first = sorted(models, key=lambda side: _mean(own, *side), reverse=own[0].higher_is_better)
        found += [_seen(own, task, a, b) for a, b in combinations(better_first, 2)]
    return found


def against(configurations: Iterable[Configuration], reference: str) -> list[Claim]:
    """Generate for each task and each other model the observed relation of its mean to that of the reference model.

    The claims compare the models with equal position codes. If the two share no position code, each keeps its own. If each
    model has a single width and the two differ, each keeps its own width, because such widths match the model sizes.
    """
    found = []
    for task, of_task in groupby(filter(_can_be_said, configurations), key=lambda configuration: str(configuration["task"])):
        own = list(of_task)
        for model in sorted({str(c["model"]) for c in own} - {reference}):
            sides = [[c for c in own if c["model"] == name] for name in (model, reference)]
            codes, widths = (
                [{str(configuration[c]) for configuration in side} for side in sides] for c in ("positions", "D")
            )
            apart = codes[0].isdisjoint(codes[1])
            matched = widths[0] != widths[1] and all(len(known) == 1 for known in widths)
            for pair in product(*(sorted(known) for known in codes)):
                if apart or pair[0] == pair[1]:
                    fixed = [{"positions": code} for code in pair]
                    if matched:
                        fixed = [one | {"D": next(iter(width))} for one, width in zip(fixed, widths, strict=True)]
                    found.append(_seen(own, task, (model, fixed[0]), (reference, fixed[1])))
    return found


def _can_be_said(configuration: Configuration) -> bool:
    """Return whether a claim can name the model, because a table may contain arbitrary names."""
    return TOKEN.fullmatch(str(configuration["model"])) is not None and str(configuration["model"]) not in "<>(),="


def _once(sides: Iterable[tuple[str, dict[str, str]]]) -> list[tuple[str, dict[str, str]]]:
    return [(model, dict(settings)) for model, settings in sorted({(model, tuple(own.items())) for model, own in sides})]


def _mean(configurations: Iterable[Configuration], model: str, settings: Mapping[str, str]) -> float:
    """Return the mean over the configurations of a side; without any result, the worst value (infinity for an error)."""
    fitting = [
        c for c in configurations if c["model"] == model and all(str(c[name]) == value for name, value in settings.items())
    ]
    means = [c.interval.center for c in fitting if c.values]
    if means:
        return sum(means) / len(means)
    return -math.inf if fitting[0].higher_is_better else math.inf


def _seen(
    configurations: Sequence[Configuration], task: str, left: tuple[str, dict[str, str]], right: tuple[str, dict[str, str]]
) -> Claim:
    """Return the claim with the observed relation of the two means; for equal means, the claim that the left is better."""
    means = _mean(configurations, *left), _mean(configurations, *right)
    lower = means[0] < means[1] if means[0] != means[1] else not configurations[0].higher_is_better
    relation = "<" if lower else ">"
    one, other = (Side(model, dict(sorted(settings.items()))) for model, settings in (left, right))
    return Claim(f"{one} {relation} {other}", task)
