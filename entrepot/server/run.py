"""One process: the registry on TCP, management on a Unix socket."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

from entrepot import __version__
from entrepot.config.directories import Directories
from entrepot.config.lock_file import record_engine
from entrepot.config.network_access import check_network_access
from entrepot.config.settings import Settings, parse_listen
from entrepot.core.permitted_identifiers import DEFAULT_OVER_TCP, EVERY_IDENTIFIER
from entrepot.engine.engine import Engine
from entrepot.errors import EngineBusy, EngineError
from entrepot.event_kinds import EventKind, Severity
from entrepot.formatting import counted
from entrepot.httpd.asgi import Application
from entrepot.httpd.server import RETRY_AFTER, HttpServer
from entrepot.server.access import ReadOnly, TokenRequired
from entrepot.server.acr.data import DataResources
from entrepot.server.acr.management import CacheRuleResources, CredentialSetResources
from entrepot.server.acr.registries import RegistryResources
from entrepot.server.identifier_check import IdentifierCheck
from entrepot.server.listeners import RegistryListeners, bind_listener, bound_address
from entrepot.server.log_format import set_up_logging
from entrepot.server.registry import ALWAYS_ANSWERED, RegistryApp
from entrepot.server.responses import error_response, exception_handlers
from entrepot.server.shutdown import Deadline, Shutdown, handle_signals, ignore_harmless_signals
from entrepot.server.sign_in import ReaderSignIn
from entrepot.server.tls import TlsCertificates
from entrepot.server.unix_socket import OwnedSocket, owned_socket
from entrepot.server.v1.credentials import CredentialSetEndpoints
from entrepot.server.v1.pulls import PullEndpoints
from entrepot.server.v1.readers import ReaderEndpoints
from entrepot.server.v1.repositories import RepositoryEndpoints
from entrepot.server.v1.rules import RuleEndpoints
from entrepot.server.v1.system import SystemEndpoints
from entrepot.server.v1.transfer import TransferEndpoints
from entrepot.tasks import OwnedTasks, uninterrupted

SHUTDOWN_GRACE = 10.0
"""Seconds that transfers have to finish when the engine is asked to stop; then they are cut."""

ABORT_TIMEOUT = 1.0
"""Seconds that responses then have to end by themselves."""

MANAGEMENT_CONNECTIONS = 512
"""Connections of the management API that are open at once, at the most, for its socket and for TCP
each: dashboards and scripts."""

SOCKET_CHECK_INTERVAL = 2.0
"""Seconds between two checks that the management socket still exists (F68)."""

THREADS = 32
"""Threads for calls that block a moment. asyncio's default is four and one for each core; as many
calls that hang on a disk or a program would stop all pulls."""

_log = logging.getLogger("entrepot.server")


def registry_app(engine: Engine) -> RegistryApp:
    """The application that container clients use."""
    return RegistryApp(
        cache=engine.cache,
        routing=engine.routing,
        source_names=engine.source_names,
        repositories=engine.repositories,
        health=engine.health,
        traffic=engine.traffic,
        via=engine.sources.via,
    )


def management_app(engine: Engine, *, token: str | None = None) -> Starlette:
    """The application that dashboard, CLI and scripts use.

    Over TCP it requires a *token*; on the Unix socket the file's permissions suffice. With a token
    clients can create only the secret identifiers that the settings permit over TCP (S13).
    """
    over_tcp = engine.settings.management
    permitted = (
        EVERY_IDENTIFIER
        if token is None
        else over_tcp.secret_identifiers
        if over_tcp is not None
        else DEFAULT_OVER_TCP
    )
    identifiers = IdentifierCheck(engine.credential_sets, permitted)
    endpoints = (
        RegistryResources(engine.endpoints),
        CacheRuleResources(engine.rules),
        CredentialSetResources(engine.credential_sets, identifiers),
        DataResources(engine.repositories),
        RuleEndpoints(engine.rules, engine.revisions, permitted),
        CredentialSetEndpoints(engine.credential_sets, engine.revisions, identifiers),
        RepositoryEndpoints(engine.repositories, engine.revisions),
        PullEndpoints(engine.pulls),
        ReaderEndpoints(engine.readers, engine.revisions),
        TransferEndpoints(
            engine.exports, engine.imports, manifest_limit=engine.settings.manifest_limit
        ),
        SystemEndpoints(
            settings=engine.settings,
            status=engine.status,
            traffic=engine.traffic,
            maintenance=engine.maintenance,
            verification=engine.verification,
            events=engine.events,
            doctor=engine.doctor,
            stopping=engine.stopping,
        ),
    )
    routes = [route for group in endpoints for route in group.routes()]
    access = [Middleware(ReadOnly, engine.settings, routes)]
    return Starlette(
        routes=routes,
        middleware=access if token is None else [Middleware(TokenRequired, token), *access],
        exception_handlers=exception_handlers(),
    )


async def serve(
    directories: Directories,
    settings: Settings,
    *,
    listen: str | None = None,
    read_only: bool = False,
    log_format: str = "plain",
    log_file: Path | None = None,
    deadline: Deadline | None = None,
    demo: bool = False,
    prepare: Callable[[Engine], Awaitable[None]] | None = None,
    ready: Callable[[Engine], None] | None = None,
) -> None:
    """Run an engine in the foreground until a signal or a request to stop.

    *listen* (``HOST:PORT``, port 0 for any that is free) and *read_only* override the settings;
    *log_file* takes the log instead of standard error; *prepare* is awaited before the engine
    answers clients, *ready* called when it does. *deadline* bounds the time that stopping takes,
    also after this function. Raises `EngineError` in one sentence when the engine can't start.
    `entrepot.server.shutdown` describes the signals.
    """
    with _private_files():
        output = set_up_logging(log_format, log_file)
        if deadline is not None:
            deadline.flush_log = output.flush
        try:
            ignore_harmless_signals()
            allow_open_files()
            asyncio.get_running_loop().set_default_executor(
                ThreadPoolExecutor(THREADS, "entrepot-worker")
            )
            settings = replace(
                settings,
                listen=settings.listen if listen is None else listen,
                read_only=settings.read_only or read_only,
            )
            check_network_access(settings)
            await _serve(
                directories, settings, deadline=deadline, demo=demo, prepare=prepare, ready=ready
            )
        finally:
            # A message printed next, such as why the engine did not start, comes after the log.
            output.flush()


@contextmanager
def _private_files() -> Iterator[None]:
    """Create files for this user only, as SQLite takes permissions from the umask."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


async def _serve(
    directories: Directories,
    settings: Settings,
    *,
    deadline: Deadline | None,
    demo: bool,
    prepare: Callable[[Engine], Awaitable[None]] | None,
    ready: Callable[[Engine], None] | None,
) -> None:
    async with (
        Engine.open(directories, settings, demo=demo) as engine,
        handle_signals(engine.stopping, deadline) as shutdown,
    ):
        if deadline is not None:
            default = f"A thread waits for a program, or for the disk of {directories.data}."
            deadline.reason = lambda: " ".join(engine.health.problems()) or default
        if prepare is not None:
            await prepare(engine)
        async with listening(engine, shutdown):
            # The objects of the start stay. A garbage collection of all of them takes tens of
            # milliseconds, in which no client gets a byte.
            gc.freeze()
            gc.enable()
            if ready is not None:
                ready(engine)
            await engine.stopping.wait()
            shutdown.begin()
            engine.events.record(EventKind.ENGINE_STOPPING, "Stopping.")


@asynccontextmanager
async def listening(engine: Engine, shutdown: Shutdown | None = None) -> AsyncIterator[None]:
    """Let the engine answer on TCP and on its Unix socket.

    *shutdown* may ask for transfers to be cut before their time is over.
    """
    path = engine.directories.socket
    app = registry_app(engine)
    certificates = TlsCertificates(engine.events)
    registry = HttpServer(app, cut=app.cut, busy=app.refuse_busy, always=ALWAYS_ANSWERED)
    management = _management_server(management_app(engine))
    servers = [registry, management]
    with (
        RegistryListeners.bound(engine.settings) as listeners,
        owned_socket(path) as owned,
    ):
        listeners.describe(engine.endpoints)
        async with OwnedTasks() as tasks:
            if shutdown is not None:
                tasks.start(_abort_when_asked_again(shutdown, servers), "cutting transfers")
            try:
                await listeners.listen(registry, ReaderSignIn(app, engine.readers), certificates)
                await management.listen(owned.listener)
                if (over_tcp := await _management_over_tcp(engine, certificates)) is not None:
                    servers.append(over_tcp)
                engine.endpoints.certificates = certificates.served
                if certificates.served:
                    tasks.start(certificates.watch(), "reading certificates again")
                engine.events.record(EventKind.ENGINE_STARTED, _started_message(engine, path))
                await asyncio.to_thread(record_engine, engine.directories.lock, path)
                async with OwnedTasks() as socket_checks:
                    socket_checks.start(
                        _keep_socket(engine, owned, management), "keeping the management socket"
                    )
                    yield
            finally:
                await _stop(servers)


def _started_message(engine: Engine, path: Path) -> str:
    rules = counted(len(engine.rules.book), "cache rule")
    over_tcp = engine.endpoints.management
    encryption = " over TLS" if engine.endpoints.has_tls else ""
    mirrors = "".join(
        f", those of {mirror.namespace} on {mirror.address}" for mirror in engine.endpoints.mirrors
    )
    return (
        f"Entrepot {__version__} answers container clients on {engine.address}{encryption} with "
        f"{rules}{mirrors}; management on {path}"
        f"{f' and {over_tcp}' if over_tcp is not None else ''}"
        f"{', read-only' if engine.settings.read_only else ''}."
    )


async def _stop(servers: list[HttpServer]) -> None:
    await asyncio.gather(
        *(server.stop(grace=SHUTDOWN_GRACE, abort_timeout=ABORT_TIMEOUT) for server in servers)
    )


async def _abort_when_asked_again(shutdown: Shutdown, servers: list[HttpServer]) -> None:
    await shutdown.asked_again.wait()
    await asyncio.gather(*(server.abort_responses(ABORT_TIMEOUT) for server in servers))


async def _keep_socket(engine: Engine, owned: OwnedSocket, server: HttpServer) -> None:
    """Bind the management socket again when its file, lock or directory is gone (F68).

    Open connections are not touched.
    """
    loop = asyncio.get_running_loop()
    # A thread of its own: the shared ones may wait for a disk that hangs.
    threads = ThreadPoolExecutor(1, "entrepot-socket")
    try:
        while True:
            await asyncio.sleep(SOCKET_CHECK_INTERVAL)
            await _ensure_socket(
                engine,
                owned,
                server,
                lambda: uninterrupted(loop.run_in_executor(threads, owned.ensure)),
            )
    finally:
        threads.shutdown(wait=False)


async def _ensure_socket(
    engine: Engine,
    owned: OwnedSocket,
    server: HttpServer,
    ensure: Callable[[], Awaitable[socket.socket | None]],
) -> None:
    before = owned.listener
    try:
        renewed = await ensure()
    except (EngineError, OSError) as error:
        message = (
            error.message
            if isinstance(error, EngineError)
            else f"The management socket {owned.path} can't be created again: {error.strerror}."
        )
        if message != engine.endpoints.socket_problem:
            engine.endpoints.socket_problem = message
            engine.events.record(
                EventKind.SOCKET_LOST,
                f"{message} Commands and dashboards do not reach this engine; clients still pull.",
                severity=Severity.ERROR,
            )
        return
    if renewed is not None:
        await server.listen(renewed)
        server.stop_listening(before)
        engine.events.record(
            EventKind.SOCKET_RESTORED,
            f"The management socket {owned.path} was gone or replaced; it is there again.",
            severity=Severity.WARNING,
        )
    engine.endpoints.socket_problem = None


async def _management_over_tcp(engine: Engine, certificates: TlsCertificates) -> HttpServer | None:
    """The server of the management API on TCP, where the settings ask for one."""
    over_tcp = engine.settings.management
    if over_tcp is None:
        return None
    token = await asyncio.to_thread(over_tcp.token)
    tls = None if over_tcp.tls is None else await certificates.add(over_tcp.tls)
    host, port = parse_listen(over_tcp.listen)
    listener = bind_listener(
        host,
        port,
        what="The management API",
        choose="choose another below [management] in settings.toml.",
    )
    engine.endpoints.management = replace(over_tcp, listen=bound_address(host, listener)).shown
    # No web page knows the token, so a name that its owner lets point to this machine opens
    # nothing here.
    server = _management_server(management_app(engine, token=token))
    await server.listen(listener, tls=None if tls is None else tls.context)
    return server


def _management_server(app: Application) -> HttpServer:
    busy = EngineBusy(
        "Too many requests are under way.", "Try again in a few seconds.", retry_after=RETRY_AFTER
    )

    async def refuse_busy(scope: Scope, receive: Receive, send: Send) -> None:
        response = error_response(busy, scope["path"])
        response.headers["retry-after"] = str(busy.retry_after)
        await response(scope, receive, send)

    return HttpServer(app, busy=refuse_busy, connections=MANAGEMENT_CONNECTIONS)


def allow_open_files() -> None:
    """Raise the limit of open files to the hard limit.

    Connections, fills and readers have one each, and most systems begin with 1,024.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
