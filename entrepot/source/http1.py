"""Requests and heads of responses of HTTP/1.1 over a `SourceConnection`, with h11.

h11 is httpx's own parser. It reads heads, and bodies whose length is not stated; a body of a stated
length is read without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import h11
import httpx

from entrepot.source.connection import SourceConnection

HEAD_LIMIT = 64 * 1024
"""Bytes of a head, or of the trailer of a chunked body, at most: presigned addresses have some 4 kB
each, and content security policies are long."""

MAX_INTERIM_RESPONSES = 16
"""Responses with a status below 200 that may come before the one that counts."""

READ_SIZE = 32 * 1024
"""Bytes of a head, or of a body whose length is not stated, that are read at once: `HEAD_LIMIT` is
exceeded by less than that."""


class EndedWithoutResponse(httpx.RemoteProtocolError):
    """A connection ended before the first byte of a response."""


class SourceExchange:
    """One request over *connection*, and its response.

    *read_timeout* is that of each wait, in seconds. Its methods raise httpx's errors.
    """

    def __init__(self, connection: SourceConnection, read_timeout: float | None) -> None:
        self._connection = connection
        self._read_timeout = read_timeout
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._has_begun = False
        self._error: httpx.RemoteProtocolError | None = None

    async def send(
        self,
        method: str,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        content: bytes = b"",
    ) -> h11.Response:
        """Send a request, and read the head of its response.

        Raises `ValueError` for a request that can't be sent, and `EndedWithoutResponse`.
        """
        try:
            message = self._parser.send(
                h11.Request(method=method, target=target, headers=list(headers))
            )
            if content:
                message = (message or b"") + (self._parser.send(h11.Data(content)) or b"")
            message = (message or b"") + (self._parser.send(h11.EndOfMessage()) or b"")
        except h11.LocalProtocolError as error:
            raise ValueError(str(error)) from error
        try:
            async with asyncio.timeout(self._read_timeout):
                await self._connection.send(message)
        except OSError as error:
            raise self._failure(error) from error
        interim_responses = 0
        while True:
            event = self._next_event()
            if event is h11.NEED_DATA:
                await self._receive()
                continue
            if isinstance(event, h11.Response):
                return event
            interim_responses += 1
            if (
                not isinstance(event, h11.InformationalResponse)
                or interim_responses > MAX_INTERIM_RESPONSES
            ):
                raise httpx.RemoteProtocolError("the server sent no response")

    @property
    def received(self) -> bytes:
        """The bytes that came along with the head of the response."""
        return bytes(self._parser.trailing_data[0])

    async def read(self) -> bytes:
        """The next bytes of a body whose length is not stated; b"" at its end.

        The bytes of many small chunks come together.
        """
        while not (data := self._take_body()):
            if self._parser.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED):
                return b""
            if self._error is not None:
                raise self._error
            await self._receive()
        return data

    def discard(self) -> bool:
        """Discard what has come of such a body; whether that was all, and another request fits."""
        self._take_body()
        return self._parser.their_state is h11.DONE and not self._parser.trailing_data[0]

    def _take_body(self) -> bytes:
        """The bytes of all chunks that have come; an error after them is kept for later."""
        pieces: list[bytes] = []
        while self._parser.their_state is h11.SEND_BODY:
            try:
                event = self._next_event()
            except httpx.RemoteProtocolError as error:
                self._error = error
                break
            if isinstance(event, h11.Data):
                pieces.append(event.data)
            elif event is h11.NEED_DATA:
                break
        return b"".join(pieces)

    def _next_event(self) -> object:
        try:
            return self._parser.next_event()
        except h11.RemoteProtocolError as error:
            raise httpx.RemoteProtocolError(str(error)) from error

    async def _receive(self) -> None:
        """Wait for bytes, or for the end of the connection."""
        buffer = self._buffer
        try:
            async with asyncio.timeout(self._read_timeout):
                count = await self._connection.read(buffer)
        except OSError as error:
            raise self._failure(error) from error
        if not count and not self._has_begun:
            raise EndedWithoutResponse("the connection ended without a response")
        self._has_begun = True
        self._parser.receive_data(bytes(buffer[:count]))

    def _failure(self, error: OSError) -> httpx.TransportError:
        if isinstance(error, TimeoutError) and error.errno is None:
            return httpx.ReadTimeout(str(error))
        if not self._has_begun and isinstance(error, ConnectionError):
            return EndedWithoutResponse(str(error))
        return httpx.RemoteProtocolError(str(error))


def body_length(method: str, response: h11.Response) -> int | None:
    """The length of the body of a response in bytes; None where it is not stated.

    RFC 9112, section 6.3; h11 has checked the headers.
    """
    if method == "HEAD" or response.status_code in {204, 304}:
        return 0
    if any(name == b"transfer-encoding" for name, _ in response.headers):
        return None
    length = next((value for name, value in response.headers if name == b"content-length"), None)
    return None if length is None else int(length)


def keeps_alive(response: h11.Response) -> bool:
    """Whether the server keeps its connection open after a response (RFC 9112, section 9.3)."""
    tokens = {
        token.strip().lower()
        for name, value in response.headers
        if name == b"connection"
        for token in value.split(b",")
    }
    return response.http_version >= b"1.1" and b"close" not in tokens
