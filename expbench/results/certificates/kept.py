"""Witnesses among the runs of a results folder: those that solve their task and whose weights lie in the folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from expbench.errors import BadInput
from expbench.results import reported, store
from expbench.results.certificates.witness import Witness
from expbench.results.configurations import Configuration, gather, network_class, with_context


class KeptRun(NamedTuple):
    """A run that solves its task, with its weights. key: of the run. value: its primary metric on the test split."""

    key: str
    value: float
    configuration: Configuration
    witness: Witness


def kept_runs(configurations: Sequence[Configuration], folder: Path) -> Iterator[KeptRun]:
    """Yield the runs that solve their task and whose weights lie in the results folder; links are not followed."""
    weights = folder / "weights"
    if weights.is_symlink() or not weights.is_dir():
        return
    names = {path.stem for path in weights.glob("*.safetensors") if path.is_file() and not path.is_symlink()}
    for configuration in configurations:
        each = zip(*(configuration.each(name) for name in ("key", "value", "instance")), strict=True)
        for key, value, instance in each:
            if key in names and configuration.solves(value):
                yield KeptRun(key, value, configuration, Witness(instance, "kept weights", configuration["dtype"]))


def of_folder(folder: Path) -> tuple[list[Configuration], list[str]]:
    """Return the configurations of a results folder, and the problems of its files."""
    frame, problems = store.read(folder, reported.SHOWN_COLUMNS, reported.shown_rows)
    return gather(with_context(frame)), problems


def certified(configurations: Sequence[Configuration], folder: Path, others: Path | None = None) -> list[Configuration]:
    """Return the configurations with the witnesses that `folder`, and a second results folder, hold for their networks.

    Raise `BadInput` if the second folder holds no witness.
    """
    found: dict[tuple[Any, ...], set[Witness]] = defaultdict(set)
    for each in kept_runs(configurations, folder):
        found[network_class(each.configuration)].add(each.witness)
    if others is not None:
        kept = list(kept_runs(of_folder(others)[0], others))
        if not kept:
            raise BadInput(f"--witnesses {others}: no run there solves its task and has kept its weights (--save-weights)")
        for each in kept:
            found[network_class(each.configuration)].add(each.witness)
    return [
        replace(c, witnesses=c.witnesses | found[network_class(c)]) if network_class(c) in found else c
        for c in configurations
    ]
