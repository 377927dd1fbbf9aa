"""Loops, detected by the Via header: engines that are their own sources.

They may be so directly or in a ring. RFC 9110, section 7.6.3: each engine adds its own pseudonym to
the requests that it sends to sources, and refuses a request that has it already. A request that a
client caused carries the pseudonyms of the engines through which it came; the names of other
intermediaries are private and not passed on. The pseudonym is random, new with each start, and says
nothing about engine or machine.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

MAX_ENGINES = 16
"""Engines that a request may have come through. More than that count as a ring."""

_PSEUDONYM = re.compile(r"\bentrepot-[0-9a-f]{20}\b")

_engines: ContextVar[tuple[str, ...]] = ContextVar("engines", default=())
"""The pseudonyms of the engines through which the current request came.

A fetch that goes on for other clients is a task that the request started, and so has the same.
"""


class Via:
    """The pseudonym of one engine."""

    def __init__(self) -> None:
        self._pseudonym = f"entrepot-{secrets.token_hex(10)}"

    @property
    def headers(self) -> Mapping[str, str]:
        """The Via header of a request to a source."""
        engines = (*_engines.get(), self._pseudonym)
        return {"Via": ", ".join(f"1.1 {engine}" for engine in engines)}

    def leads_here(self, header: bytes) -> bool:
        """Whether a request with this Via came through this engine, or through too many."""
        engines = _read(header)
        return self._pseudonym in engines or len(engines) > MAX_ENGINES


def _read(header: bytes) -> list[str]:
    return _PSEUDONYM.findall(header.decode("latin-1"))


def is_from_engine() -> bool:
    """Whether the current request comes from an engine."""
    return bool(_engines.get())


@contextmanager
def came_through(header: bytes | None) -> Iterator[None]:
    """Make requests to sources carry on the Via header of the client's request."""
    token = _engines.set(tuple(_read(header)[:MAX_ENGINES]) if header else ())
    try:
        yield
    finally:
        _engines.reset(token)
