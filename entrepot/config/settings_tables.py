"""Read tables of ``settings.toml``, and the files and addresses that they name.

What all parts of the settings share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from entrepot.core.reference import quoted
from entrepot.errors import EngineError
from entrepot.toml import TomlDocument, TomlInvalid, convert, unknown_keys

Table = TypeVar("Table", bound=Struct)


class SettingsInvalid(EngineError):
    """``settings.toml``, or an option for one of its keys, can't be used.

    ``field`` is the key.
    """

    code = "SettingsInvalid"
    status = 400


def parse_listen(text: str) -> tuple[str, int]:
    """Host (without the brackets of IPv6) and port of an address to listen on.

    Raises `SettingsInvalid`.
    """
    hint = (
        "Write HOST:PORT, such as 127.0.0.1:5000, 0.0.0.0:5000 for every network of this machine, "
        "or [::1]:5000; port 0 lets the system choose."
    )
    address = re.fullmatch(
        r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[A-Za-z0-9._-]+))"
        r":(?P<port>[0-9]{1,5})",
        text.strip(),
    )
    if address is None:
        raise SettingsInvalid(f"{text!r} is not an address to listen on.", hint, field="listen")
    port = int(address["port"])
    if port > 65535:
        raise SettingsInvalid(
            f"{text!r} is not an address to listen on: there is no port {port}.",
            "Ports go from 1 to 65535; 0 lets the system choose.",
            field="listen",
        )
    return address["six"] or address["host"], port


def beside(path: Path, text: str, field: str) -> Path:
    """A file that the settings in *path* name, relative to their directory."""
    return path.parent / expanded(text, field)


def expanded(text: str, field: str) -> Path:
    """A path with ``~`` resolved; raises `SettingsInvalid`."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise SettingsInvalid(
            f"{quoted(text)} begins with an unknown home directory.",
            "Write the whole path.",
            field=field,
        ) from None


def convert_table(
    document: TomlDocument,
    values: Mapping[str, Any],
    table: type[Table],
    path: Path,
    *,
    head: int | None,
    place: str,
    hint: str = "",
) -> Table:
    """The table that begins at the line *head*, as a struct; raises `SettingsInvalid`.

    *place* names it in messages, *hint* is for values that do not fit.
    """
    for key, what in unknown_keys(values, table.__struct_fields__):
        raise invalid_at(
            path, document.line_of_key(key, below=head) or head, f"In {place}: {what}", key
        )
    try:
        return convert(values, table)
    except TomlInvalid as error:
        raise invalid_at(
            path,
            document.line_of_key(error.key or "", below=head) or head,
            f"In {place}: {error.what}",
            error.key,
            hint,
        ) from None


def invalid_at(
    path: Path, line: int | None, what: str, key: str | None, hint: str = ""
) -> SettingsInvalid:
    """The refusal of what is in a line of the settings in *path*."""
    place = f"{path}, line {line}" if line else str(path)
    return SettingsInvalid(f"{place}: {what}", hint or "Fix it and start again.", field=key)
