"""One process: the registry on TCP, management on a Unix socket."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import logging
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

from entrepot import __version__
from entrepot.config.lock_file import record_engine
from entrepot.config.settings import Directories, Settings, parse_listen
from entrepot.core.hosts import is_loopback
from entrepot.core.permitted_identifiers import DEFAULT_OVER_TCP, EVERY_IDENTIFIER
from entrepot.engine.engine import Engine
from entrepot.errors import EngineBusy, EngineError
from entrepot.event_kinds import EventKind, Severity
from entrepot.formatting import counted, escaped, printable, printable_json
from entrepot.httpd.asgi import Application
from entrepot.httpd.server import RETRY_AFTER, HttpServer, bind_tcp
from entrepot.server.access import ReadOnly, TokenRequired
from entrepot.server.acr.data import DataResources
from entrepot.server.acr.management import CacheRuleResources, CredentialSetResources
from entrepot.server.acr.registries import RegistryResources
from entrepot.server.host_check import LocalHosts
from entrepot.server.identifier_check import IdentifierCheck
from entrepot.server.log_limit import LogLimit
from entrepot.server.log_output import LogFile, LogOutput, StandardError
from entrepot.server.registry import ALWAYS_ANSWERED, RegistryApp
from entrepot.server.responses import error_response, exception_handlers
from entrepot.server.shutdown import Deadline, Ending, answer_signals, survive_harmless_signals
from entrepot.server.unix_socket import OwnedSocket, owned_socket
from entrepot.server.v1.credentials import CredentialSetEndpoints
from entrepot.server.v1.pulls import PullEndpoints
from entrepot.server.v1.repositories import RepositoryEndpoints
from entrepot.server.v1.rules import RuleEndpoints
from entrepot.server.v1.system import SystemEndpoints
from entrepot.tasks import OwnedTasks, uninterrupted

GRACE = 10.0
"""Seconds that transfers have to finish when the engine is asked to end; then they are cut short."""

CUTTING = 1.0
"""Seconds that answers then have to end by themselves."""

MANAGEMENT_CONNECTIONS = 512
"""Connections of the management API that are open at once, at the most, for its socket and for TCP
each: dashboards and scripts."""

SOCKET_WATCH = 2.0
"""Seconds between two looks at whether the management socket is still there (F68)."""

THREADS = 32
"""Threads for what blocks a moment. asyncio has four and one for each core; as many calls that hang
on a disk or a program would stop all pulls."""

LOG_LINE = 16_384
"""Characters of a message in the plain log; what is longer is cut."""

_log = logging.getLogger("entrepot.server")


def registry_app(engine: Engine) -> RegistryApp:
    """What container clients see."""
    return RegistryApp(
        cache=engine.cache,
        routing=engine.routing,
        repositories=engine.repositories,
        health=engine.health,
        traffic=engine.traffic,
        via=engine.sources.via,
    )


def management_app(engine: Engine, *, token: str | None = None) -> Starlette:
    """What dashboard, CLI and scripts see. Over TCP it needs a *token*; who may open the Unix
    socket needs none.

    With a token only the secret identifiers that the settings permit over TCP can be made (S13).
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
    """Run an engine in the foreground until a signal (`entrepot.server.shutdown`) or a request to
    stop.

    *listen* (``HOST:PORT``, port 0 for any that is free) and *read_only* go before the settings;
    *log_file* takes the log instead of standard error; *prepare* is awaited before clients are
    answered, *ready* called when they are. *deadline* bounds the time that the end takes, also
    after this function. Raises `EngineError` in one sentence when the engine can't start.
    """
    with _private_files():
        output = set_up_logging(log_format, log_file)
        if deadline is not None:
            deadline.say_last = output.flush
        try:
            survive_harmless_signals()
            allow_open_files()
            asyncio.get_running_loop().set_default_executor(
                ThreadPoolExecutor(THREADS, "entrepot-worker")
            )
            settings = replace(
                settings,
                listen=settings.listen if listen is None else listen,
                read_only=settings.read_only or read_only,
            )
            await _serve(
                directories, settings, deadline=deadline, demo=demo, prepare=prepare, ready=ready
            )
        finally:
            # What is said next, such as why the engine did not start, comes after what it logged.
            output.flush()


@contextmanager
def _private_files() -> Iterator[None]:
    """Within it whatever is made is for this user only: SQLite makes its files with the rights that
    the umask leaves."""
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
        answer_signals(engine.stopping, deadline) as ending,
    ):
        if deadline is not None:
            waits = f"A thread waits for a program, or for the disk of {directories.data}."
            deadline.reason = lambda: " ".join(engine.health.problems()) or waits
        if prepare is not None:
            await prepare(engine)
        async with listening(engine, ending):
            # What is there by now stays. To look through all of it for garbage takes tens of
            # milliseconds, in which no client gets a byte.
            gc.freeze()
            if ready is not None:
                ready(engine)
            await engine.stopping.wait()
            ending.begin()
            engine.events.record(EventKind.ENGINE_STOPPING, "Stopping.")


@asynccontextmanager
async def listening(engine: Engine, ending: Ending | None = None) -> AsyncIterator[None]:
    """Within it the engine answers on TCP and on its Unix socket. *ending* may ask for transfers to
    be cut before their time is over."""
    host, port = parse_listen(engine.settings.listen)
    listener = _listener(host, port)
    shown = f"[{host}]" if ":" in host else host
    engine.endpoints.registry = f"{shown}:{listener.getsockname()[1]}"
    path = engine.directories.socket
    app = registry_app(engine)
    # What is offered on this machine alone is not shown to the web pages of others.
    answering = LocalHosts(app, {host, *engine.settings.hosts}) if is_loopback(host) else app
    registry = HttpServer(answering, cut=app.cut, busy=app.refuse_busy, always=ALWAYS_ANSWERED)
    administration = _management_server(management_app(engine))
    servers = [registry, administration]
    with listener, owned_socket(path) as owned:
        async with OwnedTasks() as tasks:
            if ending is not None:
                tasks.start(_cut_when_in_a_hurry(ending, servers), "cutting transfers")
            try:
                await registry.listen(listener)
                await administration.listen(owned.listener)
                if (over_tcp := await _management_over_tcp(engine)) is not None:
                    servers.append(over_tcp)
                rules = counted(len(engine.rules.book), "cache rule")
                engine.events.record(
                    EventKind.ENGINE_STARTED,
                    f"Entrepot {__version__} answers container clients on {engine.address} with {rules}; management on {path}"
                    + (
                        f" and {engine.endpoints.management}"
                        if engine.endpoints.management is not None
                        else ""
                    )
                    + (", read-only." if engine.settings.read_only else "."),
                )
                await asyncio.to_thread(record_engine, engine.directories.lock, path)
                async with OwnedTasks() as looking:
                    looking.start(
                        _keep_socket(engine, owned, administration),
                        "looking after the management socket",
                    )
                    yield
            finally:
                await _stop(servers)


async def _stop(servers: list[HttpServer]) -> None:
    await asyncio.gather(*(each.stop(grace=GRACE, abort_timeout=CUTTING) for each in servers))


async def _cut_when_in_a_hurry(ending: Ending, servers: list[HttpServer]) -> None:
    await ending.hurry.wait()
    await asyncio.gather(*(each.abort_responses(CUTTING) for each in servers))


async def _keep_socket(engine: Engine, owned: OwnedSocket, server: HttpServer) -> None:
    """Bind the management socket again when its file, lock or directory is gone (F68). Connections
    that stand are not touched."""
    loop = asyncio.get_running_loop()
    # A thread of its own: those that all share may wait for a disk that hangs.
    threads = ThreadPoolExecutor(1, "entrepot-socket")
    try:
        while True:
            await asyncio.sleep(SOCKET_WATCH)
            await _look_after_socket(
                engine,
                owned,
                server,
                lambda: uninterrupted(loop.run_in_executor(threads, owned.ensure)),
            )
    finally:
        threads.shutdown(wait=False)


async def _look_after_socket(
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
            else f"The management socket {owned.path} can't be made again: {error.strerror}."
        )
        if message != engine.endpoints.socket_problem:
            engine.endpoints.socket_problem = message
            engine.events.record(
                EventKind.SOCKET_LOST,
                f"{message} Commands and dashboards do not reach this engine; clients pull as ever.",
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


_ANOTHER = "choose another with --listen HOST:PORT or in settings.toml."


def _listener(
    host: str, port: int, *, what: str = "The registry", choose: str = _ANOTHER
) -> socket.socket:
    try:
        return bind_tcp(host, port)
    except socket.gaierror as error:
        raise EngineError(
            f"{host} is not an address of this machine: {error.strerror}.",
            "Give another with --listen HOST:PORT, or in settings.toml.",
        ) from error
    except OSError as error:
        raise EngineError(
            f"{what} can't listen on {host}:{port}: {error.strerror}.", _listen_hint(error, choose)
        ) from error


def check_listen(settings: Settings) -> None:
    """Raise `EngineError` where the registry can't listen on its address, as another program does."""
    _listener(*parse_listen(settings.listen)).close()


def _listen_hint(error: OSError, choose: str) -> str:
    """What to do about an address that can't be listened on; *choose* says where another one is
    set."""
    match error.errno:
        case errno.EADDRINUSE:
            return f"Stop what listens there, or {choose}"
        case errno.EACCES | errno.EPERM:
            return f"Low ports are for root and for services with CAP_NET_BIND_SERVICE: {choose}"
        case errno.EADDRNOTAVAIL:
            return f"No network interface of this machine has that address: {choose}"
    return choose[:1].upper() + choose[1:]


async def _management_over_tcp(engine: Engine) -> HttpServer | None:
    """The server of the management API on TCP, where the settings want one."""
    wanted = engine.settings.management
    if wanted is None:
        return None
    token = await asyncio.to_thread(wanted.token)
    tls = (
        _tls(wanted.certificate, wanted.key)
        if wanted.certificate is not None and wanted.key is not None
        else None
    )
    host, port = parse_listen(wanted.listen)
    listener = _listener(
        host,
        port,
        what="The management API",
        choose="choose another below [management] in settings.toml.",
    )
    engine.endpoints.management = replace(
        wanted, listen=f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    ).shown
    # No web page knows the token, so here a name that its owner lets point to this machine opens
    # nothing.
    server = _management_server(management_app(engine, token=token))
    await server.listen(listener, tls=tls)
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


def _tls(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise EngineError(
            f"The certificate {certificate} and its key {key} can't be used: {error.strerror or error}.",
            "Mend them, or the lines below [management].",
        ) from error
    return context


def allow_open_files() -> None:
    """Open as many files at once as the system lets us: connections, fills and readers have one
    each, and most systems begin with 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _PlainFormatter(logging.Formatter):
    """``2026-11-02T10:15:00+00:00 WARNING The pull of …``: one line for people, sortable, that no
    terminal obeys (S04).

    Only a traceback adds lines; they are indented, so that none can pass for a record of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
        level = "" if record.levelno == logging.INFO else f"{record.levelname} "
        lines = [f"{moment} {level}{printable(record.getMessage(), LOG_LINE)}"]
        for below in (
            self.formatException(record.exc_info) if record.exc_info else "",
            record.stack_info or "",
        ):
            lines += [f"    {escaped(line)}" for line in below.split("\n") if line]
        return "\n".join(lines)


class _JsonFormatter(logging.Formatter):
    """One JSON object a line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        for name in ("kind", "subject"):
            if (value := getattr(record, name, None)) is not None:
                line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return printable_json(json.dumps(line, ensure_ascii=False))


def set_up_logging(log_format: str, log_file: Path | None = None) -> LogOutput:
    """Log to standard error, or to *log_file*, in ``plain`` or ``json`` lines; raises `EngineError`
    where that file can't be written."""
    handler = LogOutput(StandardError() if log_file is None else LogFile(log_file))
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _PlainFormatter())
    handler.addFilter(LogLimit())
    # asyncio and other libraries have no handler of their own, and may quote what a source or a
    # client sent.
    logging.lastResort = handler
    logger = logging.getLogger("entrepot")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return handler
