"""A language model on a corpus -> Scores: the training loss and speed, and the perplexity of the other splits.

Whatever a training needs follows from its recipe or stands in its checkpoints: the same call, after a crash or a time limit,
goes on where it was, and yields on a CPU the same bits as if nothing had happened, the scores of before among them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expbench.data.corpus import Corpus
from expbench.errors import BadInput
from expbench.language.batches import Order
from expbench.language.checkpoint import Checkpoints, State
from expbench.language.evaluation import SPLITS, Measure, Measures, of_tokens
from expbench.language.flops import flops_per_token, peak
from expbench.language.model import LanguageModel
from expbench.language.recipe import VERSION, How, Recipe, Schedule, schedule
from expbench.language.step import Steps
from expbench.results import provenance
from expbench.run import Score, content_key
from expbench.training.distributed import Group, joined
from expbench.training.loop import Diverged

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
    learning_rate, gradient_norm and fingerprints of the last step (`regression.invariants`), of this call tokens_per_second,
    mfu (bfloat16 on a GPU that is known), peak_memory (bytes of a GPU). Selection, which is the validation split, and test,
    if there is one: perplexity, word_perplexity; where that of the validation split is the lowest yet, and in the end, also
    perplexity at each of the recipe's lengths, with slice ``context=256``, of those targets that have as many tokens before
    them as the longest; in the end their fingerprints. Selection: the statistics that mixers log, on its first tokens, and a
    fingerprint of the outputs before the first step.

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
        self._measures = Measures(model, corpus, recipe, how, group, self._compiled)
        self._steps.begin()
        self._clock = _Clock(self._steps.taken + _WARM_STEPS)
        if group.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(group.device)

    def scores(self) -> Iterator[Score | Unfinished]:
        steps, plan, group = self._steps, self._plan, self._group
        if group.leads:
            if steps.taken == 0:
                self._model.eval()
                self._scores = self._scored(self._measures.untrained())
                self._model.train()
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
        loss, batch, found, why = self._steps.mean_loss(), self._steps.batch(), [], ""
        if self._group.leads:
            if self._steps.passes.eager_because is not None:
                self._eager(self._steps.passes.eager_because)
            self._model.eval()
            try:
                perplexities = list(self._measures.perplexities())
                measured = [*self._of_training(loss, batch), *perplexities, *self._measures.logged()]
                ends = self._steps.taken == self._plan.steps
                if ends or self._is_lowest_yet(perplexities):
                    measured += self._measures.at_lengths()
                if ends:
                    measured += self._measures.data()
                found = self._scored(*measured)
            except Diverged as error:
                why = f"{error} after {self._steps.taken} steps"
            self._model.train()
        if any(self._group.decided([len(why)])):
            raise Diverged(why or f"the first process found that it diverged, after {self._steps.taken} steps")
        if self._group.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._group.device)  # of training, not of what evaluating takes
        self._scores += found
        yield from found

    def _is_lowest_yet(self, perplexities: list[Measure]) -> bool:
        """Whether the validation split has a lower perplexity than at any evaluation before: this epoch may be chosen."""

        def lowest(found: Sequence[Measure | Score]) -> float:
            return min((each.value for each in found if each.headline and each.split == "selection"), default=math.inf)

        return lowest(perplexities) < lowest(self._scores)

    def _scored(self, *measured: Measure) -> list[Score]:
        at = self._steps.taken, self._seconds()
        return [Score(m.split, at[0], m.metric, m.value, m.part, at[1], m.headline) for m in measured]

    def _of_training(self, loss: float, batch: Tensor) -> Iterator[Measure]:
        """The loss; what the optimizer was given at the last step, and what tells the batch it was taken on; the speed."""
        steps, device, recipe = self._steps, self._group.device, self._recipe
        yield Measure("train", "loss", loss)
        yield Measure("train", "epoch", steps.taken / self._plan.epoch)
        rate, norm = steps.applied()
        yield Measure("train", "learning_rate", rate)
        yield Measure("train", "gradient_norm", norm)
        yield from of_tokens("train", batch)
        speed = self._clock.steps_a_second()
        if speed is not None:
            speed *= recipe.batch_size * recipe.context
            yield Measure("train", "tokens_per_second", speed)
            most = peak(provenance.device_name("cuda")) if device.type == "cuda" else None
            if most is not None and recipe.dtype == "bfloat16":
                operations = flops_per_token(self._model, recipe.context)
                yield Measure("train", "mfu", operations * speed / (most * self._group.size))
        if device.type == "cuda":
            yield Measure("train", "peak_memory", max(torch.cuda.max_memory_allocated(device), steps.passes.memory))


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
