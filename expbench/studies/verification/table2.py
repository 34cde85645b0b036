"""Computations of docs/studies/table2.md from results/table2: the study itself, and counting in a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median

from expbench.claims.claim import read
from expbench.claims.judgement import Judgement
from expbench.results.configurations import Configuration
from expbench.stats.intervals import Interval
from expbench.stats.power import POWER
from expbench.stats.resampling import further_mean_interval
from expbench.studies.published.numbers import table2
from expbench.studies.verification import polynomials_runs, table2_regression
from expbench.studies.verification.formatting import ends, fixed, percent, whole
from expbench.studies.verification.page import Page, Setting, Statement, Unverified
from expbench.studies.verification.tables import Tables, of_all, published, settings_of

_COUNT = "count-in-row"
_NORMS = ("layer", "none")
_LARGER = ((2, 1), (2, 4), (4, 4))  # width and number of layers of attention


def _size(t: Tables) -> Sequence[str]:
    keys = t.study("table2").keys
    return whole(len(keys)), whole(keys["device_name"].str.contains("CPU").sum())


def _unknown(t: Tables) -> Sequence[str]:
    s = t.study("table2")
    counting = s.having(task=_COUNT)
    lengths, steps, batches = ({c[name] for c in counting} for name in ("L", "steps", "batch_size"))
    (length,), (batch,), (labels,) = lengths, batches, {settings_of(c)["classes"] for c in counting}
    rates = min(c.tuning.runs for c in s.configurations if c.tuning is not None)
    return str(length), str(labels), whole(min(steps)), str(batch), str(rates)


def _seeds(t: Tables) -> Sequence[str]:
    (seeds,) = {len(set(c.each("seed"))) for c in t.study("table2").configurations}
    return (str(seeds),)


def _steps_of_codes(t: Tables) -> Sequence[str]:
    (steps,) = {c["steps"] for c in t.study("table2").having(model="s6", positions="sin")}
    return (whole(steps),)


def _withdrawn(t: Tables) -> Sequence[str]:
    claims = read(t.study("table2").folder)
    withdrawn = [claim for claim in claims if claim.withdrawn]
    if not all("differ in positions" in (claim.withdrawn or "") for claim in withdrawn):
        raise ValueError("claims are withdrawn for other reasons")
    return str(len(withdrawn)), str(len(claims))


def _power(t: Tables) -> Sequence[str]:
    """Return the numbers of seeds that the undecided pairs of the claims that stand need."""
    found = [j for f in t.study("table2").findings if not f.claim.withdrawn for j in f.judgements]
    needed = [j.needed for j in found if j.verdict == "undecided"]
    known = [units for units in needed if units is not None]
    few = [units for units in known if units <= 60]
    more = str(len(known) - len(few)), str(max(known))
    return (
        str(len(needed)),
        percent(POWER),
        str(len(few)),
        str(min(few)),
        str(max(few)),
        *more,
        str(len(needed) - len(known)),
    )


def _with_codes(t: Tables, *, D: int, depth: int, norm: str) -> list[Judgement]:
    """Return the claim that one layer of S6 of width 2 counts better than this attention, with codes on both sides."""
    about = ("model", *(["D"] if D > 2 else []), *(["depth"] if depth > 1 else []))
    text = f"s6(D=2, depth=1, positions=sin) > attn(D={D}, depth={depth}, positions=sin)"
    return [j for j in t.study("table2").post_hoc(text, _COUNT, about) if j.left["norm"] == norm]


def _counts_better(t: Tables) -> Iterator[str]:
    for D, depth in _LARGER:
        for norm in _NORMS:
            yield from of_all(
                _with_codes(t, D=D, depth=depth, norm=norm), "supported", "contradicted", "ceiling", "undecided"
            )


def _shares(t: Tables) -> Iterator[str]:
    """Yield the verdicts on the share solved, if none on the means is decided."""
    for D, depth in _LARGER:
        for norm in _NORMS:
            found = _with_codes(t, D=D, depth=depth, norm=norm)
            counts = Counter(str(j.share.verdict) for j in found)
            if {str(j.means.verdict) for j in found} != {"undecided on means"} or (counts["contradicted"] and D == 2):
                raise ValueError("means are decided, or attention of width 2 solves the task more often")
            yield from (str(counts["supported"]), *([str(len(found))] if D == 2 else [str(counts["contradicted"])]))


def _uses(t: Tables) -> Sequence[str]:
    """Return the numbers of protocols and of attention configurations in them, the same against each attention."""
    found = [[j for norm in _NORMS for j in _with_codes(t, D=D, depth=n, norm=norm)] for D, n in _LARGER]
    ((protocols, configurations),) = {(len(own), len({tuple(j.right.each("key")) for j in own})) for own in found}
    return str(protocols), str(configurations)


def _hurt_without_norm(t: Tables) -> Sequence[str]:
    """Return the protocols without a norm in which the larger attention counts better, and how many seeds solve each side.

    The third side is S6 without codes, of the registered claim that the codes hurt.
    """
    own = [j for j in _with_codes(t, D=4, depth=4, norm="none") if j.verdict == "contradicted"]
    no_codes = {tuple(j.right.each("key")): j for j in _codes_hurt(t, "none")}
    hurt = [no_codes[tuple(j.left.each("key"))] for j in own]
    if not all(j.verdict == "supported" for j in hurt) or t.study("table2").having(model="attn", positions="none"):
        raise ValueError("the codes do not hurt in these protocols, or attention was run without codes")
    (seeds,) = {c.trials for j in [*own, *hurt] for c in (j.left, j.right)}
    (solved,) = {j.left.solved for j in own}
    sides = [j.left.solved for j in hurt], [j.right.solved for j in own]
    return str(len(own)), str(solved), str(seeds), *(str(end) for side in sides for end in (min(side), max(side)))


def _width_of_4(t: Tables) -> Sequence[str]:
    """Return how many seeds solve counting for one layer of width 4, in the only protocol where attention has more."""
    own = t.study("table2").having(task=_COUNT, model="s6", D=4)
    if {c["positions"] for c in own} != {"none"}:
        raise ValueError("S6 of width 4 was run with codes")
    wanted = {"task": _COUNT, "D": 4, "depth": 1, "norm": "none", "head": "classes", "supervise": "last", "steps": 4000}
    attention, s6 = (t.study("table2").only(model=model, **wanted) for model in ("attn", "s6"))
    return str(attention.solved), str(attention.trials), str(s6.solved), str(s6.trials)


def _repeated(t: Tables) -> Sequence[str]:
    found = polynomials_runs.repeated(t)
    return str(len(found)), fixed(median(found), 3), fixed(max(found), 2)


def _parameters(t: Tables) -> Sequence[str]:
    own = t.study("table2").having(task=_COUNT, model="s6", D=2, depth=1, positions="none", head="scalar")
    return [str(n) for n in sorted({c["parameters"] for c in own})]


def _accuracies(t: Tables) -> dict[str, float]:
    """Return the plain accuracy of each run on the test split, in percent."""
    frame = t.study("table2").frame
    rows = frame[(frame["kind"] == "run") & (frame["split"] == "test") & (frame["metric"] == "accuracy")]
    rows = rows[rows["slice"] == ""]
    return dict(zip(rows["key"], 100 * rows["value"], strict=True))


def _larger_attention(t: Tables) -> Sequence[str]:
    known = _accuracies(t)
    own = t.study("table2").having(task=_COUNT, model="attn", D=4, depth=4)
    plain = ends((sum(known[key] for key in c.each("key")) / len(c.runs) for c in own), 0)
    balanced = ends((100 * c.interval.center for c in own), 0)
    (seeds,) = {c.trials for c in own}
    solved = ends((c.solved for c in own), 0)
    return published(_COUNT, "attn", "sin", depth=4, D=4), *plain, *balanced, *solved, str(seeds)


def _second_layer(t: Tables) -> Sequence[str]:
    return _all_words(t.study("table2").judgements("s6(D=2, depth=2, positions=none) > s6(D=2, depth=1, positions=none)"))


def _codes_hurt(t: Tables, norm: str) -> list[Judgement]:
    found = t.study("table2").judgements("s6(D=2, depth=1, positions=none) > s6(D=2, depth=1, positions=sin)")
    return [j for j in found if j.left["norm"] == norm]


def _codes_hurt_counting(t: Tables) -> Iterator[str]:
    yield from (published(_COUNT, "s6", positions, depth=1, D=2) for positions in ("none", "sin"))
    for norm in _NORMS:
        yield from _all_words(_codes_hurt(t, norm))


def _codes_help_counting(t: Tables) -> Sequence[str]:
    found = _codes_hurt(t, "layer")
    return str(sum(j.difference.center < 0 for j in found)), str(len(found))


def _larger_helps(t: Tables, *, D: int, depth: int, than: tuple[int, int]) -> Sequence[str]:
    sides = [f"attn(D={width}, depth={layers}, positions=sin)" for width, layers in ((D, depth), than)]
    return _all_words(t.study("table2").judgements(" > ".join(sides)))


def _all_words(judgements: Sequence[Judgement]) -> Sequence[str]:
    return of_all(judgements, "supported", "not supported", "contradicted", "ceiling", "undecided")


def _three_seeds(t: Tables) -> Sequence[str]:
    normed = [interval for c, _, interval in _besidepublished(t) if c["model"] == "s6" and c["norm"] == "layer"]
    widest = max(normed, key=lambda interval: interval.high - interval.low)
    counts = []
    for model in ("s6", "attn"):
        own = [interval.low <= value <= interval.high for c, value, interval in _besidepublished(t) if c["model"] == model]
        counts += [str(sum(own)), str(len(own))]
    return fixed(widest.low, 0), fixed(widest.high, 0), *counts


def _besidepublished(t: Tables) -> Iterator[tuple[Configuration, float, Interval]]:
    """Yield each configuration of a published accuracy, the accuracy, and our interval for the mean of three seeds."""
    known = _accuracies(t)
    for row in table2():
        if row.task == _COUNT:
            wanted = {"task": row.task, "model": row.model, "positions": row.positions, "depth": row.depth, "D": row.D}
            for c in t.study("table2").having(**wanted):
                yield c, row.value, further_mean_interval([[known[key] for key in c.each("key")]])


_VERDICTS = "{} of {} protocols | {} | {} | {}"

_COUNTING = (
    Statement("One layer of S6 has {} or {} parameters in the scalar protocols", _parameters),
    Statement(
        "\n".join(
            f"| {layers} of attention of width {D} | {norm} | {_VERDICTS} |"
            for layers, D in (("one layer", 2), ("four layers", 2), ("four layers", 4))
            for norm in ("LayerNorm", "no norm")
        ),
        _counts_better,
    ),
    Statement("The {} protocols of each attention are {} configurations of it", _uses),
    Statement(
        """higher for S6 in {} of {} protocols with LayerNorm and {} of {} without against one layer, in {} of {} and {} of
        {} against four layers of the same width, and otherwise undecided. Against four layers of width 4 it is higher in {}
        and lower in {} with LayerNorm, and higher in {} and lower in {} without.""",
        _shares,
    ),
    Statement(
        """{} protocols are those in which the codes hurt S6: with them it solves the task in {} of {} seeds, without them in
        {} to {}, and attention in {} to {}.""",
        _hurt_without_norm,
    ),
    Statement(
        """The paper reports {} % for attention of width 4 and four layers. In this study its mean over the seeds is {} to {}
        % in every protocol ({} to {} % in balanced accuracy, the metric by which claims are judged); {} to {} of {} seeds
        solve the task.""",
        _larger_attention,
    ),
    Statement("attention solves the task in {} of {} seeds and S6 without codes in {} of {}", _width_of_4),
    Statement(
        """{} runs were made again in [`polynomials`](polynomials.md): their errors differ by {} in the median and by {} at
        most""",
        _repeated,
    ),
    Statement(f"| a second layer of S6 helps in counting | {_VERDICTS} | {{}} |", _second_layer),
    Statement(
        f"""in counting (published: {{}} without, {{}} with), LayerNorm | {_VERDICTS} | {{}} |
        | the same without a norm | {_VERDICTS} | {{}} |""",
        _codes_hurt_counting,
    ),
    Statement("with LayerNorm the difference has the other sign in {} of {}", _codes_help_counting),
    Statement(
        f"| four layers of attention of width 2 count better than one | {_VERDICTS} | {{}} |",
        partial(_larger_helps, D=2, depth=4, than=(2, 1)),
    ),
    Statement(
        f"| four layers of attention count better at width 4 than at width 2 | {_VERDICTS} | {{}} |",
        partial(_larger_helps, D=4, depth=4, than=(2, 4)),
    ),
    Statement(
        """may lie anywhere between {} and {} %. The published accuracies of S6 lie within such intervals in {} of {}
            configurations, which is weak evidence. The seeds of attention agree, and its published accuracies lie
            within the intervals in {} of {}.""",
        _three_seeds,
    ),
)

PAGE = Page(
    "docs/studies/table2.md",
    (
        Statement("- **Size**: {} runs, about 31 minutes of one H200. {} of the runs were made on a CPU.", _size),
        Statement(
            """the length (here {}, the least for its {} labels), the number of steps (here {} at batch {}), or the
            learning rates (here chosen for each configuration from a grid of at least {} runs on other seeds)""",
            _unknown,
        ),
        Statement("- **Seeds**: {} seeds are reported.", _seeds),
        Statement("**Withdrawn claims.** {} of the {} registered claims compare", _withdrawn),
        Statement("They are post hoc, use {} steps", _steps_of_codes),
        Statement(
            """{} pairs of the claims that stand are undecided. For {} % power {} of them need {} to {} seeds, {} more need
            up to {}, and the differences of the other {} are too small for that.""",
            _power,
        ),
        *_COUNTING,
        *table2_regression.STATEMENTS,
    ),
    settings=(
        Setting("width {list}", lambda t: [c["D"] for c in t.study("table2").configurations]),
        Setting("widths {list}", lambda t: [c["D"] for c in t.study("table2").configurations]),
    ),
    names=("Table {}", "arXiv {}"),
    exceptions=(Unverified("about 31 minutes of one H200", "many processes shared the GPU; the table has seconds per run"),),
)
