"""``[readers]`` of ``settings.toml``: the password file, and the groups of readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from entrepot.core.readers import ReaderInvalid, parse_reader_name
from entrepot.core.reference import quoted
from entrepot.toml import TomlDocument, TomlInvalid, convert, unknown_keys

_EXAMPLE: Final = (
    'Write [readers], with htpasswd = "readers.htpasswd" below it, and groups below '
    '[readers.groups]: ops = ["alice", "bob"].'
)


@dataclass(frozen=True, slots=True)
class ReaderSettings:
    """Who can sign in at the registry, besides those who have a personal token."""

    htpasswd: Path | None = None
    """A file with the names of readers and their passwords, hashed with bcrypt."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The members of each group, by its name without ``@``."""

    def groups_of(self, name: str) -> frozenset[str]:
        """The groups of a reader."""
        return frozenset(group for group, members in self.groups.items() if name in members)


class ReaderSettingsInvalid(ValueError):
    """What is wrong with the table: ``what``, ``hint``, and where: ``line`` and ``key``."""

    def __init__(self, what: str, hint: str, *, line: int | None, key: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.line = line
        self.key = key


class _ReadersTable(Struct, kw_only=True):
    htpasswd: Annotated[str, Meta(min_length=1)] | None = None
    groups: dict[str, Annotated[tuple[str, ...], Meta(max_length=10_000)]] = {}


def read_reader_settings(
    document: TomlDocument, values: object, directory: Path
) -> ReaderSettings | None:
    """The settings below ``[readers]``; None where *values*, those of the table, are None.

    Paths are relative to *directory*. Raises `ReaderSettingsInvalid`.
    """
    if values is None:
        return None
    head = document.line_of_table("readers")
    groups_head = document.line_of_table("readers", "groups")
    if not isinstance(values, dict):
        raise ReaderSettingsInvalid(
            "The value of readers is not a table.",
            _EXAMPLE,
            line=document.line_of_key("readers"),
            key="readers",
        )

    def invalid(what: str, key: str, hint: str = _EXAMPLE) -> ReaderSettingsInvalid:
        line = (
            document.line_of_key(key, below=head)
            or document.line_of_key(key, below=groups_head)
            or head
            or groups_head
        )
        return ReaderSettingsInvalid(f"In readers: {what}", hint, line=line, key=key)

    for key, what in unknown_keys(values, _ReadersTable.__struct_fields__):
        raise invalid(what, key)
    try:
        table = convert(values, _ReadersTable)
    except TomlInvalid as error:
        raise invalid(error.what, error.key or "readers") from None
    groups: dict[str, tuple[str, ...]] = {}
    for group, members in table.groups.items():
        try:
            name = parse_reader_name(group.removeprefix("@"), what="group")
            groups[name] = tuple(dict.fromkeys(parse_reader_name(member) for member in members))
        except ReaderInvalid as refusal:
            raise invalid(refusal.what, group, refusal.hint) from None
    htpasswd = _path(directory, table.htpasswd, invalid) if table.htpasswd is not None else None
    return ReaderSettings(htpasswd, groups)


def _path(directory: Path, text: str, invalid: Any) -> Path:
    try:
        return directory / Path(text).expanduser()
    except RuntimeError:
        raise invalid(
            f"{quoted(text)} begins with an unknown home directory.",
            "htpasswd",
            "Write the whole path.",
        ) from None
