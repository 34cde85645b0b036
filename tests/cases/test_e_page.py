import json
import re
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from expbench.claims import claim
from expbench.report.build import write_report
from tests.report.html.test_browser import BROWSER, QUIET, allowed
from tests.report.html.test_page import Reader
from tests.report.test_build import frame_of, row, runs, section

POLYNOMIAL = {"norm": "none", "network_degree": 9, "network_order": 4, "floor": 0.05}


def _rows() -> list[dict[str, Any]]:
    """Three models at two lengths with few seeds, as after a first sweep; one of them has a floor."""
    rows = []
    for L in (4, 16):
        settings = json.dumps({"L": L, "degree": L, "family": "suffix", "instance": 0, "test_size": 4096})
        place: dict[str, Any] = {"L": L, "degree": L, "task_settings": settings}
        rows += runs([0.30 * L, 0.31 * L, 0.29 * L], model="attn", positions="sin", skip=None, parameters=81, **place)
        rows += runs([0.02 * L, 0.03 * L], model="s6", parameters=109, **place)
        rows += runs([0.10 * L, 0.11 * L, 0.10 * L], model="linattn", positions="sin", skip=None, **place | POLYNOMIAL)
        rows += runs([0.001, None, None, None], model="unstable", **place)
        failed = {"status": "failed", "error": "x"} | dict.fromkeys(("value", "split", "primary"))
        rows.append(row(model="broken", key=f"b{L}", **failed | place))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("first")
    write_report(frame_of(_rows()), made, models=["attn", "s6", "linattn"])
    return made / "report"


def test_e_results_are_sorted_best_first_at_each_length(tmp_path: Path) -> None:
    text = write_report(frame_of(_rows()), tmp_path).read_text()
    header, *lines = section(text, "model")
    at = [(line[0], line[header.index("L")]) for line in lines]
    assert at == [(model, L) for L in ("4", "16") for model in ("s6", "linattn", "attn", "unstable", "broken")]
    accuracy = {"metric": "accuracy", "higher_is_better": True, "success_threshold": 0.95}
    rows = [row(**accuracy, key=f"k{i}", model=f"m{i}", value=0.1 * i) for i in range(3)]
    text = write_report(frame_of(rows), tmp_path).read_text()
    assert [line[0] for line in section(text, "model")[1:]] == ["m2", "m1", "m0"]
    latex = (tmp_path / "report/report.tex").read_text()
    assert latex.index("m2 &") < latex.index("m1 &") < latex.index("m0 &")


def test_e_what_differs_is_a_column_and_what_is_the_same_is_said_once(folder: Path, tmp_path: Path) -> None:
    def columns(page: Path) -> list[str]:
        head = re.search(r"<thead>(.*?)</thead>", page.read_text(), re.DOTALL)
        assert head
        return re.findall(r'<button type="button">(.*?)</button>', head[1])

    first = [
        "model",
        "nmse",
        "L",
        "degree",
        "norm",
        "positions",
        "95 % interval",
        "solved",
        "floor",
        "parameters",
        "reading",
    ]
    assert columns(folder / "report.html") == [*first, "best", "solved, 95 %", "reach"]
    (said,) = re.findall(r"<p>(Same in all rows: .*?)</p>", (folder / "report.html").read_text(), re.DOTALL)
    assert said.replace("\n", " ").endswith(
        "dtype=float32, residual=on, skip=on (if any); rate: <strong>not tuned</strong>; state: 16."
    )
    assert "test_size=4096, D=4, depth=1, steps=10" in said
    same = [*runs([0.2, 0.3], floor=0.5), *runs([0.1, 0.1], floor=0.5, model="ssm")]
    write_report(frame_of(same), tmp_path)
    assert "reading" in columns(tmp_path / "report/report.html"), "an alarm stays in each row"
    write_report(frame_of(runs([0.2, 0.3])), tmp_path)
    assert {"floor", "parameters", "state", "rate"} <= set(columns(tmp_path / "report/report.html")), "of a single row too"


def test_e_no_undecided_verdict_stands_before_the_results(folder: Path, tmp_path: Path) -> None:
    text = (folder / "report.html").read_text()
    reader = Reader(text)
    assert next(title for title in reader.words["h2"] if title.strip()) == "polyreg"
    shown = re.sub(r'<details class="undecided">.*?</details>\s*<details><summary>How', "", text, flags=re.DOTALL)
    assert "undecided verdicts" in text
    assert 'class="v unsure">undecided<' in text
    assert 'class="v unsure">undecided<' not in shown, "all of them are folded"
    made = [claim.Claim("s6 < linattn", "polyreg"), claim.Claim("s6 < attn", "polyreg")]
    for one in made:
        claim.write(one, tmp_path)
    low: list[float | None] = [0.01 * (1 + i / 100) for i in range(12)]
    high: list[float | None] = [0.5 * (1 + i / 100) for i in range(12)]
    rows = [*runs([0.3, 0.4], model="linattn"), *runs(low, model="s6"), *runs(high, model="attn")]
    markdown = write_report(frame_of(rows), tmp_path).read_text()
    assert markdown.index("s6 < attn on polyreg is supported") < markdown.index("s6 < linattn on polyreg is undecided")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize(
    ("width", "visible"),
    [(1280, {"model", "nmse", "L", "95 % interval", "solved", "floor", "parameters", "reading"}), (390, {"model", "nmse"})],
)
def test_e_what_a_reader_decides_by_is_visible(folder: Path, tmp_path: Path, width: int, visible: set[str]) -> None:
    script = """
    const frame = document.createElement("iframe");
    frame.style.cssText = "width: WIDTHpx; height: 900px; border: 0; position: absolute; left: 0; top: 0";
    frame.srcdoc = document.documentElement.outerHTML.replace(/<script[^]*?<\\/script>/g, "");
    document.body.append(frame);
    frame.onload = () => {
      const page = frame.contentDocument;
      const box = page.querySelector(".scroll").getBoundingClientRect();
      const heads = [...page.querySelectorAll("table.main thead th")].slice(0, 14);
      const seen = heads.filter((head) => head.getBoundingClientRect().right <= box.right + 1);
      const told = { width: page.documentElement.clientWidth, right: box.right, names: seen.map((h) => h.textContent) };
      const made = document.createElement("pre");
      made.id = "observed";
      made.textContent = JSON.stringify(told);
      document.body.append(made);
    };
    """.replace("WIDTH", str(width))
    page = tmp_path / "page.html"
    text = allowed((folder / "report.html").read_text(), script)
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    words = [str(BROWSER), *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1600,900"]
    words += ["--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="observed">(.*?)</pre>', answer.stdout, re.DOTALL)
    assert found, answer.stderr[-2000:]
    told = json.loads(unescape(found[1]))
    assert width - 20 < told["width"] <= width, "less its scroll bar"
    assert told["right"] <= width
    assert visible <= set(told["names"])
