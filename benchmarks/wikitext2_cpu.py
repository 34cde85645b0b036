"""A small language model on WikiText-2, on a CPU: python benchmarks/wikitext2_cpu.py --path FOLDER

Trains 2 layers of width 64 at a context of 128 and prints the perplexity of the validation split, which is to be below half
that of the unigram model of the same tokens, within 5 minutes on 2 cores; exits with 1 where it is not. Text becomes 4,096
tokens, as most of the time goes to the softmax over them. The test split has no part in it. FOLDER: of WikiText-2 (default:
$EXPBENCH_WIKITEXT2).
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch

from expbench import grid, perplexity, plugins
from expbench.backbone import LanguageModel
from expbench.corpus import Choice, Source, prepare
from expbench.counting import counting
from expbench.language import How, Recipe, Unfinished, train


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", type=Path, default=os.environ.get("EXPBENCH_WIKITEXT2"))
    parser.add_argument("--model", default="s6")
    parser.add_argument("--tokenizer", default="bpe", help="bpe, of --size tokens, or word")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--evaluate-every", type=int, default=800)
    parser.add_argument("--seconds", type=float, default=300.0, help="within which it is to be done")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.path is None:
        parser.error("give --path, or set EXPBENCH_WIKITEXT2")
    began = time.perf_counter()
    choice = Choice(options.tokenizer, options.size if options.tokenizer == "bpe" else None)
    corpus = prepare(Source(path=options.path), choice, ("train", "validation"))
    costs = perplexity.unigram(perplexity.counts(corpus["train"].ids, corpus.vocabulary))
    validation = corpus["validation"]
    unigram = perplexity.without_context(costs, validation.ids, words=validation.words).per_token
    print(f"{corpus['train'].tokens} tokens of {corpus.vocabulary}; unigram {unigram:.1f}, its half {unigram / 2:.1f}")
    torch.manual_seed(options.seed)
    model = LanguageModel(
        grid.load_model(plugins.find("model", options.model)),
        vocabulary=corpus.vocabulary,
        width=options.width,
        layers=options.layers,
        context=options.context,
    )
    recipe = Recipe(
        lr=options.lr,
        steps=options.steps,
        batch_size=options.batch_size,
        context=options.context,
        seed=options.seed,
        evaluate_every=options.evaluate_every,
    )
    reached = gone = float("inf")
    with counting("steps", options.steps) as told:
        for score in train(model, corpus, recipe, How(), told):
            assert not isinstance(score, Unfinished)
            if not score.slice and score.metric in ("loss", "tokens_per_second", "perplexity"):
                gone = time.perf_counter() - began
                print(f"{gone:6.1f} s  step {score.step:5d}  {score.split:9}  {score.metric}  {score.value:.6g}", flush=True)
            if score.headline:
                reached = score.value
    met = reached < unigram / 2 and gone < options.seconds
    print(f"{reached:.1f} is {reached / unigram:.3f} of the unigram's, after {gone:.0f} s: {'met' if met else 'not met'}")
    raise SystemExit(not met)


if __name__ == "__main__":
    main()
