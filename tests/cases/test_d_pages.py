import contextlib
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch

from expbench import files
from expbench.bench import figure as bench_figure
from expbench.claims import claim
from expbench.cli.compare import write_page
from expbench.errors import BadInput
from expbench.regression import baseline
from expbench.report import drawing, folder
from expbench.report.build import write_report
from expbench.sweep.locks import lock
from expbench.training import weights
from expbench.training.epochs.checkpoint import CheckpointError, Checkpoints, delete_checkpoints
from tests.report.test_build import control, frame_of, row, runs


def test_d5_figures_are_the_same_bytes_under_any_settings_of_matplotlib(tmp_path: Path) -> None:
    frame = frame_of([*runs([0.1, 0.2]), *runs([0.3, 0.4], L=16), control("mean", "baseline", 1.0)])
    seen = []
    hostile: dict[str, Any] = {"text.usetex": True, "font.size": 24, "lines.linewidth": 9, "savefig.format": "pgf"}
    for settings in ({}, hostile, {"axes.formatter.use_mathtext": True, "figure.dpi": 10, "svg.fonttype": "path"}):
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


def test_d5_an_unknown_backend_is_ignored_and_a_known_one_stays() -> None:
    code = "import expbench.report.build, expbench.bench.figure, os, matplotlib as m"
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
