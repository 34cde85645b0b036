"""Text for language models: WikiText or a folder of text, in tokens, kept and mapped into memory."""

from expbench.corpus.cache import Corpus, Tokens, prepare
from expbench.corpus.source import NAMES, SPLITS, Source, Split
from expbench.corpus.tokens import KINDS, Choice, Tokenizer

__all__ = ["KINDS", "NAMES", "SPLITS", "Choice", "Corpus", "Source", "Split", "Tokenizer", "Tokens", "prepare"]
