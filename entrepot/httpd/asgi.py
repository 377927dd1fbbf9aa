"""Types of ASGI 3 (asgi.readthedocs.io), and our two additions to its messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

REASON_KEY = "entrepot.reason"
"""Key in ``http.response.start``: bytes that the status line gets after its phrase.

Of a 5xx, clients show the status line and not the body."""

ON_SENT_KEY = "entrepot.sent"
"""Key in ``http.response.zerocopysend``: a function called with each number of bytes sent."""


class Disconnected(ConnectionError):
    """The client is gone: nothing can be sent to it."""
