"""The main tables of a report in LaTeX: one booktabs table per task configuration, with every text escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from expbench.algebra.reach import NO_BOUND, NOT_STATED
from expbench.report.document import Document, Section, Table

_HEAD = """\
% Written by: {command}
% Include it with \\input; the preamble needs \\usepackage{{booktabs}}.
% If a table is longer than a page, select rows with --task and --models."""
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
    """Return the main tables of a report, each as a floating table."""
    parts = [_HEAD.format(command=" ".join(document.command.split()))]
    for index, (section, table) in enumerate(_main(document), start=1):
        parts.append(_table(section, table, index))
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Escape a text for LaTeX; characters that pdflatex lacks become question marks."""
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
    """Shorten a text of the table: only the count of a share solved, and a dash for no bound."""
    return "--" if text in (NO_BOUND.value, NOT_STATED) else text.partition(" (")[0] if column == "solved" else text


def _alignment(numbers: Sequence[bool]) -> str:
    return "".join("r" if is_number else "l" for is_number in numbers)


def _number(text: str) -> str:
    """Format a text of a table, with powers of ten and minus signs in math mode."""
    parts = [_POWER.match(word) for word in text.split(" ")]
    words = [
        rf"${found[1]} \times 10^{{{int(found[2])}}}$" if found else rf"${word}$" if _NUMBER.match(word) else escaped(word)
        for word, found in zip(text.split(" "), parts, strict=True)
    ]
    return " ".join(words)
