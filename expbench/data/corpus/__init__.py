"""Text for language models: WikiText, a folder of text or a generated text, tokenized, cached and memory-mapped."""

from expbench.data.corpus.cache import Corpus, Tokens, prepare
from expbench.data.corpus.sources import NAMES, SPLITS, Source, Split
from expbench.data.corpus.tokenizers import KINDS, Choice, Tokenizer

__all__ = ["KINDS", "NAMES", "SPLITS", "Choice", "Corpus", "Source", "Split", "Tokenizer", "Tokens", "prepare"]
