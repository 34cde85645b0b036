"""A matplotlib SVG inside an HTML page, with unique names, the colours of the page and no external resources.

Its texts hold names of third parties. It is therefore parsed, and only known elements, attributes and styles are written.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from xml.parsers import expat

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
_ELEMENTS = {"svg", "g", "defs", "clipPath", "path", "use", "rect", "text", "tspan", "image"}
_LINKS = ("clip-path", "xlink:href")
_ATTRIBUTES = {"id", "d", "x", "y", "width", "height", "transform", "style", *_LINKS}
_STYLE = re.compile(r"([a-z-]+: ?[\w\s.,#%'()+-]+;? ?)*")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_OFTEN = 3
_REFERENCE = re.compile(r"(?:url\()?#([\w.-]+)\)?")
_IMAGE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]*")
_FINE = re.compile(r"(\.\d\d)\d+")


def inline(svg: str, prefix: str, title: str) -> str:
    """Return an SVG file as an element of a page, with names unique to `prefix` and coordinates cut to 0.01 point.

    title: the text for screen readers. Raise ValueError if the file contains no SVG.
    """
    try:
        root = _parsed(svg)
        width, height = (float(root.get(side, "").removesuffix("pt")) for side in ("width", "height"))
    except (expat.ExpatError, ValueError) as error:
        raise ValueError(f"{title}: no SVG") from error
    _clean(root)
    elements = list(root.iter())
    used = {found[1] for e in elements for name in _LINKS if (found := _REFERENCE.match(e.get(name, "")))}
    for element in elements:
        _adapt(element, used, prefix)
    _share_styles(root, prefix)
    root.attrib = {}
    head = f'<svg role="img" aria-label="{escape(title)}" width="{width:.0f}pt" height="{height:.0f}pt" '
    head += f'viewBox="0 0 {width:g} {height:g}" style="--width: {width:.0f}pt"'
    return head + ET.tostring(root, encoding="unicode").removeprefix("<svg")


def _parsed(svg: str) -> ET.Element:
    """Parse an SVG without resolving namespaces, as a page has none."""
    builder, parser = ET.TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(svg, True)
    return builder.close()


def _clean(element: ET.Element) -> None:
    """Remove space between elements, and everything but known elements and attributes."""
    element.attrib = {name: value for name, value in element.items() if name in _ATTRIBUTES}
    for child in list(element):
        if child.tag in _ELEMENTS:
            _clean(child)
        else:
            element.remove(child)
    for child in element:
        child.tail = child.tail if element.tag in ("text", "tspan") else None
    element.text = element.text if element.tag in ("text", "tspan") else None


def _adapt(element: ET.Element, used: set[str], prefix: str) -> None:
    """Give names their prefix, colours those of the page and coordinates two digits; drop attributes that lead elsewhere."""
    for name, value in list(element.items()):
        match name:
            case "id":
                new = f"{prefix}-{value}" if value in used else None
            case _ if name in _LINKS:
                found = _REFERENCE.fullmatch(value)
                new = value.replace("#", f"#{prefix}-") if found else value if _IMAGE.fullmatch(value) else None
            case "style":
                known = _STYLE.fullmatch(value) and "url" not in value
                new = _COLOUR.sub(lambda colour: _COLOURS.get(colour[0], colour[0]), value) if known else None
            case "d" | "x" | "y":
                new = _FINE.sub(r"\1", value)
            case _:
                new = value
        if new is None:
            del element.attrib[name]
        else:
            element.set(name, new)


def _share_styles(root: ET.Element, prefix: str) -> None:
    """Replace each frequent inline style by a CSS class, since repeated markers make up most of a figure's size."""
    counts = Counter(style for element in root.iter() if (style := element.get("style")))
    classes = {style: f"{prefix}-{i}" for i, (style, times) in enumerate(counts.items()) if times > _OFTEN}
    for element in root.iter():
        if element.get("style") in classes:
            element.set("class", classes[element.attrib.pop("style")])
    if classes:
        rules = ET.SubElement(root, "style")
        rules.text = "".join(f".{name}{{{style}}}" for style, name in classes.items())
