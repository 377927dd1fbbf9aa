"""HTTP requests to one source registry: redirects, retries, limits, errors.

`SourceHttp.request` makes a request, repeats it where that can help, and follows its redirects.
Redirects are followed here and nowhere else, one by one: no credential ever reaches another host
(`SourceHttp._follow_redirects`), and each target is checked before a request goes there
(`SourceHttp._redirect_target`).

What is logged or raised names hosts, never the query of a URL: the storage behind a registry is
reached through presigned URLs, and their query is a secret.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from types import TracebackType

import httpx

from entrepot import __version__
from entrepot.formatting import printable
from entrepot.source.addresses import LOCAL_ADDRESS, AddressRefused, Reach, is_local, parse_address
from entrepot.source.bodies import ThreadedStream
from entrepot.source.circuit_breaker import CircuitBreaker, CircuitBreakers
from entrepot.source.content_encoding import (
    DECODED,
    coding_of,
    decode_document,
    document_coding,
    is_json,
)
from entrepot.source.decoding import parse_media_type, parse_number
from entrepot.source.diagnosis import Diagnosis
from entrepot.source.dns import LookupsBusy
from entrepot.source.errors import SourceAnswerInvalid, SourceBrokeOff, SourceUnreachable
from entrepot.source.failed_request import causes_of
from entrepot.source.loop_detection import Via
from entrepot.source.proxies import ProxyUnusable
from entrepot.source.proxy_causes import unusable_proxy_cause
from entrepot.source.rate_limit import read_retry_after

ATTEMPTS = 3
"""How often a request is made before it counts as failed."""

ATTEMPTS_IN_SILENCE = 2
"""The same for a source that is silent: each attempt takes a whole time-out, and clients wait."""

FIRST_RETRY_DELAY = 0.2
"""Seconds between the first two attempts, at most; doubled each time, and shortened at random so
that clients do not come back all at once."""

MAX_RETRY_AFTER = 3.0
"""Seconds to wait, at most, because a failing source asks for it. When it asks for more, the
request counts as failed at once."""

MAX_REDIRECTS = 5
"""How many redirects of one request are followed."""

USER_AGENT = f"entrepot/{__version__}"
"""The value of the User-Agent header of every request."""

DECODED_IN_PLACE = 64 * 1024
"""Bytes of a document up to which its content coding is removed without a thread."""

COMPRESSED_HINT = (
    "Nothing was kept. Turn off the compression of a proxy or a content delivery network between "
    "here and the registry."
)
"""What to do about bytes that were changed on the way."""

_log = logging.getLogger("entrepot.source")

_WEB_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_RETRIED_STATUSES = frozenset({502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class SourceResponse(AbstractAsyncContextManager["SourceResponse"]):
    """A response whose body is still to come.

    It must be closed, which ends the connection when the body was not read to its end. The event
    loop reads the body with `chunks` or `read`; a thread may read its beginning with `read_into`.
    """

    def __init__(
        self, response: httpx.Response, name: str, about: str, *, redirected: bool
    ) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.redirected = redirected
        """Another host than the registry's own sent it: storage behind a redirect."""
        self.host = response.url.host
        self.origin = origin_of(response.url)
        """Scheme, host and port of the server that sent it."""
        self.is_of_registry = "/v2/" in response.url.path
        """Its address is that of a registry's API, and not of storage."""
        self.refuses_registry_client = False
        """It is a refusal by another registry, to which its registry redirects requests, and which
        signs clients in itself."""
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._stream = response.stream
        self._response = response
        self._name = name
        self._about = about
        self._received = 0

    @property
    def media_type(self) -> str | None:
        """The media type of the body without parameters; None when there is none.

        It may be none of RFC 6838: see `media_type_is_valid`.
        """
        # Of several headers the last counts, as in browsers (Fetch standard, "extract a MIME
        # type").
        content_types = self.headers.get_list("content-type") or [""]
        return content_types[-1][:512].partition(";")[0].strip().lower() or None

    @property
    def is_page(self) -> bool:
        """Whether it is a web page, for people."""
        return self.media_type in _WEB_PAGES

    @property
    def media_type_is_valid(self) -> bool:
        """Whether the body has no media type, or one of RFC 6838."""
        return self.media_type is None or parse_media_type(self.media_type) is not None

    @property
    def length(self) -> int | None:
        """The length of the body in bytes, if the response states it."""
        return parse_number(self.headers.get("content-length", ""))

    @property
    def coding(self) -> str | None:
        """The content coding of the body, although no request accepts one; None: none."""
        return coding_of(self.headers)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes over the network, without any decoding.

        Raises `SourceBrokeOff` when the connection ends before the body does.
        """
        try:
            # Not aiter_raw(): it would take each chunk apart and put it together again, to count
            # it.
            async for chunk in self._stream:
                self._received += len(chunk)
                yield chunk
        except httpx.TransportError as error:
            raise self._broke_off(error) from error
        if self.length is not None and self._received < self.length:
            raise SourceBrokeOff(
                f"{self._name} sent {self._received:,} of {self.length:,} bytes of {self._about}.",
                "Try again.",
            )

    @property
    def is_threaded(self) -> bool:
        """Whether a thread can read the body."""
        return isinstance(self._stream, ThreadedStream) and self._stream.is_threaded

    def read_into(self, buffer: memoryview, before_waiting: Callable[[], None]) -> int:
        """Read the next bytes of the body in a thread: see `blobs.ThreadedBody`."""
        assert isinstance(self._stream, ThreadedStream)
        try:
            count = self._stream.read_into(buffer, before_waiting)
        except httpx.TransportError as error:
            raise self._broke_off(error) from error
        self._received += count
        return count

    def interrupt(self) -> None:
        """Let a running or later `read_into` raise `SourceBrokeOff` soon."""
        assert isinstance(self._stream, ThreadedStream)
        self._stream.interrupt()

    def _broke_off(self, error: httpx.TransportError) -> SourceBrokeOff:
        how = "fell silent" if isinstance(error, httpx.TimeoutException) else "broke off"
        return SourceBrokeOff(
            f"{self._name} {how} after {self._received:,} bytes of {self._about}.", "Try again."
        )

    async def read(self, limit: int) -> bytes:
        """Read the whole body, without a content coding that was added on the way (F85).

        Raises `SourceAnswerInvalid` when it is larger than *limit* bytes, encoded or decoded, or
        has a coding that can't be removed, and `SourceBrokeOff`.
        """
        chunks: list[bytes] = []
        size = self.length or 0
        if size <= limit:
            size = 0
            async with aclosing(self.chunks()) as body:
                async for chunk in body:
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > limit:
                        break
        content = b"".join(chunks)
        document: bytes | None = None
        coding = self.coding
        if size <= limit:
            encoded_with = document_coding(content, coding)
            if encoded_with is None or len(content) < DECODED_IN_PLACE:
                document = decode_document(content, encoded_with, limit)
            else:
                document = await asyncio.to_thread(decode_document, content, encoded_with, limit)
        if document is None:
            raise SourceAnswerInvalid(
                f"{self._name} sends more than {limit:,} bytes for {self._about}: "
                "nothing that large was expected.",
                "Nothing was kept.",
            )
        # Compressed more than once, or no gzip file but for its first bytes.
        remaining = document_coding(document, None) or (coding if coding not in DECODED else None)
        if remaining is not None and not self.is_page and not is_json(document):
            raise SourceAnswerInvalid(
                f"{self._name} sends {self._about} compressed ({printable(remaining, 32)}), "
                "which Entrepot did not ask for and can't read.",
                COMPRESSED_HINT,
            )
        return document

    async def close(self) -> None:
        """Release the connection."""
        await self._response.aclose()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class SourceHttp:
    """HTTP requests to one source registry.

    *name* is its login server, for messages; *clock* gives seconds since the epoch; *reach* bounds
    where its redirects may lead. *blob_transport* sends the requests for blobs; without it
    *transport* sends all.

    It uses httpx's transport and not its client, which would log whole addresses, keep cookies, and
    look into redirects that are judged here.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        name: str,
        *,
        timeout: httpx.Timeout,
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        breakers: CircuitBreakers | None = None,
        reach: Reach | None = None,
        diagnosis: Diagnosis | None = None,
        via: Via | None = None,
        blob_transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._blob_transport = blob_transport if blob_transport is not None else transport
        self._diagnosis = diagnosis if diagnosis is not None else Diagnosis()
        self._reach = reach if reach is not None else Reach()
        self._breakers = breakers if breakers is not None else CircuitBreakers(clock, clock)
        self._transport = transport
        self._name = name
        self._extensions = {"timeout": timeout.as_dict()}
        self._clock = clock
        self._pause = pause
        self.public: SourceHttp = self
        """For the same registry: requests to hosts that are not its own, on the internet only."""
        self._via = via if via is not None else Via()

    async def request(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        *,
        about: str,
        redirects: int = MAX_REDIRECTS,
        authorize: Callable[[httpx.URL], Awaitable[str | None]] | None = None,
        for_blob: bool = False,
    ) -> SourceResponse:
        """Make a request, in several attempts if need be, and follow its redirects.

        The caller closes the response. *about* says in messages what is requested. *authorize*
        gives the Authorization header for another host to which a redirect leads. *for_blob*: the
        body may be large. Every status is a response.

        Raises `SourceUnreachable`, or `SourceAnswerInvalid` for an address that must not or can't
        be used.
        """
        attempt = 1
        responses_before: dict[CircuitBreaker, int] = {}
        while True:
            try:
                response = await self._follow_redirects(
                    method, url, headers, about, redirects, responses_before, authorize, for_blob
                )
            except AddressRefused as error:
                raise self._address_refused(error) from None
            except ProxyUnusable as error:
                raise SourceUnreachable.of_cause(unusable_proxy_cause(error)) from None
            except (
                httpx.UnsupportedProtocol,
                httpx.InvalidURL,
                ValueError,
                OverflowError,
                RecursionError,
            ) as error:
                # The parts below refuse to send a request with an exception of their own each: the
                # source named the address.
                _log.info(
                    "%s: no request can be made: %s",
                    about,
                    printable(f"{type(error).__name__}: {error}", 200),
                )
                raise SourceAnswerInvalid(
                    f"{self._name} names an address for {about} to which no request can be made.",
                    "The fault is at the source; nothing was kept.",
                ) from None
            except httpx.TransportError as error:
                if attempt >= _max_attempts(error):
                    raise await self._failure_of(error, responses_before) from error
                _log.info("%s: attempt %d failed: %s", about, attempt, type(error).__name__)
                delay = 0.0
            else:
                retry_after = read_retry_after(response.headers, self._clock())
                if (
                    response.status not in _RETRIED_STATUSES
                    or attempt >= ATTEMPTS
                    or (retry_after or 0) > MAX_RETRY_AFTER
                ):
                    return response
                await response.close()
                _log.info(
                    "%s: attempt %d failed: status %d from %s",
                    about,
                    attempt,
                    response.status,
                    response.host,
                )
                delay = retry_after or 0.0
            await self._pause(
                max(delay, random.uniform(0.5, 1.0) * FIRST_RETRY_DELAY * 2 ** (attempt - 1))
            )
            attempt += 1

    async def _follow_redirects(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        about: str,
        redirects: int,
        responses_before: dict[CircuitBreaker, int],
        authorize: Callable[[httpx.URL], Awaitable[str | None]] | None,
        for_blob: bool,
    ) -> SourceResponse:
        """Send a request, and again to each target of its redirects.

        The Authorization header never goes to another origin than that of *url*: it is removed at
        the first target elsewhere, where *authorize* may give another one.
        """
        registry_url = url
        headers = {
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            **self._via.headers,
            **headers,
        }
        transport = self._blob_transport if for_blob else self._transport
        for _ in range(redirects + 1):
            response = await self._send(
                transport,
                httpx.Request(method, url, headers=headers, extensions=self._extensions),
                responses_before,
            )
            location = response.headers.get("location")
            if response.status_code not in _REDIRECTS or location is None or redirects == 0:
                return SourceResponse(
                    response, self._name, about, redirected=not same_origin(registry_url, url)
                )
            await response.aclose()
            target = self._redirect_target(url, location)
            if not same_origin(registry_url, target):
                headers = {
                    name: value
                    for name, value in headers.items()
                    if name.lower() != "authorization"
                }
                if authorize is not None and (value := await authorize(target)) is not None:
                    headers["Authorization"] = value
            url = target
        raise SourceAnswerInvalid(
            f"{self._name} redirects in circles for {about}.",
            f"Entrepot follows {MAX_REDIRECTS} redirects.",
        )

    def _redirect_target(self, url: httpx.URL, location: str) -> httpx.URL:
        """The target of a Location header, seen from *url*, if it may be followed."""
        target = parse_address(location, url)
        if target is None or target.scheme not in {"http", "https"} or target.userinfo:
            raise SourceAnswerInvalid(
                f"{self._name} redirects to an address that can't be read, or that is not http or "
                "https.",
                "Only http and https are followed.",
            )
        host = printable(target.host, 253)
        if url.scheme == "https" and target.scheme == "http":
            raise SourceAnswerInvalid(
                f"{self._name} redirects from https to http, at {host}.",
                "What comes over http can be changed on the way: it is not fetched.",
            )
        if not self._reach.permits_host(target.host) or (
            is_local(target.host)
            and not is_local(url.host)
            and target.host not in self._reach.hosts
        ):
            raise SourceAnswerInvalid(
                f"{self._name} redirects to {host}, {LOCAL_ADDRESS}.", "It is not followed."
            )
        return target

    async def _send(
        self,
        transport: httpx.AsyncBaseTransport,
        request: httpx.Request,
        responses_before: dict[CircuitBreaker, int],
    ) -> httpx.Response:
        breaker = self._breakers.of(self._name, request.url)
        breaker.check()
        responses_before.setdefault(breaker, breaker.responses)
        try:
            response = await transport.handle_async_request(request)
        except httpx.TransportError as error:
            error.request = request
            raise
        breaker.record_response()
        if request.url.path.startswith("/v2/"):
            # Not of its storage, where caches keep responses with an old Date.
            self._diagnosis.note_response(self._name, response.headers)
        response.request = request
        return response

    async def _failure_of(
        self, error: httpx.TransportError, responses_before: Mapping[CircuitBreaker, int]
    ) -> SourceUnreachable:
        """The error of a request that failed with all its attempts.

        Unless other requests got a response meanwhile, the host's circuit breaker opens.
        """
        failure = await self._diagnosis.explain(error, self._name, self._reach)
        breaker = self._breakers.of(self._name, error.request.url)
        if _is_of_connection(error) and breaker.responses == responses_before.get(breaker):
            self._breakers.open(breaker, failure, self._probe)
        return failure

    async def _probe(self, origin: str) -> bool:
        """Whether a host answers again, with any status."""
        request = httpx.Request(
            "HEAD", f"{origin}/v2/", headers={"User-Agent": USER_AGENT}, extensions=self._extensions
        )
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.TransportError as error:
            return not _is_of_connection(error)
        except ProxyUnusable:
            return False
        except (ValueError, OverflowError, RecursionError):
            return True
        await response.aclose()
        return True

    def suspect(self, url: httpx.URL) -> None:
        """Note that the host keeps a client waiting that could have had a cached copy."""
        self._breakers.of(self._name, url).suspect()

    def is_suspected(self, url: httpx.URL) -> bool:
        """Whether the host kept a client waiting lately and has not answered since."""
        return self._breakers.of(self._name, url).is_suspected

    def _address_refused(self, error: AddressRefused) -> SourceAnswerInvalid:
        host = printable(error.request.url.host, 253)
        if self._reach.public:
            return SourceAnswerInvalid(
                f"{self._name} asks for a sign-in at {host}, which is not its own and not on the "
                "internet. No connection was made.",
                "If the registry really signs in there, declare it in settings.toml: realms, "
                f'below [upstreams."{self._name}"].',
            )
        return SourceAnswerInvalid(
            f"{self._name} leads to {host}, which is {LOCAL_ADDRESS}. No connection was made.",
            "If the registry really runs there, declare its endpoint in settings.toml, "
            f'below [upstreams."{self._name}"].',
        )


def origin_of(url: httpx.URL) -> str:
    """Scheme, host and port of an address, as an address."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    """Whether two addresses have the same scheme, host and port."""
    return (one.scheme, one.host, _port(one)) == (other.scheme, other.host, _port(other))


def _port(url: httpx.URL) -> int | None:
    return url.port if url.port is not None else {"http": 80, "https": 443}.get(url.scheme)


def _max_attempts(error: httpx.TransportError) -> int:
    if any(
        isinstance(cause, ssl.SSLCertVerificationError | LookupsBusy) for cause in causes_of(error)
    ):
        return 1
    return ATTEMPTS_IN_SILENCE if isinstance(error, httpx.TimeoutException) else ATTEMPTS


def _is_of_connection(error: httpx.TransportError) -> bool:
    """Whether no connection came about, or nothing over it.

    A connection that was accepted and then closed is a kind of response, and comes at once.
    """
    if any(isinstance(cause, LookupsBusy) for cause in causes_of(error)):
        # That concerns other names, and says nothing about this host.
        return False
    return isinstance(
        error,
        (
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.ReadTimeout,
            httpx.WriteTimeout,
            httpx.ProxyError,
        ),
    )
