"""WikiText: perplexity of Wikipedia's good articles (Merity et al. 2016, arXiv 1609.07843).

The text is downloaded from the Hugging Face hub (``pip install 'expbench[wikitext]'``) or read from a folder (``-t path=``).
The network has width D and `depth` layers, as in Table 1 of arXiv 2502.02209: Mamba's backbone around an S6 mixer, or a
Transformer around an attention mixer (`expbench.language.model`).
"""

from __future__ import annotations

from dataclasses import dataclass

from expbench.language.task import TextTask


@dataclass(frozen=True, kw_only=True)
class WikiText(TextTask):
    """WikiText-2 or -103 (``data=wikitext-103``), or any text in a folder of that layout."""
