"""DNS look-ups in threads of their own, bounded for each source and for all.

`socket.getaddrinfo` blocks for as long as a name server is silent, and can't be interrupted. So
look-ups do not use the threads of the event loop's executor, in which the catalog and the files are
read. A look-up whose clients have all left keeps its thread until the system gives up; requests for
the same name wait for the same look-up, so one slow name takes one thread. Where all threads are
stuck, a look-up fails at once.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

MAX_LOOKUPS_PER_SOURCE = 8
"""Look-ups that run at once for one source: a registry has one name, and its storage a few."""

MAX_LOOKUPS = 64
"""Look-ups that run at once for all sources together; each holds a thread."""

AddressInfo: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]


class LookupTimedOut(OSError):
    """The name server does not answer in time."""


class LookupsBusy(OSError):
    """All threads for look-ups wait for a name server that does not answer."""


class LookupLimit:
    """How many look-ups may run at once, of all that share it. It is thread-safe."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.running = 0
        self._lock = threading.Lock()

    @property
    def is_reached(self) -> bool:
        """Whether no further look-up may start."""
        return self.running >= self.most

    def add(self, count: int) -> None:
        """Count a look-up that starts (1) or ends (-1)."""
        with self._lock:
            self.running += count


ALL_LOOKUPS = LookupLimit(MAX_LOOKUPS)
"""The limit of this process."""


class Lookups:
    """The look-ups of one source.

    *timeout* is in seconds; *total* is shared with other sources, *look_up* takes the place of the
    system's resolver.
    """

    def __init__(
        self,
        timeout: float,
        *,
        most: int = MAX_LOOKUPS_PER_SOURCE,
        total: LookupLimit = ALL_LOOKUPS,
        look_up: Callable[[str, int], list[AddressInfo]] | None = None,
    ) -> None:
        self._timeout = timeout
        self._own = LookupLimit(most)
        self._total = total
        self._look_up = look_up or _system_addresses
        self._running: dict[tuple[str, int], asyncio.Future[list[AddressInfo]]] = {}
        self._overdue: set[tuple[str, int]] = set()
        self._ended = asyncio.Event()

    async def addresses(self, host: str, family: int = socket.AF_UNSPEC) -> list[AddressInfo]:
        """The addresses of *host* for a TCP connection, without ports.

        Raises `OSError`: `LookupTimedOut`, `LookupsBusy` or what the system says.
        """
        key = (host, family)
        try:
            async with asyncio.timeout(self._timeout):
                while (running := self._running.get(key)) is None:
                    if not self._own.is_reached and not self._total.is_reached:
                        running = self._start(host, family)
                        break
                    if self._total.is_reached or len(self._overdue) >= self._own.most:
                        limit = self._total if self._total.is_reached else self._own
                        raise LookupsBusy(f"{limit.running} look-ups of names wait for an answer")
                    self._ended.clear()
                    await self._ended.wait()
                return await asyncio.shield(running)
        except TimeoutError:
            if key in self._running:
                self._overdue.add(key)
            raise LookupTimedOut(
                f"the look-up of {host} took longer than {self._timeout:g} s"
            ) from None

    def _start(self, host: str, family: int) -> asyncio.Future[list[AddressInfo]]:
        loop = asyncio.get_running_loop()
        key = (host, family)
        future: asyncio.Future[list[AddressInfo]] = loop.create_future()
        # All clients may have left: asyncio logs an exception that was never retrieved.
        future.add_done_callback(lambda lookup: lookup.cancelled() or lookup.exception())
        limits = (self._own, self._total)

        def finish(addresses: list[AddressInfo], error: OSError | None) -> None:
            for limit in limits:
                limit.add(-1)
            del self._running[key]
            self._overdue.discard(key)
            self._ended.set()
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(addresses)

        def work() -> None:
            addresses: list[AddressInfo] = []
            failure: OSError | None = None
            try:
                addresses = self._look_up(host, family)
            except OSError as error:
                failure = error
            except Exception as error:  # such as UnicodeError for a name that no resolver takes
                failure = socket.gaierror(socket.EAI_NONAME, str(error))
            try:
                loop.call_soon_threadsafe(finish, addresses, failure)
            except RuntimeError:
                # The loop was closed meanwhile. The thread must not stay counted for another loop
                # of this process.
                self._total.add(-1)

        # A daemon, because a look-up can't be interrupted: the engine must not wait for it when it
        # stops.
        thread = threading.Thread(target=work, name=f"look-up of {host}", daemon=True)
        for limit in limits:
            limit.add(1)
        self._running[key] = future
        try:
            thread.start()
        except RuntimeError as error:
            finish([], LookupsBusy(f"no thread can be started: {error}"))
        return future


def _system_addresses(host: str, family: int) -> list[AddressInfo]:
    """The addresses of a name, by the system's resolver. Blocks."""
    addresses = socket.getaddrinfo(
        host, None, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return [
        (socket.AddressFamily(family_number), kind, protocol, name, tuple(address))
        for family_number, kind, protocol, name, address in addresses
    ]


def literal(address: AddressInfo) -> str:
    """The address as text, of IPv6 with its scope."""
    parts = address[4]
    text = str(parts[0])
    return f"{text}%{parts[3]}" if len(parts) > 3 and parts[3] and "%" not in text else text
