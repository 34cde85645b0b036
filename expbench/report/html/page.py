"""The report as one self-contained HTML page: no network access, no other file.

The page begins with results, then claims, and undecided verdicts are folded. Every inserted text is escaped, since names
and error messages come from third-party code. The runs behind a line of a table are folded below it, or linked. A page that
would become too large states the number of rows it omits.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from expbench.claims import formatting
from expbench.claims.judgement import ClaimResult
from expbench.console.formatting import Strong, visible
from expbench.report import document as report
from expbench.report import tables
from expbench.report.document import Claims, Document, FigureBlock, Section, Table
from expbench.report.html.figure import inline
from expbench.results.configurations import Configuration

_MOST_LINES = 2000  # of all result tables on a page; a line with its runs has about 1.5 kB
_MOST_OTHER = 1000  # lines of any other table
_SENTENCE = 40  # characters; a column with longer texts is wrapped
_LARGEST_FIGURE = 800_000  # characters
_KEY = 12  # digits of a key: enough to distinguish 100,000 runs, and accepted by `expbench trace`
_KINDS: dict[type, str] = {Table: "table", FigureBlock: "picture", Claims: "claims", str: "text"}
# Columns with a verdict or a reading, and the colour of each word; the word itself is always shown.
_JUDGED = ("verdict", "reading")
_TONES = {
    "supported": "good",
    "reproduces": "good",
    "solved": "good",
    "contradicted": "bad",
    "differs": "bad",
    "BELOW its floor": "bad",
    "not supported": "fair",
    "below the margin": "fair",
    "ceiling": "fair",
    "confounded": "unsure",
    "not representable": "fair",
    "solved by some": "fair",
    "undecided": "unsure",
    "unknown": "unsure",
    "representable": "unsure",
    "solved in another configuration": "unsure",
    "not comparable": "none",
    "not run": "none",
}
_NUMBER = re.compile(r"[-+]?\d(?!.*against)|-$|no polynomial bound$|not stated$")


# The page loads nothing and runs its own script only, whatever a name in it contains.
_POLICY = "default-src 'none'; script-src 'sha256-{}'; style-src 'unsafe-inline'; img-src data:; form-action 'none'"


class Source(NamedTuple):
    """Source of the numbers of a configuration. runs: one line per run. versions: commit, torch, device and backend."""

    runs: str
    commands: list[str]
    versions: str


class Line(NamedTuple):
    """A line of a table on the page. links: name and label of the configurations behind it."""

    texts: list[Markup]
    name: str
    source: Source | None
    links: list[tuple[str, str]]


class Verdicts(NamedTuple):
    """Verdicts of a claim, as sentences if the claim has few, and as a table."""

    total: int
    sentences: list[tuple[Markup, str, list[tuple[str, str]]]]
    table: Table


class Card(NamedTuple):
    """A claim with its verdicts. evidence: a short text.

    shown: the decided verdicts, or all if none is decided. folded: the undecided verdicts, if others are decided.
    """

    finding: ClaimResult
    counts: list[tuple[str, Markup]]
    evidence: str
    shown: Verdicts | None
    folded: Verdicts | None


def render(document: Document) -> str:
    """Return the HTML page of a report."""
    return _Page(document).render()


def _part(section: Section) -> int:
    """Return the part of the page that a section belongs to: 0 results, 1 claims, 2 the rest."""
    return 0 if section.results else 1 if any(isinstance(block, Claims) for block in section.blocks) else 2


class _Page:
    """A report and its link targets: the configurations of its main tables, up to the size limit of the page."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.shown = sorted(document.sections, key=_part)
        self.anchors = {id(table): f"table-{i}" for i, table in enumerate(document.tables, start=1)}
        self.sections = {id(section): f"section-{i}" for i, section in enumerate(self.shown, start=1)}
        self.names: dict[int, str] = {}
        self.room: dict[int, int] = {}
        left = _MOST_LINES
        for table in document.tables:
            self.room[id(table)] = min(len(table.lines), left if table.main else _MOST_OTHER)
            if table.main:
                left -= self.room[id(table)]
                for (configuration,) in table.configurations[: self.room[id(table)]]:
                    self.names[id(configuration)] = report.name(configuration)
        self.known = set(self.names.values())

    def render(self) -> str:
        template = _environment().get_template("page.html")
        css, js = (_asset(f"page.{name}") for name in ("css", "js"))
        text = template.render(
            page=self,
            document=self.document,
            kind=lambda block: _KINDS[type(block)],
            prose=_prose,
            preface=_prose(formatting.PREFACE),
            css=Markup(css),
            js=Markup(js),
            policy=_POLICY.format(b64encode(sha256(js.encode()).digest()).decode()),
        )
        return visible(_without_empty_lines(text), keep="\n\t")

    def section(self, section: Section) -> str:
        """Return the anchor of a section."""
        return self.sections[id(section)]

    def anchor(self, table: Table) -> str:
        """Return the anchor of a table."""
        return self.anchors[id(table)]

    def columns(self, table: Table) -> list[int]:
        """Return the indices of the visible columns: all except the one replaced by the folded runs."""
        return [i for i, name in enumerate(self.seen(table).header) if name != table.folded]

    def seen(self, table: Table) -> Table:
        """Return the form of a table for a screen."""
        return table.narrow or table

    def left_out(self, table: Table) -> int:
        """Return the number of lines of a table that the page omits."""
        return len(table.lines) - self.room.get(id(table), len(table.lines))

    def lines(self, table: Table) -> Iterator[Line]:
        """Yield the lines of a table, up to the size limit of the page."""
        columns, seen = self.columns(table), self.seen(table)
        judged = {i for i in columns if seen.header[i] in _JUDGED}
        for index, texts in enumerate(seen.lines[: self.room.get(id(table), len(table.lines))]):
            shown = [_judged(texts[i]) if i in judged else _cell(texts[i]) for i in columns]
            configurations = table.configurations[index] if table.configurations else []
            if table.main:
                yield Line(shown, self.names[id(configurations[0])], source(configurations[0]), [])
            else:
                yield Line(shown, "", None, self.links(configurations))

    def numeric(self, table: Table) -> list[bool]:
        """Return for each visible column whether it contains numbers."""
        sample = self.seen(table).lines[:50]
        return [all(_NUMBER.match(line[i]) for line in sample) for i in self.columns(table)]

    def wide(self, table: Table) -> list[bool]:
        """Return for each visible column whether it contains long texts, which are wrapped."""
        seen = self.seen(table)
        longest = {i: max((len(line[i]) for line in seen.lines), default=0) for i in self.columns(table)}
        return [length > _SENTENCE or (table.main and seen.header[i] == "reading") for i, length in longest.items()]

    def links(self, configurations: Sequence[Configuration]) -> list[tuple[str, str]]:
        """Return name and label of those configurations that are on the page."""
        named = [(self.names.get(id(c)) or report.name(c), str(c["model"])) for c in configurations]
        return [(name, label) for name, label in named if name in self.known]

    def cards(self, claims: Claims) -> tuple[list[Card], list[Card]]:
        """Return the claims as cards: those to show, and those with undecided verdicts only, to fold."""
        shown: list[Card] = []
        folded: list[Card] = []
        for finding in claims.findings:
            (folded if formatting.is_undecided(finding) else shown).append(self._card(finding))
        return shown, folded

    def _card(self, finding: ClaimResult) -> Card:
        own = finding.judgements
        counts = Counter(str(j.verdict) for j in own)
        badges = [
            (str(counts[verdict]) if len(own) > 1 else "", _judged(verdict)) for verdict in _TONES if verdict in counts
        ]
        undecided = {i for i, j in enumerate(own) if j.verdict == "undecided"}
        decided = set(range(len(own))) - undecided
        shown, folded = (decided, undecided) if decided else (undecided, set[int]())
        rows = formatting.table(finding) if own else []
        parts = (self._verdicts(finding, rows, sorted(part)) if part else None for part in (shown, folded))
        return Card(finding, badges, formatting.brief(finding), *parts)

    def _verdicts(self, finding: ClaimResult, rows: Sequence[list[str]], indices: Sequence[int]) -> Verdicts:
        header, *lines = rows
        own = [finding.judgements[i] for i in indices]
        few = len(finding.judgements) <= formatting.MOST_SENTENCES
        sentences = [
            (_judged(j.verdict), formatting.sentence(j, finding.columns), self.links((j.left, j.right))) for j in own
        ]
        table = Table(
            f"{finding.claim.title}: verdicts", header, [lines[i] for i in indices], [(j.left, j.right) for j in own]
        )
        return Verdicts(len(own), sentences if few else [], table)

    def figure(self, picture: FigureBlock, prefix: str) -> Markup | None:
        """Return the figure as an SVG element, or None if it is too large for the page."""
        svg = inline(picture.path.read_text(encoding="utf-8"), prefix, picture.title)
        return Markup(svg) if len(svg) <= _LARGEST_FIGURE else None


def source(configuration: Configuration) -> Source:
    """Return the source of the numbers of a configuration."""
    errors = [str(error) if isinstance(error, str) else "" for error in configuration.each("error")]
    runs = "\n".join(
        f"{who:>6}  {key[:_KEY]}  {what}{'  ' * bool(error)}{error.partition(chr(10))[0][:200]}"
        for (who, what, key), error in zip(tables.each_run(configuration), errors, strict=True)
    )
    seen = [dict.fromkeys(str(v) for v in configuration.each(c) if tables.known(v)) for c in _VERSIONS.values()]
    versions = [f"{name} {', '.join(values)}" for name, values in zip(_VERSIONS, seen, strict=True) if values]
    return Source(runs, configuration.commands, "; ".join(versions))


_VERSIONS = {"commit": "git_commit", "torch": "torch", "on": "device_name", "backend": "backend"}


def _cell(text: str) -> Markup:
    """Return a text of a table as HTML."""
    shown = escape(text)
    return Markup("<strong>{}</strong>").format(shown) if isinstance(text, Strong) else shown


def _judged(text: str) -> Markup:
    """Return a verdict or reading as HTML, with a symbol and a colour that match the word."""
    for word, tone in sorted(_TONES.items(), key=lambda known: -len(known[0])):
        if text.startswith(word):
            return Markup('<span class="v {}">{}</span>{}').format(tone, word, text[len(word) :])
    return escape(text)


def _prose(text: str) -> Markup:
    """Return a Markdown text of the report as HTML, with raw HTML, links and images disabled."""
    return Markup(_markdown().render(text))


def _asset(name: str) -> str:
    return _without_empty_lines(files("expbench.report.html").joinpath(name).read_text("utf-8"))


def _without_empty_lines(text: str) -> str:
    return re.sub(r"\n\s*\n+", "\n", text)


@cache
def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    return made.disable(["image", "link", "autolink"])


@cache
def _environment() -> Environment:
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    return Environment(loader=PackageLoader("expbench.report.html", ""), autoescape=True, **options)
