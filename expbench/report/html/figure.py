"""A matplotlib SVG inside an HTML page, with unique names, the colours of the page and no external resources."""

from __future__ import annotations

import re
from collections import Counter

from markupsafe import escape

# page.css defines these variables for the light and the dark theme.
_COLOURS = {
    "#ffffff": "var(--paper)",
    "#000000": "var(--ink)",
    "black": "var(--ink)",
    "#595959": "var(--grey-2)",
    "#8c8c8c": "var(--grey-3)",
    "#b3b3b3": "var(--grey-4)",
    "#b0b0b0": "var(--grey-4)",
    "#cccccc": "var(--grey-5)",
    **{
        colour: f"var(--c{i})"
        for i, colour in enumerate(
            ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
        )
    },
}
_PREAMBLE = re.compile(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", re.DOTALL)
_STYLE = re.compile(r'style="[^"]*"')
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_OFTEN = 3
_ROOT = re.compile(r"<svg[^>]*>")
_SIZES = re.compile(r'(?:width|height)="([\d.]+)pt"')
_REFERENCE = re.compile(r'(href="|url\()#([\w.-]+)')
_NAME = re.compile(r' id="([\w.-]+)"')
_FINE = re.compile(r"(\.\d\d)\d+")
_PATH = re.compile(r' (?:d|x|y)="[^"]*"')


def inline(svg: str, prefix: str, title: str) -> str:
    """Return an SVG file as an element of a page, with names unique to `prefix` and coordinates cut to 0.01 point.

    title: the text for screen readers. Raise ValueError if the file contains no SVG.
    """
    svg = _PREAMBLE.sub("", svg)
    used = {name for _, name in _REFERENCE.findall(svg)}
    svg = _NAME.sub(lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", svg)
    svg = _REFERENCE.sub(lambda found: f"{found[1]}#{prefix}-{found[2]}", svg)
    svg = _STYLE.sub(lambda found: _COLOUR.sub(lambda colour: _COLOURS.get(colour[0], colour[0]), found[0]), svg)
    svg = _shared_styles(svg, prefix)
    svg = _PATH.sub(lambda found: _FINE.sub(r"\1", found[0]), svg)
    root = _ROOT.search(svg)
    if root is None:
        raise ValueError(f"{title}: no SVG")
    width, height = (float(size) for size in _SIZES.findall(root[0])[:2])
    head = f'<svg role="img" aria-label="{escape(title)}" width="{width:.0f}pt" height="{height:.0f}pt" '
    head += f'viewBox="0 0 {width:g} {height:g}" style="--width: {width:.0f}pt">'
    return svg[: root.start()] + head + svg[root.end() :].strip()


def _shared_styles(svg: str, prefix: str) -> str:
    """Replace each frequent inline style by a CSS class, since repeated markers make up most of a figure's size."""
    counts = Counter(_STYLE.findall(svg))
    classes = {style: f"{prefix}-{i}" for i, (style, times) in enumerate(counts.items()) if times > _OFTEN}
    rules = "".join(f".{name}{{{style[7:-1]}}}" for style, name in classes.items())
    svg = _STYLE.sub(lambda found: f'class="{classes[found[0]]}"' if found[0] in classes else found[0], svg)
    return svg.replace("</svg>", f"<style>{rules}</style></svg>") if rules else svg
