"""The report on a results table, written as Markdown, HTML, LaTeX and SVG.

It is a pure function of the table and of the claims in the same folder, and it never imports torch.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

import pandas as pd

from expbench.claims import claim, formatting, planning, post_hoc, verdicts
from expbench.console.formatting import escaped
from expbench.errors import BadInput, unknown
from expbench.report import language, latex, overview_figures, published, tables
from expbench.report.document import Block, Claims, Document, FigureBlock, Section, Table, markdown
from expbench.report.drawing import Figure, save
from expbench.report.figures import beside_controls, curves, depth_against_degree, metric_against
from expbench.report.folder import replacing
from expbench.report.html import page
from expbench.report.labels import labels
from expbench.results.certificates.kept import certified
from expbench.results.configurations import UNFINISHED, Configuration, gather, with_context
from expbench.results.schema import TRAINED

_MOST_DRAWN = 24  # names that a figure can distinguish
_PREFACE = """\
Each row is one configuration of a model. Rows are sorted by length, degree and test size, and then by the mean, the best
first; rows of which most runs diverged or failed come last. The columns are:

- mean: over seeds; with several instances, over the means of the instances. The 95 % interval is Student's t over the same
  units. A run trained in epochs is reported at the epoch with the best validation result.
- `solved`: share of runs that reach the success threshold, with Wilson's interval. A run that diverged counts as unsolved
  and is not part of the mean. One that diverged before step 20 is counted as diverged at the start: it tells about the
  initial weights, and not about what training would find.
- `rate`: how the learning rate was chosen: the number of rates tried and the number of tuning runs. Tuning runs are judged
  on the validation split, and their seeds are not reported. **not tuned** means that no tuning runs chose the rate.
- `reach`: polynomial degree of the network's output, and its order: the number of positions that one term can combine. A
  network with normalisation, softmax, exp or softplus has no polynomial bound. `not stated`: the layer does not say what
  it is (`expbench check` measures it).
- `floor`: a proved lower bound on the error of every network like this one, in exact arithmetic: of every polynomial of that
  degree that combines positions as this network does; of one layer of linear attention with these position codes (span); of
  every predictor that ignores the order of the past (symmetry). With a floor of 0 no bound rules the task out; a network of
  this width may still be unable to represent it.
- `reading`: conclusion about the network if no run of the configuration solves the task. `not representable`: its floor
  lies above the threshold. In brackets: at its floor, if the interval ends within 10 % of the floor; perhaps at it, if only
  the mean lies there; otherwise above it; and the bound. `representable, not found`: a network of this class solves the task
  and can be built again, from a construction (`--init`) or from kept weights (`--save-weights`). `solved in another
  configuration`: a run of the same class solved it, for example with another learning rate or more steps, but its weights
  were not kept, so this is an observation and no proof. `unknown`: none of these; a failed search proves nothing. Bounds by
  degree, structure and span hold without normalisation only.
- `protocol`: norm, positions, residual, skip; report.html has a column for each that differs. If two models in one table
  have different `positions`, a difference between them is a difference of layer and positions together."""


def write_report(
    frame: pd.DataFrame,
    folder: Path,
    *,
    tasks: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    against: str | None = None,
    witnesses: Path | None = None,
) -> Path:
    """Write ``folder/report/report.md`` with its figures, ``report.html`` and ``report.tex``; return the path of the first.

    They replace the last report together, and all other files stay. tasks, models: the runs to show. against: a model that
    every other model is compared to, which is also shown. witnesses: another results folder; its networks with kept weights
    prove what can be represented. Raise `BadInput` if no runs remain or the folder is not writable.
    """
    if models is not None and against is not None:
        models = list(dict.fromkeys([*models, against]))
    kept = with_context(_chosen(frame, folder, tasks, models, against))
    configurations = certified(gather(kept), folder, witnesses)
    every = configurations if len(kept) == len(frame) else None
    judged = [
        *_against(configurations, kept, against),
        *_claims(frame, every, configurations, folder, compared=against is not None),
    ]
    with replacing(folder / "report") as target:
        (target / "figures").mkdir()
        sections = [*judged, *_results(kept, configurations, target)]
        document = Document(_summary(kept, configurations), sections, _command(folder, tasks, models, against, witnesses))
        pages = {"md": markdown(document, target), "html": page.render(document), "tex": latex.render(document)}
        for ending, text in pages.items():
            (target / f"report.{ending}").write_text(text, encoding="utf-8")
    return folder / "report" / "report.md"


def _results(frame: pd.DataFrame, configurations: Sequence[Configuration], target: Path) -> list[Section]:
    """Return the sections on results, and write their figures below `target`."""
    settings = {place: list(own) for place, own in groupby(configurations, key=lambda c: (c["task"], c["context"]))}
    by_setting = [
        replace(
            _section(own, frame, task, context, f"{index}-{_file_name(task)}", target), apart=_apart(task, context, settings)
        )
        for index, ((task, context), own) in enumerate(settings.items(), start=1)
    ]
    main = [block for section in by_setting for block in section.blocks if isinstance(block, Table) and block.main]
    sections = [*_depths(configurations, target, main), *language.sections(frame, configurations, target)]
    sections += [Section("How to read the tables", [_PREFACE], aside=True), *by_setting]
    return [*sections, *_published(frame, configurations, target), Section("Provenance", [tables.provenance(frame)])]


def _file_name(task: str) -> str:
    """Return a name for the files of a task: its ASCII letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", task)[:60]


def _apart(task: str, context: str, settings: Iterable[tuple[str, str]]) -> str:
    """Return the settings of a task that are not the same in every context of the task."""
    every = [other.split(", ") for name, other in settings if name == task]
    return ", ".join(one for one in context.split(", ") if not all(one in other for other in every))


def _chosen(
    frame: pd.DataFrame,
    folder: Path,
    tasks: Sequence[str] | None,
    models: Sequence[str] | None,
    against: str | None,
) -> pd.DataFrame:
    """Return the rows of these tasks and models, with the controls of the tasks; raise `BadInput` if a name has no runs."""
    runs = frame.loc[frame["kind"] == "run", ["task", "model"]]  # a copy of every column would need most of the memory
    if runs.empty:
        raise BadInput(f"{folder} contains no runs yet; create some with expbench run --task polyreg --models s6,attn")
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


def _command(
    folder: Path, tasks: Sequence[str] | None, models: Sequence[str] | None, against: str | None, witnesses: Path | None
) -> str:
    """Return the command line that writes this report."""
    words = ["expbench", "report", "--results", folder.as_posix()]
    words += ["--task", ",".join(tasks)] if tasks is not None else []
    words += ["--models", ",".join(models)] if models is not None else []
    words += ["--against", against] if against is not None else []
    words += ["--witnesses", witnesses.as_posix()] if witnesses is not None else []
    return shlex.join(words)


def _against(configurations: Sequence[Configuration], frame: pd.DataFrame, reference: str | None) -> list[Section]:
    """Return the section that compares every other model to the reference, if there is one."""
    if reference is None:
        return []
    made = post_hoc.against(configurations, reference)
    if not made:
        raise BadInput(f"--against {reference}: no other model in this report was run on the same task")
    return [Section(f"Each model against {reference}", [Claims(verdicts.judge(made, frame, configurations))])]


def _claims(
    frame: pd.DataFrame,
    every: Sequence[Configuration] | None,
    shown: Sequence[Configuration],
    folder: Path,
    *,
    compared: bool,
) -> list[Section]:
    """Return the section on the folder's claims about the models and tasks shown.

    All claims are judged, since Holm's correction covers all of them. Without claims and without `--against`, models are
    compared anyway, under a title that marks the comparisons as not claimed beforehand. Withdrawn claims have a section of
    their own and no verdict.
    """
    title, known = "Claims", claim.read(folder)
    made = claim.standing(known)
    withdrawn = [one for one in known if one.withdrawn is not None]
    aside = [Section("Withdrawn claims", [formatting.withdrawn(withdrawn)], aside=True)] if withdrawn else []
    if not known and not compared:
        title, made = "Comparisons that were not claimed beforehand", post_hoc.of_models(shown)
    names = {(c["task"], c["model"]) for c in shown}
    findings = verdicts.judge(made, frame, every) if made else []
    concerned = [f for f in findings if every or {(f.claim.task, s.name) for s in (f.claim.left, f.claim.right)} <= names]
    if not concerned:
        return aside
    rest = len(findings) - len(concerned)
    said = [f"The report on all runs has {rest} more, on other tasks and models."] if rest else []
    said += [planned] if (planned := planning.summary(concerned)) else []
    return [Section(title, [Claims(concerned), *said]), *aside]


def _published(frame: pd.DataFrame, configurations: Sequence[Configuration], target: Path) -> list[Section]:
    """Return the section on published numbers, if some of these configurations were run."""
    found = published.entries(frame, configurations)
    if not any(entry.configuration for entry in found):
        return []
    table = published.table(found)
    parts: list[Block] = [published.summary(found), table]
    figure = overview_figures.beside_published([entry for entry in found if entry.verdict in ("reproduces", "differs")])
    if figure is not None:
        save(figure, target / "figures" / "published.svg")
        parts.insert(0, FigureBlock("published numbers and ours", target / "figures" / "published.svg", [table]))
    return [Section("Comparison with published numbers", parts)]


def _depths(configurations: Sequence[Configuration], target: Path, data: Sequence[Table]) -> list[Section]:
    """Return the section on the largest degree solved at each depth, if several depths and degrees were run."""
    figure = overview_figures.solved_by_depth(configurations)
    if figure is None:
        return []
    path = target / "figures" / "solved-by-depth.svg"
    save(figure, path)
    said = (
        "Largest degree that at least half of the runs solve, against depth. Dashed: largest degree whose floor lies below "
        "the success threshold. Above it no such network can solve the task. Up to it no bound rules out a "
        "solution, which does not prove that one exists."
    )
    picture = FigureBlock("the largest degree solved against depth", path, data)
    return [Section("Depth against degree", [picture, said], results=True)]


def _summary(frame: pd.DataFrame, configurations: Sequence[Configuration]) -> str:
    count = sum(len(c.runs) for c in configurations)
    models = len({c["model"] for c in configurations})
    devices = ", ".join(sorted(frame["device_name"].dropna().unique()))
    versions = ", ".join(f"{name} {'/'.join(sorted(frame[name].dropna().unique()))}" for name in ("expbench", "torch"))
    ended = sum((c.unfinished for c in configurations), Counter[str]())
    bad = "".join(f", {ended[how]} {how}" for how in UNFINISHED if ended[how])
    return f"{count} runs{bad} of {models} models; {versions}; {devices}."


def _section(
    configurations: list[Configuration], frame: pd.DataFrame, task: str, context: str, name: str, target: Path
) -> Section:
    controls = frame[
        ~frame["kind"].isin(TRAINED) & (frame["task"] == task) & (frame["context"] == context) & frame["primary"].eq(True)
    ]
    metric = next((c.metric for c in configurations if c.metric), "")
    parts: list[Block] = []
    if metric:
        sign, better = (">=", "higher") if configurations[0].higher_is_better else ("<=", "lower")
        parts.append(
            f"Primary metric: **{escaped(metric)}** on the test split ({better} is better). "
            f"Success threshold: {sign} {configurations[0].success_threshold:g}."
        )
    main = tables.results(configurations, metric or "result", f"{task}: results")
    others = [tables.of_labels(configurations, f"{task}: labels"), tables.of_controls(controls, f"{task}: controls")]
    parts += [tables.same(configurations, main), main]
    keys = {key for c in configurations for key in c.each("key")}
    validated = frame["primary"].eq(True) & (frame["split"] == "validation") & frame["key"].isin(keys)
    primary = frame.loc[validated, ["key", "step", "value"]]
    drawn = [c for c in configurations if c.values]
    names = len(set(labels(drawn).values()))
    if names > _MOST_DRAWN:
        parts.append(
            f"{names} models and settings are too many for one figure; select some with `expbench report --models`."
        )
    elif drawn:
        for title, draw in _figures(drawn, controls, primary).items():
            path = target / "figures" / f"{name}-{title.replace(' ', '-')}.svg"
            save(draw(), path)
            parts.append(FigureBlock(f"{task}: {title}", path, [main]))
    parts += [table for table in others if table is not None]
    return Section(task, parts, context, results=True)


def _figures(
    configurations: list[Configuration], controls: pd.DataFrame, primary: pd.DataFrame
) -> dict[str, Callable[[], Figure]]:
    """Return functions that draw the figures suited to these configurations, by title."""
    figures: dict[str, Callable[[], Figure]] = {}
    depths = {c["depth"] for c in configurations}
    degrees = {c["degree"] for c in configurations} - {None}
    for axis in _axes(configurations):
        figures[f"metric against {axis}"] = partial(metric_against, configurations, controls, axis)
    if len(degrees) > 1 or len(depths) > 1:
        figures["depth against degree"] = lambda: depth_against_degree(configurations)
    if primary["key"].value_counts().median() > 1:  # a compacted table has only the last point of most runs
        figures["curves"] = lambda: curves(configurations, primary)
    if len(controls):
        figures["controls"] = lambda: beside_controls(configurations, controls)
    return figures


def _axes(configurations: Sequence[Configuration]) -> list[str]:
    """Return the x axes to draw the metric against: those of L and degree that vary; only L if it determines the degree."""
    lengths = {c["L"] for c in configurations}
    places = {(c["L"], c["degree"]) for c in configurations if c["degree"] is not None}
    several = len({degree for _, degree in places}) > 1 and len(places) > len(lengths)
    return [*(["L"] if len(lengths) > 1 else []), *(["degree"] if several else [])]
