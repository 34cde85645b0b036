"""Build step: the README for a package index, where its links to files of the repository would lead nowhere."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def description(readme: str, repository: str | None, version: str) -> str:
    """Return the README with each relative link as one into the repository at the tag of this version.

    Without a repository, a link becomes its text with the name of the file, and a picture is left out.
    """

    def absolute(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        if ":" in target or target.startswith("#"):
            return found[0]
        if repository:
            return f"{picture}[{text}]({repository.rstrip('/')}/{'raw' if picture else 'blob'}/v{version}/{target})"
        return "" if picture else text if target in text else f"{text} (`{target}`)"

    prose_and_code = re.split(r"^(```.*?^```$)", readme, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _LINK.sub(absolute, part) for part in prose_and_code)


if __name__ == "__main__":
    here = Path(__file__).parent
    urls = tomllib.loads((here / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    (version,) = re.findall(r'__version__ = "(.+)"', (here / "expbench" / "__init__.py").read_text(encoding="utf-8"))
    text = description((here / "README.md").read_text(encoding="utf-8"), urls.get("Repository"), version)
    setup(long_description=text, long_description_content_type="text/markdown")
