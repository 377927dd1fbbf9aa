"""How connections are counted, limited and accepted."""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import Any

import pytest

from entrepot.httpd import connections as connections_module
from entrepot.httpd.server import serving
from tests.httpd.byte_client import answer, echo


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        (("192.0.2.7", 1234), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1234, 0, 0), "192.0.2.7"),
        (("2001:db8:1:2:3::4", 1234, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1234, 0, 2), "fe80::/64"),
        (("127.0.0.1", 1234), None),
        (("::1", 1234, 0, 0), None),
        ("", None),
    ],
)
def test_s09_what_counts_as_one_address(address: object, counted: str | None) -> None:
    assert connections_module.counted_address(address) == counted


class _Exhausted(socket.socket):
    """A listening socket that has no descriptor for its first two connections."""

    times = 2

    def accept(self) -> tuple[socket.socket, Any]:
        if self.times:
            self.times -= 1
            raise OSError(24, "Too many open files")
        return super().accept()


async def test_s10_without_descriptors_it_waits_with_one_line_each_time_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections_module, "ACCEPT_PAUSE", 0.01)
    listener = _Exhausted()
    listener.bind(("127.0.0.1", 0))
    async with serving(echo, listener), asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(reader))[0] == 200
        writer.close()
    assert [
        (record.name, "Too many open files" in record.message) for record in caplog.records
    ] == [("entrepot.server", True)] * 2


@pytest.mark.parametrize(
    ("descriptors", "expected"),
    [(256, 16), (1024, 256), (4096, 1280), (1_048_576, 4096), (resource.RLIM_INFINITY, 4096)],
)
def test_s10_there_are_as_many_connections_as_descriptors_allow(
    descriptors: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert connections_module.connection_limit() == expected
