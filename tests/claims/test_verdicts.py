"""Claims as data, and their verdicts on runs whose outcomes are made up."""

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expbench.claims import claim as claims_claim
from expbench.claims.claim import Claim
from expbench.claims.formatting import markdown, sentence, text
from expbench.claims.judgement import ClaimResult, Judgement
from expbench.claims.pairing import candidates, matched_pairs
from expbench.claims.verdicts import judge
from expbench.errors import BadInput
from expbench.results.configurations import gather, with_context
from expbench.stats.intervals import best_of, share_interval
from expbench.stats.resampling import bootstrap_interval
from tests.report.test_build import frame_of, row, section

MADE = datetime(2026, 5, 4, tzinfo=UTC)
LATER = MADE + timedelta(hours=1)
Rows = list[dict[str, Any]]


def runs(model: str, values: Iterable[float | None], validation: float | None = None, **changes: Any) -> Rows:
    """A run a value, from seed 0 on, younger than the claims; None diverged. selection: of all, else the value itself."""
    task = {"L": 8, "degree": 8, "family": "suffix", "instance": 0} | changes.pop("task", {})
    own = {"model": model, "created": LATER, "task_settings": json.dumps(task)} | changes
    own |= {name: task[name] for name in ("L", "degree", "instance")}
    rows = []
    for seed, value in enumerate(values):
        run = own | {"seed": seed, "key": f"{own}{seed}"}
        if value is None:
            rows.append(row(**run, status="diverged", split="validation", step=5, value=1e-6))
        else:
            rows.append(row(**run, value=value))
            rows += [row(**run, split="validation", step=5, value=1e-6)]
            rows += [row(**run, split="validation", step=10, value=value if validation is None else validation)]
    return rows


def around(mean: float, n: int = 20, seed: int = 0, spread: float = 0.05) -> list[float]:
    """n values of that mean, of which no two are alike."""
    return list(mean + spread * np.random.default_rng(seed).normal(size=n))


def claim(text: str = "s6 < linattn", **changes: Any) -> Claim:
    return Claim(text, "polyreg", **({"created": MADE} | changes))


def one(rows: Rows, of: Claim | None = None) -> Judgement:
    """The judgement of a claim that has one place."""
    (finding,) = judge([of or claim()], frame_of(rows))
    (judgement,) = finding.judgements
    return judgement


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("s6<linattn", "s6 < linattn"),
        ("  s6( depth = 1 )>attn(depth=4,D=8) ", "s6(depth=1) > attn(D=8, depth=4)"),
        ("s6(lr=1e-2, residual=on, terms=None, clip=-1.50) < s6", "s6(clip=-1.5, lr=0.01, residual=true, terms=none) < s6"),
        ("my/layers-2.py:Big_S6(layout=rank_D)>pkg.mod:Cls", "my/layers-2.py:Big_S6(layout=rank_D) > pkg.mod:Cls"),
    ],
)
def test_a_claim_is_read_into_one_form(written: str, read: str) -> None:
    made = claim(written)
    assert made.text == read
    assert f"{made.left} {made.relation} {made.right}" == read


def test_the_sides_of_a_claim() -> None:
    made = claim("a/b/own.py:S6(depth=1) > attn(D=8, depth=4)")
    assert (made.left.model, made.left.name, made.left.settings) == ("a/b/own.py:S6", "own.py:S6", {"depth": "1"})
    assert (made.relation, made.right.name, made.right.settings) == (">", "attn", {"D": "8", "depth": "4"})


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("", "the end at character 1, expected a model; examples: s6 < linattn"),
        ("s6", "the end at character 3, expected < or >"),
        ("s6 = linattn", "'=' at character 4, expected < or >"),
        ("s6 <= linattn", "'=' at character 5, expected a model"),
        ("s6 < linattn > attn", "'>' at character 14, expected the end"),
        ("s6 < linattn attn", "'attn' at character 14, expected the end"),
        ("s6(depth) < attn", "')' at character 9, expected = after depth"),
        ("s6(depth=) < attn", "')' at character 10, expected a value of depth"),
        ("s6(=1) < attn", "'=' at character 4, expected the name of a setting"),
        ("s6() < attn", "')' at character 4, expected the name of a setting"),
        ("s6(depth=1 < attn", "'<' at character 12, expected , or )"),
        ("s6(depth=1, depth=2) < attn", "'depth' at character 13, expected a different setting"),
        ("s6(depth=1) < s6(depth=1.0)", "both sides are s6(depth=1)"),
        ("s6(L=4) < attn", "L belongs to the task, not to a side"),
        ("s6(seed=4) < attn", "seed cannot be fixed"),
    ],
)
def test_a_claim_that_cannot_be_read_says_where(written: str, words: str) -> None:
    with pytest.raises(BadInput) as error:
        claim(written)
    assert words in str(error.value)
    assert f"claim {written!r}" in str(error.value)


def test_what_else_a_claim_cannot_be() -> None:
    with pytest.raises(BadInput, match="instance cannot be fixed"):
        claim(where={"instance": [0]})
    for margin in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="must be above 0 and finite"):
            claim(margin=margin)


def test_the_hash_is_of_what_is_said_alone() -> None:
    made = claim("s6(N=4, D=8)<attn", where={"L": [8, 4], "family": ["suffix"], "norm": []}, margin=0.05)
    assert made.hash == "8b9a55ac70a7", "claims that were written stay what they are"
    same = claim("s6(D=8.0, N=4) < attn", where={"family": ("suffix",), "L": ["4", 8.0]}, margin=0.05, created=None)
    assert (same.hash, same) == (made.hash, made)
    said: list[dict[str, Any]] = [{"margin": 0.1}, {"where": {"L": [4]}}, {"text": "s6(D=8, N=4) > attn"}]
    others = [claim(**({"text": made.text, "where": made.where, "margin": made.margin} | other)) for other in said]
    others.append(Claim(made.text, "count-in-row", made.where, made.margin))
    assert len({made.hash, *(other.hash for other in others)}) == 5


def test_claims_are_written_once_and_read_back(tmp_path: Path) -> None:
    assert claims_claim.read(tmp_path) == []
    first = claims_claim.write(Claim("s6 < attn", "polyreg", {"L": [4, 8]}, 0.1), tmp_path)
    assert first.created is not None
    assert timedelta() <= datetime.now(UTC) - first.created < timedelta(minutes=1)
    assert [path.name for path in (tmp_path / "claims").iterdir()] == [f"{first.hash}.json"]
    second = claims_claim.write(Claim("linattn < attn", "polyreg"), tmp_path)
    again = claims_claim.write(Claim("s6<attn", "polyreg", {"L": [8, 4]}, 0.1), tmp_path)
    assert (again, again.created) == (first, first.created)
    assert second.created is not None
    known = claims_claim.read(tmp_path)
    assert sorted((c.hash, c.text, c.created) for c in known) == sorted((c.hash, c.text, c.created) for c in (first, second))
    assert [c.created for c in known] == sorted(c.created for c in (first, second) if c.created), "as they were made"


def edited(**changes: Any) -> Callable[[str], str]:
    return lambda written: json.dumps({k: v for k, v in (json.loads(written) | changes).items() if v != "gone"})


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda written: written[:-9], "is not a valid claim"),
        (lambda written: "[]", "its fields must be claim, task, where, margin, created"),
        (edited(task="gone"), "its fields must be claim, task, where, margin, created"),
        (edited(claim="s6 <"), "the end at character 5"),
        (edited(where={"L": 4}), "where must map names to lists of values"),
        (edited(margin="0.1"), "margin must be a number"),
        (edited(margin=0.2), "it was changed after it was written"),
        (edited(created="yesterday"), "Invalid isoformat"),
        (edited(created="2026-05-04T00:00:00"), "created has no time zone"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, edit: Callable[[str], str], words: str) -> None:
    made = claims_claim.write(claim(margin=0.1), tmp_path)
    path = tmp_path / "claims" / f"{made.hash}.json"
    path.write_text(edit(path.read_text()))
    for act in (lambda: claims_claim.read(tmp_path), lambda: claims_claim.write(made, tmp_path)):
        with pytest.raises(BadInput) as error:
            act()
        assert str(path) in str(error.value)
        assert words in str(error.value)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "claims").touch()
    with pytest.raises(BadInput, match=r"cannot write .*claims"):
        claims_claim.write(claim(), tmp_path)


def compared(text: str, rows: Rows, **changes: Any) -> list[tuple[float, float]]:
    """The first values of the cells that a claim compares, by place."""
    found = matched_pairs(claim(text, **changes), candidates(frame_of(rows), gather(with_context(frame_of(rows)))))
    return sorted((place.left.configuration.values[0], place.right.configuration.values[0]) for place in found)


def test_a_place_is_where_both_sides_agree() -> None:
    rows = [
        *runs("s6", [1.0], norm="none"),
        *runs("s6", [2.0], task={"L": 4}),
        *runs("s6", [3.0], task={"family": "sparse"}),
        *runs("s6", [4.0], D=8),
        *runs("attn", [5.0], norm="none", model_settings='{"heads":1}', model_version="7", lr=0.1, skip=None),
        *runs("attn", [6.0], task={"L": 4}),
        *runs("attn", [7.0], task={"family": "random"}),
        *runs("attn", [8.0], D=16),
        *runs("attn", [9.0], task={"L": 4}, steps=40),
    ]
    assert compared("s6 < attn", rows) == [(1, 5), (2, 6)]
    assert compared("s6(D=8) < attn(D=16)", rows) == [(4, 8)]
    assert compared("s6 < attn(steps=40)", rows) == [(2, 9)]
    assert compared("s6(N=4) < attn(heads=1, lr=1e-1)", rows) == [(1, 5)]
    assert compared("s6 < attn", rows, where={"L": [4, 16]}) == [(2, 6)]
    assert compared("s6 < attn", rows, where={"norm": ["none"], "family": ["suffix"]}) == [(1, 5)]
    other = [{**r, "task": "count-in-row"} for r in rows]
    assert compared("s6 < attn", other) == []


def test_settings_that_both_models_have_must_agree() -> None:
    named = {n: {"model_settings": f'{{"N":{n}}}'} for n in (2, 4)}
    rows = [r for n in named for m, more in (("s6", 0), ("s6-poly", 0.5)) for r in runs(m, [n + more], **named[n])]
    assert compared("s6 < s6-poly", rows) == [(2, 2.5), (4, 4.5)]
    assert compared("s6(N=2) < s6-poly(N=4)", rows) == [(2, 4.5)]
    assert compared("s6(N=2) < s6", rows) == [(2, 4)], "a cell is not held against itself"
    old = runs("s6", [9.0], model_settings='{"N":4}', model_version="0")
    assert compared("s6(N=2) < s6(N=4)", rows + old) == [(2, 4)], "one model is compared with itself in one version"


def test_a_learning_rate_is_chosen_apiece_on_the_selection_split() -> None:
    rows = [
        *runs("s6", [0.1] * 3, lr=0.1, validation=0.5),
        *runs("s6", [0.2] * 3, lr=0.01, validation=0.3),
        *runs("s6", [0.0] * 2, lr=0.001, validation=0.01),
        *runs("linattn", [0.4, None, 0.4], lr=0.1, validation=0.2),
        *runs("linattn", [0.5] * 3, lr=0.01, validation=0.25),
        *runs("linattn", [0.6] * 3, lr=0.001, validation=0.9),
    ]
    assert compared("s6 < linattn", rows) == [(0.2, 0.5)], "not the best on the test split, nor one with fewer runs"
    assert compared("s6(lr=0.1) < linattn", rows) == [(0.1, 0.5)]
    judgement = one(rows)
    assert judgement.rates == (3, 3)
    accuracies = [r | {"higher_is_better": True} for r in rows]
    assert compared("s6 < linattn", accuracies) == [(0.1, 0.6)]


def test_a_rate_that_tuning_chose_is_the_one_compared() -> None:
    tuning = [
        r | {"kind": "tuning", "key": f"tuning {r['key']}", "value": value}
        for lr, value in ((0.1, 0.3), (0.01, 0.2), (0.001, 0.5), (0.0001, 0.6))
        for r in runs("s6", [1.0] * 2, lr=lr)
    ]
    # of the others there are more runs, with a better validation split
    rows = [*runs("s6", [0.1] * 4, lr=0.1), *runs("s6", [0.2] * 3, lr=0.01), *runs("linattn", [0.4] * 4)]
    assert compared("s6 < linattn", rows + tuning) == [(0.2, 0.4)]
    assert one(rows + tuning).rates == (4, 1)
    assert compared("s6 < linattn", rows) == [(0.1, 0.4)]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Claim("s6 < attn", "polyregg"), "did you mean 'polyreg'?"),
        (claim("s6 < atn"), "unknown model among the runs on polyreg: 'atn'; did you mean 'attn'?"),
        (claim("s6(dept=1) < attn"), "unknown setting of s6 among the runs: 'dept'; did you mean 'depth'?"),
        (claim("s6(heads=1) < attn"), "unknown setting of s6 among the runs: 'heads'"),
        (claim("s6(N=8) < attn"), "unknown value of N among the runs: '8'; (known: 4)"),
        (claim("s6(family=suffix) < attn"), "family belongs to the task, not to s6(family=suffix)"),
        (claim("s6 < attn", where={"famly": ["suffix"]}), "did you mean 'family'?"),
        (claim("s6 < attn", where={"family": ["sufix"]}), "did you mean 'suffix'?"),
        (claim("s6 < attn", where={"positions": ["sin"]}), "no run of s6 satisfies the conditions of the claim"),
        (
            claim("s6(N=4) < attn"),
            "(none and sin); train both with the same positions, or claim the two together: 's6(N=4, positions=none) < attn("
            "positions=sin)' --about model,positions",
        ),
        (claim("s6(positions=none) < attn(positions=sin)"), "no run of the left side agrees with a run of the right side"),
    ],
)
def test_a_claim_without_a_place_says_why(made: Claim, words: str) -> None:
    rows = [*runs("s6", [1.0], steps=20), *runs("s6", [1.0], D=8)]
    rows += [*runs("attn", [1.0], positions="sin", steps=20, D=8, model_settings='{"heads":1}')]
    rows += runs("attn", [1.0], positions="sin", model_settings='{"heads":1}')
    (finding,) = judge([made], frame_of(rows))
    assert finding.judgements == []
    assert words in finding.unmatched_reason
    assert f"cannot be tested: {finding.unmatched_reason}." in text([finding])


def test_a_claim_before_any_run() -> None:
    (finding,) = judge([claim()], frame_of([]))
    assert text([finding]) == "s6 < linattn on polyreg cannot be tested: there are no runs."


@pytest.mark.parametrize("relation", ["<", ">"])
@pytest.mark.parametrize("higher_is_better", [False, True])
def test_a_large_effect_is_supported_and_its_opposite_contradicted(relation: str, higher_is_better: bool) -> None:
    left, right = around(0.2), around(0.7, seed=1)
    scored = {"metric": "accuracy", "success_threshold": 0.95} if higher_is_better else {}
    scored |= {"higher_is_better": higher_is_better}
    rows = [*runs("s6", left, **scored), *runs("linattn", right, **scored)]
    judgement = one(rows, claim(f"s6 {relation} linattn"))
    assert judgement.verdict == ("supported" if relation == "<" else "contradicted")
    assert judgement.difference == bootstrap_interval([[a - b for a, b in zip(left, right, strict=True)]])
    assert (judgement.pairs, judgement.units, judgement.p, judgement.holm) == (20, 20, 2 / 2**20, 2 / 2**20)
    assert not judgement.is_post_hoc


def test_what_a_judgement_states_beside_its_verdict() -> None:
    left = [0.005] * 6 + around(0.2, 14)
    right = around(0.7, 25, seed=1)
    judgement = one([*runs("s6", left), *runs("linattn", right)])
    assert judgement.solved == (share_interval(6, 20), share_interval(0, 25))
    assert (judgement.k, judgement.pairs) == (20, 20)
    assert judgement.best == (0.005, best_of(right, 20, higher_is_better=False))
    assert judgement.best[1] > min(right)


def test_a_difference_below_the_margin_says_so() -> None:
    better = around(0.5, spread=0.1)
    rows = [*runs("s6", better), *runs("linattn", [value + 0.02 + 0.001 * (value - 0.5) for value in better])]
    judgement = one(rows)
    assert judgement.p < 0.001, "it is there, for certain"
    assert judgement.margin == pytest.approx(0.1 * (np.mean(better) + 0.02), rel=1e-3)
    assert judgement.verdict == "below the margin"
    assert "but the difference is smaller than the margin of 0.05" in judgement.reason
    assert "the distributions differ, in this direction by less than the margin of" in sentence(judgement)
    opposite = one(rows, claim("s6 > linattn"))
    assert (opposite.verdict, opposite.reason.split(" of ")[0]) == ("not supported", "the interval is within the margin")
    assert one(rows, claim(margin=0.01)).verdict == "supported"
    assert one(rows, claim("s6 > linattn", margin=0.01)).verdict == "contradicted"
    accuracy = [r | {"higher_is_better": True, "metric": "score", "value": 10 * r["value"]} for r in rows]
    accuracy = [r | {"success_threshold": 99.0} for r in accuracy]
    assert one(accuracy).margin == 0.05
    assert one(accuracy).verdict == "supported"


def test_no_difference_that_matters_is_not_supported() -> None:
    left, right = around(0.5, 60, spread=0.03), around(0.5, 60, seed=1, spread=0.03)
    same = one([*runs("s6", left), *runs("linattn", right)])
    assert same.p > 0.05
    assert same.verdict == "not supported"
    wide = [*runs("s6", around(0.5, spread=0.3)), *runs("linattn", around(0.5, seed=1, spread=0.3))]
    assert one(wide).verdict == "undecided"
    assert "the interval contains 0" in one(wide).reason


def test_ten_units_are_needed() -> None:
    few = one([*runs("s6", around(0.2, 9)), *runs("linattn", around(0.7, 20))])
    assert (few.verdict, few.pairs) == ("undecided", 9)
    assert few.reason == "a verdict needs 10 units but has 9 pairs"
    assert np.isnan(few.holm)
    ten = one([*runs("s6", around(0.2, 10)), *runs("linattn", around(0.7, 10))])
    assert (ten.verdict, ten.p) == ("supported", 2 / 2**10)


def by_instance(model: str, mean: float, instances: int, seeds: int) -> Rows:
    return [
        r
        for instance in range(instances)
        for r in runs(model, around(mean + 0.1 * instance, seeds, seed=instance), task={"instance": instance})
    ]


def test_instances_are_the_units_where_there_are_several() -> None:
    few = one([*by_instance("s6", 0.2, 9, 5), *by_instance("linattn", 0.9, 9, 4)])
    assert (few.verdict, few.pairs, few.units) == ("undecided", 36, 9)
    assert few.reason == "a verdict needs 10 units but has 36 pairs of 9 instances"
    enough = one([*by_instance("s6", 0.2, 10, 2), *by_instance("linattn", 0.9, 10, 2)])
    assert (enough.verdict, enough.pairs, enough.units, enough.p) == ("supported", 20, 10, 2 / 2**10)


def test_pairs_share_instance_and_seed() -> None:
    base = around(0.5, spread=0.3)
    judgement = one([*runs("s6", base), *runs("linattn", [value + 0.2 for value in base])])
    assert judgement.difference.half_width < 1e-12
    swapped = [r | {"seed": 19 - r["seed"]} for r in runs("linattn", [value + 0.2 for value in base])]
    assert one([*runs("s6", base), *swapped]).difference.half_width > 0.1
    other = [r | {"seed": r["seed"] + 15} for r in runs("linattn", base)]
    assert one([*runs("s6", base), *other]).pairs == 5


def test_a_run_that_was_made_anew_counts_once() -> None:
    before = [r | {"key": r["key"] + "old", "created": MADE + timedelta(minutes=1)} for r in runs("s6", around(9.0))]
    judgement = one([*before, *runs("s6", around(0.2)), *runs("linattn", around(0.7))])
    assert (judgement.pairs, judgement.verdict) == (20, "supported")


@pytest.mark.parametrize("side", ["s6", "linattn"])
def test_ill_posed_labels_decide_nothing(side: str) -> None:
    rows = [r for m, mean in (("s6", 0.2), ("linattn", 0.7)) for r in runs(m, around(mean), well_posed=m != side)]
    assert (one(rows).verdict, one(rows).reason) == ("undecided", "the labels are ill-posed")
    assert one([r | {"well_posed": None} for r in rows]).verdict == "supported", "of tasks that do not say there is no doubt"


def test_ill_posed_instances_are_set_aside() -> None:
    rows = []
    for i in range(24):  # those that are ill-posed say the opposite
        for model, value in (("s6", 0.2 if i % 2 else 9.0), ("linattn", 0.7)):
            task = {"family": "random", "instance": i}
            rows += runs(model, around(value, 1, seed=i), task=task, well_posed=bool(i % 2))
    judgement = one(rows)
    assert (judgement.verdict, judgement.pairs, judgement.excluded) == ("supported", 12, 12)
    assert "12 pairs, 12 ill-posed excluded" in sentence(judgement)


def test_runs_that_diverged_may_not_turn_a_verdict() -> None:
    right = around(0.7, seed=1)
    few = one([*runs("s6", [None, None, *around(0.2, 18)]), *runs("linattn", right)])
    assert (few.verdict, few.pairs) == ("supported", 18)
    # where s6 ended well it is a little better; with its other runs as bad as the worst it is a little worse
    left = [value - 0.05 if seed >= 8 else None for seed, value in enumerate(right)]
    many = one([*runs("s6", left), *runs("linattn", right)], claim(margin=0.01))
    assert (many.verdict, many.pairs) == ("undecided", 12)
    assert many.difference.center == pytest.approx(-0.05)
    assert many.p > 2 / 2**12, "the larger of the two"
    assert many.reason == "Holm's p is 0.162 with diverged runs counted as the worst (8 of 20 of s6 diverged)"
    apart = one([*runs("s6", left), *runs("linattn", [*right[:-1], 3.0])], claim(margin=0.01))
    assert (apart.verdict, apart.difference.high < 0, apart.holm < 0.05) == ("undecided", True, True)
    assert apart.reason == "the verdict depends on the value assigned to diverged runs (8 of 20 of s6 diverged)"
    worse = one([*runs("s6", [*around(0.9, 12), *[None] * 8]), *runs("linattn", right)])
    assert worse.verdict == "contradicted", "either way"
    gone = one([*runs("s6", [None] * 20), *runs("linattn", right)])
    assert (gone.verdict, gone.pairs) == ("undecided", 0)
    assert gone.reason == "a verdict needs 10 units but has 0 pairs (20 of 20 of s6 diverged)"
    accuracy = [r | {"higher_is_better": True} for r in [*runs("s6", left), *runs("linattn", right)]]
    assert one(accuracy, claim(margin=0.01)).verdict == "supported", "of accuracies the worst is the least"


def test_runs_older_than_the_claim_are_flagged() -> None:
    rows = [*runs("s6", around(0.2)), *runs("linattn", around(0.7))]
    assert not one(rows, claim(created=LATER)).is_post_hoc
    late = one(rows, claim(created=LATER + timedelta(milliseconds=1)))
    assert (late.is_post_hoc, late.verdict) == (True, "supported")
    assert one(rows, claim(created=None)).is_post_hoc, "what was never written was not said before"
    assert one([*rows[:-3], *(r | {"created": None} for r in rows[-3:])], claim(created=MADE)).is_post_hoc is False
    first = [*(r | {"created": MADE - timedelta(1)} for r in rows[:3]), *rows[3:]]
    assert one(first).is_post_hoc, "one such run is enough"


def outcomes(kind: str, source: np.random.Generator) -> list[float]:
    if kind == "normal":
        return list(source.normal(0.5, 0.1, 20))
    return list(np.where(source.random(20) < 0.5, source.uniform(0, 0.01, 20), source.normal(0.5, 0.1, 20)))


# of the seeds below 30 those at which most, or the strongest, would seem real one at a time
@pytest.mark.parametrize(("kind", "seed"), [("bimodal", 15), ("bimodal", 16), ("normal", 4), ("normal", 9)])
def test_of_twenty_claims_of_nothing_at_most_one_is_supported(kind: str, seed: int) -> None:
    source = np.random.default_rng(seed)
    rows = [r for i in range(20) for name in ("one", "other") for r in runs(f"{name}-{i}", outcomes(kind, source))]
    findings = judge([claim(f"one-{i} < other-{i}") for i in range(20)], frame_of(rows))
    judgements = [finding.judgements[0] for finding in findings]
    assert sum(j.p < 0.05 for j in judgements) >= 2
    assert sum(j.verdict in ("supported", "contradicted") for j in judgements) <= 1


def test_what_is_judged_together_is_corrected_together() -> None:
    rows = [*runs("s6", around(0.2, 10)), *runs("linattn", around(0.7, 10, seed=1)), *runs("attn", around(0.7, 10, seed=2))]
    few = [*runs("few", around(0.2, 5)), *runs("odd", around(0.2), well_posed=False)]
    names = [*["s6 < linattn", "s6 < attn", "attn > s6"], "few < linattn", "odd < linattn"]
    findings = judge([claim(name) for name in names], frame_of(rows + few))
    judgements = [finding.judgements[0] for finding in findings]
    p = 2 / 2**10
    assert [j.p for j in judgements[:3]] == [p] * 3
    corrected = pytest.approx([3 * p] * 3 + [np.nan] * 2, nan_ok=True)
    assert [j.holm for j in judgements] == corrected, "what cannot be decided does not count"
    many = judge([claim("s6 < linattn", margin=1e-3 * i) for i in range(1, 27)], frame_of(rows))
    assert {finding.judgements[0].verdict for finding in many} == {"undecided"}
    assert "Holm's p is 0.0508" in many[0].judgements[0].reason


def in_protocols(*held: tuple[dict[str, Any], float | None]) -> ClaimResult:
    """A finding of s6 with these means in these protocols, None for runs that say nothing, and linattn with .5 in all."""
    rows = []
    for changes, mean in held:
        values = around(0.5, 14, spread=0.4) if mean is None else around(mean, 14)
        rows += [*runs("s6", values, **changes), *runs("linattn", around(0.5, 14, seed=1), **changes)]
    (finding,) = judge([claim()], frame_of(rows))
    return finding


def test_a_verdict_that_depends_on_the_budget() -> None:
    finding = in_protocols(({"steps": 500}, 0.9), ({"steps": 2000, "warmup": 200}, 0.1), ({"steps": 1000}, 0.9))
    marks = {j.left["steps"]: (j.verdict, j.budget_dependent) for j in finding.judgements}
    assert marks == {500: ("contradicted", True), 2000: ("supported", True), 1000: ("contradicted", False)}
    assert finding.summary == "holds in 1 of 3 protocols; contradicted in 2; depends on the budget in 2"
    alike = in_protocols(({"steps": 500}, 0.1), ({"steps": 2000}, 0.1))
    assert not any(j.budget_dependent for j in alike.judgements)
    open_still = in_protocols(({"steps": 500}, None), ({"steps": 2000}, 0.1))
    assert [j.verdict for j in open_still.judgements] == ["undecided", "supported"]
    assert not any(j.budget_dependent for j in open_still.judgements)
    elsewhere = in_protocols(({"steps": 500, "norm": "none"}, 0.9), ({"steps": 2000}, 0.1))
    assert not any(j.budget_dependent for j in elsewhere.judgements)


def protocol(norm: str, positions: str, **task: Any) -> dict[str, Any]:
    return {"norm": norm, "positions": positions, "task": task}


def test_where_a_claim_holds_in_a_sentence() -> None:
    norms, codes = ("layer", "rms", "none"), ("none", "sin")
    crossed = [(norm, code) for norm in norms for code in codes]
    assert in_protocols(*((protocol(*at), 0.1) for at in crossed)).summary == "holds in 6 of 6 protocols"
    named = in_protocols(*((protocol(*at), 0.9 if at[0] == "none" else 0.1) for at in crossed))
    assert named.columns == ["norm", "positions"]
    assert named.summary == "holds in 4 of 6 protocols; contradicted with norm none"
    means = {"layer": 0.1, "rms": None, "none": 0.9}
    some = in_protocols(*((protocol(*at), means[at[0]]) for at in crossed))
    assert some.summary == "holds in 2 of 6 protocols; contradicted with norm none, undecided in 2"
    both = in_protocols(*((protocol(*at), 0.9 if at in (("none", "sin"), ("rms", "none")) else 0.1) for at in crossed))
    assert both.summary == "holds in 4 of 6 protocols; contradicted in 2"
    once = in_protocols(*((protocol(*at), 0.9 if at == ("none", "sin") else 0.1) for at in crossed))
    assert once.summary == "holds in 5 of 6 protocols; contradicted in 1", "without a norm it also holds, and so with sin"
    unmatched_reason = in_protocols(*((protocol(*at), 0.9 if at[0] == "none" else None) for at in crossed))
    said = "holds in 0 of 6 protocols; contradicted in 2, undecided in 4"
    assert unmatched_reason.summary == said, "what holds nowhere has no exception"
    of_task = in_protocols(*((protocol("layer", "none", family=f, lo=f), 0.9 if f == "b" else 0.1) for f in ("a", "b", "c")))
    assert of_task.summary == "holds in 2 of 3 protocols; contradicted with family b", "and not with lo, which follows"
    assert in_protocols(({}, 0.1)).summary == "holds in 1 of 1 protocol"


def test_a_summary_tells_contradictions_from_places_without_a_difference() -> None:
    """Where both sides are equally good nothing is contradicted: a reader must not take a ceiling for a reversal."""
    protocols = [(norm, code) for norm in ("layer", "rms", "none") for code in ("none", "sin")]

    def summary(means: dict[tuple[str, str], float]) -> str:
        return in_protocols(*((protocol(*at), means.get(at, 0.1)) for at in protocols)).summary

    equal = 0.5  # what linattn has everywhere
    apart = summary({("none", "sin"): 0.9, ("rms", "none"): equal})
    assert apart == "holds in 4 of 6 protocols; contradicted in 1, not supported in 1"
    together = summary({("none", "sin"): 0.9, ("none", "none"): equal})
    assert together == "holds in 4 of 6 protocols; contradicted in 1, not supported in 1, all with norm none"
    unlike = summary({("none", code): equal for code in ("none", "sin")})
    assert unlike == "holds in 4 of 6 protocols; not supported with norm none"


def test_variants_of_one_side_are_protocols_too() -> None:
    rows = runs("linattn", around(0.5, 14, seed=1), model_settings="{}")
    for n, mean in ((2, 0.9), (4, 0.1)):
        rows += runs("s6", around(mean, 14), model_settings=f'{{"N":{n}}}')
    (finding,) = judge([claim()], frame_of(rows))
    assert finding.summary == "holds in 1 of 2 protocols; contradicted with s6 N 2"


def test_sentences() -> None:
    better = [*runs("s6", around(0.2)), *runs("linattn", around(0.7, seed=1))]
    supported = one(better)
    low, high = f"{supported.difference.low:.3g}", f"{supported.difference.high:.3g}"
    differ = "(the distributions differ, in this direction)"
    beside = "share solved: undecided (0/20 against 0/20, Holm p = 1); undecided on means (20 of 30 units)"
    evidence = f"difference {supported.difference.center:.3g} (95 % {low} to {high}, 20 pairs, Holm p = 1.91e-06); {beside}"
    assert sentence(supported, ["L"]) == f"s6 is below linattn in nmse at L=8 {differ}: {evidence}"
    (finding,) = judge([claim(where={"L": [8]})], frame_of(better))
    said = f"s6 < linattn on polyreg, L 8 is supported: s6 is below linattn in nmse at L=8, degree=8 {differ}: {evidence}."
    assert text([finding]) == said
    late = one(better, claim("s6 > linattn", created=None))
    assert sentence(late) == f"s6 is below linattn in nmse {differ}: {evidence}; post hoc"
    few = one([*runs("s6", [0.1]), *runs("linattn", [0.5])], claim("linattn > s6"))
    said = "it is open whether linattn is above s6 in nmse, because a verdict needs 10 units but has 1 pair"
    assert sentence(few).startswith(f"{said}: difference 0.4 (1 pair, p = 1)"), "one pair says nothing about power"
    same = one([*runs("s6", around(0.5)), *runs("linattn", around(0.5))])
    assert sentence(same).startswith("s6 and linattn do not differ by more than 0.0")
    several = one([*by_instance("s6", 0.2, 10, 2), *by_instance("linattn", 0.9, 10, 2)])
    assert "20 pairs of 10 instances" in sentence(several)


def test_tables_of_places() -> None:
    finding = in_protocols(({"steps": 500}, 0.9), ({"steps": 2000}, 0.1))
    lines = text([finding]).splitlines()
    said = "holds in 1 of 2 protocols; contradicted with steps 500; depends on the budget in 2"
    assert lines[0] == f"s6 < linattn on polyreg {said}:"
    assert lines[2].startswith(
        "- contradicted: s6 is above linattn in nmse at steps=500 (the distributions differ, in this direction): difference "
    )
    assert lines[3].startswith(
        "- supported: s6 is below linattn in nmse at steps=2000 (the distributions differ, in this direction): difference "
    )
    assert lines[4].split()[:3] == ["steps", "verdict", "difference"]
    assert lines[5].startswith("500    contradicted (budget-dependent)  ")
    assert len(lines) == 7
    many = in_protocols(*(({"steps": 500 + n}, 0.1) for n in range(7)))
    assert len(text([many]).splitlines()) == 9, "in many places its table tells"
    written = markdown([finding, *judge([claim("s6 < atn")], frame_of(runs("s6", [1.0])))])
    header, *places_ = section(written, "steps")
    first = dict(zip(header, places_[0], strict=True))
    assert first["verdict"] == "contradicted (budget-dependent)"
    assert first["rests on"] == "14 pairs"
    assert first["solved"] == "0/14 (0 to 0.215) against 0/14 (0 to 0.215)"
    assert first["best of k"].endswith("(k=14)")
    assert first["lr"] == "0.01 against 0.01"
    assert first["because"].startswith("the interval is above 0 and Holm's p is ")
    assert written.startswith("A claim is tested wherever")
    assert "s6 < atn on polyreg cannot be tested" in written
