from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from entrepot.source import dialing, sockets
from entrepot.source.addresses import AddressRefused, Reach
from entrepot.source.blob_transport import BlobTransport
from entrepot.source.dns import AddressInfo, Lookups
from tests.fakes import FakeRegistry

HOST = "registry.example"
TEXT = b"it came"


def found(*addresses: str) -> Callable[[str, int], list[AddressInfo]]:
    """A look-up that knows one name, which has *addresses*."""

    def look_up(host: str, family: int) -> list[AddressInfo]:
        if host != HOST:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, 0, 0, 0) if ":" in address else (address, 0),
            )
            for address in addresses
        ]

    return look_up


def transport(*addresses: str, reach: Reach | None = None) -> BlobTransport:
    return BlobTransport(
        ssl.create_default_context(),
        Lookups(10, look_up=found(*addresses)),
        connections=2,
        reach=reach if reach is not None else Reach(loopback=True),
    )


@pytest.fixture(params=["127.0.0.1", "::1"])
async def source(request: pytest.FixtureRequest) -> AsyncIterator[FakeRegistry]:
    try:
        async with FakeRegistry(address=request.param) as running:
            running.files["/x"] = TEXT
            yield running
    except OSError:
        pytest.skip("this machine has no IPv6")


async def get(sends: BlobTransport, url: str) -> bytes:
    async with httpx.AsyncClient(transport=sends, trust_env=False) as http:
        return (await http.get(url)).content


async def test_a_name_leads_to_its_address(source: FakeRegistry) -> None:
    assert await get(transport(source.address), f"http://{HOST}:{source.port}/x") == TEXT
    assert source.requests[0].headers["host"] == f"{HOST}:{source.port}"


async def test_a_literal_address_is_not_looked_up(source: FakeRegistry) -> None:
    host = f"[{source.address}]" if ":" in source.address else source.address
    assert await get(transport(), f"http://{host}:{source.port}/x") == TEXT


async def test_the_next_address_is_tried_where_one_takes_no_connection(
    source: FakeRegistry,
) -> None:
    sends = transport("127.0.0.77", "::1", "127.0.0.1")
    assert await get(sends, f"http://{HOST}:{source.port}/x") == TEXT


async def test_a_silent_address_keeps_nobody_waiting(
    source: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 8305: the next one is tried beside it, and the first answer counts."""
    monkeypatch.setattr(dialing, "HAPPY_EYEBALLS_DELAY", 0.01)
    addresses_tried: list[str] = []
    with socket.socket() as full:
        # Its queue is full: what comes further is not answered.
        full.bind(("127.0.0.66", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(("127.0.0.66", port))
        open_socket = sockets.open_socket

        def redirected(address: tuple[Any, ...], reach: Reach | None = None) -> socket.socket:
            addresses_tried.append(str(address[4][0]))
            return open_socket(address, reach)

        monkeypatch.setattr(sockets, "open_socket", redirected)
        async with FakeRegistry(address="127.0.0.1", port=port) as other:
            other.files["/x"] = TEXT
            sends = transport("127.0.0.66", "127.0.0.1")
            assert await get(sends, f"http://{HOST}:{port}/x") == TEXT
        for client in waiting:
            client.close()
    assert addresses_tried == ["127.0.0.66", "127.0.0.1"]


async def test_only_addresses_that_may_be_reached_are_tried(source: FakeRegistry) -> None:
    url = f"http://{HOST}:{source.port}/x"
    with pytest.raises(AddressRefused):
        await get(transport(source.address, "169.254.169.254", reach=Reach()), url)
    # The administrator named the host, which may be anywhere.
    assert await get(transport(source.address, reach=Reach(frozenset({HOST}))), url) == TEXT
    assert len(source.requests) == 1


async def test_a_name_without_an_address_is_no_connection() -> None:
    with pytest.raises(httpx.ConnectError) as failed:
        await get(transport(), f"http://{HOST}/x")
    assert isinstance(failed.value.__cause__, socket.gaierror)
