"""One process: the registry on TCP, management on a Unix socket."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from starlette.applications import Starlette

from entrepot import __version__
from entrepot.engine import Engine
from entrepot.errors import EngineError
from entrepot.server import live, management, repositories
from entrepot.server.registry import RegistryApp
from entrepot.settings import Directories, Settings, parse_listen

CONNECTIONS = 4096
"""Connections that wait or are served at once: granian's backlog also caps those that it serves (its default of 128 would stall the 129th client)."""

BUFFER = 64 * 1024
"""Bytes that the server keeps for one connection, beside what it is sending: its default of 408 KiB cost 50 MB of memory for 200 slow clients."""

GRACE = 10.0
"""Seconds that transfers have to finish when the engine is asked to end; then they are cut short."""

CUTTING = 1.0
"""Seconds that a server then has to end by itself. One that sends a file to a slow client does not, and is left to the end of the process."""

_log = logging.getLogger("entrepot.server")


def registry_app(engine: Engine) -> RegistryApp:
    """What container clients see."""
    return RegistryApp(engine)


def management_app(engine: Engine) -> Starlette:
    """What dashboard, CLI and scripts see."""
    return Starlette(
        routes=[*management.routes(engine), *repositories.routes(engine), *live.routes(engine)],
        exception_handlers=management.exception_handlers(),
    )


async def serve(
    directories: Directories,
    settings: Settings,
    *,
    listen: str | None = None,
    log_format: str = "plain",
    demo: bool = False,
    prepare: Callable[[Engine], Awaitable[None]] | None = None,
    ready: Callable[[Engine], None] | None = None,
) -> None:
    """Run an engine in the foreground until SIGTERM, SIGINT or a request to stop.

    *listen* (``HOST:PORT``, port 0 for any that is free) goes before the settings; *prepare* is awaited before clients are answered, *ready* called when
    they are. Raises `EngineError` in one sentence when the engine can't start.
    """
    set_up_logging(log_format)
    allow_open_files()
    settings = settings if listen is None else replace(settings, listen=listen)
    async with Engine.open(directories, settings, demo=demo) as engine, _signals(engine.stopping):
        if prepare is not None:
            await prepare(engine)
        async with listening(engine):
            if ready is not None:
                ready(engine)
            await engine.stopping.wait()
            engine.events.record("engine-stopping", "Stopping.")


@asynccontextmanager
async def listening(engine: Engine) -> AsyncIterator[None]:
    """Within it the engine answers on TCP and on its Unix socket."""
    host, port = parse_listen(engine.settings.listen)
    port = _free_port(host, port)
    shown = f"[{host}]" if ":" in host else host
    engine.address = f"{shown}:{port}"
    path = engine.directories.socket
    # Another engine would hold the data directory's lock, so a socket that is still there belongs to one that was killed.
    path.unlink(missing_ok=True)
    shared: dict[str, Any] = {
        "interface": Interfaces.ASGINL,
        "websockets": False,
        "http": HTTPModes.http1,
        "http1_settings": HTTP1Settings(max_buffer_size=BUFFER),
        "log_enabled": False,
        "backlog": CONNECTIONS,
        "backpressure": CONNECTIONS,
    }
    app = registry_app(engine)
    registry = Server(app, address=host, port=port, **shared)
    administration = Server(management_app(engine), uds=path, **shared)
    administration.uds_permissions = 0o600
    servers = [asyncio.create_task(each.serve(), name=name) for each, name in ((registry, "registry"), (administration, "management"))]
    try:
        await _answers(servers, host, port, path)
        engine.events.record(
            "engine-started",
            f"Entrepot {__version__} answers container clients on {engine.address} with {len(engine.documents.rules)} cache rules; management on {path}.",
        )
        yield
    finally:
        for each in (registry, administration):
            each.stop()  # type: ignore[no-untyped-call]
        _, late = await asyncio.wait(servers, timeout=GRACE)
        if late:
            app.cut()
            _, late = await asyncio.wait(late, timeout=CUTTING)
        for task in late:
            task.cancel()
        await asyncio.gather(*servers, return_exceptions=True)
        path.unlink(missing_ok=True)


def _free_port(host: str, port: int) -> int:
    """Try the address before the server does, whose own error would be a stack of Rust; for port 0, choose one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except socket.gaierror as error:
        raise EngineError(
            f"{host} is not an address of this machine: {error.strerror}.", "Give another with --listen HOST:PORT, or in settings.toml."
        ) from error
    except OSError as error:
        raise EngineError(
            f"The registry can't listen on {host}:{port}: {error.strerror}.",
            "Stop what listens there, or choose another with --listen HOST:PORT or in settings.toml.",
        ) from error


async def _answers(servers: list[asyncio.Task[None]], host: str, port: int, path: Path) -> None:
    """Wait until both servers take connections."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)

    async def connected() -> None:
        for where in ((target, port), path):
            while True:
                try:
                    _, writer = await (asyncio.open_unix_connection(where) if isinstance(where, Path) else asyncio.open_connection(*where))
                except (ConnectionRefusedError, FileNotFoundError):
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    await writer.wait_closed()
                    break

    connecting = asyncio.create_task(connected())
    try:
        await asyncio.wait({connecting, *servers}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        for each in servers:
            if each.done():
                raise EngineError(f"The {each.get_name()} server ended at once: {each.exception() or 'it gave no reason'}.", "The log may say more.")
        if not connecting.done():
            raise EngineError("The servers do not answer after ten seconds.", "Is the machine overloaded? Try again.")
        connecting.result()
    finally:
        connecting.cancel()


def allow_open_files() -> None:
    """Open as many files at once as the system lets us: connections, fills and readers have one each, and most systems begin with 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@asynccontextmanager
async def _signals(stopping: asyncio.Event) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    caught = (signal.SIGTERM, signal.SIGINT)
    for each in caught:
        loop.add_signal_handler(each, stopping.set)
    try:
        yield
    finally:
        for each in caught:
            loop.remove_signal_handler(each)


class _PlainFormatter(logging.Formatter):
    """``2026-11-02T10:15:00+00:00 WARNING The pull of …``: one line for people, sortable."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
        level = "" if record.levelno == logging.INFO else f"{record.levelname} "
        text = f"{moment} {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


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
        return json.dumps(line, ensure_ascii=False)


def set_up_logging(log_format: str) -> None:
    """Log to standard error, in ``plain`` or ``json`` lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _PlainFormatter())
    logger = logging.getLogger("entrepot")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
