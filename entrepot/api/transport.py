"""HTTP of `CacheClient`: through httpx, or through a blocking socket.

The blocking socket is for commands that send one request: importing httpx and an event loop takes
longer than everything else that a short command does. Both are imported when they are first used.

::

    TransportBroken             no answer, or a connection that broke off
    ├── TransportTimeout        the request was sent, and no answer came in time
    └── TransportUntrusted      the other end is not trusted, or speaks no TLS
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, Protocol

from entrepot.certificates import trust_certificates

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT: Final = 5.0
"""Seconds within which a connection must be established."""

MAX_LINE_LENGTH: Final = 64 * 1024
"""Bytes that a line of a response's head may have."""

READ_CHUNK: Final = 64 * 1024
"""Bytes that are read at once where a response does not state its length."""


class TransportBroken(Exception):
    """No answer, or a connection that broke off."""


class TransportTimeout(TransportBroken):
    """The request was sent, and no answer came in time."""


class TransportUntrusted(TransportBroken):
    """The other end could not prove who it is, or speaks no TLS."""


DELETED_HEADER: Final = "entrepot-deleted"
"""Whether a DELETE deleted something: 1, or 0 when there was nothing of that name."""


class ApiResponse(NamedTuple):
    """A whole response.

    *etag* is only set by transports of clients that ask more than once. *deleted* is the value of
    `DELETED_HEADER`; None if the engine does not send it.
    """

    status: int
    body: bytes
    etag: str | None = None
    deleted: str | None = None


class _Head(NamedTuple):
    """The head of a response, as far as it is needed."""

    status: int
    length: int | None
    is_chunked: bool
    deleted: str | None


class Transport(Protocol):
    """Carries requests to an engine; all methods raise `TransportBroken`.

    *read_timeout* is how many seconds the engine may be silent.
    """

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | AsyncIterable[bytes] | None,
        read_timeout: float,
    ) -> ApiResponse:
        """Send one request and read the whole response.

        A stream in *content* needs its length in the headers.
        """
        ...

    def stream(
        self, path: str, headers: Mapping[str, str], read_timeout: float
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """The body of a response to GET in chunks as they arrive, each with the status.

        The first chunk is empty and comes with the head. The stream ends where the response ends or
        breaks off.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class HttpxTransport:
    """Requests through httpx, in an event loop."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @classmethod
    def at(cls, path: Path) -> HttpxTransport:
        """A transport to the Unix socket *path*."""
        import httpx

        # No TLS is spoken on the socket, and reading the certificates for it would take longer than
        # most answers.
        return cls(
            httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(path), verify=False),
                base_url="http://entrepot",
            )
        )

    @classmethod
    def of_app(cls, app: Any) -> HttpxTransport:
        """A transport to an ASGI callable in the same process."""
        import httpx

        return cls(
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://entrepot")
        )

    @classmethod
    def over_https(cls, address: str, ca_file: Path | None = None) -> HttpxTransport:
        """A transport to ``https://host:port``.

        It trusts the system's certificate authorities and those in *ca_file* (PEM). Raises OSError
        when that file can't be read or holds no certificates.
        """
        import ssl

        import httpx
        import truststore

        tls = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if ca_file is not None:
            trust_certificates(tls, ca_file)
        # Proxies of the environment lead to the internet. A management API is offered within a
        # network, and its token must not pass a proxy.
        return cls(httpx.AsyncClient(verify=tls, base_url=address, trust_env=False))

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | AsyncIterable[bytes] | None,
        read_timeout: float,
    ) -> ApiResponse:
        """Send one request and read the whole response."""
        with _httpx_errors():
            response = await self._http.request(
                method, path, content=content, headers=headers, timeout=_timeout(read_timeout)
            )
        headers = response.headers
        return ApiResponse(
            response.status_code,
            response.content,
            headers.get("etag"),
            headers.get(DELETED_HEADER),
        )

    async def stream(
        self, path: str, headers: Mapping[str, str], read_timeout: float
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """The body of a response in chunks."""
        import httpx

        try:
            with _httpx_errors():
                async with (
                    self._http.stream(
                        "GET", path, headers=headers, timeout=_timeout(read_timeout)
                    ) as response,
                    aclosing(_chunks(response)) as chunks,
                ):
                    yield response.status_code, b""
                    async for chunk in chunks:
                        yield response.status_code, chunk
        except TransportBroken as error:
            if not isinstance(error.__cause__, httpx.RemoteProtocolError):
                raise

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class BlockingTransport:
    """Requests to the Unix socket *path*, each on its own connection.

    A coroutine that uses it never waits: it blocks, and needs no event loop.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | AsyncIterable[bytes] | None,
        read_timeout: float,
    ) -> ApiResponse:
        """Send one request and read the whole response."""
        # Commands that stream use a transport with an event loop.
        assert content is None or isinstance(content, bytes)
        with (
            _socket_errors(),
            self._exchange(method, path, headers, content, read_timeout) as response,
        ):
            head = _read_head(response)
            body = b"".join(_body_chunks(response, head))
            return ApiResponse(head.status, body, deleted=head.deleted)

    async def stream(
        self, path: str, headers: Mapping[str, str], read_timeout: float
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """The body of a response in chunks."""
        with (
            _socket_errors(),
            self._exchange("GET", path, headers, None, read_timeout) as response,
        ):
            head = _read_head(response)
            yield head.status, b""
            try:
                for chunk in _body_chunks(response, head):
                    yield head.status, chunk
            except ValueError:
                # The engine broke off: a stream ends there too.
                return

    async def close(self) -> None:
        """Do nothing: no connection stays open."""

    @contextmanager
    def _exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | None,
        read_timeout: float,
    ) -> Iterator[BinaryIO]:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: entrepot",
            "Connection: close",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        if content is not None or method != "GET":
            lines.append(f"Content-Length: {len(content or b'')}")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_TIMEOUT)
            connection.connect(str(self._path))
            connection.settimeout(read_timeout)
            connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii") + (content or b""))
            with connection.makefile("rb") as response:
                yield response


def _read_head(response: BinaryIO) -> _Head:
    """Read the head of a response (RFC 9112, 4 to 6).

    Raises ValueError for what is no HTTP response.
    """
    version, status, *_ = response.readline(MAX_LINE_LENGTH).split(maxsplit=2)
    if not version.startswith(b"HTTP/1."):
        raise ValueError(version)
    length, is_chunked, deleted = None, False, None
    while (line := response.readline(MAX_LINE_LENGTH)) not in {b"\r\n", b"\n"}:
        name, colon, value = line.partition(b":")
        if not colon:
            raise ValueError(line)
        if name.lower() == b"content-length":
            length = int(value)
        elif name.lower() == b"transfer-encoding":
            is_chunked = value.strip().lower() == b"chunked"
        elif name.lower() == DELETED_HEADER.encode():
            deleted = value.strip().decode("latin-1")
    has_no_body = int(status) in {204, 304}
    return _Head(int(status), 0 if has_no_body else length, is_chunked, deleted)


def _body_chunks(response: BinaryIO, head: _Head) -> Iterator[bytes]:
    """The body in chunks. Raises ValueError when it ends too early."""
    if head.is_chunked:
        while size := int(response.readline(MAX_LINE_LENGTH).partition(b";")[0], 16):
            yield _read_exactly(response, size)
            response.readline(MAX_LINE_LENGTH)
    elif head.length is not None:
        yield _read_exactly(response, head.length)
    else:
        while chunk := response.read(READ_CHUNK):
            yield chunk


def _read_exactly(response: BinaryIO, size: int) -> bytes:
    content = response.read(size)
    if len(content) < size:
        raise ValueError(f"{len(content)} of {size} bytes came")
    return content


@contextmanager
def _socket_errors() -> Iterator[None]:
    """Turn errors of a blocking socket into those of a transport."""
    try:
        yield
    except TimeoutError as error:
        raise TransportTimeout(str(error)) from error
    except (OSError, ValueError) as error:
        raise TransportBroken(str(error)) from error


def _timeout(read_timeout: float) -> httpx.Timeout:
    import httpx

    return httpx.Timeout(read_timeout, connect=CONNECT_TIMEOUT)


async def _chunks(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    async for chunk in response.aiter_bytes():
        yield chunk


@contextmanager
def _httpx_errors() -> Iterator[None]:
    """Turn errors of httpx into those of a transport."""
    import httpx

    try:
        yield
    except httpx.ReadTimeout as error:
        raise TransportTimeout(str(error)) from error
    except (httpx.TransportError, OSError) as error:
        if (reason := _untrusted(error)) is not None:
            raise TransportUntrusted(reason) from error
        raise TransportBroken(str(error)) from error


def _untrusted(error: BaseException) -> str | None:
    """Why the TLS handshake failed; None where something else failed."""
    import ssl

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"Its certificate is not trusted: {cause.verify_message.rstrip('.')}"
        if isinstance(cause, ssl.SSLError):
            return f"The TLS handshake failed: {cause.reason or cause}"
        cause = cause.__cause__ or cause.__context__
    return None
