"""The checks of ``entrepot doctor`` on a source registry.

They go from its name to its manifests.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping
from functools import partial

import httpx

from entrepot.api.models import Finding
from entrepot.config.documents import Documents
from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialSet
from entrepot.core.reference import Repository, Tag, parse_tag
from entrepot.core.registries import SourceRegistry
from entrepot.core.rules import CacheRule
from entrepot.core.states import HealthStatus, Outcome
from entrepot.engine.credential_checks import CredentialChecks
from entrepot.engine.findings import failed, of_cause, of_error, ok, warning
from entrepot.engine.isolated_checks import isolated
from entrepot.errors import EntrepotError
from entrepot.formatting import counted, duration
from entrepot.source.addresses import LOCAL_ADDRESS, Reach
from entrepot.source.client import SourceClient
from entrepot.source.diagnosis import web_page_cause
from entrepot.source.dns import AddressInfo, Lookups, literal
from entrepot.source.environment import parse_date
from entrepot.source.errors import SourceError, SourceNotFound
from entrepot.source.failed_request import RequestTarget
from entrepot.source.http import SourceHttp
from entrepot.source.proxies import ProxyUnusable, proxy_of
from entrepot.source.proxy_causes import unusable_proxy_cause
from entrepot.source.sources import Sources, tls_context
from entrepot.source.transport import SourceTransport

MAX_CONCURRENT_MANIFESTS = 4
"""Manifests that are asked for at once of each source."""

CERTIFICATE_ENDS_SOON = 14
"""Days before its end from which a certificate is worth a warning: it should have been renewed."""

RATE_LIMIT_LOW = 0.1
"""The share of a rate limit below which what remains of it is worth a warning."""

TAGS_TRIED = 20
"""Tags of a repository that are asked for where it has none named ``latest``: of some sources the
first ones are no tags."""


class SourceChecks:
    """The checks of source registries. *clock* is in seconds since the epoch."""

    def __init__(
        self,
        *,
        settings: Settings,
        documents: Documents,
        sources: Sources,
        credential_checks: CredentialChecks,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._documents = documents
        self._sources = sources
        self._credential_checks = credential_checks
        self._clock = clock

    async def check(
        self,
        registry: SourceRegistry,
        rules: list[CacheRule],
        sets: list[CredentialSet],
        clock_offsets: MutableMapping[str, float],
    ) -> AsyncIterator[Finding]:
        """All checks of one registry, with its *rules* and credential *sets*.

        Checks that depend on a failed one are skipped. *clock_offsets* receives by how many seconds
        the source is ahead of this machine.
        """
        about, url = registry.login_server, httpx.URL(registry.endpoint)
        tls = tls_context(self._settings)
        try:
            proxy = proxy_of(url)
        except ProxyUnusable as error:
            yield of_cause(about, "connection", unusable_proxy_cause(error))
            return
        if proxy is not None:
            yield ok(about, "connection", f"goes through the proxy {proxy.place}")
        else:
            addresses: list[AddressInfo] = []
            finding = await isolated(
                about, "name", partial(self._check_name, registry, url, addresses)
            )
            yield finding
            if finding.outcome is Outcome.FAILED:
                return
            finding = await isolated(
                about, "connection", partial(self._check_connection, registry, url, addresses, tls)
            )
            yield finding
            if finding.outcome is Outcome.FAILED:
                return
        finding = await isolated(
            about, "registry", partial(self._check_registry, registry, tls, clock_offsets)
        )
        yield finding
        if finding.outcome is Outcome.FAILED:
            return
        signed_in: dict[str | None, bool] = {}
        set_names = {rule.credential_set for rule in rules} | {each.name for each in sets}
        for name in sorted(set_names, key=lambda name: name or ""):
            finding = await isolated(
                about, "sign-in", partial(self._check_sign_in, registry, self._set(name))
            )
            signed_in[name] = finding.outcome is not Outcome.FAILED
            yield finding
        for finding in await self._check_manifests(
            registry,
            {
                (rule.source.path, rule.credential_set)
                for rule in rules
                if not rule.source.wildcard and signed_in[rule.credential_set]
            },
        ):
            yield finding
        yield await isolated(about, "allowance", partial(self._check_rate_limit, about))

    def _set(self, name: str | None) -> CredentialSet | None:
        return None if name is None else self._documents.credential_sets.get(name)

    async def _check_name(
        self, registry: SourceRegistry, url: httpx.URL, addresses: list[AddressInfo]
    ) -> Finding:
        """Look the name up, and add the permitted addresses to *addresses*.

        These are the addresses to which a connection may be made.
        """
        about, reach = registry.login_server, Reach.of(registry)
        try:
            resolved = await Lookups(self._settings.connect_timeout).addresses(url.host)
        except OSError as error:
            cause = await self._sources.diagnosis.cause(error, RequestTarget(about, url, reach))
            return of_cause(about, "name", cause)
        addresses += [
            address
            for address in resolved
            if url.host in reach.hosts or reach.permits_address(literal(address))
        ]
        if not addresses:
            return failed(
                about,
                "name",
                f"{url.host} is {LOCAL_ADDRESS}, by the name server.",
                "No connection is made. If the registry really runs there, declare its endpoint in "
                f'settings.toml, below [upstreams."{about}"].',
            )
        count = counted(len(set(map(literal, addresses))), "address", "addresses")
        return ok(about, "name", f"{url.host} has {count}")

    async def _check_connection(
        self,
        registry: SourceRegistry,
        url: httpx.URL,
        addresses: list[AddressInfo],
        tls: ssl.SSLContext,
    ) -> Finding:
        about = registry.login_server
        secure = url.scheme == "https"
        port = url.port or (443 if secure else 80)
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                writer = await _connect(addresses, port, tls if secure else None, url.host)
        except OSError as error:
            # A TimeoutError is one as well.
            failure: BaseException = (
                httpx.ConnectTimeout("") if isinstance(error, TimeoutError) else error
            )
            cause = await self._sources.diagnosis.cause(
                failure, RequestTarget(about, url, Reach.of(registry))
            )
            check = "certificate" if isinstance(error, ssl.SSLError) else "connection"
            return of_cause(about, check, cause)
        certificate = writer.get_extra_info("peercert")
        writer.transport.abort()
        if not secure:
            return ok(
                about,
                "connection",
                f"{url.host}, port {port}, takes connections; it is plain HTTP",
            )
        days = int((ssl.cert_time_to_seconds(certificate["notAfter"]) - self._clock()) // 86_400)
        if days < CERTIFICATE_ENDS_SOON:
            return warning(
                about,
                "certificate",
                f"The certificate of {url.host} ends in {counted(days, 'day')}.",
                "The operator of the registry must renew it.",
            )
        return ok(about, "certificate", f"is trusted, and good for {counted(days, 'day')}")

    async def _check_registry(
        self,
        registry: SourceRegistry,
        tls: ssl.SSLContext,
        clock_offsets: MutableMapping[str, float],
    ) -> Finding:
        about, reach = registry.login_server, Reach.of(registry)
        connect_timeout = self._settings.connect_timeout
        transport = SourceTransport(tls, connections=1, reach=reach, lookup_timeout=connect_timeout)
        http = SourceHttp(
            transport,
            about,
            timeout=httpx.Timeout(self._settings.read_timeout, connect=connect_timeout, pool=None),
            clock=self._clock,
            reach=reach,
            diagnosis=self._sources.diagnosis,
        )
        try:
            async with await http.request(
                "GET", httpx.URL(f"{registry.endpoint}/v2/"), {}, about="its /v2/"
            ) as answer:
                if (date := parse_date(answer.headers.get("date"))) is not None:
                    clock_offsets[about] = date - self._clock()
                if answer.is_page:
                    return of_cause(about, "registry", web_page_cause(about, "its /v2/"))
                return _judge_status(about, answer.status, answer.headers)
        except SourceError as error:
            return of_error(about, "registry", error)
        finally:
            await transport.aclose()

    async def _check_sign_in(
        self, registry: SourceRegistry, credential_set: CredentialSet | None
    ) -> Finding:
        about = registry.login_server
        if credential_set is None:
            try:
                await self._sources.client(registry, None).verify_credentials()
            except EntrepotError as error:
                return of_error(about, "sign-in", error)
            return ok(about, "sign-in", "allows anonymous access")
        # So that the health of the set, which is shown elsewhere, is what was found here.
        health = await self._credential_checks.verify(credential_set.name)
        if health.status is HealthStatus.HEALTHY:
            return ok(about, "sign-in", f"accepts the credentials of {credential_set.name}")
        return failed(about, "sign-in", f"{credential_set.name}: {health.error_message}", "")

    async def _check_manifests(
        self, registry: SourceRegistry, repositories: Iterable[tuple[str, str | None]]
    ) -> list[Finding]:
        """*repositories* are paths, each with the name of a credential set or None."""
        about = registry.login_server
        slots = asyncio.Semaphore(MAX_CONCURRENT_MANIFESTS)

        async def check(path: str, credential_set: str | None) -> Finding:
            async with slots:
                return await isolated(
                    about,
                    "manifest",
                    lambda: self._check_manifest(
                        self._sources.client(registry, self._set(credential_set)), about, path
                    ),
                )

        return await asyncio.gather(
            *(check(path, name) for path, name in sorted(repositories, key=str))
        )

    async def _check_manifest(self, client: SourceClient, about: str, path: str) -> Finding:
        repository = Repository(path)
        try:
            try:
                await client.head_manifest(repository, Tag("latest"))
            except SourceNotFound:
                # Not every repository has a tag of that name.
                tags = (await client.tags(repository, n=TAGS_TRIED, last=None)).tags
                if not tags:
                    return warning(
                        about,
                        "manifest",
                        f"{path} has no tags.",
                        "Images can be pulled by digest only.",
                    )
                await client.head_manifest(repository, parse_tag(tags[0]))
        except SourceNotFound:
            return failed(
                about,
                "manifest",
                f"It has no repository {path}.",
                "Check the source of the rule; a private one needs a credential set that may read "
                "it.",
            )
        except EntrepotError as error:
            return failed(about, "manifest", f"{path}: {error.what}", error.hint)
        return ok(about, "manifest", f"{path} can be pulled")

    def _check_rate_limit(self, about: str) -> Finding:
        state = self._sources.state(about)
        remaining, limit = state.rate_limit.remaining, state.rate_limit.limit
        if remaining is None:
            return ok(about, "allowance", "reports no rate limit")
        figures = (
            f"{remaining:,}" + (f" of {limit:,}" if limit is not None else "") + " pulls remaining"
        )
        when = ""
        if (
            state.rate_limit.resets is not None
            and (wait := state.rate_limit.resets - self._sources.wall_clock()) > 0
        ):
            when = f" for {duration(wait)}"
        if remaining <= 0:
            return failed(
                about,
                "allowance",
                f"No pulls remain{when}.",
                "What is cached is served meanwhile. Signing in with a credential set may raise "
                "the limit.",
            )
        if limit is not None and remaining < limit * RATE_LIMIT_LOW:
            return warning(
                about,
                "allowance",
                f"Only {figures}{when}.",
                "Signing in with a credential set may raise the limit.",
            )
        return ok(about, "allowance", figures)


def _judge_status(about: str, status: int, headers: httpx.Headers) -> Finding:
    """What the status of an answer to ``/v2/`` says of a registry."""
    if status == 200 or (status == 401 and "www-authenticate" in headers):
        return ok(about, "registry", "answers as a registry")
    if status == 429:
        return warning(
            about, "registry", "It was asked too often (status 429).", "Try again later."
        )
    if status >= 500:
        return failed(
            about,
            "registry",
            f"It fails with status {status}.",
            "The fault is there; try again later.",
        )
    return failed(
        about,
        "registry",
        f"It does not answer as a registry: status {status} for /v2/.",
        "Check its endpoint in settings.toml.",
    )


async def _connect(
    addresses: Iterable[AddressInfo], port: int, tls: ssl.SSLContext | None, host: str
) -> asyncio.StreamWriter:
    """A connection to the first address that accepts one.

    Raises the OSError of the last address; a TLS error is raised at once.
    """
    failure = OSError(f"{host} has no address")
    for address in dict.fromkeys(map(literal, addresses)):
        try:
            _, writer = await asyncio.open_connection(
                address, port, ssl=tls, server_hostname=host if tls is not None else None
            )
        except ssl.SSLError:
            raise
        except OSError as error:
            failure = error
        else:
            return writer
    raise failure
