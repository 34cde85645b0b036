"""The report as one page that needs nothing beside it: no network, no other file.

Every text is escaped where it is put in, for names and errors are strangers'. What a line of a table rests on is the line
below it, folded away, or a link to it. Where a page would grow beyond what can be used it says what it leaves out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from expbench.claims import formatting
from expbench.claims.verdicts import Finding
from expbench.report import document as report
from expbench.report import tables
from expbench.report.document import Claims, Document, Picture, Section, Table
from expbench.report.html.figure import inline
from expbench.results.cells import Cell

_MOST_LINES = 2000  # of results on a page, all tables together; a line with its runs is about 1.5 kB
_MOST_OTHER = 1000  # of any other table
_SENTENCE = 40  # characters
_LARGEST_FIGURE = 800_000  # characters
_KEY = 12  # digits of a key: enough to tell 100,000 runs apart, and all that `expbench trace` needs
_KINDS: dict[type, str] = {Table: "table", Picture: "picture", Claims: "claims", str: "text"}
# What is judged, in the columns of this name, and how a page colours it: never without its word.
_JUDGED = ("verdict", "reading")
_TONES = {
    "supported": "good",
    "reproduces": "good",
    "solved": "good",
    "contradicted": "bad",
    "differs": "bad",
    "BELOW its floor": "bad",
    "not supported": "fair",
    "not representable": "fair",
    "solved by some": "fair",
    "undecided": "unsure",
    "unknown": "unsure",
    "representable, not found": "unsure",
    "not comparable": "none",
    "not run": "none",
}
_NUMBER = re.compile(r"[-+]?\d(?!.*against)|-$|no polynomial bound$")


class Source(NamedTuple):
    """Where the numbers of a cell come from. runs: a line each; versions: what computed them."""

    runs: str
    commands: list[str]
    versions: str


class Line(NamedTuple):
    """A line of a table as the page has it. links: name and label of the cells that it rests on."""

    texts: list[Markup]
    name: str
    source: Source | None
    links: list[tuple[str, str]]


class Card(NamedTuple):
    """A claim with what became of it. evidence: in a few words."""

    finding: Finding
    counts: list[tuple[str, Markup]]
    evidence: str
    sentences: list[tuple[Markup, str, list[tuple[str, str]]]]
    table: Table | None


def render(document: Document) -> str:
    """The page."""
    return _Page(document).render()


class _Page:
    """A report with what can be linked to on it: the cells of its main tables, as many as it has room for."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.anchors = {id(table): f"table-{i}" for i, table in enumerate(document.tables, start=1)}
        self.sections = {id(section): f"section-{i}" for i, section in enumerate(document.sections, start=1)}
        self.names: dict[int, str] = {}
        self.room: dict[int, int] = {}
        left = _MOST_LINES
        for table in document.tables:
            self.room[id(table)] = min(len(table.lines), left if table.main else _MOST_OTHER)
            if table.main:
                left -= self.room[id(table)]
                for (cell,) in table.cells[: self.room[id(table)]]:
                    self.names[id(cell)] = report.name(cell)
        self.known = set(self.names.values())

    def render(self) -> str:
        template = _environment().get_template("page.html")
        text = template.render(
            page=self,
            document=self.document,
            kind=lambda block: _KINDS[type(block)],
            prose=_prose,
            preface=_prose(formatting.PREFACE),
            **{
                name: Markup(files("expbench.report.html").joinpath(f"page.{name}").read_text("utf-8"))
                for name in ("css", "js")
            },
        )
        return re.sub(r"\n\s*\n+", "\n", text)

    def section(self, section: Section) -> str:
        """The name that a section can be linked to by."""
        return self.sections[id(section)]

    def anchor(self, table: Table) -> str:
        """The name that a table can be linked to by."""
        return self.anchors[id(table)]

    def columns(self, table: Table) -> list[int]:
        """The columns that are shown: not the one in whose place runs are."""
        return [i for i, name in enumerate(table.header) if name != table.folded]

    def left_out(self, table: Table) -> int:
        """How many lines there is no room for."""
        return len(table.lines) - self.room.get(id(table), len(table.lines))

    def lines(self, table: Table) -> Iterator[Line]:
        """The lines that there is room for."""
        columns = self.columns(table)
        judged = {i for i in columns if table.header[i] in _JUDGED}
        for index, texts in enumerate(table.lines[: self.room.get(id(table), len(table.lines))]):
            shown = [_judged(texts[i]) if i in judged else _cell(texts[i]) for i in columns]
            cells = table.cells[index] if table.cells else []
            if table.main:
                yield Line(shown, self.names[id(cells[0])], source(cells[0]), [])
            else:
                yield Line(shown, "", None, self.links(cells))

    def numeric(self, table: Table) -> list[bool]:
        """Of each shown column whether it holds numbers."""
        sample = table.lines[:50]
        return [all(_NUMBER.match(line[i]) for line in sample) for i in self.columns(table)]

    def wide(self, table: Table) -> list[bool]:
        """Of each shown column whether it holds sentences, which are broken into lines."""
        return [max((len(line[i]) for line in table.lines), default=0) > _SENTENCE for i in self.columns(table)]

    def links(self, cells: Sequence[Cell]) -> list[tuple[str, str]]:
        """Name and label of those of the cells that are on the page."""
        named = [(self.names.get(id(cell)) or report.name(cell), str(cell["model"])) for cell in cells]
        return [(name, label) for name, label in named if name in self.known]

    def cards(self, claims: Claims) -> list[Card]:
        """The claims."""
        return [self._card(finding) for finding in claims.findings]

    def _card(self, finding: Finding) -> Card:
        own = finding.judgements
        counts = Counter(str(j.verdict) for j in own)
        badges = [
            (str(counts[verdict]) if len(own) > 1 else "", _judged(verdict)) for verdict in _TONES if verdict in counts
        ]
        sentences = [
            (_judged(j.verdict), formatting.sentence(j, finding.columns), self.links((j.left, j.right))) for j in own
        ]
        table = None
        if own:
            header, *lines = formatting.table(finding)
            table = Table(f"{finding.claim.title}: places", header, lines, [(j.left, j.right) for j in own])
        return Card(
            finding, badges, formatting.brief(finding), sentences if len(own) <= formatting.MOST_SENTENCES else [], table
        )

    def figure(self, picture: Picture, prefix: str) -> Markup | None:
        """The figure as it stands in the page; None where it is too large for it."""
        svg = inline(picture.path.read_text(encoding="utf-8"), prefix, picture.title)
        return Markup(svg) if len(svg) <= _LARGEST_FIGURE else None


def source(cell: Cell) -> Source:
    """Where the numbers of a cell come from."""
    errors = [str(error) if isinstance(error, str) else "" for error in cell.each("error")]
    runs = "\n".join(
        f"{who:>6}  {key[:_KEY]}  {what}{'  ' * bool(error)}{error.partition(chr(10))[0][:200]}"
        for (who, what, key), error in zip(tables.each_run(cell), errors, strict=True)
    )
    seen = [dict.fromkeys(str(v) for v in cell.each(c) if tables.known(v)) for c in _VERSIONS.values()]
    versions = [f"{name} {', '.join(values)}" for name, values in zip(_VERSIONS, seen, strict=True) if values]
    return Source(runs, cell.commands, "; ".join(versions))


_VERSIONS = {"commit": "git_commit", "torch": "torch", "on": "device_name", "backend": "backend"}


def _cell(text: str) -> Markup:
    """A text of a table, where two stars around all of it are for weight."""
    if text.startswith("**") and text.endswith("**") and len(text) > 4:
        return Markup("<strong>{}</strong>").format(text[2:-2])
    return Markup.escape(text)


def _judged(text: str) -> Markup:
    """A verdict or a reading with its mark: a word, a sign and a colour that say the same."""
    for word, tone in sorted(_TONES.items(), key=lambda known: -len(known[0])):
        if text.startswith(word):
            return Markup('<span class="v {}">{}</span>{}').format(tone, word, text[len(word) :])
    return Markup.escape(text)


def _prose(text: str) -> Markup:
    """A text of ours as HTML; no markup of HTML, no link and no image in it is taken for such."""
    return Markup(_markdown().render(text))


@cache
def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False}).enable("table")
    return made.disable(["image", "link", "autolink"])


@cache
def _environment() -> Environment:
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    return Environment(loader=PackageLoader("expbench.report.html", ""), autoescape=True, **options)
