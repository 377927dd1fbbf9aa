"""Installs the configuration of container clients, and takes it away again.

A change is planned as a whole from what is there, shown as a diff, and then applied file by file.
What was there before the first change is kept beside it (`BACKUP`).
"""

from __future__ import annotations

import difflib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from entrepot.core.mirror_configuration.clients import KINDS, Client, ClientConfiguration
from entrepot.core.mirror_configuration.docker import RECORD
from entrepot.core.mirror_configuration.files import (
    ClientFile,
    JsonFile,
    has_block,
    masked,
    without_block,
    without_elements,
)
from entrepot.errors import EntrepotError
from entrepot.files import replace_file, sync_directory
from entrepot.formatting import printable

BACKUP: Final = ".before-entrepot"
"""What the name of a copy ends with: of a file as it was before the first change."""

MAX_SIZE: Final = 1 << 20
"""Bytes of a client's file that are read at most."""


class ClientFileUnusable(EntrepotError):
    """A client's file can't be read or written."""

    code = "ClientFileUnusable"


@dataclass(frozen=True, slots=True)
class Change:
    """A file before and after a change; None where there is none."""

    path: Path
    before: str | None
    after: str | None
    is_secret: bool = False
    is_ours: bool = False
    """Whether it serves only later changes: a copy, or a record of what was added."""


def plan_installation(
    configuration: ClientConfiguration, place: str, *, hint: str = ""
) -> list[Change]:
    """The changes that install a configuration, and take away what was installed before it.

    Raises `ClientFileUnusable`, with *hint* where permission is denied, and `ClientFileConflict`.
    """
    changes: list[Change] = []
    for file in configuration.files:
        existing = _read(Path(file.path), hint)
        if isinstance(file, JsonFile):
            changes += _json_changes(file, existing, hint)
        else:
            merged = file.merged(existing or "")
            had_ours = existing is not None and has_block(existing)
            changes += _with_backup(file, existing, merged, had_ours)
    new_paths = {file.path for file in configuration.files}
    for path in _written_files(configuration.client, place):
        if str(path) not in new_paths:
            changes += _removal(path, hint)
    return [change for change in changes if change.before != change.after]


def plan_removal(client: Client, place: str, *, hint: str = "") -> list[Change]:
    """The changes that take away everything that was installed for a client."""
    changes = [change for path in _written_files(client, place) for change in _removal(path, hint)]
    if not KINDS[client].is_directory:
        changes += _removal(Path(place), hint)
    return [change for change in changes if change.before != change.after]


def apply(changes: Sequence[Change], *, hint: str = "") -> None:
    """Make changes, copies first; raises `ClientFileUnusable`."""
    for change in sorted(changes, key=lambda change: not change.is_ours):
        try:
            if change.after is None:
                change.path.unlink(missing_ok=True)
                _remove_empty_directory(change.path)
            else:
                _write(change, change.after)
        except OSError as error:
            raise _unusable(change.path, "written", error, hint) from None


def difference(changes: Sequence[Change]) -> str:
    """Changes as a unified diff without passwords."""
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for change in changes
        if not change.is_ours
        for line in difflib.unified_diff(
            masked(change.before or "").splitlines(keepends=True),
            masked(change.after or "").splitlines(keepends=True),
            "/dev/null" if change.before is None else str(change.path),
            "/dev/null" if change.after is None else str(change.path),
        )
    )


def _json_changes(file: JsonFile, existing: str | None, hint: str) -> Iterator[Change]:
    record = Path(file.record)
    recorded = _read(record, hint)
    file.document(existing or "")
    bare = without_elements(existing or "", _elements(recorded))
    added = file.added_to(bare)
    # What is there keeps its form where nothing changes.
    merged = file.merged(existing or "" if _elements(recorded) == added else bare)
    yield from _with_backup(file, existing, merged, recorded is not None)
    record_text = f"{json.dumps(added, indent=2)}\n" if added else None
    yield Change(record, recorded, record_text, is_ours=True)


def _with_backup(
    file: ClientFile, existing: str | None, merged: str, had_ours: bool
) -> Iterator[Change]:
    path = Path(file.path)
    if existing is not None and not had_ours and merged != existing:
        yield Change(_beside(path, BACKUP), None, existing, file.is_secret, is_ours=True)
    yield Change(path, existing, merged, file.is_secret)


def _removal(path: Path, hint: str) -> Iterator[Change]:
    existing = _read(path, hint)
    record = _beside(path, RECORD)
    recorded = _read(record, hint)
    rest = existing
    if recorded is not None:
        try:
            rest = without_elements(existing or "", _elements(recorded))
        except ValueError as error:
            raise ClientFileUnusable(
                f"{path} is not valid JSON: {error}.", "Correct it first."
            ) from None
    elif existing is None or not has_block(existing):
        return
    else:
        rest = without_block(existing)
    backup = _beside(path, BACKUP)
    previous = _read(backup, hint)
    if previous is not None and _is_same(rest or "", previous):
        rest = previous
    if existing is not None:
        # A file that was there before stays, an empty one too.
        empty = None if previous is None else "{}\n" if recorded is not None else ""
        yield Change(path, existing, rest or (previous if rest == previous else empty))
    yield Change(backup, previous, None, is_ours=True)
    yield Change(record, recorded, None, is_ours=True)


def _is_same(text: str, previous: str) -> bool:
    """Whether two texts differ only in white space that has no meaning."""
    if text.strip() == previous.strip():
        return True
    with suppress(ValueError):
        return bool(json.loads(text) == json.loads(previous))
    return False


def _elements(recorded: str | None) -> dict[str, list[str]]:
    with suppress(ValueError):
        document: Any = json.loads(recorded or "{}")
        if isinstance(document, dict):
            return {
                key: [str(element) for element in elements]
                for key, elements in document.items()
                if isinstance(elements, list)
            }
    return {}


def _written_files(client: Client, place: str) -> Iterator[Path]:
    """Files of which all, or a part, was written for a client."""
    kind = KINDS[client]
    directory = Path(place) if kind.is_directory else Path(place).parent
    for pattern in kind.owned:
        root = directory.parent if pattern.startswith("../") else directory
        for path in sorted(root.glob(pattern.removeprefix("../"))):
            with suppress(OSError, ClientFileUnusable):
                if has_block(_read(path, "") or ""):
                    yield path


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _read(path: Path, hint: str) -> str | None:
    try:
        with path.open("rb") as opened:
            content = opened.read(MAX_SIZE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unusable(path, "read", error, hint) from None
    if len(content) > MAX_SIZE:
        raise ClientFileUnusable(f"{path} is larger than 1 MB.", "Is it the right file?")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ClientFileUnusable(f"{path} is not UTF-8 text.", "Is it the right file?") from None


def _write(change: Change, text: str) -> None:
    path = change.path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        status = path.stat()
    except FileNotFoundError:
        replace_file(path, text.encode(), 0o600 if change.is_secret else 0o644)
        return
    mode = stat.S_IMODE(status.st_mode)
    new = replace_file(path, text.encode(), mode & 0o700 if change.is_secret else mode)
    if (new.st_uid, new.st_gid) != (status.st_uid, status.st_gid):
        os.chown(path, status.st_uid, status.st_gid)


def _remove_empty_directory(path: Path) -> None:
    with suppress(OSError):
        sync_directory(path.parent)
    if path.name in {"hosts.toml", "ca.crt"}:
        # It is that of one registry, and was made for this file.
        with suppress(OSError):
            path.parent.rmdir()


def _unusable(path: Path, done: str, error: OSError, hint: str) -> ClientFileUnusable:
    return ClientFileUnusable(
        f"{printable(str(path))} can't be {done}: {error.strerror}.",
        hint if isinstance(error, PermissionError) else "",
    )
