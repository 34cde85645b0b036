"""Tables of a report: results of each model, labels and controls of a task, and provenance."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from expbench.algebra.reach import NO_BOUND
from expbench.console.formatting import number
from expbench.report.document import Table
from expbench.report.labels import labels
from expbench.results.configurations import PROTOCOL, SIZES, TRAINING, Configuration, varying
from expbench.run import LATER

_COLUMNS = ["L", "degree", *SIZES, *(column for column in TRAINING if column not in PROTOCOL)]
_LABELS = ["label_kurtosis", "label_interaction_order", "effective_sample_size"]
_RUNS = "every run (seed: value)"
_SOURCES = ("expbench", "git_commit", "python", "torch", "device_name", "precision", "backend")
_MOST_NAMED = 8  # values of a line of the provenance table


def same(configurations: Sequence[Configuration]) -> str:
    """Return a sentence on the settings that are the same in all rows of the results table."""
    columns = varying(list(configurations), _COLUMNS)
    stated = [
        f"{column}={plain(configurations[0][column])}"
        for column in _COLUMNS
        if column not in columns and known(configurations[0][column]) and configurations[0][column] != LATER.get(column)
    ]
    return f"Same in all rows: {', '.join(stated)}."


def results(configurations: Sequence[Configuration], metric: str, title: str) -> Table:
    """Return the results table, one line per configuration."""
    columns = varying(list(configurations), _COLUMNS)
    names = labels(configurations, without=[*_COLUMNS, *PROTOCOL])
    protocols = [_protocol(c) for c in configurations]
    several = len(set(protocols)) > 1  # then it distinguishes lines, and stands before the results
    # the most important columns come first, since the table is wider than a screen
    header = ["model", *columns, *(["protocol"] if several else []), metric, "95 % interval", "solved", "reading", "floor"]
    header += ["best", _RUNS, "rate", "parameters", "state", "FLOPs per token", "reach"]
    lines = [
        [
            *(
                names[id(c)],
                *(plain(c[column]) for column in columns),
                *([protocol] if several else []),
            ),
            *(*_outcome(c), _rate(c), *_sizes(c), *([] if several else [protocol])),
        ]
        for c, protocol in zip(configurations, protocols, strict=True)
    ]
    brief = ["model", *_told_apart(header, lines, columns, several), "parameters"]
    brief += [
        metric,
        "95 % interval",
        "solved",
        *(["floor"] if any(c.floor is not None for c in configurations) else []),
    ]
    header += [] if several else ["protocol"]
    return Table(title, header, lines, [[c] for c in configurations], main=True, folded=_RUNS, brief=brief)


def _told_apart(header: Sequence[str], lines: Sequence[Sequence[str]], columns: Sequence[str], several: bool) -> list[str]:
    """Return the varying columns that distinguish lines, without those determined by the model and earlier columns."""
    kept: list[str] = []
    for name in [*columns, *(["protocol"] if several else [])]:
        places = [[header.index(known) for known in ("model", *kept, *more)] for more in ((), (name,))]
        before, after = (len({tuple(line[i] for i in place) for line in lines}) for place in places)
        kept += [name] if after > before else []
    return kept


def _outcome(configuration: Configuration) -> list[str]:
    interval, share = configuration.interval, configuration.solved_share
    ended = [
        f"{configuration.count(status)} {status}"
        for status in ("diverged", "failed", "unsupported")
        if configuration.count(status)
    ]
    mean = "; ".join([*([number(interval.center)] if configuration.values else []), *ended])
    if configuration["well_posed"] is False:
        mean += " (ill-posed)"
    spread = f"{number(interval.low)} to {number(interval.high)}" if pd.notna(interval.low) else "-"
    solved = (
        f"{configuration.solved}/{configuration.trials} ({number(share.low)} to {number(share.high)})"
        if configuration.trials
        else "-"
    )
    runs = [f"{who}: {what}" for who, what, _ in each_run(configuration)]
    floor = number(configuration.floor) if configuration.floor is not None else NO_BOUND
    return [mean, spread, solved, configuration.reading, floor, number(configuration.best), ", ".join(runs)]


def each_run(configuration: Configuration) -> list[tuple[str, str, str]]:
    """Return for each run its seed (and its instance, if there are several), its value or status, and its key."""
    several = len(set(configuration.each("instance"))) > 1
    return [
        (f"i{instance}/{seed}" if several else str(seed), number(value) if pd.notna(value) else status, key)
        for instance, seed, value, status, key in zip(
            *(configuration.each(c) for c in ("instance", "seed", "value", "status", "key")), strict=True
        )
    ]


def _sizes(configuration: Configuration) -> list[str]:
    degree, order = configuration["network_degree"], configuration["network_order"]
    reach = f"degree {_bounded(degree)}, order {_bounded(order)}" if known(degree) and known(order) else NO_BOUND
    flops = configuration["flops_per_token"]
    return [
        *map(plain, (configuration["parameters"], configuration["state_size"])),
        number(flops) if known(flops) else "-",
        reach,
    ]


def _bounded(number: int) -> str:
    """Format a whole number; the largest that the table can hold stands for all that are larger."""
    return str(int(number)) if number < 2**63 - 1 else "at least 2^63 - 1"


def _rate(configuration: Configuration) -> str:
    if configuration.tuning is None or not configuration.tuned:
        return "**not tuned**"
    edge = ", at the edge" if configuration["lr"] in (configuration.tuning.rates[0], configuration.tuning.rates[-1]) else ""
    return f"best of {len(configuration.tuning.rates)}, {configuration.tuning.runs} runs{edge}"


def _protocol(configuration: Configuration) -> str:
    residual, skip = (
        "-" if not known(configuration[c]) else "on" if configuration[c] else "off" for c in ("residual", "skip")
    )
    return f"{configuration['norm']}, {configuration['positions']}, {residual}, {skip}"


def of_labels(configurations: Sequence[Configuration], title: str) -> Table | None:
    """Return the table of label statistics, one line per L, degree, test size and instance; None if they are unknown."""
    seen: dict[tuple[object, ...], list[str]] = {}
    for configuration in configurations:
        for instance, posed, *facts in zip(
            *(configuration.each(c) for c in ("instance", "well_posed", *_LABELS)), strict=True
        ):
            if not known(facts[0]):
                continue
            place = (configuration["L"], configuration["degree"], configuration["test_size"], instance)
            seen[place] = [
                plain(configuration["L"]),
                plain(configuration["degree"]),
                str(instance),
                *map(number, facts),
                "yes" if posed else "**no**",
            ]
    header = [
        "L",
        "degree",
        "instance",
        "label kurtosis",
        "mean interaction order",
        "effective test sample size",
        "well posed",
    ]
    return Table(title, header, list(seen.values())) if seen else None


def of_controls(controls: pd.DataFrame, title: str) -> Table | None:
    """Return the table of controls, one column each, by L, degree and test size, averaged over instances; None if empty."""
    if controls.empty:
        return None
    kinds = controls.drop_duplicates("model").set_index("model")["kind"]
    places = ["L", "degree", "test_size"]
    wide = controls.pivot_table(index=places, columns="model", values="value", dropna=False).dropna(how="all")
    names = [name for name in kinds.index if name in wide.columns]
    header = [
        "L",
        "degree",
        "test sequences",
        *(f"{name} ({kinds[name]})" if kinds[name] != name else name for name in names),
    ]
    lines = [
        [plain(L), plain(degree), plain(size), *(number(value) for value in values)]
        for L, degree, size, *values in wide[names].reset_index().itertuples(index=False, name=None)
    ]
    return Table(title, header, lines)


def provenance(frame: pd.DataFrame) -> Table:
    """Return the provenance table: versions, commits and devices with the number of runs of each, and the time range."""
    runs = frame[frame["kind"] == "run"].drop_duplicates("key")
    lines = []
    for column in _SOURCES:
        counts = runs[column].fillna("not recorded").value_counts()
        parts = [f"{what} ({count} runs)" if len(counts) > 1 else str(what) for what, count in counts.items()]
        more = [f"and {len(parts) - _MOST_NAMED} more"] if len(parts) > _MOST_NAMED else []
        lines.append([column.replace("_", " "), ", ".join([*parts[:_MOST_NAMED], *more])])
    made = runs["created"].dropna()
    if len(made):
        lines.append(["created (UTC)", f"{made.min():%Y-%m-%d %H:%M} to {made.max():%Y-%m-%d %H:%M}"])
    return Table("Provenance", ["property", "reported runs"], lines)


def known(value: object) -> bool:
    """Return whether a column has a value."""
    return value is not None and not pd.isna(value)  # type: ignore[call-overload]


def plain(value: object) -> str:
    """Format a column's value as a text; a missing value is a dash."""
    if not known(value):
        return "-"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:g}"
    return str(value)
