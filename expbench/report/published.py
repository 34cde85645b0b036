"""Comparison of published numbers with ours. The published numbers and their sources are in `studies/published/`.

A published number is the mean of three seeds, with settings that the paper specifies only in part. It is compared with each
of our configurations that match the paper. It reproduces if it lies in our 95 % prediction interval for the mean of three
further seeds, and differs otherwise. Errors on labels that the paper does not define are not comparable.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import pandas as pd

from expbench.console.formatting import number
from expbench.report.document import Table
from expbench.results.configurations import Configuration
from expbench.stats.intervals import Interval, further_interval
from expbench.stats.resampling import further_mean_interval
from expbench.studies.published.numbers import SOURCE, Perplexity, Published, table2

Verdict = Literal["reproduces", "differs", "not comparable", "not run"]
# Settings that the paper does not state and we fixed; configurations with other values are other experiments.
_RECONSTRUCTED: dict[str, dict[str, float]] = {
    "count-in-row": {"L": 20, "classes": 20},
    "polyreg": {"L": 10, "label_var": 20.0},
}

# Settings of Table 1. The paper names no tokenizer; GPT-2's comes closest to the printed numbers of parameters.
_OF_TABLE1: dict[str, object] = {"data": "wikitext-103", "tokenizer": "gpt2", "L": 1024, "D": 384, "depth": 12}


class Entry(NamedTuple):
    """A published number and one matching configuration of ours, or None if it was not run.

    ours: our mean with a prediction interval for the mean of three seeds, in the units of the published number.
    """

    published: Published
    configuration: Configuration | None
    ours: Interval | None
    verdict: Verdict


def beside_table1(published: Perplexity, configuration: Configuration, values: Sequence[float]) -> tuple[Interval, str]:
    """Return the prediction interval for the mean of three further seeds, from our `values`, and the verdict.

    Perplexities are comparable for the same text, tokenizer and model size; otherwise the verdict names the differences.
    With a single seed there is no interval, and the verdict is "not comparable".
    """
    ours = further_interval(values)  # with few seeds a bootstrap interval is too narrow
    known = json.loads(configuration.each("task_settings")[0]) | {name: configuration[name] for name in ("L", "D", "depth")}
    apart = [f"{name}={known.get(name)}" for name, meant in _OF_TABLE1.items() if known.get(name) != meant]
    if apart:
        return ours, f"not comparable ({', '.join(apart)})"
    if len(values) < 2:
        return ours, "not comparable (one seed)"
    return ours, "reproduces" if ours.low <= published.value <= ours.high else "differs"


def entries(frame: pd.DataFrame, configurations: Sequence[Configuration]) -> list[Entry]:
    """Return each published number with each of our matching configurations; frame: the rows of these configurations."""
    runs = (frame["kind"] == "run") & (frame["status"] == "ok")
    test = frame.loc[runs & (frame["split"] == "test") & (frame["slice"] == ""), ["key", "metric", "value"]]
    by_metric = {str(metric): dict(zip(own["key"], own["value"], strict=True)) for metric, own in test.groupby("metric")}
    return [entry for published in table2() for entry in _entries(published, configurations, by_metric)]


def _entries(
    published: Published, configurations: Sequence[Configuration], values: dict[str, dict[str, float]]
) -> Iterator[Entry]:
    meant = [c for c in configurations if _may_be(published, c)]
    if not meant:
        yield Entry(published, None, None, "not run")
    percent = published.metric == "accuracy_percent"
    for configuration in meant:
        mine = values.get("accuracy" if percent else "mse", {})
        by_instance: dict[int, list[float]] = {}
        for instance, key in zip(configuration.each("instance"), configuration.each("key"), strict=True):
            own = by_instance.setdefault(instance, [])
            own += [mine[key] * (100 if percent else 1)] if key in mine else []
        ours = further_mean_interval(list(by_instance.values()))
        verdict: Verdict = "not comparable" if not percent else "differs"
        if percent and ours.low <= published.value <= ours.high:
            verdict = "reproduces"
        yield Entry(published, configuration, ours, verdict)


def _may_be(published: Published, configuration: Configuration) -> bool:
    fixed = ("task", "model", "positions", "depth", "D")
    if not configuration.values or any(configuration[name] != getattr(published, name) for name in fixed):
        return False
    task = json.loads(configuration.each("task_settings")[0])
    return all(task.get(name) == value for name, value in _RECONSTRUCTED[published.task].items())


def table(found: Sequence[Entry]) -> Table:
    """Return the table of comparisons, one line per published number and configuration of ours."""
    header = ["published row", "verdict", "published", "ours", "95 % interval of means of 3 seeds"]
    header += ["parameters", "our parameters", "our settings"]
    lines = []
    for entry in found:
        row = [entry.published.row, entry.verdict, number(entry.published.value)]
        printed = str(entry.published.parameters)
        if entry.configuration is None or entry.ours is None:
            lines.append([*row, "-", "-", printed, "-", "-"])
            continue
        spread = f"{number(entry.ours.low)} to {number(entry.ours.high)}"
        parts = [str(entry.configuration["context"]), *around(entry.configuration, found), *_layout(entry.configuration)]
        setting = ", ".join(part for part in parts if part)
        lines.append([*row, number(entry.ours.center), spread, printed, str(entry.configuration["parameters"]), setting])
    configurations = [[entry.configuration] if entry.configuration else [] for entry in found]
    return Table("Published numbers and ours", header, lines, configurations)


def summary(found: Sequence[Entry]) -> str:
    """Return the source of the published numbers and the count of each verdict."""
    counts = Counter(str(entry.verdict) for entry in found)
    return f"Published: {SOURCE}. {', '.join(f'{verdict}: {n}' for verdict, n in sorted(counts.items()))}."


def around(configuration: Configuration, found: Sequence[Entry]) -> list[str]:
    """Return the norm of a configuration, and its steps if entries differ in them."""
    lengths = {entry.configuration["steps"] for entry in found if entry.configuration}
    return [f"norm={configuration['norm']}", *([f"steps={configuration['steps']}"] if len(lengths) > 1 else [])]


def _layout(configuration: Configuration) -> list[str]:
    layout = json.loads(configuration["model_settings"]).get("layout")
    return [f"layout={layout}"] if layout else []
