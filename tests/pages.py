"""The pages of documentation, and what is taken out of them for the tests."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
ADDING = ROOT / "docs" / "adding_a_part.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return [body for name, body in FENCE.findall(page.read_text("utf-8")) if name == language]


def commands(page: Path) -> list[list[str]]:
    """Every command of the page's shell blocks as words, without comments."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def table(page: Path, head: str) -> dict[str, list[str]]:
    """The rows of a table whose header begins with `head`: first cell to the others."""
    lines = page.read_text("utf-8").split(head, 1)[1].splitlines()[2:]
    rows = [line.strip("|").split("|") for line in itertools.takewhile(str.strip, lines)]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
