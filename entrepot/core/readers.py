"""Readers: who pulls, and what a cache rule says about who may. Pure: no I/O.

A reader is known by a name, from a password file or a personal token, and belongs to groups. A rule
names the readers who may pull through it: ``readers = ["ci", "@ops"]``. What a reader may not read
does not exist for that reader: `entrepot.cache.access` enforces it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from entrepot.core.reference import quoted
from entrepot.errors import Refusal

NAME_LENGTH: Final = 64
"""The most characters of the name of a reader or group."""

READERS_LIMIT: Final = 100
"""The most readers and groups that one rule names."""

GROUP_SIGN: Final = "@"
"""What stands before the name of a group where readers are named too."""

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._@+-]{{0,{NAME_LENGTH - 1}}}")


class ReaderInvalid(Refusal):
    """The name of a reader or of a group can't be used."""

    code = "ReaderInvalid"


@dataclass(frozen=True, slots=True)
class Reader:
    """Who asks for something."""

    name: str
    """Empty for a reader who did not sign in."""
    groups: frozenset[str] = frozenset()
    """Names without their ``@``."""
    is_administrator: bool = False
    """Whether the engine itself asks, for its administrator: then everything may be read."""

    @property
    def is_anonymous(self) -> bool:
        """Whether the reader did not sign in."""
        return not self.name


ANONYMOUS: Final = Reader("")
"""The reader who did not sign in."""

ADMINISTRATOR: Final = Reader("administrator", is_administrator=True)
"""The management API and the dashboard, which see everything."""


@dataclass(frozen=True, slots=True)
class ReaderAccess:
    """Who may read what a rule caches."""

    readers: tuple[str, ...] = ()
    """Names of readers, and of groups with ``@``. Empty: every reader who signs in."""
    anonymous: bool | None = None
    """Whether readers who do not sign in may read too, and so all others. None: where *readers* is
    empty, the setting ``allow_anonymous`` decides; else they may not."""

    @property
    def is_restricted(self) -> bool:
        """Whether some reader is kept out, whatever the settings say."""
        return self.anonymous is not True and (bool(self.readers) or self.anonymous is False)

    def admits_anonymous(self, *, allow_anonymous: bool) -> bool:
        """Whether a reader who did not sign in may read."""
        if self.anonymous is not None:
            return self.anonymous
        return allow_anonymous and not self.readers

    def admits(self, reader: Reader, *, allow_anonymous: bool) -> bool:
        """Whether *reader* may read; *allow_anonymous* is the setting."""
        if reader.is_administrator or self.admits_anonymous(allow_anonymous=allow_anonymous):
            return True
        if reader.is_anonymous:
            return False
        return (
            not self.readers
            or reader.name in self.readers
            or any(f"{GROUP_SIGN}{group}" in self.readers for group in reader.groups)
        )

    def described(self, *, allow_anonymous: bool) -> str:
        """Who may read, in words: ``everyone``, ``all who sign in`` or ``ci, @ops``."""
        if self.admits_anonymous(allow_anonymous=allow_anonymous):
            return "everyone"
        return ", ".join(self.readers) or "all who sign in"


OPEN: Final = ReaderAccess()
"""The access to a rule that says nothing about readers."""


def parse_reader_name(text: str, *, what: str = "reader", field: str = "name") -> str:
    """The name of a reader or group, without ``@``; raises `ReaderInvalid`."""
    name = text.strip()
    if _NAME.fullmatch(name) is None:
        raise ReaderInvalid(
            f"{quoted(text)} can't be the name of a {what}.",
            f"Write 1 to {NAME_LENGTH} letters, digits and . _ - + @, the first a letter or digit.",
            field=field,
        )
    return name


def parse_readers(names: Iterable[str], *, field: str = "readers") -> tuple[str, ...]:
    """The readers and groups that a rule names, without duplicates, in order.

    Raises `ReaderInvalid`.
    """
    readers: dict[str, None] = {}
    for text in names:
        stripped = text.strip()
        group = stripped.removeprefix(GROUP_SIGN)
        name = parse_reader_name(
            group, what="group" if stripped.startswith(GROUP_SIGN) else "reader", field=field
        )
        readers[f"{GROUP_SIGN}{name}" if stripped.startswith(GROUP_SIGN) else name] = None
    if len(readers) > READERS_LIMIT:
        raise ReaderInvalid(
            f"A rule can't name {len(readers):,} readers: {READERS_LIMIT} are the most.",
            "Put them into a group below [readers.groups] in settings.toml, and name that.",
            field=field,
        )
    return tuple(readers)
