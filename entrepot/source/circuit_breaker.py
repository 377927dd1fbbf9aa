"""Hosts that can't be reached, and when they are tried again.

A host that takes no connection or stays silent costs every request its time-outs, and clients wait
with us. So after the first request that failed in this way, with all its attempts, nothing is sent
to that host any more: what is held is served at once, and what is not held fails at once. Meanwhile
one small request after another tries whether the host answers again, with growing pauses in
between; the first answer lets all requests pass.

Only connections count: a name that is not known, no connection, no TLS, silence. A host that
answers is there, whatever it says; and a repository that never gets its answer does not speak for
the host while others get theirs.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import httpx

from entrepot.source.errors import SourceAvoided, SourceUnreachable
from entrepot.tasks import OwnedTasks

FIRST_PAUSE = 1.0
"""Seconds until a host that could not be reached is first tried again; doubled each time, and made
a little longer or shorter at random."""

LONGEST_PAUSE = 60.0
"""Seconds between two tries at the most, so that a source that is back is used within about a
minute."""

SUSPECTED_FOR = 30.0
"""Seconds for which a host that kept a client waiting is not waited for again, unless it answers
before."""

GIVEN_UP_AT_ONCE = 32
"""Hosts of one source that are tried again at the same time: a source that redirects to ever more
hosts that are not there starts no more tasks than that."""

REMEMBERED = 1_000
"""Hosts that are remembered. Storage behind a redirect may have many names."""


class CircuitBreaker:
    """One host of a source registry. *origin* is its scheme, name and port; `CircuitBreakers` owns it."""

    def __init__(
        self,
        login_server: str,
        origin: str,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.login_server = login_server
        self.origin = origin
        self.answers = 0
        """Counts the answers that came from it."""
        self.since: float | None = None
        """Since when nothing is sent to it, in seconds since the epoch; None: it is asked as usual."""
        self.next_try_at: float | None = None
        """When it is next tried, on the monotonic clock."""
        self.error: SourceUnreachable | None = None
        self._clock = clock
        self._wall_clock = wall_clock
        self._suspected_until: float | None = None

    def check(self) -> None:
        """Raise `SourceAvoided` when nothing may be sent to the host."""
        if self.error is None:
            return
        left = max(1.0, (self.next_try_at or 0.0) - self._clock())
        hint = f"{self.error.hint} {self.login_server} is not asked before it can be reached again; the next try is in {left:.0f} s."
        raise SourceAvoided(self.error.what, hint.strip(), left, cause=self.error.cause)

    @property
    def next_try(self) -> float | None:
        """When it is next tried, in seconds since the epoch, on the wall clock as it stands now."""
        return (
            None
            if self.next_try_at is None
            else self._wall_clock() + (self.next_try_at - self._clock())
        )

    def answered(self) -> None:
        """An answer came, of whatever kind."""
        self.answers += 1
        self._suspected_until = None

    def suspect(self) -> None:
        """It keeps a client waiting for too long."""
        self._suspected_until = self._clock() + SUSPECTED_FOR

    @property
    def is_suspected(self) -> bool:
        """Whether it kept a client waiting lately and has not answered anybody since."""
        return self._suspected_until is not None and self._clock() < self._suspected_until


class CircuitBreakers:
    """All hosts of all source registries. It owns the tasks that try again.

    *wait* waits between two tries; *on_change* is told when a host is given up and when it answers
    again. *clock* is monotonic, *wall_clock* since the epoch.
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
        """Try no more."""
        async with self._tasks:
            pass

    def of(self, login_server: str, url: httpx.URL) -> CircuitBreaker:
        """The breaker of the host of *url* on behalf of a source registry."""
        key = (login_server, f"{url.scheme}://{url.netloc.decode('ascii')}")
        found = self._breakers.get(key)
        if found is None:
            found = self._breakers[key] = CircuitBreaker(*key, self._clock, self._wall_clock)
            for each in [each for each, breaker in self._breakers.items() if breaker.since is None][
                : max(0, len(self._breakers) - REMEMBERED)
            ]:
                del self._breakers[each]
        return found

    def open_of(self, login_server: str) -> CircuitBreaker | None:
        """A host of a source registry to which nothing is sent now, the one that was given up
        first."""
        found = [
            each
            for each in self._breakers.values()
            if each.login_server == login_server and each.since is not None
        ]
        return min(found, key=lambda each: each.since or 0.0, default=None)

    def give_up(
        self,
        breaker: CircuitBreaker,
        error: SourceUnreachable,
        reaches: Callable[[str], Awaitable[bool]],
    ) -> None:
        """Send nothing to a host until *reaches* says that its origin answers again."""
        given_up = sum(
            each.since is not None and each.login_server == breaker.login_server
            for each in self._breakers.values()
        )
        if breaker.since is not None or given_up >= GIVEN_UP_AT_ONCE:
            return
        breaker.since, breaker.error, breaker.next_try_at = (
            self._wall_clock(),
            error,
            self._clock() + FIRST_PAUSE,
        )
        self.on_change(breaker)
        self._tasks.start(self._try_again(breaker, reaches), f"trying {breaker.origin} again")

    async def _try_again(
        self, breaker: CircuitBreaker, reaches: Callable[[str], Awaitable[bool]]
    ) -> None:
        pause = FIRST_PAUSE
        while True:
            wait = pause * random.uniform(0.8, 1.2)
            breaker.next_try_at = self._clock() + wait
            await self.wait(wait)
            if await reaches(breaker.origin):
                break
            pause = min(pause * 2, LONGEST_PAUSE)
        breaker.since = breaker.error = breaker.next_try_at = None
        breaker.answered()
        self.on_change(breaker)
