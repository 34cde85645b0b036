"""Hostile command lines: each must be answered, in time and without a traceback.

`python -m tests.hostile 400 --processes 40` calls 400 of them in this process and 40 as processes, and lists what failed.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import expbench_tasks
import torch
import typer.core
import typer.main

import expbench.models as expbench_models
from expbench.cli.main import app, main
from tests.small_language import write_text

SECONDS = 20  # of a processor for an answer, and three times as many by the clock, as the machine may be busy
NUMBERS = ["-1", "0", "nan", "inf", "-inf", "1e400", "1e-400", "1e3", "-0.0", "0x10", "1_000", "+5", "٣", "²", "0.1.2"]
NUMBERS += [str(10**12), str(2**63), str(10**30), "9" * 5000, "0:1000000000000", "5:0", ":", "::", "0:3:0", "-3:2"]
NUMBERS += ["0:1:2:3"]
TEXTS = ["", " ", ",", ",,", "a,,b", '"', '"a', "é\u202e😀", "two\nlines", "\r\n", "\t", "\0", "r\udcff", "x" * 100_000]
TEXTS += ["n" * 300, "'; exit 3", "$(exit 3)", "%s%n{0}", "{}", "[1,2]", "*", "~", "-", "--", "--help", "-t", "none"]
TEXTS += ["true", "=", "a=", "=b", "a:b=c", "s6", "polyreg", "s6(D=", "s6 < ", "s6 < s6", "(" * 3000, "x1^999999999"]
TEXTS += ["x" + "9" * 900, "1/0", "__class__"]
PATHS = ["fifo", "fifo.py:Layer", "fifo.parquet", "folder", "folder.py:Layer", "file", "file/below", "broken.py:Layer"]
PATHS += ["missing.py:A", "exits.py:Layer", "../nowhere", "nowhere/below", "/dev/zero", "/dev/null", "/dev/full", "/proc"]
PATHS += ["/proc/self/mem", "link", "no.such:Layer", "os:path", "os:", ":Layer", "builtins:int", "torch.nn:Linear"]
PATHS += ["json:JSONDecoder", "file.py", "."]
SETTINGS = ["L=4", "self=1", "width=2", "__class__=1", "loss=3", "primary_metric=x", "instance=1", "seed=1"]
SETTINGS += ["test_size=-1", "test_size=99999999999", "degree=nan", "formula=x1^x1", "formula=" + "(" * 3000]
SETTINGS += ["formula=x1^99999999", "formula=", "formula=x1*" * 2000 + "x1", "path=fifo", "path=/dev/zero", "path=folder"]
SETTINGS += ["data=/etc", "N=-1", "N=1e400", "N=none", "heads=0", "polyreg:family=suffix,suffix", "ssm:N=2"]
SETTINGS += ["nowhere.py:A:N=2", "a:b:c:d=e", "=", "N", "N=", "N=,", 'N="', "é=é"]
SMALL = ["-t", "test_size=64", "-t", "validation_size=64"]
RUN = ["--task", "polyreg", "--models", "ssm", "--L", "4", "--steps", "2", "--seeds", "0"]
# Words with which each command does little, so that a hostile word that happens to be valid is answered soon.
BASES: dict[tuple[str, ...], list[str]] = {
    ("run",): [*RUN, *SMALL],
    ("claim",): ["s6 < linattn", "--task", "polyreg"],
    ("reproduce",): ["table2", "--smoke", "--dry-run", "--shard", "1/400"],
    ("report",): [],
    ("compact",): [],
    ("compare",): ["results", "results"],
    ("list",): [],
    ("show",): ["s6"],
    ("check",): ["ssm", "--D", "2", "--L", "2"],
    ("doctor",): [],
    ("trace",): ["0"],
    ("baseline", "check"): ["--baseline", "tiny", "--results", "checked"],
    ("baseline", "update"): ["--baseline", "tiny", "--results", "results", "--yes"],
    ("bench", "scan"): ["--shapes", "1x1x2x1", "--seconds", "0", "--backend", "reference", "--out", "bench"],
    ("theory", "degree"): ["--models", "linattn", "--L", "2", "--depth", "1", "--out", "theory"],
    ("theory", "construct"): ["x1*x2"],
    ("theory", "realise"): ["x1*x2", "--noise", "0", "--seeds", "0", "--steps", "2", "--out", "theory"],
    ("theory", "bound"): ["--L", "4", "--classes", "2", "--samples", "8", "--steps", "2"],
    ("theory", "correlation"): [],
}


class Answer(NamedTuple):
    """The answer to a command line. wrong: what is wrong with it; empty if nothing is."""

    words: list[str]
    code: int | None
    wrong: str
    seconds: float


def command_lines(count: int, seed: int = 0) -> Iterator[list[str]]:
    """Yield command lines: those of `BASES` in turn, each with one to three hostile words in place of good ones."""
    draw = random.Random(seed)
    tree = typer.main.get_command(app)
    names = list(BASES)
    for i in range(count):
        name = names[i % len(names)]
        command: Any = tree
        for part in name:
            command = command.commands[part]
        options = [parameter for parameter in command.params if isinstance(parameter, typer.core.TyperOption)]
        words = list(BASES[name])
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            _spoil(words, options, draw)
        if name == ("run",) and draw.random() < 0.5:
            words.append("--dry-run")
        if name == ("reproduce",):  # without these words it is a request that trains for hours
            words += [word for word in ("--smoke", "--dry-run") if word not in words]
        yield [*name, *words]


def _spoil(words: list[str], options: Sequence[typer.core.TyperOption], draw: random.Random) -> None:
    """Replace a word, or the value of an option, by a hostile one; or add an option; or leave words out."""
    kind = draw.random()
    if kind < 0.15 and words:
        words[draw.randrange(len(words))] = _hostile(draw)
    elif kind < 0.2:
        del words[draw.randrange(len(words) + 1) :]
    elif kind < 0.25:
        words.insert(draw.randrange(len(words) + 1), _hostile(draw))
    elif options:
        option = draw.choice(options)
        flag = draw.choice([*option.opts, *option.secondary_opts])
        value = (
            [] if option.is_flag else [draw.choice(SETTINGS) if option.multiple and draw.random() < 0.7 else _hostile(draw)]
        )
        if flag in words and not option.is_flag and not option.multiple:
            words[words.index(flag) + 1 : words.index(flag) + 2] = value
        else:
            words += [flag, *value]


def _hostile(draw: random.Random) -> str:
    return draw.choice(draw.choice((NUMBERS, TEXTS, PATHS)))


def prepare(folder: Path) -> None:
    """Make a folder with a few results, a baseline, and files that are no such thing."""
    os.mkfifo(folder / "fifo")
    os.mkfifo(folder / "fifo.py")
    os.mkfifo(folder / "fifo.parquet")
    (folder / "folder").mkdir()
    (folder / "folder.py").mkdir()
    (folder / "file").touch()
    (folder / "link").symlink_to("link")
    (folder / "broken.py").write_text("class Layer(")
    (folder / "exits.py").write_text("raise SystemExit(7)")
    write_text(folder / "text")
    tiny = folder / "results" / "baselines" / "tiny"
    tiny.mkdir(parents=True)
    (tiny / "configurations.toml").write_text(
        "configurations = [{ task = 'polyreg', models = 'ssm', L = 4, steps = 2, seeds = '0', "
        "task_settings = ['test_size=64', 'validation_size=64'] }]"
    )
    for words in (["run", *RUN, *SMALL], ["baseline", "update", "--baseline", "tiny", "--yes"]):
        answer = here(words)
        assert not answer.wrong, answer
        assert answer.code == 0, answer


class _TooLong(BaseException):
    """The time for an answer is over."""


def here(words: list[str]) -> Answer:
    """Call the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    began, wrong, code = time.monotonic(), "", None
    with _as_before(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(words))
        except SystemExit as ended:
            code = int(ended.code or 0)
        except _TooLong:
            wrong = "".join(traceback.format_exc().splitlines(keepends=True)[-8:])
            wrong = f"no answer in {SECONDS} s\n{wrong}"
        except BaseException:
            wrong = traceback.format_exc()
    return Answer(words, code, wrong or _wrong(code, out.getvalue(), err.getvalue()), time.monotonic() - began)


def apart(words: list[str]) -> Answer:
    """Call the command line as a process."""
    began = time.monotonic()
    command = [sys.executable, "-m", "expbench", *map(os.fsencode, words)]
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            timeout=9 * SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS)),
        )
    except subprocess.TimeoutExpired:
        return Answer(words, None, f"no answer in {9 * SECONDS} s", time.monotonic() - began)
    said = [stream.decode(errors="replace") for stream in (ended.stdout, ended.stderr)]
    return Answer(words, ended.returncode, _wrong(ended.returncode, *said), time.monotonic() - began)


def _wrong(code: int | None, out: str, err: str) -> str:
    """Return what is wrong with an answer: a traceback, an unknown exit code, or a refusal that is not one line."""
    if "Traceback (most" in out + err:
        return err[-2000:]
    if code not in (0, 1, 2):
        return f"exit code {code}: {err[-300:]}"
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    if code == 2 and len(errors) != 1:
        return f"{len(errors)} lines of error: {err[-500:]}"
    if code == 2 and err.splitlines()[-1] != errors[0]:
        return f"an error of several lines: {err[-500:]}"
    return ""


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Limit the time, and put back what a command may change in its process."""

    def over(*_: object) -> None:
        raise _TooLong

    logger, environment, path, folder = logging.getLogger("expbench"), dict(os.environ), list(sys.path), Path.cwd()
    kept = {package: list(package.__path__) for package in (expbench_models, expbench_tasks)}
    handlers = list(logger.handlers)
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGPROF)}
    signal.signal(signal.SIGALRM, over)
    signal.signal(signal.SIGPROF, over)
    signal.alarm(3 * SECONDS)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in signals.items():
            signal.signal(number, handler)
        for package, places in kept.items():
            package.__path__ = places
        logger.handlers[:] = handlers
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        os.chdir(folder)
        torch.set_default_dtype(torch.float32)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    root = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    failed, codes, slowest = 0, Counter[object](), 0.0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "a" / "b" / "c"
        folder.mkdir(parents=True)
        os.chdir(folder)
        os.environ["EXPBENCH_CACHE"] = str(Path(place) / "cache")
        prepare(folder)
        lines = list(command_lines(asked.count, asked.seed))
        processes = [words for words in command_lines(2 * asked.processes, asked.seed + 1) if "\0" not in "".join(words)]
        calls = [(here, words) for words in lines] + [(apart, words) for words in processes[: asked.processes]]
        for i, (call, words) in enumerate(calls, start=1):
            faulthandler.dump_traceback_later(12 * SECONDS, exit=True)  # one that even the alarm does not end
            answer = call(words)
            faulthandler.cancel_dump_traceback_later()
            codes[answer.code] += 1
            slowest = max(slowest, answer.seconds)
            if answer.wrong:
                failed += 1
                print(f"[{i}/{len(calls)}] {[word[:80] for word in words]}\n{answer.wrong}\n", flush=True)
        os.chdir("/")
    print(
        f"{len(calls)} command lines, {failed} answered wrongly; exit codes {dict(codes)}; the slowest took {slowest:.1f} s"
    )
    sys.exit(bool(failed))


if __name__ == "__main__":
    _main()
