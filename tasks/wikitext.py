"""WikiText: perplexity of Wikipedia's good articles (Merity et al. 2016, arXiv 1609.07843).

Fetched from the Hugging Face hub (``pip install 'expbench[wikitext]'``), or read from a folder by ``-t path=``. The network
is Mamba's backbone around an S6, a Transformer around an attention (`expbench.language.model`), of width D and `depth`
layers, as in Table 1 of arXiv 2502.02209.
"""

from __future__ import annotations

from dataclasses import dataclass

from expbench.language.task import TextTask


@dataclass(frozen=True, kw_only=True)
class WikiText(TextTask):
    """WikiText-2 or -103 (``data=wikitext-103``), or any text in a folder of that layout."""
