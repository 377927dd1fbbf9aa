"""HTTP on a plain socket: what a command needs of it, and what becomes of answers that are none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from entrepot.api.client import CacheClient
from entrepot.api.errors import EngineAnswerInvalid, EngineRefused, EngineUnreachable
from entrepot.api.transport import (
    ApiResponse,
    BlockingTransport,
    HttpxTransport,
    TransportBroken,
    TransportTimeout,
)
from entrepot.engine.engine import Engine
from entrepot.server.run import listening
from tests.authority import CertificateAuthority
from tests.fakes import FakeRegistry


@asynccontextmanager
async def answering(
    root: Path, answer: bytes, *, closes: bool = True
) -> AsyncIterator[tuple[Path, list[bytes]]]:
    """A server that gives one answer to each question. What it was asked is kept."""
    requests: list[bytes] = []
    silent = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        if not closes:
            await silent.wait()
        writer.close()

    path = root / "s"
    async with await asyncio.start_unix_server(serve, path):
        yield path, requests
        silent.set()


async def ask(path: Path, *, patience: float = 30.0) -> ApiResponse:
    """Ask in a thread: a request over a blocking transport blocks."""
    return await asyncio.to_thread(
        lambda: asyncio.run(
            BlockingTransport(path).request("GET", "/x", {"A": "b"}, None, patience)
        )
    )


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc"),
        (b"HTTP/1.1 200 OK\r\ncontent-length:3\r\n\r\nabcdef", 200, b"abc"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            200,
            b"abcde",
        ),
        (b"HTTP/1.0 503 Busy\r\n\r\nuntil the end", 503, b"until the end"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 204\r\n\r\n", 204, b""),
    ],
)
async def test_an_answer_however_its_length_is_stated(
    answer: bytes, status: int, body: bytes, tmp_path: Path
) -> None:
    async with answering(tmp_path, answer) as (path, requests):
        assert await ask(path) == (status, body, None, None)
    assert requests == [b"GET /x HTTP/1.1\r\nHost: entrepot\r\nConnection: close\r\nA: b\r\n\r\n"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    ],
)
async def test_what_breaks_off_or_is_no_answer(answer: bytes, tmp_path: Path) -> None:
    async with answering(tmp_path, answer) as (path, _):
        with pytest.raises(TransportBroken):
            await ask(path)


async def test_a_silent_server(tmp_path: Path) -> None:
    async with answering(
        tmp_path, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na", closes=False
    ) as (path, _):
        with pytest.raises(TransportTimeout):
            await ask(path, patience=0.01)


async def test_no_server_at_the_address(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("none", "file", "x" * 200):
        with pytest.raises(TransportBroken):
            await ask(tmp_path / name)


# A whole client


async def blocking(engine: Engine, question: Callable[[CacheClient], Awaitable[object]]) -> object:
    """What a client without an event loop of its own gets from an engine that listens."""

    async def session() -> object:
        async with CacheClient.blocking_at(engine.directories.socket) as client:
            return await question(client)

    return await asyncio.to_thread(lambda: asyncio.run(session()))


async def test_it_is_the_same_client(engine: Engine) -> None:
    async with listening(engine):
        assert (
            await blocking(engine, lambda client: client.rules.list()) == await engine.rules.list()
        )
        await blocking(
            engine,
            lambda client: client.rules.create(
                "acme-api", "registry.example.com/acme/api", "acme/api"
            ),
        )
        assert (
            await blocking(engine, lambda client: client.rules.get("ACME-api"))
        ).name == "acme-api"  # type: ignore[attr-defined]
        with pytest.raises(EngineRefused, match="already"):
            await blocking(
                engine,
                lambda client: client.rules.create(
                    "acme-api", "registry.example.com/acme/api", "acme/api"
                ),
            )
        await blocking(engine, lambda client: client.rules.delete("acme-api"))
        await blocking(engine, lambda client: client.system.stop())
        assert engine.stopping.is_set()
        first = await blocking(engine, lambda client: anext(client.system.events(), None))
        assert first is None
    with pytest.raises(EngineUnreachable, match="entrepot serve"):
        await blocking(engine, lambda client: client.system.status())


async def test_a_server_that_is_no_engine(engine: Engine) -> None:
    directory = engine.directories.socket.parent
    async with answering(directory, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>") as (
        path,
        _,
    ):
        os.rename(path, engine.directories.socket)
        with pytest.raises(EngineAnswerInvalid, match="no engine, or an engine of another version"):
            await blocking(engine, lambda client: client.system.status())


@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "http_proxy"])
@pytest.mark.parametrize(
    "value", ["socks5://127.0.0.1:9", "socks4://127.0.0.1:9", "not a proxy", "http://127.0.0.1:9"]
)
async def test_no_proxy_of_the_environment_stands_between_a_client_and_its_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """F75: httpx refuses to start where ALL_PROXY names a SOCKS proxy, unless it is not to read the
    environment."""
    monkeypatch.setenv(variable, value)
    async with answering(tmp_path, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as (
        path,
        questions,
    ):
        transport = HttpxTransport.at(path)
        assert (await transport.request("GET", "/entrepot/v1/status", {}, None, 30.0)).status == 200
        await transport.close()
        assert (await ask(path)).status == 200
        assert len(questions) == 2
    over_https = HttpxTransport.over_https("https://127.0.0.1:1")
    with pytest.raises(TransportBroken):
        await over_https.request("GET", "/entrepot/v1/status", {}, None, 30.0)
    await over_https.close()


async def test_an_issuer_below_another_authority_is_trusted_where_it_is_named(
    tmp_path: Path,
) -> None:
    """OpenSSL requires the root too, unless partial chains are allowed."""
    issuer = CertificateAuthority(
        tmp_path, "Example Issuer", CertificateAuthority(tmp_path, "Example Root")
    )
    async with FakeRegistry(tls=issuer.server()) as server:
        transport = HttpxTransport.over_https(server.url, issuer.path)
        assert (await transport.request("GET", "/v2/", {}, None, 30.0)).status == 200
        await transport.close()
