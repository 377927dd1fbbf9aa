"""HTTP below `CacheClient`: through httpx, and through a plain socket for commands that ask one
thing and end.

To import httpx and an event loop takes longer than all that a short command does besides; nothing
here imports them before they are used.

::

    WireBroken                 nobody answers, or who answered broke off
    ├── WireSilent             the question was taken, and no answer came in time
    └── WireUntrusted          the other end could not prove who it is, or speaks no TLS; the text says which
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, Protocol

from entrepot.certificates import trust_certificates

if TYPE_CHECKING:
    import httpx

CONNECTING: Final = 5.0
"""Seconds until a connection has to stand."""

LINE_LENGTH: Final = 64 * 1024
"""Bytes of a line of an answer's head, at most."""

PIECE: Final = 64 * 1024
"""Bytes that are read at once where an answer does not say how long it is."""


class WireBroken(Exception):
    """Nobody answers, or who answered broke off."""


class WireSilent(WireBroken):
    """The question was taken, but no answer came in time."""


class WireUntrusted(WireBroken):
    """The other end could not prove who it is, or speaks no TLS."""


class WireAnswer(NamedTuple):
    """What came back. *etag* is for who asks again; a command that asks once has no use for it."""

    status: int
    body: bytes
    etag: str | None = None


class Wire(Protocol):
    """What carries a question to an engine. *patience* is how many seconds the engine may be
    silent. All methods raise `WireBroken`."""

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | None,
        patience: float,
    ) -> WireAnswer:
        """The whole answer."""
        ...

    def stream(
        self, path: str, headers: Mapping[str, str], patience: float
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """The body of an answer in pieces, as they come, each with its status; the first is empty.
        It ends where the answer ends or breaks off."""
        ...

    async def close(self) -> None:
        """Let go of the connections."""
        ...


class HttpxWire:
    """Questions through httpx, in an event loop."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @classmethod
    def at(cls, path: Path) -> HttpxWire:
        """To the Unix socket *path*."""
        import httpx

        # No TLS is spoken on the socket, and to read the certificates for it would take longer than
        # most answers.
        return cls(
            httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(path), verify=False),
                base_url="http://entrepot",
            )
        )

    @classmethod
    def of_app(cls, app: Any) -> HttpxWire:
        """To an ASGI callable in the same process."""
        import httpx

        return cls(
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://entrepot")
        )

    @classmethod
    def over_https(cls, address: str, ca_file: Path | None = None) -> HttpxWire:
        """To ``https://host:port``; trusted are the system's certificate authorities and those in
        *ca_file* (PEM).

        Raises OSError when that file can't be read or holds no certificates.
        """
        import ssl

        import httpx
        import truststore

        tls = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if ca_file is not None:
            trust_certificates(tls, ca_file)
        # The proxies of the environment are for the internet. A management API is offered within a
        # network, and its token is for nobody else.
        return cls(httpx.AsyncClient(verify=tls, base_url=address, trust_env=False))

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | None,
        patience: float,
    ) -> WireAnswer:
        """The whole answer."""
        with _as_broken():
            response = await self._http.request(
                method, path, content=content, headers=headers, timeout=_timeout(patience)
            )
        return WireAnswer(response.status_code, response.content, response.headers.get("etag"))

    async def stream(
        self, path: str, headers: Mapping[str, str], patience: float
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """The body of an answer in pieces."""
        import httpx

        try:
            with _as_broken():
                async with (
                    self._http.stream(
                        "GET", path, headers=headers, timeout=_timeout(patience)
                    ) as response,
                    aclosing(_pieces(response)) as pieces,
                ):
                    yield response.status_code, b""
                    async for piece in pieces:
                        yield response.status_code, piece
        except WireBroken as error:
            if not isinstance(error.__cause__, httpx.RemoteProtocolError):
                raise

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()


class BlockingWire:
    """Questions to the Unix socket *path*, each on a connection of its own. A coroutine that asks
    here never waits: it blocks, and needs no event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | None,
        patience: float,
    ) -> WireAnswer:
        """The whole answer."""
        with _blocking_as_broken(), self._asked(method, path, headers, content, patience) as answer:
            status, length, chunked = _head(answer)
            return WireAnswer(status, b"".join(_body(answer, length, chunked=chunked)))

    async def stream(
        self, path: str, headers: Mapping[str, str], patience: float
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """The body of an answer in pieces."""
        with _blocking_as_broken(), self._asked("GET", path, headers, None, patience) as answer:
            status, length, chunked = _head(answer)
            yield status, b""
            for piece in _body(answer, length, chunked=chunked):
                yield status, piece

    async def close(self) -> None:
        """Nothing is kept open."""

    @contextmanager
    def _asked(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | None,
        patience: float,
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
            connection.settimeout(CONNECTING)
            connection.connect(str(self._path))
            connection.settimeout(patience)
            connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii") + (content or b""))
            with connection.makefile("rb") as answer:
                yield answer


def _head(answer: BinaryIO) -> tuple[int, int | None, bool]:
    """Status, length and whether the body comes in chunks (RFC 9112, 4 to 6). Raises ValueError for
    what is no answer."""
    version, status, *_ = answer.readline(LINE_LENGTH).split(maxsplit=2)
    if not version.startswith(b"HTTP/1."):
        raise ValueError(version)
    length, chunked = None, False
    while (line := answer.readline(LINE_LENGTH)) not in {b"\r\n", b"\n"}:
        name, colon, value = line.partition(b":")
        if not colon:
            raise ValueError(line)
        if name.lower() == b"content-length":
            length = int(value)
        elif name.lower() == b"transfer-encoding":
            chunked = value.strip().lower() == b"chunked"
    return int(status), 0 if int(status) in {204, 304} else length, chunked


def _body(answer: BinaryIO, length: int | None, *, chunked: bool) -> Iterator[bytes]:
    """The body in pieces. Raises ValueError when it ends too early."""
    if chunked:
        while size := int(answer.readline(LINE_LENGTH).partition(b";")[0], 16):
            yield _exactly(answer, size)
            answer.readline(LINE_LENGTH)
    elif length is not None:
        yield _exactly(answer, length)
    else:
        while piece := answer.read(PIECE):
            yield piece


def _exactly(answer: BinaryIO, size: int) -> bytes:
    content = answer.read(size)
    if len(content) < size:
        raise ValueError(f"{len(content)} of {size} bytes came")
    return content


@contextmanager
def _blocking_as_broken() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise WireSilent(str(error)) from error
    except (OSError, ValueError) as error:
        raise WireBroken(str(error)) from error


def _timeout(patience: float) -> httpx.Timeout:
    import httpx

    return httpx.Timeout(patience, connect=CONNECTING)


async def _pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    async for piece in response.aiter_bytes():
        yield piece


@contextmanager
def _as_broken() -> Iterator[None]:
    import httpx

    try:
        yield
    except httpx.ReadTimeout as error:
        raise WireSilent(str(error)) from error
    except (httpx.TransportError, OSError) as error:
        if (reason := _untrusted(error)) is not None:
            raise WireUntrusted(reason) from error
        raise WireBroken(str(error)) from error


def _untrusted(error: BaseException) -> str | None:
    """Why a TLS connection did not come about, if that is what happened."""
    import ssl

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"Its certificate is not trusted: {cause.verify_message.rstrip('.')}"
        if isinstance(cause, ssl.SSLError):
            return f"No TLS connection comes about: {cause.reason or cause}"
        cause = cause.__cause__ or cause.__context__
    return None
