"""The page in a browser: it renders, sorts, unfolds and turns dark, with no error. Needs Chromium; skipped without one."""

import json
import re
import shutil
import subprocess
from base64 import b64encode
from hashlib import sha256
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from expbench.claims.claim import Claim, write
from expbench.report.build import write_report
from tests.report.html.test_page import rows
from tests.report.test_build import frame_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
QUIET += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--enable-logging=stderr"]
BEFORE = """<script>
window.failures = [];
addEventListener("error", (event) => failures.push(String(event.message)), true);
for (const kind of ["error", "warn"]) console[kind] = (...words) => failures.push(words.join(" "));
</script>"""
# what a reader does, and what is seen then
AFTER = """<pre id="observed"></pre><script>
const all = (where, from = document) => [...from.querySelectorAll(where)];
const column = (table, i) => all("tbody", table).map((body) => body.rows[0].cells[i].textContent.trim());
const seen = {};
seen.figures = all("figure svg").map((svg) => { const box = svg.getBoundingClientRect(); return [box.width, box.height]; });
seen.drawn = all("figure svg path").filter((path) => path.getBoundingClientRect().width > 0).length;
seen.broken = all("a[href]").map((a) => a.getAttribute("href"))
  .filter((href) => !href.startsWith("#") || !document.getElementById(href.slice(1)));
const table = document.querySelector("table:has(button.open)");
const heads = all("thead th", table);
const at = heads.findIndex((head) => head.textContent.trim() === "nmse");
seen.before = column(table, at);
heads[at].querySelector("button").click();
seen.ascending = [heads[at].getAttribute("aria-sort"), column(table, at)];
heads[at].querySelector("button").click();
seen.descending = [heads[at].getAttribute("aria-sort"), column(table, at)];
heads[0].querySelector("button").click();
seen.names = [heads[at].getAttribute("aria-sort"), column(table, 0)];
seen.pairs = all("tbody", table).every((body) => body.id.slice(2) === body.rows[1].id.slice(2));
const opener = document.querySelector("button.open");
const runs = document.getElementById(opener.getAttribute("aria-controls"));
seen.folded = runs.getBoundingClientRect().height;
opener.focus();
seen.focused = document.activeElement === opener;
opener.click();
seen.unfolded = [runs.getBoundingClientRect().height, opener.getAttribute("aria-expanded")];
const find = document.querySelector("input[data-filter]");
if (find) { find.value = "s6 32"; find.dispatchEvent(new Event("input", { bubbles: true })); }
const colours = () => { const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]; };
const theme = document.getElementById("theme");
seen.themes = [[theme.textContent, ...colours()]];
for (let i = 0; i < 3; i++) { theme.click(); seen.themes.push([theme.textContent, ...colours()]); }
document.documentElement.dataset.theme = "dark";
seen.ink = getComputedStyle(document.querySelector("figure svg text")).fill;
delete document.documentElement.dataset.theme;
document.querySelector("[data-copy]").click();
seen.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
seen.link = document.querySelector('.claim li a[href^="#c-"]').getAttribute("href").slice(1);
location.hash = seen.link;
setTimeout(() => {
  const target = document.getElementById(seen.link);
  seen.arrived = [target.matches(":target"), target.querySelector("button.open").getAttribute("aria-expanded")];
  seen.said = document.getElementById("said").textContent;
  seen.failures = failures;
  document.getElementById("observed").textContent = JSON.stringify(seen);
}, 300);
</script>"""


def allowed(text: str, script: str) -> str:
    """The page with its policy, which allows this script too."""
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert text.count("script-src ") == 1
    return text.replace("script-src ", f"script-src 'sha256-{digest}' ")


def observed(page: Path, folder: Path, width: int) -> dict[str, Any]:
    """What a browser whose window is so wide made of the page, and what it had to say."""
    text = allowed(page.read_text(), AFTER.partition("<script>")[2].removesuffix("</script>"))
    tried = folder / f"tried-{width}.html"
    tried.write_text(text.replace("<head>", f"<head>{BEFORE}").replace("</body>", f"{AFTER}</body>"))
    words = [str(BROWSER), *QUIET, f"--user-data-dir={folder / f'profile-{width}'}", f"--window-size={width},900"]
    words += ["--virtual-time-budget=3000", "--dump-dom", tried.as_uri()]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="observed">(.*?)</pre>', answer.stdout, re.DOTALL)
    assert found, answer.stderr[-2000:]
    assert found[1], answer.stderr[-2000:]
    assert "CONSOLE" not in answer.stderr, answer.stderr
    seen: dict[str, Any] = json.loads(unescape(found[1]))
    return seen


@pytest.fixture(scope="module", params=[1400, 500], ids=["desktop", "phone"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("browser")
    write(Claim("s6 < linattn", "polyreg"), folder)
    write_report(frame_of(rows()), folder, against="s6")
    return observed(folder / "report/report.html", folder, request.param)


def test_nothing_goes_wrong_and_no_link_is_broken(seen: dict[str, Any]) -> None:
    assert seen["failures"] == []
    assert seen["broken"] == []
    assert seen["wide"] <= 0, "the page itself does not scroll sideways"


def test_every_figure_is_shown(seen: dict[str, Any]) -> None:
    assert len(seen["figures"]) == 4
    assert all(width > 100 and height > 50 for width, height in seen["figures"])
    assert seen["drawn"] > 50


def test_a_click_sorts_by_number_and_what_is_missing_comes_last(seen: dict[str, Any]) -> None:
    state, texts = seen["ascending"]
    values = [float(text) for text in texts[:-1]]
    assert (state, values, texts[-1]) == ("ascending", sorted(values), "1 failed")
    assert texts != seen["before"]
    state, texts = seen["descending"]
    assert (state, [float(text) for text in texts[:-1]]) == ("descending", sorted(values, reverse=True))
    assert texts[-1] == "1 failed"
    state, names = seen["names"]
    assert (state, names) == ("none", sorted(names))
    assert seen["pairs"], "the runs of a row stay below it"


def test_a_row_unfolds_its_runs(seen: dict[str, Any]) -> None:
    assert seen["folded"] == 0
    assert seen["focused"]
    height, state = seen["unfolded"]
    assert (height > 50, state) == (True, "true")
    assert seen["arrived"] == [True, "true"], "and a link to a row opens it"


def test_light_and_dark(seen: dict[str, Any]) -> None:
    (name, *system), (first, *other), (second, *same), (last, *again) = seen["themes"]
    assert (name, last) == ("Theme: system", "Theme: system")
    assert {first, second} == {"Theme: light", "Theme: dark"}
    assert system == same == again != other
    assert seen["ink"] == "rgb(228, 231, 235)", "figures are drawn light on dark"
