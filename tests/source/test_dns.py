"""Look-ups of names: threads of their own, bounded, with a time-out."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from entrepot.core.reference import Repository, Tag
from entrepot.source.dns import (
    ALL_LOOKUPS,
    AddressInfo,
    LookupLimit,
    Lookups,
    LookupsBusy,
    LookupTimedOut,
    literal,
)
from entrepot.source.errors import SourceUnreachable
from entrepot.source.sources import Sources
from tests.source.conftest import Pauses, registry

SHORT = 0.02
ADDRESS: AddressInfo = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 0))


class NameServer:
    """Silent for names that begin with ``slow``, until it is released."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.threads: list[threading.Thread] = []
        self._released = threading.Event()

    def __call__(self, host: str, family: int) -> list[AddressInfo]:
        self.asked.append(host)
        self.threads.append(threading.current_thread())
        if host.startswith("slow"):
            self._released.wait(30)
        if host.startswith("odd"):
            raise UnicodeError("label empty or too long")
        return [ADDRESS]

    def release(self) -> None:
        self._released.set()
        for thread in self.threads:
            thread.join(10)


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    server.release()


async def test_a_look_up_has_a_thread_of_its_own(name_server: NameServer) -> None:
    """S18: the catalog, eviction and hand edits use the event loop's executor."""
    assert await Lookups(10, look_up=name_server).addresses("a.example") == [ADDRESS]
    [thread] = name_server.threads
    assert thread.name == "look-up of a.example"
    assert thread.daemon, "a silent name server must not keep the engine from ending"


async def test_a_slow_name_server_leaves_the_executor_of_the_event_loop_alone(
    name_server: NameServer,
) -> None:
    """S18: eight slow names held up `entrepot status` for 20 s."""
    lookups = Lookups(SHORT, look_up=name_server)
    async with asyncio.timeout(30):
        failures = await asyncio.gather(
            *(lookups.addresses(f"slow{number}.example") for number in range(8)),
            return_exceptions=True,
        )
        assert {type(each) for each in failures} == {LookupTimedOut}
        assert await asyncio.to_thread(lambda: "free") == "free"


async def test_one_slow_name_takes_one_thread_however_often_it_is_asked_for(
    name_server: NameServer,
) -> None:
    """S18."""
    lookups = Lookups(SHORT, look_up=name_server)
    for _ in range(20):
        with pytest.raises(LookupTimedOut):
            await lookups.addresses("slow.example")
    assert name_server.asked == ["slow.example"]
    assert await lookups.addresses("a.example") == [ADDRESS], "others go on"
    waiting = asyncio.create_task(Lookups(30, look_up=name_server).addresses("slow.example"))
    while len(name_server.asked) < 3:
        await asyncio.sleep(0)
    name_server.release()
    assert await waiting == [ADDRESS]


async def test_when_all_threads_of_a_source_are_stuck_a_look_up_fails_at_once(
    name_server: NameServer,
) -> None:
    """S18: nobody waits for what can't come."""
    lookups = Lookups(SHORT, most=2, look_up=name_server)
    for name in ("slow1", "slow2"):
        with pytest.raises(LookupTimedOut):
            await lookups.addresses(name)
    lookups._timeout = 3600
    async with asyncio.timeout(30):
        with pytest.raises(LookupsBusy, match="2 look-ups of names wait for an answer"):
            await lookups.addresses("a.example")
    assert await Lookups(10, look_up=name_server).addresses("a.example") == [ADDRESS], (
        "another source goes on"
    )


async def test_more_names_than_threads_wait_their_turn(name_server: NameServer) -> None:
    lookups = Lookups(30, most=1, look_up=name_server)
    waiting = [
        asyncio.create_task(lookups.addresses(name))
        for name in ("slow.example", "b.example", "c.example")
    ]
    while not name_server.asked:
        await asyncio.sleep(0)
    name_server.release()
    assert await asyncio.gather(*waiting) == [[ADDRESS]] * 3


async def test_all_sources_together_have_a_bound(name_server: NameServer) -> None:
    """S18: redirects to many names by many sources."""
    total = LookupLimit(3)
    for number in range(3):
        with pytest.raises(LookupTimedOut):
            await Lookups(SHORT, total=total, look_up=name_server).addresses(f"slow{number}")
    with pytest.raises(LookupsBusy):
        await Lookups(3600, total=total, look_up=name_server).addresses("a.example")
    name_server.release()
    while total.running:
        await asyncio.sleep(0)
    assert await Lookups(10, total=total, look_up=name_server).addresses("a.example") == [ADDRESS]


async def test_a_name_that_no_resolver_takes_is_not_known() -> None:
    """S02: UnicodeError of a label that is too long."""
    with pytest.raises(socket.gaierror):
        await Lookups(10, look_up=NameServer()).addresses("odd")
    assert ALL_LOOKUPS.running == 0


async def test_who_asks_and_leaves_stops_no_look_up_of_others(name_server: NameServer) -> None:
    lookups = Lookups(30, look_up=name_server)
    first, second = (asyncio.create_task(lookups.addresses("slow.example")) for _ in range(2))
    while not name_server.asked:
        await asyncio.sleep(0)
    first.cancel()
    name_server.release()
    assert await second == [ADDRESS]
    assert first.cancelled()


def test_an_address_of_ipv6_keeps_its_scope() -> None:
    assert (
        literal((socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 0, 0, 2))) == "fe80::1%2"
    )
    assert literal(ADDRESS) == "10.0.0.1"


async def test_a_source_whose_name_server_is_silent_is_unreachable(
    opened: Callable[..., Sources], pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S18: `connect_timeout` covers the look-up, which nothing ended before."""
    released = threading.Event()

    def silent(*_: object, **__: object) -> list[object]:
        released.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    client = opened(connect_timeout=SHORT).client(registry("http://r.example:1"), None)
    try:
        async with asyncio.timeout(30):
            with pytest.raises(
                SourceUnreachable,
                match=r"docker\.io \(r\.example\) can't be reached: "
                r"the name server does not answer in time",
            ):
                await client.head_manifest(Repository("library/nginx"), Tag("1"))
        assert len(pauses.taken) == 1, "two attempts, as for every silence"
    finally:
        released.set()
