"""The catalog is opened whatever its disk allows."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from entrepot.core.reference import Tag
from entrepot.errors import EngineError
from entrepot.store import database as database_module
from entrepot.store import opening
from entrepot.store.catalog import Catalog
from entrepot.store.catalog_maintenance import CatalogMaintenance
from entrepot.store.connections import CatalogFailed, Reason
from entrepot.store.disk_reserve import RESERVE_SIZE, DiskReserve
from entrepot.store.recovery import damage_note
from tests.programs import require_program, require_root
from tests.store.damage import damage_table
from tests.store.samples import NGINX, SOURCE, VERSION_1, image, removing


def refusing(code: int, message: str) -> Callable[..., object]:
    def refuse(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError(message)
        error.sqlite_errorcode = code
        raise error

    return refuse


def failures(catalog: Catalog) -> tuple[CatalogFailed | None, CatalogFailed | None]:
    """Why nothing can be written, and what failed last."""
    return catalog.refusal, catalog.health.problem


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


async def cached_image(path: Path) -> None:
    async with Catalog.open(path) as catalog:
        await catalog.add_manifest(NGINX, SOURCE, image("a"), tags=[Tag("1")], now=1.0)


async def serves_and_refuses(path: Path, what: str) -> None:
    async with Catalog.open(path) as catalog:
        assert await catalog.manifest(image("a").digest) == image("a")
        for write in (
            catalog.add_manifest(NGINX, SOURCE, image("b"), now=2.0),
            catalog.delete_repository(NGINX),
            catalog.collect(removing(lambda _: True)),
        ):
            with pytest.raises(
                CatalogFailed,
                match=rf"The catalog can't be written: {what}.* What is cached is served, "
                "and what is not is passed on",
            ):
                await write
        with pytest.raises(CatalogFailed):
            await catalog.probe()
        assert catalog.health.problem is not None


async def test_a_catalog_that_can_only_be_read_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19: a restart on a disk that had turned read-only was refused."""
    path = tmp_path / "catalog.sqlite"
    await cached_image(path)
    before = path.read_bytes()
    monkeypatch.setattr(
        opening,
        "_for_writing",
        refusing(sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
    )
    await serves_and_refuses(path, "attempt to write a readonly database")
    assert path.read_bytes() == before


async def test_a_catalog_that_could_only_be_read_is_written_as_soon_as_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19."""
    path = tmp_path / "catalog.sqlite"
    await cached_image(path)
    with monkeypatch.context() as patched:
        patched.setattr(
            opening,
            "_for_writing",
            refusing(sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
        )
        opened = Catalog.open(path)
        catalog = await opened.__aenter__()
        await CatalogMaintenance(catalog).once()
        assert catalog.refusal is not None
    try:
        reading = asyncio.create_task(catalog.repository_names())
        await CatalogMaintenance(catalog).once()
        assert await reading == [NGINX]
        assert failures(catalog) == (None, None)
        await catalog.add_manifest(NGINX, SOURCE, image("b"), now=2.0)
        assert await catalog.manifests_of(NGINX) == {image("a").digest, image("b").digest}
    finally:
        await opened.__aexit__(None, None, None)


async def test_a_disk_that_was_read_only_at_the_start_and_is_mounted_for_writing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19: SQLite's connections of one process share the index of the log (-shm), as it was opened
    first."""
    require_root("mounting a file system")
    mount, umount = require_program("mount"), require_program("umount")
    disk = tmp_path / "disk"
    disk.mkdir()
    await asyncio.to_thread(run, mount, "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk)
    try:
        path, killed = disk / "catalog.sqlite", tmp_path / "killed"
        async with Catalog.open(path) as catalog:
            await catalog.add_manifest(NGINX, SOURCE, image("a"), tags=[Tag("1")], now=1.0)
            # What a killed engine leaves: the file, its log and the index of that.
            shutil.copytree(disk, killed)
        shutil.copytree(killed, disk, dirs_exist_ok=True)
        await asyncio.to_thread(run, mount, "-o", "remount,ro", disk)
        async with Catalog.open(path) as catalog:
            assert await catalog.repository_names() == [NGINX]
            await CatalogMaintenance(catalog).once()
            assert catalog.refusal is not None
            assert await catalog.manifest(image("a").digest) == image("a")
            await asyncio.to_thread(run, mount, "-o", "remount,rw", disk)
            reading_started, going_on = threading.Event(), threading.Event()

            def slow(connection: Connection) -> None:
                connection.exec_driver_sql("SELECT count(*) FROM repositories")
                reading_started.set()
                going_on.wait(30)

            def open_beside_a_read(*arguments: Any, **options: Any) -> opening.Opening | None:
                opened = opening.open_for_writing(*arguments, **options)
                going_on.set()
                return opened

            monkeypatch.setattr(database_module, "open_for_writing", open_beside_a_read)
            reading = asyncio.create_task(catalog._readers.read(slow, long=True))
            await asyncio.to_thread(reading_started.wait, 30)
            await CatalogMaintenance(catalog).once()
            await reading
            assert failures(catalog) == (None, None)
            await catalog.add_manifest(NGINX, SOURCE, image("b"), now=2.0)
            assert await catalog.manifests_of(NGINX) == {image("a").digest, image("b").digest}
    finally:
        await asyncio.to_thread(run, umount, "--lazy", disk)


async def test_a_catalog_of_an_earlier_version_is_read_from_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1.read_text())
    before = path.read_bytes()
    monkeypatch.setattr(
        opening,
        "_for_writing",
        refusing(sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
    )
    async with Catalog.open(path) as catalog:
        assert await catalog.repository_names() == [NGINX]
        with pytest.raises(CatalogFailed):
            await catalog.delete_repository(NGINX)
    assert path.read_bytes() == before
    monkeypatch.undo()
    path.unlink()
    monkeypatch.setattr(
        opening, "_for_writing", refusing(sqlite3.SQLITE_CANTOPEN, "unable to open database file")
    )
    async with Catalog.open(path) as catalog:
        assert await catalog.repository_names() == []
    assert os.listdir(tmp_path) == []


async def test_a_catalog_that_can_not_even_be_read_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine does not start then: nothing is served, and nothing is passed on."""
    path = tmp_path / "catalog.sqlite"
    await cached_image(path)

    def no_copy(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    cannot_open = refusing(sqlite3.SQLITE_CANTOPEN, "unable to open database file")
    monkeypatch.setattr(opening, "_for_writing", cannot_open)
    monkeypatch.setattr(sqlite3, "connect", cannot_open)
    monkeypatch.setattr(shutil, "copyfile", no_copy)
    with pytest.raises(EngineError) as caught:
        async with Catalog.open(path):
            pass
    assert "to be read there: Permission denied." in caught.value.what
    assert "is served" not in caught.value.message


async def test_a_file_system_that_takes_no_file_does_not_end_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.sqlite"
    await cached_image(path)

    def refuse(_: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(opening, "make_private", refuse)
    await serves_and_refuses(path, "Read-only file system")


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_IOERR_SHMMAP, sqlite3.SQLITE_IOERR_LOCK]
)
async def test_a_file_system_on_which_sqlite_can_not_work_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """F88."""
    monkeypatch.setattr(opening, "_for_writing", refusing(code, "locking protocol"))
    monkeypatch.setattr(opening, "file_system", lambda _: "9p on /host")
    with pytest.raises(
        EngineError,
        match=r"The file system of .*\(9p on /host\) can't lock files: "
        r"locking protocol \(SQLite\)\. .*XDG_DATA_HOME",
    ):
        async with Catalog.open(tmp_path / "catalog.sqlite"):
            pass


async def test_on_a_full_disk_the_reserve_lets_the_catalog_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19."""
    path = tmp_path / "catalog.sqlite"
    await cached_image(path)
    reserve = tmp_path / "catalog.sqlite.reserve"
    DiskReserve(path).allocate()
    assert (reserve.stat().st_size, reserve.stat().st_mode & 0o777) == (RESERVE_SIZE, 0o600)
    writing = opening._for_writing

    def needs_room(path: Path, now: float) -> opening.Opening:
        if reserve.exists():
            refusing(sqlite3.SQLITE_FULL, "database or disk is full")()
        return writing(path, now)

    monkeypatch.setattr(opening, "_for_writing", needs_room)
    monkeypatch.setattr(opening, "_is_full", lambda _: True)
    async with Catalog.open(path) as catalog:
        await catalog.add_manifest(NGINX, SOURCE, image("b"), now=2.0)
        assert catalog.health.problem is None


async def test_a_deletion_on_a_full_disk_is_written_with_the_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19: repository delete was refused for lack of room."""
    path = tmp_path / "catalog.sqlite"
    await cached_image(path)
    async with Catalog.open(path) as catalog:
        write = catalog._write
        reserve = DiskReserve(path)
        reserve.allocate()

        def needs_room() -> object:
            if (tmp_path / "catalog.sqlite.reserve").exists():
                raise CatalogFailed(
                    "The catalog fails: database or disk is full.", reason=Reason.FULL
                )
            return write()

        monkeypatch.setattr(catalog, "_write", needs_room)
        with pytest.raises(CatalogFailed):
            await catalog.add_manifest(NGINX, SOURCE, image("b"), now=2.0)
        assert await catalog.delete_repository(NGINX)
        assert not reserve.release()


async def test_a_large_catalog_is_looked_at_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "CHECK_TIME", -1.0)
    path = tmp_path / "catalog.sqlite"
    async with Catalog.open(path) as catalog:
        assert catalog.is_checked
        for number in range(200):
            await catalog.add_manifest(
                NGINX, SOURCE, image(*(f"{number} {layer}" for layer in range(20))), now=1.0
            )
    async with Catalog.open(path) as catalog:
        assert not catalog.is_checked
        assert catalog.health.notices == ()


async def large_catalog(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog that is too large to be checked by the start."""
    monkeypatch.setattr(opening, "CHECK_SIZE", 100_000)
    async with Catalog.open(path) as catalog:
        for number in range(200):
            await catalog.add_manifest(
                NGINX, SOURCE, image(*(f"{number} {layer}" for layer in range(20))), now=1.0
            )


async def test_damage_that_is_met_after_the_start_is_salvaged_at_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start of a large catalog does not wait for the check of all of it."""
    path = tmp_path / "catalog.sqlite"
    await large_catalog(path, monkeypatch)
    damage_table(path, "manifest_references_by_digest")
    async with Catalog.open(path) as catalog:
        assert (catalog.is_checked, catalog.health.problem) == (False, None)
        maintenance = CatalogMaintenance(catalog)
        await maintenance._check()
        assert catalog.health.problem is not None
        await maintenance.close()
    assert damage_note(path).exists()
    async with Catalog.open(path) as catalog:
        assert catalog.is_checked
        [notice] = catalog.health.notices
        assert notice.startswith("The catalog was damaged (")
        assert len(await catalog.manifests_of(NGINX)) == 200
    assert not damage_note(path).exists()


@pytest.mark.parametrize(("ended", "is_checked"), [("machine", True), ("process", False)])
async def test_after_a_power_cut_a_start_takes_more_time_for_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: str, is_checked: bool
) -> None:
    path = tmp_path / "catalog.sqlite"
    await large_catalog(path, monkeypatch)
    async with Catalog.open(path) as catalog:
        await catalog.add_manifest(NGINX, SOURCE, image("a"), now=2.0)
        left_open = tmp_path / "left open.sqlite"
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{left_open}{suffix}")
    if ended == "machine":
        os.utime(f"{left_open}-wal", (1.0, 1.0))
    async with Catalog.open(left_open) as catalog:
        assert catalog.is_checked is is_checked
        assert len(await catalog.manifests_of(NGINX)) == 201
