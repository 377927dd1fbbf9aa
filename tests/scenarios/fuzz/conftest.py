"""What holds whatever comes in: no 500, nothing unforeseen in the log, no stall, nothing left
behind."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from entrepot.engine.engine import Engine
from tests.fakes import FakeRegistry

LONG = 40
"""How many times as many examples there are in the long run."""

STALL = 1.0
"""Processor time, in seconds, that one example may take of the event loop's thread.

No other client is answered meanwhile. A busy machine does not lengthen it.
"""

SPARE = 40
"""Tasks, and open files, that may be more afterwards: connections that are kept for the next
request."""


def examples(number: int) -> settings:
    """*number* examples in the normal run, which share the fixtures of their test."""
    long = os.environ.get("ENTREPOT_TESTS") == "long"
    return settings(
        max_examples=number * (LONG if long else 1), suppress_health_check=[*HealthCheck]
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client got. *broken*: the answer was cut off after it had begun."""

    status: int
    headers: dict[str, str]
    body: bytes
    broken: bool


async def ask(
    app: Any,
    path: str,
    *,
    method: str = "GET",
    query: bytes = b"",
    headers: Iterable[tuple[bytes, bytes]] = (),
    body: bytes = b"",
) -> Reply:
    """One request as the HTTP server hands it to an application, which may hold what no client
    library would send."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogateescape"),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 5000),
        "extensions": {},
    }
    received = False
    messages: list[Any] = []

    async def receive() -> Any:
        nonlocal received
        if received:
            await asyncio.Event().wait()
        received = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    broken = False
    try:
        await app(scope, receive, send)
    except Exception:
        # Then the server cuts the connection.
        if not messages:
            raise
        broken = True
    response_headers = {
        name.decode("latin-1").lower(): value.decode("latin-1")
        for name, value in messages[0]["headers"]
    }
    return Reply(
        messages[0]["status"],
        response_headers,
        b"".join(message.get("body", b"") for message in messages[1:]),
        broken,
    )


@dataclass
class Watch(logging.Handler):
    """Listens to the log, and looks at what an example costs."""

    unforeseen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        logging.Handler.__init__(self)

    __hash__ = logging.Handler.__hash__

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what must not be there: a traceback, or an error of asyncio."""
        if record.exc_info or (record.name == "asyncio" and record.levelno >= logging.ERROR):
            self.unforeseen.append(logging.Formatter().format(record))

    @contextmanager
    def example(self) -> Iterator[None]:
        """One input."""
        self.unforeseen.clear()
        before = time.thread_time()
        yield
        used = time.thread_time() - before
        # Another example must not fail with it.
        unforeseen = self.unforeseen[:]
        self.unforeseen.clear()
        assert unforeseen == []
        assert used < STALL, f"{used:.1f} s"


@pytest.fixture
def watch() -> Iterator[Watch]:
    handler = Watch()
    loggers = [logging.getLogger(name) for name in ("entrepot", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.fixture
async def steady(engine: Engine, watch: Watch) -> AsyncIterator[Engine]:
    """An engine that has as much under way afterwards as before."""
    tasks, files = len(asyncio.all_tasks()), _open_files()
    yield engine
    async with asyncio.timeout(60):
        while (
            any(not pull.progress().state.ended for pull in engine.cache.pulls.all())
            or len(asyncio.all_tasks()) > tasks + SPARE
        ):
            await asyncio.sleep(0)
    assert _open_files() < files + SPARE
    assert watch.unforeseen == []


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
async def cached(steady: Engine, source: FakeRegistry) -> Engine:
    """With ``library/nginx:1.27`` in the cache."""
    source.add_image("library/nginx", "1.27")
    started = await steady.pulls.start("library/nginx:1.27", "linux/amd64", "10.0.4.17")
    await steady.cache.pulls.get(started.id).finished.wait()
    return steady
