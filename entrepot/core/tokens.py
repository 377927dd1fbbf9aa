"""Personal tokens: with one a reader signs in at the registry. Pure: no I/O.

A token is a random number of 256 bits, and only its hash is stored. It begins with ``entrepot_``,
so that programs that look for secrets in source code find it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final

from entrepot.core.book import to_the_second
from entrepot.core.readers import parse_reader_name
from entrepot.core.reference import quoted
from entrepot.errors import NotFound, Refusal

PREFIX: Final = "entrepot_"

TOKEN: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")
"""A token as it is sent."""

LONGEST: Final = 3650
"""The longest time for which a token may be valid, in days."""

GROUPS_LIMIT: Final = 20
"""The most groups of one token."""

_UNITS = {"min": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
_LIFETIME = re.compile(r"(?P<number>[0-9]{1,6})\s*(?P<unit>min|h|d|w|y)", re.ASCII)


class TokenNameTaken(Refusal):
    """There is a personal token of that name."""

    code = "TokenAlreadyExists"
    status = 409


class TokenNotFound(NotFound):
    """No personal token has that name."""

    code = "TokenNotFound"


class PersonalTokenInvalid(Refusal):
    """The lifetime of a personal token, or its hash in a document, can't be used."""

    code = "PersonalTokenInvalid"


class TokenLimitReached(Refusal):
    """There are as many personal tokens as there may be, or a token has too many groups."""

    code = "TokenLimitReached"
    status = 409


@dataclass(frozen=True, slots=True)
class PersonalToken:
    """A personal token, without the token itself. Times are in UTC, to the second."""

    name: str
    """Also the name of the reader who signs in with it."""
    sha256: str
    """The hash of the token, in hex digits."""
    created: datetime
    expires: datetime | None = None
    groups: tuple[str, ...] = ()

    def is_valid(self, now: float) -> bool:
        """Whether it has not expired *now*, in seconds since the epoch."""
        return self.expires is None or now < self.expires.timestamp()


class TokenBook:
    """All personal tokens, by name. An immutable value."""

    LIMIT: ClassVar[int] = 10_000

    __slots__ = ("_by_hash", "_by_name")

    def __init__(self, tokens: Iterable[PersonalToken] = ()) -> None:
        self._by_name = {token.name.casefold(): token for token in tokens}
        self._by_hash = {token.sha256: token for token in self._by_name.values()}

    def __iter__(self) -> Iterator[PersonalToken]:
        return iter(sorted(self._by_name.values(), key=lambda token: token.name.casefold()))

    def __len__(self) -> int:
        return len(self._by_name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenBook) and self._by_name == other._by_name

    __hash__ = None  # type: ignore[assignment]

    def find(self, name: str) -> PersonalToken | None:
        """The token of that name, without regard to case."""
        return self._by_name.get(name.casefold())

    def get(self, name: str) -> PersonalToken:
        """The same; raises `TokenNotFound`."""
        token = self.find(name)
        if token is None:
            raise TokenNotFound(
                f"There is no personal token {name}.", "See the list: entrepot token list"
            )
        return token

    def of_secret(self, secret: str) -> PersonalToken | None:
        """The token that a reader sends, valid or not. A hash of it is looked up, in any order."""
        if TOKEN.fullmatch(secret) is None:
            return None
        return self._by_hash.get(hash_of(secret))

    def of_hash(self, sha256: str) -> PersonalToken | None:
        """The token with a hash."""
        return self._by_hash.get(sha256)

    def with_token(self, token: PersonalToken) -> TokenBook:
        """The book with one more; raises a `Refusal` if its name is taken or the book is full."""
        if self.find(token.name) is not None:
            raise TokenNameTaken(
                f"There is a personal token {token.name} already.",
                "Choose another name, or revoke it first: entrepot token revoke",
                field="name",
            )
        if len(self) >= self.LIMIT:
            raise TokenLimitReached(
                f"There are {self.LIMIT:,} personal tokens, the most there may be.",
                "Revoke one that is no longer needed.",
            )
        return TokenBook([*self._by_name.values(), token])

    def without(self, name: str) -> TokenBook:
        """The book without a token; raises `TokenNotFound`."""
        revoked = self.get(name)
        return TokenBook(token for token in self._by_name.values() if token is not revoked)


def new_secret() -> str:
    """A new token."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """What is stored of a token. It is too long to be guessed, so one hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_token(
    name: str, secret: str, *, lifetime: str | None, groups: Sequence[str], now: datetime
) -> PersonalToken:
    """The token that a person asks for.

    *lifetime* is ``90d``, ``12h``, ``never`` or None for never. Raises a `Refusal`.
    """
    created = to_the_second(now)
    seconds = parse_lifetime(lifetime)
    return PersonalToken(
        parse_reader_name(name, what="token"),
        hash_of(secret),
        created,
        created + timedelta(seconds=seconds) if seconds is not None else None,
        parse_groups(groups),
    )


def parse_groups(groups: Iterable[str]) -> tuple[str, ...]:
    """Names of groups, with or without ``@``; raises a `Refusal`."""
    names = dict.fromkeys(
        parse_reader_name(group.strip().removeprefix("@"), what="group", field="groups")
        for group in groups
    )
    if len(names) > GROUPS_LIMIT:
        raise TokenLimitReached(
            f"A token can't be of {len(names)} groups: {GROUPS_LIMIT} are the most.",
            "Name the groups that it needs.",
            field="groups",
        )
    return tuple(names)


def parse_lifetime(text: str | None) -> int | None:
    """The seconds of ``90d``, ``12 h`` or ``30 min``; None for ``never`` and None.

    Raises `PersonalTokenInvalid`.
    """
    if text is None or text.strip().lower() == "never":
        return None
    lifetime = _LIFETIME.fullmatch(text.strip().lower())
    seconds = int(lifetime["number"]) * _UNITS[lifetime["unit"]] if lifetime is not None else 0
    if not 0 < seconds <= LONGEST * 86_400:
        raise PersonalTokenInvalid(
            f"{quoted(text)} is not a time for which a token can be valid.",
            f'Write "90d", "12h", "30min" or "never"; {LONGEST:,} days are the most.',
            field="expires",
        )
    return seconds


def read_token(
    name: str,
    sha256: str,
    created: datetime | None,
    expires: datetime | None,
    groups: Sequence[str],
) -> PersonalToken:
    """A token as a document has it; raises a `Refusal`."""
    if re.fullmatch(r"[0-9a-f]{64}", sha256) is None:
        raise PersonalTokenInvalid(
            "Its sha256 is not 64 hex digits.", "Create a token anew: entrepot token create"
        )
    return PersonalToken(
        parse_reader_name(name, what="token"),
        sha256,
        to_the_second(created) if created is not None else datetime.fromtimestamp(0, UTC),
        to_the_second(expires) if expires is not None else None,
        parse_groups(groups),
    )
