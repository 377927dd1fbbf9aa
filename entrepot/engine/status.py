"""The status of the engine.

Its counts, its disk, its source registries, and what needs attention.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from entrepot import __version__
from entrepot.api.models import EngineStatus, SourceRegistrySnapshot
from entrepot.cache.cache import ArtifactCache
from entrepot.cache.fills import Fills
from entrepot.causes import CauseCode, Fault, at_fault
from entrepot.config.documents import Documents
from entrepot.config.network_access import access_problems
from entrepot.config.settings import Settings
from entrepot.core.freshness import freshness_text
from entrepot.core.registries import SourceRegistries, SourceRegistry
from entrepot.core.states import HealthStatus
from entrepot.engine.certificates import certificate_problems
from entrepot.engine.credentials import CredentialService
from entrepot.engine.endpoints import Endpoints
from entrepot.engine.etags import Revisions
from entrepot.engine.health import EngineHealth
from entrepot.engine.maintenance import MaintenanceService
from entrepot.engine.readers import ReaderService
from entrepot.engine.stall_watch import StallWatch
from entrepot.engine.traffic import Traffic
from entrepot.formatting import counted
from entrepot.source.proxies import environment_problems
from entrepot.source.sources import Sources
from entrepot.store.blobs import BlobStore
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.tasks import LatestValue

DISK_TIMEOUT = 1.0
"""Seconds that the status waits for each number that the disk has to give; then it tells the last
one."""

_log = logging.getLogger("entrepot.engine")


class StatusService:
    """The status of one engine."""

    def __init__(
        self,
        *,
        settings: Settings,
        registries: SourceRegistries,
        documents: Documents,
        sources: Sources,
        catalog: Catalog,
        blobs: BlobStore,
        fills: Fills,
        cache: ArtifactCache,
        credential_sets: CredentialService,
        readers: ReaderService,
        maintenance: MaintenanceService,
        health: EngineHealth,
        traffic: Traffic,
        revisions: Revisions,
        endpoints: Endpoints,
        stall_watch: StallWatch,
        clock: Callable[[], float],
        demo: bool,
    ) -> None:
        self._settings = settings
        self._registries = registries
        self._documents = documents
        self._sources = sources
        self._catalog = catalog
        self._blobs = blobs
        self._fills = fills
        self._cache = cache
        self._credential_sets = credential_sets
        self._readers = readers
        self._maintenance = maintenance
        self._health = health
        self._traffic = traffic
        self._revisions = revisions
        self._endpoints = endpoints
        self._stall_watch = stall_watch
        self._demo = demo
        self._clock = clock
        self._started = clock()
        # Each asks the file system, which may hang.
        self._free_space = LatestValue(self._read_free_space)
        self._space_limit = LatestValue(maintenance.limit)
        self._repositories = 0

    async def get(self) -> EngineStatus:
        """The engine in one look."""
        return EngineStatus(
            version=__version__,
            address=self._endpoints.registry,
            has_tls=self._endpoints.has_tls,
            mirrors=self._endpoints.mirrors,
            started=self._started,
            rules=len(self._documents.rules),
            rules_limit=self._documents.rules.RULES_LIMIT,
            credential_sets=len(self._documents.credential_sets),
            repositories=await self._count_repositories(),
            blobs_size=self._maintenance.total_size,
            space_free=await _or_zero(self._free_space),
            space_limit=await _or_zero(self._space_limit),
            pulls_running=self._cache.pulls.running_count(),
            speed=self._fills.speed,
            served=self._traffic.bytes_served,
            from_source=self._fills.fetched,
            last_day=self._traffic.total(),
            revision=self._revisions.whole,
            notices=tuple(self._notices()),
            freshness=freshness_text(self._settings.freshness),
            demo=self._demo,
            read_only=self._settings.read_only,
            reconciliation=self._maintenance.reconciliation,
            loop_lag=self._stall_watch.lag(),
            anonymous_may_read=self._readers.anonymous_may_read,
            anonymous_may_read_something=self._readers.anonymous_may_read_something,
            can_sign_in=self._readers.can_sign_in,
            certificate_expires=self._certificate_expires(),
        )

    def _certificate_expires(self) -> float | None:
        """When that of the registry's own listener does."""
        tls = self._settings.tls
        return next(
            (
                certificate.expires
                for certificate in self._endpoints.certificates
                if tls is not None and certificate.file == tls.certificate
            ),
            None,
        )

    async def _count_repositories(self) -> int:
        try:
            async with asyncio.timeout(DISK_TIMEOUT):
                self._repositories = await self._catalog.repositories_count()
        except (CatalogFailed, TimeoutError) as error:
            # A disk or a catalog that fails is in the notices, and these must be seen.
            _log.debug("The cached repositories can't be counted: %s", error)
        return self._repositories

    async def _read_free_space(self) -> int:
        return await asyncio.to_thread(self._blobs.free)

    # What needs attention

    def _notices(self) -> Iterator[str]:
        yield from self._health.messages()
        if self._endpoints.socket_problem is not None:
            yield self._endpoints.socket_problem
        for certificate in certificate_problems(self._endpoints.certificates, self._clock()):
            yield f"{certificate.what} {certificate.advice}"
        for what, advice in access_problems(self._settings):
            yield f"{what} {advice}"
        yield from self._catalog.health.notices
        yield from self._maintenance.notices(self._health.disk)
        yield from self._fills.notices()
        yield from self._cache.pulls.notices()
        if self._documents.problem is not None:
            yield self._documents.problem.message
        for problem in self._readers.problems():
            yield problem.message
        for proxy_problem in environment_problems():
            yield proxy_problem.message
        yield from self._local_faults()
        for credential_set in self._documents.credential_sets:
            health = self._credential_sets.health(credential_set.name)
            if health.status is HealthStatus.UNHEALTHY:
                yield f"{credential_set.name} is unhealthy: {health.error_message}"

    def _local_faults(self) -> Iterator[str]:
        """Faults of this machine or its network that make sources unreachable.

        Each is given once, whatever the number of sources that it concerns.
        """
        messages_by_cause: dict[CauseCode, list[str]] = {}
        clock = self._sources.diagnosis.clock_problem()
        for login_server in self._sources.contacted:
            state = self._sources.state(login_server)
            if (
                state.cause is not None
                and state.problem
                and at_fault(state.cause) is not Fault.SOURCE
                and state.cause is not CauseCode.PROXY_UNUSABLE
            ):
                messages_by_cause.setdefault(state.cause, []).append(
                    f"{state.problem} {state.advice or ''}".strip()
                )
        if clock is not None and CauseCode.CLOCK_WRONG not in messages_by_cause:
            yield clock.message
        for messages in messages_by_cause.values():
            more = len(messages) - 1 if len(set(messages)) > 1 else 0
            yield messages[0] + (
                f" The same problem affects {counted(more, 'more source')}." if more else ""
            )

    # Source registries

    def source_registries(self) -> Sequence[SourceRegistrySnapshot]:
        """The source registries that rules may pull from, and their state."""
        rule_counts = Counter(rule.source.login_server for rule in self._documents.rules)
        registries = list(self._registries)
        listed = {registry.login_server for registry in registries}
        # A registry of a pattern such as *.azurecr.io is listed by its own name as soon as a rule
        # uses it.
        registries += [
            self._registries.find(login_server)
            for login_server in sorted(rule_counts)
            if login_server not in listed
        ]
        return [
            self._registry_snapshot(registry, rule_counts[registry.login_server])
            for registry in registries
        ]

    def _registry_snapshot(self, registry: SourceRegistry, rules: int) -> SourceRegistrySnapshot:
        state = self._sources.state(registry.login_server)
        return SourceRegistrySnapshot(
            name=registry.name,
            login_server=registry.login_server,
            sign_in=registry.sign_in,
            rules=rules,
            reachable=state.reachable,
            problem=state.problem,
            advice=state.advice,
            cause=state.cause,
            at_fault=at_fault(state.cause) if state.cause is not None else None,
            rate_limit_remaining=state.rate_limit.remaining,
            rate_limit_limit=state.rate_limit.limit,
            rate_limit_resets=state.rate_limit.resets,
            rate_limit_window=state.rate_limit.window,
            unreachable_since=state.unreachable_since,
            next_try=state.next_try,
            declared=registry.declared,
        )


async def _or_zero(value: LatestValue[int]) -> int:
    try:
        return await value.get(DISK_TIMEOUT) or 0
    except OSError:
        # A disk that fails is in the notices.
        return 0
