"""The report as a page: what stands on it, that it needs nothing else, and that texts of strangers stay texts."""

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from expbench.claims.claim import Claim, write
from expbench.report.build import write_report
from expbench.report.document import name
from expbench.report.html import page
from expbench.report.html.figure import inline
from expbench.results.configurations import IDENTITY, gather, with_context
from expbench.run import FORMER_SETTINGS, content_key
from tests.report.test_build import control, frame_of, row, runs

STRANGE = '</script><script>alert("&1")</script><img src=http://x/y.png onerror=alert(2)> [a](http://x) ![b](http://x)'
VOID = {"meta", "link", "input", "br", "img"}
SELF_CLOSED = {"path", "use", "image", "rect", "circle", "line"}


class Reader(HTMLParser):
    """What a page consists of; every element is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.words.setdefault(tag, []).append(data)

    def each(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]

    def count(self, tag: str) -> int:
        return Counter(tag for tag, _ in self.tags)[tag]

    def text(self, tag: str) -> str:
        return "".join(self.words.get(tag, []))


def rows() -> list[dict[str, Any]]:
    """Two models at three lengths with twelve seeds, one with a floor; a run that failed, with a message of a stranger's."""
    made = []
    for L in (8, 16, 32):
        settings = json.dumps({"L": L, "degree": L, "family": "suffix", "formula": "x1*x2*x3 <b>", "instance": 0})
        place = {"L": L, "degree": L, "task_settings": settings}
        made += runs([0.002 * L + seed / 1e4 for seed in range(12)], model="s6", **place)
        made += runs([0.4 + L / 100 + seed / 1e3 for seed in range(12)], model="linattn", floor=0.3, **place)
        made.append(control("mean", "baseline", 1.0, **place))
    broken = {
        "key": "f",
        "model": STRANGE,
        "status": "failed",
        "error": STRANGE,
        "split": None,
        "metric": None,
        "value": None,
    }
    made.append(row(**broken, primary=None, **place))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with its report."""
    made = tmp_path_factory.mktemp("page")
    write(Claim("s6 < linattn", "polyreg"), made)
    write_report(frame_of(rows()), made, against="s6")
    return made


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report/report.html").read_text()


@pytest.fixture(scope="module")
def reader(text: str) -> Reader:
    return Reader(text)


def test_names_are_unique_and_every_link_leads_somewhere(reader: Reader) -> None:
    names = reader.each("id")
    assert [n for n, times in Counter(names).items() if times > 1] == []
    targets = reader.each("href") + reader.each("xlink:href")
    assert len(targets) > 20
    assert {target[1:] for target in targets if target.startswith("#")} <= set(names)
    assert {target[:5] for target in targets if not target.startswith("#")} <= {"data:"}
    for attribute in ("aria-controls", "data-csv", "data-filter", "data-all"):
        assert set(reader.each(attribute)) <= set(names), attribute


@pytest.mark.parametrize("study", ["lengths", "table2"])
def test_committed_pages_are_whole(study: str) -> None:
    reader = Reader((Path(__file__).parents[3] / "results" / study / "report" / "report.html").read_text())
    names = reader.each("id")
    assert len(names) == len(set(names)) > 20
    assert {target[1:] for target in reader.each("href") if target.startswith("#")} <= set(names)
    assert f"expbench report --results results/{study}" in reader.text("pre")


def test_nothing_is_fetched(reader: Reader, text: str) -> None:
    assert reader.count("script") == 1
    assert {"img", "iframe", "object", "base", "form"} & {tag for tag, _ in reader.tags} == set()
    assert reader.each("src") == []
    style = reader.text("style")
    assert "url(" not in style
    assert "@import" not in style
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_what_strangers_wrote_stays_a_text(reader: Reader, text: str) -> None:
    assert "alert" not in reader.text("script")
    assert STRANGE in reader.text("button")
    assert STRANGE in reader.text("pre")
    assert "x1*x2*x3 <b>" in reader.text("p")
    assert reader.count("em") == reader.count("b") - text.count("<b>") == 0


def test_results_come_first_then_claims_and_provenance_last(reader: Reader, text: str) -> None:
    titles = [title for title in reader.words["h2"] if title.strip()]
    assert titles == ["polyreg", "Each model against s6", "Claims", "How to read the tables", "Provenance"]
    results = text[: text.index("<h2>Each model against s6</h2>")]
    assert results.index("polyreg: results") < results.index("<figure>") < results.index("polyreg: controls")
    verdicts = [attributes["class"] for tag, attributes in reader.tags if tag == "span" and "class" in attributes]
    assert "v good" in verdicts
    assert "supported" in reader.text("span")


class Folds(HTMLParser):
    """Badges and other texts of the claims of a page: those inside folds of undecided verdicts, and the others."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[bool] = []
        self.badge = False
        self.badges: dict[bool, list[str]] = {True: [], False: []}
        self.texts: dict[bool, list[str]] = {True: [], False: []}
        self.feed(text[text.index("<h2>Claims</h2>") : text.index("<h2>How to read the tables</h2>")])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.badge = tag == "span" and str(dict(attrs).get("class")).startswith("v ")
        if tag == "details":
            self.open.append(("class", "undecided") in attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag == "details":
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():
            (self.badges if self.badge else self.texts)[any(self.open)].append(data.strip())
        self.badge = False


def test_undecided_verdicts_are_folded_and_decided_ones_stay_visible(tmp_path: Path) -> None:
    def at(L: int, model: str, values: list[float | None]) -> list[dict[str, Any]]:
        settings = json.dumps({"L": L, "degree": L, "family": "suffix", "formula": "x1*x2*x3 <b>", "instance": 0})
        return runs(values, model=model, L=L, degree=L, task_settings=settings)

    few = [*at(64, "s6", [0.1, 0.2]), *at(64, "linattn", [0.3, 0.4])]
    few += [line for L in (8, 16) for line in at(L, "attn", [0.3, 0.4])]
    for claim in ("s6 < linattn", "s6 < attn", "s6 < ssm"):
        write(Claim(claim, "polyreg"), tmp_path)
    write_report(frame_of([*rows(), *few]), tmp_path)
    claims = Folds((tmp_path / "report/report.html").read_text())
    folds = [text for text in claims.texts[True] if "undecided verdict" in text]
    assert folds == ["1 undecided verdict", "2 undecided verdicts"]
    assert set(claims.badges[True]) == {"undecided"}
    assert Counter(claims.badges[False]) == {
        "supported": 1 + 3 + 3,  # of the claim, of its sentences and of the rows of its table
        "undecided": 1,  # of the claim
        "no matched pair": 1,
    }
    assert "s6 < attn on polyreg" in claims.texts[True]
    assert {"s6 < linattn on polyreg", "s6 < ssm on polyreg"} <= set(claims.texts[False])


def test_numbers_lead_to_their_runs_and_to_the_command(reader: Reader) -> None:
    configurations = gather(with_context(frame_of(rows())))
    configuration = next(c for c in configurations if c["model"] == "s6" and c["L"] == 16)
    assert f"c-{name(configuration)}" in reader.each("id")
    linked = [target for target in reader.each("href") if target == f"#c-{name(configuration)}"]
    assert len(linked) > 2, "from the row itself and from the verdicts that rest on it"
    (command,) = configuration.commands
    said = reader.text("pre")
    assert command in said
    for key in configuration.each("key"):
        assert key[:12] in said
    assert "expbench report --results" in said


def test_each_figure_is_drawn_and_its_data_linked(reader: Reader, folder: Path) -> None:
    assert reader.count("svg") == reader.count("figure") == len(list((folder / "report/figures").iterdir())) == 4
    assert "Data: " in reader.text("figcaption")
    assert "linattn: floor" in reader.text("text")
    assert re.search(r"floor</th>|>floor<", (folder / "report/report.html").read_text())


def test_a_figure_follows_the_colours_of_the_page() -> None:
    svg = (
        '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "http://y">\n<svg width="72pt" height="36pt" viewBox="0 0 72 36" '
        'xmlns="http://www.w3.org/2000/svg"><metadata>http://z</metadata><defs><style type="text/css">*{}</style></defs>'
        '<g id="figure_1"><path id="m1" d="M 1.23456 -7.5 L 2 3" style="fill: #ffffff; stroke: #1f77b4"/></g>'
        '<use xlink:href="#m1" x="1.999" y="2"/><g clip-path="url(#m1)"/></svg>'
    )
    drawn = inline(svg, "f3", 'a "title"')
    assert drawn.startswith('<svg role="img" aria-label="a &#34;title&#34;" width="72pt" height="36pt" viewBox="0 0 72 36"')
    assert 'id="f3-m1"' in drawn
    assert "figure_1" not in drawn
    assert 'd="M 1.23 -7.5 L 2 3" style="fill: var(--paper); stroke: var(--c0)"' in drawn
    assert 'xlink:href="#f3-m1" x="1.99"' in drawn
    assert "url(#f3-m1)" in drawn
    assert "http" not in drawn


def test_what_there_is_no_room_for_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_MOST_LINES", 4)
    monkeypatch.setattr(page, "_LARGEST_FIGURE", 10)
    write_report(frame_of(rows()), tmp_path)
    text = (tmp_path / "report/report.html").read_text()
    reader = Reader(text)
    assert len(re.findall(r'<tbody id="c-', text)) == 4
    assert "3 more rows are omitted" in reader.text("p")
    assert reader.count("svg") == 0
    assert reader.text("figcaption").count("Too large for this page: see figures/") == reader.count("figure") > 0
    names = set(reader.each("id"))
    assert {target[1:] for target in reader.each("href") if target.startswith("#")} <= names, "no link to what is left out"


def test_pages_are_small(text: str) -> None:
    assert len(text) < 300_000


def test_runs_that_reproduce_a_configuration() -> None:
    def commands(rows: list[dict[str, Any]]) -> list[str]:
        (configuration,) = gather(with_context(frame_of(rows)))
        return [" ".join(re.findall(r"--seeds \S+|--paired|--instances \S+", command)) for command in configuration.commands]

    def on(instance: int, seeds: list[int]) -> list[dict[str, Any]]:
        settings = json.dumps({"L": 8, "degree": 8, "family": "random", "instance": instance, "lo": 0.5})
        own = {"instance": instance, "task_settings": settings}
        return [row(seed=seed, key=f"{instance}-{seed}", **own) for seed in seeds]

    assert commands(on(0, [0, 1, 2, 5])) == ["--seeds 0:3,5 --instances 0"]
    assert commands(on(0, [0, 1]) + on(1, [0, 1])) == ["--seeds 0,1 --instances 0,1"]
    assert commands(on(0, [0]) + on(1, [1]) + on(2, [2])) == ["--seeds 0:3 --paired"]
    assert commands(on(0, [0, 1]) + on(1, [2])) == ["--seeds 0,1 --instances 0", "--seeds 2 --instances 1"]


@pytest.mark.parametrize("pairing", [["--seeds", "0:3", "--instances", "1,4"], ["--seeds", "3:5", "--paired"]])
def test_the_command_of_a_configuration_is_its_runs(pairing: list[str]) -> None:
    import shlex

    from typer.main import get_command

    from expbench.cli.main import app
    from expbench.sweep.expand import expand
    from expbench.sweep.spec import SweepSpec

    words = {"seeds": pairing[1], "paired": "--paired" in pairing} | ({"instances": pairing[3]} if len(pairing) > 3 else {})
    request = SweepSpec(task="polyreg", models="s6", L="4", task_settings=("family=random",), D="3", **words)  # type: ignore[arg-type]
    jobs = expand(request, "cpu")
    made = []
    for job in jobs:
        run = job.run
        own = run.values() | {"L": run.L, "degree": run.task_settings["degree"], "instance": run.task_settings["instance"]}
        own |= {column: json.dumps(own[column]) for column in ("task_settings", "model_settings")}
        made.append(row(**own, key=run.key, model_origin="built-in", task_origin="built-in"))
    (configuration,) = gather(with_context(frame_of(made)))
    (command,) = configuration.commands
    given = get_command(app).commands["run"].make_context("run", shlex.split(command)[2:]).params  # type: ignore[attr-defined]
    fields = {key: value for key, value in given.items() if key in SweepSpec.__dataclass_fields__}
    settings = {f"{kind}_settings": tuple(given[f"{kind}_settings"] or ()) for kind in ("task", "model")}
    again = expand(SweepSpec(**fields | settings), "cpu")
    assert sorted(job.run.key for job in again) == sorted(job.run.key for job in jobs)


def test_a_field_that_came_later_changes_no_link_where_it_has_its_default() -> None:
    before, other = (gather(with_context(frame_of([row(schedule=shape)])))[0] for shape in ("cosine", "linear"))
    assert name(before) != name(other)
    known = {FORMER_SETTINGS.get(column, column): str(before[column]) for column in IDENTITY if column != "schedule"}
    assert name(before) == content_key(known)[:10], "as pages had it before there was a schedule"
