"""What ``entrepot doctor`` looks at: every step from this machine to a manifest at its source, and
what the engine needs of the machine itself.

It is the engine that looks, because it has the secrets and the network: a shell may have other
proxies and other rights. Nothing of it counts as a pull: manifests are only asked for by HEAD, and
never fetched.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import logging
import os
import resource
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import httpx

from entrepot.api.models import Examination, Finding
from entrepot.causes import OPEN_FILES_HINT, Cause, CauseCode, disk_cause
from entrepot.core.credentials import CredentialSet
from entrepot.core.reference import Repository, Tag, parse_tag
from entrepot.core.registries import SourceRegistry
from entrepot.core.rules import CacheRule
from entrepot.core.states import HealthStatus, Outcome
from entrepot.engine.engine import Engine
from entrepot.engine.lock import SPACE_TO_START
from entrepot.engine.maintenance import RESERVE
from entrepot.errors import EntrepotError
from entrepot.files import file_system
from entrepot.formatting import counted, duration, printable, size
from entrepot.source.addresses import Reach
from entrepot.source.client import SourceClient, tls_context
from entrepot.source.diagnosis import RequestTarget, proxy_cause, web_page_cause
from entrepot.source.dns import AddressInfo, Lookups, literal
from entrepot.source.environment import CLOCK_CURE, CLOCK_WRONG, describe_clock, parse_date
from entrepot.source.errors import SourceError, SourceNotFound
from entrepot.source.http import SourceHttp
from entrepot.source.proxies import ProxyUnusable, environment_problems, proxy_of
from entrepot.source.transport import SourceTransport

AT_ONCE = 4
"""Source registries that are looked at at the same time, and manifests that are asked for at once
of each."""

CERTIFICATE_ENDS_SOON = 14
"""Days before its end from which a certificate is worth a warning: it should have been renewed."""

ALLOWANCE_LOW = 0.1
"""The share of an allowance below which it is worth a warning."""

FILES_NEEDED, FILES_WANTED = 1024, 4096
"""Open files: a client holds one for its connection and one for each blob, and so does each fill."""

CLOCK_WARNS = 30.0
"""Seconds by which the clock may be wrong; beyond `CLOCK_WRONG` the check fails."""

TAGS_TRIED = 20
"""Tags of a repository that are asked for where it has none named ``latest``: of some sources the
first ones are no tags."""

_log = logging.getLogger("entrepot.doctor")

_MACHINE = "this machine"


@dataclass(slots=True)
class _Clocks:
    """By how many seconds each source is ahead of this machine."""

    ahead: dict[str, float]


async def examine(
    engine: Engine,
    rule: str | None = None,
    *,
    source: str | None = None,
    clock: Callable[[], float] = time.time,
) -> Examination:
    """Look at all that rules need, or one rule, or the rules of one *source* (a login server), and
    at the machine; raises `CacheRuleNotFound`.

    What is wrong is a finding and no error, also where a check itself fails in a way that was not
    foreseen.
    """
    rules = list(engine.documents.rules) if rule is None else [engine.documents.rules.get(rule)]
    sets = list(engine.documents.credential_sets) if rule is None else []
    if source is not None:
        rules = [each for each in rules if each.source.login_server == source]
        sets = [each for each in sets if each.login_server == source]
    servers = sorted(
        {each.source.login_server for each in rules} | {each.login_server for each in sets}
    )
    clocks = _Clocks({})
    room = asyncio.Semaphore(AT_ONCE)

    async def look(login_server: str) -> list[Finding]:
        findings: list[Finding] = []
        own_rules = [each for each in rules if each.source.login_server == login_server]
        own_sets = [each for each in sets if each.login_server == login_server]
        async with room:
            try:
                registry = engine.registries.find(login_server)
                async for each in _source(engine, registry, own_rules, own_sets, clocks, clock):
                    findings.append(each)
            except Exception as error:
                findings.append(_not_checked(login_server, "registry", error))
        return findings

    found = await asyncio.gather(*(look(each) for each in servers))
    machine = [each async for each in _machine(engine, clocks, clock)]
    return Examination(findings=(*(each for source in found for each in source), *machine))


# A source registry


async def _source(
    engine: Engine,
    registry: SourceRegistry,
    rules: list[CacheRule],
    sets: list[CredentialSet],
    clocks: _Clocks,
    clock: Callable[[], float],
) -> AsyncIterator[Finding]:
    """From its name to its manifests; what follows from a failure is not looked at."""
    about, url = registry.login_server, httpx.URL(registry.endpoint)
    tls = tls_context(engine.settings)
    try:
        proxy = proxy_of(url)
    except ProxyUnusable as error:
        yield _caused(about, "connection", proxy_cause(error))
        return
    if proxy is not None:
        yield _ok(about, "connection", f"goes through the proxy {proxy.place}")
    else:
        addresses: list[AddressInfo] = []
        found = await _isolated(about, "name", lambda: _name(engine, registry, url, addresses))
        yield found
        if found.outcome is Outcome.FAILED:
            return
        found = await _isolated(
            about,
            "connection",
            lambda: _connection(engine, about, url, addresses, tls, clock, Reach.of(registry)),
        )
        yield found
        if found.outcome is Outcome.FAILED:
            return
    found = await _isolated(
        about, "registry", lambda: _registry(engine, registry, tls, clocks, clock)
    )
    yield found
    if found.outcome is Outcome.FAILED:
        return
    signed_in: dict[str | None, bool] = {}
    known = {each.name: each for each in engine.documents.credential_sets}
    for name in sorted(
        {each.credential_set for each in rules} | {each.name for each in sets},
        key=lambda each: each or "",
    ):
        found = await _isolated(
            about,
            "sign-in",
            partial(_sign_in, engine, registry, about, known[name] if name is not None else None),
        )
        signed_in[name] = found.outcome is not Outcome.FAILED
        yield found
    limited = asyncio.Semaphore(AT_ONCE)

    async def manifest(path: str, name: str | None) -> Finding:
        async with limited:
            return await _isolated(
                about,
                "manifest",
                lambda: _manifest(
                    engine.sources.client(registry, known[name] if name is not None else None),
                    about,
                    path,
                ),
            )

    wanted = {
        (each.source.path, each.credential_set)
        for each in rules
        if not each.source.wildcard and signed_in[each.credential_set]
    }
    for found in await asyncio.gather(*(manifest(*each) for each in sorted(wanted, key=str))):
        yield found
    yield await _isolated(about, "allowance", lambda: _allowance(engine, about))


async def _isolated(
    about: str, check: str, look: Callable[[], Finding | Awaitable[Finding]]
) -> Finding:
    """What a check finds; where it fails itself, that is the finding, and the others go on."""
    try:
        finding = look()
        return await finding if inspect.isawaitable(finding) else finding
    except Exception as error:
        return _not_checked(about, check, error)


def _not_checked(about: str, check: str, error: Exception) -> Finding:
    if isinstance(error, EntrepotError):
        return _refused(about, check, error)
    _log.error("the check %s of %s failed in an unforeseen way", check, about, exc_info=error)
    return _failed(
        about,
        check,
        f"This could not be checked: {printable(f'{type(error).__name__}: {error}', 200)}.",
        "That is a fault of Entrepot; its log has the details.",
    )


async def _name(
    engine: Engine, registry: SourceRegistry, url: httpx.URL, addresses: list[AddressInfo]
) -> Finding:
    """Looks the name up, and adds to *addresses* those to which a connection may be made."""
    about, reach = registry.login_server, Reach.of(registry)
    try:
        resolved = await Lookups(engine.settings.connect_timeout).addresses(url.host)
    except OSError as error:
        return _caused(
            about,
            "name",
            await engine.sources.diagnosis.cause(error, RequestTarget(about, url, reach)),
        )
    addresses += [
        each for each in resolved if url.host in reach.hosts or reach.permits_address(literal(each))
    ]
    if not addresses:
        return _failed(
            about,
            "name",
            f"{url.host} is an address of this machine's own surroundings, by the name server.",
            f'No connection is made. If the registry really runs there, declare its endpoint in settings.toml, below [upstreams."{about}"].',
        )
    return _ok(
        about,
        "name",
        f"{url.host} has {counted(len(set(map(literal, addresses))), 'address', 'addresses')}",
    )


async def _connection(
    engine: Engine,
    about: str,
    url: httpx.URL,
    addresses: list[AddressInfo],
    tls: ssl.SSLContext,
    clock: Callable[[], float],
    reach: Reach,
) -> Finding:
    secure = url.scheme == "https"
    port = url.port or (443 if secure else 80)
    place = f"{url.host}, port {port},"
    try:
        async with asyncio.timeout(engine.settings.connect_timeout):
            writer = await _connected(addresses, port, tls if secure else None, url.host)
    except OSError as error:
        # A TimeoutError is one as well.
        failure: BaseException = (
            httpx.ConnectTimeout("") if isinstance(error, TimeoutError) else error
        )
        cause = await engine.sources.diagnosis.cause(failure, RequestTarget(about, url, reach))
        return _caused(
            about, "certificate" if isinstance(error, ssl.SSLError) else "connection", cause
        )
    certificate = writer.get_extra_info("peercert")
    writer.transport.abort()
    if not secure:
        return _ok(about, "connection", f"{place} takes connections; it is plain HTTP")
    days = int((ssl.cert_time_to_seconds(certificate["notAfter"]) - clock()) // 86_400)
    if days < CERTIFICATE_ENDS_SOON:
        return _warning(
            about,
            "certificate",
            f"The certificate of {url.host} ends in {counted(days, 'day')}.",
            "Whoever runs the registry must renew it.",
        )
    return _ok(about, "certificate", f"is trusted, and good for {counted(days, 'day')}")


async def _connected(
    addresses: Iterable[AddressInfo], port: int, tls: ssl.SSLContext | None, host: str
) -> asyncio.StreamWriter:
    """A connection to the first of the addresses that takes one; raises what the last one says."""
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


async def _registry(
    engine: Engine,
    registry: SourceRegistry,
    tls: ssl.SSLContext,
    clocks: _Clocks,
    clock: Callable[[], float],
) -> Finding:
    about = registry.login_server
    timeout = httpx.Timeout(
        engine.settings.read_timeout, connect=engine.settings.connect_timeout, pool=None
    )
    reach = Reach.of(registry)
    transport = SourceTransport(
        tls, connections=1, reach=reach, lookup_timeout=engine.settings.connect_timeout
    )
    try:
        exchange = SourceHttp(
            transport,
            about,
            timeout=timeout,
            clock=clock,
            reach=reach,
            diagnosis=engine.sources.diagnosis,
        )
        async with await exchange.open(
            "GET", httpx.URL(f"{registry.endpoint}/v2/"), {}, about="its /v2/"
        ) as answer:
            if (date := parse_date(answer.headers.get("date"))) is not None:
                clocks.ahead[about] = date - clock()
            if answer.is_page:
                return _caused(about, "registry", web_page_cause(about, "its /v2/"))
            if answer.status == 200 or (
                answer.status == 401 and "www-authenticate" in answer.headers
            ):
                return _ok(about, "registry", "answers as a registry")
            if answer.status == 429:
                return _warning(
                    about, "registry", "It was asked too often (status 429).", "Try again later."
                )
            if answer.status >= 500:
                return _failed(
                    about,
                    "registry",
                    f"It fails with status {answer.status}.",
                    "The fault is there; try again later.",
                )
            return _failed(
                about,
                "registry",
                f"It does not answer as a registry: status {answer.status} for /v2/.",
                "Check its endpoint in settings.toml.",
            )
    except SourceError as error:
        return _refused(about, "registry", error)
    finally:
        await transport.aclose()


async def _sign_in(
    engine: Engine, registry: SourceRegistry, about: str, credential_set: CredentialSet | None
) -> Finding:
    if credential_set is None:
        try:
            await engine.sources.client(registry, None).verify_credentials()
        except EntrepotError as error:
            return _refused(about, "sign-in", error)
        return _ok(about, "sign-in", "lets us in without credentials")
    # So that the health of the set, which is shown elsewhere, is what was found here.
    health = await engine.sign_ins.check(credential_set.name)
    if health.status is HealthStatus.HEALTHY:
        return _ok(about, "sign-in", f"accepts the credentials of {credential_set.name}")
    return _failed(about, "sign-in", f"{credential_set.name}: {health.error_message}", "")


async def _manifest(client: SourceClient, about: str, path: str) -> Finding:
    repository = Repository(path)
    try:
        try:
            await client.head_manifest(repository, Tag("latest"))
        except SourceNotFound:
            # Not every repository has a tag of that name.
            tags = (await client.tags(repository, n=TAGS_TRIED, last=None)).tags
            if not tags:
                return _warning(
                    about,
                    "manifest",
                    f"{path} has no tags.",
                    "Images can be pulled by digest only.",
                )
            await client.head_manifest(repository, parse_tag(tags[0]))
    except SourceNotFound:
        return _failed(
            about,
            "manifest",
            f"It has no repository {path}.",
            "Check the source of the rule; a private one needs a credential set that may read it.",
        )
    except EntrepotError as error:
        return _failed(about, "manifest", f"{path}: {error.what}", error.hint)
    return _ok(about, "manifest", f"{path} can be pulled")


def _allowance(engine: Engine, about: str) -> Finding:
    state = engine.sources.state(about)
    left, limit = state.rate_limit.remaining, state.rate_limit.limit
    if left is None:
        return _ok(about, "allowance", "it tells of no limit")
    told = f"{left:,}" + (f" of {limit:,}" if limit is not None else "") + " pulls left"
    when = ""
    if (
        state.rate_limit.resets is not None
        and (wait := state.rate_limit.resets - engine.sources.wall_clock()) > 0
    ):
        when = f" for {duration(wait)}"
    if left <= 0:
        return _failed(
            about,
            "allowance",
            f"It gives us nothing more{when}.",
            "What is held is served meanwhile. A credential set may have a larger allowance.",
        )
    if limit is not None and left < limit * ALLOWANCE_LOW:
        return _warning(
            about,
            "allowance",
            f"Only {told}{when}.",
            "A credential set may have a larger allowance.",
        )
    return _ok(about, "allowance", told)


# The machine


async def _machine(
    engine: Engine, clocks: _Clocks, clock: Callable[[], float]
) -> AsyncIterator[Finding]:
    async def space() -> Finding:
        status = await engine.status()
        if not status.space_free and not await asyncio.to_thread(engine.directories.data.is_dir):
            return _failed(
                _MACHINE,
                "space",
                f"The data directory {engine.directories.data} is not there.",
                "Put it back, or restart the engine, which makes a new one.",
            )
        return await asyncio.to_thread(
            _space, engine, status.blobs_size, status.space_free, status.space_limit
        )

    disk = engine.health_of_engine.disk
    if disk is None or disk.code not in {CauseCode.READ_ONLY, CauseCode.PERMISSION}:
        # What can't be written tells of no space, and that would look like a full disk.
        yield await _isolated(_MACHINE, "space", space)
    yield await _isolated(_MACHINE, "data directory", lambda: _data(engine))
    yield await _isolated(_MACHINE, "open files", _files)
    if any(name.lower().endswith("_proxy") for name in os.environ):
        yield await _isolated(_MACHINE, "proxy", _proxy)
    behind = engine.sources.diagnosis.clock_problem()
    if clocks.ahead or behind is not None:
        yield await _isolated(_MACHINE, "clock", lambda: _clock_of(clocks.ahead, clock, behind))


def _space(engine: Engine, held: int, free: int, limit: int) -> Finding:
    told = f"{size(held)} of {size(limit)} are held, {size(free)} free"
    if free < SPACE_TO_START:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return _caused(
            _MACHINE,
            "space",
            disk_cause(full, engine.directories.data, file_system(engine.directories.data)),
        )
    if free < min(RESERVE, limit):
        return _warning(
            _MACHINE,
            "space",
            f"Little space is left: {told}.",
            "Other data grows on the same file system: free space, or lower size_limit.",
        )
    return _ok(_MACHINE, "space", told)


async def _data(engine: Engine) -> Finding:
    """What the engine itself knows: where the disk hangs, to look at it would hang as well."""
    data, foreign = engine.directories.data, engine.blobs.foreign
    place = await asyncio.to_thread(file_system, data)
    problems = engine.health_of_engine.problems()
    if (cause := engine.health_of_engine.disk) is not None:
        return _caused(_MACHINE, "data directory", cause)
    if (refusal := engine.catalog.refusal) is not None:
        return _refused(_MACHINE, "data directory", refusal)
    if problems:
        return _failed(
            _MACHINE,
            "data directory",
            " ".join(problems),
            f"Look at the file system that holds {data} ({place}).",
        )
    if (closed := await asyncio.to_thread(engine.blobs.forbidden_directory)) is not None:
        refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(closed))
        return _caused(
            _MACHINE,
            "data directory",
            await asyncio.to_thread(disk_cause, refused, data, place),
        )
    none = "belongs to no blob and was" if foreign.count == 1 else "belong to no blob and were"
    others = (
        f"; {counted(foreign.count, 'name')} in {engine.directories.blobs} {none} passed over: {foreign}"
        if foreign.count
        else ""
    )
    return _ok(_MACHINE, "data directory", f"{data} takes and gives ({place}){others}")


def _files() -> Finding:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= FILES_WANTED:
        return _ok(
            _MACHINE,
            "open files",
            f"{limit:,} are allowed" if limit != resource.RLIM_INFINITY else "as many as it takes",
        )
    if limit < FILES_NEEDED:
        return _failed(
            _MACHINE,
            "open files",
            f"Only {limit:,} are allowed: some hundred clients would use them up.",
            OPEN_FILES_HINT,
        )
    return _warning(
        _MACHINE,
        "open files",
        f"Only {limit:,} are allowed: more than a thousand clients would use them up.",
        OPEN_FILES_HINT,
    )


def _proxy() -> Finding:
    problems = environment_problems()
    if not problems:
        return _ok(_MACHINE, "proxy", "what the environment says of proxies can be used")
    return Finding(
        about=_MACHINE,
        check="proxy",
        outcome=Outcome.FAILED,
        what=" ".join(each.what for each in problems),
        advice=" ".join(dict.fromkeys(each.hint for each in problems)),
        cause=CauseCode.PROXY_UNUSABLE,
    )


def _clock_of(
    ahead: Mapping[str, float], clock: Callable[[], float], problem: Cause | None
) -> Finding:
    if not ahead and problem is not None:
        return _caused(_MACHINE, "clock", problem)
    # Where one source agrees with our clock, it is the others that are wrong.
    off = min(ahead.values(), key=abs)
    if abs(off) < CLOCK_WARNS:
        return _ok(_MACHINE, "clock", "is right")
    wrong = Cause(
        CauseCode.CLOCK_WRONG,
        f"{describe_clock(off, clock())}, by the Date of {next(iter(ahead)) if len(ahead) == 1 else 'the sources'}.",
        CLOCK_CURE,
    )
    return _caused(
        _MACHINE, "clock", wrong, Outcome.FAILED if abs(off) >= CLOCK_WRONG else Outcome.WARNING
    )


def _caused(about: str, check: str, cause: Cause, outcome: Outcome = Outcome.FAILED) -> Finding:
    return Finding(
        about=about,
        check=check,
        outcome=outcome,
        what=cause.what,
        advice=cause.hint,
        cause=cause.code,
    )


def _refused(about: str, check: str, error: EntrepotError) -> Finding:
    return Finding(
        about=about,
        check=check,
        outcome=Outcome.FAILED,
        what=error.what,
        advice=error.hint,
        cause=error.cause,
    )


def _ok(about: str, check: str, what: str) -> Finding:
    return Finding(about=about, check=check, outcome=Outcome.OK, what=what)


def _warning(about: str, check: str, what: str, advice: str) -> Finding:
    return Finding(about=about, check=check, outcome=Outcome.WARNING, what=what, advice=advice)


def _failed(about: str, check: str, what: str, advice: str) -> Finding:
    return Finding(about=about, check=check, outcome=Outcome.FAILED, what=what, advice=advice)
