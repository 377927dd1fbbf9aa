"""Circuit breakers: unreachable hosts get no requests until they answer again.

A host that accepts no connection or stays silent costs every request its time-outs, and clients
wait. So after the first request that failed in this way, with all its attempts, the breaker of that
host opens: no request is sent to it. What is cached is served at once, and what is not cached fails
at once. Meanwhile small probes try whether the host answers again, with growing delays in between;
the first response closes the breaker.

Only connections count: an unknown name, no connection, no TLS, silence. A host that answers is
reachable, whatever the status; and a repository that never gets a response does not speak for the
host while others get theirs.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import httpx

from entrepot.source.errors import SourceAvoided, SourceUnreachable
from entrepot.tasks import OwnedTasks

FIRST_PROBE_DELAY = 1.0
"""Seconds from the opening of a breaker to the first probe; doubled each time, and made a little
longer or shorter at random."""

MAX_PROBE_DELAY = 60.0
"""Seconds between two probes at the most, so that a source that is back is used within about a
minute."""

SUSPICION_TIME = 30.0
"""Seconds for which requests do not wait for a host that kept a client waiting, unless it answers
before."""

MAX_OPEN_PER_SOURCE = 32
"""Breakers of one source that are open at once: a source that redirects to ever more hosts that do
not exist starts no more probes than that."""

MAX_BREAKERS = 1_000
"""Hosts that are remembered. Storage behind a redirect may have many names."""


class CircuitBreaker:
    """The breaker of one host of a source registry; `CircuitBreakers` owns it.

    *origin* is the host's scheme, name and port.
    """

    def __init__(
        self,
        login_server: str,
        origin: str,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.login_server = login_server
        self.origin = origin
        self.responses = 0
        """Counts the responses that came from the host."""
        self.since: float | None = None
        """When the breaker opened, in seconds since the epoch; None: it is closed."""
        self.next_try_at: float | None = None
        """When the host is next probed, on the monotonic clock."""
        self.error: SourceUnreachable | None = None
        """Why the breaker is open; None: it is closed."""
        self._clock = clock
        self._wall_clock = wall_clock
        self._suspected_until: float | None = None

    def check(self) -> None:
        """Raise `SourceAvoided` while the breaker is open."""
        if self.error is None:
            return
        wait = max(1.0, (self.next_try_at or 0.0) - self._clock())
        hint = (
            f"{self.error.hint} {self.login_server} is not asked before it can be reached again; "
            f"the next try is in {wait:.0f} s."
        )
        raise SourceAvoided(self.error.what, hint.strip(), wait, cause=self.error.cause)

    @property
    def next_try(self) -> float | None:
        """When the host is next probed, in seconds since the epoch.

        It is on the wall clock as it stands now.
        """
        return (
            None
            if self.next_try_at is None
            else self._wall_clock() + (self.next_try_at - self._clock())
        )

    def record_response(self) -> None:
        """Count a response, with any status."""
        self.responses += 1
        self._suspected_until = None

    def suspect(self) -> None:
        """Note that the host keeps a client waiting for too long."""
        self._suspected_until = self._clock() + SUSPICION_TIME

    @property
    def is_suspected(self) -> bool:
        """Whether the host kept a client waiting lately and has not answered any since."""
        return self._suspected_until is not None and self._clock() < self._suspected_until


class CircuitBreakers:
    """The breakers of all hosts of all source registries, and the tasks that probe.

    *wait* waits between two probes; `on_change` is called when a breaker opens and when it closes.
    *clock* is monotonic, *wall_clock* since the epoch.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        *,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.wait = wait
        self.on_change: Callable[[CircuitBreaker], None] = lambda _: None
        self._clock = clock
        self._wall_clock = wall_clock
        self._breakers: OrderedDict[tuple[str, str], CircuitBreaker] = OrderedDict()
        self._tasks = OwnedTasks()

    async def close(self) -> None:
        """End all probes."""
        async with self._tasks:
            pass

    def of(self, login_server: str, url: httpx.URL) -> CircuitBreaker:
        """The breaker of the host of *url*, on behalf of a source registry."""
        key = (login_server, f"{url.scheme}://{url.netloc.decode('ascii')}")
        breaker = self._breakers.get(key)
        if breaker is None:
            breaker = CircuitBreaker(*key, self._clock, self._wall_clock)
            self._breakers[key] = breaker
            self._forget_oldest()
        return breaker

    def _forget_oldest(self) -> None:
        excess = max(0, len(self._breakers) - MAX_BREAKERS)
        closed = [key for key, breaker in self._breakers.items() if breaker.since is None]
        for key in closed[:excess]:
            del self._breakers[key]

    def opened_first(self, login_server: str) -> CircuitBreaker | None:
        """The open breaker of a source registry; of several, the one that opened first."""
        return min(
            self._open_breakers(login_server),
            key=lambda breaker: breaker.since or 0.0,
            default=None,
        )

    def _open_breakers(self, login_server: str) -> list[CircuitBreaker]:
        return [
            breaker
            for breaker in self._breakers.values()
            if breaker.login_server == login_server and breaker.since is not None
        ]

    def open(
        self,
        breaker: CircuitBreaker,
        error: SourceUnreachable,
        probe: Callable[[str], Awaitable[bool]],
    ) -> None:
        """Send nothing to a host until *probe* says that its origin answers again."""
        if (
            breaker.since is not None
            or len(self._open_breakers(breaker.login_server)) >= MAX_OPEN_PER_SOURCE
        ):
            return
        breaker.since = self._wall_clock()
        breaker.error = error
        breaker.next_try_at = self._clock() + FIRST_PROBE_DELAY
        self.on_change(breaker)
        self._tasks.start(
            self._probe_until_it_answers(breaker, probe), f"trying {breaker.origin} again"
        )

    async def _probe_until_it_answers(
        self, breaker: CircuitBreaker, probe: Callable[[str], Awaitable[bool]]
    ) -> None:
        delay = FIRST_PROBE_DELAY
        while True:
            wait = delay * random.uniform(0.8, 1.2)
            breaker.next_try_at = self._clock() + wait
            await self.wait(wait)
            if await probe(breaker.origin):
                break
            delay = min(delay * 2, MAX_PROBE_DELAY)
        breaker.since = breaker.error = breaker.next_try_at = None
        breaker.record_response()
        self.on_change(breaker)
