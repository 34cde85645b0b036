"""What the sides of a claim differ in beside what it is about: named, and no evidence for the claim or against it."""

import json
from pathlib import Path
from typing import Any

import pytest

from expbench.claims import claim as claims
from expbench.claims import planning
from expbench.claims.formatting import markdown, sentence, table, text
from expbench.claims.pairing import MatchedPair, candidates, matched_pairs
from expbench.claims.verdicts import judge
from expbench.claims.words import Verdict
from expbench.errors import BadInput
from expbench.results.configurations import gather, with_context
from tests.claims.test_verdicts import Rows, around, claim, one, runs
from tests.report.test_build import frame_of


def pairs(text: str, rows: Rows, **changes: Any) -> list[MatchedPair]:
    frame = frame_of(rows)
    return matched_pairs(claim(text, **changes), candidates(frame, gather(with_context(frame))))


def pair(text: str, rows: Rows, **changes: Any) -> MatchedPair:
    (found,) = pairs(text, rows, **changes)
    return found


def sides(left: dict[str, Any], right: dict[str, Any], models: tuple[str, str] = ("s6", "attn")) -> Rows:
    """Runs of two models whose errors differ by much; the settings of the second are not in the first."""
    named = {"model_settings": '{"heads":1}', "parameters": 100, "state_size": 400} if models[0] != models[1] else {}
    return [*runs(models[0], around(0.2), **left), *runs(models[1], around(0.7, seed=1), **(named | right))]


@pytest.mark.parametrize(
    ("name", "values", "texts"),
    [
        ("positions", ("none", "sin"), ("none", "sin")),
        ("norm", ("none", "layer"), ("none", "layer")),
        ("D", (4, 8), ("4", "8")),
        ("depth", (1, 4), ("1", "4")),
        ("steps", (10, 40), ("10", "40")),
        ("dtype", ("float32", "bfloat16"), ("float32", "bfloat16")),
        ("batch_size", (4, 8), ("4", "8")),
    ],
)
def test_a_setting_in_which_the_sides_differ_confounds(name: str, values: tuple[Any, Any], texts: tuple[str, str]) -> None:
    rows = sides({name: values[0]}, {name: values[1]})
    fixed = f"s6({name}={texts[0]}) < attn({name}={texts[1]})"
    found = pair(fixed, rows)
    assert found.differences == {"model": ("s6", "attn"), name: texts}
    assert found.confounders == {name: texts}
    judgement = one(rows, claim(fixed))
    assert (judgement.verdict, judgement.measured) == (Verdict.CONFOUNDED, Verdict.SUPPORTED)
    assert not judgement.failed
    said = sentence(judgement)
    assert said.startswith(f"s6({name}={texts[0]}) is below attn({name}={texts[1]}) in nmse (the distributions differ")
    assert f"; the sides also differ in {name} ({texts[0]} against {texts[1]});" in said
    told = one(rows, claim(fixed, about=["model", name]))
    assert (told.verdict, told.confounders) == (Verdict.SUPPORTED, {})
    assert "also differ" not in sentence(told)


def test_the_opposite_direction_is_said_too() -> None:
    rows = sides({"positions": "none"}, {"positions": "sin"})
    judgement = one(rows, claim("s6(positions=none) > attn(positions=sin)"))
    assert (judgement.verdict, judgement.measured) == (Verdict.CONFOUNDED, Verdict.CONTRADICTED)
    assert sentence(judgement).startswith("s6(positions=none) is below attn(positions=sin) in nmse")
    (finding,) = judge([claim("s6(positions=none) > attn(positions=sin)")], frame_of(rows))
    assert finding.summary == "holds in 0 of 1 protocol; confounded by positions in 1"
    line = dict(zip(*table(finding), strict=True))
    assert line["verdict"] == "confounded"
    assert line["because"].startswith("the sides also differ in positions (none against sin); the interval is below 0")


def test_what_the_runs_leave_open_stays_open_and_names_the_difference() -> None:
    few = [*runs("s6", [0.1], positions="none"), *runs("attn", [0.5], positions="sin", model_settings="{}")]
    judgement = one(few, claim("s6(positions=none) < attn(positions=sin)"))
    assert judgement.verdict == Verdict.UNDECIDED
    assert "the sides also differ in positions (none against sin)" in sentence(judgement)


@pytest.mark.parametrize("name", ["positions", "depth", "norm"])
def test_a_claim_on_two_sides_of_one_model_is_about_what_it_sets_apart(name: str) -> None:
    values: tuple[Any, Any] = {"positions": ("sin", "none"), "depth": (2, 1), "norm": ("rms", "none")}[name]
    rows = sides({name: values[0]}, {name: values[1]}, ("s6", "s6"))
    judgement = one(rows, claim(f"s6({name}={values[0]}) < s6({name}={values[1]})"))
    assert (judgement.verdict, judgement.confounders) == (Verdict.SUPPORTED, {})
    both = sides({name: values[0], "clip": 1.0}, {name: values[1], "clip": 2.0}, ("s6", "s6"))
    other = claim(f"s6({name}={values[0]}, clip=1) < s6({name}={values[1]}, clip=2)", about=[name])
    assert one(both, other).confounders == {"clip": ("1", "2")}


def test_a_model_is_named_where_the_claim_is_about_something_else() -> None:
    rows = sides({"positions": "none"}, {"positions": "sin"})
    made = claim("s6(positions=none) < attn(positions=sin)", about=["positions"])
    assert pair(made.text, rows, about=["positions"]).confounders == {"model": ("s6", "attn")}


def test_widths_that_match_the_sizes_do_not_confound() -> None:
    made = "s6(D=5) < attn(D=6)"
    for parameters, confounds in ((203, False), (223, False), (230, True)):
        rows = sides({"D": 5, "parameters": 203}, {"D": 6, "parameters": parameters, "state_size": 999})
        assert bool(pair(made, rows).confounders) == confounds, parameters
    state = sides({"D": 5, "parameters": 203, "state_size": 64}, {"D": 6, "parameters": 999, "state_size": 64})
    assert not pair(made, state).confounders
    deeper = sides({"depth": 1, "parameters": 203}, {"depth": 2, "parameters": 203})
    assert pair("s6(depth=1) < attn(depth=2)", deeper).confounders == {"depth": ("1", "2")}


def tuning(model: str, rates: tuple[float, ...], runs_each: int, **settings: Any) -> Rows:
    made = (r for i, lr in enumerate(rates) for r in runs(model, [0.1 + i] * runs_each, lr=lr, **settings))
    return [r | {"kind": "tuning", "key": f"tuning {r['key']}"} for r in made]


def test_unequal_tuning_confounds() -> None:
    heads: dict[str, Any] = {"model_settings": '{"heads":1}'}
    rows = sides({}, {})
    both = [*tuning("s6", (0.01, 0.1), 5), *tuning("attn", (0.01, 0.1), 5, **heads)]
    assert pair("s6 < attn", rows + both).confounders == {}
    more = [*tuning("s6", (0.01, 0.1), 5), *tuning("attn", (0.01, 0.1), 2, **heads)]
    assert pair("s6 < attn", rows + more).confounders == {"tuning runs": ("10", "4")}
    assert one(rows + more, claim("s6 < attn")).verdict == Verdict.CONFOUNDED
    spread = [*tuning("s6", (0.01, 0.1), 5), *tuning("attn", (0.01, 0.1, 1.0, 0.001, 0.0001), 2, **heads)]
    assert pair("s6 < attn", rows + spread).confounders == {"learning rates": ("2", "5")}
    bare = tuning("s6", (0.01, 0.1), 5)
    assert pair("s6 < attn", rows + bare).confounders == {"tuning runs": ("10", "0")}
    by_hand = [*rows, *runs("s6", around(0.3), lr=0.1)]
    assert pair("s6 < attn", by_hand).confounders == {"learning rates": ("2", "1")}


def test_the_base_of_a_code_is_part_of_the_code() -> None:
    sin = {"positions": "sin"}
    rows = [
        *runs("s6", around(0.2), position_base=10000.0),
        *runs("s6", around(0.3), position_base=10000.0, **sin),
        *runs("s6", around(0.4), position_base=3.0, **sin),
        *runs("attn", around(0.5), position_base=10000.0, model_settings="{}", **sin),
        *runs("attn", around(0.6), position_base=3.0, model_settings="{}", **sin),
    ]
    same = pairs("s6(positions=sin) < attn(positions=sin)", rows)
    assert [p.confounders for p in same] == [{}, {}], "each base with itself"
    assert {p.where["position_base"] for p in same} == {"10000", "3"}
    apart = pairs("s6(positions=sin) < s6(positions=none)", rows)
    assert [(p.differences.keys(), p.confounders) for p in apart] == [({"positions"}, {})] * 2, "the base follows"
    crossed = pair("s6(position_base=3, positions=sin) < attn(position_base=10000, positions=sin)", rows)
    assert crossed.confounders == {"position_base": ("3", "10000")}


def test_confounded_pairs_take_nothing_from_the_correction_of_the_others() -> None:
    sound = [*runs("s6", around(0.2, 10)), *runs("linattn", around(0.7, 10, seed=1), model_settings="{}")]
    rows = [*sound, *runs("attn", around(0.7, 10, seed=2), positions="sin", model_settings="{}")]
    other = claim("s6(positions=none) < attn(positions=sin)")
    alone, beside = judge([claim()], frame_of(sound)), judge([claim(), other], frame_of(rows))
    assert beside[0].judgements[0].holm == alone[0].judgements[0].holm
    assert beside[1].judgements[0].verdict == Verdict.CONFOUNDED


def test_what_a_claim_is_about_is_part_of_it_where_it_is_not_the_default() -> None:
    plain = claim("s6(depth=1) > attn(depth=4)")
    assert plain.subjects == {"model"}
    assert claim(plain.text, about=["model"]).hash == plain.hash, "the default need not be said"
    told = claim(plain.text, about=["depth", "model", "depth"])
    assert (told.about, told.subjects, told.hash == plain.hash) == (("depth", "model"), {"depth", "model"}, False)
    assert told.title == "s6(depth=1) > attn(depth=4) on polyreg, about depth and model"
    assert claim("s6(N=2) < s6").subjects == {"N"}
    with pytest.raises(BadInput, match=r"unknown setting that the claim .* is about: 'dept'; did you mean 'depth'\?"):
        claim(plain.text, about=["dept"])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = claims.write(claim("s6(depth=1) > attn(depth=4)", about=["model", "depth"]), tmp_path)
    (read,) = claims.read(tmp_path)
    assert (read, read.about, read.withdrawn) == (made, ("depth", "model"), None)
    path = tmp_path / "claims" / f"{made.hash}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"withdrawn": "the sides differ in positions"}))
    (read,) = claims.read(tmp_path)
    assert (read, read.withdrawn) == (made, "the sides differ in positions")
    assert claims.write(made, tmp_path).withdrawn, "who repeats the claim does not restore it"
    for field, value, words in (("about", "depth", "a list"), ("withdrawn", 1, "a reason"), ("abuot", [], "fields")):
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
        with pytest.raises(BadInput, match=words):
            claims.read(tmp_path)
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != field}))


@pytest.mark.parametrize("study", ["table2", "degree", "polynomials", "table1-nlp-wikitext-2"])
def test_the_committed_claims_are_those_that_were_written(study: str) -> None:
    for made in claims.read(Path("results") / study):  # raises if a hash is not that of its contents
        apart = made.left.settings.get("positions") != made.right.settings.get("positions")
        assert (made.withdrawn is not None) == (apart and made.left.name != made.right.name), made.title


def test_confounded_claims_in_texts() -> None:
    rows = sides({"positions": "none"}, {"positions": "sin"})
    findings = judge([claim("s6(positions=none) < attn(positions=sin)")], frame_of(rows))
    said = text(findings)
    assert said.startswith("s6(positions=none) < attn(positions=sin) on polyreg is confounded: s6(positions=none) is below")
    assert "the sides also differ in positions" in markdown(findings)


def test_a_study_says_how_many_units_its_open_pairs_need() -> None:
    wide = [*runs("s6", around(0.5, 12, spread=0.3)), *runs("linattn", around(0.6, 12, seed=1, spread=0.3))]
    (open_,) = judge([claim()], frame_of(wide))
    assert planning.summary([open_]).startswith("1 pair is undecided. For 80 % power, with differences distributed as those")
    (few,) = judge([claim()], frame_of([*runs("s6", [0.1, 0.2]), *runs("linattn", [0.3, 0.5])]))
    assert planning.summary([few]).endswith("observed: 1 unknown from fewer than 5.")
    assert "power" not in sentence(few.judgements[0])
