"""Kill commands at random moments and compare the results: python benchmarks/kill_loop.py [--kills 100] [--seed 0]

Each command (a synthetic sweep, a text run, `compact`) is started as a process of its own and killed by SIGKILL at a random
moment, mostly after it has loaded: in turn its parent alone, and all its processes at once. A complete folder is compared
with that of an undisturbed sweep, and the next folder begins. The script prints the kills of each command, and the rows
that were lost, doubled or different, apart from times and provenance. The exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import pandas as pd

from expbench.results import schema, store

ROW = ["key", "kind", "model", "split", "slice", "step", "metric"]
TIMES = ["tokens_per_second", "mfu", "peak_memory"]  # metrics that depend on the moment
SYNTHETIC = ["run", "--task", "count-in-row,polyreg", "--models", "s6,linattn", "--L", "6", "-t", "count-in-row:classes=4"]
TEXT = [
    "run",
    "--task",
    "wikitext",
    "-t",
    "data=markov",
    "--models",
    "attn,s6",
    "--L",
    "32",
    "--D",
    "16",
    "--batch-size",
    "8",
]
COMMANDS = {
    "synthetic": [*SYNTHETIC, "--steps", "200", "--seeds", "0:2"],
    "text": [*TEXT, "--steps", "200", "--seeds", "0"],
    "compact": ["compact"],
}
LONGEST = {"synthetic": 4.0, "text": 4.0, "compact": 2.0}  # seconds between the load of a command and its kill
LOADING = 0.25  # share of the kills that may come while a command loads


class Process(Protocol):
    """A started command."""

    def poll(self) -> int | None:
        """Return the exit code, or None while the command runs."""

    def kill(self, *, group: bool) -> None:
        """Kill the process that was started, or all that it started, and wait."""

    def loaded(self) -> bool:
        """Return whether the command has begun its work."""


class Found(NamedTuple):
    """Rows of a folder that differ from those of the undisturbed one."""

    lost: int
    doubled: int
    different: int


def rows(folder: Path) -> pd.DataFrame:
    """Return the rows of a folder without times and provenance; raise RuntimeError for an unreadable file."""
    frame, problems = store.read(folder)
    if problems:
        raise RuntimeError(problems[0])
    frame = frame[~frame["metric"].isin(TIMES)].drop(columns=schema.PROVENANCE)
    return frame.sort_values(ROW, ignore_index=True)


def compare(frame: pd.DataFrame, right: pd.DataFrame) -> Found:
    """Count the rows of `right` that `frame` lacks, those that it has twice, and those with other contents."""
    here, there = (f.astype(object).where(f.notna(), "-").set_index(ROW) for f in (frame, right))
    doubled = int(here.index.duplicated().sum())
    here = here[~here.index.duplicated()]
    both = here.index.intersection(there.index)
    unequal = (here.loc[both, there.columns].astype(str) != there.loc[both].astype(str)).any(axis=1)
    return Found(
        len(there.index.difference(here.index)), doubled, int(unequal.sum()) + len(here.index.difference(there.index))
    )


def kill_loop(
    start: Callable[[list[str]], Process],
    commands: dict[str, list[str]],
    folder: Path,
    kills: int,
    draw: random.Random,
    longest: dict[str, float],
    say: Callable[[str], None] = print,
) -> tuple[Counter[str], Found]:
    """Kill the commands `kills` times in folders below `folder`; return the kills by command, and the sum of `compare`."""

    def finish(results: Path) -> pd.DataFrame:
        for name, words in commands.items():
            process = start([*words, "--results", str(results)])
            while (code := process.poll()) is None:
                time.sleep(0.01)
            if code != 0:
                raise RuntimeError(f"{name} ended with {code}")
        return rows(results)

    right, killed, found, rounds = finish(folder / "undisturbed"), Counter[str](), Found(0, 0, 0), 0
    while killed.total() < kills:
        rounds += 1
        results, ended = folder / f"round-{rounds}", set[str]()
        while killed.total() < kills and not ended >= commands.keys() - {"compact"}:
            name = draw.choice([name for name in commands if name not in ended and (name != "compact" or results.is_dir())])
            process = start([*commands[name], "--results", str(results)])
            if draw.random() > LOADING:
                while not process.loaded() and process.poll() is None:
                    time.sleep(0.005)
            until = time.monotonic() + draw.uniform(0.0, longest[name])
            while time.monotonic() < until and process.poll() is None:
                time.sleep(0.005)
            if process.poll() is None:
                process.kill(group=killed.total() % 2 == 0)
                killed[name] += 1
                say(f"{killed.total()}: {name}, {len(list(results.glob('*.parquet')))} files")
            elif name != "compact":
                ended.add(name)
        one = compare(finish(results), right)
        found = Found(*(a + b for a, b in zip(found, one, strict=True)))
        say(f"round {rounds}: {len(right)} rows, {one}")
    return killed, found


class Command:
    """A command of the command line in a process group of its own."""

    def __init__(self, words: list[str], log: Path) -> None:
        self._log, self._compact = log, words[0] == "compact"
        with log.open("w") as file:
            command = [sys.executable, "-m", "expbench", *words]
            self._process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)

    def poll(self) -> int | None:
        """Return the exit code, or None while the command runs."""
        return self._process.poll()

    def kill(self, *, group: bool) -> None:
        """Kill the process that was started, or its group, and wait."""
        if group:
            os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait()

    def loaded(self) -> bool:
        """Return whether the command has counted its runs; `compact` says nothing before its end."""
        return self._compact or " to run" in self._log.read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        draw = random.Random(options.seed)
        killed, found = kill_loop(lambda words: Command(words, log), COMMANDS, Path(folder), options.kills, draw, LONGEST)
    by_command = ", ".join(f"{count} of {name}" for name, count in killed.items())
    lost, doubled, different = found
    print(f"{killed.total()} kills ({by_command}): {lost} rows lost, {doubled} doubled, {different} different")
    raise SystemExit(any(found))


if __name__ == "__main__":
    main()
