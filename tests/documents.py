"""The pages for readers: the commands and the files in them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Block(NamedTuple):
    """What stands between fences. kind: the language that it names."""

    kind: str
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file that it shows, if its first line is one."""
        named = re.match(r"# (\S+\.py)\n", self.text)
        return named[1] if self.kind == "python" and named else None

    @property
    def commands(self) -> list[str]:
        """Of a shell's lines each, without comments."""
        return [line.partition(" #")[0].strip() for line in self.text.splitlines()] if self.kind == "sh" else []


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    return [Block(*found) for found in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL)]


def write_files(page: Path, folder: Path) -> None:
    """The files that a page shows, under the names that it gives them."""
    for block in blocks(page):
        if block.file:
            path = folder / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text)


def missing_links(page: Path) -> list[str]:
    """The targets of links to files that are not there."""
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    return [target for target in targets if not target.startswith("http") and not (page.parent / target).exists()]
