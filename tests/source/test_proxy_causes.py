"""Which part is named when a request through a proxy fails."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from entrepot.causes import CauseCode, Fault, at_fault
from entrepot.core.reference import Repository, Tag
from entrepot.source.addresses import Reach
from entrepot.source.diagnosis import Diagnosis
from entrepot.source.failed_request import RequestTarget
from entrepot.source.proxies import Proxy, ProxyFailed
from entrepot.source.sources import Sources
from tests.source.conftest import failure

NGINX, LATEST = Repository("library/nginx"), Tag("latest")


@asynccontextmanager
async def proxy_that_answers(head: bytes) -> AsyncIterator[str]:
    """A proxy that gives one answer to everything: its host and port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        page = b"" if asked.startswith(b"HEAD") else b"<html>no</html>"
        writer.write(
            head
            + b"\r\nContent-Type: text/html\r\nContent-Length: 15\r\nConnection: close\r\n\r\n"
            + page
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("head", "code", "what", "hint"),
    [
        (
            b"HTTP/1.1 407 No",
            CauseCode.PROXY_SIGN_IN,
            "requires a user name and a password (status 407)",
            "HTTPS_PROXY: http://USER:PASSWORD@{place}",
        ),
        (
            b"HTTP/1.1 403 No",
            CauseCode.PROXY_FORBIDS,
            "forbids registry.example (status 403)",
            "or put registry.example into NO_PROXY",
        ),
        (
            b"HTTP/1.1 502 No",
            CauseCode.PROXY_FAILS,
            "does not connect to registry.example (status 502)",
            "the proxy's own log",
        ),
    ],
)
async def test_a_proxy_that_refuses_is_named_and_not_the_source(
    opened: Callable[..., Sources],
    monkeypatch: pytest.MonkeyPatch,
    head: bytes,
    code: CauseCode,
    what: str,
    hint: str,
) -> None:
    async with proxy_that_answers(head) as place:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{place}")
        monkeypatch.delenv("https_proxy", raising=False)
        error = await failure(opened(), "https://registry.example")
    assert error.cause is code
    assert error.what.startswith(
        f"The proxy {place} (the engine's HTTPS_PROXY) {what}, so docker.io can't be reached"
    )
    assert hint.format(place=place) in error.hint
    assert at_fault(code) is Fault.NETWORK


async def test_a_proxy_that_does_not_accept_a_password_says_so_without_it(
    opened: Callable[..., Sources], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy_that_answers(b"HTTP/1.1 407 No") as place:
        monkeypatch.setenv("https_proxy", f"http://ann:hunter2@{place}")
        error = await failure(opened(), "https://registry.example")
    assert "does not accept the user name and password that it is given" in error.what
    assert error.hint.startswith("Correct them in ")
    assert "hunter2" not in error.message


async def test_a_source_over_http_behind_a_proxy_that_wants_a_sign_in(
    opened: Callable[..., Sources], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy_that_answers(b"HTTP/1.1 407 No") as place:
        monkeypatch.setenv("http_proxy", f"http://{place}")
        error = await failure(opened(), "http://registry.example")
    assert (error.cause, "(the engine's http_proxy) requires a user name" in error.what) == (
        CauseCode.PROXY_SIGN_IN,
        True,
    )


async def test_a_proxy_that_takes_no_connections_is_named_and_not_the_source(
    opened: Callable[..., Sources], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("https_proxy", f"http://{place}")
    error = await failure(opened(), "https://registry.example")
    assert error.cause is CauseCode.PROXY_UNREACHABLE
    assert (
        error.what == f"The proxy {place} (the engine's https_proxy) accepts no connections, "
        "so docker.io can't be reached."
    )


async def test_a_proxy_whose_name_nobody_knows_is_named_and_not_the_source(
    opened: Callable[..., Sources], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    error = await failure(opened(), "https://registry.example")
    assert (error.cause, "its name is not known here" in error.what) == (
        CauseCode.PROXY_NAME_UNKNOWN,
        True,
    )


async def test_a_variable_that_names_no_proxy_is_at_fault_and_not_the_source(
    opened: Callable[..., Sources], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "gopher://proxy.example")
    error = await failure(opened(), "https://registry.example")
    assert (error.cause, at_fault(CauseCode.PROXY_UNUSABLE)) == (
        CauseCode.PROXY_UNUSABLE,
        Fault.MACHINE,
    )
    assert "https_proxy" in error.what


async def test_a_silent_name_server_says_nothing_of_how_the_proxy_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F75: HTTPS_PROXY is right, and "Correct HTTPS_PROXY" would lead nowhere."""
    monkeypatch.setenv("https_proxy", "http://proxy.corp:3128")
    proxy = Proxy("http", "proxy.corp", 3128, "https_proxy")
    failed = ProxyFailed("", proxy)
    failed.__cause__ = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    cause = await Diagnosis().cause(
        failed, RequestTarget("docker.io", httpx.URL("https://registry.example"), Reach())
    )
    assert (cause.code, "https_proxy" in cause.hint) == (CauseCode.NAME_SERVER_SILENT, False)
    assert "The proxy proxy.corp:3128 (the engine's https_proxy) can't be reached" in cause.what
