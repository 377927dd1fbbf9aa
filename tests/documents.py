"""The blocks of code in the documents that users read: README, changelog, and all below ``docs``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
README = CHECKOUT / "README.md"
DOCUMENTS = (README, CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").rglob("*.md")))

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code, and where it stands."""

    document: Path
    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        """Its first line, by which the tests know it."""
        return self.text.partition("\n")[0]

    @property
    def place(self) -> str:
        """For people."""
        return f"{self.document.relative_to(CHECKOUT)}:{self.line}"


def blocks() -> Iterator[Block]:
    """All blocks of all documents, in their order."""
    for document in DOCUMENTS:
        text = document.read_text()
        for block in _BLOCK.finditer(text):
            yield Block(
                document, text.count("\n", 0, block.start()) + 1, block["language"], block["text"]
            )


def block(first: str) -> Block:
    """The block that begins with a line."""
    [only] = [each for each in blocks() if each.first == first]
    return only
