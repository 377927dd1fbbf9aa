"""Requests to one engine: headers, JSON, refusals, and listings with ETags."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from entrepot.api.errors import (
    ClientError,
    EngineAnswerInvalid,
    EngineRefused,
    EngineUnreachable,
    EngineUntrusted,
)
from entrepot.api.transport import (
    ApiResponse,
    Transport,
    TransportBroken,
    TransportTimeout,
    TransportUntrusted,
)

READ_TIMEOUT: Final = 30.0
"""Seconds that the engine may take. It asks no source before it answers, but it may be busy."""

LISTINGS: Final = 8
"""Listings of which the last answer is kept, those that the engine sent last."""

_REGISTRY: Final = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.ContainerRegistry/registries/entrepot"
)
"""The path of ACR's management API below which rules and credential sets are created."""

NO_SUCH_ROUTE: Final = "NotFound"
"""The code of an engine that has no such route; a resource that is missing has another code."""

T = TypeVar("T")


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


class _Error(msgspec.Struct):
    code: str
    message: str
    target: str | None = None


class _DataErrorDetail(msgspec.Struct, frozen=True):
    code: str | None = None


class _DataError(msgspec.Struct):
    code: str
    message: str
    detail: _DataErrorDetail = _DataErrorDetail()


class ErrorBody(msgspec.Struct):
    """An error in ARM's shape, or in that of ACR's data API."""

    error: _Error | None = None
    errors: list[_DataError] = []


class ApiSession:
    """Requests to one engine over a transport. All methods raise a `ClientError`.

    *absent* is the message for when no engine answers, or a function that finds it out.
    """

    def __init__(
        self, transport: Transport, *, token: str | None, absent: str | Callable[[], str]
    ) -> None:
        self._transport = transport
        self._absent = absent
        self._listings: dict[str, tuple[str, Any]] = {}
        """By path: the ETag of the listing that the engine sent last, and its content."""
        self.headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        """Sent with every request."""

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def get(self, path: str, kind: type[T]) -> T:
        """The JSON document at *path*."""
        return await self.send("GET", path, kind)

    async def get_named(
        self,
        path: str,
        kind: type[N],
        name: str,
        *,
        resource: str,
        listing: Callable[[], Awaitable[Iterable[N]]],
    ) -> N:
        """The rule or credential set of that name at *path*, without regard to case.

        An engine that is older than this route is asked for the ACR *resource*, which refuses what
        does not exist, and for the *listing*.
        """
        try:
            return await self.get(path, kind)
        except EngineRefused as error:
            if error.code != NO_SUCH_ROUTE:
                raise
        await self.change("GET", resource)
        return next(item for item in await listing() if item.name.casefold() == name.casefold())

    async def listing(self, path: str, kind: type[T]) -> T:
        """A listing; the very same object as the last time if the engine answers 304."""
        cached = self._listings.get(path)
        response = await self.request(
            "GET", path, {"If-None-Match": cached[0]} if cached is not None else {}
        )
        if response.status == 304 and cached is not None:
            unchanged: T = cached[1]
            return unchanged
        listing = decode(_accepted(response), kind)
        if response.etag is not None:
            self._listings.pop(path, None)
            self._listings[path] = response.etag, listing
            while len(self._listings) > LISTINGS:
                del self._listings[next(iter(self._listings))]
        return listing

    async def send(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: object = None,
        *,
        read_timeout: float = READ_TIMEOUT,
    ) -> T:
        """Send *body* as JSON and decode the answer."""
        response = await self.request(method, path, {}, body, read_timeout=read_timeout)
        return decode(_accepted(response), kind)

    async def change(
        self, method: str, path: str, body: object = None, *, must_be_new: bool = False
    ) -> None:
        """Send a request whose answer has no content of interest.

        *must_be_new* has the engine refuse to replace something (RFC 9110, 13.1.2).
        """
        headers = {"If-None-Match": "*"} if must_be_new else {}
        _accepted(await self.request(method, path, headers, body))

    async def delete_resource(self, path: str) -> bool:
        """Delete a rule or a credential set; False if there was nothing of that name.

        ACR's protocol has 204 for both. An engine of an older version does not tell: True.
        """
        response = await self.request("DELETE", path, {})
        _accepted(response)
        return response.deleted != "0"

    async def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: object = None,
        *,
        read_timeout: float = READ_TIMEOUT,
    ) -> ApiResponse:
        """Send one request; an answer of any status is returned."""
        headers = self.headers | headers
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            headers["Content-Type"] = "application/json"
        try:
            return await self._transport.request(method, path, headers, content, read_timeout)
        except TransportBroken as error:
            raise self._client_error(error) from error

    async def stream_lines(self, path: str, read_timeout: float) -> AsyncGenerator[bytes, None]:
        """The lines of a streamed answer, until the engine ends it."""
        rest, refused_status = b"", None
        try:
            async with aclosing(self._transport.stream(path, self.headers, read_timeout)) as chunks:
                async for status, chunk in chunks:
                    rest += chunk
                    if status != 200:
                        refused_status = status
                        continue
                    # Lines end with a line feed and nothing else: JSON may have characters such as
                    # U+2028 unescaped.
                    *lines, rest = rest.split(b"\n")
                    for line in lines:
                        yield line
        except TransportBroken as error:
            raise self._client_error(error) from error
        if refused_status is not None:
            raise refusal(rest, refused_status)

    async def stream_bytes(self, path: str, read_timeout: float) -> AsyncGenerator[bytes, None]:
        """The body of a streamed answer, until the engine ends it or the connection breaks off."""
        refused, refused_status = b"", None
        try:
            async with aclosing(self._transport.stream(path, self.headers, read_timeout)) as chunks:
                async for status, chunk in chunks:
                    if status == 200:
                        yield chunk
                    else:
                        refused, refused_status = refused + chunk, status
        except TransportBroken as error:
            raise self._client_error(error) from error
        if refused_status is not None:
            raise refusal(refused, refused_status)

    async def upload(
        self,
        path: str,
        content: bytes | AsyncIterable[bytes],
        *,
        media_type: str = "application/octet-stream",
        length: int | None = None,
        read_timeout: float = READ_TIMEOUT,
    ) -> bytes:
        """Send bytes with PUT; *length* is that of *content* where it is a stream."""
        headers = self.headers | {"Content-Type": media_type}
        if length is not None:
            headers["Content-Length"] = str(length)
        try:
            response = await self._transport.request("PUT", path, headers, content, read_timeout)
        except TransportBroken as error:
            raise self._client_error(error) from error
        return _accepted(response)

    def _client_error(self, error: TransportBroken) -> ClientError:
        if isinstance(error, TransportUntrusted):
            return EngineUntrusted(
                f"{error}. Nothing was sent. Name your own certificate authorities with --ca-file."
            )
        if isinstance(error, TransportTimeout):
            return EngineUnreachable("The engine accepted the request but does not answer.")
        return EngineUnreachable(self._absent if isinstance(self._absent, str) else self._absent())


def _accepted(response: ApiResponse) -> bytes:
    if 200 <= response.status < 300:
        return response.body
    raise refusal(response.body, response.status)


def refusal(content: bytes, status: int) -> EngineRefused:
    """The error of a response that refuses a request.

    Raises `EngineAnswerInvalid` if the response has none.
    """
    body = decode(content, ErrorBody)
    if body.error is None:
        if not body.errors:
            raise _answer_invalid(content)
        first = body.errors[0]
        return EngineRefused(
            first.detail.code or first.code, first.message, field=None, status=status
        )
    return EngineRefused(
        body.error.code, body.error.message, field=body.error.target, status=status
    )


def decode(content: bytes, kind: type[T]) -> T:
    """Decode JSON; raises `EngineAnswerInvalid` for what is no *kind*."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise _answer_invalid(content) from error


def _answer_invalid(content: bytes) -> EngineAnswerInvalid:
    beginning = content[:60].decode("utf-8", "replace")
    return EngineAnswerInvalid(
        f"The server is no engine, or an engine of another version. It answers: {beginning!r}. "
        "Stop it, and start this version with: entrepot serve"
    )


def path_segment(text: str) -> str:
    """One segment of a path, percent-encoded.

    ``.`` and ``..`` are encoded too: httpx would resolve them (RFC 3986, 5.2.4).
    """
    return text.replace(".", "%2E") if text in {".", ".."} else quote(text, safe="")


def path_segments(name: str) -> str:
    """The segments of a repository's name, each percent-encoded."""
    return "/".join(map(path_segment, name.split("/")))


def resource_path(collection: str, name: str) -> str:
    """The path of a rule or credential set in ACR's management API.

    The kind is ``cacheRules`` or ``credentialSets``.
    """
    return f"{_REGISTRY}/{collection}/{path_segment(name)}"
