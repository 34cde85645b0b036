import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from expbench.errors import BadInput
from expbench.report.build import write_report
from expbench.report.labels import labels
from expbench.results import schema
from expbench.results.configurations import gather, with_context
from tests.conftest import CommandLine


def row(**changes: Any) -> dict[str, Any]:
    """A row of the table: a run of s6 on polyreg that ended well."""
    settings = '{"L":8,"degree":8,"family":"suffix","instance":0,"lo":0.5}'
    values: dict[str, Any] = {
        "key": "k", "kind": "run", "status": "ok", "task": "polyreg", "task_version": "1", "task_settings": settings,
        "L": 8, "degree": 8, "instance": 0, "model": "s6", "model_version": "1", "model_settings": '{"N":4}',
        "D": 4, "depth": 1, "norm": "layer", "positions": "none", "residual": True, "skip": True, "steps": 10, "warmup": 1,
        "batch_size": 4, "lr": 0.01, "weight_decay": 0.0, "clip": 1.0, "seed": 0, "dtype": "float32",
        "split": "test", "slice": "", "step": 10, "metric": "nmse", "value": 0.5, "primary": True,
        "higher_is_better": False, "success_threshold": 0.01, "parameters": 35, "state_size": 16, "label_kurtosis": 3.0,
        "label_interaction_order": 1.5, "effective_sample_size": 900.0, "well_posed": True,
        "device": "cpu", "device_name": "a CPU", "expbench": "0", "torch": "2",
    }  # fmt: skip
    return values | changes


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=schema.SCHEMA).to_pandas()


def runs(values: list[float | None], **changes: Any) -> list[dict[str, Any]]:
    """A run a value, each with a point on its curve; None diverged."""
    rows = []
    for seed, value in enumerate(values):
        own = changes | {"seed": seed, "key": f"{changes}{seed}"}
        if value is None:
            rows.append(row(**own, status="diverged", error="not finite", split="validation", step=5, value=9.0))
        else:
            rows.append(row(**own, value=value))
            rows += [row(**own, split="validation", step=step, value=value + 1 / step) for step in (3, 5)]
            rows.append(row(**own, metric="mse", primary=False, value=77.0))
            rows.append(row(**own, slice="label=1", primary=False, value=55.0))
    return rows


def control(name: str, kind: str, value: float, **changes: Any) -> dict[str, Any]:
    return row(key="controls", kind=kind, model=name, value=value, model_settings=None, **changes)


def section(text: str, start: str) -> list[list[str]]:
    """The cells of the table whose header starts so."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"| {start}"))
    cells = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return [cells[0], *cells[2:]]


def test_what_a_configuration_says() -> None:
    configurations = gather(with_context(frame_of(runs([0.005, 0.02, 0.3, None]))))
    assert len(configurations) == 1
    configuration = configurations[0]
    assert configuration.values == [0.005, 0.02, 0.3]
    assert configuration.interval.center == pytest.approx(0.325 / 3)
    assert (configuration.best, configuration.solved, configuration.trials, configuration.count("diverged")) == (
        0.005,
        1,
        4,
        1,
    )
    assert configuration.solved_share.center == 0.25


@pytest.mark.parametrize(
    ("floor", "values", "expected"),
    [
        (0.5, [0.5, 0.502], "not representable (at its floor; span, exact arithmetic, norm none)"),
        (0.5, [0.5, 0.52], "not representable (perhaps at its floor; span, exact arithmetic, norm none)"),
        (0.5, [0.7, 0.72], "not representable (above its floor; span, exact arithmetic, norm none)"),
        (0.5, [None, None], "not representable (above its floor; span, exact arithmetic, norm none)"),
        (0.5, [0.1, 0.1], "BELOW its floor"),
        (0.005, [0.3, 0.4], "unknown"),
        (None, [0.3, None], "unknown"),
        (None, [None, None], "unknown"),
        (0.0, [0.001, 0.3], "solved by some"),
        (0.0, [0.001, None], "solved by some"),
        (None, [0.001, 0.002], "solved"),
    ],
)
def test_what_a_configuration_says_of_its_class(floor: float | None, values: list[float | None], expected: str) -> None:
    (configuration,) = gather(with_context(frame_of(runs(values, floor=floor, floor_of="span", norm="none"))))
    assert configuration.reading == expected
    assert gather(with_context(frame_of([row(status="unsupported", primary=None, value=None)])))[0].reading == "-"


SUFFIX = '{"L":8,"degree":8,"family":"suffix"}'
TRAINED_OTHERWISE: dict[str, Any] = {
    "lr": 0.1, "steps": 99, "warmup": 9, "batch_size": 9, "weight_decay": 0.1, "clip": 9.0, "dtype": "float64",
    "init": "construct:theorem2", "init_noise": 0.1, "task_settings": SUFFIX.replace("}", ',"instance":1,"test_size":9}'),
}  # fmt: skip
ANOTHER_CLASS: dict[str, Any] = {
    "task": "mine", "task_version": "2", "L": 9, "degree": 7, "task_settings": SUFFIX.replace("suffix", "product"),
    "model": "ssm", "model_version": "2", "model_settings": '{"N":5}', "D": 5, "depth": 2,
    "norm": "none", "positions": "sin", "residual": False, "skip": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value", "reading"),
    [
        *((column, value, "solved in another configuration") for column, value in TRAINED_OTHERWISE.items()),
        *((column, value, "unknown") for column, value in ANOTHER_CLASS.items()),
    ],
)
def test_what_another_configuration_of_the_class_solves_is_an_observation(column: str, value: Any, reading: str) -> None:
    other: dict[str, Any] = {"task_settings": SUFFIX} | {column: value}
    rows = [*runs([0.3, None], task_settings=SUFFIX), *runs([0.3, 0.001], **other)]
    configurations = gather(with_context(frame_of(rows)))
    assert {configuration.solved: configuration.reading for configuration in configurations} == {
        0: reading,
        1: "solved by some",
    }


def test_a_floor_above_the_threshold_is_said_before_all_else() -> None:
    bound = {"floor": 0.5, "floor_of": "symmetry"}
    rows = [*runs([0.5, 0.501], **bound), *runs([0.001, 0.9], lr=0.1, **bound)]
    assert [configuration.reading for configuration in gather(with_context(frame_of(rows)))] == [
        "not representable (at its floor; symmetry, exact arithmetic, norm layer)",
        "BELOW its floor",
    ]


def test_where_runs_started_is_told_where_it_is_not_the_default(tmp_path: Path) -> None:
    text = write_report(frame_of(runs([0.5], init="default", init_noise=0.0)), tmp_path).read_text()
    assert "init" not in text.partition("Same in all rows")[2]
    text = write_report(frame_of(runs([0.5], init="construct:lemma2", init_noise=0.25)), tmp_path).read_text()
    assert "init=construct:lemma2, init_noise=0.25" in text
    rows = [*runs([0.5], init="default", init_noise=0.0), *runs([0.4], init="construct:lemma2", init_noise=0.0)]
    header, *lines = section(write_report(frame_of(rows), tmp_path).read_text(), "model")
    assert "init_noise" not in header
    assert [line[header.index("init")] for line in lines] == ["construct:lemma2", "default"]
    assert "s6 init=construct:lemma2" in (tmp_path / "report/figures/1-polyreg-curves.svg").read_text()


def test_configurations_part_by_everything_but_seed_and_instance() -> None:
    other = '{"L":8,"degree":8,"family":"suffix","instance":1,"lo":0.5}'
    rows = [
        *runs([1.0, 2.0]),
        *runs([3.0, 5.0], instance=1, task_settings=other),
        *runs([9.0], lr=0.1),
        *runs([8.0], norm="none"),
    ]
    configurations = gather(with_context(frame_of(rows)))
    assert sorted(sorted(configuration.values) for configuration in configurations) == [[1, 2, 3, 5], [8], [9]]
    both = next(configuration for configuration in configurations if len(configuration.values) == 4)
    assert both.interval.center == pytest.approx((1.5 + 4) / 2), "the mean of the instances' means"
    assert both.interval.high - both.interval.center == pytest.approx(12.706 * 2.5 / 2, rel=1e-3), "and they are the units"


def test_tables_of_the_report(tmp_path: Path) -> None:
    rows = [
        *runs([0.005, 0.02, None]),
        *runs([0.5, 0.6], model="linattn", network_degree=3, network_order=2, skip=None, well_posed=False),
        row(key="u", model="narrow", status="unsupported", split=None, metric=None, value=None, primary=None),
        control("mean", "baseline", 1.0),
        control("generator", "positive", 0.0),
        control("mean", "baseline", 0.25, L=99, task_settings='{"L":99,"family":"other"}'),
    ]
    path = write_report(frame_of(rows), tmp_path)
    text = path.read_text()
    header, *lines = section(text, "model")
    by_model = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    s6 = by_model["s6"]
    assert s6["nmse"] == "0.0125; 1 diverged"
    assert s6["best"] == "0.005"
    assert s6["solved"].startswith("1/3 (")
    assert s6["every run (seed: value)"] == "0: 0.005, 1: 0.02, 2: diverged"
    assert s6["reach"] == "no polynomial bound"
    assert s6["protocol"] == "layer, none, on, on"
    linattn = by_model["linattn"]
    assert linattn["nmse"] == "0.55 (ill-posed)"
    assert linattn["reach"] == "degree 3, order 2"
    assert linattn["protocol"] == "layer, none, on, -"
    assert by_model["narrow"]["nmse"] == "1 unsupported"
    header, *lines = section(text, "L | degree | test sequences")
    assert header[3:] == ["mean (baseline)", "generator (positive)"]
    assert lines == [["8", "8", "-", "1", "0"]], "the control of another setting is not among them"
    assert "1 diverged, 1 unsupported of 3 models" in text


def figures(folder: Path, text: str) -> list[str]:
    """The figures that a report refers to, each of which must be there and be drawn."""
    names = re.findall(r"!\[.*?\]\((.*?)\)", text)
    for name in names:
        root = ET.parse(folder / "report" / name).getroot()
        paths, images = (len(list(root.iter(f"{{http://www.w3.org/2000/svg}}{tag}"))) for tag in ("path", "image"))
        assert paths > 5 or images, name
    assert sorted(p.name for p in (folder / "report/figures").iterdir()) == sorted(Path(name).name for name in names)
    return [Path(name).stem.partition("polyreg-")[2] for name in names]


def test_figures_that_a_table_calls_for(tmp_path: Path) -> None:
    one = [*runs([0.1, 0.2]), control("mean", "baseline", 1.0)]
    assert figures(tmp_path, write_report(frame_of(one), tmp_path).read_text()) == ["curves", "controls"]

    def setting(**changes: Any) -> str:
        import json

        return json.dumps({"L": 8, "degree": 8, "family": "suffix", "instance": 0} | changes)

    lengths = [r for L in (8, 16) for r in runs([0.1, 0.2], L=L, degree=L, task_settings=setting(L=L, degree=L))]
    drawn = figures(tmp_path, write_report(frame_of(lengths), tmp_path).read_text())
    assert drawn == ["metric-against-L", "depth-against-degree", "curves"]
    degrees = [
        r for d in (2, 4) for depth in (1, 2) for r in runs([0.1], degree=d, depth=depth, task_settings=setting(degree=d))
    ]
    drawn = figures(tmp_path, write_report(frame_of(degrees), tmp_path).read_text())
    assert drawn == ["metric-against-degree", "depth-against-degree", "curves"]
    nothing = [row(status="failed", error="broke", split=None, metric=None, value=None, primary=None)]
    text = write_report(frame_of(nothing), tmp_path).read_text()
    assert figures(tmp_path, text) == []
    assert "1 failed" in text


def test_crossed_lengths_and_degrees_keep_every_configuration(tmp_path: Path) -> None:
    import json

    def crossed(value: float, L: int, degree: int, depth: int) -> list[dict[str, Any]]:
        settings = json.dumps({"L": L, "degree": degree, "family": "suffix", "instance": 0, "test_size": 4096 * L})
        return runs([value], L=L, degree=degree, depth=depth, task_settings=settings)

    values = {
        (L, degree, depth): L / 100 + degree / 1000 + depth / 10000 for L in (8, 12) for degree in (2, 4) for depth in (1, 2)
    }
    frame = frame_of([r for place, value in values.items() for r in crossed(value, *place)])
    text = write_report(frame, tmp_path).read_text()
    assert figures(tmp_path, text) == ["metric-against-L", "metric-against-degree", "depth-against-degree", "curves"]
    drawn = (tmp_path / "report/figures/1-polyreg-depth-against-degree.svg").read_text()
    for value in values.values():
        assert f">{value:.3g}<" in drawn, "every cell stands in its own field"
    assert "s6 L=8" in drawn
    lines = (tmp_path / "report/figures/1-polyreg-metric-against-L.svg").read_text()
    for panel in ("degree=2", "degree=4"):
        assert f">{panel}<" in lines
    for line in ("s6 depth=1", "s6 depth=2"):
        assert f">{line}<" in lines
    assert "test_size" not in lines, "it follows from L"


def test_sizes_of_the_test_set_are_not_pooled(tmp_path: Path) -> None:
    rows = []
    for size in (256, 512):
        settings = f'{{"L":8,"degree":8,"family":"suffix","instance":0,"test_size":{size}}}'
        rows += runs([size / 1000], task_settings=settings)
        rows.append(control("mean", "baseline", 1 / size, task_settings=settings))
    text = write_report(frame_of(rows), tmp_path).read_text()
    header, *lines = section(text, "model")
    assert [(line[header.index("test_size")], line[header.index("nmse")]) for line in lines] == [
        ("256", "0.256"),
        ("512", "0.512"),
    ]
    assert [line[2:] for line in section(text, "L | degree | test sequences")[1:]] == [
        ["256", "0.00391"],
        ["512", "0.00195"],
    ]


def test_a_report_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "report").touch()
    with pytest.raises(BadInput, match="report cannot be written"):
        write_report(frame_of(runs([0.1])), tmp_path)


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    frame = frame_of([*runs([0.1, 0.2]), control("mean", "baseline", 1.0)])
    seen = []
    for _ in range(2):
        write_report(frame, tmp_path)
        seen.append({path.name: path.read_bytes() for path in (tmp_path / "report").rglob("*.*")})
    assert seen[0] == seen[1]


def test_a_report_of_some_tasks_and_models(expbench: CommandLine) -> None:
    sweep = ["run", "--steps", "20", "--seeds", "0", "--L", "4", "-t", "test_size=256", "-t", "validation_size=256"]
    expbench(*sweep, "--task", "polyreg,count-in-row", "--models", "s6,linattn", "-t", "count-in-row:classes=3")
    answer = expbench("report", "--task", "polyreg", "--models", "linattn")
    assert answer.code == 0
    assert answer.out.strip() == str(Path("results/report/report.html"))
    text = Path("results/report/report.md").read_text()
    assert "## polyreg" in text
    assert "## count-in-row" not in text
    assert [line[0] for line in section(text, "model")[1:]] == ["linattn"]
    assert "generator (positive)" in text
    whole = Path(expbench("report").out.strip()).with_suffix(".md").read_text()
    assert "last-zero (oracle)" in whole
    assert "balanced_accuracy" in whole
    figures(Path("results"), whole)


def test_a_configuration_is_named_by_the_settings_in_which_its_model_differs() -> None:
    settings = ['{"N":4,"center":"zero"}', '{"N":4,"center":"bias"}']
    rows = [line for text in settings for line in runs([0.5], model_settings=text)]
    configurations = gather(with_context(frame_of([*rows, *runs([0.5], model="attn", model_settings='{"heads":2}')])))
    assert sorted(labels(configurations).values()) == ["attn", "s6 center=bias", "s6 center=zero"]


def test_many_lengths_and_degrees_are_panels_and_many_names_are_not_drawn(tmp_path: Path) -> None:
    rows = []
    for L in (8, 16):
        for degree in range(1, 15):
            settings = f'{{"L":{L},"degree":{degree},"family":"suffix","instance":0}}'
            rows += [row(L=L, degree=degree, task_settings=settings, model=m, key=f"{m}{L}{degree}") for m in ("s6", "attn")]
    text = write_report(frame_of(rows), tmp_path).read_text()
    assert figures(tmp_path, text) == ["metric-against-L", "metric-against-degree", "depth-against-degree"]
    drawn = (tmp_path / "report/figures/1-polyreg-metric-against-L.svg").read_text()
    assert "6 of 14 values of degree" in drawn
    assert ">degree=1<" in drawn
    assert ">degree=14<" in drawn
    names = [row(model_settings=f'{{"N":{n}}}', key=str(n)) for n in range(25)]
    text = write_report(frame_of(names), tmp_path).read_text()
    assert "25 models and settings are too many for one figure" in text
    assert figures(tmp_path, text) == []


def test_an_interval_ends_where_the_metric_does(tmp_path: Path) -> None:
    frame = frame_of([r for model in ("s6", "attn", "linattn") for r in runs([1e-6, 1e-6, 1e-3], model=model)])
    primary = frame["metric"] == "nmse"
    frame.loc[primary & (frame["model"] == "attn"), ["metric", "higher_is_better"]] = ["accuracy", True]
    frame.loc[primary & (frame["model"] == "attn"), "value"] = 1 - frame["value"]
    frame.loc[primary & (frame["model"] == "linattn"), "metric"] = "energy"
    found = {configuration["model"]: configuration.interval for configuration in gather(with_context(frame))}
    assert found["s6"].low == 0 < found["s6"].center < found["s6"].high
    assert found["attn"].low < 1 == found["attn"].high
    assert found["linattn"].low < 0, "nothing is known of it"


def test_the_dots_of_very_many_runs_are_pixels_and_their_means_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = frame_of([*runs([0.1 + 0.01 * i for i in range(40)]), control("mean", "baseline", 1.0)])

    def drawn(most: int, name: str) -> tuple[dict[str, int], int]:
        monkeypatch.setattr("expbench.report.drawing._MOST_VECTORS", most)
        write_report(frame, tmp_path)
        (file,) = (tmp_path / "report/figures").glob(f"*-{name}.svg")
        tags = [e.tag.rpartition("}")[2] for e in ET.parse(file).iter()]
        page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
        return {tag: tags.count(tag) for tag in ("image", "use", "path")}, page.count("data:image/png")

    for name, tag in (("controls", "use"), ("curves", "path")):
        vectors, none = drawn(40, name)
        pixels, shown = drawn(39, name)
        assert vectors["image"] == none == 0
        assert vectors[tag] - pixels[tag] >= 40, "one for each run"
        assert pixels["image"] == 1, "one layer in the panel"
        assert pixels["path"] > 5, "axes are drawn as before"
        assert shown == 2, "one in each figure of the page"
