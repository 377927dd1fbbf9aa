"""A request without a response: what it was for, and the errors behind it."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass, field

import httpx

from entrepot.formatting import printable
from entrepot.source.addresses import Reach

_ERRNO = re.compile(r"\[Errno (-?\d+)\]")


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """What a request was for.

    *name* is the login server of the source registry, *url* the address of the request.
    """

    name: str
    url: httpx.URL
    reach: Reach = field(default_factory=Reach)

    @property
    def host(self) -> str:
        """The host of the request, for messages."""
        return printable(self.url.host, 253)

    @property
    def label(self) -> str:
        """The source, with its host where that has another name."""
        return self.host if self.host == self.name else f"{self.name} ({self.host})"

    @property
    def port(self) -> int:
        """The port of the request."""
        return self.url.port or (443 if self.url.scheme == "https" else 80)


def causes_of(error: BaseException) -> list[BaseException]:
    """The error and those that led to it: transports wrap what the system said."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        if isinstance(current, BaseExceptionGroup):
            chain.extend(current.exceptions)
        current = current.__cause__ or current.__context__
    return chain


def failed_lookup(chain: list[BaseException]) -> socket.gaierror | None:
    """The error of a failed look-up of a name, if there was one."""
    return next((cause for cause in chain if isinstance(cause, socket.gaierror)), None)


def errnos(chain: list[BaseException]) -> set[int]:
    """The numbers of the system's errors.

    For several addresses asyncio and aiohttp put the numbers into a text.
    """
    numbers: set[int] = set()
    for cause in chain:
        if isinstance(cause, OSError) and not isinstance(cause, (socket.gaierror, ssl.SSLError)):
            if cause.errno is not None:
                numbers.add(cause.errno)
            else:
                numbers |= {int(number) for number in _ERRNO.findall(str(cause)[:2_000])}
    return numbers
