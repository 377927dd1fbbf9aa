"""One process: the registry on TCP, management on a Unix socket, through the real server."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from entrepot.api.client import CacheClient
from entrepot.api.errors import EngineUnreachable
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.errors import EngineError
from entrepot.event_kinds import EventKind
from entrepot.httpd import exchange as exchange_module
from entrepot.server import listeners, run
from entrepot.server.registry import RegistryApp
from entrepot.server.run import listening, serve
from tests.conftest import LOGIN_SERVER, answering
from tests.fakes import FakeRegistry, FlipByte


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The warnings and errors of the log, but for those that tell of a busy machine."""
    return [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name != "entrepot.stalls"
    ]


@pytest.fixture
async def listening_engine(engine: Engine) -> AsyncIterator[Engine]:
    async with answering(engine):
        yield engine


@pytest.fixture
async def client(listening_engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"http://{listening_engine.address}", timeout=30, verify=False
    ) as client:
        yield client


@asynccontextmanager
async def connection(
    engine: Engine,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = engine.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_cached_blob_is_sent_whole_and_in_ranges(
    client: httpx.AsyncClient, listening_engine: Engine, source: FakeRegistry
) -> None:
    layer = (
        source.add_image("library/nginx", "1", layers=[os.urandom(3_000_000)])
        .platforms["linux/amd64"]
        .layers[0]
    )
    path = f"/v2/library/nginx/blobs/{layer.digest}"
    cold = await client.get(path)
    assert (cold.content, cold.headers["entrepot-origin"]) == (layer.content, "upstream")
    if (fill := listening_engine.fills.any(layer.digest)) is not None:
        await fill.wait()
    warm = await client.get(path)
    assert (warm.content, warm.headers["entrepot-origin"], warm.headers["content-length"]) == (
        layer.content,
        "cache",
        str(layer.size),
    )
    part = await client.get(path, headers={"Range": "bytes=1000000-1999999"})
    assert (part.status_code, part.content) == (206, layer.content[1_000_000:2_000_000])
    assert listening_engine.traffic.bytes_served == 2 * layer.size + 1_000_000


async def test_a_wrong_blob_breaks_the_connection_and_never_ends_cleanly(
    client: httpx.AsyncClient, source: FakeRegistry
) -> None:
    layer = (
        source.add_image("library/nginx", "1", layers=[os.urandom(3_000_000)])
        .platforms["linux/amd64"]
        .layers[0]
    )
    source.fault(str(layer.digest), FlipByte(10), method="GET")
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get(f"/v2/library/nginx/blobs/{layer.digest}")


async def test_a_client_that_disconnects_is_noticed_while_the_source_is_silent(
    listening_engine: Engine, source: FakeRegistry
) -> None:
    layer = (
        source.add_image("library/nginx", "1", layers=[os.urandom(1_000_000)])
        .platforms["linux/amd64"]
        .layers[0]
    )
    gate = source.hold(str(layer.digest), after_bytes=500_000, method="GET")
    async with connection(listening_engine) as (reader, writer):
        writer.write(
            f"GET /v2/library/nginx/blobs/{layer.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        await gate.reached
        fill = listening_engine.fills.any(layer.digest)
        assert fill is not None
        assert fill.readers == 1
    async with asyncio.timeout(60):
        while fill.readers:
            await asyncio.sleep(0)
    gate.open()
    await fill.wait()
    assert listening_engine.blobs.size(layer.digest) == layer.size


async def test_management_answers_on_a_private_socket(listening_engine: Engine) -> None:
    path = listening_engine.directories.socket
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with CacheClient.at(path) as client:
        status = await client.system.status()
        assert (status.address, status.rules) == (listening_engine.address, 1)
        assert [rule.name for rule in await client.rules.list()] == ["example-library"]


async def test_the_event_stream_reports_what_happens(listening_engine: Engine) -> None:
    async with CacheClient.at(listening_engine.directories.socket) as client:
        events = client.system.events()
        coming = asyncio.ensure_future(anext(events))
        async with asyncio.timeout(60):
            while not listening_engine.events._watchers:
                await asyncio.sleep(0)
        await listening_engine.rules.delete("example-library")
        event = await coming
        assert (event.kind, event.subject) == ("rule-deleted", "example-library")
        await events.aclose()


async def test_a_port_in_use_is_one_sentence(directories: Directories, settings: Settings) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        async with Engine.open(directories, replace(settings, listen=address)) as engine:
            with pytest.raises(
                EngineError, match=rf"can't listen on {address}: Address already in use.*--listen"
            ):
                async with listening(engine):
                    pass


async def test_an_address_of_another_machine_is_one_sentence(
    directories: Directories, settings: Settings
) -> None:
    elsewhere = replace(
        settings, listen="192.0.2.1:5000", allow_plain_http=True, allow_anonymous=True
    )
    async with Engine.open(directories, elsewhere) as engine:
        with pytest.raises(EngineError, match=r"can't listen on 192\.0\.2\.1:5000") as caught:
            async with listening(engine):
                pass
    assert caught.value.hint.startswith("No network interface of this machine has that address")


async def test_a_port_that_is_for_root_is_not_said_to_be_in_use(
    directories: Directories, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(host: str, port: int) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(listeners, "bind_tcp", refused)
    async with Engine.open(directories, replace(settings, listen="127.0.0.1:80")) as engine:
        with pytest.raises(EngineError, match="Permission denied") as caught:
            async with listening(engine):
                pass
    assert caught.value.hint.startswith("Low ports are for root and for services with CAP_NET")


async def test_ipv6_is_listened_on(directories: Directories, settings: Settings) -> None:
    async with (
        Engine.open(directories, replace(settings, listen="[::1]:0")) as engine,
        listening(engine),
    ):
        assert engine.address.startswith("[::1]:")
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://{engine.address}/v2/")).status_code == 200


async def test_after_a_stop_no_engine_answers(directories: Directories, settings: Settings) -> None:
    started = asyncio.Event()
    serving = asyncio.create_task(serve(directories, settings, ready=lambda _: started.set()))
    await asyncio.wait(
        {serving, asyncio.ensure_future(started.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    async with CacheClient.at(directories.socket) as client:
        await client.system.stop()
        await serving
        with pytest.raises(EngineUnreachable, match="entrepot serve"):
            await client.system.status()
    assert not directories.socket.exists()


async def test_a_socket_that_a_killed_engine_left_is_no_obstacle(
    directories: Directories, settings: Settings
) -> None:
    directories.make()
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(directories.socket))
    async with (
        Engine.open(directories, settings) as engine,
        listening(engine),
        CacheClient.at(directories.socket) as client,
    ):
        assert (await client.system.status()).rules == 0


async def test_a_rule_made_over_the_socket_serves_clients_at_once(
    client: httpx.AsyncClient, listening_engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("team/app", "1")
    assert (await client.get("/v2/team/app/manifests/1")).status_code == 404
    await listening_engine.rules.create(
        RuleDraft("example-team", f"{LOGIN_SERVER}/team/*", "team/*")
    )
    assert (await client.get("/v2/team/app/manifests/1")).status_code == 200


@pytest.mark.parametrize("sent", [0, 500_000], ids=["before the first byte", "in the middle"])
async def test_answers_under_way_are_cut_when_the_grace_is_over(
    sent: int,
    engine: Engine,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(run, "SHUTDOWN_GRACE", 0.1)
    layer = (
        source.add_image("library/nginx", "1", layers=[os.urandom(1_000_000)])
        .platforms["linux/amd64"]
        .layers[0]
    )
    gate = source.hold(str(layer.digest), sent, method="GET")
    async with httpx.AsyncClient(timeout=30) as client:
        async with listening(engine):
            asking = asyncio.create_task(
                client.get(f"http://{engine.address}/v2/library/nginx/blobs/{layer.digest}")
            )
            await gate.reached
        if sent:
            with pytest.raises(httpx.RemoteProtocolError):
                await asking
        else:
            assert "stopping" in (await asking).json()["errors"][0]["message"]
    assert [record for record in caplog.records if record.name == "asyncio"] == []


# Clients that disconnect (S06, L11, F92, F93).


async def gone(engine: Engine) -> None:
    """Wait until no answer is under way any more."""
    async with asyncio.timeout(30):
        while engine.events._watchers:
            await asyncio.sleep(0)


async def test_f92_l11_event_subscribers_that_disconnect_are_removed_without_a_line(
    listening_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    for _ in range(5):
        writers = []
        for _ in range(40):
            reader, writer = await asyncio.open_unix_connection(listening_engine.directories.socket)
            writer.write(b"GET /entrepot/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b": entrepot\n\n")
            writers.append(writer)
        async with asyncio.timeout(30):
            while len(listening_engine.events._watchers) < 40:
                await asyncio.sleep(0)
        for number, writer in enumerate(writers):
            # Some close, some reset the connection, some while an event is on its way to them.
            if number % 3 == 2:
                listening_engine.events.record(EventKind.RULE_UPDATED, "Something happened.")
            writer.transport.abort() if number % 2 else writer.close()
        await gone(listening_engine)
    assert warnings_in(caplog) == []


async def test_f93_clients_that_disconnect_during_their_answer_log_nothing(
    listening_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    host, _, port = listening_engine.address.rpartition(":")
    for number in range(60):
        over_tcp = number % 2
        path = (
            f"/v2/unknown/x{number}/manifests/1"
            if over_tcp
            else f"/entrepot/v1/rules/unknown{number}/plan"
        )
        opened = (
            asyncio.open_connection(host, int(port))
            if over_tcp
            else asyncio.open_unix_connection(listening_engine.directories.socket)
        )
        _, writer = await opened
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 3)
        for _ in range(number % 7):
            await asyncio.sleep(0)
        writer.transport.abort()
    async with asyncio.timeout(30), httpx.AsyncClient() as client:
        assert (await client.get(f"http://{listening_engine.address}/healthz")).status_code == 200
    assert warnings_in(caplog) == []


async def test_f92_a_client_that_disconnects_during_its_body_logs_nothing(
    listening_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    for _ in range(5):
        _, writer = await asyncio.open_unix_connection(listening_engine.directories.socket)
        writer.write(b"POST /entrepot/v1/pulls HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        writer.transport.abort()
    async with CacheClient.at(listening_engine.directories.socket) as client:
        await client.system.status()
    assert warnings_in(caplog) == []


async def test_a_body_that_does_not_come_is_a_408(
    listening_engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exchange_module, "BODY_TIMEOUT", 0.1)
    caplog.clear()
    reader, writer = await asyncio.open_unix_connection(listening_engine.directories.socket)
    writer.write(b"POST /entrepot/v1/pulls HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    async with asyncio.timeout(30):
        assert (await reader.readline()).split()[1] == b"408"
    writer.close()
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("what", ["blob", "part", "manifest", "tags", "referrers", "head"])
async def test_s06_a_client_that_waits_and_disconnects_is_removed_at_once(
    what: str, listening_engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1", layers=[os.urandom(1_000_000)])
    layer = image.platforms["linux/amd64"].layers[0]
    path, part, gate_at = {
        "blob": (f"blobs/{layer.digest}", "", str(layer.digest)),
        "part": (f"blobs/{layer.digest}", "Range: bytes=900000-\r\n", str(layer.digest)),
        "manifest": ("manifests/1", "", "/manifests/"),
        "tags": ("tags/list", "", "/tags/"),
        "referrers": (f"referrers/{image.digest}", "", "/referrers/"),
        "head": ("manifests/1", "", "/manifests/"),
    }[what]
    method = "HEAD" if what == "head" else "GET"
    gate = source.hold(gate_at, 500_000 if what == "part" else 0, method=method)
    answering = registry_answers(listening_engine)
    for _ in range(10):
        async with connection(listening_engine) as (_, writer):
            writer.write(
                f"{method} /v2/library/nginx/{path} HTTP/1.1\r\nHost: x\r\n{part}\r\n".encode()
            )
            await gate.reached
            async with asyncio.timeout(60):
                while not answering():
                    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        while answering():
            await asyncio.sleep(0)
    gate.open()


def registry_answers(engine: Engine) -> Callable[[], int]:
    """How many requests the registry is answering now."""
    [app] = [
        each
        for each in gc.get_objects()
        if isinstance(each, RegistryApp) and each._cache is engine.cache
    ]
    return lambda: len(app._answer_tasks)
