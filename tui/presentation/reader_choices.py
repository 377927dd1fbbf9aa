"""The choices of who may read what a rule caches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from entrepot.api.models import RuleSnapshot
from entrepot.api.reader_models import ReaderList
from entrepot.core.readers import GROUP_SIGN, ReaderAccess
from tui.presentation.status import join_names

DEFAULT, SIGNED_IN, NAMED, EVERYONE = "default", "signed-in", "named", "everyone"

MAX_UNKNOWN: Final = 3
"""Unknown names that a warning names at most."""


@dataclass(frozen=True, slots=True)
class ReaderChoice:
    """A choice of who may read; *access* is None where names have to be typed."""

    id: str
    title: str
    short: str
    why: str
    access: ReaderAccess | None


def reader_choices(*, anonymous_may_read: bool) -> tuple[ReaderChoice, ...]:
    """The choices; *anonymous_may_read* is what the settings say."""
    default = "everyone" if anonymous_may_read else "all who sign in"
    return (
        ReaderChoice(
            DEFAULT,
            "the default",
            default,
            f"Now {default} may read. It follows allow_anonymous in settings.toml.",
            ReaderAccess(),
        ),
        ReaderChoice(
            SIGNED_IN,
            "all who sign in",
            "with a password or a token",
            "Every reader who signs in may read, whatever settings.toml says.",
            ReaderAccess(anonymous=False),
        ),
        ReaderChoice(
            NAMED,
            "these readers and groups",
            "you type their names",
            f"Write names with commas between them, groups with {GROUP_SIGN} in front: "
            f"ci, {GROUP_SIGN}ops.",
            None,
        ),
        ReaderChoice(
            EVERYONE,
            "everyone",
            "without sign-in too",
            "Everyone who reaches the registry may read, without signing in.",
            ReaderAccess(anonymous=True),
        ),
    )


def chosen(rule: RuleSnapshot) -> str:
    """The choice that a rule has now."""
    if rule.anonymous is True:
        return EVERYONE
    if rule.readers:
        return NAMED
    return DEFAULT if rule.anonymous is None else SIGNED_IN


def parse_names(text: str) -> tuple[str, ...]:
    """Names that are separated by commas or blanks."""
    return tuple(text.replace(",", " ").split())


def unknown_names(names: Iterable[str], readers: ReaderList) -> str:
    """A warning about names that no reader or group has yet; empty for none."""
    known = {
        *(reader.name for reader in readers.readers),
        *(f"{GROUP_SIGN}{group}" for reader in readers.readers for group in reader.groups),
    }
    unknown = [name for name in names if name not in known]
    if not unknown:
        return ""
    return (
        f"No reader or group is known yet as {join_names(unknown, limit=MAX_UNKNOWN)}. "
        "The rule takes the name anyway; capital letters count."
    )
