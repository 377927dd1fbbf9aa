"""``[readers]`` of ``settings.toml``: the password file, and the groups of readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta, Struct

from entrepot.config.settings_tables import SettingsInvalid, beside, convert_table, invalid_at
from entrepot.core.readers import GROUP_SIGN, ReaderInvalid, parse_reader_name
from entrepot.toml import TomlDocument

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


class _ReadersTable(Struct, kw_only=True):
    htpasswd: Annotated[str, Meta(min_length=1)] | None = None
    groups: dict[str, Annotated[tuple[str, ...], Meta(max_length=10_000)]] = {}


def read_reader_settings(
    document: TomlDocument, values: object, path: Path
) -> ReaderSettings | None:
    """The settings below ``[readers]`` in *path*; None where *values*, the table's, are None.

    Raises `SettingsInvalid`.
    """
    if values is None:
        return None
    head = document.line_of_table("readers")
    groups_head = document.line_of_table("readers", "groups")
    if not isinstance(values, dict):
        line = document.line_of_key("readers")
        raise invalid_at(path, line, "The value of readers is not a table.", "readers", _EXAMPLE)
    table = convert_table(
        document,
        values,
        _ReadersTable,
        path,
        head=head or groups_head,
        place="readers",
        hint=_EXAMPLE,
    )
    groups: dict[str, tuple[str, ...]] = {}
    for group, members in table.groups.items():
        try:
            name = parse_reader_name(group.removeprefix(GROUP_SIGN), what="group")
            groups[name] = tuple(dict.fromkeys(parse_reader_name(member) for member in members))
        except ReaderInvalid as refusal:
            line = document.line_of_key(group, below=groups_head) or groups_head or head
            raise invalid_at(
                path, line, f"In readers.groups: {refusal.what}", group, refusal.hint
            ) from None
    if table.htpasswd is None:
        return ReaderSettings(None, groups)
    try:
        return ReaderSettings(beside(path, table.htpasswd, "htpasswd"), groups)
    except SettingsInvalid as error:
        line = document.line_of_key("htpasswd", below=head) or head
        raise invalid_at(path, line, f"In readers: {error.what}", "htpasswd", error.hint) from None
