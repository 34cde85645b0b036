"""The report: Markdown tables and SVG figures, a pure function of the results table. It never imports torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from expbench import claims, ledger, overviews, plots, texts, verdict_text, verdicts
from expbench.cells import PROTOCOL, SIZES, TRAINING, Cell, gather, varying, with_context
from expbench.errors import BadInput, unknown
from expbench.run import LATER
from expbench.table import TRAINED
from expbench.text import NO_BOUND, markdown_table, number

_COLUMNS = ["L", "degree", *SIZES, *(column for column in TRAINING if column not in PROTOCOL)]
_MOST_DRAWN = 24  # names that a figure can tell apart
_LABELS = ["label_kurtosis", "label_interaction_order", "effective_sample_size"]
_PREFACE = """\
Each row is a model in one setting. The mean is over seeds; where there are several instances it is over their means, and so
is its 95 % interval (Student's t). `solved` is the share of runs that reach the task's threshold, with Wilson's interval;
a run that diverged counts as unsolved and has no part in the mean. `rate` says how the learning rate was chosen: as the
best of so many, by so many runs with seeds that are not reported, on the selection split; or that it was **not tuned**.
`reach` is the polynomial degree of the network's output and how many positions one term of it can join; a network with a
normalisation, softmax, exp or softplus in it has no polynomial bound. `floor` is the least error that any network of that
degree, joining positions as this one does, can have. Where no run of a cell solves the task, `reading` says what is known
of the network: `not representable`, for its floor lies above the threshold (and whether the mean is at it); `representable,
not found`, for the same network solves the same task in another cell, with another learning rate, say, or more steps, or
from a construction (`--init`); `unknown`, for neither is so: that nothing was found is no proof.
Protocol: norm, positions, residual, skip."""


def write_report(
    frame: pd.DataFrame, folder: Path, *, tasks: Sequence[str] | None = None, models: Sequence[str] | None = None
) -> Path:
    """Write ``folder/report/report.md`` with its figures; return its path. Raises `BadInput` if nothing is left to show."""
    runs = frame[frame["kind"] == "run"]
    if runs.empty:
        raise BadInput(f"{folder} holds no runs yet; expbench run --task polyreg --models s6,attn makes some")
    for kind, names in (("task", tasks), ("model", models)):
        for name in names or []:
            if name not in set(runs[kind]):
                raise unknown(f"{kind} in {folder}:", name, runs[kind].unique())
    kept = frame
    if tasks is not None:
        kept = kept[kept["task"].isin(tasks)]
    if models is not None:
        kept = kept[~kept["kind"].isin(TRAINED) | kept["model"].isin(models)]
    kept = with_context(kept)
    cells = gather(kept)
    if not cells:
        raise BadInput(f"{folder} holds no runs of {', '.join(models or [])} on {', '.join(tasks or [])}")
    target = folder / "report"
    try:
        shutil.rmtree(target / "figures", ignore_errors=True)
        (target / "figures").mkdir(parents=True)
    except OSError as error:
        raise BadInput(
            f"{target} cannot be written ({error.strerror or error}); move it away, or give another --results"
        ) from error
    every = cells if len(kept) == len(frame) else None
    parts = [f"# expbench report\n\n{_headline(kept, cells)}", *_claims(frame, every, cells, folder)]
    parts += [*_ledger(kept, cells, target), *_depths(cells, target), *texts.section(kept, cells, target)]
    parts += [f"## How to read the tables\n\n{_PREFACE}"]
    sections = groupby(cells, key=lambda cell: (cell["task"], cell["context"]))
    for index, ((task, context), section) in enumerate(sections, start=1):
        parts.append(_section(list(section), kept, task, context, f"{index}-{task}", target))
    path = target / "report.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _claims(frame: pd.DataFrame, every: Sequence[Cell] | None, shown: Sequence[Cell], folder: Path) -> list[str]:
    """What has become of the claims that were written into the folder; of all, as Holm's correction is for all.

    Where there are none, models are compared all the same, and it is said that nobody claimed that beforehand.
    """
    title, made = "Claims", claims.read(folder)
    if not made:
        title, made = "Comparisons that were not claimed beforehand", claims.of_models(shown)
    return [f"## {title}\n\n{verdict_text.markdown(verdicts.judge(made, frame, every))}"] if made else []


def _ledger(frame: pd.DataFrame, cells: Sequence[Cell], target: Path) -> list[str]:
    """What was published, if some of it was run."""
    found = ledger.entries(frame, cells)
    if not any(entry.cell for entry in found):
        return []
    parts = ["## Beside the published numbers"]
    figure = overviews.beside_published([entry for entry in found if entry.verdict in ("reproduces", "differs")])
    if figure is not None:
        plots.save(figure, target / "figures" / "published.svg")
        parts.append("![published numbers and ours](figures/published.svg)")
    return [*parts, ledger.text(found)]


def _depths(cells: Sequence[Cell], target: Path) -> list[str]:
    """What depth solves, if depths and degrees were run."""
    figure = overviews.solved_by_depth(cells)
    if figure is None:
        return []
    plots.save(figure, target / "figures" / "solved-by-depth.svg")
    return [
        "## Depth against degree",
        "![the largest degree solved against depth](figures/solved-by-depth.svg)",
        "The largest degree that at least half the runs solve, against depth. Dashed: the largest whose floor lies below "
        "the threshold; above it no network of that degree and structure can solve the task.",
    ]


def _headline(frame: pd.DataFrame, cells: Sequence[Cell]) -> str:
    count = sum(len(cell.runs) for cell in cells)
    models = len({cell["model"] for cell in cells})
    devices = ", ".join(sorted(frame["device_name"].dropna().unique()))
    versions = ", ".join(f"{name} {'/'.join(sorted(frame[name].dropna().unique()))}" for name in ("expbench", "torch"))
    ended = {status: sum(cell.count(status) for cell in cells) for status in ("diverged", "failed", "unsupported")}
    bad = "".join(f", {n} {status}" for status, n in ended.items() if n)
    return f"{count} runs{bad} of {models} models; {versions}; {devices}."


def _section(cells: list[Cell], frame: pd.DataFrame, task: str, context: str, name: str, target: Path) -> str:
    controls = frame[
        ~frame["kind"].isin(TRAINED)
        & (frame["task"] == task)
        & (frame["context"] == context)
        & frame["headline"].fillna(False).astype(bool)
    ]
    metric = next((cell.metric for cell in cells if cell.metric), "")
    parts = [f"## {task}\n\n{context}" if context else f"## {task}"]
    if metric:
        sign, better = (">=", "higher") if cells[0].higher_is_better else ("<=", "lower")
        parts.append(
            f"Judged by **{metric}** on the test split, {better} is better; solved at {sign} {cells[0].solved_at:g}."
        )
    parts += [_results(cells, metric or "result"), _labels(cells), _controls(controls)]
    keys = {key for cell in cells for key in cell.each("key")}
    headline = frame[
        frame["headline"].fillna(False).astype(bool) & (frame["split"] == "selection") & frame["key"].isin(keys)
    ]
    drawn = [cell for cell in cells if cell.values]
    names = len(set(plots.labels(drawn).values()))
    if names > _MOST_DRAWN:
        parts.append(f"{names} models and settings are too many for a figure; `expbench report --models` draws some.")
    elif drawn:
        for title, draw in _figures(drawn, controls, headline).items():
            path = target / "figures" / f"{name}-{title.replace(' ', '-')}.svg"
            plots.save(draw(), path)
            parts.append(f"![{task}: {title}](figures/{path.name})")
    return "\n\n".join(part for part in parts if part)


def _figures(cells: list[Cell], controls: pd.DataFrame, headline: pd.DataFrame) -> dict[str, Callable[[], Figure]]:
    """The figures that these cells call for, by title."""
    figures: dict[str, Callable[[], Figure]] = {}
    lengths, depths = ({cell[column] for cell in cells} for column in ("L", "depth"))
    degrees = {cell["degree"] for cell in cells} - {None}
    places = {(cell["L"], cell["degree"]) for cell in cells if cell["degree"] is not None}
    if len(lengths) > 1:
        figures["metric against L"] = lambda: plots.metric_against(cells, controls, "L")
    if len(degrees) > 1 and len(places) > len(lengths):  # where each L has one degree, the figure above says it all
        figures["metric against degree"] = lambda: plots.metric_against(cells, controls, "degree")
    if len(degrees) > 1 or len(depths) > 1:
        figures["depth against degree"] = lambda: plots.depth_against_degree(cells)
    if headline["key"].value_counts().median() > 1:  # most runs have kept theirs
        figures["curves"] = lambda: plots.curves(cells, headline)
    if len(controls):
        figures["controls"] = lambda: plots.beside_controls(cells, controls)
    return figures


def _results(cells: list[Cell], metric: str) -> str:
    columns = varying(cells, _COLUMNS)
    same = [
        f"{column}={_plain(cells[0][column])}"
        for column in _COLUMNS
        if column not in columns and _known(cells[0][column]) and cells[0][column] != LATER.get(column)
    ]
    names = plots.labels(cells, without=[*_COLUMNS, *PROTOCOL])
    header = ["model", *columns, metric, "95 % interval", "best", "solved", "every run (seed: value)"]
    header += ["floor", "reading", "rate", "parameters", "state", "FLOPs a token", "reach", "protocol"]
    lines = [
        [
            *(names[id(cell)], *(_plain(cell[column]) for column in columns)),
            *(*_outcome(cell), _rate(cell), *_sizes(cell), _protocol(cell)),
        ]
        for cell in cells
    ]
    return f"Same in all rows: {', '.join(same)}.\n\n{markdown_table(header, lines)}"


def _outcome(cell: Cell) -> list[str]:
    interval, share = cell.interval, cell.solved_share
    ended = [f"{cell.count(status)} {status}" for status in ("diverged", "failed", "unsupported") if cell.count(status)]
    mean = "; ".join([*([number(interval.center)] if cell.values else []), *ended])
    if cell["well_posed"] is False:
        mean += " (ill-posed)"
    spread = f"{number(interval.low)} to {number(interval.high)}" if pd.notna(interval.low) else "-"
    solved = f"{cell.solved}/{cell.trials} ({number(share.low)} to {number(share.high)})" if cell.trials else "-"
    several = len(set(cell.each("instance"))) > 1
    runs = [
        f"{f'i{instance}/' if several else ''}{seed}: {number(value) if pd.notna(value) else status}"
        for instance, seed, value, status in zip(
            *(cell.each(c) for c in ("instance", "seed", "value", "status")), strict=True
        )
    ]
    floor = number(cell.floor) if cell.floor is not None else NO_BOUND
    return [mean, spread, number(cell.best), solved, ", ".join(runs), floor, cell.reading]


def _sizes(cell: Cell) -> list[str]:
    degree, order = cell["network_degree"], cell["network_order"]
    reach = f"degree {int(degree)}, order {int(order)}" if _known(degree) else NO_BOUND
    flops = cell["flops_per_token"]
    return [*map(_plain, (cell["parameters"], cell["state_size"])), number(flops) if _known(flops) else "-", reach]


def _rate(cell: Cell) -> str:
    if cell.tuning is None or not cell.tuned:
        return "**not tuned**"
    edge = ", at the edge" if cell["lr"] in (cell.tuning.rates[0], cell.tuning.rates[-1]) else ""
    return f"best of {len(cell.tuning.rates)}, {cell.tuning.runs} runs{edge}"


def _protocol(cell: Cell) -> str:
    residual, skip = ("-" if not _known(cell[c]) else "on" if cell[c] else "off" for c in ("residual", "skip"))
    return f"{cell['norm']}, {cell['positions']}, {residual}, {skip}"


def _labels(cells: list[Cell]) -> str:
    """What is known of the labels in each setting of the task and each instance."""
    seen: dict[tuple[object, ...], list[str]] = {}
    for cell in cells:
        for instance, posed, *facts in zip(*(cell.each(c) for c in ("instance", "well_posed", *_LABELS)), strict=True):
            if not _known(facts[0]):
                continue
            place = (cell["L"], cell["degree"], cell["test_size"], instance)
            seen[place] = [
                _plain(cell["L"]),
                _plain(cell["degree"]),
                str(instance),
                *map(number, facts),
                "yes" if posed else "**no**",
            ]
    header = [
        "L",
        "degree",
        "instance",
        "kurtosis of the labels",
        "mean interaction order",
        "effective test sample",
        "well posed",
    ]
    return markdown_table(header, list(seen.values())) if seen else ""


def _controls(controls: pd.DataFrame) -> str:
    """The controls, a column each, in every cell of the task; their mean where there are several instances."""
    if controls.empty:
        return ""
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
        [_plain(L), _plain(degree), _plain(size), *(number(value) for value in values)]
        for L, degree, size, *values in wide[names].reset_index().itertuples(index=False, name=None)
    ]
    return markdown_table(header, lines)


def _known(value: object) -> bool:
    return value is not None and not pd.isna(value)  # type: ignore[call-overload]


def _plain(value: object) -> str:
    if not _known(value):
        return "-"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:g}"
    return str(value)
