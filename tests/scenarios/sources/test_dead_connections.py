"""Connections that die without a word: every packet is dropped, as by a firewall that restarted and
has forgotten them. On a network of our own."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from entrepot.source import sockets
from entrepot.source.addresses import Reach
from entrepot.source.transport import SourceTransport
from tests.programs import require_program

NAMESPACE = f"entrepot-{os.getpid()}"
# Of one run of the tests: two may go on at the same time.
OURS, THEIRS = (
    f"10.213.{os.getpid() % 16_384 >> 6}.{(os.getpid() % 64 << 2) + host}" for host in (1, 2)
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def ip(*arguments: str) -> None:
    subprocess.run([require_program("ip"), *arguments], check=True, capture_output=True)


@pytest.fixture
def other_machine() -> Iterator[None]:
    """Another machine on a network with this one."""
    ip_program = require_program("ip")
    if os.geteuid():
        pytest.skip("a network can be made by root only")
    ours, theirs = f"e{os.getpid()}", f"f{os.getpid()}"
    addition = subprocess.run(
        [ip_program, "netns", "add", NAMESPACE], capture_output=True, text=True, check=False
    )
    if addition.returncode:
        pytest.skip(f"no network can be addition here: {addition.stderr.strip()}")
    try:
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", NAMESPACE)
        ip("addr", "add", f"{OURS}/30", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-n", NAMESPACE, "addr", "add", f"{THEIRS}/30", "dev", theirs)
        ip("-n", NAMESPACE, "link", "set", theirs, "up")
        yield
    finally:
        ip("netns", "del", NAMESPACE)


def serve_in_namespace(stopping: threading.Event, listening: threading.Event) -> None:
    """Answer on the other machine. A thread of its own may change its network namespace."""
    with Path(f"/var/run/netns/{NAMESPACE}").open() as namespace:
        _setns(namespace.fileno())
    with socket.create_server((THEIRS, 80)) as server:
        server.settimeout(0.05)
        listening.set()
        connections: list[socket.socket] = []
        while not stopping.is_set():
            try:
                connections.append(server.accept()[0])
                connections[-1].settimeout(0.0)
            except TimeoutError:
                pass
            for connection in connections:
                try:
                    if connection.recv(65536):
                        connection.sendall(ANSWER)
                except (BlockingIOError, ConnectionError):
                    continue
        for connection in connections:
            connection.close()


def _setns(descriptor: int) -> None:
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    # CLONE_NEWNET (setns(2))
    if library.setns(descriptor, 0x40000000):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


async def test_f13_a_dead_pooled_connection_is_noticed_long_before_the_read_time_out(
    other_machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "DEAD_PEER_TIMEOUT", 1)
    stopping, listening = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        serving = threads.submit(serve_in_namespace, stopping, listening)
        try:
            await asyncio.to_thread(listening.wait, 10)
            sends = SourceTransport(
                ssl.create_default_context(), connections=1, reach=Reach(loopback=True)
            )
            # Without the socket's own watchfulness the read time-out would be all that ends the
            # wait.
            async with httpx.AsyncClient(
                transport=sends,
                base_url=f"http://{THEIRS}",
                timeout=httpx.Timeout(60, connect=60, pool=None),
            ) as http:
                assert (await http.get("/")).text == "ok"
                await asyncio.to_thread(
                    ip, "-n", NAMESPACE, "route", "add", "blackhole", f"{OURS}/32"
                )
                async with asyncio.timeout(30):
                    with pytest.raises(httpx.TransportError):
                        await http.get("/")
                await asyncio.to_thread(
                    ip, "-n", NAMESPACE, "route", "del", "blackhole", f"{OURS}/32"
                )
                assert (await http.get("/")).text == "ok"
        finally:
            stopping.set()
            await asyncio.to_thread(serving.result)
