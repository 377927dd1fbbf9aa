"""Hostile clients and a real engine: it serves the others, stops on request, frees what they took.

``docs/failures.md`` explains the codes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.clients.entrepot import Entrepot
from tests.fakes import FakeImage, FakeRegistry
from tests.programs import require_program

WITHIN = 1.0
"""Seconds within which a probe is answered. On a machine that is busy with other tests most of them
may take longer: the quickest of five counts, which an engine that is blocked delays too."""

HANG = 30.0
"""Seconds that no probe may take."""

SHORT_SHUTDOWN_GRACE = "import entrepot.server.run as run; run.SHUTDOWN_GRACE = 1.0; from entrepot.cli import main; main()"

Writer = asyncio.StreamWriter


class EngineProcess:
    """A running engine with its source, and clients that speak to it byte by byte."""

    def __init__(self, process: Entrepot, source: FakeRegistry, image: FakeImage) -> None:
        self.process = process
        self.source = source
        self.layer = image.platforms["linux/amd64"].layers[0]
        self.digest = image.platforms["linux/amd64"].digest
        self._writers: list[Writer] = []

    async def client(self, sent: bytes) -> Writer:
        """A client that has sent something, and reads nothing."""
        host, _, port = self.process.address.rpartition(":")
        # It must not take from its own side what the engine sends.
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.pause_reading()
        self._writers.append(writer)
        writer.write(sent)
        return writer

    async def ask(self, path: str, headers: str = "") -> bytes:
        """The status line of an answer."""
        host, _, port = self.process.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode()
            )
            return (await reader.read(-1)).partition(b"\r\n")[0]
        finally:
            writer.close()

    def abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    @property
    def rss(self) -> int:
        """Bytes of memory that it uses, without the pages of files."""
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) * 1024

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.process.pid}/fd"))

    async def descriptors_are_back(self, most: int) -> None:
        """Wait until it has closed what clients left, asking for its health meanwhile."""
        async with asyncio.timeout(30):
            while self.descriptors > most:
                await self.ask("/healthz")


@asynccontextmanager
async def running(root: Path, prefix: Sequence[str | Path] = ()) -> AsyncIterator[EngineProcess]:
    """A running engine, started by the program *prefix*, with a source that has one image."""
    async with FakeRegistry() as source:
        image = source.add_image("library/app", "1", layers=[20_000_000], platforms=["linux/amd64"])
        with Entrepot(root, source.url, program=("-c", SHORT_SHUTDOWN_GRACE)) as process:
            ready = await asyncio.to_thread(
                process.launch(prefix=prefix).wait_for_line,
                r"answers container clients on (\S+) with",
            )
            process.address = ready[1]
            await asyncio.to_thread(
                process.create_rule, "example-library", "library/*", "library/*"
            )
            engine = EngineProcess(process, source, image)
            try:
                yield engine
            finally:
                engine.abort_all()


@pytest.fixture
async def engine() -> AsyncIterator[EngineProcess]:
    # On a disk: from a file system in memory the kernel does not send what is cached by itself, and
    # each client that reads nothing costs the engine a piece.
    with tempfile.TemporaryDirectory(prefix="e", dir="/var/tmp") as directory:
        async with running(Path(directory)) as engine:
            yield engine


async def healthy(engine: EngineProcess) -> None:
    """It answers a supervisor within a second."""
    seconds = []
    for _ in range(5):
        started_at = time.monotonic()
        async with asyncio.timeout(HANG):
            assert await engine.ask("/healthz") == b"HTTP/1.1 200 OK"
        seconds.append(time.monotonic() - started_at)
    assert min(seconds) < WITHIN


async def answers(engine: EngineProcess, path: str) -> bool:
    """Whether it answers with 200, and does not reset a connection that comes while too many others
    are being refused."""
    try:
        return (await engine.ask(path)).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


async def hostile_accept(engine: EngineProcess) -> None:
    for unit in ("; ", ';a="', "a/b;q=", ","):
        await engine.client(
            f"GET /v2/library/app/manifests/1 HTTP/1.1\r\nHost: x\r\nAccept: a/b{unit * (8000 // len(unit))}@\r\n\r\n".encode()
        )


async def huge_headers(engine: EngineProcess) -> None:
    for name in ("Accept", "Range", "X", "If-None-Match"):
        lines = "".join(f"{name}: {'a/b;0-,' * 1100}\r\n" for _ in range(120))
        await engine.client(
            f"GET /v2/library/app/blobs/{engine.layer.digest} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()
        )


async def absurd_numbers(engine: EngineProcess) -> None:
    for path in ("_catalog?n=", "library/app/tags/list?n="):
        await engine.client(f"GET /v2/{path}{'1' * 6000} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def slow_bodies(engine: EngineProcess) -> None:
    for _ in range(20):
        await engine.client(
            b"POST /v2/library/app/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx"
        )


async def stalled_readers(engine: EngineProcess) -> None:
    for _ in range(30):
        await engine.client(
            f"GET /v2/library/app/blobs/{engine.layer.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )


async def pipelining(engine: EngineProcess) -> None:
    """S12: what a client asks for before it has read an answer is not all taken into memory."""
    blob = f"GET /v2/library/app/blobs/{engine.layer.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    for _ in range(4):
        await engine.client(blob + b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n" * 30_000)


async def half_a_header(engine: EngineProcess) -> None:
    for _ in range(100):
        await engine.client(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ")


async def aborted_tls(engine: EngineProcess) -> None:
    for _ in range(50):
        writer = await engine.client(
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(200)
        )
        writer.transport.abort()


async def silent_source(engine: EngineProcess) -> None:
    engine.source.hold("/manifests/silent", method="GET")
    for _ in range(50):
        await engine.client(b"GET /v2/library/app/manifests/silent HTTP/1.1\r\nHost: x\r\n\r\n")


async def bad_targets(engine: EngineProcess) -> None:
    for target in (
        b"http://[",
        b"/v2/\xff\xfe",
        b"/v2/%ff%00/manifests/%0a",
        b"*",
        b"/" + b"a/" * 4000,
        b"/v2/" + b"blobs/" * 1300,
    ):
        await engine.client(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)


SITUATIONS: list[Callable[[EngineProcess], Awaitable[None]]] = [
    hostile_accept,
    huge_headers,
    absurd_numbers,
    slow_bodies,
    stalled_readers,
    pipelining,
    half_a_header,
    aborted_tls,
    silent_source,
    bad_targets,
]


async def test_whatever_is_in_flight_it_reports_its_health_and_sigterm_ends_it(
    engine: EngineProcess,
) -> None:
    """S01, S09, S25, L06: the supervisor's view."""
    assert (await engine.ask(f"/v2/library/app/blobs/{engine.layer.digest}")).startswith(
        b"HTTP/1.1 200"
    )
    for situation in SITUATIONS:
        await situation(engine)
        await healthy(engine)
    process = engine.process.process
    process.send(signal.SIGTERM)
    finished = await asyncio.to_thread(process.wait)
    assert finished.status == 0, finished.output
    assert "unforeseen" not in finished.output
    assert "Traceback" not in finished.output


async def disconnect_while_waiting(engine: EngineProcess, clients: int) -> None:
    """S06: ask for the end of a blob that does not come, with large headers, and disconnect."""
    engine.source.hold("/manifests/silent", method="GET")
    padding = "".join(f"X-{number}: {'x' * 8000}\r\n" for number in range(3))
    for _ in range(clients // 50):
        for _ in range(50):
            await engine.client(
                f"GET /v2/library/app/manifests/silent HTTP/1.1\r\nHost: x\r\n{padding}\r\n".encode()
            )
        # Requests of clients after them are answered, so theirs have been read.
        await engine.ask("/healthz")
        engine.abort_all()


async def stalling(engine: EngineProcess, clients: int) -> None:
    """S09, L06: ask for a large blob, and read nothing of it."""
    for _ in range(clients):
        await engine.client(
            f"GET /v2/library/app/blobs/{engine.layer.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
    await engine.ask("/healthz")
    engine.abort_all()


async def asking_for_what_is_not_there(engine: EngineProcess, clients: int) -> None:
    for number in range(clients):
        path = (
            "library/app/manifests/none",
            "unknown/app/manifests/1",
            f"library/app/blobs/sha256:{'0' * 64}",
            "library/app/x",
        )[number % 4]
        assert b" 404 " in await engine.ask(f"/v2/{path}")


async def test_after_a_flood_memory_and_descriptors_come_back(engine: EngineProcess) -> None:
    """S06, S09, S10, L11: 1,500 clients that disconnected took 88 MB while the source was
    silent."""
    assert (await engine.ask(f"/v2/library/app/blobs/{engine.layer.digest}")).startswith(
        b"HTTP/1.1 200"
    )

    async def flood(scale: int) -> None:
        await disconnect_while_waiting(engine, 15 * scale)
        await stalling(engine, scale)
        await asking_for_what_is_not_there(engine, 4 * scale)
        if scale > 10:
            await pipelining(engine)
            # Until it has taken what it wants to take.
            for _ in range(100):
                await engine.ask("/healthz")
            assert engine.rss - rss < 40_000_000
            engine.abort_all()

    # Once on a small scale, so that pools and caches are there already.
    rss = 0
    await flood(10)
    await engine.ask("/healthz")
    descriptors, rss = engine.descriptors, engine.rss
    await flood(100)
    # SQLite keeps some of the catalog's that it will use again: closing one would drop the locks of
    # the others (sqlite.org/howtocorrupt.html, 2.2).
    await engine.descriptors_are_back(descriptors + 30)
    assert engine.rss - rss < 40_000_000
    assert "Traceback" not in engine.process.process.output


async def test_with_few_descriptors_health_is_reported_and_the_log_stays_small(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """S10: 300 clients and a limit of 256 descriptors made 5,060 tracebacks in four seconds."""
    async with running(
        tmp_path_factory.mktemp("e"), [require_program("prlimit"), "--nofile=320:320"]
    ) as engine:
        engine.source.hold("/manifests/silent", method="GET")
        for _ in range(300):
            # One for which there is no room at all is reset, which its own connect() may see
            # already.
            with suppress(ConnectionError):
                await engine.client(
                    b"GET /v2/library/app/manifests/silent HTTP/1.1\r\nHost: x\r\n\r\n"
                )
        async with asyncio.timeout(HANG):
            while not await answers(engine, "/healthz"):
                pass
        await healthy(engine)
        assert engine.descriptors < 320 - 64
        engine.abort_all()
        async with asyncio.timeout(HANG):
            while not await answers(engine, "/v2/"):
                pass
        assert "Traceback" not in engine.process.process.output
        assert len(engine.process.process.lines()) < 20
