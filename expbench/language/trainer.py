"""A language model on a corpus -> Scores: the training loss and speed, and the perplexity of the other splits.

Whatever a training needs follows from its recipe or stands in its checkpoints: the same call, after a crash or a time limit,
goes on where it was, and yields on a CPU the same bits as if nothing had happened, the scores of before among them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from expbench import perplexity, provenance
from expbench.backbone import LanguageModel
from expbench.corpus import Corpus, Tokens
from expbench.corpus import Split as Part
from expbench.errors import BadInput
from expbench.language.checkpoint import Checkpoints, State
from expbench.language.data import Order
from expbench.language.flops import flops_per_token, peak
from expbench.language.parallel import Group, joined
from expbench.language.passes import autocast
from expbench.language.recipe import VERSION, How, Recipe, Schedule, schedule
from expbench.language.steps import Steps
from expbench.run import Score, Split, content_key
from expbench.training import Diverged

SPLITS: dict[Split, Part] = {"selection": "validation", "test": "test"}
PROBE = 4096  # tokens on which mixers log their statistics
_LOOK_SECONDS = 2.0  # from one look at a GPU to the next: each waits until it has done what it was given
_WARM_STEPS = 5  # that are not timed: programs are compiled, memory is found


class Unfinished(NamedTuple):
    """A training that has ended at a checkpoint for want of time, after `step` of `steps`."""

    step: int
    steps: int


def train(
    model: LanguageModel,
    corpus: Corpus,
    recipe: Recipe,
    how: How,
    told: Callable[[int], None] = lambda step: None,
    eager: Callable[[str], None] = lambda reason: None,
) -> Iterator[Score | Unfinished]:
    """Train a model, yielding what each evaluation measured, those of earlier calls first; `Unfinished` where time is up.

    Train: loss (mean since the last evaluation, nats a token), epoch (how often the training split has been gone through),
    and of this call tokens_per_second, mfu (bfloat16 on a GPU
    that is known), peak_memory (bytes of a GPU). Selection, which is the validation split, and test, if there is one:
    perplexity, word_perplexity; in the end also perplexity at each of the recipe's lengths, with slice ``context=256``, of
    those targets that have as many tokens before them as the longest. Selection: the statistics that mixers log, on its
    first tokens.

    told: the number of steps taken, now and then. eager: why the passes of a step could not be captured on a GPU. Under
    torchrun every process must make the call and exhaust it; the first alone yields scores. The model is left on the device,
    with the weights of the last step. Raises BadInput before training for what does not fit together, a damaged checkpoint
    or one of another training, and `Diverged`.
    """
    plan = _fitting(model, corpus, recipe)
    group = joined(how.device)
    if recipe.batch_size % group.size:
        near = max(1, round(recipe.batch_size / group.size)) * group.size
        raise BadInput(f"batch_size={recipe.batch_size} is not shared evenly by {group.size} processes; {near} is")
    with torch.random.fork_rng(devices=[group.device] if group.device.type == "cuda" else []):
        yield from _Training(model, corpus, recipe, how, plan, group, told, eager).scores()


def _fitting(model: LanguageModel, corpus: Corpus, recipe: Recipe) -> Schedule:
    """The schedule; raises BadInput where model, corpus and recipe do not fit each other."""
    missing = [part for part in ("train", "validation") if part not in corpus.splits]
    if missing:
        raise BadInput(f"the corpus has no {missing[0]} split (it has {', '.join(corpus.splits)})")
    vocabulary = model.embed.num_embeddings
    if corpus.vocabulary > vocabulary:
        raise BadInput(
            f"the tokenizer has {corpus.vocabulary} tokens and the model {vocabulary}: "
            f"give it a vocabulary of {corpus.vocabulary}, or take a smaller tokenizer"
        )
    longest = max((recipe.context, *recipe.lengths))
    if longest > model.context:
        raise BadInput(f"context={longest} is longer than the model's, {model.context}")
    for part in SPLITS.values():
        if part in corpus.splits and recipe.lengths and corpus[part].tokens <= longest:
            raise BadInput(f"a length of {longest} leaves no target of the {part} split, of {corpus[part].tokens} tokens")
    for part, tokens in corpus.splits.items():
        if recipe.context > tokens.tokens:
            raise BadInput(f"context={recipe.context} is longer than the {part} split, which has {tokens.tokens} tokens")
    return schedule(recipe, corpus["train"].tokens)


class _Training:
    """One training: its parts, and how they take turns."""

    def __init__(
        self,
        model: LanguageModel,
        corpus: Corpus,
        recipe: Recipe,
        how: How,
        plan: Schedule,
        group: Group,
        told: Callable[[int], None],
        eager: Callable[[str], None],
    ) -> None:
        self._began = self._saved = time.monotonic()
        self._corpus, self._recipe, self._how, self._plan, self._group, self._told = corpus, recipe, how, plan, group, told
        self._eager = eager
        self._checkpoints = None if how.folder is None else Checkpoints(how.folder, identity(model, corpus, recipe))
        before = self._checkpoints.newest(quiet=not group.leads) if self._checkpoints else None
        self._model = model.to(group.device)
        self._steps = Steps(model, Order(corpus["train"].ids, recipe), recipe, plan, how, group)
        self._scores: list[Score] = []
        self._spent = 0.0
        if before is not None:
            self._steps.restore(before.step, before.tensors, before.about["since"])
            self._scores = [Score(*values) for values in before.about["scores"]]
            self._spent = before.about["seconds"]
        self._compiled = how.compiled if how.compiled is not None else group.device.type == "cuda"
        if self._compiled:
            model.compile_blocks()
        self._steps.begin()
        self._clock = _Clock(self._steps.taken + _WARM_STEPS)
        if group.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(group.device)

    def scores(self) -> Iterator[Score | Unfinished]:
        steps, plan, group = self._steps, self._plan, self._group
        if group.leads:
            yield from self._scores
        look_at = steps.taken + 1
        while steps.taken < plan.steps:
            steps.take()
            evaluated = plan.evaluated(steps.taken)
            if not evaluated and steps.taken < look_at:
                continue
            broke_at = steps.broke_at()
            if broke_at:
                raise Diverged(f"the loss or its gradient is not finite at step {broke_at} of {plan.steps}")
            self._clock.lap(steps.taken)
            if evaluated:
                yield from self._evaluated()
                self._clock.start(steps.taken)
            if group.leads:
                self._told(steps.taken)
            out_of_time, save, ahead = group.decided(self._due())
            look_at = steps.taken + ahead
            if save:
                self._save()
                self._clock.start(steps.taken)
            if out_of_time:
                yield Unfinished(steps.taken, plan.steps)
                return

    def _due(self) -> tuple[int, int, int]:
        """Whether time is up, whether to save, and in how many steps to look again."""
        now = time.monotonic()
        done = self._steps.taken == self._plan.steps
        left = math.inf if self._how.seconds is None else self._how.seconds - (now - self._began)
        to_save = math.inf if self._checkpoints is None else self._how.save_every - (now - self._saved)
        out_of_time = left <= 0 and not done
        save = self._checkpoints is not None and (out_of_time or done or to_save <= 0)
        ahead = 1
        if self._group.device.type == "cuda":
            soon = min(_LOOK_SECONDS, left, self._how.save_every if save else to_save)
            ahead = max(1, int(soon / self._clock.seconds_a_step))
        return int(out_of_time), int(save), ahead

    def _save(self) -> None:
        tensors, since = self._steps.state()
        if self._checkpoints is not None and self._group.leads:
            about = {"since": since, "scores": self._scores, "seconds": self._seconds()}
            self._checkpoints.save(State(self._steps.taken, tensors, about))
        self._saved = time.monotonic()

    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._began

    def _evaluated(self) -> Iterator[Score]:
        """The scores of an evaluation, which are kept. All processes share in the mean loss, the first does the rest."""
        loss, found, why = self._steps.mean_loss(), [], ""
        if self._group.leads:
            if self._steps.passes.eager_because is not None:
                self._eager(self._steps.passes.eager_because)
            self._model.eval()
            try:
                found = [*self._of_training(loss), *self._of_splits(), *self._of_mixers()]
                if self._steps.taken == self._plan.steps:
                    found += self._of_lengths()
            except Diverged as error:
                why = str(error)
            self._model.train()
        if any(self._group.decided([len(why)])):
            raise Diverged(why or f"the first process found that it diverged, after {self._steps.taken} steps")
        if self._group.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._group.device)  # of training, not of what evaluating takes
        self._scores += found
        yield from found

    def _score(self, split: Split, metric: str, value: float, part: str = "", headline: bool = False) -> Score:
        return Score(split, self._steps.taken, metric, float(value), part, self._seconds(), headline)

    def _of_training(self, loss: float) -> Iterator[Score]:
        yield self._score("train", "loss", loss)
        yield self._score("train", "epoch", self._steps.taken / self._plan.epoch)
        device, speed = self._group.device, self._clock.steps_a_second()
        if speed is not None:
            speed *= self._recipe.batch_size * self._recipe.context
            yield self._score("train", "tokens_per_second", speed)
            most = peak(provenance.device_name("cuda")) if device.type == "cuda" else None
            if most is not None and self._recipe.dtype == "bfloat16":
                operations = flops_per_token(self._model, self._recipe.context)
                yield self._score("train", "mfu", operations * speed / (most * self._group.size))
        if device.type == "cuda":
            most = max(torch.cuda.max_memory_allocated(device), self._steps.passes.memory)
            yield self._score("train", "peak_memory", most)

    def _of_splits(self) -> Iterator[Score]:
        for split, part in SPLITS.items():
            if part not in self._corpus.splits:
                continue
            found = self._perplexity(self._corpus[part])
            if not math.isfinite(found.nll) or math.isinf(found.per_token):
                raise Diverged(f"the perplexity of the {part} split is not finite after {self._steps.taken} steps")
            yield self._score(split, "perplexity", found.per_token, headline=True)
            if found.per_word is not None:
                yield self._score(split, "word_perplexity", found.per_word)

    def _perplexity(self, tokens: Tokens) -> perplexity.Perplexity:
        recipe, device, rows = self._recipe, self._group.device, self._rows()

        def nll(inputs: Tensor, targets: Tensor) -> Tensor:
            """For as many rows at every call: another number would have to be compiled anew."""
            lacking = (0, 0, 0, rows - len(inputs))
            with autocast(recipe, device):
                return self._model.token_losses(F.pad(inputs, lacking), F.pad(targets, lacking))[: len(inputs)]

        return perplexity.evaluate(
            nll,
            tokens.ids,
            context=recipe.context,
            stride=recipe.stride or recipe.context,
            before=self._corpus.tokenizer.end,
            words=tokens.words,
            batch_size=rows,
            device=device,
        )

    def _of_lengths(self) -> Iterator[Score]:
        """As the same targets are predicted from contexts of each length: targets of whole windows of the longest.

        Without compiling: a program of its own for every length would take longer than it saves.
        """
        recipe, device, lengths = self._recipe, self._group.device, self._recipe.lengths
        if not lengths:
            return

        def nll(inputs: Tensor, targets: Tensor) -> Tensor:
            with autocast(recipe, device):
                return self._model.token_losses(inputs, targets)

        for split, part in SPLITS.items():
            if part not in self._corpus.splits:
                continue
            with torch.compiler.set_stance("force_eager") if self._compiled else nullcontext():
                found = perplexity.evaluate_lengths(
                    nll,
                    self._corpus[part].ids,
                    contexts=lengths,
                    stride=min(recipe.stride or recipe.context, *lengths),
                    before=self._corpus.tokenizer.end,
                    batch_size=max(1, self._rows() * recipe.context // max(lengths)),
                    device=device,
                )
            for length, at_length in found.items():
                yield self._score(split, "perplexity", at_length.per_token, f"context={length}")

    def _rows(self) -> int:
        """Sequences that are evaluated at a time: as many as are trained on, for which memory suffices."""
        return min(self._how.at_once or self._recipe.batch_size, self._recipe.batch_size // self._group.size)

    def _of_mixers(self) -> Iterator[Score]:
        ids, context = self._corpus["validation"].ids, self._recipe.context
        rows = max(1, min(PROBE, len(ids)) // context)
        probe = torch.from_numpy(ids[: rows * context].astype("int64")).view(rows, context).to(self._group.device)
        with autocast(self._recipe, self._group.device):
            found = {of: float(value) for of, value in self._model.statistics(probe).items()}
        for (layer, name), value in found.items():
            yield self._score("selection", name, value, f"layer={layer}")
        largest = [value for (_, name), value in found.items() if name == "abar_max"]
        if largest:
            yield self._score("selection", "k_hat", max(largest))


class _Clock:
    """How fast steps are where nothing else is done: in laps that end when the device has done all, after step `first`."""

    def __init__(self, first: int) -> None:
        self._first, self._steps, self._seconds = first, 0, 0.0
        self._since: tuple[int, float] | None = None
        self.seconds_a_step = math.inf

    def start(self, step: int) -> None:
        """A lap begins after a step."""
        self._since = step, time.perf_counter()

    def lap(self, step: int) -> None:
        """A lap ends after a step, and the next begins."""
        if self._since is not None:
            began_at, began = self._since
            seconds = time.perf_counter() - began
            self.seconds_a_step = seconds / (step - began_at)
            if began_at >= self._first:
                self._steps += step - began_at
                self._seconds += seconds
        self.start(step)

    def steps_a_second(self) -> float | None:
        """Since this was last asked; None where nothing was timed."""
        speed = self._steps / self._seconds if self._steps else None
        self._steps, self._seconds = 0, 0.0
        return speed


def identity(model: LanguageModel, corpus: Corpus, recipe: Recipe) -> Mapping[str, Any]:
    """What tells a training from all others, by name; but for the model's initial weights, which are of recipe.seed."""
    mixer = model.mixers[0]
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    return {
        "version": VERSION,
        **asdict(recipe),
        "mixer": type(mixer).__qualname__,
        "mixer_version": getattr(mixer, "version", 1),
        "settings": dict(model.settings),
        "backbone": model.backbone,
        "layers": len(model.mixers),
        "parameters": content_key(shapes),
        "tokenizer": corpus.tokenizer.sha256[:16],
        "text": content_key({part: tokens.sha256 for part, tokens in corpus.splits.items()}),
    }
