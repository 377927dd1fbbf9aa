"""The checks of ``entrepot doctor``.

They cover every step from this machine to a manifest at its source, and what the engine needs of
the machine itself.

The engine runs the checks, because it has the secrets and the network: a shell may have other
proxies and other rights. None of them counts as a pull: manifests are only requested by HEAD, and
never fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from entrepot.api.models import DoctorReport, Finding
from entrepot.config.directories import Directories
from entrepot.config.documents import Documents
from entrepot.config.settings import Settings
from entrepot.core.registries import SourceRegistries
from entrepot.engine.credential_checks import CredentialChecks
from entrepot.engine.endpoints import Endpoints
from entrepot.engine.health import EngineHealth
from entrepot.engine.isolated_checks import not_checked
from entrepot.engine.listener_checks import ListenerChecks
from entrepot.engine.machine_checks import MachineChecks
from entrepot.engine.reader_checks import check_password_file, check_readers
from entrepot.engine.readers import ReaderService
from entrepot.engine.source_checks import SourceChecks
from entrepot.engine.status import StatusService
from entrepot.source.sources import Sources
from entrepot.store.blobs import BlobStore
from entrepot.store.catalog import Catalog

MAX_CONCURRENT_SOURCES = 4
"""Source registries that are checked at the same time."""


class Doctor:
    """The doctor of one engine. *clock* is in seconds since the epoch."""

    def __init__(
        self,
        *,
        directories: Directories,
        settings: Settings,
        registries: SourceRegistries,
        documents: Documents,
        sources: Sources,
        catalog: Catalog,
        blobs: BlobStore,
        credential_checks: CredentialChecks,
        health: EngineHealth,
        status: StatusService,
        readers: ReaderService,
        endpoints: Endpoints,
        clock: Callable[[], float],
    ) -> None:
        self._readers = readers
        self._registries = registries
        self._documents = documents
        self._sources = SourceChecks(
            settings=settings,
            documents=documents,
            sources=sources,
            credential_checks=credential_checks,
            clock=clock,
        )
        self._listeners = ListenerChecks(settings=settings, endpoints=endpoints, clock=clock)
        self._machine = MachineChecks(
            directories=directories,
            sources=sources,
            catalog=catalog,
            blobs=blobs,
            health=health,
            status=status,
            clock=clock,
        )

    async def examine(self, rule: str | None = None, *, source: str | None = None) -> DoctorReport:
        """Check the machine, and what all rules, one rule or one source need.

        *source* is a login server: the rules that use it are checked. Raises `CacheRuleNotFound`.

        A problem is a finding and no error, also where a check itself fails in a way that was not
        foreseen.
        """
        book = self._documents.rules
        rules = list(book) if rule is None else [book.get(rule)]
        sets = list(self._documents.credential_sets) if rule is None else []
        login_servers = sorted(
            {rule.source.login_server for rule in rules}
            | {credential_set.login_server for credential_set in sets}
        )
        if source is not None:
            login_servers = [source] if source in login_servers else []
        clock_offsets: dict[str, float] = {}
        slots = asyncio.Semaphore(MAX_CONCURRENT_SOURCES)

        async def check_source(login_server: str) -> list[Finding]:
            findings: list[Finding] = []
            async with slots:
                try:
                    registry = self._registries.find(login_server)
                    async for finding in self._sources.check(
                        registry,
                        [rule for rule in rules if rule.source.login_server == login_server],
                        [each for each in sets if each.login_server == login_server],
                        clock_offsets,
                    ):
                        findings.append(finding)
                except Exception as error:
                    findings.append(not_checked(login_server, "registry", error))
            return findings

        findings_by_source = await asyncio.gather(*map(check_source, login_servers))
        machine = [finding async for finding in self._machine.check(clock_offsets)]
        machine.append(check_readers(self._documents, self._readers))
        machine.extend(await check_password_file(self._readers))
        return DoctorReport(
            findings=(
                *(finding for findings in findings_by_source for finding in findings),
                *self._listeners.check(),
                *machine,
            )
        )
