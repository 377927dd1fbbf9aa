"""An engine that answers as a test says, without a socket."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from entrepot.api.client import CacheClient
from entrepot.api.transport import HttpxTransport


def client_of(answer: Callable[[httpx.Request], httpx.Response]) -> CacheClient:
    """A client whose requests *answer* answers."""
    return CacheClient(
        HttpxTransport(
            httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://entrepot")
        )
    )
