"""The main tables of a report for a paper: one LaTeX table a setting of a task, for booktabs, every text escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from expbench.algebra.reach import NO_BOUND
from expbench.report.document import Document, Section, Table

_HEAD = """\
% Written by: {command}
% \\input this file where the tables are to stand; the preamble needs \\usepackage{{booktabs}}.
% A table that is longer than a page is narrowed by --task and --models."""
_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_POWER = re.compile(r"^(-?[\d.]+)e([-+]\d+)$")
_NUMBER = re.compile(r"-?[\d.]+(e[-+]\d+)?$")


def render(document: Document) -> str:
    """The tables of results, a floating table each."""
    parts = [_HEAD.format(command=" ".join(document.command.split()))]
    for index, (section, table) in enumerate(_main(document), start=1):
        parts.append(_table(section, table, index))
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """A text that LaTeX sets as it is read here; what pdflatex has no letter for becomes a question mark."""
    known = "".join(character if character.isascii() and character.isprintable() else "?" for character in text)
    return "".join(_ESCAPED.get(character, character) for character in known)


def _main(document: Document) -> Iterator[tuple[Section, Table]]:
    for section in document.sections:
        yield from ((section, block) for block in section.blocks if isinstance(block, Table) and block.main)


def _table(section: Section, table: Table, index: int) -> str:
    columns = [table.header.index(name) for name in table.brief]
    lines = [[_short(table.header[i], line[i]) for i in columns] for line in table.lines]
    numbers = [all(_NUMBER.match(text) for text in column) for column in zip(*lines, strict=True)]
    said = ". ".join(part for part in (section.title, section.context) if part)
    rows = [" & ".join(escaped(table.header[i]) for i in columns) + r" \\", r"\midrule"]
    rows += [" & ".join(map(_number, line)) + r" \\" for line in lines]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{escaped(said)}. Means over seeds with 95\,\% intervals; solved: runs that reach the threshold.}}",
            rf"\label{{tab:expbench-{index}}}",
            rf"\begin{{tabular}}{{{_alignment(numbers)}}}",
            r"\toprule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _short(column: str, text: str) -> str:
    """Of the share solved the count, from which Wilson's interval follows; a dash where there is no bound."""
    return "--" if text == NO_BOUND else text.partition(" (")[0] if column == "solved" else text


def _alignment(numbers: Sequence[bool]) -> str:
    return "".join("r" if is_number else "l" for is_number in numbers)


def _number(text: str) -> str:
    """A text of a table: a power of ten as such, a minus as such."""
    parts = [_POWER.match(word) for word in text.split(" ")]
    words = [
        rf"${found[1]} \times 10^{{{int(found[2])}}}$" if found else rf"${word}$" if _NUMBER.match(word) else escaped(word)
        for word, found in zip(text.split(" "), parts, strict=True)
    ]
    return " ".join(words)
