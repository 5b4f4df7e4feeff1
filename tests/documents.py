"""The project's documents, and the blocks of code in them that tests run or check."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

# Their `sh` blocks are run one after the other on one service, as by a reader who follows them in this order.
GUIDE = ("README.md", "docs/http.md", "docs/operations.md")
EVENTS = "docs/events.md"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `kind` is the text after the opening fence, `line` the number of that line."""

    document: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def documents() -> list[str]:
    """The paths of all documents."""
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "findings").glob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def read(document: str) -> str:
    return Path(ROOT / document).read_text()


def blocks(document: str) -> list[Block]:
    """The fenced blocks of a document, in order."""
    text = read(document)
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(document, text.count("\n", 0, it.start()) + 1, it[1], it[2]) for it in found]


def prose(document: str) -> list[tuple[int, str]]:
    """The lines of a document outside of its fenced blocks, with their numbers."""
    lines: list[tuple[int, str]] = []
    fenced = False
    for number, line in enumerate(read(document).splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            lines.append((number, line))
    return lines


def table(document: str, header: str) -> list[list[str]]:
    """The rows of the table that has this header line, as cells."""
    text = read(document)
    lines = text[text.index(header) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
