"""Computations of docs/studies/table1-nlp.md from results/table1-nlp-wikitext-2 and results/context-wikitext-2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from expbench.results.histories import Trained
from expbench.stats.intervals import mean_interval
from expbench.stats.resampling import Paired, paired
from expbench.studies.published.numbers import table1
from expbench.studies.verification.formatting import ends, fixed, significant, whole
from expbench.studies.verification.page import Page, Setting, Statement, Unverified
from expbench.studies.verification.tables import Study, Tables, settings_of

# Rows of the table of results: model, expansion point. The baseline is the last but one
_ROWS = (
    ("attn", None), ("s6-poly", "zero"), ("s6-poly", "bias"), ("s6-poly-disc", "zero"), ("s6-bbar-b", None),
    ("s6-poly-disc", "bias"), ("s6", None), ("linattn", None),
)  # fmt: skip
_LENGTHS = (256, 512, 1024)
_CLOCK = "measured with a clock; two runs share the machine"


def _table1(t: Tables) -> Study:
    return t.study("table1-nlp-wikitext-2")


def _contexts(t: Tables) -> Study:
    return t.study("context-wikitext-2")


def _trained(study: Study, model: str, **wanted: object) -> Trained:
    every = {"model": model, **wanted}.items()
    (found,) = [trained for trained in study.trained if every <= settings_of(trained.configuration).items()]
    return found


def _row(t: Tables, model: str, center: str | None) -> Trained:
    return _trained(_table1(t), model, **({"center": center} if center else {}))


def _chosen(trained: Trained) -> dict[int, float]:
    """Return the test perplexity of each seed at its chosen epoch."""
    return {seed: epoch.test for seed, epoch in trained.of_ended("chosen").items()}


def _last(trained: Trained) -> float:
    return mean_interval([epoch.test for epoch in trained.of_ended("last").values()]).center


def _difference(one: Trained, other: Trained) -> Paired:
    """Return the first less the second in test perplexity, over the seeds of both."""
    left, right = _chosen(one), _chosen(other)
    return paired([[left[seed] - right[seed] for seed in sorted(left.keys() & right.keys())]])


def _training(t: Tables) -> Sequence[str]:
    own = _table1(t).configurations

    def only(name: str) -> Any:
        (value,) = {settings_of(c)[name] for c in own}
        return value

    epochs = max(float(trained.runs[0].table["epoch"].max()) for trained in (_row(t, *row) for row in _ROWS))
    shape = [str(only(name)) for name in ("depth", "D", "L", "batch_size")]
    return *shape, whole(epochs), fixed(only("weight_decay"), 2), significant(only("lr"))


def _tokens(t: Tables) -> Sequence[str]:
    own = _table1(t).configurations
    (pieces,) = {settings_of(c)["pieces"] for c in own}
    return whole(pieces), *ends((c["parameters"] / 1e6 for c in own), 1)


def _results(t: Tables) -> Iterator[str]:
    printed = {row.model: row.value for row in table1()}
    for model, center in _ROWS:
        trained = _row(t, model, center)
        interval = mean_interval(list(_chosen(trained).values()))
        yield str(len(trained.runs))
        yield from (f"{epoch:.0f}" for epoch in sorted(e.number for e in trained.of_ended("chosen").values()))
        yield fixed(interval.center, 1)
        if len(trained.runs) > 1:
            yield from (fixed(interval.low, 1), fixed(interval.high, 1))
        yield f"{_last(trained):.3g}"
        if model in printed:
            yield fixed(printed[model], 2)


def _transformer(t: Tables) -> Sequence[str]:
    test = _difference(_row(t, "attn", None), _row(t, "s6-poly", "zero"))
    return _with_pairs(-test.difference.center, (-test.difference.high, -test.difference.low), test)


def _mamba(t: Tables) -> Sequence[str]:
    attention = _row(t, "attn", None)
    test = _difference(_row(t, "s6", None), attention)
    others = [_difference(_row(t, "s6-poly-disc", center), attention).difference.center for center in ("zero", "bias")]
    return *_with_pairs(test.difference.center, test.difference[1:], test), *(fixed(d, 1) for d in others)


def _with_pairs(center: float, interval: Iterable[float], test: Paired) -> Sequence[str]:
    """Return a difference, its interval, and in how many pairs it has this sign: in all, or its mean is no summary."""
    low, high = interval
    if low <= 0:
        raise ValueError("the interval of the difference contains 0")
    return fixed(center, 1), fixed(low, 1), fixed(high, 1), str(test.pairs), str(test.pairs)


def _largest(t: Tables) -> Sequence[str]:
    def largest(*rows: tuple[str, str | None]) -> float:
        return max(float(run.table["abar"].max()) for row in rows for run in _row(t, *row).runs)

    polynomials = [largest((model, "zero"), (model, "bias")) for model in ("s6-poly-disc", "s6-poly")]
    return f"{largest(('s6', None), ('s6-bbar-b', None)):.3g}", *map(whole, polynomials)


def _variants(t: Tables) -> Sequence[str]:
    found = [_chosen(_row(t, *row)) for row in _ROWS if row[0].startswith("s6")]
    spread = max(max(own.values()) - min(own.values()) for own in found)
    means = ends((sum(own.values()) / len(own) for own in found), 1)
    against = _difference(_row(t, "s6", None), _row(t, "s6-poly", "zero")).difference
    printed = {row.model: row.value for row in table1()}
    return *means, fixed(spread, 1), *(fixed(v, 1) for v in against), fixed(printed["s6"] - printed["s6-poly"], 2)


def _memorised(t: Tables) -> Sequence[str]:
    blocks = [_row(t, *row) for row in _ROWS if row[0].startswith("s6")]
    frame = _table1(t).frame
    rows = frame[(frame["kind"] == "baseline") & (frame["split"] == "test") & frame["primary"].eq(True)]
    (unigram,) = rows.loc[rows["model"] == "unigram", "value"].unique()
    epochs = ends((epoch.number for trained in blocks for epoch in trained.of_ended("chosen").values()), 0)
    last = max(float(run.table["epoch"].max()) for trained in blocks for run in trained.runs)
    return *epochs, whole(last), *ends(map(_last, blocks), 0), whole(unigram)


def _of_paper(t: Tables) -> Sequence[str]:
    (size,) = {row.parameters for row in table1() if row.model != "attn"}
    return (whole(float(size.removesuffix("M"))),)


def _by_context(t: Tables) -> Iterator[str]:
    yield from map(str, _LENGTHS)
    for model in ("s6", "s6-poly"):
        for length in _LENGTHS:
            yield fixed(mean_interval(list(_chosen(_trained(_contexts(t), model, L=length)).values())).center, 1)


def _spreads(t: Tables) -> Iterator[str]:
    """Return how far the means of the contexts differ, then the ends of how far the seeds of each context do."""
    between: list[str] = []
    within: list[str] = []
    for model in ("s6", "s6-poly"):
        own = [_chosen(_trained(_contexts(t), model, L=length)).values() for length in _LENGTHS]
        means = [mean_interval(list(values)).center for values in own]
        between.append(fixed(max(means) - min(means), 1))
        within += ends((max(values) - min(values) for values in own), 1)
    yield from (*between, *within)


def _lower(t: Tables) -> Sequence[str]:
    tests = [_difference(*(_trained(_contexts(t), model, L=length) for model in ("s6", "s6-poly"))) for length in _LENGTHS]
    if not all(test.difference.low <= 0 <= test.difference.high for test in tests):
        raise ValueError("an interval does not contain 0")
    return ends((test.difference.center for test in tests), 1)


def _at_1024(t: Tables, model: str, length: int) -> float:
    """Return the test perplexity at context 1024, on the same tokens, of the model trained at another length."""
    frame, trained = _contexts(t).frame, _trained(_contexts(t), model, L=length)
    rows = frame[(frame["split"] == "test") & (frame["slice"] == "context=1024") & (frame["metric"] == "perplexity")]
    values = dict(zip(zip(rows["key"], rows["step"], strict=True), rows["value"], strict=True))
    return mean_interval([values[run.key, run.step] for run in trained.runs]).center


def _beyond(t: Tables) -> Sequence[str]:
    ours = _at_1024(t, "s6", 256), _at_1024(t, "s6", 1024), _at_1024(t, "s6-poly", 256), _at_1024(t, "s6-poly", 1024)
    trained = _trained(_contexts(t), "s6-poly", L=256)
    chosen = max(epoch.abar for epoch in trained.of_ended("chosen").values())
    reached = max(float(run.table["abar"].max()) for run in trained.runs)
    return *(fixed(value, 1) for value in ours), whole(chosen), whole(reached)


PAGE = Page(
    "docs/studies/table1-nlp.md",
    (
        Statement("- **Size**: {} runs, 7.4 minutes", lambda t: [str(len(_table1(t).runs))]),
        Statement("- **Size**: {} runs, 12.5 minutes", lambda t: [str(len(_contexts(t).runs))]),
        Statement(
            "The polynomials have degree {} and are expanded",
            lambda t: [str(settings_of(_row(t, "s6-poly", "zero").configuration)["taylor"])],
        ),
        Statement(
            """- **Training**: {} layers of width {}, context {}, batch {}, {} epochs of which one is warm-up, weight decay
            {}, bfloat16. The peak learning rate is {};""",
            _training,
        ),
        Statement("a byte-pair encoding with {} pieces, which gives {} to {} million parameters", _tokens),
        Statement(
            """| Transformer (`attn`) | {} | {}, {}, {} | {} ({} to {}) | {} | {} |
            | Eq. 5, `s6-poly` about 0 | {} | {}, {}, {} | {} ({} to {}) | {} | {} |
            | Eq. 5, about the bias | {} | {} | {} | {} | {} |
            | with discretization, `s6-poly-disc` about 0 | {} | {} | {} | {} | {} |
            | Eq. 6, `s6-bbar-b` | {} | {} | {} | {} | {} |
            | with discretization, about the bias | {} | {} | {} | {} | {} |
            | Mamba, `s6` | {} | {}, {}, {} | {} ({} to {}) | {} | {} |
            | linear attention, `linattn` | {} | {} | {} | {} | - |""",
            _results,
        ),
        Statement("lower perplexity than Eq. 5**, as printed, by {} (95 % {} to {}, in {} of {} pairs)", _transformer),
        Statement(
            """perplexity than the Transformer**, against the printed order, by {} ({} to {}, in {} of {} pairs).
            That of the polynomials with discretization is also higher, by {} and {} (one pair each)""",
            _mamba,
        ),
        Statement(
            """The largest |Abar| over training is at most {} where the transition is an exponential. It reaches {}
            (with discretization) and {} (Eq. 5)""",
            _largest,
        ),
        Statement(
            """They lie between {} and {}, and seeds of one model differ by up to {}. Mamba's perplexity minus that of Eq.
            5 is {} ({} to {}); the published difference is {}.""",
            _variants,
        ),
        Statement(
            """They are chosen at epochs {} to {} of {}, before the learning rate has fallen much. By the end they have
            memorised the text, and have a test perplexity of {} to {}, while the unigram model has {}.""",
            _memorised,
        ),
        Statement("a model of {} million parameters", _of_paper),
        Statement(
            """| trained at | {} | {} | {} |
            | --- | --- | --- | --- |
            | Mamba, `s6` | {} | {} | {} |
            | Eq. 5, `s6-poly` | {} | {} | {} |""",
            _by_context,
        ),
        Statement(
            """differ by at most {} (baseline) and {} (Eq. 5); the seeds of one model and context differ by {} to
            {} and {} to {}.""",
            _spreads,
        ),
        Statement("Eq. 5 is lower by {} to {}, and the interval contains zero", _lower),
        Statement(
            """the baseline trained at 256 has {}, and {} if trained at 1024. Eq. 5 trained at 256 has {}, and {} if
            trained at 1024, although its largest |Abar| is {} at the chosen epochs ({} over training).""",
            _beyond,
        ),
    ),
    settings=(
        Setting("contexts of {list}", lambda t: [c["L"] for c in _contexts(t).configurations]),
        Setting("context {}", lambda t: [c["L"] for c in _contexts(t).configurations]),
        Setting("trained at {}", lambda t: [c["L"] for c in _contexts(t).configurations]),
        Setting("({} %", lambda t: [95]),
        Setting("`s6-poly-disc` about {}", lambda t: [0]),
        Setting("`s6-poly` about {}", lambda t: [0]),
        Setting("expanded about {}", lambda t: [0]),
    ),
    names=("Table {}", "Figure {}", "Eq. {}", "arXiv {}"),
    exceptions=(Unverified("7.4 minutes", _CLOCK), Unverified("12.5 minutes", _CLOCK)),
)
