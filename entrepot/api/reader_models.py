"""Models of readers and personal tokens; see `entrepot.api.models`."""

from __future__ import annotations

from entrepot.api.models import Snapshot


class TokenSnapshot(Snapshot, frozen=True, kw_only=True):
    """A personal token, without the token itself."""

    name: str
    """Also the name of the reader who signs in with it."""
    created: float
    expires: float | None
    """None: never."""
    expired: bool = False
    groups: tuple[str, ...] = ()
    last_used: float | None = None
    """To some minutes after a crash; None: never, or not known."""


class CreatedToken(Snapshot, frozen=True, kw_only=True):
    """A new personal token, which is shown once."""

    token: TokenSnapshot
    secret: str
    """``entrepot_…``: the password with which a reader signs in."""


class ReaderSnapshot(Snapshot, frozen=True, kw_only=True):
    """A reader who is known: from the password file, a group or a personal token."""

    name: str
    password: bool = False
    """Whether the password file has the reader."""
    token: bool = False
    """Whether there is a personal token of that name."""
    groups: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    """Names of the cache rules that the reader may read."""


class ReaderList(Snapshot, frozen=True, kw_only=True):
    """All readers who are known, and who else may read."""

    anonymous_may_read: bool
    """Whether readers who do not sign in may read rules that say nothing about readers."""
    can_sign_in: bool
    """Whether there is a password file, or a personal token."""
    anonymous_rules: tuple[str, ...] = ()
    """Names of the cache rules that readers who do not sign in may read."""
    readers: tuple[ReaderSnapshot, ...] = ()
