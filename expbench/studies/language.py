"""Studies of language modelling: Table 1 (right) of arXiv 2502.02209, and the same models at other context lengths.

The paper states 12 layers, context 1024, batch 32, AdamW with weight decay .01, 20 epochs with one epoch of warm-up, a
cosine schedule, and Taylor polynomials of degree 3. It does not state the peak learning rate, the betas of AdamW
(`language.Recipe`), the tokens, clipping, precision, or the expansion point of softplus; these are reconstructed, and both
readings of the expansion point are run. The stated width of 386 is not divisible into heads; the studies use 384.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from expbench.claims.claim import Claim
from expbench.errors import BadInput, unknown
from expbench.studies.published import numbers
from expbench.sweep.spec import SweepSpec

TEXTS = ("wikitext-2", "wikitext-103")
_TASK = "wikitext"
_PEAK_RATE = "0.001"
_POLYNOMIALS = "taylor=3"
_START = "start=literal"  # as in the paper, and in the committed tables
_BATCHES = {256: 128, 512: 64, 1024: 32}  # sequences per step by context length, with equal numbers of tokens
# Divisors of lengths and batches for a smoke test. A text of two thousand tokens suffices for it, and steps are still large
# enough to evaluate the full splits of a real text in seconds.
_SHORTER, _FEWER = 8, 4

Study = tuple[tuple[SweepSpec, ...], tuple[Claim, ...]]


def _request(models: str, seeds: str, *settings: str, L: int = 1024) -> SweepSpec:
    return SweepSpec(
        task=_TASK,
        models=models,
        L=str(L),
        D="384",
        depth="12",
        epochs="20",
        batch_size=str(_BATCHES[L]),
        lr=_PEAK_RATE,
        weight_decay="0.01",
        dtype="bfloat16",
        seeds=seeds,
        model_settings=settings,
    )


def table1() -> Study:
    """Return the study of Table 1 (right) with linear attention added; the main rows have three seeds."""
    return (
        _request("s6,attn", "0:3"),
        _request("s6-poly", "0:3", _POLYNOMIALS, "center=zero", _START),
        _request("s6-poly-disc", "0", _POLYNOMIALS, "center=zero,bias"),
        _request("s6-poly", "0", _POLYNOMIALS, "center=bias", _START),
        _request("s6-bbar-b,linattn", "0"),
    ), numbers.orders(_TASK)


def contexts() -> Study:
    """Return the study of S6 and Eq. 5 at contexts 256, 512 and 1024, with equal tokens per step, each evaluated at all."""
    lengths = f"lengths={'+'.join(map(str, _BATCHES))}"
    models = (("s6", ()), ("s6-poly", (_POLYNOMIALS, "center=zero", _START)))
    requests = [_request(model, "0:3", *settings, L=L) for L in _BATCHES for model, settings in models]
    return tuple(replace(r, task_settings=(lengths,)) for r in requests), (Claim("s6 < s6-poly", _TASK),)


def on_text(name: str, requests: Sequence[SweepSpec], data: str | None, path: str | None) -> tuple[SweepSpec, ...]:
    """Return the requests of preset `name` on a text, given by its name in `TEXTS`, by a folder, or by both.

    Raise BadInput if neither is given, for an unknown name, and for a folder name that reads as a list.
    """
    if data is None and path is None:
        raise BadInput(f"{name} needs a text: give --data {' or --data '.join(TEXTS)}, or --path FOLDER")
    if data is not None and data not in TEXTS:
        raise unknown("value of --data:", data, TEXTS)
    if path is not None and ("," in path or not path):
        raise BadInput(f"--path: {path!r} is not a valid folder name; give one without commas")
    text = [f"{setting}={given}" for setting, given in (("data", data), ("path", path)) if given is not None]
    return tuple(replace(spec, task_settings=(*spec.task_settings, *text)) for spec in requests)


def smaller(spec: SweepSpec) -> SweepSpec:
    """Shrink a request to a smoke test: a few steps of two small layers on short sequences with a small vocabulary."""
    L, batch_size = int(spec.L or 0), int(spec.batch_size)
    return replace(
        spec,
        L=str(L // _SHORTER),
        D="32",
        depth="2",
        batch_size=str(batch_size // _FEWER),
        epochs=None,
        steps="10",
        seeds=spec.seeds.replace("0:3", "0:2"),
        task_settings=(*map(_shorter, spec.task_settings), "pieces=1024"),
    )


def _shorter(setting: str) -> str:
    name, _, value = setting.partition("=")
    return (
        f"{name}={'+'.join(str(int(length) // _SHORTER) for length in value.split('+'))}" if name == "lengths" else setting
    )
