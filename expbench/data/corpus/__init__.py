"""Text for language models: WikiText or a folder of text, in tokens, kept and mapped into memory."""

from expbench.data.corpus.cache import Corpus, Tokens, prepare
from expbench.data.corpus.sources import NAMES, SPLITS, Source, Split
from expbench.data.corpus.tokenizers import KINDS, Choice, Tokenizer

__all__ = ["KINDS", "NAMES", "SPLITS", "Choice", "Corpus", "Source", "Split", "Tokenizer", "Tokens", "prepare"]
