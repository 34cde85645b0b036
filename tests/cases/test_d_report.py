import contextlib
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from base64 import b64encode
from collections import Counter
from datetime import UTC, datetime
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import matplotlib as mpl
import pytest
import torch
from markdown_it import MarkdownIt

from expbench import files
from expbench.bench import figure as bench_figure
from expbench.claims import claim
from expbench.cli.compare import write_page
from expbench.console.formatting import code_block
from expbench.errors import BadInput
from expbench.regression import baseline
from expbench.report import drawing, folder
from expbench.report.build import write_report
from expbench.results import store
from expbench.sweep.locks import lock
from expbench.training import weights
from expbench.training.epochs.checkpoint import CheckpointError, Checkpoints, delete_checkpoints
from tests.conftest import CommandLine
from tests.report.html.test_browser import BROWSER, QUIET
from tests.report.html.test_page import Reader
from tests.report.test_build import control, frame_of, row, runs
from tests.results.rows import trained


def test_d5_figures_are_the_same_bytes_under_any_settings_of_matplotlib(tmp_path: Path) -> None:
    frame = frame_of([*runs([0.1, 0.2]), *runs([0.3, 0.4], L=16), control("mean", "baseline", 1.0)])
    seen = []
    hostile: Any = {"text.usetex": True, "font.size": 24, "lines.linewidth": 9, "savefig.format": "pgf"}
    other: Any = {"axes.formatter.use_mathtext": True, "figure.dpi": 10, "svg.fonttype": "path"}
    for settings in ({}, hostile, other):
        with mpl.rc_context(settings):
            write_report(frame, tmp_path)
            drawing.save(bench_figure.scan(BENCH), tmp_path / "report" / "bench.svg")
        seen.append({path.name: path.read_bytes() for path in (tmp_path / "report").rglob("*.svg")})
    assert len(seen[0]) == 4
    assert seen[0] == seen[1] == seen[2]


BENCH: list[dict[str, Any]] = [
    {"L": L, "B": 1, "D": 4, "N": 4, "dtype": "float32", "gate": False, "transition": "exp", "backend": "torch"}
    | {"status": "ok", "forward_ps": 3.0 * L, "backward_ps": 900.0 * L}
    for L in (64, 128, 4096)
]


def test_d5_matplotlib_is_imported_in_one_place() -> None:
    sources = Path(drawing.__file__).parents[1].rglob("*.py")
    found = [path.name for path in sources if re.search(r"^\s*(from|import) matplotlib", path.read_text(), re.MULTILINE)]
    assert found == ["drawing.py"]


def test_d5_an_unknown_backend_is_ignored_and_a_known_one_stays() -> None:
    code = "import expbench.report.drawing, os, matplotlib as m"
    code += "; print(os.environ['MPLBACKEND'], m.rcParams['backend'])"
    for backend, chosen in (("nosuch", None), ("svg", "svg")):
        around = {**os.environ, "MPLBACKEND": backend}
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=around, check=False)
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.split()[0] == backend, "what a child process would read"
        assert chosen in (None, answer.stdout.split()[1])


@pytest.mark.parametrize("name", ["a $x$ b", r"$\nosuch{", "$", "_under", "a\x1bb\x00c", "模型", "two\nlines", "<b>&amp;"])
def test_d5_names_are_drawn_as_they_are(name: str, tmp_path: Path) -> None:
    frame = frame_of(
        [*runs([0.1, 0.2], model=name), *runs([0.3, 0.4], L=16, model=name), control(f"c {name}", "baseline", 1.0)]
    )
    write_report(frame, tmp_path)
    drawn = [path.read_text() for path in sorted((tmp_path / "report/figures").iterdir())]
    assert len(drawn) == 3
    for text in drawn:
        ET.fromstring(text)
        assert "\x1b" not in text
    if "$" in name:
        assert all(f">{name}<" in text for text in drawn)


def _report(folder: Path, *values: float) -> Path:
    return write_report(frame_of(runs(list(values))), folder)


FAILED: dict[str, Any] = {"status": "failed", "error": "broke"} | dict.fromkeys(("split", "metric", "value", "primary"))


def _contents(folder: Path) -> dict[str, bytes | str]:
    """What lies in a folder, without following links."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes()
        for name, path in paths.items()
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder whose files have the names of a report's."""
    folder = tmp_path / "outside"
    (folder / "figures").mkdir(parents=True)
    for name in ("report.md", "report.html", "notes.txt", "figures/1-polyreg-curves.svg", "figures/mine.svg", "keep.json"):
        (folder / name).write_text(f"{name} of mine")
    return folder


def test_d1_a_report_that_is_a_link_is_refused(tmp_path: Path, outside: Path) -> None:
    before = _contents(outside)
    results = tmp_path / "results"
    results.mkdir()
    (results / "report").symlink_to(outside)
    with pytest.raises(BadInput, match=r"report cannot be written .*a link"):
        _report(results, 0.1)
    assert _contents(outside) == before
    assert [path.name for path in results.iterdir()] == ["report"]


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to], ids=["symlink", "hard link"])
def test_d1_links_inside_a_report_are_kept_and_not_followed(tmp_path: Path, outside: Path, make: Any) -> None:
    before = _contents(outside)
    results = tmp_path / "results"
    (results / "report").mkdir(parents=True)
    for name in ("report.md", "report.html", "notes.txt"):
        make(results / "report" / name, outside / name)
    if make is Path.symlink_to:
        (results / "report" / "figures").symlink_to(outside / "figures")
    for value in (0.1, 0.2):
        path = _report(results, value)
        assert path.read_text().startswith("# expbench report")
        assert not path.is_symlink()
        assert _contents(outside) == before
    found = _contents(results / "report")
    assert {name for name in found if name.endswith(".kept")} >= {"report.md.kept", "report.html.kept"}
    assert ("figures.kept" in found) == (make is Path.symlink_to)
    assert "figures/1-polyreg-curves.svg" in found
    assert "notes.txt" in found


def test_d1_only_files_of_the_last_report_are_deleted(tmp_path: Path) -> None:
    _report(tmp_path, 0.1)
    report = tmp_path / "report"
    (report / "figures" / "mine.svg").write_text("mine")
    (report / "sub" / "deep").mkdir(parents=True)
    (report / "sub" / "deep" / "note").write_text("mine")
    (report / "empty").mkdir()
    (report / "figures" / "2-old.svg").write_text("changed")
    listed = json.loads((report / ".files.json").read_text())
    assert set(listed) == {"report.md", "report.html", "report.tex", "figures/1-polyreg-curves.svg"}
    listed |= {"figures/2-old.svg": "another digest", "../results.txt": "x", "figures/gone.svg": "x"}
    (report / ".files.json").write_text(json.dumps(listed))
    (tmp_path / "results.txt").write_text("mine")
    (report / "report.tex").write_text("edited")
    write_report(frame_of([row(**FAILED)]), tmp_path)
    assert set(_contents(report)) == {
        *("report.md", "report.html", "report.tex", ".files.json", "report.tex.kept"),
        *("figures/mine.svg", "figures/2-old.svg", "sub/deep/note"),
    }
    assert (report / "report.tex.kept").read_text() == "edited"
    assert (report / "empty").is_dir()
    assert (tmp_path / "results.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"report", "results.txt"}


def test_d1_a_report_without_a_list_is_replaced(tmp_path: Path) -> None:
    _report(tmp_path, 0.1)
    (tmp_path / "report" / ".files.json").unlink()
    write_report(frame_of([row(**FAILED)]), tmp_path)
    assert set(_contents(tmp_path / "report")) == {"report.md", "report.html", "report.tex", ".files.json"}


def test_d1_an_interrupted_report_leaves_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report"

    def write(text: str) -> None:
        with folder.replacing(target) as aside:
            (aside / "figures").mkdir()
            for name in ("report.md", "report.html", f"figures/{text}.svg"):
                (aside / name).write_text(text)

    write("new")
    new = _contents(target)
    write("old")
    old = _contents(target)
    (target / "mine").write_text("mine")
    places = [
        *((Path, name) for name in ("write_text", "mkdir", "rename")),
        *((folder, name) for name in ("_digest", "_names", "_carry", "_swap", "_recover")),
        (os, "link"),
    ]
    done = 0
    for owner, name in places:
        for at in range(40):
            calls = iter(range(99))
            real = getattr(owner, name)

            def stop(*words: Any, calls: Any = calls, real: Any = real, at: int = at, **more: Any) -> Any:
                if next(calls) == at:
                    raise KeyboardInterrupt
                return real(*words, **more)

            with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
                patch.setattr(owner, name, stop)
                write("new")
            found = _contents(target)
            assert found.pop("mine") == b"mine"
            assert found in (old, new), (name, at)
            assert [path.name for path in tmp_path.iterdir()] == ["report"]
            if found == new:
                done += 1
                write("old")
                break
            assert at > 0 or found == old
    assert done == len(places), "each of them is called less than forty times"


def test_d1_a_report_killed_between_its_renames_is_restored(tmp_path: Path) -> None:
    _report(tmp_path, 0.1)
    (tmp_path / "report" / "mine").write_text("mine")
    (tmp_path / "report").rename(tmp_path / ".report.01234567.old")
    _report(tmp_path, 0.2)
    assert (tmp_path / "report" / "mine").read_text() == "mine"
    (tmp_path / ".report.01234567.old").mkdir()
    (tmp_path / ".report.89abcdef.tmp").mkdir()
    os.utime(tmp_path / ".report.89abcdef.tmp", (0, 0))
    files.remove_stale(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3, "folders are left to the report"
    _report(tmp_path, 0.2)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_d1_a_page_goes_to_a_pipe_or_replaces_a_file(tmp_path: Path) -> None:
    page, pipe = tmp_path / "page.md", tmp_path / "pipe"
    page.write_text("old")
    page.chmod(0o444)
    write_page(str(page), "new")
    assert page.read_text() == "new"
    os.mkfifo(pipe)
    with pytest.raises(BadInput, match="cannot be written"):
        write_page(str(pipe), "nobody reads it")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_page(str(pipe), "text")
    assert os.read(reader, 99) == b"text"
    os.close(reader)


def test_d1_a_task_cannot_place_its_figures(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    write_report(frame_of(runs([0.1], task="../../../escaped/x")), tmp_path / "a" / "b")
    figures = sorted(path.name for path in (tmp_path / "a/b/report/figures").iterdir())
    assert figures == ["1-..-..-..-escaped-x-curves.svg"]
    assert {path.name for path in tmp_path.iterdir()} == {"a"}


def test_d1_claims_weights_locks_and_pages_follow_no_link(tmp_path: Path, outside: Path) -> None:
    (outside / "k.safetensors").write_text("mine")
    results = tmp_path / "results"
    results.mkdir()
    for name in ("claims", "weights", ".at-work", "checkpoints", "page.md"):
        (results / name).symlink_to(outside / ("notes.txt" if name == "page.md" else "."))
    before = _contents(outside)
    with pytest.raises(BadInput, match="is a link"):
        claim.write(claim.Claim("s6 < attn", "polyreg"), results)
    with pytest.raises(BadInput, match="is a link"):
        claim.read(results)
    with pytest.raises(BadInput, match="not inside"):
        weights.save({"x": torch.zeros(2)}, results, "k")
    with lock(results, "part") as mine:
        assert mine
    with pytest.raises(CheckpointError, match="a link"):
        Checkpoints(results / "checkpoints", {})
    delete_checkpoints(results, "figures")
    with pytest.raises(BadInput, match="a link"):
        write_page(str(results / "page.md"), "page")
    with pytest.raises(BadInput, match="a link"):
        baseline.fresh(results, own=True)
    assert _contents(outside) == before


STRANGE = [
    *(f'a{i} style="}}*{{background-image:url(http://127.0.0.1:PORT/{i}.png)}}"' for i in range(6)),
    "<img src=http://127.0.0.1:PORT/i.png onerror=alert(1)>",
    "</text></svg><script src=http://127.0.0.1:PORT/s.js></script>",
    '" onload="fetch(`http://127.0.0.1:PORT/f`)',
    "[x](javascript:alert(1)) ![y](http://127.0.0.1:PORT/y.png) <javascript:alert(1)>",
    "# heading",
    "> quote | pipe `tick` **bold** _under_ ~~out~~ &lt; $x$ \\\\ back",
    "1. one",
    "two\n\n# lines\x1b[31m\u202e",
]


def _strange(port: int = 9) -> list[dict[str, Any]]:
    """Runs of models with strange names, on tasks and with metrics and settings like them."""
    rows = []
    for i, name in enumerate(text.replace("PORT", str(port)) for text in STRANGE):
        settings = json.dumps({"L": 8, "degree": 8, "family": name, "instance": 0})
        rows += [r for L in (8, 16) for r in runs([0.1, 0.2, 0.3], model=name, L=L)]
        own = {"task": name, "task_settings": settings, "metric": name, "value": 0.4, "key": f"o{i}"}
        rows += [row(**own, split=split, model_settings=json.dumps({name: name})) for split in ("test", "validation")]
        rows.append(control(f"{name} control", "baseline", 1.0))
        rows.append(row(**FAILED | {"error": name, "key": f"f{i}", "device_name": name, "torch": name}))
    return rows


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("strange")
    for text in (STRANGE[-4], STRANGE[9]):
        word = text.split()[0].replace("(", "").replace(")", "")
        claim.write(claim.Claim(f"{word} < s6", "# task | `x`", {"[y](z)": ["<b>"]}), made)
    claim.write(claim.Claim("**bold** < [x]", "polyreg"), made)
    return write_report(frame_of([*_strange(), *runs([0.1, 0.2], model="**bold**"), *runs([0.3], model="[x]")]), made)


def test_d2_styles_of_a_page_come_from_its_own_figures(strange: Path) -> None:
    text = strange.with_suffix(".html").read_text()
    reader = Reader(text)
    styles = [*reader.each("style"), reader.text("style")]
    assert len(styles) > 20
    for style in styles:
        assert "background-image" not in style
        assert "url(" not in style
    for name in STRANGE[:6]:
        assert name.replace("PORT", "9")[:40] in reader.text("text"), "and the name is drawn"
    assert {"img", "iframe", "object", "base", "form", "foreignobject"} & {tag for tag, _ in reader.tags} == set()
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert {target[:1] for target in reader.each("href")} <= {"#", "d"}
    assert {target[:5] for target in reader.each("href") if target[0] == "d"} <= {"data:"}


def test_d2_the_policy_of_a_page_allows_its_own_script_and_no_source(strange: Path) -> None:
    reader = Reader(strange.with_suffix(".html").read_text())
    (policy,) = (a["content"] for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    sources = {name: values for name, *values in (part.split() for part in policy.split(";"))}
    digest = b64encode(sha256(reader.text("script").encode()).digest()).decode()
    assert sources["default-src"] == sources["form-action"] == ["'none'"]
    assert sources["script-src"] == [f"'sha256-{digest}'"]
    assert sources["img-src"] == ["data:"]
    assert set(sources) == {"default-src", "script-src", "style-src", "img-src", "form-action"}
    first = [tag for tag, _ in reader.tags][:4]
    assert first == ["html", "head", "meta", "meta"], "nothing stands before it"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
def test_d2_a_browser_loads_nothing_from_the_network(tmp_path: Path) -> None:
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page = write_report(frame_of(_strange(server.server_port)), tmp_path).with_suffix(".html")
        loads = tmp_path / "loads.html"
        loads.write_text(f'<img src="http://127.0.0.1:{server.server_port}/control">')
        for opened in (loads, page):
            words = [
                str(BROWSER),
                *QUIET,
                f"--user-data-dir={tmp_path / 'profile'}",
                "--virtual-time-budget=2000",
                "--dump-dom",
            ]
            subprocess.run([*words, opened.as_uri()], capture_output=True, timeout=120, check=True)
        server.shutdown()
    assert [path for path in asked if path != "/favicon.ico"] == ["/control"], "only the page that asks for it"


def test_d3_names_stand_as_they_are_in_markdown(strange: Path) -> None:
    text = strange.read_text()
    assert "\x1b" not in text
    assert "\u202e" not in text
    github = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = [token for outer in github.parse(text) for token in (outer, *(outer.children or []))]
    kinds = Counter(token.type for token in tokens)
    assert kinds["html_block"] == kinds["html_inline"] == kinds["link_open"] == kinds["em_open"] == kinds["s_open"] == 0
    assert kinds["blockquote_open"] == kinds["ordered_list_open"] == 0
    images = [str(token.attrs["src"]) for token in tokens if token.type == "image"]
    assert len(images) == 3
    assert all(re.fullmatch(r"figures/[\w.-]+\.svg", image) for image in images)
    shown = {"".join(t.content for t in outer.children or []) for outer in tokens if outer.type == "inline"}
    assert not {"tick", "x"} & {token.content for token in tokens if token.type == "code_inline"}
    for name in STRANGE:
        said = name.replace("PORT", "9").replace("\n", r"\n").replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")
        assert said in shown, "a cell of a table, and the title of a section"
        assert f"family={said}" in shown
        assert sum(said in words for words in shown) > 4
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert sum("heading" in words for words in headings) == 1


def test_d3_names_stand_as_they_are_on_the_page(strange: Path) -> None:
    text = strange.with_suffix(".html").read_text()
    assert "\x1b" not in text
    reader = Reader(text)
    for name in (text.replace("PORT", "9") for text in STRANGE[:-1]):
        assert name in "\n".join(reader.words["button"])
        assert name in "\n".join(reader.words["h2"])
        assert name[:40] in "\n".join(reader.words["text"])


def test_d3_a_name_cannot_act_on_a_terminal(tmp_path: Path, expbench: CommandLine) -> None:
    rows = runs([0.1], error="\x1b]0;ti\u202etle\x07\x9b31m")
    rows = [trained() | r | {"key": "abc", "created": datetime.now(UTC)} for r in rows]
    Path("results").mkdir()
    store.write(Path("results"), "abc", rows)
    with pytest.raises(ValueError, match="has control characters"):
        store.write(Path("results"), "abd", [r | {"key": "abd", "model": "a\x1b[2Kb\x07"} for r in rows])
    for command in (["trace", "abc"], ["report"], ["report", "--models", "a\x1b[2Kb"], ["compare", "results", "results"]):
        answer = expbench(*command)
        for character in "\x1b\x07\x9b\u202e":
            assert character not in answer.out + answer.err, command
    assert r"\x1b]0;ti\u202etle\x07\x9b31m" in expbench("trace", "abc").out
    folder = tmp_path / "models"
    folder.mkdir()
    code = '"""Odd \x1b[31m."""\nfrom expbench.mixer import Mixer\nclass Odd(Mixer):\n    """Odd \x1b[31m."""\n'
    (folder / "odd.py").write_text(code)
    assert "\x1b" not in expbench("list", "--models-dir", str(folder)).out


def test_d3_code_blocks_hold_any_text() -> None:
    for text in ("```", "a\n````\n# b", "plain"):
        (token,) = MarkdownIt("commonmark").parse(code_block(text, "sh"))
        assert (token.type, token.info, token.content) == ("fence", "sh", f"{text}\n")
