"""All source registries: connections, tokens, rate limits and circuit breakers."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from entrepot.causes import CauseCode
from entrepot.certificates import trust_certificates
from entrepot.secrets import read_credential
from entrepot.source.addresses import Reach
from entrepot.source.auth import Authorizer, Login
from entrepot.source.blobs import MisreadBlobs
from entrepot.source.circuit_breaker import CircuitBreaker, CircuitBreakers
from entrepot.source.client import SourceClient
from entrepot.source.diagnosis import Diagnosis
from entrepot.source.dns import Lookups
from entrepot.source.environment import ClockEvidence
from entrepot.source.http import SourceHttp
from entrepot.source.loop_detection import Via
from entrepot.source.proxies import environment_problems
from entrepot.source.rate_limit import RateLimit, RateLimits
from entrepot.source.registry_api import RegistryApi, SourceCondition
from entrepot.source.system_trust import system_trust

if TYPE_CHECKING:
    from entrepot.config.settings import Settings
    from entrepot.core.credentials import CredentialSet
    from entrepot.core.registries import SourceRegistry
    from entrepot.source.blob_transport import BlobTransport
    from entrepot.source.transport import SourceTransport

OTHER_CONNECTIONS = 20
"""Connections to a source registry besides those of its blobs, for small requests."""

ON_THE_INTERNET = Reach(public=True)
"""Where tokens are requested that a registry does not give itself.

All registries share one transport for it: without credentials there is nothing to keep apart.
"""

_log = logging.getLogger("entrepot.source")


@dataclass(frozen=True, slots=True)
class SourceState:
    """What the last requests to a source registry showed."""

    reachable: bool | None = None
    """None before the first request."""
    problem: str | None = None
    advice: str | None = None
    """What to do about the problem."""
    cause: CauseCode | None = None
    """The cause of the problem, where one is recognised."""
    rate_limit: RateLimit = field(default_factory=RateLimit)
    unreachable_since: float | None = None
    """Since when it gets no requests because it could not be reached, in seconds since the epoch;
    None: it gets them as usual."""
    next_try: float | None = None
    """When it is next tried, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class _Transports:
    """The connections to one source registry: for small requests, and for blobs."""

    small: httpx.AsyncBaseTransport
    blobs: httpx.AsyncBaseTransport


def tls_context(settings: Settings) -> ssl.SSLContext:
    """TLS that trusts the certificate authorities of the system and of the settings."""
    tls = system_trust()
    if settings.ca_file is not None:
        trust_certificates(tls, settings.ca_file)
    return tls


class Sources:
    """Connections, tokens and limits of all sources. Use it as ``async with``.

    *transport* takes the place of the network, *pause* that of waiting between attempts. *clock* is
    monotonic, *wall_clock* since the epoch, both in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._fixed_transport = transport
        self._timeout = httpx.Timeout(
            settings.read_timeout, connect=settings.connect_timeout, pool=None
        )
        self._pause = pause
        self.wall_clock = wall_clock
        self.authorizer = Authorizer(read_credential, clock=clock, wall_clock=wall_clock)
        self.rate_limits = RateLimits(clock, wall_clock)
        self.breakers = CircuitBreakers(clock, wall_clock)
        self.breakers.on_change = self._reachability_changed
        self.via = Via()
        """By which an engine recognises its own requests."""
        self.on_reachability: Callable[[CircuitBreaker], None] = lambda _: None
        """Called when the breaker of a source's host opens, and when it closes."""
        self._misread = MisreadBlobs()
        self._transports: dict[tuple[str, Reach], _Transports] = {}
        self._conditions: dict[str, SourceCondition] = {}
        self._tls: ssl.SSLContext | None = None
        self.diagnosis = Diagnosis(
            ClockEvidence(clock=clock, wall_clock=wall_clock), probes=transport is None
        )

    async def __aenter__(self) -> Sources:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.authorizer.close()
        await self.breakers.close()
        transports, self._transports = list(self._transports.values()), {}
        for pair in transports:
            await pair.small.aclose()
            await pair.blobs.aclose()

    def client(
        self, registry: SourceRegistry, credential_set: CredentialSet | None
    ) -> SourceClient:
        """A source registry, seen with a credential set or none.

        The secrets are read when a challenge asks for them.
        """
        reach = Reach.of(registry)
        http = self._http(registry, self._transports_to(registry.endpoint, reach), reach)
        http.public = self._http(
            registry, self._transports_to("", ON_THE_INTERNET), ON_THE_INTERNET
        )
        login = Login(registry, credential_set)
        api = RegistryApi(
            login,
            http,
            self.authorizer,
            self.rate_limits,
            self._condition(registry.login_server),
            self.wall_clock,
        )
        return SourceClient(
            api,
            login,
            self.authorizer,
            self._misread,
            manifest_limit=self._settings.manifest_limit,
        )

    def _http(self, registry: SourceRegistry, transports: _Transports, reach: Reach) -> SourceHttp:
        return SourceHttp(
            transports.small,
            registry.login_server,
            timeout=self._timeout,
            clock=self.wall_clock,
            pause=self._pause,
            breakers=self.breakers,
            reach=reach,
            diagnosis=self.diagnosis,
            via=self.via,
            blob_transport=transports.blobs,
        )

    @property
    def contacted(self) -> list[str]:
        """The login servers that had a client since the start."""
        return sorted(self._conditions)

    def state(self, login_server: str) -> SourceState:
        """What the last requests to a source registry showed."""
        condition = self._conditions.get(login_server) or SourceCondition()
        breaker = self.breakers.opened_first(login_server)
        # Why it gets no requests counts more than what was tried since.
        problem = condition.problem
        if breaker is not None and breaker.error is not None:
            problem = breaker.error
        return SourceState(
            reachable=condition.reachable,
            problem=problem.what if problem else None,
            advice=problem.hint or None if problem else None,
            cause=problem.cause if problem else None,
            rate_limit=self.rate_limits.get(login_server),
            unreachable_since=breaker.since if breaker else None,
            next_try=breaker.next_try if breaker else None,
        )

    def _reachability_changed(self, breaker: CircuitBreaker) -> None:
        if breaker.since is None:
            condition = self._condition(breaker.login_server)
            condition.reachable, condition.problem = True, None
        self.on_reachability(breaker)

    def _condition(self, login_server: str) -> SourceCondition:
        """What all clients of a login server share."""
        return self._conditions.setdefault(login_server, SourceCondition())

    def _transports_to(self, endpoint: str, reach: Reach) -> _Transports:
        if self._fixed_transport is not None:
            return _Transports(self._fixed_transport, self._fixed_transport)
        transports = self._transports.get((endpoint, reach))
        if transports is None:
            small, blobs, tls = self._parts()
            lookups = Lookups(self._settings.connect_timeout)
            connections = self._settings.parallel_per_source + OTHER_CONNECTIONS
            transports = self._transports[endpoint, reach] = _Transports(
                small(tls, connections=connections, reach=reach, lookups=lookups),
                blobs(tls, lookups, connections=connections, reach=reach),
            )
        return transports

    async def prepare(self) -> None:
        """Prepare, in a thread, what the first request to a source would have to wait for.

        Cached content can be served before.
        """
        for problem in environment_problems():
            _log.warning("%s", problem.message)
        if self._fixed_transport is None:
            await asyncio.to_thread(self._parts)

    def _parts(self) -> tuple[type[SourceTransport], type[BlobTransport], ssl.SSLContext]:
        # aiohttp takes 200 ms to import.
        from entrepot.source.blob_transport import BlobTransport
        from entrepot.source.transport import SourceTransport

        if self._tls is None:
            self._tls = tls_context(self._settings)
        return SourceTransport, BlobTransport, self._tls
