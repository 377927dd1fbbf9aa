"""Recovery of a damaged or missing catalog, and the backup copy that it needs (L02).

The damaged file is set aside and never removed. The new catalog is the copy, merged with all rows
that can still be read from the damaged file. Each row is validated before it is taken over, a
manifest by its digest; its references follow from its content. Blobs are not touched: those without
a row are adopted, and wait for their manifests (`entrepot.store.eviction.ADOPTED_STAYS`).

SQLite's own recovery is a command of its shell, which a machine may not have. Python's module
reaches only what SQL reaches, so damage is skipped here.
"""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Integer,
    LargeBinary,
    String,
    Table,
    create_engine,
    insert,
)
from sqlalchemy.pool import NullPool

from entrepot.core import signed_manifests
from entrepot.core.reference import Digest, parse_repository
from entrepot.errors import EntrepotError
from entrepot.files import sync_directory
from entrepot.formatting import counted
from entrepot.store import counters, schema
from entrepot.store.connections import CatalogFailed, Reason, reason_of
from entrepot.store.manifests import Manifest, ManifestUnreadable
from entrepot.store.rows import reference_rows

UNREADABLE_RANGES = 1_000
"""Damaged places of one table that are skipped before the rest of it is abandoned."""

LARGEST_INTEGER = 2**53
"""Larger numbers in a row count as damage."""

_UNREADABLE = {
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR | (33 << 8),
}
"""SQLite's errors where the disk itself lost a part of the file.

The last is IOERR_CORRUPTFS, which an older `sqlite3` does not name."""

_SIDE_FILES = ("-wal", "-shm", "-journal")

# Referenced tables come first. manifest_references is not among them: it follows from the
# manifests.
_TABLES = (
    schema.repositories,
    schema.manifests,
    schema.repository_manifests,
    schema.tags,
    schema.blobs,
    schema.blob_origins,
    schema.rule_requests,
    schema.activity,
    schema.ended_pulls,
    schema.referrer_lists,
)


def backup_of(catalog: Path) -> Path:
    """The path of a catalog's backup copy."""
    return catalog.with_name(f"{catalog.name}.backup")


def damage_note(catalog: Path) -> Path:
    """The path of a note that a running engine met damage in a catalog.

    The next start then checks the whole catalog before it answers, however large it is.
    """
    return catalog.with_name(f"{catalog.name}.damage")


def check(path: Path, *, seconds: float | None) -> tuple[str | None, bool]:
    """What is wrong with a database, and whether all of it was checked within *seconds*.

    None: for as long as it takes; 0: it is only opened. Runs in a thread. Raises `sqlite3.Error`
    when the file can't be opened for another reason than damage.
    """
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    try:
        with closing(sqlite3.connect(path)) as connection:
            # This creates the side files that readers need, so a read-only directory shows here.
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if seconds == 0:
                return None, False
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            problems = [str(row[0]) for row in connection.execute("PRAGMA quick_check(1)")]
    except sqlite3.Error as error:
        if (
            reason_of(error) is Reason.DAMAGED
            or getattr(error, "sqlite_errorcode", 0) in _UNREADABLE
        ):
            return str(error), True
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            return None, False
        raise
    problem = problems[0].strip().splitlines()[-1] if problems and problems != ["ok"] else None
    return problem, True


def back_up(catalog: Path) -> None:
    """Replace the backup copy of a catalog by its present state, if that is sound.

    Runs in a thread, and writers do not wait for it. Raises `CatalogFailed` when the catalog is
    damaged; the old copy stays then. Raises `OSError` and `sqlite3.Error`.
    """
    backup = backup_of(catalog)
    new = backup.with_name(f"{backup.name}-new")
    _remove(new)
    try:
        _create(new)
        with closing(_open_read_only(catalog)) as source, closing(sqlite3.connect(new)) as target:
            # In one step, during which others can write: they write to the write-ahead log.
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
        problem, _ = check(new, seconds=None)
        if problem is not None:
            raise CatalogFailed(f"The catalog is damaged: {problem}.", reason=Reason.DAMAGED)
        _sync_file(new)
        os.replace(new, backup)
        sync_directory(backup.parent)
    except sqlite3.Error as error:
        if reason_of(error) is Reason.DAMAGED:
            raise CatalogFailed(
                f"The catalog is damaged: {error}.", reason=Reason.DAMAGED
            ) from error
        raise
    finally:
        _remove(new)


def restore_missing(catalog: Path) -> str | None:
    """Restore a missing catalog from its backup copy. Runs in a thread.

    Returns what happened in one or two sentences, None without a copy.
    """
    backup = backup_of(catalog)
    if (
        not backup.is_file()
        or check(backup, seconds=None)[0] is not None
        or _version(backup) > schema.SCHEMA_VERSION
    ):
        return None
    new = catalog.with_name(f"{catalog.name}-new")
    _remove(new)
    _create(new)
    shutil.copyfile(backup, new)
    _sync_file(new)
    for suffix in _SIDE_FILES:
        # SQLite would apply the log of another file to this one.
        catalog.with_name(catalog.name + suffix).unlink(missing_ok=True)
    os.replace(new, catalog)
    sync_directory(catalog.parent)
    return (
        f"The catalog was gone; its copy of {_moment(backup)} is restored. What came since is "
        "cataloged again as it is pulled, and its blobs are used."
    )


def salvage(catalog: Path, damage: str, *, now: float) -> str:
    """Set a damaged catalog aside and put a new one in its place; return what happened.

    Runs in a thread; raises `OSError`, `sqlite3.Error`.
    """
    backup, new = backup_of(catalog), catalog.with_name(f"{catalog.name}-new")
    _remove(new)
    _create(new)
    restored = backup.is_file() and check(backup, seconds=None)[0] is None
    if restored:
        shutil.copyfile(backup, new)
        try:
            _create_tables(new)
        except (EntrepotError, sqlite3.Error):
            restored = False
            _remove(new)
            _create(new)
    if not restored:
        _create_tables(new)
    rows = _merge(catalog, new)
    _sync_file(new)
    aside = _unused(
        catalog.with_name(
            f"{catalog.name}.damaged-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}"
        )
    )
    for suffix in _SIDE_FILES:
        with suppress(FileNotFoundError):
            os.rename(
                catalog.with_name(catalog.name + suffix), aside.with_name(aside.name + suffix)
            )
    os.rename(catalog, aside)
    os.rename(new, catalog)
    sync_directory(catalog.parent)
    if restored:
        outcome = (
            f"its copy of {_moment(backup)} is restored, with {counted(rows, 'row')} that could be "
            "read from the damaged file"
        )
    elif rows:
        outcome = f"{counted(rows, 'row')} could be read from it into a new one"
    else:
        outcome = "nothing of it could be read, and a new one is created"
    return (
        f"The catalog was damaged ({damage}) and is set aside as {aside.name}; {outcome}. "
        "The blobs stay, and what is missing is cataloged again as it is pulled."
    )


def _create_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        prepare_new(connection)
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with engine.begin() as connection:
        schema.create(connection, counters.recount())


def prepare_new(connection: sqlite3.Connection) -> None:
    """Let a database without tables give free pages back to the file system (S11).

    SQLite accepts this setting only before the first table is created.
    """
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")


def _merge(damaged: Path, new: Path) -> int:
    """Take over all readable and sound rows; returns their number."""
    merged = 0
    try:
        source = _open_read_only(damaged)
    except sqlite3.Error:
        return 0
    # Invalid UTF-8 would end a whole read.
    source.text_factory = lambda content: content.decode("utf-8", "replace")
    engine = create_engine(f"sqlite:///{new}", poolclass=NullPool)
    with closing(source), engine.begin() as target:
        for table in _TABLES:
            for row in _readable(source, table):
                if not _is_sound(table, row):
                    continue
                if table is schema.manifests:
                    merged += _insert_manifest(target, row)
                    continue
                target.execute(insert(table).prefix_with("OR REPLACE"), row)
                merged += 1
        links = "SELECT 1 FROM repository_manifests AS link WHERE link.repository"
        for statement in (
            "DELETE FROM repository_manifests WHERE digest NOT IN (SELECT digest FROM manifests) "
            "OR repository NOT IN (SELECT name FROM repositories)",
            f"DELETE FROM tags WHERE NOT EXISTS ({links} = tags.repository "
            "AND link.digest = tags.digest)",
            f"DELETE FROM repositories WHERE NOT EXISTS ({links} = repositories.name)",
            "DELETE FROM manifest_references WHERE manifest NOT IN (SELECT digest FROM manifests)",
            "DELETE FROM blob_origins WHERE digest NOT IN (SELECT digest FROM blobs)",
            f"DELETE FROM referrer_lists WHERE NOT EXISTS ({links} = referrer_lists.repository "
            "AND link.digest = referrer_lists.subject)",
        ):
            target.exec_driver_sql(statement)
        if _is_older_than(source, 4):
            schema.fill_version_4(target)
        target.execute(counters.recount())
    return merged


def _is_older_than(source: sqlite3.Connection, version: int) -> bool:
    """Whether a damaged catalog has an older schema than *version*.

    False where it can't be read.
    """
    try:
        return 0 < int(source.execute("PRAGMA user_version").fetchone()[0]) < version
    except sqlite3.Error:
        return False


def _insert_manifest(target: Any, row: dict[str, Any]) -> int:
    try:
        manifest = Manifest.of(row["content"], row["media_type"], Digest.parse(row["digest"]))
        references = reference_rows(manifest)
    except (ManifestUnreadable, RecursionError):
        return 0
    if not target.execute(insert(schema.manifests).prefix_with("OR IGNORE"), row).rowcount:
        return 0
    if references:
        target.execute(insert(schema.references).prefix_with("OR IGNORE"), references)
    return 1


def _readable(source: sqlite3.Connection, table: Table) -> Iterator[dict[str, Any]]:
    """All readable rows of a table.

    It is read forward, skipping damaged places, and then backward up to the last damaged place.
    """
    try:
        existing = {row[1] for row in source.execute(f"PRAGMA table_info({table.name})")}
    except sqlite3.Error:
        return
    names = [column.name for column in table.columns if column.name in existing]
    if not names:
        return
    select = f"SELECT rowid, {', '.join(names)} FROM {table.name} NOT INDEXED"
    position, step, failures = 0, 1, 0
    while failures < UNREADABLE_RANGES and position < 2**62:
        try:
            for row in source.execute(f"{select} WHERE rowid >= ? ORDER BY rowid", (position,)):
                position, step = row[0] + 1, 1
                yield dict(zip(names, row[1:], strict=True))
            break
        except sqlite3.Error:
            failures += 1
            position, step = position + step, step * 2
    if not failures:
        return
    with suppress(sqlite3.Error):
        for row in source.execute(f"{select} ORDER BY rowid DESC"):
            yield dict(zip(names, row[1:], strict=True))


def _is_sound(table: Table, row: dict[str, Any]) -> bool:
    if not all(_fits(table.c[name], value) for name, value in row.items()):
        return False
    try:
        for name in ("digest", "manifest", "subject"):
            if name in row:
                Digest.parse(row[name])
        repository = row.get("name") if table is schema.repositories else row.get("repository")
        if repository is not None:
            parse_repository(repository)
    except EntrepotError:
        return False
    if table is not schema.manifests:
        return True
    digest = Digest.parse(row["digest"])
    return signed_manifests.matches(digest, row["content"], row["media_type"])


def _fits(column: Column[Any], value: Any) -> bool:
    if value is None:
        return bool(column.nullable)
    match column.type:
        case Boolean():
            return value in {0, 1}
        case Integer():
            return isinstance(value, int) and 0 <= value <= LARGEST_INTEGER
        case Float():
            return (
                isinstance(value, (int, float))
                and math.isfinite(value)
                and 0 <= value <= LARGEST_INTEGER
            )
        case LargeBinary():
            return isinstance(value, bytes)
        case String(length=length):
            return (
                isinstance(value, str)
                and len(value) <= (length or len(value))
                and "\ufffd" not in value
            )
    return True


def _open_read_only(path: Path) -> sqlite3.Connection:
    # Closing the last writable connection would write the log into the file, and a damaged file
    # must stay as it is.
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)


def _version(path: Path) -> int:
    with closing(_open_read_only(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _moment(path: Path) -> str:
    return f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d %H:%M} UTC"


def _unused(path: Path) -> Path:
    number, name = 2, path
    while name.exists():
        name, number = path.with_name(f"{path.name}-{number}"), number + 1
    return name


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _remove(path: Path) -> None:
    for suffix in ("", *_SIDE_FILES):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
