"""Formatting of a comparison: a table for the terminal, or Markdown for a pull request."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from expbench.console.formatting import aligned, code_block, markdown_table, number, visible
from expbench.regression.comparison import SLOWER, Comparison
from expbench.regression.matching import IDENTITY
from expbench.stats.intervals import share_interval

_MOST_LINES = 60  # of the table on the terminal
_MOST_CHARACTERS = 60_000  # GitHub limits a comment to 65,536
_MOST_NAMED = 4  # versions, commits or devices of a side
_OWN = ("task_settings_matched", "model_settings_matched")
_AROUND = [column for column in IDENTITY if column not in ("task", "model", *_OWN)]
_LINE = "\n"
_FOLDED = ("undecided", "unchanged")
_PREFACE = """\
Configurations are matched by all settings except seed, instance, versions, and learning rates that were tuned on both sides.
Values are means on the test split, geometric for errors. The change is NEW / BASE (x) for errors and NEW - BASE for
accuracies, with an interval over runs, which are paired where both sides have the same ones. Holm's p tests for no change,
corrected over all configurations whose numbers differ. `regressed` and `improved`: p is at most {error:.3g}, and the change
is at least a tenth of an error or .05 of an accuracy. `unchanged`: the interval lies within that margin, or the numbers are
equal. `undecided`: anything else. `solved` counts runs, with Wilson's 95 % intervals; a diverged run is unsolved, and ranks
below all others."""


def text(comparison: Comparison, fail_on: Sequence[str], speed: bool) -> str:
    """Return one line per configuration, worst first, and a summary line. speed: include time ratios."""
    header, lines = _table(comparison, comparison.configurations[:_MOST_LINES], speed, wilson=False)
    parts = [aligned([header, *lines])]
    if len(comparison.configurations) > _MOST_LINES:
        parts.append(f"and {_counted(comparison.configurations['verdict'][_MOST_LINES:])}, not shown")
    return "\n".join([*parts, "", visible(summary(comparison, fail_on, speed))])


def summary(comparison: Comparison, fail_on: Sequence[str], speed: bool) -> str:
    """Return one line with the number of configurations per verdict and the failing ones."""
    number_of = len(comparison.configurations)
    parts = [f"{number_of} configuration{'s' * (number_of != 1)}: {_listed(comparison.counts)}"]
    if comparison.tests:
        parts.append(f"{comparison.tests} tested, at a joint confidence of {100 * comparison.confidence:g} %")
    if speed:
        times = np.log(comparison.configurations["seconds"].dropna())
        mean = f"time x {number(float(np.exp(times.mean())))}, {int(comparison.configurations[SLOWER].sum())} slower"
        parts.append(mean if len(times) else "no times to compare (no runs on the same device with the same stack size)")
    failing = comparison.failing(fail_on)
    return "; ".join([*parts, f"FAILS: {_listed(failing)}" if failing else f"passes (fails on {_listed(fail_on)})"])


def markdown(comparison: Comparison, fail_on: Sequence[str], speed: bool, command: str) -> str:
    """Return Markdown with the changes, the rest folded, and the provenance of both sides, short enough for a comment.

    command: the command that repeats the comparison.
    """
    configurations = comparison.configurations
    folded = configurations["verdict"].isin(_FOLDED) & ~(configurations[SLOWER] & speed)
    verdict = _listed(comparison.failing(fail_on))
    head = [f"### expbench compare: {f'fails, {verdict}' if comparison.failing(fail_on) else 'passes'}"]
    head.append(summary(comparison, fail_on, speed) + ".")
    tail = [f"To repeat this comparison:\n\n{code_block(command, 'sh')}"]
    if not folded.all():
        first = comparison.command(configurations.index[~folded][0])
        tail.append(f"To rerun a run of the first configuration:\n\n{code_block(visible(first, keep=_LINE), 'sh')}")
    tail += [_sides(comparison), _details("How to read this", _PREFACE.format(error=1 - comparison.confidence))]
    room = _MOST_CHARACTERS - sum(map(len, [*head, *tail]))
    shown = _within(comparison, configurations[~folded], speed, room) if not folded.all() else "No changes found."
    parts = [*head, shown]
    if folded.any():
        table = _within(comparison, configurations[folded], speed, room - len(shown))
        parts.append(_details(_counted(configurations.loc[folded, "verdict"]), table))
    return "\n\n".join([*parts, *tail]) + "\n"


def _details(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def _listed(counts: Mapping[str, int] | Sequence[str]) -> str:
    words = [f"{count} {name}" for name, count in counts.items()] if isinstance(counts, Mapping) else list(counts)
    return ", ".join(words) or "nothing"


def _counted(verdicts: pd.Series[str]) -> str:
    return _listed({str(verdict): int(count) for verdict, count in verdicts.value_counts(sort=False).items()})


def _within(comparison: Comparison, configurations: pd.DataFrame, speed: bool, room: int) -> str:
    """Return a Markdown table of the configurations that fit into `room` characters, and the number of omitted ones."""
    header, lines = _table(
        comparison, configurations[: room // 50], speed, wilson=True
    )  # no line is shorter than 50 characters
    sizes = np.cumsum([sum(map(len, line)) + 3 * len(line) + 2 for line in lines])
    kept = int(np.searchsorted(sizes, room - 500))
    rest = f"\n\nand {_counted(configurations['verdict'][kept:])}, omitted for length" if kept < len(configurations) else ""
    return markdown_table(header, lines[:kept]) + rest


def _table(
    comparison: Comparison, configurations: pd.DataFrame, speed: bool, wilson: bool
) -> tuple[list[str], list[list[str]]]:
    names = _names(comparison.configurations, configurations)
    interval = f"{100 * comparison.confidence:g} % interval"
    header = ["verdict", "model", "task", "where", "metric", "BASE", "NEW", "change", interval, "runs", "solved", "Holm's p"]
    header += ["time", "because"] if speed else ["because"]
    lines = []
    for configuration, where in zip(configurations.to_dict("records"), names, strict=True):
        solved = [_solved(configuration[f"solved{side}"], configuration[f"trials{side}"], wilson) for side in (0, 1)]
        line = [
            configuration["verdict"],
            configuration["model"],
            configuration["task"],
            where,
            str(configuration["metric"] if pd.notna(configuration["metric"]) else "-"),
        ]
        line += [
            number(configuration["base"]),
            number(configuration["new"]),
            _change(configuration, configuration["difference"]),
            _interval(configuration),
        ]
        line += [_runs(configuration), " -> ".join(solved), number(configuration["holm"])]
        if speed:
            line += [
                f"x {number(configuration['seconds'])}{' slower' if configuration[SLOWER] else ''}"
                if configuration["seconds"] > 0
                else "-"
            ]
        lines.append([*line, configuration["because"]])
    return header, lines


def _names(every: pd.DataFrame, configurations: pd.DataFrame) -> list[str]:
    """Return the settings that distinguish each configuration within its task and model, without redundant ones."""
    shown = set(zip(configurations["task"], configurations["model"], strict=True))
    names: dict[Hashable, str] = {}
    for place, group in every.groupby(["task", "model"], sort=False):
        if place in shown:
            facts = pd.concat([*(_settings(group[column]) for column in _OWN), group[_AROUND]], axis=1)
            groups, kept = np.zeros(len(group), dtype=np.int64), []
            for index in range(facts.shape[1]):
                values, _ = pd.factorize(facts.iloc[:, index].astype(str))
                finer, _ = pd.factorize(groups * (int(values.max()) + 1) + values)
                if finer.max() > groups.max():
                    groups = finer
                    kept.append(index)
            for configuration, values_of in (
                facts.iloc[:, kept].loc[group.index.intersection(configurations.index)].iterrows()
            ):
                words = [f"{'lr' if name == 'rate' else name}={_plain(value)}" for name, value in values_of.items()]
                names[configuration] = " ".join(words) or "-"
    return [names[c] for c in configurations.index]


def _settings(texts: pd.Series[str]) -> pd.DataFrame:
    """Return a column for each setting, with None where it is absent."""
    known = {text: json.loads(text) for text in texts.unique()}
    names = dict.fromkeys(name for settings in known.values() for name in settings)
    each = [known[text] for text in texts.to_numpy(dtype=object)]
    return pd.DataFrame({name: [settings.get(name) for settings in each] for name in names}, texts.index, dtype=object)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}" if value == value else "chosen"  # only learning rates can be NaN
    return str(value).lower() if value is None or isinstance(value, bool | np.bool_) else str(value)


def _change(configuration: Mapping[Hashable, Any], value: float) -> str:
    if not np.isfinite(value):
        return "-"
    return f"x {number(value)}" if configuration["ratio"] else f"{'+' if value > 0 else ''}{number(value)}"


def _interval(configuration: Mapping[Hashable, Any]) -> str:
    ends = [_change(configuration, configuration[end]) for end in ("low", "high")]
    return "-" if ends == ["-", "-"] else " to ".join(ends)


def _runs(configuration: Mapping[Hashable, Any]) -> str:
    return " ".join(
        part for part in (f"{configuration['trials0']} -> {configuration['trials1']}", configuration["design"]) if part
    )


def _solved(solved: int, trials: int, wilson: bool) -> str:
    share = share_interval(solved, trials)
    return f"{solved}/{trials}" + (f" ({number(share.low)} to {number(share.high)})" if wilson and trials else "")


def _sides(comparison: Comparison) -> str:
    sides = (comparison.base, comparison.new)
    rows = [["runs", *(str(side.runs) for side in sides)]]
    rows += [
        ["expbench", *(_several(side.expbench) for side in sides)],
        ["torch", *(_several(side.torch) for side in sides)],
    ]
    rows += [
        ["commit", *(_several(side.commits) for side in sides)],
        ["device", *(_several(side.devices) for side in sides)],
    ]
    return markdown_table(["", f"BASE: {comparison.base.source}", f"NEW: {comparison.new.source}"], rows)


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more or "-"
