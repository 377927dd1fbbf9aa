"""The blocks of code in the pages: those in the root of the repository, and in ``docs``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

CHECKOUT = Path(__file__).parents[1]
README = CHECKOUT / "README.md"
DOCUMENTS = (README, *sorted({*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")} - {README}))

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code. *text* has no indentation of a list around it."""

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
        """The document and the line, for messages."""
        return f"{self.document.relative_to(CHECKOUT)}:{self.line}"


def blocks() -> Iterator[Block]:
    """All blocks of all documents, in their order."""
    for document in DOCUMENTS:
        text = document.read_text()
        for block in _BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            yield Block(document, line, block["language"], dedent(block["text"]))


def block(first: str) -> Block:
    """The block that begins with a line; a second one has to be the same."""
    block, *copies = [block for block in blocks() if block.first == first]
    assert all(copy.text == block.text for copy in copies), first
    return block
