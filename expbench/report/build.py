"""The report: what a results table says, as a document, written as Markdown, a page, LaTeX and SVG. It never imports torch.

It is a pure function of the table and of the claims beside it.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from expbench.claims import claim, post_hoc, verdicts
from expbench.errors import BadInput, unknown
from expbench.report import language, latex, overview_figures, published, tables
from expbench.report.document import Block, Claims, Document, Picture, Section, Table, markdown
from expbench.report.drawing import save
from expbench.report.figures import beside_controls, curves, depth_against_degree, metric_against
from expbench.report.html import page
from expbench.report.labels import labels
from expbench.results.cells import Cell, gather, with_context
from expbench.results.schema import TRAINED

_MOST_DRAWN = 24  # names that a figure can tell apart
_PREFACE = """\
Each row is a model in one setting. The mean is over seeds; where there are several instances it is over their means, and so
is its 95 % interval (Student's t). What was trained in epochs counts as it was after the one that the selection split, of a
text its validation split, has found best. `solved` is the share of runs that reach the task's threshold, with Wilson's
interval; a run that diverged counts as unsolved and has no part in the mean. `rate` says how the learning rate was chosen:
as the best of so many, by so many runs with seeds that are not reported, on the selection split; or that it was **not
tuned**. `reach` is the polynomial degree of the network's output and how many positions one term of it can join; a network
with a normalisation, softmax, exp or softplus in it has no polynomial bound. `floor` is the least error that any polynomial
of that degree, joining positions as this network does, can have: a lower bound for the network. A floor of 0 says that no
bound forbids the task; it does not say that a network of this width and with these position codes can represent it. Where no
run of a cell solves the task, `reading` says what is known of the network: `not representable`: its floor lies above the
threshold (and whether the mean is at it); `representable, not found`: a run of the same network solves the task (one of its
instances, where there are several) in another cell, with another learning rate, say, or more steps, or from a construction
(`--init`); `unknown`: neither holds, and a failed search proves nothing.
Protocol: norm, positions, residual, skip. Two models in one table may have different `positions`; a difference between them
is then a difference of layer and positions together."""


def write_report(
    frame: pd.DataFrame,
    folder: Path,
    *,
    tasks: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    against: str | None = None,
) -> Path:
    """Write ``folder/report/report.md`` with its figures, and beside it the page and LaTeX; return its path.

    tasks, models: what is shown of the runs. against: a model that every other one is compared to, and that is shown too.
    Raises `BadInput` if nothing is left to show.
    """
    if models is not None and against is not None:
        models = list(dict.fromkeys([*models, against]))
    kept = with_context(_chosen(frame, folder, tasks, models, against))
    cells = gather(kept)
    target = folder / "report"
    try:
        shutil.rmtree(target / "figures", ignore_errors=True)
        (target / "figures").mkdir(parents=True)
    except OSError as error:
        raise BadInput(
            f"{target} cannot be written ({error.strerror or error}); move it away, or give another --results"
        ) from error
    every = cells if len(kept) == len(frame) else None
    sections = [*_against(cells, kept, against), *_claims(frame, every, cells, folder, compared=against is not None)]
    settings = {place: list(own) for place, own in groupby(cells, key=lambda cell: (cell["task"], cell["context"]))}
    by_setting = [
        replace(_section(own, kept, task, context, f"{index}-{task}", target), apart=_apart(task, context, settings))
        for index, ((task, context), own) in enumerate(settings.items(), start=1)
    ]
    main = [block for section in by_setting for block in section.blocks if isinstance(block, Table) and block.main]
    sections += [*_depths(cells, target, main), *language.sections(kept, cells, target)]
    sections += [Section("How to read the tables", [_PREFACE], aside=True), *by_setting]
    sections += [*_ledger(kept, cells, target), Section("Provenance", [tables.provenance(kept)])]
    document = Document(_headline(kept, cells), sections, _command(folder, tasks, models, against))
    path = target / "report.md"
    path.write_text(markdown(document, target), encoding="utf-8")
    (target / "report.html").write_text(page.render(document), encoding="utf-8")
    (target / "report.tex").write_text(latex.render(document), encoding="utf-8")
    return path


def _apart(task: str, context: str, settings: Iterable[tuple[str, str]]) -> str:
    """The settings of a task that it does not have wherever it was run."""
    every = [other.split(", ") for name, other in settings if name == task]
    return ", ".join(one for one in context.split(", ") if not all(one in other for other in every))


def _chosen(
    frame: pd.DataFrame,
    folder: Path,
    tasks: Sequence[str] | None,
    models: Sequence[str] | None,
    against: str | None,
) -> pd.DataFrame:
    """The rows of these tasks and models, with the controls of the tasks; raises `BadInput` where a name has no runs."""
    runs = frame[frame["kind"] == "run"]
    if runs.empty:
        raise BadInput(f"{folder} holds no runs yet; expbench run --task polyreg --models s6,attn makes some")
    for task in tasks or []:
        if task not in set(runs["task"]):
            raise unknown(f"task in {folder}:", task, runs["task"].unique())
    of_tasks = runs if tasks is None else runs[runs["task"].isin(tasks)]
    on = f" on {', '.join(tasks)}" if tasks else ""
    for model in [*(models or []), *([against] if against else [])]:
        if model not in set(of_tasks["model"]):
            raise unknown(f"model in {folder}{on}:", model, of_tasks["model"].unique())
    kept = frame if tasks is None else frame[frame["task"].isin(tasks)]
    return kept if models is None else kept[~kept["kind"].isin(TRAINED) | kept["model"].isin(models)]


def _command(folder: Path, tasks: Sequence[str] | None, models: Sequence[str] | None, against: str | None) -> str:
    """What writes this report again."""
    words = ["expbench", "report", "--results", folder.as_posix()]
    words += ["--task", ",".join(tasks)] if tasks is not None else []
    words += ["--models", ",".join(models)] if models is not None else []
    words += ["--against", against] if against is not None else []
    return shlex.join(words)


def _against(cells: Sequence[Cell], frame: pd.DataFrame, reference: str | None) -> list[Section]:
    """Every other model's differences to one."""
    if reference is None:
        return []
    made = post_hoc.against(cells, reference)
    if not made:
        raise BadInput(f"--against {reference}: no other model that is shown was run on a task that it was run on")
    return [Section(f"Each model against {reference}", [Claims(verdicts.judge(made, frame, cells))])]


def _claims(
    frame: pd.DataFrame, every: Sequence[Cell] | None, shown: Sequence[Cell], folder: Path, *, compared: bool
) -> list[Section]:
    """What has become of the claims that were written into the folder, and are of models and tasks that are shown.

    All are judged, as Holm's correction is for all. Where there are none, models are compared all the same, unless they are
    already, and it is said that nobody claimed that beforehand.
    """
    title, made = "Claims", claim.read(folder)
    if not made and not compared:
        title, made = "Comparisons that were not claimed beforehand", post_hoc.of_models(shown)
    names = {(cell["task"], cell["model"]) for cell in shown}
    findings = verdicts.judge(made, frame, every) if made else []
    concerned = [f for f in findings if every or {(f.claim.task, s.name) for s in (f.claim.left, f.claim.right)} <= names]
    if not concerned:
        return []
    rest = len(findings) - len(concerned)
    said = [f"{rest} more, of other tasks and models, stand in the report of all runs."] if rest else []
    return [Section(title, [Claims(concerned), *said])]


def _ledger(frame: pd.DataFrame, cells: Sequence[Cell], target: Path) -> list[Section]:
    """What was published, if some of it was run."""
    found = published.entries(frame, cells)
    if not any(entry.cell for entry in found):
        return []
    table = published.table(found)
    parts: list[Block] = [published.summary(found), table]
    figure = overview_figures.beside_published([entry for entry in found if entry.verdict in ("reproduces", "differs")])
    if figure is not None:
        save(figure, target / "figures" / "published.svg")
        parts.insert(0, Picture("published numbers and ours", target / "figures" / "published.svg", [table]))
    return [Section("Beside the published numbers", parts)]


def _depths(cells: Sequence[Cell], target: Path, data: Sequence[Table]) -> list[Section]:
    """What depth solves, if depths and degrees were run."""
    figure = overview_figures.solved_by_depth(cells)
    if figure is None:
        return []
    path = target / "figures" / "solved-by-depth.svg"
    save(figure, path)
    said = (
        "The largest degree that at least half the runs solve, against depth. Dashed: the largest whose floor lies below "
        "the threshold. Above it no network of that degree and structure can solve the task; up to it no bound forbids a "
        "solution, which does not show that one exists."
    )
    return [Section("Depth against degree", [Picture("the largest degree solved against depth", path, data), said])]


def _headline(frame: pd.DataFrame, cells: Sequence[Cell]) -> str:
    count = sum(len(cell.runs) for cell in cells)
    models = len({cell["model"] for cell in cells})
    devices = ", ".join(sorted(frame["device_name"].dropna().unique()))
    versions = ", ".join(f"{name} {'/'.join(sorted(frame[name].dropna().unique()))}" for name in ("expbench", "torch"))
    ended = {status: sum(cell.count(status) for cell in cells) for status in ("diverged", "failed", "unsupported")}
    bad = "".join(f", {n} {status}" for status, n in ended.items() if n)
    return f"{count} runs{bad} of {models} models; {versions}; {devices}."


def _section(cells: list[Cell], frame: pd.DataFrame, task: str, context: str, name: str, target: Path) -> Section:
    controls = frame[
        ~frame["kind"].isin(TRAINED)
        & (frame["task"] == task)
        & (frame["context"] == context)
        & frame["headline"].fillna(False).astype(bool)
    ]
    metric = next((cell.metric for cell in cells if cell.metric), "")
    parts: list[Block] = []
    if metric:
        sign, better = (">=", "higher") if cells[0].higher_is_better else ("<=", "lower")
        parts.append(
            f"Judged by **{metric}** on the test split, {better} is better; solved at {sign} {cells[0].solved_at:g}."
        )
    main = tables.results(cells, metric or "result", f"{task}: results")
    others = [tables.of_labels(cells, f"{task}: labels"), tables.of_controls(controls, f"{task}: controls")]
    parts += [tables.same(cells), main, *(table for table in others if table is not None)]
    keys = {key for cell in cells for key in cell.each("key")}
    headline = frame[
        frame["headline"].fillna(False).astype(bool) & (frame["split"] == "selection") & frame["key"].isin(keys)
    ]
    drawn = [cell for cell in cells if cell.values]
    names = len(set(labels(drawn).values()))
    if names > _MOST_DRAWN:
        parts.append(f"{names} models and settings are too many for a figure; `expbench report --models` draws some.")
    elif drawn:
        for title, draw in _figures(drawn, controls, headline).items():
            path = target / "figures" / f"{name}-{title.replace(' ', '-')}.svg"
            save(draw(), path)
            parts.append(Picture(f"{task}: {title}", path, [main]))
    return Section(task, parts, context)


def _figures(cells: list[Cell], controls: pd.DataFrame, headline: pd.DataFrame) -> dict[str, Callable[[], Figure]]:
    """The figures that these cells call for, by title."""
    figures: dict[str, Callable[[], Figure]] = {}
    depths = {cell["depth"] for cell in cells}
    degrees = {cell["degree"] for cell in cells} - {None}
    for axis in _axes(cells):
        figures[f"metric against {axis}"] = partial(metric_against, cells, controls, axis)
    if len(degrees) > 1 or len(depths) > 1:
        figures["depth against degree"] = lambda: depth_against_degree(cells)
    if headline["key"].value_counts().median() > 1:  # a point is no curve: a table may hold the ends of most runs alone
        figures["curves"] = lambda: curves(cells, headline)
    if len(controls):
        figures["controls"] = lambda: beside_controls(cells, controls)
    return figures


def _axes(cells: Sequence[Cell]) -> list[str]:
    """What the metric is to be drawn against: L and degree where they vary; where each L has one degree, L says it all."""
    lengths = {cell["L"] for cell in cells}
    places = {(cell["L"], cell["degree"]) for cell in cells if cell["degree"] is not None}
    several = len({degree for _, degree in places}) > 1 and len(places) > len(lengths)
    return [*(["L"] if len(lengths) > 1 else []), *(["degree"] if several else [])]
