"""What the books of cache rules and of credential sets have in common.

Pure: no I/O. A book is an immutable value with named items. A candidate is a draft that was read
against a book: its parts as far as they are valid, and the refusals of the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

from entrepot.core.reference import quoted
from entrepot.errors import NameInvalid, Refusal

_NAME = re.compile(r"[A-Za-z0-9-]{5,50}")
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9-]")

CHARACTERS_IN_MESSAGE = 3
"""Invalid characters of a name that are given as examples in a message."""


class Named(Protocol):
    """An item of a book."""

    @property
    def name(self) -> str:
        """Its name, unique in the book without regard to case."""
        ...


Item = TypeVar("Item", bound=Named)
Value = TypeVar("Value")


class Book(Generic[Item]):
    """Named items; a name is unique without regard to case."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        """An empty book."""
        self._items: dict[str, Item] = {}
        """By casefolded name."""

    def find(self, name: str) -> Item | None:
        """The item of that name, without regard to case, or None."""
        return self._items.get(name.casefold())

    def __iter__(self) -> Iterator[Item]:
        """By name."""
        return (self._items[key] for key in sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == other._items if isinstance(other, type(self)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


class Candidate:
    """A draft that was read against a book.

    ``refusals`` holds what is wrong with it, in the order of its fields. A field that is None is
    refused where the draft has to be *complete*, else it is not judged.
    """

    def __init__(self, *, complete: bool) -> None:
        self.refusals: list[Refusal] = []
        self._complete = complete

    def require_valid(self) -> None:
        """Raise the first refusal, if there is one."""
        if self.refusals:
            raise self.refusals[0]

    def _read(self, text: str | None, parse: Callable[[str], Value]) -> Value | None:
        if text is None and not self._complete:
            return None
        try:
            return parse(text or "")
        except Refusal as refusal:
            self.refusals.append(refusal)
            return None


def parse_name(text: str, kind: str) -> str:
    """Check the name of a cache rule or a credential set (*kind*).

    Raises `NameInvalid`.
    """
    if _NAME.fullmatch(text):
        return text
    if not text:
        raise NameInvalid(
            f"The name of the {kind} is missing.",
            "A name has 5 to 50 letters, digits and dashes.",
            field="name",
        )
    invalid_characters = list(dict.fromkeys(_NOT_IN_NAME.findall(text)))
    length = "1 character" if len(text) == 1 else f"{len(text)} characters"
    reason = " and ".join(map(quoted, invalid_characters[:CHARACTERS_IN_MESSAGE])) or length
    raise NameInvalid(
        f"{quoted(text)} can't be the name of a {kind}.",
        f"A name has 5 to 50 letters (A to Z), digits and dashes; this one has {reason}.",
        field="name",
    )


def to_the_second(time: datetime) -> datetime:
    """*time* in UTC, to the second; a time without a zone is UTC."""
    return (time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)).replace(
        microsecond=0
    )
