"""Sign-ins that keep the health of credential sets up to date.

They happen when the engine starts, when a set is new or changed, every few minutes, and on request.
A set that fails is still used, as in ACR: it may work again at the next pull.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from entrepot.config.documents import Documents
from entrepot.core.credentials import CredentialHealth, CredentialSet
from entrepot.core.registries import SourceRegistries
from entrepot.core.states import HealthStatus
from entrepot.errors import EntrepotError
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import EventLog
from entrepot.secrets import SecretUnavailable
from entrepot.source.errors import SourceRefused
from entrepot.source.sources import Sources
from entrepot.tasks import OwnedTasks

INTERVAL = 300.0
"""Seconds between two sign-ins with a set that a rule uses, give or take `JITTER`."""

INTERVAL_UNUSED = 3600.0
"""Seconds between two sign-ins with a set that no rule uses."""

JITTER = 0.2
"""The share by which an interval is longer or shorter, at random, so that not all sets sign in at
the same moment."""

POLL_INTERVAL = 5.0
"""Seconds between two looks at which sets are due: one may have been written into its document by
hand."""

MAX_CONCURRENT_SIGN_INS = 4
"""Scheduled sign-ins under way at once. One whose source is silent takes a minute."""


@dataclass(slots=True)
class _Check:
    """A set as it was when it was last tried, or is being tried."""

    credential_set: CredentialSet
    health: CredentialHealth = field(default_factory=CredentialHealth)
    started: float | None = None
    """When the last sign-in began, on the monotonic clock; None: it is due now."""
    interval_factor: float = 1.0
    under_way: bool = False


class CredentialChecks:
    """The credential checks of one engine.

    *clock* is in seconds since the epoch, *timer* is monotonic.
    """

    def __init__(
        self,
        *,
        documents: Documents,
        registries: SourceRegistries,
        sources: Sources,
        events: EventLog,
        clock: Callable[[], float],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._documents = documents
        self._registries = registries
        self._sources = sources
        self._events = events
        self._clock = clock
        self._timer = timer
        self._checks: dict[str, _Check] = {}
        self._wakeup = asyncio.Event()
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_SIGN_INS)

    def health(self, name: str) -> CredentialHealth:
        """The result of the last sign-in with a set.

        That of another set which had the name before does not count.
        """
        current = self._documents.credential_sets.find(name)
        check = self._checks.get(name.casefold())
        if check is None or check.credential_set != current:
            return CredentialHealth()
        return check.health

    def check_soon(self, name: str) -> None:
        """Try a set that is new or changed without waiting for its turn.

        A set whose secrets alone changed looks the same as before.
        """
        check = self._checks.get(name.casefold())
        if check is not None:
            check.started = None
        self._wakeup.set()

    async def run(self) -> None:
        """Try each set when it is due, until cancelled."""
        async with OwnedTasks() as tasks:
            while True:
                self._wakeup.clear()
                for check in self._due():
                    check.under_way = True
                    tasks.start(
                        self._sign_in_in_turn(check),
                        f"the sign-in with {check.credential_set.name}",
                    )
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_INTERVAL):
                        await self._wakeup.wait()

    def _due(self) -> list[_Check]:
        sets, now = self._documents.credential_sets, self._timer()
        used = {rule.credential_set for rule in self._documents.rules}
        self._checks = {
            key: check
            for key, check in self._checks.items()
            if sets.find(key) == check.credential_set
        }
        due = []
        for credential_set in sets:
            check = self._check_of(credential_set)
            interval = INTERVAL if credential_set.name in used else INTERVAL_UNUSED
            if not check.under_way and (
                check.started is None or now >= check.started + interval * check.interval_factor
            ):
                due.append(check)
        return due

    def _check_of(self, credential_set: CredentialSet) -> _Check:
        key = credential_set.name.casefold()
        check = self._checks.get(key)
        if check is None or check.credential_set != credential_set:
            check = self._checks[key] = _Check(credential_set)
        return check

    async def _sign_in_in_turn(self, check: _Check) -> None:
        try:
            async with self._slots:
                await self._run_check(check)
        finally:
            check.under_way = False

    async def verify(self, name: str) -> CredentialHealth:
        """Sign in with a set now, and record the result as its health.

        The time of its last sign-in does not matter. Raises `CredentialSetNotFound`.
        """
        check = self._check_of(self._documents.credential_sets.get(name))
        await self._run_check(check)
        return check.health

    async def sign_in(self, credential_set: CredentialSet) -> CredentialHealth:
        """Sign in now with a set that need not be among those in force.

        Nothing of it is stored here.
        """
        now = datetime.fromtimestamp(self._clock(), UTC)
        registry = self._registries.find(credential_set.login_server)
        try:
            await self._sources.client(registry, credential_set).verify_credentials()
        except (SourceRefused, SecretUnavailable) as error:
            return CredentialHealth(HealthStatus.UNHEALTHY, error.code, error.message, now)
        except EntrepotError as error:
            # A source that fails says nothing about the credentials.
            return CredentialHealth(HealthStatus.UNKNOWN, error.code, error.message, now)
        return CredentialHealth(HealthStatus.HEALTHY, None, None, now)

    async def _run_check(self, check: _Check) -> None:
        check.started = self._timer()
        check.interval_factor = random.uniform(1 - JITTER, 1 + JITTER)
        health = await self.sign_in(check.credential_set)
        before, check.health = check.health, health
        name = check.credential_set.name
        if self._documents.credential_sets.find(name) == check.credential_set:
            self._record_change(name, before, health)

    def _record_change(self, name: str, before: CredentialHealth, now: CredentialHealth) -> None:
        if (before.status, before.error_code) == (now.status, now.error_code):
            return
        if now.status is HealthStatus.UNHEALTHY:
            self._events.record(
                EventKind.CREDENTIAL_SET_UNHEALTHY,
                f"{name} is unhealthy: {now.error_message}",
                name,
                severity=Severity.WARNING,
            )
        elif now.status is HealthStatus.UNKNOWN:
            self._events.record(
                EventKind.CREDENTIAL_SET_UNKNOWN,
                f"Whether {name} can sign in is not known: {now.error_message}",
                name,
                severity=Severity.WARNING,
            )
        elif before.checked is not None:
            self._events.record(EventKind.CREDENTIAL_SET_HEALTHY, f"{name} is healthy again.", name)
