"""Computations from results/starts, for docs/studies/others.md and docs/studies/degree.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

import pandas as pd

from expbench.results.reported import FIRST_STEPS
from expbench.studies.verification.degree_long import degree_study
from expbench.studies.verification.formatting import fixed, percent, significant, whole, word
from expbench.studies.verification.page import Statement
from expbench.studies.verification.tables import Tables, settings_of

LEARNED = 0.5  # a network below this training error has learned something; labels have variance 1
_ROWS = (("s6-poly", 8), ("s6-poly", 16), ("s6-poly", 32), ("s6-poly-disc", 32), ("mamba-poly", 32))
_DEPTHS = (1, 2, 3, 4)


def _setup(t: Tables, pattern: str) -> str:
    """Return a number of the sentence above the table of finite starts."""
    found = re.search(pattern, _text(t).partition("\n")[0])
    if found is None:
        raise ValueError(f"finite.md does not say {pattern}")
    return found[1]


def _text(t: Tables) -> str:
    return (t.root / "results" / "starts" / "finite.md").read_text(encoding="utf-8")


def finite(t: Tables) -> Mapping[tuple[str, int, str], int]:
    """Return of how many seeds the first loss and gradient are finite, by model, length, and start with its depth."""
    (_, _, *header), _, *lines = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in _text(t).splitlines() if line.startswith("|")
    )
    seeds = _setup(t, r"of (\d+) seeds")
    found = {}
    for model, length, *cells in lines:
        for name, cell in zip(header, cells, strict=True):
            count, _, of = cell.partition("/")
            if of != seeds:
                raise ValueError(f"{cell} is not of {seeds} seeds")
            found[model, int(length), name.removesuffix(" layers")] = int(count)
    return found


def finite_of_depths(t: Tables) -> Iterator[str]:
    """Return the width, then the counts of s6-poly at each length with four and three layers, and of the scaled start."""
    found, lengths = finite(t), [length for model, length in _ROWS if model == "s6-poly"]
    yield from (_setup(t, r"width (\d+)"), *map(str, lengths))
    for depth in (4, 3):
        yield from (str(found["s6-poly", length, f"literal, {depth}"]) for length in lengths)
        if depth == 4:
            yield _setup(t, r"of (\d+) seeds")
    yield _scaled(t, "s6-poly", *lengths)


def _scaled(t: Tables, model: str, *lengths: int) -> str:
    """Return the count of a model's scaled start, which is the same at all lengths and depths."""
    found = finite(t)
    (count,) = {found[model, length, f"scaled, {depth}"] for length in lengths for depth in _DEPTHS}
    return str(count)


def _finite_rows(t: Tables) -> Iterator[str]:
    found = finite(t)
    yield from (_setup(t, r"of (\d+) seeds"), _setup(t, r"(\d+) sequences"))
    yield from (*map(str, _DEPTHS), str(_DEPTHS[0]), str(_DEPTHS[-1]))
    for model, length in _ROWS:
        yield str(length)
        yield from (str(found[model, length, f"literal, {depth}"]) for depth in _DEPTHS)
        yield _scaled(t, model, length)


def learned(t: Tables) -> Sequence[str]:
    """Return the error below which a network has learned, how many networks of four layers do, and how many there are."""
    rows = t.study("starts").frame
    losses = rows[(rows["kind"] == "run") & (rows["metric"] == "loss") & (rows["split"] == "train")]
    last = losses[losses["step"] == losses["steps"]]
    return fixed(LEARNED, 1), str((last["value"] < LEARNED).sum()), str(len(t.study("starts").runs))


def size(t: Tables) -> Sequence[str]:
    """Return the length, degree, depth and steps of the trained networks."""
    (c,) = t.study("starts").configurations
    return str(c["L"]), str(c["degree"]), word(int(c["depth"])), whole(c["steps"])


def _trained(t: Tables) -> Iterator[str]:
    (c,) = t.study("starts").configurations
    if c.tuning is None or settings_of(c)["start"] != "scaled":
        raise ValueError("the runs are not tuned, or start otherwise")
    length, degree, depth, steps = size(t)
    yield from (depth.capitalize(), length, degree, steps)
    yield from (significant(c["lr"]), str(len(c.tuning.rates)), str(c.tuning.runs))
    yield from (*learned(t), word(len(t.study("starts").runs) - len(c.values)), *_tested(t))


def _unstable(t: Tables) -> Sequence[str]:
    """Return the rate from which on most tuning runs diverge."""
    tuning = t.study("starts").keys.query("kind == 'tuning'")
    diverged = tuning["status"].eq("diverged").groupby(tuning["lr"]).mean()
    stable = diverged.index[diverged <= 1 / 2].max()
    return (significant(diverged.index[diverged.index > stable].min()),)


def _polynomial(t: Tables, *depths: int) -> pd.DataFrame:
    """Return the runs of the polynomial S6 at these depths, up to L = 32."""
    runs = degree_study(t).runs
    return runs[(runs["model"] == "s6-poly") & (runs["L"] <= 32) & runs["depth"].isin(depths)]


def _diverged(t: Tables, *depths: int) -> str:
    return percent(_polynomial(t, *depths)["status"].eq("diverged").mean())


def _stopped(t: Tables) -> Sequence[str]:
    runs = _polynomial(t, 4)
    at = runs.loc[runs["status"] == "diverged", "error"].str.extract(r"at step (\d+) of")[0].astype(int)
    return percent((at < FIRST_STEPS).mean()), str(FIRST_STEPS), percent((at == 1).mean())


def _lowest_rate(t: Tables) -> Sequence[str]:
    runs, every = _polynomial(t, 4), degree_study(t).runs
    exact = every[(every["model"] == "s6") & (every["L"] <= 32) & (every["depth"] == 4)]
    lowest = runs["lr"].min()
    return (
        significant(lowest),
        whole((runs["lr"] == lowest).sum()),
        whole(len(runs)),
        percent(exact["status"].eq("ok").mean()),
    )


def _versions(t: Tables) -> Sequence[str]:
    """Return the version of s6-poly that starts scaled, and that of this study."""
    (later,), (own,) = (
        {c["model_version"] for c in s.having(model="s6-poly")} for s in (t.study("starts"), degree_study(t))
    )
    return later, own


def _scaled_start(t: Tables) -> Sequence[str]:
    length, degree, depth, _ = size(t)
    return depth.capitalize(), length, degree, *learned(t), *_tested(t)


def _tested(t: Tables) -> Iterator[str]:
    """Return the threshold, how many networks solve the label and how many ended, and their median and largest error."""
    (c,) = t.study("starts").configurations
    yield from (fixed(c.success_threshold, 2), str(c.solved), str(len(c.values)), fixed(median(c.values), 3))
    yield f"{max(c.values):.0e}".replace("e+0", "e")


def _one_layer(t: Tables) -> Sequence[str]:
    """Return the version of the study of degrees, and how many of its networks of one layer solve the same label."""
    (own,) = t.study("starts").configurations
    wanted = {"model": "s6-poly", "depth": 1, "family": "suffix", "inputs": "signs", "L": own["L"], "degree": own["degree"]}
    c = degree_study(t).only(**wanted)
    return str(c["model_version"]), str(c.solved), str(c.trials)


STATEMENTS = (
    Statement("networks of width {} without normalisation on `suffix` with signs", lambda t: (_setup(t, r"width (\d+)"),)),
    Statement(
        "\n".join(
            [
                "- **Of how many seeds out of {} the first loss and gradient are finite** ({} sequences):",
                "| model | L | literal, {} layer | {} | {} | {} | scaled, {} to {} layers |",
                "| --- | --- | --- | --- | --- | --- | --- |",
                *(f"| `{model}` | {{}} | {{}} | {{}} | {{}} | {{}} | {{}} |" for model, _ in _ROWS),
            ]
        ),
        _finite_rows,
    ),
    Statement(
        """- **{word} layers train from the scaled start, but few solve the label** (L = {}, degree {}, signs, {}
            steps). `--lr auto` chose a rate of {} from {} rates and {} tuning runs, on seeds of their own. At this
            rate the training error is below {} in {} of {} seeds; {word} diverged. The test error is at most {} in
            {} seeds. The median of the {} that ended is {}, and the largest {}.""",
        _trained,
    ),
    Statement("At {} and more, most of the tuning runs diverge", _unstable),
)
OF_DEGREE = (
    Statement(
        "{} % of its runs with three and four layers diverge, and {} % of those with one layer",
        lambda t: (_diverged(t, 3, 4), _diverged(t, 1)),
    ),
    Statement(
        "{} % of the diverged runs stop before step {} (`diverged at the start`), and {} % at the first step.",
        _stopped,
    ),
    Statement(
        """The first loss and gradient (width {}, no normalisation, signs, L = {}, {} and {}) are finite in {}, {} and {}
        of {} seeds with four layers, and in {}, {} and {} with three ([starts](others.md#starts-of-polynomial-layers)).
        - With a hundredth of the initial maps and skip they are finite in all {}.""",
        finite_of_depths,
    ),
    Statement("starts so from its version {} on; this study has version {}.", _versions),
    Statement(
        """{word} layers of it then train further, but this is not solving: at L = {} and degree {}, the training error is
        below {} in {} of {} seeds, and the test error is at most {} in {}. The median test error of the {} runs that ended
        is {}, and the largest {}.""",
        _scaled_start,
    ),
    Statement("One layer of version {} solves this label in {} of {} seeds.", _one_layer),
    Statement(
        """the rule of that time took the lowest rate, {} (in {} of the {} runs with four layers). The exact S6, with
        softplus and exp, keeps {} % of its runs""",
        _lowest_rate,
    ),
)
