"""Responses of the registry: OCI errors, and bodies from memory, files or streams.

Bytes that are in a file leave through the server's ``http.response.zerocopysend`` where it supports
that, and so never come through Python.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Mapping
from email.utils import formatdate, parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec

from entrepot import __version__
from entrepot.causes import CauseCode, at_fault
from entrepot.core.readers import ANONYMOUS, Reader
from entrepot.errors import EngineBusy, EntrepotError, PushRefused, RangeUnsatisfiable
from entrepot.formatting import printable
from entrepot.httpd.asgi import ON_SENT_KEY, REASON_KEY, Receive, Scope, Send
from entrepot.httpd.ranges import BlobPieces
from entrepot.httpd.sendfile import OpenFile, chunks
from entrepot.server.paging import page_size
from entrepot.server.request_scope import READER
from entrepot.source.errors import (
    SourceAvoided,
    SourceBusy,
    SourceRateLimited,
    SourceUnreachable,
)

Headers = list[tuple[bytes, bytes]]

PAGE_SIZE = 1000
"""Tags or repositories in a page of a listing at the most; a client that asks for more gets this
many and a link to the next page."""

MIN_UNKNOWN_WAIT = 3
"""Seconds that a client is asked to wait, at least, when the rate limit of a source is reached and
the source does not say for how long."""

MAX_WAIT = 24 * 3600
"""Seconds that a client is asked to wait, at most, whatever the source asks for."""

MIN_SPREAD = 5
"""Seconds over which the retries of refused clients are spread, at least; a fifth of their wait if
that is longer."""

REASON_LENGTH = 500
"""Characters of an error in a status line. Proxies take lines of 4 kB and more."""

_CONTENT_HEADERS = frozenset({b"content-length", b"content-type", b"content-range"})
"""Headers that a 304 does not have, because it has no content (RFC 9110, section 15.4.5)."""


class RegistryResponse:
    """The response to one request.

    `started` says whether it has begun: after that an error can only cut it short.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.head = scope["method"] == "HEAD"
        self.headers: Mapping[bytes, bytes] = _joined(scope["headers"])
        query = scope["query_string"]
        self.query = parse_qs(query.decode("latin-1")) if query else {}
        self.reader: Reader = scope.get(READER, ANONYMOUS)
        self.client: str | None = scope["client"][0] if scope.get("client") else None
        self._sends_files = "http.response.zerocopysend" in (scope.get("extensions") or {})
        self.started = False
        self.namespace: str | None = None
        """The source registry to which the names of the request belong, in mirror mode."""
        self._reason = b""

    def page(self) -> tuple[int | None, str | None]:
        """``n``, at most `PAGE_SIZE`, and ``last`` of a query; raises `RequestInvalid`."""
        return page_size(self.query.get("n", [None])[0], PAGE_SIZE), self.query.get("last", [None])[
            0
        ]

    def range_applies(self, digest: str) -> bool:
        """Whether a Range counts: not when If-Range names other content.

        RFC 9110, section 13.1.5.
        """
        condition = self.headers.get(b"if-range")
        return condition is None or condition.decode("latin-1").strip('"') == digest

    def _is_cached_by_client(self, etag: str | None, modified: float | None = None) -> bool:
        """Whether the client has the content with *etag*, by its conditions.

        If-Modified-Since counts only without If-None-Match (RFC 9110, section 13.2.2).
        """
        condition = self.headers.get(b"if-none-match")
        if condition is not None:
            return etag is not None and (
                condition.strip() == b"*" or f'"{etag}"'.encode() in condition
            )
        since = self.headers.get(b"if-modified-since")
        if since is None or modified is None:
            return False
        return is_unmodified_since(modified, since.decode("latin-1"))

    async def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.started = True
        common = [
            (b"docker-distribution-api-version", b"registry/2.0"),
            (b"server", f"entrepot/{__version__}".encode()),
        ]
        if self.namespace is not None:
            # OCI distribution specification, "Registry Proxying".
            common.append((b"oci-namespace", self.namespace.encode()))
        start: dict[str, Any] = {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, *common],
        }
        if self._reason:
            start[REASON_KEY] = self._reason
        await self._send(start)

    async def empty(self, status: int, headers: Headers) -> None:
        """Send headers only: the response to a HEAD, or a 304."""
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": b""})

    async def content(
        self,
        content: bytes,
        headers: Headers,
        *,
        etag: str | None = None,
        modified: float | None = None,
        status: int = 200,
    ) -> None:
        """Send a whole body from memory, which HEAD leaves out.

        *modified* is when the content changed, in seconds since the epoch.
        """
        if modified is not None:
            headers = [*headers, (b"last-modified", formatdate(modified, usegmt=True).encode())]
        if self._is_cached_by_client(etag, modified):
            await self.empty(
                304, [(name, value) for name, value in headers if name not in _CONTENT_HEADERS]
            )
            return
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": b"" if self.head else content})

    async def json(
        self, content: bytes, headers: Headers | None = None, *, status: int = 200
    ) -> None:
        """Send a JSON document; *headers* may have another content type."""
        headers = list(headers or ())
        if not any(name == b"content-type" for name, _ in headers):
            headers.append((b"content-type", b"application/json"))
        await self.content(
            content, [*headers, (b"content-length", str(len(content)).encode())], status=status
        )

    async def error(self, error: EntrepotError) -> None:
        """Send an error as OCI clients expect it.

        It is ``{"errors": [{"code", "message", "detail"}]}``.
        """
        detail: dict[str, str] = {"code": error.code}
        if error.cause is not None:
            detail |= {"cause": error.cause, "atFault": at_fault(CauseCode(error.cause))}
        if error.source_message:
            # For an engine whose source this one is: it quotes that and not the sentence built
            # around it here.
            detail["sourceMessage"] = error.source_message
        document = {
            "errors": [{"code": error.oci_code, "message": error.message, "detail": detail}]
        }
        if error.oci_status >= 500:
            # docker, podman and skopeo show no body of a 5xx, but the status line (RFC 9112,
            # section 4).
            self._reason = printable(error.message, REASON_LENGTH).encode("ascii", "replace")
        headers: Headers = []
        if isinstance(error, PushRefused):
            headers.append((b"allow", error.allow.encode()))
        if isinstance(error, RangeUnsatisfiable):
            headers.append((b"content-range", f"bytes */{error.size}".encode()))
        if isinstance(error, (SourceRateLimited, SourceAvoided, SourceBusy, EngineBusy)):
            headers.append((b"retry-after", str(retry_after_seconds(error.retry_after)).encode()))
        elif isinstance(error, SourceUnreachable):
            # It is tried again after a second. An engine whose source this one is needs to know.
            headers.append((b"retry-after", str(retry_after_seconds(1.0)).encode()))
        await self.json(msgspec.json.encode(document), headers, status=error.oci_status)

    async def file(
        self,
        status: int,
        headers: Headers,
        file: OpenFile,
        start: int,
        end: int,
        *,
        etag: str | None,
        on_sent: Callable[[int], None],
    ) -> None:
        """Send the bytes *start* (inclusive) to *end* (exclusive) of a file.

        *on_sent* is called with each number of bytes.
        """
        if self._is_cached_by_client(etag):
            await self.content(b"", headers, etag=etag)
            return
        await self._start(status, headers)
        await self._send_part(file, start, end, on_sent)
        await self._send({"type": "http.response.body", "body": b""})

    async def _send_part(
        self, file: OpenFile, start: int, end: int, on_sent: Callable[[int], None]
    ) -> None:
        if self._sends_files:
            # It is called while the file is sent: a client may disconnect in the middle of it.
            await self._send(
                {
                    "type": "http.response.zerocopysend",
                    "file": file,
                    "offset": start,
                    "count": end - start,
                    "more_body": True,
                    ON_SENT_KEY: on_sent,
                }
            )
            return
        async for chunk in chunks(file, start, end - start):
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            on_sent(len(chunk))

    async def stream(
        self,
        status: int,
        headers: Headers,
        body: BlobPieces,
        *,
        etag: str | None,
        on_sent: Callable[[int], None],
    ) -> None:
        """Send a body as it comes; *on_sent* is called with each number of bytes.

        It begins with the first piece of the body: until then it can still be an error. It ends
        early, without an error, when the client disconnects.
        """
        if self._is_cached_by_client(etag):
            await self.content(b"", headers, etag=etag)
            return
        sending = asyncio.ensure_future(self._send_all(status, headers, body, on_sent))
        disconnect = asyncio.ensure_future(self._wait_for_disconnect())
        try:
            # send() does not fail when the client is gone, so the disconnect has to be awaited.
            await asyncio.wait({sending, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, disconnect):
                task.cancel()
            await asyncio.gather(sending, disconnect, return_exceptions=True)

    async def _send_all(
        self, status: int, headers: Headers, body: BlobPieces, on_sent: Callable[[int], None]
    ) -> None:
        async for piece in body:
            if not self.started:
                await self._start(status, headers)
            if isinstance(piece, bytes):
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
                on_sent(len(piece))
            else:
                await self._send_part(piece.file, piece.offset, piece.offset + piece.count, on_sent)
        if not self.started:
            await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": b""})

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    # docker and containerd send one Accept header for each media type: together they are one list
    # (RFC 9110, section 5.3).
    joined: dict[bytes, bytes] = {}
    for name, value in headers:
        joined[name] = joined[name] + b", " + value if name in joined else value
    return joined


def is_unmodified_since(modified: float, date: str) -> bool:
    """Whether content that changed at *modified* has not changed since an HTTP date.

    Another date counts as none (RFC 9110, section 13.1.3), as does one without a time zone.
    """
    try:
        since = parsedate_to_datetime(date)
    except ValueError:
        return False
    return since.tzinfo is not None and int(modified) <= since.timestamp()


def retry_after_seconds(seconds: float | None) -> int:
    """The seconds that a client is asked to wait.

    A little longer than the source asks for, at random, so that not all clients come back at once.
    """
    least = MIN_UNKNOWN_WAIT if seconds is None else max(1, math.ceil(min(seconds, MAX_WAIT)))
    return least + random.randint(0, max(MIN_SPREAD, least // 5))
