import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from expbench.bench import figure as bench_figure
from expbench.report import drawing
from expbench.report.build import write_report
from tests.report.test_build import control, frame_of, runs


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
