"""Tables of a report: results of each model, labels and controls of a task, and provenance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from expbench.algebra.reach import NO_BOUND, NOT_STATED
from expbench.console.formatting import Strong, escaped, number
from expbench.plugins import BUILT_IN
from expbench.report.document import Table
from expbench.report.labels import labels
from expbench.results.configurations import PROTOCOL, SIZES, TRAINING, Configuration, varying
from expbench.run import LATER

_COLUMNS = ["L", "degree", *SIZES, *(column for column in TRAINING if column not in PROTOCOL)]
_LABELS = ["label_kurtosis", "label_interaction_order", "effective_sample_size"]
_QUIET = ("reading", "floor", "rate", "parameters", "state", "FLOPs per token", "reach")
_SHARE = "solved, 95 %"
_RUNS = "every run (seed: value)"
_SOURCES = ("expbench", "git_commit", "python", "torch", "device_name", "precision", "backend")
_MOST_NAMED = 8  # values of a line of the provenance table


def same(configurations: Sequence[Configuration], table: Table) -> str:
    """Return a sentence in Markdown on what is the same in all rows of the results table."""
    columns = varying(list(configurations), _COLUMNS)
    settings = {column: configurations[0][column] for column in _COLUMNS if column not in columns}
    stated = [f"{name}={plain(value)}" for name, value in settings.items() if known(value) and value != LATER.get(name)]
    for name, known_of in _protocol_values(configurations).items():
        if len(set(known_of)) == 1:
            stated.append(f"{name}={known_of[0]}{' (if any)' if len(known_of) < len(configurations) else ''}")
    cells = {name: table.lines[0][table.header.index(name)] for name in _constant(table)}
    cells = {name: cell for name, cell in cells.items() if cell != "-"}
    constants = [f"{name}: {f'**{cell}**' if isinstance(cell, Strong) else escaped(cell)}" for name, cell in cells.items()]
    return f"Same in all rows: {'; '.join([escaped(', '.join(stated)), *constants])}."


def best_first(configurations: Sequence[Configuration]) -> list[Configuration]:
    """Sort configurations by length, degree and test size, and at each of them by the mean, the best first.

    Configurations most of whose runs did not end well come last.
    """

    def rank(configuration: Configuration) -> tuple[bool, float]:
        if not configuration.values:
            return True, math.inf
        mean = configuration.interval.center
        return 2 * len(configuration.values) < configuration.trials, -mean if configuration.higher_is_better else mean

    place = {id(c): tuple(c[name] if known(c[name]) else -1 for name in ("L", "degree", *SIZES)) for c in configurations}
    return sorted(configurations, key=lambda c: (place[id(c)], rank(c)))


def results(configurations: Sequence[Configuration], metric: str, title: str) -> Table:
    """Return the results table, one line per configuration, the best of each difficulty first."""
    configurations = best_first(configurations)
    columns = varying(list(configurations), _COLUMNS)
    names = labels(configurations, without=[*_COLUMNS, *PROTOCOL])
    protocols = [", ".join(_protocol_parts(c).values()) for c in configurations]
    several = not _alike(protocols)  # then it distinguishes lines, and stands before the results
    header = ["model", *columns, *(["protocol"] if several else []), metric, "95 % interval", "solved", "reading", "floor"]
    header += ["best", _RUNS, "rate", "parameters", "state", "FLOPs per token", "reach"]
    lines = [
        [
            *(names[id(c)], *(plain(c[column]) for column in columns), *([protocol] if several else [])),
            *(*_outcome(c), _rate(c), *_sizes(c), *([] if several else [protocol])),
        ]
        for c, protocol in zip(configurations, protocols, strict=True)
    ]
    brief = ["model", *_told_apart(header, lines, columns, several), "parameters", metric, "95 % interval", "solved"]
    brief += ["floor"] if any(c.floor is not None for c in configurations) else []
    header += [] if several else ["protocol"]
    table = Table(title, header, lines, [[c] for c in configurations], main=True, folded=_RUNS, brief=brief)
    return replace(table, narrow=_narrow(table, columns, metric))


def _narrow(table: Table, settings: Sequence[str], metric: str) -> Table:
    """Return a results table for a screen: the metric beside the model, then what differs, sizes, and the rest.

    A tuned rate is a result, and Wilson's interval a column of its own.
    """
    configurations = [own for (own,) in table.configurations]
    parts = [_protocol_parts(configuration) for configuration in configurations]
    apart = [name for name, values in _protocol_values(configurations).items() if not _alike(values)]
    late = ["lr"] if "lr" in settings and all(c.tuned for c in configurations) else []
    order = ["model", metric, *(name for name in settings if name not in late), *apart, "95 % interval", "solved", "floor"]
    order += ["parameters", "state", "reading", "best", *late, "rate", _SHARE, "FLOPs per token", "reach"]
    header = [name for name in order if name not in _constant(table)]
    lines = []
    for line, part in zip(table.lines, parts, strict=True):
        cells = dict(zip(table.header, line, strict=True))
        count, _, share = cells["solved"].partition(" (")
        cells |= part | {"solved": count, _SHARE: share.removesuffix(")") or "-"}
        lines.append([cells[name] for name in header])
    return replace(table, header=header, lines=lines)


def _constant(table: Table) -> list[str]:
    """Return the columns of a results table that say the same in each of several lines, apart from an alarm."""
    values = {name: [line[table.header.index(name)] for line in table.lines] for name in _QUIET}
    alike = {name: own[0] for name, own in values.items() if len(own) > 1 and _alike(own)}
    return [name for name, value in alike.items() if not value.startswith("BELOW")]


def _alike(values: Iterable[str]) -> bool:
    return len(set(values)) < 2


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
    ended = [f"{count} {how}" for how, count in configuration.unfinished.items()]
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
    floor = number(configuration.floor) if configuration.floor is not None else _no_bound(configuration)
    return [mean, spread, solved, configuration.reading, floor, number(configuration.best), ", ".join(runs)]


def each_run(configuration: Configuration) -> list[tuple[str, str, str]]:
    """Return for each run its seed (and its instance, if there are several), its value or how it ended, and its key."""
    several = len(set(configuration.each("instance"))) > 1
    instances, seeds, values, keys = (configuration.each(c) for c in ("instance", "seed", "value", "key"))
    return [
        (f"i{instance}/{seed}" if several else str(seed), number(value) if pd.notna(value) else how, key)
        for instance, seed, value, how, key in zip(instances, seeds, values, configuration.endings, keys, strict=True)
    ]


def _sizes(configuration: Configuration) -> list[str]:
    degree, order = configuration["network_degree"], configuration["network_order"]
    both = known(degree) and known(order)
    reach = f"degree {_bounded(degree)}, order {_bounded(order)}" if both else _no_bound(configuration)
    flops = configuration["flops_per_token"]
    return [
        *map(plain, (configuration["parameters"], configuration["state_size"])),
        number(flops) if known(flops) else "-",
        reach,
    ]


def _no_bound(configuration: Configuration) -> str:
    """Return whether a network without a degree is not polynomial, or its layer states nothing.

    Tables before schema 7 do not tell the two apart for a layer that is not built in.
    """
    silent = not known(configuration["network_polynomial"]) and configuration["norm"] == "none"
    return NOT_STATED if silent and BUILT_IN not in configuration.each("model_origin") else NO_BOUND.value


def _bounded(number: int) -> str:
    """Format a whole number; the largest that the table can hold stands for all that are larger."""
    return str(int(number)) if number < 2**63 - 1 else "at least 2^63 - 1"


def _rate(configuration: Configuration) -> str:
    if configuration.tuning is None or not configuration.tuned:
        return Strong("not tuned")
    edge = ", at the edge" if configuration["lr"] in (configuration.tuning.rates[0], configuration.tuning.rates[-1]) else ""
    return f"best of {len(configuration.tuning.rates)}, {configuration.tuning.runs} runs{edge}"


def _protocol_parts(configuration: Configuration) -> dict[str, str]:
    switches = {name: configuration[name] for name in ("residual", "skip")}
    shown = {name: "-" if not known(value) else "on" if value else "off" for name, value in switches.items()}
    base = "" if configuration.base == "auto" else f" (base {configuration.base})"
    return {"norm": str(configuration["norm"]), "positions": f"{configuration['positions']}{base}", **shown}


def _protocol_values(configurations: Iterable[Configuration]) -> dict[str, list[str]]:
    """Return the known values of each part of the protocol; a layer without a skip connection has none."""
    parts = [_protocol_parts(configuration) for configuration in configurations]
    return {name: [part[name] for part in parts if part[name] != "-"] for name in parts[0]}


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
                "yes" if posed else Strong("no"),
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
    runs = frame.loc[frame["kind"] == "run", ["key", "created", *_SOURCES]].drop_duplicates("key")
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
