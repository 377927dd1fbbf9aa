"""Trying the credential sets: at the start, when one is new or changed, every few minutes, and
whenever somebody asks for it.

A set that fails is used all the same, as in ACR: the next pull may be the one with which it works
again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from entrepot.core.credentials import CredentialBook, CredentialHealth, CredentialSet
from entrepot.core.states import HealthStatus
from entrepot.errors import EntrepotError
from entrepot.events import EventLog
from entrepot.secrets import SecretUnavailable
from entrepot.source.client import SourceClient
from entrepot.source.errors import SourceRefused
from entrepot.tasks import OwnedTasks

INTERVAL = 300.0
"""Seconds between two tries of a set that a rule uses, give or take `JITTER`."""

INTERVAL_UNUSED = 3600.0
"""Seconds between two tries of a set that no rule uses."""

JITTER = 0.2
"""The share by which an interval is longer or shorter, at random, so that not all sets are tried at
the same moment."""

LOOK = 5.0
"""Seconds between two looks at which sets are to be tried: one may have been written into its
document by hand."""

AT_ONCE = 4
"""Sets that are tried at the same time. One whose source is silent takes a minute."""


@dataclass(slots=True)
class _Tried:
    """A set that was tried, or is being tried, as it was then."""

    credential_set: CredentialSet
    health: CredentialHealth = field(default_factory=CredentialHealth)
    at: float | None = None
    """When the last try began, on the monotonic clock."""
    share: float = 1.0
    """Of the interval, after which it is tried again."""
    under_way: bool = False


class SignIns:
    """How the sign-in goes with each credential set. *clock* is in seconds since the epoch, *timer*
    monotonic."""

    def __init__(
        self,
        *,
        sets: Callable[[], CredentialBook],
        used: Callable[[], Collection[str]],
        client: Callable[[CredentialSet], SourceClient],
        events: EventLog,
        clock: Callable[[], float],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sets = sets
        self._used = used
        self._client = client
        self._events = events
        self._clock = clock
        self._timer = timer
        self._tried: dict[str, _Tried] = {}
        self._wanted = asyncio.Event()
        self._room = asyncio.Semaphore(AT_ONCE)

    def health(self, name: str) -> CredentialHealth:
        """How the last sign-in went. That of another set which had the name before does not count."""
        current, tried = self._sets().find(name), self._tried.get(name.casefold())
        return (
            tried.health
            if tried is not None and tried.credential_set == current
            else CredentialHealth()
        )

    def look_now(self, name: str) -> None:
        """Try a set that is new or changed, without waiting for it. Where only the secrets changed
        that it leads to, it looks as before."""
        tried = self._tried.get(name.casefold())
        if tried is not None:
            tried.at = None
        self._wanted.set()

    async def watch(self) -> None:
        """Try all sets again and again, until cancelled."""
        async with OwnedTasks() as tasks:
            while True:
                self._wanted.clear()
                for each in self._due():
                    each.under_way = True
                    tasks.start(
                        self._try_in_turn(each), f"the sign-in with {each.credential_set.name}"
                    )
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._wanted.wait()

    def _due(self) -> list[_Tried]:
        sets, used, now = self._sets(), self._used(), self._timer()
        self._tried = {
            key: each for key, each in self._tried.items() if sets.find(key) == each.credential_set
        }
        due = []
        for credential_set in sets:
            each = self._of(credential_set)
            interval = INTERVAL if credential_set.name in used else INTERVAL_UNUSED
            if not each.under_way and (each.at is None or now >= each.at + interval * each.share):
                due.append(each)
        return due

    def _of(self, credential_set: CredentialSet) -> _Tried:
        key = credential_set.name.casefold()
        found = self._tried.get(key)
        if found is None or found.credential_set != credential_set:
            found = self._tried[key] = _Tried(credential_set)
        return found

    async def _try_in_turn(self, each: _Tried) -> None:
        try:
            async with self._room:
                await self._try(each)
        finally:
            each.under_way = False

    async def check(self, name: str) -> CredentialHealth:
        """Try a set now, whenever it was tried last; raises `CredentialSetNotFound`."""
        each = self._of(self._sets().get(name))
        await self._try(each)
        return each.health

    async def outcome(self, credential_set: CredentialSet) -> CredentialHealth:
        """How a sign-in goes right now with a set that need not be among those that are kept;
        nothing is kept of it here."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        try:
            await self._client(credential_set).verify_credentials()
        except (SourceRefused, SecretUnavailable) as error:
            return CredentialHealth(HealthStatus.UNHEALTHY, error.code, error.message, now)
        except EntrepotError as error:
            # The bad day of a source says nothing about the credentials.
            return CredentialHealth(HealthStatus.UNKNOWN, error.code, error.message, now)
        return CredentialHealth(HealthStatus.HEALTHY, None, None, now)

    async def _try(self, each: _Tried) -> None:
        each.at = self._timer()
        each.share = random.uniform(1 - JITTER, 1 + JITTER)
        found = await self.outcome(each.credential_set)
        before, each.health = each.health, found
        if self._sets().find(each.credential_set.name) == each.credential_set:
            self._tell(each.credential_set.name, before, found)

    def _tell(self, name: str, before: CredentialHealth, now: CredentialHealth) -> None:
        if (before.status, before.error_code) == (now.status, now.error_code):
            return
        if now.status is HealthStatus.UNHEALTHY:
            self._events.record(
                "credential-set-unhealthy",
                f"{name} is unhealthy: {now.error_message}",
                name,
                level=logging.WARNING,
            )
        elif now.status is HealthStatus.UNKNOWN:
            self._events.record(
                "credential-set-unknown",
                f"Whether {name} can sign in is not known: {now.error_message}",
                name,
                level=logging.WARNING,
            )
        elif before.checked is not None:
            self._events.record("credential-set-healthy", f"{name} is healthy again.", name)
