"""The disk is full, can only be read, or hangs, really: a file system of a few megabytes under the
data directory."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.clients.container_clients import AMD64, Skopeo
from tests.e2e.clients.entrepot import Entrepot
from tests.e2e.clients.test_killed import Body
from tests.fakes import FakeRegistry
from tests.fakes.images import FakeImage
from tests.programs import require_program

SIZE = 48_000_000
"""Of the file system, in bytes."""

IMPATIENT = """
from entrepot.engine import health
from entrepot.server.shutdown import Deadline
health.CHECK_INTERVAL, health.PROBE_TIMEOUT = 1.0, 2.0
Deadline.__init__.__defaults__ = (5.0,)
from entrepot.cli.main import main
main()
"""
"""An engine that reports a disk that hangs, and gives up waiting for it, after seconds: 45 s are
long for a test."""


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("a file system can be mounted by root only")
    disk = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        [require_program("mount"), "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run([require_program("umount"), "--lazy", disk], check=True)


async def run_command(command: list[str | Path]) -> None:
    """Run a program that must succeed."""
    await asyncio.to_thread(lambda: subprocess.run(command, check=True))


@pytest.fixture
def freezable_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system that can be made to hang (fsfreeze(8)); it is thawed at the end."""
    if os.geteuid():
        pytest.skip("a file system can be mounted by root only")
    disk, image = tmp_path_factory.mktemp("disk"), tmp_path_factory.mktemp("image") / "ext4"
    with image.open("wb") as file:
        file.truncate(2 * SIZE)
    commands: list[list[str | Path]] = [
        ["mkfs.ext4", "-q", image],
        ["mount", "-o", "loop", image, disk],
    ]
    for name, *arguments in commands:
        program = require_program(str(name))
        command = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        if command.returncode:
            pytest.skip(f"no file system can be mounted here: {command.stderr.strip()}")
    require_program("fsfreeze")
    yield disk
    subprocess.run(["fsfreeze", "--unfreeze", disk], capture_output=True, check=False)
    subprocess.run([require_program("umount"), "--lazy", disk], check=True)


@pytest.fixture
async def fake_source() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as source:
        yield source


async def test_an_image_that_does_not_fit_is_pulled_whole_and_logged_as_not_cached(
    small_disk: Path, fake_source: FakeRegistry, new_engine: Callable[..., Entrepot], skopeo: Skopeo
) -> None:
    engine = new_engine(fake_source.url)
    (engine.root / "d").symlink_to(small_disk)
    await asyncio.to_thread(engine.start)
    await asyncio.to_thread(engine.create_rule, "example-library", "library/*", "library/*")
    small = fake_source.add_image("library/small", "1", layers=[1_000_000], platforms=[AMD64])
    large = fake_source.add_image(
        "library/large", "1", layers=[SIZE + 20_000_000, 5_000], platforms=[AMD64]
    )

    reference = f"{engine.address}/library/large:1"
    await asyncio.to_thread(skopeo.pull, reference)
    skopeo.assert_holds(reference, large)
    layer = large.platforms[AMD64].layers[0]
    url = f"{engine.url}/v2/library/large/blobs/{layer.digest}"
    together = [Body(wanted=layer.size) for _ in range(3)]
    await asyncio.gather(*(body.read(url) for body in together))
    assert [body.is_whole(layer) for body in together] == [True] * 3

    engine.process.wait_for_line(r"ERROR The disk takes no more \(No space left on device\)")
    status = await asyncio.to_thread(engine.ask, "status")
    assert any(re.search("The disk takes no more", notice) for notice in status["notices"])
    # Where the catalog did not take something just then, that is over with the next that it takes.
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(engine.get, "/readyz")).status_code != 200:
            pass
    assert str(layer.digest) not in engine.cached_blobs()
    assert engine.unfinished() == []

    reference = f"{engine.address}/library/small:1"
    await asyncio.to_thread(skopeo.pull, reference)
    skopeo.assert_holds(reference, small)
    assert {str(each.digest) for each in small.platforms[AMD64].blobs} <= engine.cached_blobs()
    status = await asyncio.to_thread(engine.ask, "status")
    assert not any(re.search("The disk takes no more", notice) for notice in status["notices"])


def fill(disk: Path) -> Path:
    """Another program takes all that is left, to the last byte."""
    other = disk / "other"
    with other.open("wb", buffering=0) as file:
        for size in (1_000_000, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return other


async def filled_engine(
    disk: Path,
    fake_source: FakeRegistry,
    new_engine: Callable[..., Entrepot],
    skopeo: Skopeo,
    **options: Any,
) -> tuple[Entrepot, FakeImage]:
    """A running engine with its data on *disk*, and an image that is cached."""
    engine = new_engine(fake_source.url, settings="freshness = 0.001", **options)
    (engine.root / "d").symlink_to(disk)
    await asyncio.to_thread(engine.start)
    await asyncio.to_thread(engine.create_rule, "example-library", "library/*", "library/*")
    cached = fake_source.add_image("library/cached", "1", layers=[1_000_000], platforms=[AMD64])
    await asyncio.to_thread(skopeo.pull, f"{engine.address}/library/cached:1")
    return engine, cached


async def pulls(engine: Entrepot, skopeo: Skopeo, *images: FakeImage) -> None:
    """Each image is pulled whole, and has the right content."""
    for image in images:
        reference = f"{engine.address}/{image.repository}:1"
        await asyncio.to_thread(skopeo.pull, reference)
        skopeo.assert_holds(reference, image)


async def test_with_no_byte_left_new_images_pass_and_it_is_said(
    small_disk: Path, fake_source: FakeRegistry, new_engine: Callable[..., Entrepot], skopeo: Skopeo
) -> None:
    """S19."""
    engine, cached = await filled_engine(small_disk, fake_source, new_engine, skopeo)
    other = await asyncio.to_thread(fill, small_disk)
    for number in range(3):
        new = fake_source.add_image(
            f"library/new-{number}", "1", layers=[200_000], platforms=[AMD64]
        )
        await pulls(engine, skopeo, new, cached)
    assert "Traceback" not in engine.process.output
    failures = [line for line in engine.process.output.splitlines() if "Bookkeeping failed" in line]
    assert len(failures) <= 2

    # An engine that is restarted there serves what it has, and passes on the rest.
    assert (await asyncio.to_thread(engine.stop)).status == 0
    await asyncio.to_thread(engine.start)
    await pulls(
        engine,
        skopeo,
        cached,
        fake_source.add_image("library/another", "1", layers=[200_000], platforms=[AMD64]),
    )
    assert "Traceback" not in engine.process.output
    other.unlink()


async def test_on_a_disk_that_can_only_be_read_an_engine_starts_and_serves(
    small_disk: Path, fake_source: FakeRegistry, new_engine: Callable[..., Entrepot], skopeo: Skopeo
) -> None:
    """S19."""
    engine, cached = await filled_engine(small_disk, fake_source, new_engine, skopeo)
    await asyncio.to_thread(engine.stop)
    await run_command(["mount", "-o", "remount,ro", small_disk])
    await asyncio.to_thread(engine.start)
    await pulls(
        engine,
        skopeo,
        cached,
        fake_source.add_image("library/new", "1", layers=[200_000], platforms=[AMD64]),
    )
    status = await asyncio.to_thread(engine.ask, "status")
    assert status["repositories"] == 1
    assert any("Read-only file system" in notice for notice in status["notices"])
    assert engine.get("/readyz").status_code == 503
    refused = await asyncio.to_thread(
        engine.run, "repository", "delete", "library/cached", "--yes", check=False
    )
    assert (refused.status != 0, "can't be written" in refused.output) == (True, True)
    assert "Traceback" not in engine.process.output


async def test_a_disk_that_hangs_delays_only_what_needs_it(
    freezable_disk: Path,
    fake_source: FakeRegistry,
    new_engine: Callable[..., Entrepot],
    skopeo: Skopeo,
) -> None:
    """S19: a cold manifest got no answer at all, and `entrepot status` hung."""
    engine, cached = await filled_engine(
        freezable_disk, fake_source, new_engine, skopeo, program=("-c", IMPATIENT)
    )
    new = fake_source.add_image("library/new", "1", layers=[200_000], platforms=[AMD64])
    await run_command(["fsfreeze", "--freeze", freezable_disk])
    try:
        async with asyncio.timeout(120):
            assert (await asyncio.to_thread(engine.get, "/healthz")).status_code == 200
            layer = cached.platforms[AMD64].layers[0]
            assert (
                await asyncio.to_thread(engine.get, f"/v2/library/cached/blobs/{layer.digest}")
            ).content == layer.content
            for image in (cached, new):
                manifest = await asyncio.to_thread(
                    engine.get, f"/v2/{image.repository}/manifests/1", headers={"Accept": "*/*"}
                )
                assert (manifest.status_code, manifest.headers["docker-content-digest"]) == (
                    200,
                    str(image.digest),
                )
            status = await asyncio.to_thread(engine.ask, "status")
            assert status["rules"] == 1
            # A disk that hangs is reported once it has hung for long enough.
            while (await asyncio.to_thread(engine.get, "/readyz")).status_code != 503:
                pass
    finally:
        await run_command(["fsfreeze", "--unfreeze", freezable_disk])
    await pulls(engine, skopeo, cached, new)
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(engine.get, "/readyz")).status_code != 200:
            pass
    assert "Traceback" not in engine.process.output


async def test_while_the_disk_hangs_rules_are_listed_and_the_end_takes_a_bounded_time(
    freezable_disk: Path,
    fake_source: FakeRegistry,
    new_engine: Callable[..., Entrepot],
    skopeo: Skopeo,
) -> None:
    """F79: rules could not be listed, and SIGTERM did not end the engine."""
    engine, cached = await filled_engine(
        freezable_disk, fake_source, new_engine, skopeo, program=("-c", IMPATIENT)
    )
    pid = engine.process.pid
    await run_command(["fsfreeze", "--freeze", freezable_disk])
    try:
        async with asyncio.timeout(120):
            manifest = await asyncio.to_thread(
                engine.get, f"/v2/{cached.repository}/manifests/1", headers={"Accept": "*/*"}
            )
            assert manifest.status_code == 200
            deleting = asyncio.create_task(
                asyncio.to_thread(
                    engine.run, "repository", "delete", "library/cached", "--yes", check=False
                )
            )
            # Until a write of what was used hangs, and after that.
            for _ in range(2):
                for arguments in (["rule", "list"], ["rule", "list"], ["status"]):
                    await asyncio.to_thread(engine.ask, *arguments)
                rules = await asyncio.to_thread(engine.ask, "rule", "list")
                assert [(rule["name"], rule["repositories"]) for rule in rules] == [
                    ("example-library", 1)
                ]
                while (await asyncio.to_thread(engine.get, "/readyz")).status_code != 503:
                    pass
        engine.process.send(signal.SIGTERM)
        await asyncio.to_thread(
            engine.process.wait_for_line,
            r"ERROR The engine could not end in order\. The disk of \S+ has not answered for .* It ends now",
        )
        # The kernel keeps a process of which a thread waits for the disk; it runs nothing any more,
        # and its ports are free.
        async with asyncio.timeout(60):
            while has_run(pid):
                await asyncio.sleep(0)
        with pytest.raises(httpx.ConnectError):
            await asyncio.to_thread(engine.get, "/v2/")
    finally:
        await run_command(["fsfreeze", "--unfreeze", freezable_disk])
    assert (await asyncio.to_thread(engine.process.wait)).status == 1
    assert (await deleting).status != 0
    await asyncio.to_thread(engine.start)
    await pulls(engine, skopeo, cached)
    assert "Traceback" not in engine.process.output


def has_run(pid: int) -> bool:
    """Whether the first thread of a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


async def test_an_export_says_that_the_disk_is_full_and_goes_on_when_it_is_not(
    small_disk: Path, fake_source: FakeRegistry, new_engine: Callable[..., Entrepot]
) -> None:
    engine = new_engine(fake_source.url)
    await asyncio.to_thread(engine.start)
    await asyncio.to_thread(engine.create_rule, "example-library", "library/*", "library/*")
    layer = os.urandom(SIZE + 2_000_000)
    image = fake_source.add_image("library/large", "1", layers=[layer], platforms=[AMD64])
    command = ("export", "library/large:1", f"{small_disk}/out/", "--platform", AMD64)
    full = await asyncio.to_thread(lambda: engine.run(*command, check=False))
    assert full.status == 1
    assert f"The file system of {small_disk}" in full.output
    assert "is full" in full.output
    assert "run the same command again" in full.output
    assert not (small_disk / "out/index.json").exists()
    await run_command([require_program("mount"), "-o", f"remount,size={2 * SIZE}", small_disk])
    done = await asyncio.to_thread(engine.run, *command)
    assert "1 image exported" in done.output
    blob = small_disk / "out/blobs/sha256" / image.platforms[AMD64].layers[0].digest.hex
    assert blob.read_bytes() == layer


async def test_an_import_that_does_not_fit_is_refused_and_leaves_what_is_cached(
    small_disk: Path, fake_source: FakeRegistry, new_engine: Callable[..., Entrepot]
) -> None:
    engine, other = new_engine(fake_source.url), new_engine(fake_source.url)
    (engine.root / "d").symlink_to(small_disk)
    for each in (engine, other):
        await asyncio.to_thread(each.start)
        await asyncio.to_thread(each.create_rule, "example-library", "library/*", "library/*")
    small = fake_source.add_image("library/small", "1", layers=[1_000_000], platforms=[AMD64])
    fake_source.add_image(
        "library/large", "1", layers=[os.urandom(SIZE + 1_000_000)], platforms=[AMD64]
    )
    await asyncio.to_thread(engine.run, "pull", "library/small:1", "--platform", AMD64)
    archive = other.root / "large.tar"
    await asyncio.to_thread(
        other.run, "export", "library/large:1", str(archive), "--platform", AMD64
    )
    refused = await asyncio.to_thread(lambda: engine.run("import", str(archive), check=False))
    assert refused.status == 1
    assert "the cache has no room for it" in refused.output
    assert {str(blob.digest) for blob in small.platforms[AMD64].blobs} <= engine.cached_blobs()
