"""The pages for readers, with the commands, programs and files that they show."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [README, *DOCS]


class Block(NamedTuple):
    """The text between two fences. kind: the language that the first fence names."""

    kind: str
    text: str

    @property
    def file(self) -> str | None:
        """Name of the file that it shows, if its first line is one."""
        named = re.match(r"# (\S+\.py)\n", self.text)
        return named[1] if self.kind == "python" and named else None

    @property
    def commands(self) -> list[str]:
        """Lines of a shell block, without comments."""
        return [line.partition(" #")[0].strip() for line in self.text.splitlines()] if self.kind == "sh" else []


def name(page: Path) -> str:
    """Return the path of a page inside the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)]


def commands(page: Path) -> list[str]:
    """Return the commands of a page, in order."""
    return [command for block in blocks(page) for command in block.commands]


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows, under the names that it gives them."""
    for block in blocks(page):
        if block.file:
            path = folder / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text)


def links(page: Path) -> list[str]:
    """Return the relative targets of a page's links and images, with their anchors."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:", target)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing_links(page: Path) -> list[str]:
    """Return the relative link targets without a file, or without the heading that their anchor names."""
    missing = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            missing.append(target)
    return missing
